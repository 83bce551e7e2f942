//! The frontends of one service, or of one pod with host ports.

use std::net::IpAddr;
use std::sync::Arc;

use abi::{Addr, Service as Entry, ServiceKey};
use ipnet::IpNet;

use super::select::Candidates;
use super::{Frontend, FrontendKind, Mode, ServiceNode, Settings, Target};
use crate::addr::{Family, to_abi};
use crate::inputs::{EndpointSlice, Forwarding, Pod, Protocol, Service, ServicePort, ServiceType};

fn key(addr: Addr, port: u16, protocol: Protocol, family: Family) -> ServiceKey {
    ServiceKey {
        addr,
        port: port.to_be_bytes(),
        proto: protocol.number(),
        family: if family == Family::V4 { 4 } else { 6 },
        pad: [0; 4],
    }
}

/// An address that can be a service's: one that means the same everywhere.
fn is_usable(addr: &IpAddr) -> bool {
    !(addr.is_unspecified() || addr.is_loopback() || addr.is_multicast())
}

/// Addresses and kinds under which a service is reached by packets, without node ports.
fn addresses(service: &Service) -> impl Iterator<Item = (IpAddr, FrontendKind)> {
    let external = service
        .external_ips
        .iter()
        .map(|addr| (*addr, FrontendKind::ExternalIp));
    let balanced = service
        .balancer_ips
        .iter()
        .map(|addr| (*addr, FrontendKind::LoadBalancer));
    let balanced = balanced.filter(|_| service.kind == ServiceType::LoadBalancer);
    let cluster = service
        .cluster_ips
        .iter()
        .map(|addr| (*addr, FrontendKind::ClusterIp));
    cluster
        .chain(balanced)
        .chain(external)
        .filter(|(addr, _)| is_usable(addr))
}

/// Whether packets are translated for the service at all: not for names in DNS, nor for headless services.
fn is_proxied(service: &Service) -> bool {
    service.kind != ServiceType::ExternalName && !service.cluster_ips.is_empty()
}

/// Keys of all frontends, in no order, maybe twice.
pub(super) fn keys(service: &Service, node: &ServiceNode) -> Vec<(ServiceKey, FrontendKind)> {
    if !is_proxied(service) {
        return Vec::new();
    }
    let ports = service.ports.iter();
    ports
        .flat_map(|port| {
            let at = addresses(service).map(move |(addr, kind)| {
                (
                    key(to_abi(addr), port.port, port.protocol, Family::of(addr)),
                    kind,
                )
            });
            let families = node.families.iter().filter(|_| port.node_port != 0);
            let of_node = families
                .filter(|family| {
                    service
                        .cluster_ips
                        .iter()
                        .any(|addr| Family::of(*addr) == **family)
                })
                .map(move |family| {
                    let key = key(Addr::UNSPECIFIED, port.node_port, port.protocol, *family);
                    (key, FrontendKind::NodePort)
                });
            at.chain(of_node)
                .filter(|(key, _)| node.families.iter().any(|family| is_of(key, *family)))
        })
        .collect()
}

fn is_of(key: &ServiceKey, family: Family) -> bool {
    (key.family == 4) == (family == Family::V4)
}

/// All frontends with what is behind them.
pub(super) fn of_service(
    service: &Service,
    slices: &[&EndpointSlice],
    node: &ServiceNode,
    settings: &Settings,
) -> Vec<(ServiceKey, Frontend)> {
    let mut frontends = Vec::new();
    let keys = keys(service, node);
    for family in &node.families {
        for port in &service.ports {
            let of_port = |key: &ServiceKey, kind: FrontendKind| {
                let number = if kind == FrontendKind::NodePort {
                    port.node_port
                } else {
                    port.port
                };
                key.port == number.to_be_bytes() && key.proto == port.protocol.number() && is_of(key, *family)
            };
            let wanted = keys.iter().filter(|(key, kind)| of_port(key, *kind));
            let mut behind = None;
            for (key, kind) in wanted {
                let behind = behind
                    .get_or_insert_with(|| Behind::new(service, port, slices.iter().copied(), *family, node));
                frontends.push((*key, frontend(service, key, *kind, behind, settings)));
            }
        }
    }
    frontends
}

