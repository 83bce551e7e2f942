//! Neighbour discovery, answered for the router and the pods.

use abi::{
    Addr, CtKey,
    Direction::Ingress,
    DropReason::{ForbiddenIcmpv6Message, InvalidPacketDropped, InvalidSourceIp, UnknownL3TargetAddress},
};
use packet::{
    icmp6::{self, kind as icmp},
    protocol::ICMPV6,
};

use super::{
    Row, forwarded,
    making::{TO_ENDPOINT, consumes, drops, from_pod_frame, key, row},
    node::{self, NODE_MAC, POD_MAC, host, other, pod, pod_link_local, remote, router},
};
use crate::{Builder, Program, TcAction};

fn solicited_node(target: Addr) -> Addr {
    let [.., a, b, c] = target.0;
    Addr([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

fn solicitation(src: Addr, target: Addr, option: Option<[u8; 8]>) -> Vec<u8> {
    solicitation_to(src, solicited_node(target), target, option)
}

fn solicitation_to(src: Addr, dst: Addr, target: Addr, option: Option<[u8; 8]>) -> Vec<u8> {
    let mut payload = target.0.to_vec();
    payload.extend(option.into_iter().flatten());
    let builder = Builder::new(src, dst, &payload).icmp6(icmp::NEIGHBOUR_SOLICITATION, 0, [0; 4]);
    builder.frame(POD_MAC, icmp6::multicast_mac(&dst), 255)
}

fn advertisement(target: Addr, to: Option<Addr>, flags: u8) -> Vec<u8> {
    let mut payload = target.0.to_vec();
    payload.extend([2, 1]);
    payload.extend(NODE_MAC);
    let dst = to.unwrap_or(icmp6::ALL_NODES);
    let mac = if to.is_some() {
        POD_MAC
    } else {
        icmp6::multicast_mac(&dst)
    };
    Builder::new(target, dst, &payload)
        .icmp6(icmp::NEIGHBOUR_ADVERTISEMENT, 0, [flags, 0, 0, 0])
        .frame(NODE_MAC, mac, 255)
}

pub(super) fn rows() -> Vec<Row> {
    use Program::{FromPod, ToPod};
    let own_mac = Some([1, 1, 2, 0, 0, 0, 0, 0x0a]);
    let answers =
        |name, packet, answer: Vec<u8>| row(name, FromPod, packet, TcAction::Redirect).becomes(answer);
    let message = |kind, src, dst, payload: &[u8]| {
        from_pod_frame(Builder::new(src, dst, payload).icmp6(kind, 0, [0; 4]), 255)
    };
    let mut hopped = solicitation(pod(), router(), own_mac);
    hopped[14 + 7] = 254;
    let all_routers = node::address([0xff02, 0, 0, 0, 0, 0, 0, 2]);
    let reports = node::address([0xff02, 0, 0, 0, 0, 0, 0, 0x16]);
    vec![
        answers(
            "who has the router",
            solicitation(pod(), router(), own_mac),
            advertisement(router(), Some(pod()), 0xe0),
        ),
        answers(
            "who has the router, unicast, no option",
            solicitation_to(pod(), router(), router(), None),
            advertisement(router(), Some(pod()), 0xe0),
        ),
        answers(
            "who has the router, from link-local",
            solicitation(pod_link_local(), router(), own_mac),
            advertisement(router(), Some(pod_link_local()), 0xe0),
        ),
        answers(
            "who has another local pod",
            solicitation(pod(), other(), own_mac),
            advertisement(other(), Some(pod()), 0x60),
        ),
        answers(
            "probe for the router's address",
            solicitation(Addr::UNSPECIFIED, router(), None),
            advertisement(router(), None, 0xa0),
        ),
        answers(
            "probe for another pod's address",
            solicitation(Addr::UNSPECIFIED, other(), None),
            advertisement(other(), None, 0x20),
        ),
        consumes(
            "probe for its own address",
            solicitation(Addr::UNSPECIFIED, pod(), None),
        ),
        consumes(
            "probe for its own link-local address",
            solicitation(Addr::UNSPECIFIED, pod_link_local(), None),
        ),
        drops(
            "who has somebody unknown",
            FromPod,
            solicitation(pod(), node::local(0x99), own_mac),
            UnknownL3TargetAddress,
        ),
        row(
            "who has the node's link-local address",
            FromPod,
            solicitation_to(
                pod_link_local(),
                node::node_link_local(),
                node::node_link_local(),
                None,
            ),
            TcAction::Ok,
        ),
        drops(
            "solicitation from behind a router",
            FromPod,
            hopped,
            InvalidPacketDropped,
        ),
        drops(
            "solicitation with an option of no length",
            FromPod,
            solicitation(pod(), router(), Some([1, 0, 0, 0, 0, 0, 0, 0])),
            InvalidPacketDropped,
        ),
        drops(
            "probe that names its sender",
            FromPod,
            solicitation(Addr::UNSPECIFIED, router(), own_mac),
            InvalidPacketDropped,
        ),
        drops(
            "solicitation from another's address",
            FromPod,
            solicitation(other(), router(), own_mac),
            InvalidSourceIp,
        ),
        consumes(
            "router solicitation",
            message(icmp::ROUTER_SOLICITATION, pod_link_local(), all_routers, &[]),
        ),
        consumes(
            "multicast report",
            message(icmp::MLD_REPORT_V2, Addr::UNSPECIFIED, reports, &[0; 20]),
        ),
        drops(
            "router advertisement of a pod",
            FromPod,
            message(
                icmp::ROUTER_ADVERTISEMENT,
                pod_link_local(),
                icmp6::ALL_NODES,
                &[0; 8],
            ),
            ForbiddenIcmpv6Message,
        ),
        drops(
            "advertisement of another's address",
            FromPod,
            message(icmp::NEIGHBOUR_ADVERTISEMENT, pod(), host(), &other().0),
            ForbiddenIcmpv6Message,
        ),
        row(
            "advertisement of its own address",
            FromPod,
            message(icmp::NEIGHBOUR_ADVERTISEMENT, pod(), host(), &pod().0),
            TcAction::Ok,
        ),
        drops(
            "advertisement of its own address to a remote pod",
            FromPod,
            message(icmp::NEIGHBOUR_ADVERTISEMENT, pod(), remote(), &pod().0),
            ForbiddenIcmpv6Message,
        ),
        drops(
            "advertisement of its own address to another pod",
            FromPod,
            message(icmp::NEIGHBOUR_ADVERTISEMENT, pod(), other(), &pod().0),
            ForbiddenIcmpv6Message,
        ),
        drops(
            "who has a link-local address, asked of a remote pod",
            FromPod,
            solicitation_to(pod(), remote(), node::node_link_local(), None),
            ForbiddenIcmpv6Message,
        ),
        drops(
            "advertisement in fragments",
            FromPod,
            from_pod_frame(
                Builder::new(pod(), host(), &pod().0)
                    .icmp6(icmp::NEIGHBOUR_ADVERTISEMENT, 0, [0; 4])
                    .fragment(0, true),
                255,
            ),
            ForbiddenIcmpv6Message,
        ),
        drops(
            "redirect to the node",
            FromPod,
            message(icmp::REDIRECT, pod_link_local(), host(), &[0; 32]),
            ForbiddenIcmpv6Message,
        ),
        drops(
            "router advertisement to the node, behind options",
            FromPod,
            from_pod_frame(
                Builder::new(pod(), host(), &[0; 8])
                    .icmp6(icmp::ROUTER_ADVERTISEMENT, 0, [0; 4])
                    .extension(60, 3),
                255,
            ),
            ForbiddenIcmpv6Message,
        ),
        row(
            "advertisement from behind a router is a packet like others",
            ToPod,
            Builder::new(remote(), pod(), &other().0)
                .icmp6(icmp::NEIGHBOUR_ADVERTISEMENT, 0, [0; 4])
                .frame(NODE_MAC, POD_MAC, 254),
            TcAction::Next,
        )
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT])
        .opens(&[key(remote(), pod(), (0, 0), ICMPV6, CtKey::IN)]),
        row(
            "solicitation of the node",
            ToPod,
            solicitation(host(), pod(), None),
            TcAction::Next,
        ),
        row(
            "echo to the router",
            FromPod,
            from_pod_frame(
                Builder::new(pod(), router(), b"payload").icmp6(icmp::ECHO_REQUEST, 0, [1, 2, 0, 9]),
                60,
            ),
            TcAction::Redirect,
        )
        .becomes(
            Builder::new(router(), pod(), b"payload")
                .icmp6(icmp::ECHO_REPLY, 0, [1, 2, 0, 9])
                .frame(NODE_MAC, POD_MAC, 64),
        ),
    ]
}
