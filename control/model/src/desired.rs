//! What the kernel's tables and routes should hold, given what is known of the cluster; and the difference to what
//! they do hold.

use std::collections::BTreeMap;
use std::net::IpAddr;

use abi::{Addr, Peer};
use ipnet::IpNet;

use crate::addr::{Family, to_abi};
use crate::endpoint::{Endpoint, EndpointState};
use crate::identity::Identity;
use crate::inputs::{AddressType, CiliumEndpoint, CiliumNode};

/// What the node knows of itself.
#[derive(Clone, Debug, Default)]
pub struct LocalNode {
    /// Name of the node.
    pub name: String,
    /// Addresses of its devices, without the router's. Loopback, link-local and multicast ones are ignored.
    pub addresses: Vec<IpAddr>,
    /// Router addresses (`cilium_host`).
    pub routers: Vec<IpAddr>,
    /// Its own pod CIDRs.
    pub pod_cidrs: Vec<IpNet>,
    /// Prefixes that are directly reachable through a native device (same L2).
    pub on_link: Vec<IpNet>,
    /// Whether direct routes to the pods of other nodes are wanted (`auto-direct-node-routes`).
    pub direct_routes: bool,
    /// Families that are on.
    pub families: Vec<Family>,
}

/// A direct route that is wanted but cannot be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum RouteProblem {
    /// The node publishes no address of the CIDR's family.
    #[error("node {node} has no {family} address to route {cidr} to")]
    NoAddress {
        /// The other node.
        node: String,
        /// Its pod CIDR.
        cidr: IpNet,
        /// The family.
        family: Family,
    },
    /// The node is not on the same L2 segment.
    #[error("node {node} ({addr}) is not directly reachable: no direct route for {cidr}")]
    NotOnLink {
        /// The other node.
        node: String,
        /// Its address.
        addr: IpAddr,
        /// Its pod CIDR.
        cidr: IpNet,
    },
    /// The CIDR is (partly) this node's, another node's, or contains a node address: the route would cut it off.
    #[error("node {node} claims {cidr}, which overlaps {other}")]
    Overlap {
        /// The other node.
        node: String,
        /// Its pod CIDR.
        cidr: IpNet,
        /// What it overlaps.
        other: IpNet,
    },
}

/// Everything the kernel should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// [`abi::names::IPCACHE`].
    pub ipcache: BTreeMap<Addr, Peer>,
    /// [`abi::names::ENDPOINTS`].
    pub endpoints: BTreeMap<Addr, abi::Endpoint>,
    /// Direct routes: pod CIDR of another node, and the node's address.
    pub routes: BTreeMap<IpNet, IpAddr>,
    /// Why some route is missing, sorted.
    pub problems: Vec<RouteProblem>,
}

/// Computes everything the kernel should hold.
///
/// `published` may contain this node's own `CiliumEndpoint`s; what the node knows itself counts, not what it published.
#[must_use]
pub fn desired<'a>(
    local: &LocalNode,
    endpoints: impl Iterator<Item = &'a Endpoint> + Clone,
    nodes: impl Iterator<Item = &'a CiliumNode> + Clone,
    published: impl Iterator<Item = &'a CiliumEndpoint>,
) -> Desired {
    let (routes, problems) = routes(local, nodes.clone());
    Desired {
        ipcache: ipcache(local, endpoints.clone(), nodes, published),
        endpoints: local_endpoints(local, endpoints),
        routes,
        problems,
    }
}

