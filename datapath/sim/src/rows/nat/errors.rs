//! ICMPv6 errors about translated packets, and their fragments.

use abi::{
    CtEntry, CtKey,
    Direction::{Egress, Ingress},
    DropReason::{CtMissingTcpAckFlag, FirstLogicalDatagramFragmentNotFound},
    FragmentKey, FragmentPorts, NatEntry,
};
use packet::{
    icmp6::kind as icmp,
    protocol::{FRAGMENT, TCP, UDP},
    transport::tcp_flag::ACK,
};
use zerocopy::IntoBytes;

use super::{arriving, error, is_a_pods_link, knows, pair, serves, service, stack_frame, tcp, tracks, world};
use crate::{
    Builder,
    Program::{FromNetdev, FromPod, ToNetdev},
    TcAction,
    rows::{
        Row, drop_event, dropped, forwarded,
        making::{TO_ENDPOINT, TO_NETWORK, TO_STACK, drops, from_pod_frame, key, row},
        node::{NODE_MAC, POD_MAC, gateway, host, other, pod, remote},
    },
};

/// ICMPv6 errors about translated packets.
pub(super) fn rows() -> Vec<Row> {
    let about = |from, to, inner: Builder| {
        let inner = inner.layer3(50);
        Builder::new(from, to, &inner).icmp6(icmp::TOO_BIG, 0, [0, 0, 5, 0])
    };
    let masked = pair((pod(), world(), 40000, 80), (host(), world(), 50000, 80), TCP, 0);
    let balanced = pair(
        (pod(), service(), 40000, 80),
        (pod(), remote(), 40000, 8080),
        TCP,
        NatEntry::SERVICE,
    );
    let long = |dst, port| Builder::new(pod(), dst, &[7; 1400]).udp(40000, port);
    let kept = long(service(), 80).layer3(64);
    vec![
        row(
            "error about a masqueraded packet",
            FromNetdev,
            arriving(about(gateway(), host(), tcp(host(), world(), (50000, 80), ACK))),
            TcAction::Redirect,
        )
        .with(knows(&[masked]))
        .with(tracks(key(pod(), world(), (40000, 80), TCP, CtKey::OUT), 0))
        .becomes(about(gateway(), pod(), tcp(pod(), world(), (40000, 80), ACK)).frame(NODE_MAC, POD_MAC, 59))
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT]),
        row(
            "error of the other end about a masqueraded packet",
            FromNetdev,
            arriving(about(world(), host(), tcp(host(), world(), (50000, 80), ACK))),
            TcAction::Redirect,
        )
        .with(knows(&[masked]))
        .with(tracks(key(pod(), world(), (40000, 80), TCP, CtKey::OUT), 0))
        .becomes(about(world(), pod(), tcp(pod(), world(), (40000, 80), ACK)).frame(NODE_MAC, POD_MAC, 59))
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT]),
        row(
            "error of a masqueraded pod",
            ToNetdev,
            stack_frame(about(pod(), world(), tcp(world(), pod(), (80, 40000), ACK))),
            TcAction::Next,
        )
        .with(knows(&[masked]))
        .becomes(stack_frame(about(
            host(),
            world(),
            tcp(world(), host(), (80, 50000), ACK),
        )))
        .counts(&[forwarded(Egress)])
        .reports(&[TO_NETWORK]),
        row(
            "error about a packet of the node",
            FromNetdev,
            arriving(about(gateway(), host(), tcp(host(), world(), (50001, 80), ACK))),
            TcAction::Next,
        )
        .with(knows(&[masked])),
        row(
            "error about a packet to a service",
            FromNetdev,
            arriving(about(gateway(), pod(), tcp(pod(), remote(), (40000, 8080), ACK))),
            TcAction::Redirect,
        )
        .with(knows(&[balanced]))
        .with(tracks(
            key(pod(), remote(), (40000, 8080), TCP, CtKey::OUT),
            CtEntry::TRANSLATED,
        ))
        .becomes(
            about(gateway(), pod(), tcp(pod(), service(), (40000, 80), ACK)).frame(NODE_MAC, POD_MAC, 59),
        )
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT]),
        row(
            "too big for the backend: the client sees the service",
            FromPod,
            from_pod_frame(long(service(), 80), 64),
            TcAction::Redirect,
        )
        .with(serves(UDP, other(), 0))
        .with(is_a_pods_link)
        .with(|sim| {
            sim.endpoints
                .values_mut()
                .for_each(|endpoint| endpoint.mtu = 1400);
        })
        .becomes(error(icmp::TOO_BIG, 0, 1400, &kept[..1280 - 48], pod()).frame(NODE_MAC, POD_MAC, 64))
        .counts(&[dropped(CtMissingTcpAckFlag, Egress)])
        .reports(&[drop_event(CtMissingTcpAckFlag)])
        .opens(&[key(pod(), other(), (40000, 8080), UDP, CtKey::OUT)])
        .translates(&[pair(
            (pod(), service(), 40000, 80),
            (pod(), other(), 40000, 8080),
            UDP,
            NatEntry::SERVICE,
        )]),
    ]
}

pub(super) fn fragments() -> Vec<Row> {
    let later = |dst| Builder::new(pod(), dst, &[5; 16]).fragment_of(UDP, 3, false);
    let known = pair(
        (pod(), service(), 40000, 80),
        (pod(), remote(), 40000, 8080),
        UDP,
        NatEntry::SERVICE,
    );
    vec![
        row(
            "service: a later fragment goes where the first one went",
            FromPod,
            from_pod_frame(later(service()), 64),
            TcAction::Ok,
        )
        .with(serves(UDP, remote(), 0))
        .with(knows(&[known]))
        .with(|sim| {
            let datagram = FragmentKey {
                src: pod(),
                dst: service(),
                id: [0, 0, 0, 7],
                proto: UDP,
                pad: [0; 3],
            };
            let ports = FragmentPorts {
                src: 40000u16.to_be_bytes(),
                dst: 80u16.to_be_bytes(),
            };
            sim.translation
                .fragments
                .insert(datagram.as_bytes().to_vec(), ports);
        })
        .becomes(from_pod_frame(later(remote()), 64))
        .counts(&[forwarded(Egress)])
        .reports(&[TO_STACK])
        .opens(&[key(pod(), remote(), (0, 0), FRAGMENT, CtKey::OUT)]),
        drops(
            "service: a later fragment before the first one",
            FromPod,
            from_pod_frame(later(service()), 64),
            FirstLogicalDatagramFragmentNotFound,
        )
        .with(knows(&[known])),
    ]
}
