//! What the model is told about the cluster: Kubernetes objects reduced to the fields that decide anything.
//!
//! The `k8s` crate makes these from API objects and from nothing else.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::addr::Family;
use crate::identity::Identity;
use crate::labels::Labels;

mod service;

pub use service::{
    Conditions, EndpointSlice, Forwarding, Hints, HostPort, ParseProtocolError, Protocol, Service,
    ServicePort, ServiceType, SliceEndpoint, SlicePort,
};

/// A pod's or another namespaced object's full name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectName {
    /// A namespaced name.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The name of a cluster-scoped object.
    pub fn cluster(name: impl Into<String>) -> Self {
        Self {
            namespace: String::new(),
            name: name.into(),
        }
    }
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// A Kubernetes node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Name.
    pub name: String,
    /// Unique id of the object.
    pub uid: String,
    /// `spec.podCIDRs`, in the order given (the first is the primary family).
    pub pod_cidrs: Vec<IpNet>,
    /// `status.addresses` of type InternalIP.
    pub internal_ips: Vec<IpAddr>,
    /// `status.addresses` of type ExternalIP.
    pub external_ips: Vec<IpAddr>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Keys of the taints.
    pub taints: Vec<String>,
}

/// A named port of a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamedPort {
    /// Name; unique within the pod.
    pub name: String,
    /// Port number, host order.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub name: ObjectName,
    /// Unique id: a pod that is deleted and made again under its name (StatefulSet) is another pod.
    pub uid: String,
    /// Name of the node it is bound to; empty when not scheduled.
    pub node: String,
    /// It shares the node's network namespace and is none of our endpoints.
    pub host_network: bool,
    /// `status.podIPs`.
    pub ips: Vec<IpAddr>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// `spec.serviceAccountName`; empty when not set.
    pub service_account: String,
    /// Named container ports.
    pub named_ports: Vec<NamedPort>,
    /// Container ports with a `hostPort`.
    pub host_ports: Vec<HostPort>,
    /// It has run to its end (phase Succeeded or Failed): its addresses are no longer in use.
    pub finished: bool,
    /// A deletion timestamp is set.
    pub terminating: bool,
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// What an address of a [`CiliumNode`] is for (`spec.addresses[].type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AddressType {
    /// Name of the host; its `ip` field is no address and is skipped on reading.
    Hostname,
    /// Reachable within the cluster.
    InternalIP,
    /// Reachable from outside.
    ExternalIP,
    /// The address of `cilium_host`: the router of the node's pods.
    CiliumInternalIP,
}

/// A `CiliumNode`: what an agent publishes about its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CiliumNode {
    /// Name, the same as the Kubernetes node's.
    pub name: String,
    /// Unique id of the Kubernetes node that owns it; empty when unknown.
    pub node_uid: String,
    /// `spec.addresses`.
    pub addresses: Vec<(AddressType, IpAddr)>,
    /// `spec.ipam.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// `spec.health`: the health endpoint's addresses.
    pub health_ips: Vec<IpAddr>,
    /// `spec.bootid`.
    pub boot_id: String,
}

impl CiliumNode {
    /// Addresses of one type and family, in the order published.
    pub fn addresses_of(&self, kind: AddressType, family: Family) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses
            .iter()
            .filter(move |(k, ip)| *k == kind && Family::of(*ip) == family)
            .map(|(_, ip)| *ip)
    }

    /// The address under which other nodes reach it: the first internal one, else the first external one.
    #[must_use]
    pub fn node_ip(&self, family: Family) -> Option<IpAddr> {
        let internal = self.addresses_of(AddressType::InternalIP, family).next();
        internal.or_else(|| self.addresses_of(AddressType::ExternalIP, family).next())
    }

    /// The router address of its pods.
    #[must_use]
    pub fn router_ip(&self, family: Family) -> Option<IpAddr> {
        self.addresses_of(AddressType::CiliumInternalIP, family).next()
    }
}

/// A `CiliumEndpoint` of any node: what an agent publishes about a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CiliumEndpoint {
    /// Namespace and name of the pod.
    pub name: ObjectName,
    /// Unique id of the owning pod; empty when there is no owner reference.
    pub pod_uid: String,
    /// `status.id`: local endpoint number on its node; 0 when not set.
    pub id: u16,
    /// `status.identity.id`; `None` while it waits for one.
    pub identity: Option<Identity>,
    /// `status.identity.labels`.
    pub labels: Labels,
    /// `status.networking.addressing`.
    pub addresses: Vec<IpAddr>,
    /// `status.networking.node`: address of the hosting node.
    pub node_ip: Option<IpAddr>,
    /// `status.state`, as published.
    pub state: String,
    /// `status.named-ports`.
    pub named_ports: Vec<NamedPort>,
}

/// A `CiliumIdentity`: a number and the label set that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CiliumIdentity {
    /// The number; it is the object's name.
    pub identity: Identity,
    /// `security-labels`.
    pub labels: Labels,
    /// Seconds since the Unix epoch when the object was created; 0 when unknown.
    pub created: i64,
}
