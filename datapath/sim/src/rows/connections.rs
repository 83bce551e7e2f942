//! Packets of connections that are known.

use abi::{
    CtKey,
    Direction::{Egress, Ingress},
};
use packet::{
    icmp6::kind as icmp,
    protocol::{ICMPV6, TCP, UDP},
    transport::tcp_flag::ACK,
};

use super::{
    Row, forwarded,
    making::{TO_ENDPOINT, TO_STACK, from_pod_frame, key, row, syn},
    node::{self, NODE_MAC, OUTSIDE_MAC, POD_MAC, host, pod, remote},
};
use crate::{Builder, Program, Sim, TcAction};

pub(super) fn rows() -> Vec<Row> {
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
