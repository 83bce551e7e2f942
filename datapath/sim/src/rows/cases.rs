//! The rows.

use abi::{
    Addr, CtKey,
    Direction::{Egress, Ingress},
    DropReason::{self, *},
    NatEntry, NatKey,
    event::{ObservationPoint, kind},
};
use packet::{
    icmp6::{self, kind as icmp},
    protocol::{FRAGMENT, ICMPV6, TCP, UDP},
    transport::tcp_flag::{ACK, SYN},
};
use stages::Route;

use super::{
    After, Row, drop_event, dropped, forwarded,
    node::{
        self, NODE_MAC, OTHER_MAC, OUTSIDE_MAC, POD_MAC, host, other, pod, pod_link_local, remote, router,
    },
};
use crate::{Builder, Program, Sim, TcAction};

/// All rows.
#[must_use]
pub fn all() -> Vec<Row> {
    [
        forwarding(),
        sources(),
        neighbours(),
        errors(),
        headers(),
        entries(),
        super::nat::all(),
    ]
    .concat()
}

pub(super) const TO_ENDPOINT: (u8, u8) = (kind::TRACE, ObservationPoint::ToEndpoint as u8);
pub(super) const TO_STACK: (u8, u8) = (kind::TRACE, ObservationPoint::ToStack as u8);
pub(super) const TO_NETWORK: (u8, u8) = (kind::TRACE, ObservationPoint::ToNetwork as u8);
pub(super) const FROM_ENDPOINT: (u8, u8) = (kind::TRACE, ObservationPoint::FromEndpoint as u8);

pub(super) fn row(name: &'static str, program: Program, packet: Vec<u8>, action: TcAction) -> Row {
    let before = Sim {
        packet,
        ..node::sim()
    };
    let after = After {
        action,
        packet: None,
        counted: vec![],
        events: vec![],
        connections: vec![],
        nat: vec![],
    };
    Row {
        name,
        program,
        before,
        after,
    }
}

impl Row {
    pub(super) fn counts(mut self, slots: &[u32]) -> Self {
        self.after.counted = slots.to_vec();
        self
    }

    pub(super) fn reports(mut self, events: &[(u8, u8)]) -> Self {
        self.after.events = events.to_vec();
        self
    }

    pub(super) fn opens(mut self, connections: &[CtKey]) -> Self {
        self.after.connections = connections.to_vec();
        self
    }

    pub(super) fn translates(mut self, pairs: &[[(NatKey, NatEntry); 2]]) -> Self {
        self.after.nat = pairs.concat();
        self
    }

    pub(super) fn becomes(mut self, packet: Vec<u8>) -> Self {
        self.after.packet = Some(packet);
        self
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Sim)) -> Self {
        change(&mut self.before);
        self
    }
}

/// A packet that is dropped with a record, nothing else.
pub(super) fn drops(name: &'static str, program: Program, packet: Vec<u8>, reason: DropReason) -> Row {
    let direction = if program == Program::FromPod {
        Egress
    } else {
        Ingress
    };
    row(name, program, packet, TcAction::Shot)
        .counts(&[dropped(reason, direction)])
        .reports(&[drop_event(reason)])
}

/// A packet that is taken without noise.
fn consumes(name: &'static str, packet: Vec<u8>) -> Row {
    row(name, Program::FromPod, packet, TcAction::Shot).counts(&[dropped(MulticastHandled, Egress)])
}

pub(super) fn key(src: Addr, dst: Addr, ports: (u16, u16), proto: u8, dir: u8) -> CtKey {
    CtKey {
        src,
        dst,
        src_port: ports.0.to_be_bytes(),
        dst_port: ports.1.to_be_bytes(),
        proto,
        dir,
        pad: [0; 2],
    }
}

pub(super) fn syn(src: Addr, dst: Addr) -> Builder {
    Builder::new(src, dst, &[]).tcp(40000, 80, SYN)
}

pub(super) fn from_pod_frame(builder: Builder, hop_limit: u8) -> Vec<u8> {
    builder.frame(POD_MAC, NODE_MAC, hop_limit)
}

