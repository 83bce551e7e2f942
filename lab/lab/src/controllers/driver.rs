//! What all controllers have in common: watches that fill a queue, and a loop that works it off.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{FutureExt as _, StreamExt as _};
use lab_apiserver::{Client, ListOptions, Object, Resource, Status, WatchEvent};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::common::key_of;
use super::queue::{Key, WorkQueue};

/// How long a controller may take over one object.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two attempts to open a watch.
const REWATCH_DELAY: Duration = Duration::from_millis(200);
/// Failures in a row from which on they are worth a warning; before, they are usually two writers meeting.
const WORTH_A_WARNING: u32 = 4;

/// Keeps one kind of object the way it should be.
pub(crate) trait Controller: Send + Sync + 'static {
    /// Its name in logs.
    const NAME: &'static str;

    /// The client it works with.
    fn client(&self) -> &Client;

    /// What wakes it.
    fn triggers(&self) -> Vec<Trigger>;

    /// Looks at one object, which may be gone, and does what is to be done. An error means: try again.
    fn reconcile(&self, key: &Key) -> impl Future<Output = anyhow::Result<Next>> + Send;
}

/// When to look again at an object that was dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// When something wakes the controller.
    Wait,
    /// Then, at the latest.
    After(Duration),
}

/// A resource whose changes wake a controller.
pub(crate) struct Trigger {
    /// The resource that is watched.
    pub(crate) resource: Resource,
    /// Which objects a change of it concerns.
    pub(crate) wake: Wake,
}

/// Which objects to look at when a watched one changed.
pub(crate) enum Wake {
    /// The object itself.
    Itself,
    /// Those that this function computes from the changed one.
    Keys(fn(&serde_json::Value) -> Vec<Key>),
    /// All objects of this resource; in the same namespace, if the changed one has one.
    All(Resource),
}

impl Trigger {
    /// A change of an object wakes the controller for that object.
    pub(crate) fn itself(resource: Resource) -> Self {
        Self {
            resource,
            wake: Wake::Itself,
        }
    }

    /// A change of an object wakes the controller for the objects that `keys` answers.
    pub(crate) fn keys(resource: Resource, keys: fn(&serde_json::Value) -> Vec<Key>) -> Self {
        Self {
            resource,
            wake: Wake::Keys(keys),
        }
    }

    /// A change of an object wakes the controller for all objects of another resource (in its namespace, if it has one).
    pub(crate) fn all(resource: Resource, of: Resource) -> Self {
        Self {
            resource,
            wake: Wake::All(of),
        }
    }
}

/// The queue, and the bell that rings when something is put into it.
#[derive(Default)]
struct Inbox {
    queue: Mutex<WorkQueue>,
    bell: Notify,
}

impl Inbox {
    fn with<T>(&self, work: impl FnOnce(&mut WorkQueue) -> T) -> T {
        work(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, keys: impl IntoIterator<Item = Key>) {
        let now = Instant::now();
        self.with(|queue| keys.into_iter().for_each(|key| queue.add(key, now)));
        self.bell.notify_one();
    }
}

/// Runs a controller until `stop`.
pub(crate) async fn run<C: Controller>(controller: C, stop: CancellationToken) {
    let inbox = Arc::new(Inbox::default());
    let watches = controller.triggers().into_iter().map(|trigger| {
        let (client, inbox) = (controller.client().clone(), Arc::clone(&inbox));
        async move { watch(&client, &trigger, &inbox).await }
    });
    let watching = futures::future::join_all(watches);
    tokio::select! {
        _ = watching => tracing::error!(controller = C::NAME, "no watches"),
        () = work(&controller, &inbox) => {}
        () = stop.cancelled() => {}
    }
}

async fn work<C: Controller>(controller: &C, inbox: &Inbox) {
    loop {
        let now = Instant::now();
        let Some(key) = inbox.with(|queue| queue.pop(now)) else {
            match inbox.with(|queue| queue.next_due()) {
                // The bell keeps a ring that nobody heard, so nothing is missed between the look and the wait.
                Some(due) => drop(tokio::time::timeout_at(due.into(), inbox.bell.notified()).await),
                None => inbox.bell.notified().await,
            }
            continue;
        };
        // A panic on one object must not end the care for all others.
        let outcome = AssertUnwindSafe(tokio::time::timeout(PATIENCE, controller.reconcile(&key)))
            .catch_unwind()
            .await;
        let failure = match outcome {
            Ok(Ok(Ok(next))) => {
                inbox.with(|queue| {
                    queue.forget(&key);
                    if let Next::After(delay) = next {
                        queue.add(key, Instant::now() + delay);
                    }
                });
                continue;
            }
            Ok(Ok(Err(error))) => format!("{error:#}"),
            Ok(Err(_)) => format!("not done within {PATIENCE:?}"),
            Err(_) => "panicked".to_owned(),
        };
        let failures = inbox.with(|queue| queue.retry(key.clone(), Instant::now()));
        if failures >= WORTH_A_WARNING {
            tracing::warn!(controller = C::NAME, %key, failures, "{failure}");
        } else {
            tracing::debug!(controller = C::NAME, %key, failures, "{failure}");
        }
    }
}

/// Follows a resource for ever: lists, watches, and starts over when the watch breaks.
async fn watch(client: &Client, trigger: &Trigger, inbox: &Inbox) {
    loop {
        if let Err(error) = watch_once(client, trigger, inbox).await
            && !error.is_expired()
        {
            tracing::warn!(resource = trigger.resource.plural, %error, "watch broke");
        }
        tokio::time::sleep(REWATCH_DELAY).await;
    }
}

async fn watch_once(client: &Client, trigger: &Trigger, inbox: &Inbox) -> Result<(), Status> {
    let options = ListOptions::default();
    let list = client.list(&trigger.resource, None, &options).await?;
    let mut changes = client
        .watch(&trigger.resource, None, &options, list.resource_version)
        .await?;
    for object in &list.items {
        inbox.add(keys(client, trigger, object).await?);
    }
    while let Some(change) = changes.next().await {
        if let WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) =
            change?
        {
            inbox.add(keys(client, trigger, &object).await?);
        }
    }
    Ok(())
}

async fn keys(client: &Client, trigger: &Trigger, changed: &Object) -> Result<Vec<Key>, Status> {
    Ok(match &trigger.wake {
        Wake::Itself => vec![key_of(changed)],
        Wake::Keys(keys) => keys(changed),
        Wake::All(resource) => {
            let namespace = changed["metadata"]["namespace"].as_str();
            let list = client.list(resource, namespace, &ListOptions::default()).await?;
            list.items.iter().map(|object| key_of(object)).collect()
        }
    })
}
