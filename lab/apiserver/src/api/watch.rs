//! Watches: changes after a revision as seen through a selection, with bookmarks.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Api, Target};
use crate::client::{Object, WatchEvent};
use crate::kinds::Kind;
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::Status;
use crate::store::Change;

/// How often a quiet watcher hears a bookmark (the real server: once a minute).
const BOOKMARK_EVERY: Duration = Duration::from_secs(30);

/// Query of a watch.
#[derive(Clone, Debug, Default)]
pub(crate) struct WatchRequest {
    pub(crate) labels: String,
    pub(crate) fields: String,
    /// `None` or 0: start with the present state as `Added`.
    pub(crate) from: Option<u64>,
    pub(crate) bookmarks: bool,
    /// WatchList: present state, then a bookmark that says that it is complete.
    pub(crate) initial_events: bool,
    /// The stream ends after this.
    pub(crate) timeout: Option<Duration>,
}

type Events = BoxStream<'static, Result<WatchEvent, Status>>;

struct View {
    kind: Arc<Kind>,
    namespace: Option<String>,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl View {
    fn selects(&self, object: &Value) -> bool {
        self.namespace
            .as_ref()
            .is_none_or(|n| crate::object::namespace(object) == n)
            && self.labels.matches(object)
            && self.fields.matches(object)
    }

    /// What this change looks like through the selection; an object that leaves it goes as `Deleted`.
    fn event(&self, change: &Change) -> Option<WatchEvent> {
        let was = change.before.as_ref().is_some_and(|o| self.selects(o));
        let is = change.after.as_ref().is_some_and(|o| self.selects(o));
        let show = |object: &Object| Api::present(&self.kind, object);
        match (was, is) {
            (false, true) => Some(WatchEvent::Added(show(&change.last))),
            (true, true) => Some(WatchEvent::Modified(show(&change.last))),
            (true, false) => Some(WatchEvent::Deleted(show(&self.farewell(change)))),
            (false, false) => None,
        }
    }

    /// The last state that the selection saw, under the revision of the change.
    fn farewell(&self, change: &Change) -> Object {
        match (&change.after, &change.before) {
            (Some(_), Some(before)) => {
                let mut last = (**before).clone();
                last["metadata"]["resourceVersion"] = change.revision.to_string().into();
                Arc::new(last)
            }
            _ => change.last.clone(),
        }
    }

    fn bookmark(&self, revision: u64, end_of_initial: bool) -> WatchEvent {
        let mut object = json!({
            "apiVersion": self.kind.api_version(), "kind": self.kind.kind,
            "metadata": {"resourceVersion": revision.to_string(), "creationTimestamp": null},
        });
        if end_of_initial {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        WatchEvent::Bookmark(Arc::new(object))
    }
}

impl Api {
    /// Starts a watch. The stream ends at its timeout, or with an error as its last element.
    pub(crate) fn watch(self: &Arc<Self>, target: &Target, request: &WatchRequest) -> Result<Events, Status> {
        let kind = &target.kind;
        let (labels, fields) = Self::selectors(kind, &request.labels, &request.fields)?;
        // Subscribed before the first look, so that nothing falls between.
        let news = self.store.subscribe(&kind.storage);
        let view = View {
            kind: kind.clone(),
            namespace: target.namespace.clone(),
            labels,
            fields,
        };
        let mut initial = Vec::new();
        let cursor = match request.from.filter(|r| *r != 0 && !request.initial_events) {
            Some(from) => {
                self.store.remembers(&kind.storage, from)?;
                from
            }
            None => {
                let (objects, revision) = self.store.list(&kind.storage, target.namespace.as_deref());
                if let Some(asked) = request.from.filter(|asked| *asked > revision) {
                    return Err(Status::too_large_resource_version(asked, revision));
                }
                let selected = objects.iter().filter(|o| view.selects(o));
                initial.extend(selected.map(|o| Ok(WatchEvent::Added(Self::present(kind, o)))));
                if request.initial_events {
                    initial.push(Ok(view.bookmark(revision, true)));
                }
                revision
            }
        };
        let follow = Follow {
            api: self.clone(),
            view,
            news,
            cursor,
            bookmarks: request.bookmarks,
            deadline: request.timeout.map(|t| Instant::now() + t),
            ended: false,
        };
        Ok(stream::iter(initial)
            .chain(stream::unfold(follow, Follow::next).flat_map(stream::iter))
            .boxed())
    }
}

struct Follow {
    api: Arc<Api>,
    view: View,
    news: tokio::sync::watch::Receiver<u64>,
    cursor: u64,
    bookmarks: bool,
    deadline: Option<Instant>,
    ended: bool,
}

impl Follow {
    async fn next(mut self) -> Option<(Vec<Result<WatchEvent, Status>>, Self)> {
        if self.ended {
            return None;
        }
        loop {
            self.news.mark_unchanged();
            match self.api.store.changes(&self.view.kind.storage, self.cursor) {
                Err(expired) => {
                    self.ended = true;
                    return Some((vec![Err(expired)], self));
                }
                Ok((changes, next)) => {
                    self.cursor = next;
                    let events: Vec<_> = changes
                        .iter()
                        .filter_map(|c| self.view.event(c))
                        .map(Ok)
                        .collect();
                    if !events.is_empty() {
                        return Some((events, self));
                    }
                    if !changes.is_empty() {
                        continue;
                    }
                }
            }
            let tick = Instant::now() + BOOKMARK_EVERY;
            let wake = self.deadline.map_or(tick, |d| d.min(tick));
            tokio::select! {
                changed = self.news.changed() => {
                    if changed.is_err() {
                        return None;
                    }
                }
                () = tokio::time::sleep_until(wake) => {
                    if self.deadline.is_some_and(|d| d <= wake) {
                        self.ended = true;
                    }
                    if self.bookmarks {
                        // Only what was read is promised.
                        let bookmark = self.view.bookmark(self.cursor, false);
                        return Some((vec![Ok(bookmark)], self));
                    }
                    if self.ended {
                        return None;
                    }
                }
            }
        }
    }
}
