//! Watch events into the view. The receiver of every event, and therefore small: it stores and wakes others.

use std::collections::BTreeSet;

use k8s::{Change, Input, Kind};
use model::Identity;
use model::inputs::ObjectName;
use tokio::sync::watch;

use crate::changes::Changes;
use crate::view::{SharedView, View};

/// Keeps the view up to date.
#[derive(Debug)]
pub(crate) struct Feed {
    view: SharedView,
    node: String,
    changed: Changes,
    synced: BTreeSet<Kind>,
    complete: watch::Sender<bool>,
}

impl Feed {
    /// A feed of `view` on behalf of `node`; `changed` is told of every change, `complete` when every kind was
    /// listed once.
    #[must_use]
    pub(crate) fn new(
        view: SharedView,
        node: String,
        changed: Changes,
        complete: watch::Sender<bool>,
    ) -> Self {
        Self {
            view,
            node,
            changed,
            synced: BTreeSet::new(),
            complete,
        }
    }

    /// Stores one event.
    pub(crate) fn take(&mut self, input: Input) {
        let synced = store(&mut self.view.lock(), &self.node, input);
        if let Some(kind) = synced {
            self.synced.insert(kind);
            if Kind::ALL.iter().all(|kind| self.synced.contains(kind)) {
                self.complete.send_replace(true);
            }
        }
        self.changed.touch();
    }
}

/// Stores an event; answers the kind that is now complete.
fn store(view: &mut View, own: &str, input: Input) -> Option<Kind> {
    match input {
        Input::Node(Change::Upsert(node)) => {
            if node.name == own {
                view.node = Some(node);
            }
        }
        Input::Node(Change::Remove(name)) => {
            if name.name == own {
                view.node = None;
            }
        }
        Input::Node(Change::Synced) => return Some(Kind::Node),
        Input::Pod(Change::Upsert(pod)) => {
            view.pods.insert(pod.name.clone(), pod);
        }
        Input::Pod(Change::Remove(name)) => {
            view.pods.remove(&name);
        }
        Input::Pod(Change::Synced) => return Some(Kind::Pod),
        Input::Namespace(Change::Upsert(namespace)) => {
            view.namespaces.insert(namespace.name.clone(), namespace);
        }
        Input::Namespace(Change::Remove(name)) => {
            view.namespaces.remove(&name.name);
        }
        Input::Namespace(Change::Synced) => return Some(Kind::Namespace),
        Input::CiliumNode(Change::Upsert(node)) => {
            view.nodes.insert(node.name.clone(), node);
        }
        Input::CiliumNode(Change::Remove(name)) => {
            view.nodes.remove(&name.name);
        }
        Input::CiliumNode(Change::Synced) => return Some(Kind::CiliumNode),
        Input::CiliumEndpoint(Change::Upsert(endpoint)) => {
            view.endpoints.insert(endpoint.name.clone(), endpoint);
        }
        Input::CiliumEndpoint(Change::Remove(name)) => {
            view.endpoints.remove(&name);
        }
        Input::CiliumEndpoint(Change::Synced) => return Some(Kind::CiliumEndpoint),
        Input::CiliumIdentity(Change::Upsert(identity)) => {
            view.identities.upsert(identity);
        }
        Input::CiliumIdentity(Change::Remove(name)) => {
            if let Some(identity) = identity_of(&name) {
                view.identities.remove(identity);
            }
        }
        Input::CiliumIdentity(Change::Synced) => return Some(Kind::CiliumIdentity),
        // They have a watch and a receiver of their own.
        Input::Service(_) | Input::EndpointSlice(_) => {}
    }
    None
}

/// The number is the object's name.
fn identity_of(name: &ObjectName) -> Option<Identity> {
    name.name.parse().ok().map(Identity)
}

#[cfg(test)]
mod tests {
    use model::inputs::{Node, Pod};

    use super::*;

    #[test]
    fn the_view_follows_and_tells_when_it_is_complete() {
        let view = SharedView::default();
        let changed = Changes::default();
        let (complete, is_complete) = watch::channel(false);
        let mut feed = Feed::new(view.clone(), "kind-worker".into(), changed, complete);
        let node = |name: &str| Node {
            name: name.into(),
            ..Node::default()
        };
        feed.take(Input::Node(Change::Upsert(node("kind-control-plane"))));
        assert!(view.lock().node.is_none());
        feed.take(Input::Node(Change::Upsert(node("kind-worker"))));
        assert!(view.lock().node.is_some());
        let pod = ObjectName::new("default", "client");
        feed.take(Input::Pod(Change::Upsert(Pod {
            name: pod.clone(),
            ..Pod::default()
        })));
        assert_eq!(view.lock().pods.len(), 1);
        feed.take(Input::Pod(Change::Remove(pod)));
        assert_eq!(view.lock().pods.len(), 0);
        for input in [
            Input::Node(Change::Synced),
            Input::Pod(Change::Synced),
            Input::Namespace(Change::Synced),
            Input::CiliumNode(Change::Synced),
            Input::CiliumEndpoint(Change::Synced),
        ] {
            feed.take(input);
            assert!(!*is_complete.borrow());
        }
        feed.take(Input::CiliumIdentity(Change::Synced));
        assert!(*is_complete.borrow());
    }
}
