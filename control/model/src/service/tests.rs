use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use abi::service::member;
use abi::{BackendSet, MemberKey, Service as Entry, ServiceKey};
use proptest::prelude::*;

use super::*;
use crate::addr::to_abi;
use crate::inputs::{
    Conditions, EndpointSlice, Forwarding, Hints, HostPort, ObjectName, Pod, Protocol, Service, ServicePort,
    ServiceType, SlicePort,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn addr(text: &str) -> Addr {
    to_abi(ip(text))
}

fn node() -> ServiceNode {
    ServiceNode {
        name: "here".into(),
        zone: "z1".into(),
        addresses: vec![ip("fc00::2"), ip("::1")],
        families: vec![Family::V6],
    }
}

fn service(name: &str) -> Service {
    Service {
        name: ObjectName::new("default", name),
        cluster_ips: vec![ip("fd00:10:96::10")],
        ports: vec![ServicePort {
            port: 80,
            ..ServicePort::default()
        }],
        ..Service::default()
    }
}

/// `address@node#hints/flags`, all but the address optional. Hints are zones and, after a `!`, nodes; flags: `-` not ready,
/// `t` terminating and serving, `x` terminating and not serving, `rt` terminating and called ready nevertheless.
fn endpoint(text: &str) -> SliceEndpoint {
    let (text, flags) = text.split_once('/').unwrap_or((text, ""));
    let (text, hints) = text.split_once('#').unwrap_or((text, ""));
    let (address, node) = text.split_once('@').unwrap_or((text, "there"));
    let (on_nodes, in_zones) = hints
        .split(',')
        .filter(|h| !h.is_empty())
        .partition::<Vec<_>, _>(|h| h.starts_with('!'));
    let hints = Hints {
        zones: in_zones.iter().map(|zone| Arc::from(*zone)).collect(),
        nodes: on_nodes.iter().map(|node| Arc::from(&node[1..])).collect(),
    };
    SliceEndpoint {
        addr: addr(address),
        node: Some(node.into()),
        hints: (hints != Hints::default()).then(|| Arc::new(hints)),
        conditions: match flags {
            "" => Conditions::READY,
            "-" => Conditions {
                ready: false,
                serving: false,
                terminating: false,
            },
            "t" => Conditions {
                ready: false,
                serving: true,
                terminating: true,
            },
            "x" => Conditions {
                ready: false,
                serving: false,
                terminating: true,
            },
            "rt" => Conditions {
                ready: true,
                serving: true,
                terminating: true,
            },
            other => panic!("{other}"),
        },
    }
}

fn slice(name: &str, service: &str, port: u16, endpoints: &[&str]) -> EndpointSlice {
    EndpointSlice {
        name: ObjectName::new("default", name),
        service: service.into(),
        family: Family::V6,
        ports: vec![SlicePort {
            port,
            ..SlicePort::default()
        }],
        endpoints: endpoints.iter().map(|text| endpoint(text)).collect(),
    }
}

fn index(changes: impl IntoIterator<Item = ServiceChange>) -> ServiceIndex {
    index_with(Settings::default(), changes)
}

fn index_with(settings: Settings, changes: impl IntoIterator<Item = ServiceChange>) -> ServiceIndex {
    let mut index = ServiceIndex::new(settings, node());
    for change in changes {
        index.apply(change);
    }
    index
}

/// What is wanted of frontends, by owner.
fn groups(index: &ServiceIndex, affected: &Affected) -> Vec<Vec<(ServiceKey, Option<Frontend>)>> {
    let owners = index.owners(affected).into_iter();
    owners
        .map(|owner| index.wanted(owner.as_ref(), affected))
        .collect()
}

fn frontends(index: &ServiceIndex) -> BTreeMap<ServiceKey, Frontend> {
    let groups = groups(index, &index.all()).into_iter().flatten();
    groups.map(|(key, frontend)| (key, frontend.unwrap())).collect()
}

fn at(address: &str, port: u16) -> ServiceKey {
    ServiceKey {
        addr: addr(address),
        port: port.to_be_bytes(),
        proto: 6,
        family: 6,
        pad: [0; 4],
    }
}

fn show(targets: &[Target]) -> String {
    let one = |target: &Target| {
        let mark = if target.terminating { "t" } else { "" };
        format!(
            "{}:{}{mark}",
            crate::addr::from_abi(target.addr),
            u16::from_be_bytes(target.port)
        )
    };
    targets.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn endpoints_are_chosen_as_kube_proxy_does() {
    // Endpoints; for the whole cluster; for traffic that stays on the node.
    let rows: [(&[&str], &str, &str); 15] = [
        (&[], "", ""),
        (&["a::1", "a::2@here"], "a::1:8080 a::2:8080", "a::2:8080"),
        (&["a::1/-", "a::2"], "a::2:8080", ""),
        (&["a::1/-", "a::2/x"], "", ""),
        (&["a::1@there/x", "a::2@there"], "a::2:8080", ""),
        (&["a::1@there/t", "a::2@here/-"], "a::1:8080t", ""),
        (&["a::1@here/t", "a::2@there"], "a::2:8080", "a::1:8080t"),
        (&["a::1@here/t", "a::2@here"], "a::2:8080", "a::2:8080"),
        (&["a::1@here/rt"], "a::1:8080", "a::1:8080"),
        (&["a::1@there#z1", "a::2@there#z2"], "a::1:8080", ""),
        (&["a::1@there#z1", "a::2@there#z2,z1"], "a::1:8080 a::2:8080", ""),
        (&["a::1@there#z1", "a::2@there"], "a::1:8080 a::2:8080", ""),
        (&["a::1@there#z3", "a::2@there#z2"], "a::1:8080 a::2:8080", ""),
        (
            &["a::1@there#z1/-", "a::2@there#z1/t", "a::3@there#z2"],
            "a::3:8080",
            "",
        ),
        (
            &["a::1@here#z1,!here", "a::2@there#z1,!there"],
            "a::1:8080",
            "a::1:8080",
        ),
    ];
    for (endpoints, cluster, local) in rows {
        let policy = |internal_local| Service {
            internal_local,
            ..service("web")
        };
        for (internal_local, want) in [(false, cluster), (true, local)] {
            let index = index([
                ServiceChange::Service(policy(internal_local)),
                ServiceChange::Slice(slice("web-1", "web", 8080, endpoints)),
            ]);
            let frontend = &frontends(&index)[&at("fd00:10:96::10", 80)];
            assert_eq!(
                show(&frontend.inside),
                want,
                "{endpoints:?}, local: {internal_local}"
            );
            assert!(frontend.outside.is_empty());
        }
    }
}

#[test]
fn a_service_of_every_kind_has_its_frontends() {
    let balanced = Service {
        kind: ServiceType::LoadBalancer,
        external_ips: vec![ip("2001:db8::7"), ip("192.0.2.1")],
        balancer_ips: vec![ip("2001:db8::8")],
        cluster_ips: vec![ip("fd00:10:96::10"), ip("10.96.0.10")],
        ports: vec![ServicePort {
            port: 80,
            node_port: 30080,
            ..ServicePort::default()
        }],
        external_local: true,
        source_ranges: vec![
            "2001:db8:1::/48".parse().unwrap(),
            "192.0.2.0/24".parse().unwrap(),
        ],
        ..service("web")
    };
    let index = index([
        ServiceChange::Service(balanced.clone()),
        ServiceChange::Slice(slice("web-1", "web", 8080, &["a::1", "a::2@here"])),
    ]);
    let frontends = frontends(&index);
    let outside = Entry::EXTERNAL | Entry::OUTSIDE_LOCAL;
    let rows = [
        (at("fd00:10:96::10", 80), FrontendKind::ClusterIp, 0),
        (
            at("2001:db8::8", 80),
            FrontendKind::LoadBalancer,
            outside | Entry::SOURCE_RANGES,
        ),
        (at("2001:db8::7", 80), FrontendKind::ExternalIp, outside),
        (
            at("::", 30080),
            FrontendKind::NodePort,
            outside | Entry::NODE_PORT,
        ),
    ];
    assert_eq!(frontends.len(), rows.len(), "no IPv4: {frontends:?}");
    for (key, kind, flags) in rows {
        let frontend = &frontends[&key];
        assert_eq!((frontend.kind, frontend.flags), (kind, flags), "{kind:?}");
        assert_eq!(show(&frontend.inside), "a::1:8080 a::2:8080", "{kind:?}");
        let local = if kind == FrontendKind::ClusterIp {
            ""
        } else {
            "a::2:8080"
        };
        assert_eq!(show(&frontend.outside), local, "{kind:?}");
        let ranges = if kind == FrontendKind::LoadBalancer { 1 } else { 0 };
        assert_eq!(frontend.ranges.len(), ranges, "only the family's own");
    }
    for unproxied in [
        Service {
            kind: ServiceType::ExternalName,
            ..balanced.clone()
        },
        Service {
            cluster_ips: Vec::new(),
            ..balanced
        },
    ] {
        assert!(super::frontends::keys(&unproxied, &node()).is_empty());
    }
}

#[test]
fn nobody_anywhere_is_a_refusal_and_somebody_elsewhere_is_none() {
    let local = Service {
        internal_local: true,
        external_local: true,
        external_ips: vec![ip("2001:db8::7")],
        ..service("web")
    };
    for (endpoints, flags) in [
        (&["a::1"][..], [Entry::INSIDE_LOCAL, Entry::OUTSIDE_LOCAL]),
        (&["a::1/-"], [0, 0]),
    ] {
        let index = index([
            ServiceChange::Service(local.clone()),
            ServiceChange::Slice(slice("web-1", "web", 80, endpoints)),
        ]);
        let frontends = frontends(&index);
        let of = |key| frontends[&key].flags & (Entry::INSIDE_LOCAL | Entry::OUTSIDE_LOCAL);
        assert_eq!(
            [of(at("fd00:10:96::10", 80)), of(at("2001:db8::7", 80))],
            flags,
            "{endpoints:?}"
        );
    }
}

#[test]
fn ports_are_matched_by_name_and_protocol() {
    let port = |name: &str, protocol, number| ServicePort {
        name: name.into(),
        protocol,
        port: number,
        node_port: 0,
    };
    let dns = Service {
        ports: vec![
            port("dns", Protocol::Udp, 53),
            port("dns-tcp", Protocol::Tcp, 53),
            port("sctp", Protocol::Sctp, 53),
        ],
        ..service("dns")
    };
    let slice_port = |name: &str, protocol, number| SlicePort {
        name: name.into(),
        protocol,
        port: number,
    };
    // Pods of two versions give the named target port different numbers, in slices of their own.
    let old = EndpointSlice {
        ports: vec![
            slice_port("dns", Protocol::Udp, 53),
            slice_port("dns-tcp", Protocol::Tcp, 53),
        ],
        ..slice("dns-1", "dns", 0, &["a::1"])
    };
    let new = EndpointSlice {
        ports: vec![
            slice_port("dns", Protocol::Udp, 5353),
            slice_port("sctp", Protocol::Udp, 1),
        ],
        ..slice("dns-2", "dns", 0, &["a::2"])
    };
    let index = index(
        [dns]
            .map(ServiceChange::Service)
            .into_iter()
            .chain([old, new].map(ServiceChange::Slice)),
    );
    let frontends = frontends(&index);
    let of = |proto| {
        let key = ServiceKey {
            proto,
            ..at("fd00:10:96::10", 53)
        };
        show(&frontends[&key].inside)
    };
    assert_eq!([of(17), of(6), of(132)], ["a::1:53 a::2:5353", "a::1:53", ""]);
}

#[test]
fn an_endpoint_in_two_slices_is_one() {
    let index = index([
        ServiceChange::Service(service("web")),
        ServiceChange::Slice(slice("web-1", "web", 80, &["a::1/-", "a::2"])),
        ServiceChange::Slice(slice("web-2", "web", 80, &["a::1", "a::2/-"])),
    ]);
    assert_eq!(
        show(&frontends(&index)[&at("fd00:10:96::10", 80)].inside),
        "a::1:80 a::2:80"
    );
}

#[test]
fn host_ports_are_at_the_nodes_addresses() {
    let pod = Pod {
        name: ObjectName::new("default", "web-0"),
        ips: vec![ip("10.0.0.9"), ip("a::9")],
        host_ports: vec![
            HostPort {
                addr: None,
                host_port: 8080,
                port: 80,
                protocol: Protocol::Tcp,
            },
            HostPort {
                addr: Some(ip("fc00::99")),
                host_port: 8081,
                port: 80,
                protocol: Protocol::Tcp,
            },
        ],
        ..Pod::default()
    };
    let mut index = index([ServiceChange::Pods(vec![pod.clone()])]);
    let found = frontends(&index);
    assert_eq!(found.keys().collect::<Vec<_>>(), [&at("fc00::2", 8080)]);
    let frontend = &found[&at("fc00::2", 8080)];
    assert_eq!(frontend.flags, Entry::EXTERNAL | Entry::HOST_PORT);
    assert_eq!(
        (show(&frontend.inside), show(&frontend.outside)),
        ("a::9:80".into(), "a::9:80".into())
    );
    let finished = Pod {
        finished: true,
        ..pod
    };
    assert_eq!(index.apply(ServiceChange::Pods(vec![finished])).len(), 1);
    assert!(frontends(&index).is_empty());
}

#[test]
fn an_address_in_use_cannot_be_taken() {
    let thief = |created| Service {
        external_ips: vec![ip("fd00:10:96::10"), ip("2001:db8::7")],
        cluster_ips: vec![ip("fd00:10:96::66")],
        created,
        ..service("thief")
    };
    let external = Service {
        external_ips: vec![ip("2001:db8::7")],
        created: 5,
        ..service("web")
    };
    for created in [4, 6] {
        let mut index = index([
            ServiceChange::Service(thief(created)),
            ServiceChange::Service(external.clone()),
        ]);
        let owner =
            |index: &ServiceIndex, address| index.owner(&at(address, 80)).unwrap().name().name.clone();
        assert_eq!(
            owner(&index, "fd00:10:96::10"),
            "web",
            "a cluster IP comes before an external IP"
        );
        let older = if created == 4 { "thief" } else { "web" };
        assert_eq!(owner(&index, "2001:db8::7"), older);
        let affected = index.apply(ServiceChange::ServiceGone(external.name.clone()));
        assert!(affected.contains(&at("2001:db8::7", 80)));
        assert_eq!(owner(&index, "2001:db8::7"), "thief", "the next in line");
        assert_eq!(owner(&index, "fd00:10:96::10"), "thief");
    }
}

#[test]
fn forwarding_and_balancing_are_for_outside_clients() {
    let udp = ServicePort {
        name: "u".into(),
        protocol: Protocol::Udp,
        port: 80,
        node_port: 0,
    };
    let mut web = Service {
        external_ips: vec![ip("2001:db8::7")],
        forwarding: Some(Forwarding::Dsr),
        ..service("web")
    };
    web.ports.push(udp);
    let rows = [
        (Mode::Snat, [false, false]),
        (Mode::Dsr, [true, true]),
        (Mode::Hybrid, [true, false]),
        (Mode::Annotation, [true, true]),
    ];
    for (mode, dsr) in rows {
        let settings = Settings {
            maglev: true,
            mode,
            check_source_ranges: true,
        };
        let index = index_with(settings, [ServiceChange::Service(web.clone())]);
        let frontends = frontends(&index);
        let of = |address, proto| {
            frontends[&ServiceKey {
                proto,
                ..at(address, 80)
            }]
                .flags
        };
        assert_eq!(
            [6, 17].map(|proto| of("2001:db8::7", proto) & Entry::DSR != 0),
            dsr,
            "{mode:?}"
        );
        assert!(of("2001:db8::7", 6) & Entry::MAGLEV != 0);
        assert_eq!(of("fd00:10:96::10", 6), 0);
    }
}

#[test]
fn balancers_are_told_of_local_endpoints() {
    let web = Service {
        kind: ServiceType::LoadBalancer,
        external_local: true,
        health_check_port: 32000,
        ..service("web")
    };
    let mut index = index([
        ServiceChange::Service(web.clone()),
        ServiceChange::Slice(slice(
            "web-1",
            "web",
            80,
            &["a::1@here", "a::2@here", "a::3", "a::4@here/-"],
        )),
    ]);
    let check = HealthCheck {
        service: web.name.clone(),
        local_endpoints: 2,
    };
    assert_eq!(index.health_checks(), BTreeMap::from([(32000, check)]));
    index.apply(ServiceChange::Service(Service {
        external_local: false,
        ..web
    }));
    assert!(index.health_checks().is_empty());
}

/// An agent and its kernel.
#[derive(Default)]
struct Machine {
    tables: Tables,
    installed: Installed,
}

impl Machine {
    fn step(&mut self, step: &Step) {
        let tables = &mut self.tables;
        match step.clone() {
            Step::AddSet { id, backends, maglev } => {
                for (slot, backend) in (0..).zip(backends.iter()) {
                    let key = abi::BackendKey { set: id, slot };
                    assert_eq!(
                        tables.backends.insert(key, *backend),
                        None,
                        "a number was used twice"
                    );
                }
                tables.maglev.extend(maglev.then_some(id));
            }
            Step::RemoveSet { id, count, maglev } => {
                for slot in 0..count {
                    assert!(
                        tables
                            .backends
                            .remove(&abi::BackendKey { set: id, slot })
                            .is_some()
                    );
                }
                assert_eq!(tables.maglev.remove(&id), maglev);
            }
            Step::SetMember(key, bits) => drop(tables.members.insert(key, bits)),
            Step::RemoveMember(key) => drop(tables.members.remove(&key)),
            Step::AddRange(bits, key) => drop(tables.ranges.insert((bits, key))),
            Step::RemoveRange(bits, key) => drop(tables.ranges.remove(&(bits, key))),
            Step::SetService(key, service) => drop(tables.services.insert(key, service)),
            Step::RemoveService(key) => drop(tables.services.remove(&key)),
            Step::AddAddress(addr) => drop(tables.addresses.insert(addr)),
            Step::RemoveAddress(addr) => drop(tables.addresses.remove(&addr)),
            Step::RemoveSlot(key) => drop(tables.backends.remove(&key)),
            Step::RemoveMaglev(id) => drop(tables.maglev.remove(&id)),
        }
        self.installed.apply(step);
    }

    /// What a lookup finds: backends for clients inside and outside.
    fn lookup(&self, key: &ServiceKey) -> Option<[Vec<Target>; 2]> {
        let service = self.tables.services.get(key)?;
        let mut found = [service.inside, service.outside].map(|set| self.backends(key, set));
        for (targets, bit) in found.iter_mut().zip([member::INSIDE, member::OUTSIDE]) {
            targets.sort();
            for target in targets
                .iter()
                .filter(|_| key.proto == 17 || service.affinity != 0)
            {
                let member = MemberKey {
                    addr: target.addr,
                    port: target.port,
                    pad: [0; 2],
                    service: service.number,
                };
                let bits = self.tables.members.get(&member).copied().unwrap_or_default();
                assert!(bits & bit != 0, "{target:?} of {key:?} is no member");
            }
        }
        Some(found)
    }

    fn backends(&self, key: &ServiceKey, set: BackendSet) -> Vec<Target> {
        let slot = |slot| self.tables.backends.get(&abi::BackendKey { set: set.id, slot });
        (0..set.count)
            .map(|index| {
                let backend =
                    slot(index).unwrap_or_else(|| panic!("{key:?}: slot {index} of {set:?} is empty"));
                Target {
                    addr: backend.addr,
                    port: backend.port,
                    terminating: backend.flags != 0,
                }
            })
            .collect()
    }

    /// Carries a plan out and checks every state on the way.
    fn follow(&mut self, index: &ServiceIndex, affected: &Affected) -> usize {
        let mut count = 0;
        for group in groups(index, affected) {
            let steps = self.installed.plan(&group, |addr| index.is_node(addr));
            let old: Vec<_> = group.iter().map(|(key, _)| self.lookup(key)).collect();
            for step in &steps {
                self.step(step);
                for ((key, want), old) in group.iter().zip(&old) {
                    let new = want
                        .as_ref()
                        .map(|want| [want.inside.to_vec(), want.outside.to_vec()]);
                    let found = self.lookup(key);
                    assert!(
                        found == *old || found == new,
                        "{key:?} after {step:?} of {steps:?}"
                    );
                }
            }
            count += steps.len();
        }
        count
    }

    fn collect(&mut self) {
        for _ in 0..3 {
            for step in self.installed.collect() {
                self.step(&step);
            }
        }
        assert!(!self.installed.is_waiting());
    }
}

#[test]
fn frontends_of_a_service_share_a_set_that_changes_at_once() {
    let web = Service {
        external_ips: vec![ip("2001:db8::7")],
        affinity: 10,
        ..service("web")
    };
    let settings = Settings {
        maglev: true,
        ..Settings::default()
    };
    let mut index = index_with(settings, []);
    let mut machine = Machine::default();
    let affected = index.apply(ServiceChange::Service(web.clone()));
    machine.follow(&index, &affected);
    assert_eq!(machine.tables.addresses.len(), 2);
    assert!(machine.tables.backends.is_empty(), "no backends, no set");

    let affected = index.apply(ServiceChange::Slice(slice("web-1", "web", 80, &["a::1", "a::2"])));
    machine.follow(&index, &affected);
    assert_eq!(machine.tables.backends.len(), 2, "{:?}", machine.tables);
    assert_eq!(machine.tables.maglev.len(), 1);
    assert_eq!(machine.tables.members.len(), 4);
    let before = machine.tables.services.clone();

    let affected = index.apply(ServiceChange::Slice(slice("web-1", "web", 80, &["a::2", "a::3"])));
    machine.follow(&index, &affected);
    assert_eq!(
        machine.tables.backends.len(),
        4,
        "the old set stays for who is reading it"
    );
    machine.collect();
    assert_eq!(machine.tables.backends.len(), 2);
    assert_eq!(machine.tables.maglev.len(), 1);
    for (key, service) in &machine.tables.services {
        assert_eq!(service.number, before[key].number);
        assert_ne!(service.inside.id, before[key].inside.id);
    }
    let numbers: Vec<u32> = machine
        .tables
        .backends
        .values()
        .map(|backend| backend.number)
        .collect();
    assert_eq!(numbers, [2, 3], "a::2 keeps its number");

    let affected = index.apply(ServiceChange::Slice(slice("web-1", "web", 80, &["a::3", "a::2"])));
    assert_eq!(machine.follow(&index, &affected), 0, "the same in another order");
    let affected = index.apply(ServiceChange::ServiceGone(web.name));
    machine.follow(&index, &affected);
    machine.collect();
    assert_eq!(machine.tables, Tables::default());
}

#[test]
fn an_address_of_a_node_stays_the_nodes() {
    let web = Service {
        external_ips: vec![ip("fc00::3")],
        ..service("web")
    };
    let nodes = |text: &[&str]| ServiceChange::NodeAddresses(text.iter().map(|text| addr(text)).collect());
    let mut index = index([nodes(&["fc00::3"])]);
    let mut machine = Machine::default();
    let affected = index.apply(ServiceChange::Service(web));
    machine.follow(&index, &affected);
    assert_eq!(machine.tables.services.len(), 2);
    assert_eq!(machine.tables.addresses, BTreeSet::from([addr("fd00:10:96::10")]));
    let affected = index.apply(nodes(&[]));
    machine.follow(&index, &affected);
    assert_eq!(machine.tables.addresses.len(), 2, "the node has gone");
    let affected = index.apply(nodes(&["fc00::3"]));
    machine.follow(&index, &affected);
    assert_eq!(machine.tables.addresses.len(), 1);
}

#[test]
fn what_was_left_half_done_is_cleared() {
    let mut index = index([ServiceChange::Service(Service {
        affinity: 5,
        ..service("web")
    })]);
    let mut machine = Machine::default();
    let affected = index.apply(ServiceChange::Slice(slice("web-1", "web", 80, &["a::1", "a::2"])));
    machine.follow(&index, &affected);
    let whole = machine.tables.clone();
    let (member, bits) = whole
        .members
        .iter()
        .next()
        .map(|(key, bits)| (*key, *bits))
        .unwrap();
    let backend = whole.backends.values().next().copied().unwrap();
    let range = abi::SourceRangeKey {
        service: [0, 0, 0, 9],
        addr: [0; 16],
    };
    // A set that lost a slot, a table without a set, members and ranges of nobody.
    machine
        .tables
        .backends
        .remove(&abi::BackendKey { set: 1, slot: 0 });
    machine
        .tables
        .backends
        .insert(abi::BackendKey { set: 7, slot: 0 }, backend);
    machine.tables.maglev.insert(8);
    machine
        .tables
        .members
        .insert(MemberKey { service: 9, ..member }, bits);
    machine.tables.members.remove(&member);
    machine.tables.ranges.insert((40, range));
    let (installed, garbage) = Installed::read(machine.tables.clone());
    machine.installed = installed;
    garbage.iter().for_each(|step| machine.step(step));
    for group in groups(&index, &index.all()) {
        for step in machine.installed.plan(&group, |_| false) {
            machine.step(&step);
        }
    }
    machine.collect();
    assert_eq!(machine.tables, machine.installed.tables());
    assert_eq!(machine.tables.members, whole.members);
    assert_eq!(machine.tables.backends.len(), 2);
    assert!(machine.tables.maglev.is_empty() && machine.tables.ranges.is_empty());
}

/// A random service: number, external IP, policies, affinity, protocol.
fn any_service() -> impl Strategy<Value = Service> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (0u8..4, 0u8..3, 0u8..2, flags, 0i64..3).prop_map(|(name, external, node_port, flags, created)| {
        let (internal_local, external_local, sticky, udp) = flags;
        let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
        let mut service = Service {
            cluster_ips: vec![ip(&format!("fd00:10:96::{name}"))],
            external_ips: vec![ip(&format!("2001:db8::{external}"))],
            kind: ServiceType::LoadBalancer,
            balancer_ips: vec![ip("2001:db8::1")],
            internal_local,
            external_local,
            affinity: u32::from(sticky) * 100,
            source_ranges: if sticky {
                vec!["2001:db8:1::/48".parse().unwrap()]
            } else {
                Vec::new()
            },
            created,
            ..service(&format!("s{name}"))
        };
        for port in &mut service.ports {
            port.protocol = protocol;
            port.node_port = u16::from(node_port) * (30000 + u16::from(name));
        }
        service
    })
}

fn any_slice() -> impl Strategy<Value = EndpointSlice> {
    let endpoint = (0u8..6, 0usize..2, 0usize..5, 0usize..4);
    let endpoints = proptest::collection::vec(endpoint, 0..5);
    (0u8..6, 0u8..4, any::<bool>(), endpoints).prop_map(|(name, service, udp, endpoints)| {
        let texts = endpoints.into_iter().map(|(number, node, flags, hints)| {
            let (node, flags) = (["here", "there"][node], ["", "", "-", "t", "x"][flags]);
            format!(
                "a::{number}@{node}#{}/{flags}",
                ["", "z1", "z2", "z1,!here"][hints]
            )
        });
        let texts: Vec<String> = texts.collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut slice = slice(&format!("slice{name}"), &format!("s{service}"), 80, &texts);
        for port in &mut slice.ports {
            port.protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
        }
        slice
    })
}

#[derive(Clone, Debug)]
enum Action {
    Service(Service),
    ServiceGone(u8),
    Slice(EndpointSlice),
    SliceGone(u8),
    Collect,
    Restart,
}

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => any_service().prop_map(Action::Service),
        1 => (0u8..4).prop_map(Action::ServiceGone),
        6 => any_slice().prop_map(Action::Slice),
        1 => (0u8..6).prop_map(Action::SliceGone),
        1 => Just(Action::Collect),
        1 => Just(Action::Restart),
    ]
}

