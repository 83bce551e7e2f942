//! Watches: what happens in the cluster, as `model` types over one bounded channel.
//!
//! Each kind has a task of its own. A connection that breaks is made again, resuming where it ended; when that is no
//! longer possible everything is listed anew, and what has gone in the meantime is reported as removed, so that the
//! receiver never has to compare lists itself. When the receiver is slow the tasks wait.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use kube::runtime::watcher;
use kube::{Api, Resource, ResourceExt};
use model::inputs::{self, ObjectName};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::client::Cluster;
use crate::{convert, service, types};

/// Events that may wait for the receiver.
const QUEUE: usize = 1024;
/// Objects of a page of a list: a slice can have a thousand endpoints, and a page is in memory as a whole.
const SLICE_PAGE: u32 = 250;
/// Pause after the first failure of a watch; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// All nodes.
    Node,
    /// Pods of this node.
    Pod,
    /// All namespaces.
    Namespace,
    /// All CiliumNodes.
    CiliumNode,
    /// CiliumEndpoints of the whole cluster.
    CiliumEndpoint,
    /// All CiliumIdentities.
    CiliumIdentity,
    /// Services with an address of their own.
    Service,
    /// Their endpoints.
    EndpointSlice,
}

impl Kind {
    /// What every agent follows.
    pub const ALL: [Self; 6] = [
        Self::Node,
        Self::Pod,
        Self::Namespace,
        Self::CiliumNode,
        Self::CiliumEndpoint,
        Self::CiliumIdentity,
    ];
    /// What an agent follows as well that translates services ([`Cluster::watch_services`]).
    pub const SERVICES: [Self; 2] = [Self::Service, Self::EndpointSlice];

    /// Name in the API, such as `cilium/v2::CiliumNode` (the form that `cilium-dbg status` prints).
    #[must_use]
    pub const fn api(self) -> &'static str {
        match self {
            Self::Node => "core/v1::Node",
            Self::Pod => "core/v1::Pods",
            Self::Namespace => "core/v1::Namespace",
            Self::CiliumNode => "cilium/v2::CiliumNode",
            Self::CiliumEndpoint => "cilium/v2::CiliumEndpoint",
            Self::CiliumIdentity => "cilium/v2::CiliumIdentity",
            Self::Service => "core/v1::Service",
            Self::EndpointSlice => "discovery/v1::EndpointSlice",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.api())
    }
}

/// A change of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<T> {
    /// It is new, or has changed.
    Upsert(T),
    /// It is gone.
    Remove(ObjectName),
    /// Every object that existed has been reported, and everything that was removed while nobody watched. Comes again
    /// after each reconnection that had to list anew.
    Synced,
}

/// A change of an object of some kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// [`Kind::Node`].
    Node(Change<inputs::Node>),
    /// [`Kind::Pod`].
    Pod(Change<inputs::Pod>),
    /// [`Kind::Namespace`].
    Namespace(Change<inputs::Namespace>),
    /// [`Kind::CiliumNode`].
    CiliumNode(Change<inputs::CiliumNode>),
    /// [`Kind::CiliumEndpoint`].
    CiliumEndpoint(Change<inputs::CiliumEndpoint>),
    /// [`Kind::CiliumIdentity`].
    CiliumIdentity(Change<inputs::CiliumIdentity>),
    /// [`Kind::Service`].
    Service(Change<inputs::Service>),
    /// [`Kind::EndpointSlice`].
    EndpointSlice(Change<inputs::EndpointSlice>),
}

/// How a watch is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum WatchState {
    /// It has not reported everything yet.
    #[default]
    Starting,
    /// It is up to date, as far as anybody can tell.
    Synced,
    /// It is broken and tries again.
    Failing {
        /// Failures in a row.
        failures: u32,
        /// The last one.
        error: String,
    },
}

