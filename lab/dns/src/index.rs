//! What the cluster has that gets a name: services, their endpoints, namespaces and pods, kept ready for questions.
//! Pure; whoever watches the cluster puts things in and takes them out, one at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;

use hickory_proto::rr::Name;

/// Namespace and name of an object, in lower case as Kubernetes has them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its namespace
    pub namespace: String,
    /// Its name
    pub name: String,
}

impl Key {
    /// Both parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// What stands behind a service's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// Its own addresses, at least one
    Cluster(Vec<IpAddr>),
    /// Its endpoints (`clusterIP: None`)
    Headless,
    /// Another name (`type: ExternalName`)
    External(Name),
}

/// A named port. Ports without a name have no records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Name
    pub name: String,
    /// Protocol in lower case: `tcp`, `udp`, `sctp`
    pub protocol: String,
    /// Number
    pub number: u16,
}

impl Port {
    /// Whether this is port `name` of `protocol`; both in lower case and without their underscores.
    pub(crate) fn is(&self, name: &str, protocol: &str) -> bool {
        self.name == name && self.protocol == protocol
    }
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name
    pub key: Key,
    /// What its name leads to
    pub backing: Backing,
    /// Its named ports
    pub ports: Vec<Port>,
}

/// A ready endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address
    pub address: IpAddr,
    /// The name that the pod asked for (`hostname` with a `subdomain` that is the service)
    pub hostname: Option<String>,
}

impl Endpoint {
    /// The label of the endpoint below its service: its host name, or else its address with dashes.
    pub(crate) fn label(&self) -> String {
        match &self.hostname {
            Some(hostname) => hostname.clone(),
            None => dashed(self.address),
        }
    }
}

/// The ready endpoints of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Namespace and name of the slice itself
    pub key: Key,
    /// Name of the service
    pub service: String,
    /// Named ports, with their numbers at these endpoints
    pub ports: Vec<Port>,
    /// Those that are ready
    pub endpoints: Vec<Endpoint>,
}

/// Everything, ready for questions.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Index {
    services: HashMap<Key, Service>,
    /// By the slices' own keys
    slices: HashMap<Key, Slice>,
    /// From a service to its slices
    of_service: HashMap<Key, BTreeSet<Key>>,
    /// From an address of a service to the services
    service_addresses: HashMap<IpAddr, BTreeSet<Key>>,
    /// From an address of an endpoint to the slices
    endpoint_addresses: HashMap<IpAddr, BTreeSet<Key>>,
    namespaces: HashSet<String>,
    /// By pod
    pods: HashMap<Key, Vec<IpAddr>>,
    /// From namespace and address to pods
    pod_addresses: HashMap<(String, IpAddr), BTreeSet<Key>>,
}

impl Index {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A service is new or has changed.
    pub fn put_service(&mut self, service: Service) {
        self.remove_service(&service.key);
        if let Backing::Cluster(addresses) = &service.backing {
            for address in addresses {
                link(&mut self.service_addresses, *address, &service.key);
            }
        }
        self.services.insert(service.key.clone(), service);
    }

    /// A service is gone.
    pub fn remove_service(&mut self, key: &Key) {
        if let Some(Service {
            backing: Backing::Cluster(addresses),
            ..
        }) = self.services.remove(key)
        {
            for address in addresses {
                unlink(&mut self.service_addresses, &address, key);
            }
        }
    }

    /// A slice is new or has changed.
    pub fn put_slice(&mut self, slice: Slice) {
        self.remove_slice(&slice.key);
        let service = Key::new(&slice.key.namespace, &slice.service);
        link(&mut self.of_service, service, &slice.key);
        for endpoint in &slice.endpoints {
            link(&mut self.endpoint_addresses, endpoint.address, &slice.key);
        }
        self.slices.insert(slice.key.clone(), slice);
    }

    /// A slice is gone.
    pub fn remove_slice(&mut self, key: &Key) {
        let Some(slice) = self.slices.remove(key) else {
            return;
        };
        unlink(
            &mut self.of_service,
            &Key::new(&key.namespace, slice.service),
            key,
        );
        for endpoint in &slice.endpoints {
            unlink(&mut self.endpoint_addresses, &endpoint.address, key);
        }
    }