/// The identity of every known address. Of several claims to one address the nearest counts: this node's endpoints,
/// this node, other nodes, other nodes' endpoints.
fn ipcache<'a>(
    local: &LocalNode,
    endpoints: impl Iterator<Item = &'a Endpoint>,
    nodes: impl Iterator<Item = &'a CiliumNode>,
    published: impl Iterator<Item = &'a CiliumEndpoint>,
) -> BTreeMap<Addr, Peer> {
    let peer = |identity: Identity, node: Addr| Peer {
        identity: identity.0,
        flags: 0,
        node,
    };
    let node_peer = |identity: Identity| Peer {
        flags: Peer::NODE,
        ..peer(identity, Addr::UNSPECIFIED)
    };
    let own: Vec<IpAddr> = local.addresses.iter().chain(&local.routers).copied().collect();
    let mut cache = BTreeMap::new();

    for endpoint in published {
        // Without the address of its node a packet could not be sent there anyway.
        let Some(node_ip) = endpoint.node_ip.filter(|ip| !own.contains(ip)) else {
            continue;
        };
        let identity = endpoint.identity.unwrap_or(Identity::INIT);
        for addr in usable(&endpoint.addresses, local) {
            if !local.pod_cidrs.iter().any(|cidr| cidr.contains(&addr)) {
                cache.insert(to_abi(addr), peer(identity, to_abi(node_ip)));
            }
        }
    }
    for node in nodes.filter(|node| node.name != local.name) {
        let addresses: Vec<IpAddr> = node
            .addresses
            .iter()
            .filter(|(kind, _)| *kind != AddressType::Hostname)
            .map(|(_, addr)| *addr)
            .collect();
        for addr in usable(&addresses, local) {
            cache.insert(to_abi(addr), node_peer(Identity::REMOTE_NODE));
        }
        let node_ip = |addr| node.node_ip(Family::of(addr)).map_or(Addr::UNSPECIFIED, to_abi);
        for addr in usable(&node.health_ips, local) {
            cache.insert(to_abi(addr), peer(Identity::HEALTH, node_ip(addr)));
        }
    }
    for addr in usable(&own, local) {
        cache.insert(to_abi(addr), node_peer(Identity::HOST));
    }
    for endpoint in endpoints.filter(|endpoint| is_served(endpoint)) {
        for addr in usable(&endpoint.addresses, local) {
            cache.insert(to_abi(addr), peer(endpoint.identity, Addr::UNSPECIFIED));
        }
    }
    cache
}

fn local_endpoints<'a>(
    local: &LocalNode,
    endpoints: impl Iterator<Item = &'a Endpoint>,
) -> BTreeMap<Addr, abi::Endpoint> {
    let host = |flags| abi::Endpoint {
        identity: Identity::HOST.0,
        flags,
        ..abi::Endpoint::default()
    };
    let mut table = BTreeMap::new();
    for endpoint in endpoints.filter(|endpoint| is_served(endpoint)) {
        let value = abi::Endpoint {
            ifindex: endpoint.host_ifindex,
            identity: endpoint.identity.0,
            id: endpoint.id.0,
            flags: 0,
            mtu: endpoint.mtu,
            mac: endpoint.mac.0,
            node_mac: endpoint.host_mac.0,
            pad: [0; 4],
        };
        table.extend(usable(&endpoint.addresses, local).map(|addr| (to_abi(addr), value)));
    }
    table.extend(usable(&local.addresses, local).map(|addr| (to_abi(addr), host(abi::Endpoint::HOST))));
    let router = abi::Endpoint::HOST | abi::Endpoint::ROUTER;
    table.extend(usable(&local.routers, local).map(|addr| (to_abi(addr), host(router))));
    table
}

