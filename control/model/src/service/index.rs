//! Everything that is known of services, and what each change concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use abi::{Addr, ServiceKey};

use super::{Frontend, FrontendKind, ServiceNode, Settings, frontends, is_local};
use crate::addr::Family;
use crate::inputs::{EndpointSlice, ObjectName, Pod, Service, ServiceType};

/// What the index is told.
#[derive(Clone, Debug)]
pub enum ServiceChange {
    /// A service is new, or has changed.
    Service(Service),
    /// It is gone.
    ServiceGone(ObjectName),
    /// A slice is new, or has changed.
    Slice(EndpointSlice),
    /// It is gone.
    SliceGone(ObjectName),
    /// The pods of this node, all of them; those without host ports do not matter.
    Pods(Vec<Pod>),
    /// What is known of this node.
    Node(ServiceNode),
    /// The addresses of all nodes of the cluster.
    NodeAddresses(BTreeSet<Addr>),
}

/// The frontends that a change concerns.
pub type Affected = BTreeSet<ServiceKey>;

/// Whose a frontend is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A service.
    Service(Arc<ObjectName>),
    /// A pod of this node with host ports.
    Pod(Arc<ObjectName>),
}

impl Owner {
    /// Name of the service or pod.
    #[must_use]
    pub fn name(&self) -> &ObjectName {
        match self {
            Self::Service(name) | Self::Pod(name) => name,
        }
    }
}

/// One who wants a frontend. The least of all has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    kind: FrontendKind,
    created: i64,
    owner: Owner,
}

/// A service that balancers ask about at a port of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The service.
    pub service: ObjectName,
    /// Its ready endpoints on this node.
    pub local_endpoints: usize,
}

/// Services, their endpoints, and who has which frontend.
#[derive(Debug, Default)]
pub struct ServiceIndex {
    settings: Settings,
    node: ServiceNode,
    node_addresses: BTreeSet<Addr>,
    services: BTreeMap<Arc<ObjectName>, Service>,
    /// By service, then by name of the slice.
    slices: BTreeMap<ObjectName, BTreeMap<String, EndpointSlice>>,
    service_of: BTreeMap<ObjectName, Arc<str>>,
    pods: BTreeMap<Arc<ObjectName>, Pod>,
    claims: BTreeMap<ServiceKey, Vec<Claim>>,
    owned: BTreeMap<Owner, Vec<(ServiceKey, Claim)>>,
    /// Services with a health check port.
    checked: BTreeSet<Arc<ObjectName>>,
}