/// The watches have ended, which only happens when a task panics.
#[derive(Debug, thiserror::Error)]
#[error("a watch of the API server has ended")]
pub struct WatchEnded(#[source] Option<tokio::task::JoinError>);

/// Running watches. Dropping it ends them.
#[derive(Debug)]
pub struct Watches {
    events: mpsc::Receiver<Input>,
    health: watch::Receiver<BTreeMap<Kind, WatchState>>,
    tasks: JoinSet<()>,
}

impl Watches {
    /// The next event.
    ///
    /// # Errors
    /// When a task has ended. The watches are of no use any more then.
    pub async fn next(&mut self) -> Result<Input, WatchEnded> {
        tokio::select! {
            biased;
            Some(ended) = self.tasks.join_next() => Err(WatchEnded(ended.err())),
            event = self.events.recv() => event.ok_or(WatchEnded(None)),
        }
    }

    /// How each watch is; changes can be awaited.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<BTreeMap<Kind, WatchState>> {
        self.health.clone()
    }
}

impl Cluster {
    /// Starts to watch everything that the agent of `node` needs. The CRDs have to exist
    /// ([`Cluster::wait_for_crds`]). Must be called within a tokio runtime.
    #[must_use]
    pub fn watch(&self, node: &str) -> Watches {
        let (events_tx, events) = mpsc::channel(QUEUE);
        let (health_tx, health) = watch::channel(Kind::ALL.map(|kind| (kind, WatchState::Starting)).into());
        let feed = |kind| Feed {
            kind,
            events: events_tx.clone(),
            health: health_tx.clone(),
        };
        let everything = watcher::Config::default;
        let mut tasks = JoinSet::new();
        let client = || self.client.clone();

        let objects = watcher(Api::<Node>::all(client()), everything());
        tasks.spawn(feed(Kind::Node).run(objects, |object| Some(convert::node(object)), Input::Node));
        let mine = everything().fields(&format!("spec.nodeName={node}"));
        let objects = watcher(Api::<Pod>::all(client()), mine);
        tasks.spawn(feed(Kind::Pod).run(objects, |object| Some(convert::pod(object)), Input::Pod));
        let objects = watcher(Api::<Namespace>::all(client()), everything());
        tasks.spawn(feed(Kind::Namespace).run(
            objects,
            |object| Some(convert::namespace(object)),
            Input::Namespace,
        ));
        let objects = watcher(Api::<types::CiliumNode>::all(client()), everything());
        tasks.spawn(feed(Kind::CiliumNode).run(
            objects,
            |object| Some(convert::cilium_node(object)),
            Input::CiliumNode,
        ));
        let objects = watcher(Api::<types::CiliumEndpoint>::all(client()), everything());
        tasks.spawn(feed(Kind::CiliumEndpoint).run(
            objects,
            |object| Some(convert::cilium_endpoint(object)),
            Input::CiliumEndpoint,
        ));
        let objects = watcher(Api::<types::CiliumIdentity>::all(client()), everything());
        tasks.spawn(feed(Kind::CiliumIdentity).run(objects, convert::cilium_identity, Input::CiliumIdentity));
        Watches {
            events,
            health,
            tasks,
        }
    }