fn forwarding() -> Vec<Row> {
    use Program::{FromHost, FromNetdev, FromPod, ToNetdev, ToPod};
    let out = |dst| key(pod(), dst, (40000, 80), TCP, CtKey::OUT);
    let into = |src, dst| key(src, dst, (40000, 80), TCP, CtKey::IN);
    vec![
        row(
            "pod to local pod",
            FromPod,
            from_pod_frame(syn(pod(), other()), 64),
            TcAction::Redirect,
        )
        .becomes(syn(pod(), other()).frame(NODE_MAC, OTHER_MAC, 63))
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT])
        .opens(&[out(other()), into(pod(), other())]),
        row(
            "pod to the node",
            FromPod,
            from_pod_frame(syn(pod(), host()), 64),
            TcAction::Ok,
        )
        .counts(&[forwarded(Egress)])
        .reports(&[TO_STACK])
        .opens(&[out(host())]),
        row(
            "pod to somewhere without a route",
            FromPod,
            from_pod_frame(syn(pod(), remote()), 64),
            TcAction::Ok,
        )
        .counts(&[forwarded(Egress)])
        .reports(&[TO_STACK])
        .opens(&[out(remote())]),
        row(
            "pod to remote pod",
            FromPod,
            from_pod_frame(syn(pod(), remote()), 64),
            TcAction::Redirect,
        )
        .with(|sim| {
            sim.route = Route::Via {
                ifindex: 2,
                next_hop: host(),
            }
        })
        .becomes(from_pod_frame(syn(pod(), remote()), 63))
        .counts(&[forwarded(Egress)])
        .reports(&[TO_NETWORK])
        .opens(&[out(remote())]),
        drops(
            "pod to a local address nobody has",
            FromPod,
            from_pod_frame(syn(pod(), node::local(9)), 64),
            NoMatchingLocalContainerFound,
        )
        .with(|sim| {
            sim.route = Route::Via {
                ifindex: 3,
                next_hop: node::local(9),
            }
        })
        .opens(&[out(node::local(9))]),
        row(
            "stack routing: pod to local pod",
            FromPod,
            from_pod_frame(syn(pod(), other()), 64),
            TcAction::Ok,
        )
        .with(|sim| sim.config.host_routing = 0)
        .counts(&[forwarded(Egress)])
        .reports(&[TO_STACK])
        .opens(&[out(other())]),
        row(
            "every packet reported: pod to local pod",
            FromPod,
            from_pod_frame(syn(pod(), other()), 64),
            TcAction::Redirect,
        )
        .with(|sim| sim.config.monitor_aggregation = 0)
        .becomes(syn(pod(), other()).frame(NODE_MAC, OTHER_MAC, 63))
        .counts(&[forwarded(Ingress)])
        .reports(&[FROM_ENDPOINT, TO_ENDPOINT])
        .opens(&[out(other()), into(pod(), other())]),
        row(
            "network to local pod",
            FromNetdev,
            syn(remote(), pod()).frame(OUTSIDE_MAC, NODE_MAC, 63),
            TcAction::Redirect,
        )
        .becomes(syn(remote(), pod()).frame(NODE_MAC, POD_MAC, 62))
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT])
        .opens(&[into(remote(), pod())]),
        row(
            "network to the node",
            FromNetdev,
            syn(remote(), host()).frame(OUTSIDE_MAC, NODE_MAC, 63),
            TcAction::Next,
        ),
        row(
            "network to nobody here",
            FromNetdev,
            syn(remote(), remote()).frame(OUTSIDE_MAC, NODE_MAC, 63),
            TcAction::Next,
        ),
        row(
            "stack routing: network to local pod",
            FromNetdev,
            syn(remote(), pod()).frame(OUTSIDE_MAC, NODE_MAC, 63),
            TcAction::Next,
        )
        .with(|sim| sim.config.host_routing = 0),
        row(
            "node to local pod, first half",
            FromHost,
            syn(host(), other()).frame([0; 6], [0; 6], 64),
            TcAction::Redirect,
        )
        .becomes(syn(host(), other()).frame(NODE_MAC, OTHER_MAC, 64)),
        drops(
            "node to a local address nobody has",
            FromHost,
            syn(host(), node::local(9)).frame([0; 6], [0; 6], 64),
            NoMatchingLocalContainerFound,
        ),
        row(
            "node to local pod, second half",
            ToPod,
            syn(host(), pod()).frame(NODE_MAC, POD_MAC, 64),
            TcAction::Next,
        )
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT])
        .opens(&[into(host(), pod())]),
        drops(
            "stack delivers to the wrong pod",
            ToPod,
            syn(host(), other()).frame(NODE_MAC, POD_MAC, 64),
            NoMatchingLocalContainerFound,
        ),
        row(
            "answered already on its way out",
            ToPod,
            syn(host(), other()).frame(NODE_MAC, POD_MAC, 64),
            TcAction::Next,
        )
        .with(|sim| sim.mark = abi::mark::DONE),
        row(
            "node to the network",
            ToNetdev,
            syn(host(), remote()).frame(NODE_MAC, OUTSIDE_MAC, 64),
            TcAction::Next,
        )
        .counts(&[forwarded(Egress)])
        .reports(&[TO_NETWORK]),
        row(
            "node to the network, in the middle of a connection",
            ToNetdev,
            Builder::new(host(), remote(), &[1])
                .tcp(1, 2, ACK)
                .frame(NODE_MAC, OUTSIDE_MAC, 64),
            TcAction::Next,
        )
        .counts(&[forwarded(Egress)]),
        row(
            "pod to the network, seen on its way out",
            ToNetdev,
            syn(pod(), remote()).frame(NODE_MAC, OUTSIDE_MAC, 63),
            TcAction::Next,
        )
        .with(|sim| sim.mark = abi::mark::DONE),
    ]
}