/// The rules once more, one endpoint after the other.
fn oracle(service: &Service, slices: &BTreeMap<u8, EndpointSlice>, local: bool) -> BTreeSet<Target> {
    let port = &service.ports[0];
    let mut best: BTreeMap<Addr, (bool, bool, bool, bool)> = BTreeMap::new();
    let mut hints_of: BTreeMap<Addr, Option<Arc<Hints>>> = BTreeMap::new();
    let ours = slices
        .values()
        .filter(|slice| *slice.service == *service.name.name);
    // In the order of the slices' names, as the index reads them.
    for endpoint in ours
        .filter(|s| s.ports[0].protocol == port.protocol)
        .flat_map(|s| s.endpoints.iter())
    {
        let c = endpoint.conditions;
        let rank = (
            endpoint.node.as_deref() == Some("here"),
            c.ready,
            c.serving,
            !c.terminating,
        );
        if best.get(&endpoint.addr).is_none_or(|known| rank > *known) {
            best.insert(endpoint.addr, rank);
            hints_of.insert(endpoint.addr, endpoint.hints.clone());
        }
    }
    let target = |addr: &Addr, terminating| Target {
        addr: *addr,
        port: [0, 80],
        terminating,
    };
    best.retain(|_, (here, ..)| *here || !local);
    let ready: Vec<&Addr> = best
        .iter()
        .filter(|(_, (_, ready, ..))| *ready)
        .map(|(addr, _)| addr)
        .collect();
    if ready.is_empty() {
        let last = best
            .iter()
            .filter(|(_, (_, _, serving, alive))| *serving && !alive);
        return last.map(|(addr, _)| target(addr, true)).collect();
    }
    let zones = |addr: &Addr| {
        hints_of[addr]
            .as_ref()
            .map(|h| h.zones.clone())
            .unwrap_or_default()
    };
    let nodes = |addr: &Addr| {
        hints_of[addr]
            .as_ref()
            .map(|h| h.nodes.clone())
            .unwrap_or_default()
    };
    let near = |names: &dyn Fn(&Addr) -> Vec<Arc<str>>, name: &str| -> Vec<&Addr> {
        if local || ready.iter().any(|addr| names(addr).is_empty()) {
            return Vec::new();
        }
        ready
            .iter()
            .copied()
            .filter(|addr| names(addr).iter().any(|n| **n == *name))
            .collect()
    };
    let chosen = [near(&nodes, "here"), near(&zones, "z1"), ready.clone()];
    let chosen = chosen.into_iter().find(|list| !list.is_empty()).unwrap();
    chosen.into_iter().map(|addr| target(addr, false)).collect()
}

