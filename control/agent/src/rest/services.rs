//! Lists of services: as they are written, with whose they are; and as they are in the kernel now.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use abi::{Backend, BackendSet, Service as Entry, ServiceKey, SourceRangeKey};
use api::services::{
    BackendAddress, FrontendAddress, LbBackend, LbFrontend, LbRange, LoadBalancer, Service, ServiceFlags,
    ServiceSpec, ServiceStatus,
};
use ipnet::IpNet;
use model::addr::from_abi;
use model::inputs::Protocol;

use crate::agent::Agent;

/// Flags of frontends and their names.
const FLAGS: [(u32, &str); 9] = [
    (Entry::NODE_PORT, "NodePort"),
    (Entry::EXTERNAL, "external"),
    (Entry::OUTSIDE_LOCAL, "Local"),
    (Entry::INSIDE_LOCAL, "InternalLocal"),
    (Entry::SOURCE_RANGES, "check source-range"),
    (Entry::MAGLEV, "maglev"),
    (Entry::DSR, "dsr"),
    (Entry::HOST_PORT, "HostPort"),
    (Entry::TO_STACK, "to-stack"),
];

/// Frontends by number, as the agent has written them.
pub(super) async fn services(agent: &Agent) -> Vec<Service> {
    let state = agent.services.state().await;
    let services = state.installed.services().map(|(key, entry)| {
        let owner = state
            .index
            .owner(key)
            .map(|owner| owner.name().clone())
            .unwrap_or_default();
        let policy = |flag| {
            if entry.flags & flag != 0 {
                "Local"
            } else {
                "Cluster"
            }
            .to_owned()
        };
        let spec = ServiceSpec {
            id: entry.number,
            frontend_address: FrontendAddress {
                ip: address(key).to_string(),
                port: u16::from_be_bytes(key.port),
                protocol: protocol(key.proto),
            },
            backend_addresses: backends(entry, |set| state.installed.backends(set.id)),
            flags: ServiceFlags {
                kind: state
                    .index
                    .kind(key)
                    .map(|kind| kind.as_str().to_owned())
                    .unwrap_or_default(),
                ext_traffic_policy: policy(Entry::OUTSIDE_LOCAL),
                int_traffic_policy: policy(Entry::INSIDE_LOCAL),
                name: owner.name,
                namespace: owner.namespace,
            },
        };
        Service {
            status: ServiceStatus {
                realized: spec.clone(),
            },
            spec,
        }
    });
    let mut services: Vec<Service> = services.collect();
    services.sort_by_key(|service| service.spec.id);
    services
}

fn backends<'a>(entry: &Entry, of: impl Fn(BackendSet) -> &'a [Backend]) -> Vec<BackendAddress> {
    let [inside, outside] = [entry.inside, entry.outside].map(of);
    let is_external = entry.flags & Entry::EXTERNAL != 0;
    let both = |backend: &Backend| {
        [inside, outside]
            .iter()
            .all(|set| set.iter().any(|other| other.number == backend.number))
    };
    let scoped = |scope: &'static str| {
        move |backend: &Backend| BackendAddress {
            ip: from_abi(backend.addr).to_string(),
            port: u16::from_be_bytes(backend.port),
            state: if backend.flags & Backend::TERMINATING == 0 {
                "active"
            } else {
                "terminating"
            }
            .to_owned(),
            scope: if !is_external || both(backend) { "" } else { scope }.to_owned(),
            id: backend.number,
        }
    };
    let only_outside = outside.iter().filter(|backend| !both(backend));
    inside
        .iter()
        .map(scoped("inside"))
        .chain(only_outside.map(scoped("outside")))
        .collect()
}

