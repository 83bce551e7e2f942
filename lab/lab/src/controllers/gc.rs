//! The garbage collector: objects whose owners are gone go too, and owners wait for their dependents or let go of them,
//! as the deletion asks for. Background, foreground and orphan propagation.
//!
//! It watches every resource that is served, custom ones included, and keeps a graph of who owns whom ([`graph`]). The
//! graph is only a hint where to look: before anything is deleted, the API server is asked whether the owner really is gone.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use lab_apiserver::{
    Client, DeleteOptions, ListOptions, Patch, Resource, ServedResource, Status, WatchEvent,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::common::key_of;
use super::queue::{Key, WorkQueue};
use graph::{Action, Entry, FOREGROUND, Graph, ORPHAN, Owner};

mod graph;

/// How often new resources (custom ones) are looked for.
const DISCOVERY: Duration = Duration::from_secs(1);
/// Before a broken watch is opened again.
const REWATCH_DELAY: Duration = Duration::from_millis(200);
/// Changes that wait to be put into the graph; beyond, the watches wait.
const BACKLOG: usize = 1024;

/// A change seen by a watch.
enum Change {
    /// An object came or changed.
    Seen(Box<Entry>),
    /// An object went.
    Gone(String),
    /// All objects of a resource, after a watch began: what the graph has beyond these is gone.
    All(Resource, Vec<String>),
}

/// Runs until `stop`.
pub(crate) async fn run(client: Client, stop: CancellationToken) {
    tokio::select! {
        () = collect(&client) => {}
        () = stop.cancelled() => {}
    }
}

async fn collect(client: &Client) {
    let (sender, mut changes) = mpsc::channel(BACKLOG);
    let mut watches: HashMap<Resource, AbortOnDropHandle<()>> = HashMap::new();
    let mut collector = Collector {
        client,
        graph: Graph::default(),
        queue: WorkQueue::default(),
        kinds: HashMap::new(),
    };
    let mut discovery = tokio::time::interval(DISCOVERY);
    loop {
        let due = collector
            .queue
            .next_due()
            .unwrap_or_else(|| Instant::now() + DISCOVERY);
        tokio::select! {
            change = changes.recv() => if let Some(change) = change { collector.note(change) },
            _ = discovery.tick() => {
                let served: Vec<ServedResource> =
                    client.resources().into_iter().filter(|served| served.resource.plural != "events").collect();
                watches.retain(|resource, _| served.iter().any(|served| served.resource == *resource));
                collector.kinds = served.iter().map(|served| (kind_key(&served.resource.group, &served.kind), served.clone())).collect();
                for ServedResource { resource, .. } in served {
                    watches.entry(resource.clone()).or_insert_with(|| {
                        let task = watch(client.clone(), resource, sender.clone());
                        AbortOnDropHandle::new(tokio::spawn(task))
                    });
                }
            }
            () = tokio::time::sleep_until(due.into()) => collector.work_one().await,
        }
    }
}

/// Owners name their kind and group; versions of a group share their objects.
fn kind_key(group: &str, kind: &str) -> (String, String) {
    (group.to_owned(), kind.to_owned())
}

async fn watch(client: Client, resource: Resource, changes: mpsc::Sender<Change>) {
    while !changes.is_closed() {
        if let Err(error) = watch_once(&client, &resource, &changes).await
            && !error.is_expired()
        {
            tracing::debug!(resource = resource.plural, %error, "watch broke");
        }
        tokio::time::sleep(REWATCH_DELAY).await;
    }
}

async fn watch_once(
    client: &Client,
    resource: &Resource,
    changes: &mpsc::Sender<Change>,
) -> Result<(), Status> {
    let options = ListOptions::default();
    let list = client.list(resource, None, &options).await?;
    let mut stream = client
        .watch(resource, None, &options, list.resource_version)
        .await?;
    let entries: Vec<Entry> = list
        .items
        .iter()
        .filter_map(|object| Entry::of(resource, object))
        .collect();
    let uids = entries.iter().map(|entry| entry.uid.clone()).collect();
    // The receiver lives as long as this task may run.
    let _ = changes.send(Change::All(resource.clone(), uids)).await;
    for entry in entries {
        let _ = changes.send(Change::Seen(Box::new(entry))).await;
    }
    while let Some(event) = stream.next().await {
        let change = match event? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                Entry::of(resource, &object).map(|entry| Change::Seen(Box::new(entry)))
            }
            WatchEvent::Deleted(object) => object["metadata"]["uid"]
                .as_str()
                .map(|uid| Change::Gone(uid.to_owned())),
            WatchEvent::Bookmark(_) => None,
        };
        if let Some(change) = change {
            let _ = changes.send(change).await;
        }
    }
    Ok(())
}

struct Collector<'a> {
    client: &'a Client,
    graph: Graph,
    /// By uid
    queue: WorkQueue,
    kinds: HashMap<(String, String), ServedResource>,
}