proptest! {
    /// After any sequence of changes the tables hold what the rules say, every lookup on the way found the old or the
    /// new backends, and a restart writes nothing.
    #[test]
    fn tables_follow_every_change(actions in proptest::collection::vec(any_action(), 1..40), maglev: bool) {
        let settings = Settings { maglev, ..Settings::default() };
        let mut index = ServiceIndex::new(settings, node());
        let mut machine = Machine::default();
        let (mut services, mut slices) = (BTreeMap::new(), BTreeMap::new());
        for action in actions {
            let affected = match action {
                Action::Service(service) => {
                    services.insert(service.name.clone(), service.clone());
                    index.apply(ServiceChange::Service(service))
                }
                Action::ServiceGone(number) => {
                    let name = ObjectName::new("default", format!("s{number}"));
                    services.remove(&name);
                    index.apply(ServiceChange::ServiceGone(name))
                }
                Action::Slice(slice) => {
                    let number = slice.name.name.as_bytes()[5];
                    slices.insert(number, slice.clone());
                    index.apply(ServiceChange::Slice(slice))
                }
                Action::SliceGone(number) => {
                    slices.remove(&(b'0' + number));
                    index.apply(ServiceChange::SliceGone(ObjectName::new("default", format!("slice{number}"))))
                }
                Action::Collect => {
                    machine.collect();
                    continue;
                }
                Action::Restart => {
                    let (installed, garbage) = Installed::read(machine.tables.clone());
                    prop_assert_eq!(&garbage, &[]);
                    machine.installed = installed;
                    prop_assert_eq!(machine.follow(&index, &index.all()), 0, "a restart writes nothing");
                    continue;
                }
            };
            machine.follow(&index, &affected);
            prop_assert_eq!(&machine.tables, &machine.installed.tables());
        }
        machine.collect();
        prop_assert_eq!(machine.tables.services.keys().copied().collect::<Affected>(), index.all());
        let numbers: BTreeSet<u32> = machine.tables.services.values().map(|service| service.number).collect();
        prop_assert_eq!(numbers.len(), machine.tables.services.len());
        prop_assert!(!numbers.contains(&0));
        let addresses: BTreeSet<Addr> = index.all().iter().map(|key| key.addr).filter(|addr| *addr != Addr::UNSPECIFIED).collect();
        prop_assert_eq!(&machine.tables.addresses, &addresses);
        let mut used = BTreeSet::new();
        let mut members = 0;
        for key in index.all() {
            // Of those who want an address the kind decides, then age, then name.
            let port = |s: &Service| s.ports[0].protocol.number() == key.proto;
            let claims = services.values().filter(|s| port(s)).filter_map(|s| {
                let is = |ips: &[IpAddr]| ips.iter().any(|ip| to_abi(*ip) == key.addr) && key.port == [0, 80];
                let rank = if is(&s.cluster_ips) { 0 } else if is(&s.balancer_ips) { 1 } else if is(&s.external_ips) { 2 } else { 3 };
                let node_port = key.addr == Addr::UNSPECIFIED && key.port == s.ports[0].node_port.to_be_bytes();
                (rank < 3 || node_port).then_some((rank, s.created, &s.name, s))
            });
            let (rank, _, _, owner) = claims.min_by_key(|(rank, created, name, _)| (*rank, *created, (*name).clone())).unwrap();
            let [inside, outside] = machine.lookup(&key).unwrap();
            let set = |targets: Vec<Target>| targets.into_iter().collect::<BTreeSet<_>>();
            prop_assert_eq!(set(inside.clone()), oracle(owner, &slices, rank == 0 && owner.internal_local));
            if rank == 0 {
                prop_assert!(outside.is_empty());
            } else {
                prop_assert_eq!(set(outside.clone()), oracle(owner, &slices, owner.external_local));
            }
            let service = machine.tables.services[&key];
            if key.proto == 17 || service.affinity != 0 {
                let places: BTreeSet<_> = inside.iter().chain(&outside).map(|t| (t.addr, t.port)).collect();
                members += places.len();
            }
            for (set, is_outside) in [(service.inside, false), (service.outside, true)] {
                prop_assert_eq!(set.id == 0, set.count == 0);
                used.extend((0..set.count).map(|slot| abi::BackendKey { set: set.id, slot }));
                if maglev && is_outside && set.count > 0 {
                    prop_assert!(machine.tables.maglev.contains(&set.id));
                }
            }
            let ranges = machine.tables.ranges.iter().filter(|(_, range)| range.service == service.number.to_be_bytes());
            prop_assert_eq!(ranges.count() > 0, service.flags & Entry::SOURCE_RANGES != 0);
        }
        prop_assert_eq!(machine.tables.backends.keys().copied().collect::<BTreeSet<_>>(), used, "nothing is left over");
        prop_assert_eq!(machine.tables.members.len(), members);
    }
}