    /// A namespace is there.
    pub fn put_namespace(&mut self, name: impl Into<String>) {
        self.namespaces.insert(name.into());
    }

    /// A namespace is gone.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// A pod is new or has changed; one that has ended is put in without addresses.
    pub fn put_pod(&mut self, key: Key, addresses: Vec<IpAddr>) {
        self.remove_pod(&key);
        for address in &addresses {
            link(&mut self.pod_addresses, (key.namespace.clone(), *address), &key);
        }
        self.pods.insert(key, addresses);
    }

    /// A pod is gone.
    pub fn remove_pod(&mut self, key: &Key) {
        for address in self.pods.remove(key).unwrap_or_default() {
            unlink(&mut self.pod_addresses, &(key.namespace.clone(), address), key);
        }
    }

    /// The keys of everything of a kind, to find out what is gone after a new list.
    #[must_use]
    pub fn service_keys(&self) -> Vec<Key> {
        self.services.keys().cloned().collect()
    }

    /// See [`Self::service_keys`].
    #[must_use]
    pub fn slice_keys(&self) -> Vec<Key> {
        self.slices.keys().cloned().collect()
    }

    /// See [`Self::service_keys`]; a namespace has no namespace.
    #[must_use]
    pub fn namespace_keys(&self) -> Vec<Key> {
        self.namespaces.iter().map(|name| Key::new("", name)).collect()
    }

    /// See [`Self::service_keys`].
    #[must_use]
    pub fn pod_keys(&self) -> Vec<Key> {
        self.pods.keys().cloned().collect()
    }

    pub(crate) fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.get(&Key::new(namespace, name))
    }

    /// The slices of a service, in the order of their names, so that answers do not depend on hashing.
    pub(crate) fn slices(&self, service: &Key) -> impl Iterator<Item = &Slice> {
        let keys = self.of_service.get(service).into_iter().flatten();
        keys.filter_map(|key| self.slices.get(key))
    }

    pub(crate) fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    pub(crate) fn has_pod(&self, namespace: &str, address: IpAddr) -> bool {
        self.pod_addresses.contains_key(&(namespace.to_owned(), address))
    }

    /// The services that have an address of their own, this one.
    pub(crate) fn services_at(&self, address: IpAddr) -> impl Iterator<Item = &Key> {
        self.service_addresses.get(&address).into_iter().flatten()
    }

    /// The endpoints at an address: the service's key and the endpoint's label. Each once.
    pub(crate) fn endpoints_at(&self, address: IpAddr) -> BTreeSet<(Key, String)> {
        let keys = self.endpoint_addresses.get(&address).into_iter().flatten();
        keys.filter_map(|key| self.slices.get(key))
            .flat_map(|slice| {
                let at_address = slice
                    .endpoints
                    .iter()
                    .filter(move |endpoint| endpoint.address == address);
                at_address.map(|endpoint| (Key::new(&slice.key.namespace, &slice.service), endpoint.label()))
            })
            // An endpoint of no service has no name.
            .filter(|(key, _)| self.services.contains_key(key))
            .collect()
    }

    /// How many services and slices there are.
    #[must_use]
    pub fn sizes(&self) -> BTreeMap<&'static str, usize> {
        [
            ("services", self.services.len()),
            ("endpointslices", self.slices.len()),
            ("namespaces", self.namespaces.len()),
            ("pods", self.pods.len()),
        ]
        .into()
    }
}

/// An address as one label: `fd00::1` is `fd00--1`.
pub(crate) fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// The address that a label stands for.
pub(crate) fn undashed(label: &str) -> Option<IpAddr> {
    let dotted = label.replace('-', ".").parse().map(IpAddr::V4);
    dotted
        .or_else(|_| label.replace('-', ":").parse().map(IpAddr::V6))
        .ok()
}

fn link<K: Eq + Hash>(map: &mut HashMap<K, BTreeSet<Key>>, from: K, to: &Key) {
    map.entry(from).or_default().insert(to.clone());
}

fn unlink<K: Eq + Hash>(map: &mut HashMap<K, BTreeSet<Key>>, from: &K, to: &Key) {
    if let Some(targets) = map.get_mut(from) {
        targets.remove(to);
        if targets.is_empty() {
            map.remove(from);
        }
    }
}