fn sources() -> Vec<Row> {
    use Program::{FromNetdev, FromPod, ToPod};
    let from_network = |src| syn(src, pod()).frame(OUTSIDE_MAC, NODE_MAC, 64);
    let mut arp = from_pod_frame(syn(pod(), other()), 64);
    arp[12..14].copy_from_slice(&[8, 6]);
    vec![
        drops(
            "source MAC of another",
            FromPod,
            syn(pod(), remote()).frame(OTHER_MAC, NODE_MAC, 64),
            InvalidSourceMac,
        ),
        drops(
            "source address of another pod",
            FromPod,
            from_pod_frame(syn(other(), remote()), 64),
            InvalidSourceIp,
        ),
        drops(
            "source address of the node",
            FromPod,
            from_pod_frame(syn(host(), remote()), 64),
            InvalidSourceIp,
        ),
        drops(
            "source address of nobody",
            FromPod,
            from_pod_frame(syn(remote(), other()), 64),
            InvalidSourceIp,
        ),
        drops(
            "source address of IPv4",
            FromPod,
            from_pod_frame(syn(Addr::from_v4([10, 0, 0, 1]), remote()), 64),
            InvalidPacketDropped,
        ),
        drops(
            "destination address of IPv4",
            FromPod,
            from_pod_frame(syn(pod(), Addr::from_v4([10, 0, 0, 1])), 64),
            InvalidPacketDropped,
        ),
        drops(
            "link-local source to the node",
            FromPod,
            from_pod_frame(syn(pod_link_local(), host()), 64),
            InvalidSourceIp,
        ),
        drops(
            "with a VLAN tag",
            FromPod,
            from_pod_frame(syn(pod(), remote()), 64),
            VlanFiltered,
        )
        .with(|sim| sim.is_tagged = true),
        row(
            "from the network with a VLAN tag",
            FromNetdev,
            from_network(remote()),
            TcAction::Next,
        )
        .with(|sim| sim.is_tagged = true),
        drops(
            "from the network, address of a pod of this node",
            FromNetdev,
            from_network(other()),
            InvalidSourceIp,
        ),
        drops(
            "from the network, address of the pod itself",
            FromNetdev,
            from_network(pod()),
            InvalidSourceIp,
        ),
        drops(
            "from the network, address of this node",
            FromNetdev,
            from_network(host()),
            InvalidSourceIp,
        ),
        drops(
            "from the network, address of this node's router",
            FromNetdev,
            from_network(router()),
            InvalidSourceIp,
        ),
        drops(
            "from the network, address of a pod of this node, routed by the stack",
            FromNetdev,
            from_network(other()),
            InvalidSourceIp,
        )
        .with(|sim| sim.config.host_routing = 0),
        drops(
            "from the network, no address",
            FromNetdev,
            from_network(Addr::UNSPECIFIED),
            InvalidSourceIp,
        ),
        drops(
            "from the network, loopback address",
            FromNetdev,
            from_network(node::address([0, 0, 0, 0, 0, 0, 0, 1])),
            InvalidSourceIp,
        ),
        drops(
            "from the network, link-local address",
            FromNetdev,
            from_network(pod_link_local()),
            InvalidSourceIp,
        ),
        drops(
            "from the network, multicast address",
            FromNetdev,
            from_network(icmp6::ALL_NODES),
            InvalidSourceIp,
        ),
        // Not readable, so nobody knows who it is for: the stack forwards no such packet, and the pod's device takes none.
        row(
            "from the network, address of IPv4",
            FromNetdev,
            from_network(Addr::from_v4([10, 0, 0, 1])),
            TcAction::Next,
        ),
        drops(
            "to a pod from the stack, address of IPv4",
            ToPod,
            from_network(Addr::from_v4([10, 0, 0, 1])),
            InvalidPacketDropped,
        ),
        drops(
            "device of nobody",
            FromPod,
            from_pod_frame(syn(pod(), remote()), 64),
            EpNotReady,
        )
        .with(|sim| {
            sim.endpoints.remove(&pod());
            sim.devices.clear();
        }),
        drops("not IP", FromPod, arp, UnsupportedL3Protocol),
        consumes(
            "to all on the link",
            from_pod_frame(
                Builder::new(
                    pod_link_local(),
                    node::address([0xff02, 0, 0, 0, 0, 0, 0, 0xfb]),
                    b"mdns",
                )
                .udp(5353, 5353),
                255,
            ),
        ),
        drops(
            "to all on the site",
            FromPod,
            from_pod_frame(
                Builder::new(pod(), node::address([0xff05, 0, 0, 0, 0, 0, 0, 1]), b"x").udp(1, 2),
                64,
            ),
            MulticastHandled,
        ),
    ]
}

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