impl Collector<'_> {
    fn note(&mut self, change: Change) {
        let affected = match change {
            Change::Seen(entry) => self.graph.put(*entry),
            Change::Gone(uid) => self.graph.remove(&uid),
            Change::All(resource, uids) => self.graph.retain(&resource, &uids),
        };
        let now = Instant::now();
        for uid in affected {
            self.queue.add(Key::new("", &uid), now);
        }
    }

    async fn work_one(&mut self) {
        let Some(key) = self.queue.pop(Instant::now()) else {
            return;
        };
        match self.look_at(&key.name).await {
            Ok(()) => self.queue.forget(&key),
            Err(error) => {
                let failures = self.queue.retry(key, Instant::now());
                tracing::debug!(failures, "garbage collection: {error:#}");
            }
        }
    }

    async fn look_at(&self, uid: &str) -> anyhow::Result<()> {
        let Some(entry) = self.graph.get(uid) else {
            return Ok(());
        };
        let mut absent = Vec::new();
        for owner in &entry.owners {
            if !self.graph.contains(&owner.uid) && self.is_gone(entry, owner).await? {
                absent.push(owner.uid.clone());
            }
        }
        match self.graph.decide(uid, &absent) {
            Action::Nothing => {}
            Action::Delete(policy) => {
                tracing::info!(object = %entry.key, resource = entry.resource.plural, policy, "its owners are gone");
                let options = DeleteOptions {
                    uid: Some(entry.uid.clone()),
                    propagation_policy: Some(policy.to_owned()),
                    ..DeleteOptions::default()
                };
                let deleted = self
                    .client
                    .delete(&entry.resource, entry.key.namespace(), &entry.key.name, &options)
                    .await;
                ignore_gone(deleted.map(drop))?;
            }
            Action::RemoveOwners(owners) => self.remove_owners(entry, &owners).await?,
            Action::Orphan => {
                for dependent in self.dependents(uid).await? {
                    self.remove_owners(&dependent, std::slice::from_ref(&entry.uid))
                        .await?;
                }
                self.remove_finalizer(entry, ORPHAN).await?;
            }
            Action::Release => {
                // One that the graph does not know yet will wake us when it goes.
                if !self
                    .dependents(uid)
                    .await?
                    .iter()
                    .any(|dependent| dependent.blocks(uid))
                {
                    self.remove_finalizer(entry, FOREGROUND).await?;
                }
            }
        }
        Ok(())
    }

    /// The dependents of an object as the API server knows them: one that the graph has not seen yet must not be
    /// forgotten when its owner goes.
    async fn dependents(&self, uid: &str) -> anyhow::Result<Vec<Entry>> {
        let mut dependents = Vec::new();
        for ServedResource { resource, .. } in self.kinds.values() {
            let list = self.client.list(resource, None, &ListOptions::default()).await?;
            let entries = list.items.iter().filter_map(|object| Entry::of(resource, object));
            dependents.extend(entries.filter(|entry| entry.owners.iter().any(|owner| owner.uid == uid)));
        }
        Ok(dependents)
    }

    /// Asks the API server whether an owner is gone. One of an unknown kind is not: its definition may come yet.
    async fn is_gone(&self, entry: &Entry, owner: &Owner) -> anyhow::Result<bool> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let Some(served) = self.kinds.get(&kind_key(group, &owner.kind)) else {
            return Ok(false);
        };
        let namespace = served.namespaced.then(|| entry.key.namespace()).flatten();
        match self.client.get(&served.resource, namespace, &owner.name).await {
            Ok(object) => Ok(object["metadata"]["uid"] != owner.uid),
            Err(status) if status.is_not_found() => Ok(true),
            Err(status) => Err(status.into()),
        }
    }

    async fn remove_owners(&self, entry: &Entry, gone: &[String]) -> anyhow::Result<()> {
        self.edit(entry, |meta| {
            let owners = meta["ownerReferences"].as_array()?;
            let kept: Vec<Value> = owners
                .iter()
                .filter(|owner| !gone.iter().any(|uid| owner["uid"] == *uid))
                .cloned()
                .collect();
            (kept.len() < owners.len()).then(|| json!({"ownerReferences": kept}))
        })
        .await
    }

    async fn remove_finalizer(&self, entry: &Entry, finalizer: &str) -> anyhow::Result<()> {
        self.edit(entry, |meta| {
            let finalizers = meta["finalizers"].as_array()?;
            let kept: Vec<&Value> = finalizers.iter().filter(|name| *name != finalizer).collect();
            (kept.len() < finalizers.len()).then(|| json!({"finalizers": kept}))
        })
        .await
    }

    /// Changes the metadata of an object, if it is still the same one, to what `edit` makes of it.
    async fn edit(&self, entry: &Entry, edit: impl FnOnce(&Value) -> Option<Value>) -> anyhow::Result<()> {
        let object = match self
            .client
            .get(&entry.resource, entry.key.namespace(), &entry.key.name)
            .await
        {
            Ok(object) => object,
            Err(status) if status.is_not_found() => return Ok(()),
            Err(status) => return Err(status.into()),
        };
        let meta = &object["metadata"];
        if meta["uid"] != entry.uid {
            return Ok(());
        }
        let Some(mut patch) = edit(meta) else {
            return Ok(());
        };
        patch["resourceVersion"] = meta["resourceVersion"].clone();
        let key = key_of(&object);
        let patch = json!({"metadata": patch});
        let patched = self
            .client
            .patch(&entry.resource, key.namespace(), &key.name, Patch::Merge, patch)
            .await;
        match patched {
            Err(status) if !status.is_not_found() => Err(status.into()),
            _ => Ok(()),
        }
    }
}

/// What is gone already, or has been replaced, needs no deletion.
fn ignore_gone(result: Result<(), Status>) -> Result<(), Status> {
    match result {
        Err(status) if status.is_not_found() || status.is_conflict() => Ok(()),
        other => other,
    }
}
