//! Watches of the API server, into the index.
//!
//! A connection that breaks is made again, resuming where it ended; when everything has to be listed anew, the old content
//! stays until the list is complete, and then what is not in it goes. So an API server that is away leaves answers as they were.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use crate::convert;
use crate::index::{Index, Key};
use crate::zone::Pods;

/// The index as it is shared. Readers hold it for one answer, writers for one object.
pub(crate) type Shared = Arc<RwLock<Index>>;

/// A kind of object that the index holds.
trait Watched: Sized {
    fn put(self, index: &mut Index, key: Key);
    fn remove(index: &mut Index, key: &Key);
    fn keys(index: &Index) -> Vec<Key>;
}

impl Watched for Service {
    fn put(self, index: &mut Index, key: Key) {
        match convert::service(key.clone(), self) {
            Some(service) => index.put_service(service),
            None => index.remove_service(&key),
        }
    }
    fn remove(index: &mut Index, key: &Key) {
        index.remove_service(key);
    }
    fn keys(index: &Index) -> Vec<Key> {
        index.service_keys()
    }
}

impl Watched for EndpointSlice {
    fn put(self, index: &mut Index, key: Key) {
        match convert::slice(key.clone(), self) {
            Some(slice) => index.put_slice(slice),
            None => index.remove_slice(&key),
        }
    }
    fn remove(index: &mut Index, key: &Key) {
        index.remove_slice(key);
    }
    fn keys(index: &Index) -> Vec<Key> {
        index.slice_keys()
    }
}

impl Watched for Namespace {
    fn put(self, index: &mut Index, key: Key) {
        index.put_namespace(key.name);
    }
    fn remove(index: &mut Index, key: &Key) {
        index.remove_namespace(&key.name);
    }
    fn keys(index: &Index) -> Vec<Key> {
        index.namespace_keys()
    }
}

impl Watched for Pod {
    fn put(self, index: &mut Index, key: Key) {
        index.put_pod(key, convert::pod_addresses(&self));
    }
    fn remove(index: &mut Index, key: &Key) {
        index.remove_pod(key);
    }
    fn keys(index: &Index) -> Vec<Key> {
        index.pod_keys()
    }
}

/// Starts the watches that the zone needs. The marks are set once everything has been listed.
pub(crate) fn start(
    client: &Client,
    pods: Pods,
    index: &Shared,
    tasks: &mut JoinSet<()>,
) -> Vec<Arc<AtomicBool>> {
    let mut synced = vec![
        spawn::<Service>(client, index, tasks),
        spawn::<EndpointSlice>(client, index, tasks),
        spawn::<Namespace>(client, index, tasks),
    ];
    if pods == Pods::Verified {
        synced.push(spawn::<Pod>(client, index, tasks));
    }
    synced
}

fn spawn<K>(client: &Client, index: &Shared, tasks: &mut JoinSet<()>) -> Arc<AtomicBool>
where
    K: Watched + Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let synced = Arc::new(AtomicBool::new(false));
    tasks.spawn(keep::<K>(Api::all(client.clone()), index.clone(), synced.clone()));
    synced
}

/// Keeps one kind up to date, for ever.
async fn keep<K>(api: Api<K>, index: Shared, synced: Arc<AtomicBool>)
where
    K: Watched + Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let kind = K::kind(&()).into_owned();
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    let mut listed = HashSet::new();
    loop {
        let event = match events.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(kind, %error, "cannot watch");
                continue;
            }
        };
        let done = matches!(event, watcher::Event::InitDone);
        apply(
            &mut index.write().unwrap_or_else(PoisonError::into_inner),
            event,
            &mut listed,
        );
        if done && !synced.swap(true, Ordering::AcqRel) {
            tracing::info!(kind, "synced");
        }
    }
}

fn apply<K: Watched + Resource>(index: &mut Index, event: watcher::Event<K>, listed: &mut HashSet<Key>) {
    match event {
        watcher::Event::Init => listed.clear(),
        watcher::Event::InitApply(object) => {
            let key = key(&object);
            listed.insert(key.clone());
            object.put(index, key);
        }
        watcher::Event::InitDone => {
            for key in K::keys(index) {
                if !listed.contains(&key) {
                    K::remove(index, &key);
                }
            }
            *listed = HashSet::new();
        }
        watcher::Event::Apply(object) => {
            let key = key(&object);
            object.put(index, key);
        }
        watcher::Event::Delete(object) => K::remove(index, &key(&object)),
    }
}

fn key<K: Resource>(object: &K) -> Key {
    Key::new(object.namespace().unwrap_or_default(), object.name_any())
}