fn neighbours() -> Vec<Row> {
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

/// The error message of the router about a packet of the pod.
fn error(kind: u8, body: u32, packet: &[u8], to: Addr, mac: [u8; 6]) -> Vec<u8> {
    let kept = packet.len().min(14 + 1280 - 48);
    Builder::new(router(), to, &packet[14..kept])
        .icmp6(kind, 0, body.to_be_bytes())
        .frame(NODE_MAC, mac, 64)
}

fn errors() -> Vec<Row> {
    use Program::{FromNetdev, FromPod};
    let udp = |src, dst, len: usize| Builder::new(src, dst, &vec![7; len]).udp(5000, 53);
    let out = |dst| key(pod(), dst, (5000, 53), UDP, CtKey::OUT);
    let expired = from_pod_frame(udp(pod(), other(), 33), 1);
    let finished = from_pod_frame(Builder::new(pod(), other(), b"some data").tcp(40000, 80, ACK), 1);
    let mut unfinished = finished.clone();
    let seed = packet::checksum::pseudo_header(&pod(), &other(), 20 + 9, TCP);
    unfinished[14 + 40 + 16..][..2].copy_from_slice(&seed.to_be_bytes());
    let long = from_pod_frame(udp(pod(), other(), 1400), 64);
    let routed = from_pod_frame(udp(pod(), remote(), 1400), 64);
    let arriving = udp(remote(), pod(), 1401).frame(OUTSIDE_MAC, NODE_MAC, 64);
    let about_error = from_pod_frame(
        Builder::new(pod(), other(), &[0; 48]).icmp6(icmp::UNREACHABLE, 0, [0; 4]),
        1,
    );
    let answered = |name, program, packet: Vec<u8>, reason, direction, answer: Vec<u8>| {
        row(name, program, packet, TcAction::Redirect)
            .counts(&[dropped(reason, direction)])
            .reports(&[drop_event(reason)])
            .becomes(answer)
    };
    let small = |sim: &mut Sim| {
        for endpoint in sim.endpoints.values_mut() {
            endpoint.mtu = 1400;
        }
    };
    vec![
        answered(
            "hop limit ends",
            FromPod,
            expired.clone(),
            TtlExceeded,
            Egress,
            error(icmp::TIME_EXCEEDED, 0, &expired, pod(), POD_MAC),
        )
        .opens(&[out(other())]),
        answered(
            "too big for the other pod",
            FromPod,
            long.clone(),
            CtMissingTcpAckFlag,
            Egress,
            error(icmp::TOO_BIG, 1400, &long, pod(), POD_MAC),
        )
        .with(small)
        .opens(&[out(other())]),
        answered(
            "too big for the pod, from the network",
            FromNetdev,
            arriving.clone(),
            CtMissingTcpAckFlag,
            Ingress,
            error(icmp::TOO_BIG, 1400, &arriving, remote(), OUTSIDE_MAC),
        )
        .with(small),
        answered(
            "too big for the route",
            FromPod,
            routed.clone(),
            CtMissingTcpAckFlag,
            Egress,
            error(icmp::TOO_BIG, 1300, &routed, pod(), POD_MAC),
        )
        .with(|sim| sim.route = Route::TooBig { mtu: 1300 })
        .opens(&[out(remote())]),
        answered(
            "hop limit ends, checksum left to the hardware",
            FromPod,
            unfinished.clone(),
            TtlExceeded,
            Egress,
            {
                // The message is right once the checksum inside is.
                let mut answer = error(icmp::TIME_EXCEEDED, 0, &finished, pod(), POD_MAC);
                answer[14 + 48 + 40 + 16..][..2].copy_from_slice(&unfinished[14 + 40 + 16..][..2]);
                answer
            },
        )
        .opens(&[key(pod(), other(), (40000, 80), TCP, CtKey::OUT)]),
        drops("hop limit of an error ends", FromPod, about_error, TtlExceeded),
        row(
            "segments that fit",
            FromPod,
            from_pod_frame(Builder::new(pod(), other(), &[1; 3000]).tcp(40000, 80, ACK), 64),
            TcAction::Redirect,
        )
        .with(small)
        .with(|sim| sim.segment_size = 1340)
        .becomes(
            Builder::new(pod(), other(), &[1; 3000])
                .tcp(40000, 80, ACK)
                .frame(NODE_MAC, OTHER_MAC, 63),
        )
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT])
        .opens(&[
            key(pod(), other(), (40000, 80), TCP, CtKey::OUT),
            key(pod(), other(), (40000, 80), TCP, CtKey::IN),
        ]),
    ]
}

