use proptest::prelude::*;

use super::*;
use crate::addr::Mac;
use crate::endpoint::EndpointId;
use crate::inputs::ObjectName;
use crate::labels::Labels;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn addr(text: &str) -> Addr {
    to_abi(ip(text))
}

fn local() -> LocalNode {
    LocalNode {
        name: "kind-control-plane".into(),
        addresses: vec![
            ip("fc00:f853:ccd:e793::2"),
            ip("fe80::1"),
            ip("::1"),
            ip("172.18.0.2"),
        ],
        routers: vec![ip("fd00:10:244::1234")],
        pod_cidrs: vec![net("fd00:10:244::/64")],
        on_link: vec![net("fc00:f853:ccd:e793::/64")],
        direct_routes: true,
        families: vec![Family::V6],
    }
}

fn node(name: &str, ip_text: &str, cidr: &str) -> CiliumNode {
    CiliumNode {
        name: name.into(),
        addresses: vec![(AddressType::InternalIP, ip(ip_text))],
        pod_cidrs: vec![net(cidr)],
        ..CiliumNode::default()
    }
}

fn worker() -> CiliumNode {
    let mut worker = node("kind-worker", "fc00:f853:ccd:e793::3", "fd00:10:244:1::/64");
    worker
        .addresses
        .push((AddressType::CiliumInternalIP, ip("fd00:10:244:1::99")));
    worker
}

fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        id: EndpointId(7),
        state: EndpointState::Ready,
        container_id: "c1".into(),
        ifname: "eth0".into(),
        netns: "/run/netns/x".into(),
        pod: ObjectName::new("default", "client"),
        pod_uid: "u1".into(),
        addresses: vec![ip(address)],
        host_ifname: "lxc1".into(),
        host_ifindex: 12,
        mac: Mac([2, 0, 0, 0, 0, 1]),
        host_mac: Mac([2, 0, 0, 0, 0, 2]),
        mtu: 1500,
        labels: Labels::default(),
        identity: Identity(300),
        named_ports: Vec::new(),
        service_account: String::new(),
    }
}

fn published(address: &str, node_ip: Option<&str>, identity: Option<u32>) -> CiliumEndpoint {
    CiliumEndpoint {
        name: ObjectName::new("default", "server"),
        addresses: vec![ip(address)],
        node_ip: node_ip.map(ip),
        identity: identity.map(Identity),
        ..CiliumEndpoint::default()
    }
}

#[test]
fn a_cluster_of_two_nodes() {
    let endpoints = [endpoint("fd00:10:244::6321")];
    let nodes = [
        worker(),
        node("kind-control-plane", "fc00:f853:ccd:e793::2", "fd00:10:244::/64"),
    ];
    let ceps = [
        published("fd00:10:244:1::7c58", Some("fc00:f853:ccd:e793::3"), Some(301)),
        published("fd00:10:244::6321", Some("fc00:f853:ccd:e793::2"), Some(999)),
    ];
    let desired = desired(&local(), endpoints.iter(), nodes.iter(), ceps.iter());

    let peer = |identity, node| Peer {
        identity,
        flags: 0,
        node,
    };
    let here = Addr::UNSPECIFIED;
    let node = |identity| Peer {
        flags: Peer::NODE,
        ..peer(identity, here)
    };
    let ipcache = BTreeMap::from([
        (addr("fc00:f853:ccd:e793::2"), node(1)),
        (addr("fd00:10:244::1234"), node(1)),
        (addr("fc00:f853:ccd:e793::3"), node(6)),
        (addr("fd00:10:244:1::99"), node(6)),
        (addr("fd00:10:244::6321"), peer(300, here)),
        (
            addr("fd00:10:244:1::7c58"),
            peer(301, addr("fc00:f853:ccd:e793::3")),
        ),
    ]);
    assert_eq!(desired.ipcache, ipcache);

    assert_eq!(
        desired.endpoints.len(),
        3,
        "the pod, the node and the router; no link-local, loopback or IPv4 one"
    );
    let pod = desired.endpoints[&addr("fd00:10:244::6321")];
    assert_eq!(
        (pod.ifindex, pod.identity, pod.id, pod.flags, pod.mtu),
        (12, 300, 7, 0, 1500)
    );
    assert_eq!((pod.mac, pod.node_mac), ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]));
    assert_eq!(
        desired.endpoints[&addr("fc00:f853:ccd:e793::2")].flags,
        abi::Endpoint::HOST
    );
    let router = desired.endpoints[&addr("fd00:10:244::1234")];
    assert_eq!(
        (router.flags, router.ifindex),
        (abi::Endpoint::HOST | abi::Endpoint::ROUTER, 0)
    );

    assert_eq!(
        desired.routes,
        BTreeMap::from([(net("fd00:10:244:1::/64"), ip("fc00:f853:ccd:e793::3"))])
    );
    assert_eq!(desired.problems, []);
}

