//! The store: objects of every resource under one revision counter, and the recent changes that watches replay.
//!
//! A watcher keeps no queue here: it holds a revision and reads the changes after it from the ring of its resource.
//! So memory is bounded by the rings, and a watcher that is too slow finds its place overwritten and gets `410 Gone`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

use crate::client::Object;
use crate::object;
use crate::status::Status;

#[cfg(test)]
mod tests;

/// Most changes handed to a watcher at once.
const BATCH: usize = 256;

/// Where an object lives inside its resource. The namespace is empty for cluster-wide objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    fn of(object: &Value) -> Self {
        Self::new(object::namespace(object), object::name(object))
    }
}

/// One remembered change.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    /// State before; `None` for a creation.
    pub(crate) before: Option<Object>,
    /// State after; `None` for a removal.
    pub(crate) after: Option<Object>,
    /// For a removal, the last state under the revision of the removal.
    pub(crate) last: Object,
}

struct Collection {
    objects: BTreeMap<Key, Object>,
    changes: VecDeque<Change>,
    /// Changes up to this revision are forgotten.
    forgotten: u64,
    news: watch::Sender<u64>,
}

impl Collection {
    fn new(forgotten: u64) -> Self {
        Self {
            objects: BTreeMap::new(),
            changes: VecDeque::new(),
            forgotten,
            news: watch::Sender::new(forgotten),
        }
    }

    fn remember(&mut self, change: Change, limit: usize) {
        while self.changes.len() >= limit.max(1) {
            if let Some(old) = self.changes.pop_front() {
                self.forgotten = old.revision;
            }
        }
        let revision = change.revision;
        self.changes.push_back(change);
        self.news.send_replace(revision);
    }
}

struct Inner {
    revision: u64,
    collections: HashMap<String, Collection>,
}

/// All objects of the cluster. Resources are named by their storage name (`pods`, `deployments.apps`).
pub(crate) struct Store {
    inner: Mutex<Inner>,
    history: usize,
    first: u64,
}

impl Store {
    /// `first`: the revision to count from; one that no earlier run reached makes old watchers start over.
    pub(crate) fn new(first: u64, history: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                revision: first,
                collections: HashMap::new(),
            }),
            history,
            first,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change to `Inner` is complete before anything that can panic, so a poisoned lock is still sound.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn revision(&self) -> u64 {
        self.lock().revision
    }

    pub(crate) fn get(&self, resource: &str, key: &Key) -> Option<Object> {
        self.lock().collections.get(resource)?.objects.get(key).cloned()
    }

    /// Objects of a namespace (or all) in key order, and the revision they are of.
    pub(crate) fn list(&self, resource: &str, namespace: Option<&str>) -> (Vec<Object>, u64) {
        self.list_after(resource, namespace, None)
    }

    /// The same of those behind a key, which a page ended with.
    pub(crate) fn list_after(
        &self,
        resource: &str,
        namespace: Option<&str>,
        after: Option<&Key>,
    ) -> (Vec<Object>, u64) {
        let inner = self.lock();
        let objects = match inner.collections.get(resource) {
            Some(collection) => select(&collection.objects, namespace, after),
            None => Vec::new(),
        };
        (objects, inner.revision)
    }

    /// Stores an object under its own name and gives it the next revision.
    pub(crate) fn put(&self, resource: &str, mut object: Value) -> Object {
        let mut inner = self.lock();
        inner.revision += 1;
        let revision = inner.revision;
        object::meta_mut(&mut object).insert("resourceVersion".into(), revision.to_string().into());
        let object = Arc::new(object);
        let (history, first) = (self.history, self.first);
        let collection = inner
            .collections
            .entry(resource.to_owned())
            .or_insert_with(|| Collection::new(first));
        let before = collection.objects.insert(Key::of(&object), object.clone());
        let change = Change {
            revision,
            before,
            after: Some(object.clone()),
            last: object.clone(),
        };
        collection.remember(change, history);
        object
    }

    /// Removes an object; `last` is the state that watchers see with the removal.
    pub(crate) fn remove(&self, resource: &str, mut last: Value) -> Object {
        let mut inner = self.lock();
        let key = Key::of(&last);
        let before = inner
            .collections
            .get_mut(resource)
            .and_then(|c| c.objects.remove(&key));
        let Some(before) = before else {
            return Arc::new(last);
        };
        inner.revision += 1;
        let revision = inner.revision;
        object::meta_mut(&mut last).insert("resourceVersion".into(), revision.to_string().into());
        let last = Arc::new(last);
        let change = Change {
            revision,
            before: Some(before),
            after: None,
            last: last.clone(),
        };
        if let Some(collection) = inner.collections.get_mut(resource) {
            collection.remember(change, self.history);
        }
        last
    }

    /// Forgets a whole resource (its definition was removed); watchers see each object go.
    pub(crate) fn drop_resource(&self, resource: &str) {
        let (objects, _) = self.list(resource, None);
        for object in objects {
            self.remove(resource, (*object).clone());
        }
    }

    /// Changes of a resource after `from`, oldest first, at most a batch, and the revision to go on from.
    pub(crate) fn changes(&self, resource: &str, from: u64) -> Result<(Vec<Change>, u64), Status> {
        let inner = self.lock();
        if from > inner.revision {
            return Err(Status::expired(from, inner.revision));
        }
        let Some(collection) = inner.collections.get(resource) else {
            return if from < self.first {
                Err(Status::expired(from, self.first))
            } else {
                Ok((Vec::new(), inner.revision))
            };
        };
        if from < collection.forgotten {
            return Err(Status::expired(from, collection.forgotten));
        }
        let start = collection.changes.partition_point(|c| c.revision <= from);
        let batch: Vec<Change> = collection.changes.range(start..).take(BATCH).cloned().collect();
        let whole = start + batch.len() == collection.changes.len();
        let next = match batch.last() {
            Some(change) if !whole => change.revision,
            _ => inner.revision,
        };
        Ok((batch, next))
    }

    /// Wakes when the resource changes.
    pub(crate) fn subscribe(&self, resource: &str) -> watch::Receiver<u64> {
        let first = self.first;
        let mut inner = self.lock();
        let collection = inner
            .collections
            .entry(resource.to_owned())
            .or_insert_with(|| Collection::new(first));
        collection.news.subscribe()
    }

    /// Whether changes after this revision are still remembered.
    pub(crate) fn remembers(&self, resource: &str, from: u64) -> Result<(), Status> {
        self.changes(resource, from).map(drop)
    }
}

fn select(objects: &BTreeMap<Key, Object>, namespace: Option<&str>, after: Option<&Key>) -> Vec<Object> {
    let first = namespace.map(|namespace| Key::new(namespace, ""));
    // No object has an empty name.
    let start = after
        .max(first.as_ref())
        .map_or(Bound::Unbounded, Bound::Excluded);
    objects
        .range((start, Bound::Unbounded))
        .take_while(|(key, _)| namespace.is_none_or(|namespace| key.namespace == namespace))
        .map(|(_, object)| object.clone())
        .collect()
}
