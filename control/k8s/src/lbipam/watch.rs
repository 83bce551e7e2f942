//! Everything that addresses are decided on, kept up to date.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use model::inputs::ObjectName;
use tokio::time::Instant;

use super::{PoolKind, PoolObject, Responsibility, StoredBalancer, StoredPool, balancer, crd, pool};
use crate::client::Cluster;
use crate::error::{RequestError, request};

/// Changes that come so close together are looked at together.
const QUIET: Duration = Duration::from_millis(20);
/// But none waits longer than this.
const PATIENCE: Duration = Duration::from_millis(500);
/// Objects of a page of a list.
const PAGE: u32 = 500;

/// A watch has ended, which none does by itself.
#[derive(Debug, thiserror::Error)]
#[error("a watch of pools or services has ended")]
pub struct NoLoadBalancers;

#[expect(
    clippy::large_enum_variant,
    reason = "one at a time, on its way from a stream to a store"
)]
enum Event {
    Pool(watcher::Result<watcher::Event<PoolObject>>),
    // Boxed, as it is much the larger one.
    Service(Box<watcher::Result<watcher::Event<Service>>>),
}

/// All pools, and the Services of type LoadBalancer, as last seen. Dropping it ends the watches.
pub struct LoadBalancers {
    kind: PoolKind,
    responsibility: Responsibility,
    pools: Seen<StoredPool>,
    services: Seen<StoredBalancer>,
    events: BoxStream<'static, Event>,
}

impl std::fmt::Debug for LoadBalancers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadBalancers")
            .field("kind", &self.kind)
            .field("pools", &self.pools)
            .field("services", &self.services)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Starts to watch pools and Services. The definitions have to exist ([`Cluster::register_crds`]).
    ///
    /// # Errors
    /// When it cannot be found out in which version pools are served.
    pub async fn watch_load_balancers(
        &self,
        responsibility: Responsibility,
    ) -> Result<LoadBalancers, RequestError> {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let name = crd::name();
        let definition = request("get", &name, definitions.get(&name)).await?;
        let serves = |wanted: &str| {
            let mut versions = definition.spec.versions.iter();
            versions.any(|version| version.served && version.name == wanted)
        };
        let kind = PoolKind::of_version(if serves("v2") { "v2" } else { "v2alpha1" });
        let pools = Api::<PoolObject>::all_with(self.client.clone(), &kind.0);
        let services = Api::<Service>::all(self.client.clone());
        let pools = watcher(pools, watcher::Config::default()).default_backoff();
        let services = watcher(services, watcher::Config::default().page_size(PAGE)).default_backoff();
        Ok(LoadBalancers::new(kind, responsibility, pools, services))
    }
}

impl LoadBalancers {
    pub(super) fn new(
        kind: PoolKind,
        responsibility: Responsibility,
        pools: impl Stream<Item = watcher::Result<watcher::Event<PoolObject>>> + Send + 'static,
        services: impl Stream<Item = watcher::Result<watcher::Event<Service>>> + Send + 'static,
    ) -> Self {
        let events = futures::stream::select(
            pools.map(Event::Pool),
            services.map(|event| Event::Service(Box::new(event))),
        );
        Self {
            kind,
            responsibility,
            pools: Seen::default(),
            services: Seen::default(),
            events: events.boxed(),
        }
    }

    /// The kind of the pools.
    #[must_use]
    pub fn kind(&self) -> &PoolKind {
        &self.kind
    }

    /// All pools.
    pub fn pools(&self) -> impl Iterator<Item = &StoredPool> {
        self.pools.objects.values()
    }

    /// Services that want an address, or were served by us.
    pub fn services(&self) -> impl Iterator<Item = &StoredBalancer> {
        self.services.objects.values()
    }

    /// Waits until something has changed, and everything is known. Dropped before its end it may have taken note of
    /// changes: look at [`Self::is_complete`] then.
    ///
    /// # Errors
    /// When a watch has ended.
    pub async fn changed(&mut self) -> Result<(), NoLoadBalancers> {
        self.next().await?;
        let latest = Instant::now() + PATIENCE;
        while !self.is_complete() || Instant::now() < latest {
            match tokio::time::timeout(QUIET, self.next()).await {
                Ok(event) => event?,
                Err(_) if self.is_complete() => break,
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Takes note of what was written before the watch tells.
    pub fn note_pool(&mut self, pool: StoredPool) {
        let name = ObjectName::cluster(&pool.pool.name);
        self.pools.put(name, Some(pool));
    }

    /// Takes note of what was written before the watch tells.
    pub fn note_service(&mut self, service: StoredBalancer) {
        self.services.put(service.name.clone(), relevant(service));
    }

    /// Whether everything is known. While a list is received, what is known may be older than what we wrote.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.pools.is_complete() && self.services.is_complete()
    }

    async fn next(&mut self) -> Result<(), NoLoadBalancers> {
        match self.events.next().await.ok_or(NoLoadBalancers)? {
            Event::Pool(Ok(event)) => self.pools.handle(event, |object| Some(pool(object))),
            Event::Service(event) => match *event {
                Ok(event) => {
                    let responsibility = self.responsibility;
                    self.services
                        .handle(event, |service| relevant(balancer(service, responsibility)));
                }
                Err(error) => tell("Services", &error),
            },
            Event::Pool(Err(error)) => tell("CiliumLoadBalancerIPPools", &error),
        }
        Ok(())
    }
}

fn tell(what: &str, error: &watcher::Error) {
    tracing::warn!(what, error = %crate::watch::chain(error), "watch failed, trying again");
}

/// Most Services are none of our business, and are not kept.
fn relevant(service: StoredBalancer) -> Option<StoredBalancer> {
    (service.request.is_some() || service.was_served()).then_some(service)
}

/// Objects of a kind. A new list replaces them when it is complete.
#[derive(Debug)]
struct Seen<T> {
    objects: BTreeMap<ObjectName, T>,
    listing: Option<BTreeMap<ObjectName, T>>,
    listed: bool,
}

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            listing: None,
            listed: false,
        }
    }
}

impl<T> Seen<T> {
    fn is_complete(&self) -> bool {
        self.listed && self.listing.is_none()
    }

    fn put(&mut self, name: ObjectName, object: Option<T>) {
        match object {
            Some(object) => self.objects.insert(name, object),
            None => self.objects.remove(&name),
        };
    }

    fn handle<K: Resource>(&mut self, event: watcher::Event<K>, convert: impl Fn(&K) -> Option<T>) {
        let name = |object: &K| ObjectName::new(object.namespace().unwrap_or_default(), object.name_any());
        match event {
            watcher::Event::Init => self.listing = Some(BTreeMap::new()),
            watcher::Event::InitApply(object) => {
                if let (Some(listing), Some(converted)) = (&mut self.listing, convert(&object)) {
                    listing.insert(name(&object), converted);
                }
            }
            watcher::Event::InitDone => {
                self.objects = self.listing.take().unwrap_or_default();
                self.listed = true;
            }
            watcher::Event::Apply(object) => self.put(name(&object), convert(&object)),
            watcher::Event::Delete(object) => self.put(name(&object), None),
        }
    }
}