/// The tables, read from the kernel.
pub(super) fn load_balancer(agent: &Agent) -> anyhow::Result<LoadBalancer> {
    let tables = agent.datapath.services();
    let mut slots: BTreeMap<u32, Vec<LbBackend>> = BTreeMap::new();
    for (key, backend) in tables.backends.dump()? {
        slots.entry(key.set).or_default().push(lb_backend(&backend));
    }
    let services = tables.services.dump()?;
    let of = |set: BackendSet| slots.get(&set.id).cloned().unwrap_or_default();
    let frontends = services.iter().map(|(key, entry)| LbFrontend {
        address: frontend(key),
        id: entry.number,
        flags: FLAGS
            .iter()
            .filter(|(flag, _)| entry.flags & flag != 0)
            .map(|(_, name)| (*name).to_owned())
            .collect(),
        affinity: entry.affinity,
        inside: of(entry.inside),
        outside: if entry.outside == entry.inside {
            Vec::new()
        } else {
            of(entry.outside)
        },
    });
    let by_number: BTreeMap<u32, String> = services.iter().map(|(k, s)| (s.number, frontend(k))).collect();
    let ranges = tables.ranges.dump()?;
    let ranges = ranges.iter().map(|(bits, key)| {
        let id = u32::from_be_bytes(key.service);
        LbRange {
            id,
            address: by_number.get(&id).cloned().unwrap_or_default(),
            cidr: range(*bits, key),
        }
    });
    Ok(LoadBalancer {
        frontends: frontends.collect(),
        source_ranges: ranges.collect(),
        backends: slots
            .values()
            .flatten()
            .cloned()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
    })
}

fn lb_backend(backend: &Backend) -> LbBackend {
    LbBackend {
        id: backend.number,
        address: SocketAddr::from((from_abi(backend.addr), u16::from_be_bytes(backend.port))).to_string(),
        terminating: backend.flags & Backend::TERMINATING != 0,
    }
}

fn address(key: &ServiceKey) -> IpAddr {
    if key.family == 4 && key.addr == abi::Addr::UNSPECIFIED {
        return Ipv4Addr::UNSPECIFIED.into();
    }
    from_abi(key.addr)
}

fn protocol(number: u8) -> String {
    Protocol::of_number(number).map_or_else(|| number.to_string(), |protocol| protocol.to_string())
}

fn frontend(key: &ServiceKey) -> String {
    let place = SocketAddr::from((address(key), u16::from_be_bytes(key.port)));
    format!("{place}/{}", protocol(key.proto))
}

/// The range without the number in front, IPv4 as such.
fn range(bits: u32, key: &SourceRangeKey) -> String {
    let address = from_abi(abi::Addr(key.addr));
    let mapped = if address.is_ipv4() { 96 } else { 0 };
    let length = bits
        .saturating_sub(SourceRangeKey::SERVICE_BITS)
        .saturating_sub(mapped);
    u8::try_from(length)
        .ok()
        .and_then(|length| IpNet::new(address, length).ok())
        .map_or_else(|| format!("{address}/{length}"), |net| net.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_printed_in_their_family() {
        let key = |addr: &str| SourceRangeKey {
            service: [0, 0, 0, 1],
            addr: model::addr::to_abi(addr.parse().expect("an address")).0,
        };
        assert_eq!(range(32 + 48, &key("2001:db8:1::")), "2001:db8:1::/48");
        assert_eq!(range(32 + 96 + 24, &key("192.0.2.0")), "192.0.2.0/24");
    }

    #[test]
    fn a_backend_says_for_whom_it_is() {
        let backend = |number| Backend {
            number,
            ..Backend::default()
        };
        let sets = [vec![], vec![backend(1), backend(2)], vec![backend(2)]];
        let set = |id| BackendSet { id, count: 1 };
        let scopes = |flags| {
            let entry = Entry {
                inside: set(1),
                outside: set(if flags == 0 { 0 } else { 2 }),
                flags,
                ..Entry::default()
            };
            let found = backends(&entry, |set| &sets[set.id as usize]).into_iter();
            found
                .map(|backend| (backend.id, backend.scope))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            scopes(Entry::EXTERNAL),
            [(1, "inside".to_owned()), (2, String::new())]
        );
        assert_eq!(scopes(0), [(1, String::new()), (2, String::new())]);
    }
}