fn routes<'a>(
    local: &LocalNode,
    nodes: impl Iterator<Item = &'a CiliumNode>,
) -> (BTreeMap<IpNet, IpAddr>, Vec<RouteProblem>) {
    let mut routes = BTreeMap::new();
    let mut problems = Vec::new();
    if !local.direct_routes {
        return (routes, problems);
    }
    // By name, so that the outcome does not depend on the order of arrival.
    let mut nodes: Vec<&CiliumNode> = nodes.filter(|node| node.name != local.name).collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let node_addresses: Vec<IpAddr> = local
        .addresses
        .iter()
        .copied()
        .chain(nodes.iter().flat_map(|node| {
            [Family::V4, Family::V6]
                .into_iter()
                .filter_map(|f| node.node_ip(f))
        }))
        .collect();

    for node in nodes {
        for cidr in node.pod_cidrs.iter().map(IpNet::trunc) {
            let family = Family::of(cidr.network());
            if !local.families.contains(&family) {
                continue;
            }
            match route(local, node, cidr, family, &routes, &node_addresses) {
                Ok(via) => {
                    routes.insert(cidr, via);
                }
                Err(problem) => problems.push(problem),
            }
        }
    }
    problems.sort();
    problems.dedup();
    (routes, problems)
}

fn route(
    local: &LocalNode,
    node: &CiliumNode,
    cidr: IpNet,
    family: Family,
    routes: &BTreeMap<IpNet, IpAddr>,
    node_addresses: &[IpAddr],
) -> Result<IpAddr, RouteProblem> {
    let overlap = |other| RouteProblem::Overlap {
        node: node.name.clone(),
        cidr,
        other,
    };
    let taken = local
        .pod_cidrs
        .iter()
        .chain(routes.keys())
        .find(|other| other.contains(&cidr) || cidr.contains(*other));
    if let Some(other) = taken {
        return Err(overlap(*other));
    }
    if let Some(addr) = node_addresses.iter().find(|addr| cidr.contains(*addr)) {
        return Err(overlap(IpNet::from(*addr)));
    }
    let Some(addr) = node.node_ip(family) else {
        return Err(RouteProblem::NoAddress {
            node: node.name.clone(),
            cidr,
            family,
        });
    };
    if !local.on_link.iter().any(|prefix| prefix.contains(&addr)) {
        return Err(RouteProblem::NotOnLink {
            node: node.name.clone(),
            addr,
            cidr,
        });
    }
    Ok(addr)
}

/// Whether packets of the endpoint are to be forwarded: from the moment it has an interface until it is taken down.
fn is_served(endpoint: &Endpoint) -> bool {
    let ending = matches!(
        endpoint.state,
        EndpointState::Disconnecting | EndpointState::Disconnected | EndpointState::Invalid
    );
    !ending && endpoint.host_ifindex != 0
}

/// Addresses of families that are on, without those that mean something else on every link.
fn usable<'a>(addresses: &'a [IpAddr], local: &'a LocalNode) -> impl Iterator<Item = IpAddr> + 'a {
    addresses.iter().copied().filter(|addr| {
        let scoped = match addr {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let special = addr.is_loopback() || addr.is_multicast() || addr.is_unspecified() || scoped;
        !special && local.families.contains(&Family::of(*addr))
    })
}

/// What has to be done to a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diff<K, V> {
    /// Entries to add or overwrite. Do these first, so that nothing is missing in between.
    pub upsert: Vec<(K, V)>,
    /// Entries to remove.
    pub remove: Vec<K>,
}

impl<K, V> Diff<K, V> {
    /// Whether nothing has to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.upsert.is_empty() && self.remove.is_empty()
    }
}

impl<K: Ord + Clone, V: Clone> Diff<K, V> {
    /// Does it to a table in memory.
    pub fn apply(&self, table: &mut BTreeMap<K, V>) {
        table.extend(self.upsert.iter().cloned());
        for key in &self.remove {
            table.remove(key);
        }
    }
}

/// What turns `have` into `want`.
#[must_use]
pub fn diff<K: Ord + Clone, V: PartialEq + Clone>(
    have: &BTreeMap<K, V>,
    want: &BTreeMap<K, V>,
) -> Diff<K, V> {
    Diff {
        upsert: want
            .iter()
            .filter(|(key, value)| have.get(*key) != Some(*value))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        remove: have
            .keys()
            .filter(|key| !want.contains_key(*key))
            .cloned()
            .collect(),
    }
}

#[cfg(test)]
mod tests;