/// Backends of a port for each kind of client; those that are alike are one list.
struct Behind {
    cluster: Arc<[Target]>,
    local: Arc<[Target]>,
    any: bool,
}

impl Behind {
    fn new<'a>(
        service: &Service,
        port: &ServicePort,
        slices: impl Iterator<Item = &'a EndpointSlice>,
        family: Family,
        node: &ServiceNode,
    ) -> Self {
        let candidates = Candidates::of(slices.filter(|slice| slice.family == family), port, node);
        let cluster: Arc<[Target]> = candidates.cluster(node).into();
        let mut local = Arc::from([]);
        if service.internal_local || service.external_local {
            let chosen = candidates.local(node);
            local = if *chosen == *cluster {
                Arc::clone(&cluster)
            } else {
                chosen.into()
            };
        }
        Self {
            cluster,
            local,
            any: candidates.any_usable(),
        }
    }
}

fn frontend(
    service: &Service,
    key: &ServiceKey,
    kind: FrontendKind,
    behind: &Behind,
    settings: &Settings,
) -> Frontend {
    // Without an endpoint anywhere clients are refused; dropped packets are for those who should look elsewhere.
    let flag = |on: bool, flag: u32| if on { flag } else { 0 };
    if kind == FrontendKind::ClusterIp {
        let local = service.internal_local;
        return Frontend {
            kind,
            inside: Arc::clone(if local { &behind.local } else { &behind.cluster }),
            outside: Arc::from([]),
            affinity: service.affinity,
            flags: flag(local && behind.any, Entry::INSIDE_LOCAL),
            ranges: Vec::new(),
        };
    }
    let local = service.external_local;
    let ranges: Vec<IpNet> = if kind == FrontendKind::LoadBalancer && settings.check_source_ranges {
        let ranges = service.source_ranges.iter();
        let of_family = ranges.filter(|range| is_of(key, Family::of(range.addr())));
        of_family.map(IpNet::trunc).collect()
    } else {
        Vec::new()
    };
    Frontend {
        kind,
        inside: Arc::clone(&behind.cluster),
        outside: Arc::clone(if local { &behind.local } else { &behind.cluster }),
        affinity: service.affinity,
        flags: Entry::EXTERNAL
            | flag(kind == FrontendKind::NodePort, Entry::NODE_PORT)
            | flag(local && behind.any, Entry::OUTSIDE_LOCAL)
            | flag(!ranges.is_empty(), Entry::SOURCE_RANGES)
            | flag(settings.maglev, Entry::MAGLEV)
            | flag(is_dsr(service, key, settings), Entry::DSR),
        ranges,
    }
}

fn is_dsr(service: &Service, key: &ServiceKey, settings: &Settings) -> bool {
    match settings.mode {
        Mode::Snat => false,
        Mode::Dsr => true,
        Mode::Hybrid => key.proto == Protocol::Tcp.number(),
        Mode::Annotation => service.forwarding == Some(Forwarding::Dsr),
    }
}

/// The host ports of a pod of this node.
pub(super) fn of_pod(pod: &Pod, node: &ServiceNode) -> Vec<(ServiceKey, Frontend)> {
    if pod.finished || pod.host_network {
        return Vec::new();
    }
    let mut frontends = Vec::new();
    for port in &pod.host_ports {
        for family in &node.families {
            // One address per family is all that a pod has.
            let Some(ip) = pod.ips.iter().find(|ip| Family::of(**ip) == *family) else {
                continue;
            };
            let target = Target {
                addr: to_abi(*ip),
                port: port.port.to_be_bytes(),
                terminating: false,
            };
            let targets: Arc<[Target]> = Arc::from([target]);
            let everywhere = node.addresses.iter().copied();
            let at = everywhere.filter(|addr| port.addr.is_none_or(|wanted| wanted == *addr));
            for addr in at.filter(|addr| Family::of(*addr) == *family && is_usable(addr)) {
                let frontend = Frontend {
                    kind: FrontendKind::HostPort,
                    inside: Arc::clone(&targets),
                    outside: Arc::clone(&targets),
                    affinity: 0,
                    flags: Entry::EXTERNAL | Entry::HOST_PORT,
                    ranges: Vec::new(),
                };
                frontends.push((
                    key(to_abi(addr), port.host_port, port.protocol, *family),
                    frontend,
                ));
            }
        }
    }
    frontends
}
