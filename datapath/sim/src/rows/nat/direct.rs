//! Direct server return: the two nodes of a packet to a backend elsewhere.

use abi::{
    Addr, CtKey,
    Direction::Ingress,
    DropReason::{CtMissingTcpAckFlag, ServiceBackendNotFound},
    NatEntry, Peer, Service,
};
use packet::{
    icmp6::kind as icmp,
    protocol::{TCP, UDP},
    transport::tcp_flag::{ACK, SYN},
};
use stages::Route;

use super::{Half, NODE_PORT, NODE_PORT_FLAGS, arriving, knows, pair, serves, tcp, udp, world};
use crate::{
    Builder,
    Program::{FromNetdev, ToPod},
    Sim, TcAction,
    rows::{
        Row, drop_event, dropped, forwarded,
        making::{TO_ENDPOINT, drops, key, row},
        node::{IFINDEX, NODE_MAC, OUTSIDE_MAC, POD_MAC, address, gateway, host, pod, remote},
    },
};

const DIRECT: u32 = NODE_PORT_FLAGS | Service::DSR;
/// The node that took the packet.
fn front() -> Addr {
    address([0xfc00, 0xf853, 0xccd, 0xe793, 0, 0, 0, 4])
}

/// The other node is known as one.
fn has_front(sim: &mut Sim) {
    let node = Peer {
        flags: Peer::NODE,
        ..Peer::default()
    };
    sim.peers.insert(front(), node);
}

fn to_backend(proto: u8, flags: u32) -> [Half; 2] {
    pair(
        (world(), host(), 40000, NODE_PORT),
        (world(), remote(), 40000, 8080),
        proto,
        NatEntry::SERVICE | NatEntry::DSR | flags,
    )
}

fn told(proto: u8, flags: u32) -> [Half; 2] {
    pair(
        (world(), front(), 40000, NODE_PORT),
        (world(), pod(), 40000, 8080),
        proto,
        NatEntry::SERVICE | NatEntry::DSR | flags,
    )
}

/// The node that takes the packet.
pub(super) fn front_rows() -> Vec<Row> {
    let asked = |dst, port| Builder::new(world(), dst, b"").tcp(40000, port, SYN);
    let gone_on = |builder: Builder| builder.frame(OUTSIDE_MAC, NODE_MAC, 60);
    let via = Route::Via {
        ifindex: IFINDEX,
        next_hop: gateway(),
    };
    vec![
        row(
            "direct return: the first packet tells which service was meant, and keeps its source",
            FromNetdev,
            arriving(asked(host(), NODE_PORT)),
            TcAction::Ok,
        )
        .with(serves(TCP, remote(), DIRECT))
        .becomes(gone_on(asked(remote(), 8080).told(host(), NODE_PORT)))
        .translates(&[to_backend(TCP, 0)]),
        row(
            "direct return: forwarded by the datapath",
            FromNetdev,
            arriving(asked(host(), NODE_PORT)),
            TcAction::Redirect,
        )
        .with(serves(TCP, remote(), DIRECT))
        .with(|sim| sim.route = via)
        .becomes(
            asked(remote(), 8080)
                .told(host(), NODE_PORT)
                .frame(OUTSIDE_MAC, NODE_MAC, 59),
        )
        .counts(&[forwarded(abi::Direction::Egress)])
        .translates(&[to_backend(TCP, 0)]),
        row(
            "direct return: later segments tell nothing",
            FromNetdev,
            arriving(tcp(world(), host(), (40000, NODE_PORT), ACK)),
            TcAction::Ok,
        )
        .with(serves(TCP, remote(), DIRECT))
        .with(knows(&[to_backend(TCP, 0)]))
        .becomes(gone_on(tcp(world(), remote(), (40000, 8080), ACK)))
        .translates(&[to_backend(TCP, NatEntry::ESTABLISHED)]),
        row(
            "direct return: every datagram tells",
            FromNetdev,
            arriving(udp(world(), host(), (40000, NODE_PORT))),
            TcAction::Ok,
        )
        .with(serves(UDP, remote(), DIRECT))
        .with(knows(&[to_backend(UDP, 0)]))
        .becomes(gone_on(
            udp(world(), remote(), (40000, 8080)).told(host(), NODE_PORT),
        )),
        {
            let packet = Builder::new(world(), host(), &[7; 1400]).udp(40000, NODE_PORT);
            let frame = arriving(packet.clone());
            let inside = &frame[14..14 + 1280 - 48];
            let answer = Builder::new(host(), world(), inside).icmp6(icmp::TOO_BIG, 0, 1476u32.to_be_bytes());
            row(
                "direct return: the client is told what the option leaves of the path's size",
                FromNetdev,
                frame.clone(),
                TcAction::Redirect,
            )
            .with(serves(UDP, remote(), DIRECT))
            .with(|sim| sim.route = Route::TooBig { mtu: 1500 })
            .becomes(answer.frame(NODE_MAC, OUTSIDE_MAC, 64))
            .counts(&[dropped(CtMissingTcpAckFlag, Ingress)])
            .reports(&[drop_event(CtMissingTcpAckFlag)])
            .translates(&[to_backend(UDP, 0)])
        },
    ]
}

