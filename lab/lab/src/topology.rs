//! The network of a cluster: which hosts there are, which cables between them, which addresses and routes.
//!
//! ```text
//!   kind-control-plane ─┐
//!   kind-worker ────────┤ switch (bridge) ── router ── outside
//!   kind-worker2 ───────┘  fc00:f853:ccd:e793::/64     2001:db8:1::/64
//! ```
//!
//! Every host is a network namespace; the machine's own one gets nothing. [`Plan`] is computed without looking at the
//! machine; [`build`] does what it says.

use std::net::Ipv6Addr;

use anyhow::Context as _;
use netlink::Sysctls;

use crate::state::{NodeSpec, Spec};

mod apply;

pub(crate) use apply::build;

/// The bridge that the nodes are plugged into.
pub(crate) const SWITCH: &str = "switch";
/// The way out of the node network.
pub(crate) const ROUTER: &str = "router";
/// A host beyond the router: the world, as far as pods are concerned.
pub(crate) const OUTSIDE: &str = "outside";

/// The network of the nodes, as kind numbers its Docker network.
pub(crate) const NODE_NETWORK: (Ipv6Addr, u8) =
    (Ipv6Addr::new(0xfc00, 0xf853, 0xccd, 0xe793, 0, 0, 0, 0), 64);
/// The network beyond the router.
pub(crate) const OUTSIDE_NETWORK: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0), 64);
/// Addresses of pods; every node gets a /64 of it.
pub(crate) const CLUSTER_CIDR: &str = "fd00:10:244::/56";
/// Addresses of services.
pub(crate) const SERVICE_CIDR: &str = "fd00:10:96::/112";
/// The service that pods ask for names, and the domain in which they do; `manifests/dns.yaml` has them, too.
pub(crate) const CLUSTER_DNS: &str = "fd00:10:96::a";
pub(crate) const CLUSTER_DOMAIN: &str = "cluster.local";

/// The address with number `host` in a network.
pub(crate) const fn address_in(network: (Ipv6Addr, u8), host: u16) -> Ipv6Addr {
    let [a, b, c, d, e, f, g, _] = network.0.segments();
    Ipv6Addr::new(a, b, c, d, e, f, g, host)
}

/// The nodes of a cluster, named and numbered as kind does it: `kind-control-plane` ::2, `kind-worker` ::3, `kind-worker2` ::4.
pub(crate) fn plan_nodes(cluster: &str, count: u16) -> Vec<NodeSpec> {
    (0..count)
        .map(|index| NodeSpec {
            name: match index {
                0 => format!("{cluster}-control-plane"),
                1 => format!("{cluster}-worker"),
                n => format!("{cluster}-worker{n}"),
            },
            address: address_in(NODE_NETWORK, index + 2),
        })
        .collect()
}

/// The address of a host that `exec` and `node-ip` know: a node, the router or the outside host.
pub(crate) fn host_address(spec: &Spec, host: &str) -> Option<Ipv6Addr> {
    match host {
        ROUTER => Some(address_in(NODE_NETWORK, 1)),
        OUTSIDE => Some(address_in(OUTSIDE_NETWORK, 2)),
        _ => spec.node(host).map(|node| node.address),
    }
}

/// One end of a cable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    /// The host
    pub(crate) host: String,
    /// The link in it
    pub(crate) link: String,
}

/// A veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cable(pub Port, pub Port);

/// An address of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostAddress {
    /// The host
    pub(crate) host: String,
    /// The link
    pub(crate) link: String,
    /// The address
    pub(crate) address: Ipv6Addr,
    /// Length of the prefix that is on the link
    pub(crate) prefix: u8,
}

/// The whole network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The bridge: its host and its ports
    pub(crate) bridge: Vec<Port>,
    /// The cables
    pub(crate) cables: Vec<Cable>,
    /// The addresses
    pub(crate) addresses: Vec<HostAddress>,
    /// Default routes: host and gateway; the link is `eth0`
    pub(crate) default_routes: Vec<(String, Ipv6Addr)>,
}

/// The bridge device in [`SWITCH`].
pub(crate) const BRIDGE: &str = "br0";
/// The link of every host towards the others.
pub(crate) const UPLINK: &str = "eth0";

