//! Services: from what Kubernetes says of them to what the kernel's tables hold.
//!
//! # How a Service becomes table entries
//!
//! 1. **Frontends** (`frontends`). Every pair of an address and a port where the service is reached is one entry of
//!    [`abi::names::SERVICES`]: each cluster IP, external IP and balancer IP with each port, and each node port once per
//!    family, under the unspecified address. A pod of this node with a host port is a frontend at every address of the
//!    node. Headless services and external names have none. When two claim one key, the kind decides, then age, then
//!    name ([`ServiceIndex`]): nobody can take away an address that is in use.
//! 2. **Backends** (`select`). EndpointSlices name ports like the service does, so that named target ports need
//!    no further look at pods. Of the endpoints of a port the rules of kube-proxy choose two lists: for clients inside
//!    the cluster and for those outside. Ready ones count; if there is none, those that are terminating and still serve
//!    (KEP-1669); hints keep traffic in the zone or on the node when all ready endpoints have some and one leads here. A
//!    `Local` policy leaves only this node's endpoints: of the internal policy for the cluster IP, of the external policy
//!    for outside clients of all other addresses (clients inside then use the whole cluster, as with kube-proxy).
//!    `publishNotReadyAddresses` needs nothing here: the slices call such endpoints ready.
//! 3. **Sets.** Each list becomes a set in [`abi::names::BACKENDS`], shared by all frontends of the service that have the
//!    same list, and, where outside clients are balanced by Maglev, a table in [`abi::names::MAGLEV`] that depends on
//!    addresses and ports alone ([`maglev`]). An empty list is no set: count 0, refused, or dropped where a `Local` policy
//!    sends clients elsewhere and some other node has an endpoint.
//! 4. **Members.** For UDP, and for services with client affinity, [`abi::names::MEMBERS`] says which backends still
//!    belong to a frontend; [`abi::names::SOURCE_RANGES`] who may come from outside.
//! 5. **Addresses.** Every address that is a service's, and no node's, gets an entry with [`abi::Endpoint::SERVICE`]:
//!    packets to it never leave the node untranslated.
//!
//! # How tables change
//!
//! [`ServiceIndex::apply`] says which frontends a change concerns, and nothing else is looked at again: a change costs
//! the same with ten services as with ten thousand. [`Installed::plan`] compares them with what the tables hold and
//! orders the writes: a new set first, whole; what members and ranges gain; then each frontend in one update; then what
//! members and ranges lose. The old set goes last, one or two calls of [`Installed::collect`] later, when no program can
//! be reading it any more. At every point a lookup finds the old backends or the new ones. Where nothing differs but order
//! and numbers nothing is written: after a restart [`Installed::read`] takes both over from the kernel.

use std::net::IpAddr;
use std::sync::Arc;

use abi::Addr;
use ipnet::IpNet;

use crate::addr::Family;
use crate::inputs::SliceEndpoint;

mod frontends;
mod index;
mod installed;
pub mod maglev;
mod plan;
mod select;

pub use index::{Affected, HealthCheck, Owner, ServiceChange, ServiceIndex};
pub use installed::{Installed, Tables};
pub use plan::Step;

/// How packets of outside clients reach backends on other nodes (`bpf-lb-mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// With the address of the node that took them.
    #[default]
    Snat,
    /// With the client's address.
    Dsr,
    /// TCP with the client's address, the rest without.
    Hybrid,
    /// As the service's annotation says; without one as [`Mode::Snat`].
    Annotation,
}

/// What the configuration says about all services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Outside clients are balanced by Maglev (`bpf-lb-algorithm`).
    pub maglev: bool,
    /// `bpf-lb-mode`.
    pub mode: Mode,
    /// `loadBalancerSourceRanges` count (`enable-svc-source-range-check`).
    pub check_source_ranges: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            maglev: false,
            mode: Mode::Snat,
            check_source_ranges: true,
        }
    }
}

/// What a service has to know of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceNode {
    /// Name.
    pub name: String,
    /// Label `topology.kubernetes.io/zone`; empty when not set.
    pub zone: String,
    /// Addresses under which host ports are reached.
    pub addresses: Vec<IpAddr>,
    /// Families that are on; services of others are ignored.
    pub families: Vec<Family>,
}

fn is_local(endpoint: &SliceEndpoint, node: &ServiceNode) -> bool {
    endpoint.node.as_deref().is_some_and(|name| name == node.name)
}

/// Why an address and port are a frontend. In case of conflict the first kind has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `status.loadBalancer`.
    LoadBalancer,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `spec.ports[].nodePort`.
    NodePort,
    /// A container's `hostPort`.
    HostPort,
}

impl FrontendKind {
    /// As `cilium-dbg service list` prints it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalIp => "ExternalIPs",
            Self::NodePort => "NodePort",
            Self::HostPort => "HostPort",
        }
    }
}

/// A backend without its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Address.
    pub addr: Addr,
    /// Port, network order.
    pub port: [u8; 2],
    /// Chosen though it is not ready, since it still serves.
    pub terminating: bool,
}

/// What is wanted behind an address and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Why it is there.
    pub kind: FrontendKind,
    /// For clients of the cluster, sorted.
    pub inside: Arc<[Target]>,
    /// For all others, sorted.
    pub outside: Arc<[Target]>,
    /// Seconds that a client keeps its backend; 0: not at all.
    pub affinity: u32,
    /// Flags of [`abi::Service`].
    pub flags: u32,
    /// Who may come from outside, with [`abi::Service::SOURCE_RANGES`].
    pub ranges: Vec<IpNet>,
}

#[cfg(test)]
mod tests;