fn headers() -> Vec<Row> {
    use Program::FromPod;
    let ports = (40000, 80);
    let passes = |name, build: &dyn Fn(Builder) -> Builder, proto: u8, ports| {
        let packet = build(syn(pod(), other()));
        row(
            name,
            FromPod,
            from_pod_frame(packet.clone(), 64),
            TcAction::Redirect,
        )
        .becomes(packet.frame(NODE_MAC, OTHER_MAC, 63))
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT])
        .opens(&[
            key(pod(), other(), ports, proto, CtKey::OUT),
            key(pod(), other(), ports, proto, CtKey::IN),
        ])
    };
    let fragment = |offset, more| {
        move |_: Builder| {
            Builder::new(pod(), other(), &[5; 64])
                .udp(5000, 53)
                .fragment(offset, more)
        }
    };
    let mut truncated = from_pod_frame(syn(pod(), other()), 64);
    truncated.truncate(14 + 40 + 12);
    truncated[14 + 5] = 12;
    let mut chain = syn(pod(), other());
    for _ in 0..9 {
        chain = chain.extension(60, 0);
    }
    let mut endless = from_pod_frame(syn(pod(), other()).extension(43, 0), 64);
    endless[14 + 40 + 1] = 255;
    let mut longer = from_pod_frame(syn(pod(), other()), 64);
    longer[14 + 4] = 9;
    vec![
        passes(
            "hop-by-hop, routing and destination options",
            &|p| p.extension(60, 1).extension(43, 0).extension(0, 2),
            TCP,
            ports,
        ),
        passes(
            "an extension header of the future",
            &|p| p.extension(253, 3),
            TCP,
            ports,
        ),
        passes("authentication header", &|p| p.authentication(4), TCP, ports),
        passes(
            "hop-by-hop of a packet beyond 64 KiB",
            &Builder::jumbo,
            TCP,
            ports,
        ),
        jumbogram(),
        passes("first fragment", &fragment(0, true), UDP, (5000, 53)),
        passes("later fragment", &fragment(4, false), FRAGMENT, (0, 0)),
        passes(
            "unknown transport",
            &|_| Builder::new(pod(), other(), b"what is this").extension(99, 0),
            99,
            (0, 0),
        ),
        drops(
            "too many headers",
            FromPod,
            from_pod_frame(chain, 64),
            InvalidIpv6ExtensionHeader,
        ),
        drops(
            "header beyond the end",
            FromPod,
            endless,
            CtTruncatedOrInvalidHeader,
        ),
        drops(
            "truncated transport header",
            FromPod,
            truncated,
            CtTruncatedOrInvalidHeader,
        ),
        drops("shorter than it says", FromPod, longer, InvalidPacketDropped),
    ]
}