/// The node of the backend.
pub(super) fn back_rows() -> Vec<Row> {
    let asked = |addr, port| syn_to_pod().told(addr, port);
    let connection = key(world(), pod(), (40000, 8080), TCP, CtKey::IN);
    let taken = |name, packet: Builder| {
        row(name, FromNetdev, arriving(packet.clone()), TcAction::Redirect)
            .with(serves(TCP, pod(), DIRECT))
            .with(has_front)
            .becomes(packet.frame(NODE_MAC, POD_MAC, 59))
            .counts(&[forwarded(Ingress)])
            .reports(&[TO_ENDPOINT])
            .opens(&[connection])
    };
    vec![
        taken(
            "direct return: the backend's node remembers what it was told",
            asked(front(), NODE_PORT),
        )
        .translates(&[told(TCP, 0)]),
        row(
            "direct return: the same behind the stack",
            ToPod,
            arriving(asked(front(), NODE_PORT)),
            TcAction::Next,
        )
        .with(serves(TCP, pod(), DIRECT))
        .with(has_front)
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT])
        .opens(&[connection])
        .translates(&[told(TCP, 0)]),
        drops(
            "direct return: an option that names no service",
            FromNetdev,
            arriving(asked(front(), 1)),
            ServiceBackendNotFound,
        )
        .with(serves(TCP, pod(), DIRECT))
        .with(has_front),
        drops(
            "direct return: an option that names a service which is not served so",
            FromNetdev,
            arriving(asked(front(), NODE_PORT)),
            ServiceBackendNotFound,
        )
        .with(serves(TCP, pod(), NODE_PORT_FLAGS))
        .with(has_front),
        drops(
            "direct return: an option that names a stranger's address",
            FromNetdev,
            arriving(asked(world(), NODE_PORT)),
            ServiceBackendNotFound,
        )
        .with(serves(TCP, pod(), DIRECT)),
        // Node ports are kept under this address: it must not find them.
        drops(
            "direct return: an option that names the unspecified address",
            FromNetdev,
            arriving(asked(Addr::UNSPECIFIED, NODE_PORT)),
            ServiceBackendNotFound,
        )
        .with(serves(TCP, pod(), DIRECT)),
        taken(
            "direct return: options of another kind mean nothing",
            syn_to_pod().extension(60, 2),
        ),
        taken(
            "direct return: too short an option",
            syn_to_pod().extension(60, 0),
        ),
        {
            let packet = Builder::new(remote(), pod(), &[])
                .tcp(40000, 8080, SYN)
                .told(front(), NODE_PORT);
            row(
                "direct return: what a pod says is not believed",
                FromNetdev,
                arriving(packet.clone()),
                TcAction::Redirect,
            )
            .with(serves(TCP, pod(), DIRECT))
            .with(has_front)
            .becomes(packet.frame(NODE_MAC, POD_MAC, 59))
            .counts(&[forwarded(Ingress)])
            .reports(&[TO_ENDPOINT])
            .opens(&[key(remote(), pod(), (40000, 8080), TCP, CtKey::IN)])
        },
    ]
}

fn syn_to_pod() -> Builder {
    Builder::new(world(), pod(), &[]).tcp(40000, 8080, SYN)
}