impl Plan {
    /// The network for these nodes.
    pub(crate) fn new(nodes: &[NodeSpec]) -> Self {
        let port = |host: &str, link: &str| Port {
            host: host.to_owned(),
            link: link.to_owned(),
        };
        let address = |host: &str, link: &str, address, (_, prefix): (Ipv6Addr, u8)| HostAddress {
            host: host.to_owned(),
            link: link.to_owned(),
            address,
            prefix,
        };
        let gateway = address_in(NODE_NETWORK, 1);
        let outside_gateway = address_in(OUTSIDE_NETWORK, 1);

        let mut plan = Self {
            bridge: vec![port(SWITCH, "port0")],
            cables: vec![
                Cable(port(ROUTER, UPLINK), port(SWITCH, "port0")),
                Cable(port(OUTSIDE, UPLINK), port(ROUTER, "eth1")),
            ],
            addresses: vec![
                address(ROUTER, UPLINK, gateway, NODE_NETWORK),
                address(ROUTER, "eth1", outside_gateway, OUTSIDE_NETWORK),
                address(OUTSIDE, UPLINK, address_in(OUTSIDE_NETWORK, 2), OUTSIDE_NETWORK),
            ],
            default_routes: vec![(OUTSIDE.to_owned(), outside_gateway)],
        };
        for (index, node) in nodes.iter().enumerate() {
            let plug = format!("port{}", index + 1);
            plan.bridge.push(port(SWITCH, &plug));
            plan.cables
                .push(Cable(port(&node.name, UPLINK), port(SWITCH, &plug)));
            plan.addresses
                .push(address(&node.name, UPLINK, node.address, NODE_NETWORK));
            plan.default_routes.push((node.name.clone(), gateway));
        }
        plan
    }
}

/// Settings of every host's network, to be made before it has links. Those that only some hosts need do no harm elsewhere.
///
/// # Errors
/// A setting is refused.
pub(crate) fn set_host_sysctls() -> anyhow::Result<()> {
    let sysctls = Sysctls::default();
    for (name, value) in [
        // Nodes route for their pods, and the router for all.
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/default/forwarding", "1"),
        // Addresses are usable at once: nobody else is on this network who could have the same.
        ("net/ipv6/conf/all/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_ra", "0"),
        ("net/ipv6/conf/all/disable_ipv6", "0"),
        ("net/ipv6/conf/default/disable_ipv6", "0"),
    ] {
        sysctls
            .set(name, value)
            .with_context(|| format!("cannot set {name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_numbered_as_kind_does_it() {
        let nodes = plan_nodes("kind", 4);
        let names: Vec<_> = nodes
            .iter()
            .map(|node| (node.name.as_str(), node.address.to_string()))
            .collect();
        let address = |n: u8| format!("fc00:f853:ccd:e793::{n}");
        assert_eq!(
            names,
            [
                ("kind-control-plane", address(2)),
                ("kind-worker", address(3)),
                ("kind-worker2", address(4)),
                ("kind-worker3", address(5)),
            ]
        );
    }

    #[test]
    fn every_cable_ends_at_ports_that_are_used_once() {
        for count in [1, 2, 64] {
            let plan = Plan::new(&plan_nodes("kind", count));
            let mut ends: Vec<_> = plan.cables.iter().flat_map(|Cable(a, b)| [a, b]).collect();
            let total = ends.len();
            ends.sort_by_key(|port| (&port.host, &port.link));
            ends.dedup();
            assert_eq!(ends.len(), total);
            for port in &plan.bridge {
                assert!(ends.contains(&port), "{port:?} has no cable");
            }
            for HostAddress { host, link, .. } in &plan.addresses {
                assert!(
                    ends.iter().any(|end| &end.host == host && &end.link == link),
                    "{host} has no {link}"
                );
            }
            assert_eq!(plan.default_routes.len(), usize::from(count) + 1);
        }
    }

    #[test]
    fn no_address_twice() {
        let plan = Plan::new(&plan_nodes("kind", 64));
        let mut addresses: Vec<_> = plan.addresses.iter().map(|a| a.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), plan.addresses.len());
    }
}