impl ServiceIndex {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings, node: ServiceNode) -> Self {
        Self {
            settings,
            node,
            ..Self::default()
        }
    }

    /// Takes a change in. The frontends that it concerns may differ from what the tables hold; no others do.
    pub fn apply(&mut self, change: ServiceChange) -> Affected {
        match change {
            ServiceChange::Service(service) => {
                let name = self.name_of(&service.name);
                if self.services.get(&name) == Some(&service) {
                    return Affected::new();
                }
                if service.health_check_port != 0 {
                    self.checked.insert(Arc::clone(&name));
                } else {
                    self.checked.remove(&name);
                }
                self.services.insert(Arc::clone(&name), service);
                self.claim(Owner::Service(name))
            }
            ServiceChange::ServiceGone(name) => {
                self.services.remove(&name);
                self.checked.remove(&name);
                self.claim(Owner::Service(Arc::new(name)))
            }
            ServiceChange::Slice(slice) => self.slice(slice),
            ServiceChange::SliceGone(name) => self.slice_gone(&name),
            ServiceChange::Pods(pods) => self.pods(pods),
            ServiceChange::Node(node) => {
                if self.node == node {
                    return Affected::new();
                }
                self.node = node;
                let services = self.services.keys().cloned().map(Owner::Service);
                let owners: Vec<Owner> = services
                    .chain(self.pods.keys().cloned().map(Owner::Pod))
                    .collect();
                owners.into_iter().flat_map(|owner| self.claim(owner)).collect()
            }
            ServiceChange::NodeAddresses(addresses) => {
                let differ: Vec<Addr> = self
                    .node_addresses
                    .symmetric_difference(&addresses)
                    .copied()
                    .collect();
                self.node_addresses = addresses;
                differ
                    .into_iter()
                    .flat_map(|addr| self.at(addr).collect::<Vec<_>>())
                    .collect()
            }
        }
    }

    /// Whose these frontends are; `None`, last: there are some that nobody wants any more.
    #[must_use]
    pub fn owners(&self, affected: &Affected) -> Vec<Option<Owner>> {
        // Also those who just lost one: what they share may have changed with it.
        let claims = affected.iter().filter_map(|key| self.claims.get(key)).flatten();
        let owners: BTreeSet<&Owner> = claims.map(|claim| &claim.owner).collect();
        let is_any_gone = affected.iter().any(|key| self.owner(key).is_none());
        let owners = owners.into_iter().cloned().map(Some);
        owners.chain(is_any_gone.then_some(None)).collect()
    }

    /// What is wanted of an owner's frontends, all of them, since they share their sets; of nobody's, which of `affected`
    /// are wanted no more (`None`).
    #[must_use]
    pub fn wanted(&self, owner: Option<&Owner>, affected: &Affected) -> Vec<(ServiceKey, Option<Frontend>)> {
        let Some(owner) = owner else {
            let gone = affected.iter().filter(|key| self.owner(key).is_none());
            return gone.map(|key| (*key, None)).collect();
        };
        let frontends = self.frontends(owner).into_iter();
        let its = frontends.filter(|(key, _)| self.owner(key) == Some(owner));
        its.map(|(key, frontend)| (key, Some(frontend))).collect()
    }

    /// Every frontend that anybody wants.
    #[must_use]
    pub fn all(&self) -> Affected {
        self.claims.keys().copied().collect()
    }

    /// Whose a frontend is.
    #[must_use]
    pub fn owner(&self, key: &ServiceKey) -> Option<&Owner> {
        Some(&self.claims.get(key)?.first()?.owner)
    }

    /// Why it is a frontend.
    #[must_use]
    pub fn kind(&self, key: &ServiceKey) -> Option<FrontendKind> {
        Some(self.claims.get(key)?.first()?.kind)
    }

    /// A service.
    #[must_use]
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name)
    }

    /// How many services and EndpointSlices are known.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.services.len(), self.service_of.len())
    }

    /// Whether an address is a node's: services may be reached there, but it does not belong to them.
    #[must_use]
    pub fn is_node(&self, addr: &Addr) -> bool {
        self.node_addresses.contains(addr)
    }

    /// Whether a service has that health check port with the policy that it is for.
    fn is_checked(service: &Service) -> bool {
        service.kind == ServiceType::LoadBalancer && service.external_local && service.health_check_port != 0
    }

    /// What balancers may ask about, by port. Of two services with one port, which the API does not allow, the first by
    /// name has it.
    #[must_use]
    pub fn health_checks(&self) -> BTreeMap<u16, HealthCheck> {
        let mut checks = BTreeMap::new();
        for name in &self.checked {
            let Some(service) = self
                .services
                .get(name)
                .filter(|service| Self::is_checked(service))
            else {
                continue;
            };
            let slices = self
                .slices
                .get(name.as_ref())
                .into_iter()
                .flat_map(BTreeMap::values);
            let endpoints = slices
                .filter(|slice| self.node.families.contains(&slice.family))
                .flat_map(|slice| slice.endpoints.iter());
            let ready =
                endpoints.filter(|endpoint| endpoint.conditions.ready && is_local(endpoint, &self.node));
            let local: BTreeSet<Addr> = ready.map(|endpoint| endpoint.addr).collect();
            checks
                .entry(service.health_check_port)
                .or_insert_with(|| HealthCheck {
                    service: service.name.clone(),
                    local_endpoints: local.len(),
                });
        }
        checks
    }

    fn name_of(&self, name: &ObjectName) -> Arc<ObjectName> {
        let known = self.services.get_key_value(name);
        known.map_or_else(|| Arc::new(name.clone()), |(known, _)| Arc::clone(known))
    }

    /// Frontends at an address.
    fn at(&self, addr: Addr) -> impl Iterator<Item = ServiceKey> + '_ {
        let first = ServiceKey {
            addr,
            ..ServiceKey::default()
        };
        self.claims
            .range(first..)
            .map(|(key, _)| *key)
            .take_while(move |key| key.addr == addr)
    }

    fn slice(&mut self, slice: EndpointSlice) -> Affected {
        let name = slice.name.clone();
        let service = ObjectName::new(name.namespace.as_str(), &*slice.service);
        let mut affected = Affected::new();
        if self
            .service_of
            .get(&name)
            .is_some_and(|before| **before != *slice.service)
        {
            affected = self.slice_gone(&name);
        }
        self.service_of.insert(name.clone(), Arc::clone(&slice.service));
        let slices = self.slices.entry(service.clone()).or_default();
        if slices.get(&name.name) != Some(&slice) {
            slices.insert(name.name, slice);
            affected.extend(self.keys_of(service));
        }
        affected
    }

    fn slice_gone(&mut self, name: &ObjectName) -> Affected {
        let Some(service) = self.service_of.remove(name) else {
            return Affected::new();
        };
        let service = ObjectName::new(name.namespace.as_str(), &*service);
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.remove(&name.name);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        self.keys_of(service).collect()
    }

    fn keys_of(&self, service: ObjectName) -> impl Iterator<Item = ServiceKey> + '_ {
        let owned = self.owned.get(&Owner::Service(Arc::new(service)));
        owned.into_iter().flatten().map(|(key, _)| *key)
    }

    fn pods(&mut self, pods: Vec<Pod>) -> Affected {
        let with_ports = pods.into_iter().filter(|pod| !pod.host_ports.is_empty());
        let pods: BTreeMap<Arc<ObjectName>, Pod> =
            with_ports.map(|pod| (Arc::new(pod.name.clone()), pod)).collect();
        let before = std::mem::replace(&mut self.pods, pods);
        let names: BTreeSet<Arc<ObjectName>> = before.keys().chain(self.pods.keys()).cloned().collect();
        let changed = names
            .into_iter()
            .filter(|name| before.get(name) != self.pods.get(name));
        let changed: Vec<_> = changed.collect();
        changed
            .into_iter()
            .flat_map(|name| self.claim(Owner::Pod(name)))
            .collect()
    }

    /// Brings the claims of an owner up to date. Returns its frontends, those of before and those of now.
    fn claim(&mut self, owner: Owner) -> Affected {
        let before = self.owned.remove(&owner).unwrap_or_default();
        let mut affected: Affected = before.iter().map(|(key, _)| *key).collect();
        for (key, claim) in before {
            if let Some(claims) = self.claims.get_mut(&key) {
                claims.retain(|other| *other != claim);
                if claims.is_empty() {
                    self.claims.remove(&key);
                }
            }
        }
        let (keys, created) = match &owner {
            Owner::Service(name) => match self.services.get(name) {
                Some(service) => (frontends::keys(service, &self.node), service.created),
                None => return affected,
            },
            Owner::Pod(name) => match self.pods.get(name) {
                Some(pod) => {
                    let frontends = frontends::of_pod(pod, &self.node).into_iter();
                    (frontends.map(|(key, frontend)| (key, frontend.kind)).collect(), 0)
                }
                None => return affected,
            },
        };
        let mut kinds: BTreeMap<ServiceKey, FrontendKind> = BTreeMap::new();
        for (key, kind) in keys {
            let known = kinds.entry(key).or_insert(kind);
            *known = kind.min(*known);
        }
        affected.extend(kinds.keys());
        let mut owned = Vec::with_capacity(kinds.len());
        for (key, kind) in kinds {
            let claim = Claim {
                kind,
                created,
                owner: owner.clone(),
            };
            let claims = self.claims.entry(key).or_default();
            let place = claims.partition_point(|other| *other < claim);
            claims.insert(place, claim.clone());
            owned.push((key, claim));
        }
        if !owned.is_empty() {
            self.owned.insert(owner, owned);
        }
        affected
    }

    /// All frontends of an owner, also those that somebody else has.
    fn frontends(&self, owner: &Owner) -> BTreeMap<ServiceKey, Frontend> {
        let frontends = match owner {
            Owner::Service(name) => {
                let slices = self.slices.get(name.as_ref()).into_iter();
                let slices: Vec<&EndpointSlice> = slices.flat_map(BTreeMap::values).collect();
                let service = self.services.get(name);
                let of = |service| frontends::of_service(service, &slices, &self.node, &self.settings);
                service.map(of).unwrap_or_default()
            }
            Owner::Pod(name) => {
                let pod = self.pods.get(name);
                pod.map(|pod| frontends::of_pod(pod, &self.node))
                    .unwrap_or_default()
            }
        };
        let mut by_key = BTreeMap::new();
        for (key, frontend) in frontends {
            let other: Option<&Frontend> = by_key.get(&key);
            if other.is_none_or(|other| frontend.kind < other.kind) {
                by_key.insert(key, frontend);
            }
        }
        by_key
    }

    /// Families that are on.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        &self.node.families
    }
}