    /// Starts to watch services and their endpoints, apart from everything else: what changes often here does not
    /// wait behind it. Must be called within a tokio runtime.
    #[must_use]
    pub fn watch_services(&self) -> Watches {
        let (events_tx, events) = mpsc::channel(QUEUE);
        let (health_tx, health) =
            watch::channel(Kind::SERVICES.map(|kind| (kind, WatchState::Starting)).into());
        let feed = |kind| Feed {
            kind,
            events: events_tx.clone(),
            health: health_tx.clone(),
        };
        let ours = || {
            watcher::Config::default()
                .labels(service::SELECTOR)
                .page_size(SLICE_PAGE)
        };
        let mut tasks = JoinSet::new();
        let objects = watcher(Api::<Service>::all(self.client.clone()), ours());
        let interner = Mutex::new(service::Interner::default());
        let convert = move |object: &Service| Some(service::service(object, &mut lock(&interner)));
        tasks.spawn(feed(Kind::Service).run(objects, convert, Input::Service));
        let objects = watcher(Api::<service::EndpointSlice>::all(self.client.clone()), ours());
        let interner = Mutex::new(service::Interner::default());
        let convert =
            move |object: &service::EndpointSlice| service::endpoint_slice(object, &mut lock(&interner));
        tasks.spawn(feed(Kind::EndpointSlice).run(objects, convert, Input::EndpointSlice));
        Watches {
            events,
            health,
            tasks,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one watch task needs.
struct Feed {
    kind: Kind,
    events: mpsc::Sender<Input>,
    health: watch::Sender<BTreeMap<Kind, WatchState>>,
}

impl Feed {
    /// Passes events on until the receiver is gone.
    async fn run<K, T>(
        self,
        objects: impl Stream<Item = watcher::Result<watcher::Event<K>>>,
        convert: impl Fn(&K) -> Option<T>,
        wrap: impl Fn(Change<T>) -> Input,
    ) where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let mut objects = std::pin::pin!(objects);
        let mut tracker = Tracker::default();
        let mut failures = 0_u32;
        while let Some(event) = objects.next().await {
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    failures = failures.saturating_add(1);
                    tracing::warn!(kind = %self.kind, failures, error = %chain(&error), "watch failed, trying again");
                    self.report(WatchState::Failing {
                        failures,
                        error: chain(&error),
                    });
                    tokio::select! {
                        () = tokio::time::sleep(pause(failures, rand::random())) => continue,
                        () = self.events.closed() => return,
                    }
                }
            };
            let synced = matches!(event, watcher::Event::InitDone);
            for change in tracker.handle(event, &convert) {
                if self.events.send(wrap(change)).await.is_err() {
                    return;
                }
            }
            // Between two lists nothing is known to be up to date; single events prove that the watch works.
            if synced || !tracker.is_listing() {
                failures = 0;
                self.report(WatchState::Synced);
            }
        }
    }

    fn report(&self, state: WatchState) {
        self.health.send_if_modified(|states| {
            let current = states.entry(self.kind).or_default();
            let changed = *current != state;
            *current = state;
            changed
        });
    }
}

/// Remembers which objects were reported, so that a new list shows what has gone.
#[derive(Default)]
struct Tracker {
    reported: BTreeSet<ObjectName>,
    /// Objects seen in the list that is being received.
    listing: Option<BTreeSet<ObjectName>>,
}

impl Tracker {
    fn is_listing(&self) -> bool {
        self.listing.is_some()
    }

    fn handle<K: Resource, T>(
        &mut self,
        event: watcher::Event<K>,
        convert: &impl Fn(&K) -> Option<T>,
    ) -> Vec<Change<T>> {
        match event {
            watcher::Event::Init => {
                self.listing = Some(BTreeSet::new());
                Vec::new()
            }
            watcher::Event::InitApply(object) => {
                let name = name_of(&object);
                if let Some(listing) = &mut self.listing {
                    listing.insert(name.clone());
                }
                self.upsert(name, convert(&object)).into_iter().collect()
            }
            watcher::Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                let gone: Vec<ObjectName> = self.reported.difference(&listed).cloned().collect();
                for name in &gone {
                    self.reported.remove(name);
                }
                gone.into_iter()
                    .map(Change::Remove)
                    .chain([Change::Synced])
                    .collect()
            }
            watcher::Event::Apply(object) => {
                let name = name_of(&object);
                self.upsert(name, convert(&object)).into_iter().collect()
            }
            watcher::Event::Delete(object) => {
                let name = name_of(&object);
                self.reported
                    .remove(&name)
                    .then_some(Change::Remove(name))
                    .into_iter()
                    .collect()
            }
        }
    }

    /// An object that can no longer be understood counts as gone.
    fn upsert<T>(&mut self, name: ObjectName, object: Option<T>) -> Option<Change<T>> {
        match object {
            Some(object) => {
                self.reported.insert(name);
                Some(Change::Upsert(object))
            }
            None => {
                tracing::warn!(object = %name, "left out: the object is not usable");
                self.reported.remove(&name).then_some(Change::Remove(name))
            }
        }
    }
}

fn name_of(object: &impl ResourceExt) -> ObjectName {
    ObjectName::new(object.namespace().unwrap_or_default(), object.name_any())
}

/// How long to wait after so many failures in a row. A random part keeps a cluster's agents from coming all at once.
fn pause(failures: u32, random: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let pause = doubled.min(LONGEST_PAUSE);
    pause / 2 + (pause / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many errors repeat their cause in their own text.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