/// As the kernel makes them: payload length 0.
fn jumbogram() -> Row {
    let zero = |mut packet: Vec<u8>| {
        packet[14 + 4..14 + 6].fill(0);
        packet
    };
    let builder = syn(pod(), other()).jumbo();
    let ports = (40000, 80);
    row(
        "payload length 0 of a packet beyond 64 KiB",
        Program::FromPod,
        zero(from_pod_frame(builder.clone(), 64)),
        TcAction::Redirect,
    )
    .becomes(zero(builder.frame(NODE_MAC, OTHER_MAC, 63)))
    .counts(&[forwarded(Ingress)])
    .reports(&[TO_ENDPOINT])
    .opens(&[
        key(pod(), other(), ports, TCP, CtKey::OUT),
        key(pod(), other(), ports, TCP, CtKey::IN),
    ])
}

/// Packets of connections that are known.
fn entries() -> Vec<Row> {
    use Program::{FromNetdev, FromPod};
    let known = |key: CtKey, flags: u16| {
        move |sim: &mut Sim| {
            let entry = abi::CtEntry {
                expires: u64::MAX,
                // In the future, so that no interval is over on any machine.
                tx_report: u64::MAX >> 1,
                rx_report: u64::MAX >> 1,
                tx_flags: 0xff,
                rx_flags: 0xff,
                flags,
                ..Default::default()
            };
            sim.config.monitor_interval = u64::MAX;
            sim.connections
                .insert(zerocopy::IntoBytes::as_bytes(&key).to_vec(), entry);
        }
    };
    let ack = |src, dst, ports: (u16, u16)| Builder::new(src, dst, &[1]).tcp(ports.0, ports.1, ACK);
    let open = key(pod(), host(), (40000, 80), TCP, CtKey::OUT);
    let served = key(remote(), pod(), (40000, 80), TCP, CtKey::IN);
    let inner = from_pod_frame(Builder::new(pod(), remote(), &[3; 20]).udp(5000, 53), 60);
    let about = Builder::new(node::gateway(), pod(), &inner[14..]).icmp6(icmp::TOO_BIG, 0, [0, 0, 5, 0]);
    let ping = Builder::new(pod(), host(), b"x").icmp6(icmp::ECHO_REQUEST, 0, [0xab, 0xcd, 0, 1]);
    let pong = Builder::new(remote(), pod(), b"x").icmp6(icmp::ECHO_REPLY, 0, [0xab, 0xcd, 0, 1]);
    vec![
        row(
            "established, nothing new to report",
            FromPod,
            from_pod_frame(ack(pod(), host(), (40000, 80)), 64),
            TcAction::Ok,
        )
        .with(known(open, abi::CtEntry::SEEN_NON_SYN))
        .counts(&[forwarded(Egress)]),
        row(
            "reply of a server, nothing new to report",
            FromPod,
            from_pod_frame(ack(pod(), remote(), (80, 40000)), 64),
            TcAction::Ok,
        )
        .with(known(served, abi::CtEntry::SEEN_NON_SYN))
        .counts(&[forwarded(Egress)]),
        row(
            "a connection opened again",
            FromPod,
            from_pod_frame(syn(pod(), host()), 64),
            TcAction::Ok,
        )
        .with(known(open, abi::CtEntry::SEEN_NON_SYN | abi::CtEntry::TX_CLOSING))
        .counts(&[forwarded(Egress)])
        .reports(&[TO_STACK]),
        row(
            "echo is tracked by its identifier",
            FromPod,
            from_pod_frame(ping, 64),
            TcAction::Ok,
        )
        .counts(&[forwarded(Egress)])
        .reports(&[TO_STACK])
        .opens(&[key(pod(), host(), (0xabcd, 0), ICMPV6, CtKey::OUT)]),
        row(
            "echo reply belongs to the request",
            FromNetdev,
            pong.clone().frame(OUTSIDE_MAC, NODE_MAC, 60),
            TcAction::Redirect,
        )
        .with(known(key(pod(), remote(), (0xabcd, 0), ICMPV6, CtKey::OUT), 0))
        .becomes(pong.frame(NODE_MAC, POD_MAC, 59))
        .counts(&[forwarded(Ingress)]),
        row(
            "error about a known connection leaves no entry",
            FromNetdev,
            about.clone().frame(OUTSIDE_MAC, NODE_MAC, 60),
            TcAction::Redirect,
        )
        .with(known(key(pod(), remote(), (5000, 53), UDP, CtKey::OUT), 0))
        .becomes(about.frame(NODE_MAC, POD_MAC, 59))
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT]),
    ]
}