#[test]
fn what_becomes_of_published_endpoints() {
    let rows: [(&str, CiliumEndpoint, Option<u32>); 5] = [
        (
            "without identity yet",
            published("fd00:10:244:1::1", Some("fc00:f853:ccd:e793::3"), None),
            Some(5),
        ),
        (
            "without a node",
            published("fd00:10:244:1::1", None, Some(300)),
            None,
        ),
        (
            "our own, of a pod that is gone",
            published("fd00:10:244::1", Some("fc00:f853:ccd:e793::2"), Some(300)),
            None,
        ),
        (
            "claims an address of our block",
            published("fd00:10:244::1", Some("fc00:f853:ccd:e793::3"), Some(300)),
            None,
        ),
        (
            "claims a node's address",
            published("fc00:f853:ccd:e793::3", Some("fc00:f853:ccd:e793::9"), Some(300)),
            Some(6),
        ),
    ];
    for (name, cep, expected) in rows {
        let nodes = [worker()];
        let desired = desired(&local(), [].iter(), nodes.iter(), [cep.clone()].iter());
        let found = desired
            .ipcache
            .get(&to_abi(cep.addresses[0]))
            .map(|peer| peer.identity);
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn endpoints_are_served_from_their_interface_to_their_end() {
    let rows = [
        (EndpointState::Creating, 0, false),
        (EndpointState::Creating, 3, true),
        (EndpointState::WaitingForIdentity, 3, true),
        (EndpointState::Restoring, 3, true),
        (EndpointState::NotReady, 3, true),
        (EndpointState::Disconnecting, 3, false),
        (EndpointState::Disconnected, 3, false),
        (EndpointState::Invalid, 3, false),
    ];
    for (state, host_ifindex, served) in rows {
        let endpoints = [Endpoint {
            state,
            host_ifindex,
            ..endpoint("fd00:10:244::5")
        }];
        let desired = desired(&local(), endpoints.iter(), [].iter(), [].iter());
        assert_eq!(
            desired.endpoints.contains_key(&addr("fd00:10:244::5")),
            served,
            "{state} {host_ifindex}"
        );
        assert_eq!(
            desired.ipcache.contains_key(&addr("fd00:10:244::5")),
            served,
            "{state} {host_ifindex}"
        );
    }
}

type Expected = fn(&RouteProblem) -> bool;

#[test]
fn routes_that_cannot_be() {
    let on_link = "fc00:f853:ccd:e793::9";
    let rows: [(&str, CiliumNode, Expected); 6] = [
        (
            "another segment",
            node("x", "2001:db8::1", "fd00:10:244:5::/64"),
            |p| matches!(p, RouteProblem::NotOnLink { .. }),
        ),
        (
            "no address",
            CiliumNode {
                addresses: Vec::new(),
                ..node("x", on_link, "fd00:10:244:5::/64")
            },
            |p| matches!(p, RouteProblem::NoAddress { .. }),
        ),
        ("our block", node("x", on_link, "fd00:10:244::/64"), |p| {
            matches!(p, RouteProblem::Overlap { .. })
        }),
        ("around our block", node("x", on_link, "fd00::/16"), |p| {
            matches!(p, RouteProblem::Overlap { .. })
        }),
        ("everything", node("x", on_link, "::/0"), |p| {
            matches!(p, RouteProblem::Overlap { .. })
        }),
        (
            "the nodes' network",
            node("x", on_link, "fc00:f853:ccd:e793::/64"),
            |p| matches!(p, RouteProblem::Overlap { .. }),
        ),
    ];
    for (name, other, is_expected) in rows {
        let desired = desired(&local(), [].iter(), [other].iter(), [].iter());
        assert_eq!(desired.routes, BTreeMap::new(), "{name}");
        assert!(
            desired.problems.iter().all(is_expected) && desired.problems.len() == 1,
            "{name}: {:?}",
            desired.problems
        );
    }
    let v4 = node("x", "172.18.0.3", "10.244.1.0/24");
    let found = desired(&local(), [].iter(), [v4].iter(), [].iter());
    assert_eq!(
        (found.routes.len(), found.problems.len()),
        (0, 0),
        "a family that is off is no problem"
    );
    let off = LocalNode {
        direct_routes: false,
        ..local()
    };
    assert_eq!(
        desired(&off, [].iter(), [worker()].iter(), [].iter()).routes,
        BTreeMap::new()
    );
}

#[test]
fn two_claims_to_one_block_do_not_depend_on_the_order() {
    let (a, b) = (
        worker(),
        node("kind-worker2", "fc00:f853:ccd:e793::4", "fd00:10:244:1::/64"),
    );
    let one = desired(&local(), [].iter(), [a.clone(), b.clone()].iter(), [].iter());
    let other = desired(&local(), [].iter(), [b, a].iter(), [].iter());
    assert_eq!(one, other);
    assert_eq!(
        one.routes[&net("fd00:10:244:1::/64")],
        ip("fc00:f853:ccd:e793::3")
    );
    assert_eq!(one.problems.len(), 1);
}

proptest! {
    #[test]
    fn a_diff_leads_where_it_should_and_nowhere_else(
        have in proptest::collection::btree_map(0u8..20, 0u8..4, 0..20),
        want in proptest::collection::btree_map(0u8..20, 0u8..4, 0..20),
    ) {
        let step = diff(&have, &want);
        let mut table = have.clone();
        step.apply(&mut table);
        prop_assert_eq!(&table, &want);
        prop_assert!(diff(&table, &want).is_empty());
        // Nothing that is right already is touched.
        for (key, value) in &step.upsert {
            prop_assert_ne!(have.get(key), Some(value));
        }
        for key in &step.remove {
            prop_assert!(have.contains_key(key) && !want.contains_key(key));
        }
    }

    #[test]
    fn no_route_ever_covers_a_node_or_our_pods(
        others in proptest::collection::vec((0u16..6, any::<[u8; 16]>(), 0u8..=128, any::<bool>()), 0..8),
    ) {
        let nodes: Vec<CiliumNode> = others
            .iter()
            .map(|(number, base, prefix, near)| {
                // Half of the CIDRs near our own ones, so that they overlap often.
                let base = if *near { u128::from_be_bytes(*base) >> 64 | 0xfd00_0010_0244_0000 << 64 } else { u128::from_be_bytes(*base) };
                let cidr = IpNet::new(IpAddr::V6(std::net::Ipv6Addr::from_bits(base)), *prefix).unwrap();
                node(&format!("n{number}"), &format!("fc00:f853:ccd:e793::{}", number + 3), &cidr.to_string())
            })
            .collect();
        let local = local();
        let desired = desired(&local, [].iter(), nodes.iter(), [].iter());
        let routes: Vec<&IpNet> = desired.routes.keys().collect();
        for (index, cidr) in routes.iter().enumerate() {
            prop_assert!(!local.addresses.iter().any(|addr| cidr.contains(addr)));
            prop_assert!(!nodes.iter().filter_map(|n| n.node_ip(Family::V6)).any(|addr| cidr.contains(&addr)));
            for other in local.pod_cidrs.iter().chain(routes.iter().skip(index + 1).copied()) {
                prop_assert!(!cidr.contains(other) && !other.contains(*cidr));
            }
        }
    }
}
