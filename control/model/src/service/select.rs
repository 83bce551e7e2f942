//! Which endpoints of a service take packets: the rules of kube-proxy (`pkg/proxy/topology.go`, Kubernetes 1.33;
//! KEP-1669 for terminating endpoints, KEP-2433 and KEP-3015 for hints).

use std::collections::BTreeMap;

use abi::Addr;

use super::{ServiceNode, Target, is_local};
use crate::inputs::{Conditions, EndpointSlice, ServicePort, SliceEndpoint};

/// The endpoints of a port of a service, by address and port, each one once.
#[derive(Debug, Default)]
pub(super) struct Candidates<'a> {
    endpoints: BTreeMap<(Addr, [u8; 2]), &'a SliceEndpoint>,
}

/// What a hint has to name for an endpoint to be chosen.
#[derive(Clone, Copy)]
enum Topology {
    Anywhere,
    SameZone,
    SameNode,
}

impl<'a> Candidates<'a> {
    /// Collects the endpoints of the slices' ports of that name and protocol. While pods move between slices an
    /// endpoint may be in two of them: then the better one counts.
    pub(super) fn of(
        slices: impl Iterator<Item = &'a EndpointSlice>,
        port: &ServicePort,
        node: &ServiceNode,
    ) -> Self {
        let mut endpoints: BTreeMap<_, &SliceEndpoint> = BTreeMap::new();
        let rank = |endpoint: &SliceEndpoint| {
            let Conditions {
                ready,
                serving,
                terminating,
            } = endpoint.conditions;
            (is_local(endpoint, node), ready, serving, !terminating)
        };
        for slice in slices {
            let named = slice
                .ports
                .iter()
                .filter(|p| p.name == port.name && p.protocol == port.protocol);
            for number in named.map(|port| port.port.to_be_bytes()) {
                for endpoint in &slice.endpoints {
                    let known = endpoints.entry((endpoint.addr, number)).or_insert(endpoint);
                    if rank(endpoint) > rank(known) {
                        *known = endpoint;
                    }
                }
            }
        }
        Self { endpoints }
    }

    /// Whether any of them could take a packet on any node.
    pub(super) fn any_usable(&self) -> bool {
        self.endpoints
            .values()
            .any(|endpoint| endpoint.conditions.ready || is_last_resort(endpoint))
    }

    /// For clients that do not care where the endpoint is: ready ones, near ones where hints say so, and terminating
    /// ones if there is nothing else.
    pub(super) fn cluster(&self, node: &ServiceNode) -> Vec<Target> {
        let topology = self.topology(node);
        let chosen = self.choose(|endpoint| endpoint.conditions.ready && is_near(endpoint, topology, node));
        if chosen.is_empty() {
            self.choose(is_last_resort)
        } else {
            chosen
        }
    }

    /// For traffic that must not leave the node.
    pub(super) fn local(&self, node: &ServiceNode) -> Vec<Target> {
        let chosen = self.choose(|endpoint| endpoint.conditions.ready && is_local(endpoint, node));
        if chosen.is_empty() {
            self.choose(|endpoint| is_last_resort(endpoint) && is_local(endpoint, node))
        } else {
            chosen
        }
    }

    /// Hints count only when every ready endpoint has some, and some of them lead here.
    fn topology(&self, node: &ServiceNode) -> Topology {
        let (mut all_zones, mut all_nodes, mut zone_here, mut node_here) = (true, true, false, false);
        for endpoint in self
            .endpoints
            .values()
            .filter(|endpoint| endpoint.conditions.ready)
        {
            let hints = endpoint.hints.as_deref();
            all_zones &= hints.is_some_and(|hints| !hints.zones.is_empty());
            all_nodes &= hints.is_some_and(|hints| !hints.nodes.is_empty());
            zone_here |= is_near(endpoint, Topology::SameZone, node);
            node_here |= is_near(endpoint, Topology::SameNode, node);
        }
        if all_nodes && node_here {
            Topology::SameNode
        } else if all_zones && zone_here {
            Topology::SameZone
        } else {
            Topology::Anywhere
        }
    }

    fn choose(&self, is_chosen: impl Fn(&SliceEndpoint) -> bool) -> Vec<Target> {
        let chosen = self.endpoints.iter().filter(|(_, endpoint)| is_chosen(endpoint));
        chosen
            .map(|((addr, port), endpoint)| Target {
                addr: *addr,
                port: *port,
                terminating: !endpoint.conditions.ready,
            })
            .collect()
    }
}

fn is_near(endpoint: &SliceEndpoint, topology: Topology, node: &ServiceNode) -> bool {
    let hints = endpoint.hints.as_deref();
    match topology {
        Topology::Anywhere => true,
        Topology::SameZone => hints.is_some_and(|hints| hints.zones.iter().any(|zone| **zone == *node.zone)),
        Topology::SameNode => hints.is_some_and(|hints| hints.nodes.iter().any(|name| **name == *node.name)),
    }
}

/// Not ready any more, but still answering while it ends.
fn is_last_resort(endpoint: &SliceEndpoint) -> bool {
    endpoint.conditions.serving && endpoint.conditions.terminating
}
