//! Services as pods and nodes of the cluster reach them.

use abi::{
    CtEntry, CtKey,
    Direction::{Egress, Ingress},
    DropReason::{ServiceBackendNotFound, SnatNoMapFound},
    NatEntry, NatKey, Service,
};
use packet::{
    icmp6::{kind as icmp, unreachable},
    protocol::{TCP, UDP},
    transport::tcp_flag::{ACK, SYN},
};
use zerocopy::IntoBytes;

use super::{
    arriving, error, is_a_pods_link, is_empty, knows, pair, serves, service, tcp, tracks, translating, udp,
};
use crate::{
    Builder,
    Program::{FromNetdev, FromPod},
    TcAction,
    rows::{
        Row, drop_event, dropped, forwarded,
        making::{FROM_ENDPOINT, TO_ENDPOINT, TO_STACK, drops, from_pod_frame, key, row, syn},
        node::{NODE_MAC, OTHER_MAC, POD_MAC, host, other, pod, remote, router},
    },
};

/// A pod and a service inside the cluster.
pub(super) fn rows() -> Vec<Row> {
    let to = |backend| {
        pair(
            (pod(), service(), 40000, 80),
            (pod(), backend, 40000, 8080),
            TCP,
            NatEntry::SERVICE,
        )
    };
    let sent = |dst, port| Builder::new(pod(), dst, &[]).tcp(40000, port, SYN);
    let out = |dst| key(pod(), dst, (40000, 8080), TCP, CtKey::OUT);
    let mut datagram = pair(
        (pod(), service(), 40000, 80),
        (pod(), remote(), 40000, 8080),
        UDP,
        NatEntry::SERVICE,
    );
    let renewed = datagram;
    datagram[0].1.dst = other();
    vec![
        row(
            "service: backend on this node",
            FromPod,
            from_pod_frame(sent(service(), 80), 64),
            TcAction::Redirect,
        )
        .with(serves(TCP, other(), 0))
        .becomes(sent(other(), 8080).frame(NODE_MAC, OTHER_MAC, 63))
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT])
        .opens(&[out(other()), key(pod(), other(), (40000, 8080), TCP, CtKey::IN)])
        .translates(&[to(other())]),
        row(
            "service: backend on another node",
            FromPod,
            from_pod_frame(sent(service(), 80), 64),
            TcAction::Ok,
        )
        .with(serves(TCP, remote(), 0))
        .becomes(from_pod_frame(sent(remote(), 8080), 64))
        .counts(&[forwarded(Egress)])
        .reports(&[TO_STACK])
        .opens(&[out(remote())])
        .translates(&[to(remote())]),
        row(
            "service: backend on the node itself",
            FromPod,
            from_pod_frame(sent(service(), 80), 64),
            TcAction::Ok,
        )
        .with(serves(TCP, host(), 0))
        .becomes(from_pod_frame(sent(host(), 8080), 64))
        .counts(&[forwarded(Egress)])
        .reports(&[TO_STACK])
        .opens(&[out(host())])
        .translates(&[to(host())]),
        row(
            "service: a connection that is known keeps its backend",
            FromPod,
            from_pod_frame(tcp(pod(), service(), (40000, 80), ACK), 64),
            TcAction::Redirect,
        )
        .with(knows(&[to(other())]))
        .with(tracks(out(other()), CtEntry::TRANSLATED))
        .with(tracks(
            key(pod(), other(), (40000, 8080), TCP, CtKey::IN),
            CtEntry::TRANSLATED,
        ))
        .becomes(tcp(pod(), other(), (40000, 8080), ACK).frame(NODE_MAC, OTHER_MAC, 63))
        .counts(&[forwarded(Ingress)])
        .translates(&[pair(
            (pod(), service(), 40000, 80),
            (pod(), other(), 40000, 8080),
            TCP,
            NatEntry::SERVICE | NatEntry::ESTABLISHED,
        )]),
        row(
            "service: datagrams leave a backend that is gone",
            FromPod,
            from_pod_frame(udp(pod(), service(), (40000, 80)), 64),
            TcAction::Ok,
        )
        .with(serves(UDP, remote(), 0))
        .with(move |sim| {
            let (key, entry) = datagram[0];
            sim.translation.nat.insert(
                key.as_bytes().to_vec(),
                NatEntry {
                    expires: u64::MAX >> 1,
                    ..entry
                },
            );
        })
        .becomes(from_pod_frame(udp(pod(), remote(), (40000, 8080)), 64))
        .counts(&[forwarded(Egress)])
        .reports(&[TO_STACK])
        .opens(&[key(pod(), remote(), (40000, 8080), UDP, CtKey::OUT)])
        .translates(&[
            renewed,
            [
                (
                    NatKey {
                        src: other(),
                        ..renewed[1].0
                    },
                    renewed[1].1,
                ),
                renewed[0],
            ],
        ]),
        row(
            "service: answer of a backend on another node",
            FromNetdev,
            arriving(tcp(remote(), pod(), (8080, 40000), SYN | ACK)),
            TcAction::Redirect,
        )
        .with(knows(&[to(remote())]))
        .with(tracks(out(remote()), CtEntry::TRANSLATED))
        .becomes(tcp(service(), pod(), (80, 40000), SYN | ACK).frame(NODE_MAC, POD_MAC, 59))
        .counts(&[forwarded(Ingress)])
        .translates(&[pair(
            (pod(), service(), 40000, 80),
            (pod(), remote(), 40000, 8080),
            TCP,
            NatEntry::SERVICE | NatEntry::ESTABLISHED,
        )]),
        row(
            "service: answer of a backend on this node",
            FromPod,
            from_pod_frame(tcp(pod(), other(), (8080, 40000), ACK), 64),
            TcAction::Redirect,
        )
        .with(knows(&[pair(
            (other(), service(), 40000, 80),
            (other(), pod(), 40000, 8080),
            TCP,
            NatEntry::SERVICE | NatEntry::ESTABLISHED,
        )]))
        .with(tracks(
            key(other(), pod(), (40000, 8080), TCP, CtKey::IN),
            CtEntry::TRANSLATED,
        ))
        .with(tracks(
            key(other(), pod(), (40000, 8080), TCP, CtKey::OUT),
            CtEntry::TRANSLATED,
        ))
        .becomes(tcp(service(), other(), (80, 40000), ACK).frame(NODE_MAC, OTHER_MAC, 63))
        .counts(&[forwarded(Ingress)]),
        drops(
            "service: answer whose translation is gone",
            FromNetdev,
            arriving(tcp(remote(), pod(), (8080, 40000), ACK)),
            SnatNoMapFound,
        )
        .with(translating)
        .with(tracks(out(remote()), CtEntry::TRANSLATED)),
    ]
}

pub(super) fn refused() -> Vec<Row> {
    let refused = |name, builder: &Builder| {
        let packet = from_pod_frame(builder.clone(), 64);
        let answer = error(icmp::UNREACHABLE, unreachable::PORT, 0, &packet[14..], pod());
        row(name, FromPod, packet, TcAction::Redirect)
            .becomes(answer.frame(NODE_MAC, POD_MAC, 64))
            .counts(&[dropped(ServiceBackendNotFound, Egress)])
            .reports(&[drop_event(ServiceBackendNotFound)])
    };
    vec![
        refused(
            "service: a port that is none of it",
            &Builder::new(pod(), service(), &[]).tcp(40000, 81, SYN),
        )
        .with(serves(TCP, other(), 0))
        .with(is_a_pods_link),
        refused("service: another protocol", &udp(pod(), service(), (40000, 80)))
            .with(serves(TCP, other(), 0))
            .with(is_a_pods_link),
        refused("service: no backend", &syn(pod(), service()))
            .with(is_empty(0))
            .with(is_a_pods_link),
        drops(
            "service: no backend on this node",
            FromPod,
            from_pod_frame(syn(pod(), service()), 64),
            ServiceBackendNotFound,
        )
        .with(is_empty(Service::INSIDE_LOCAL)),
    ]
}

pub(super) fn looped() -> Vec<Row> {
    let pair = pair(
        (pod(), service(), 40000, 80),
        (router(), pod(), 40000, 8080),
        TCP,
        NatEntry::SERVICE,
    );
    vec![
        row(
            "a pod is its own backend",
            FromPod,
            from_pod_frame(syn(pod(), service()), 64),
            TcAction::Redirect,
        )
        .with(serves(TCP, pod(), 0))
        .becomes(
            Builder::new(router(), pod(), &[])
                .tcp(40000, 8080, SYN)
                .frame(NODE_MAC, POD_MAC, 63),
        )
        .counts(&[forwarded(Ingress)])
        .with(|sim| sim.config.monitor_aggregation = 0)
        .reports(&[FROM_ENDPOINT, TO_ENDPOINT])
        .translates(&[pair]),
        row(
            "a pod answers itself",
            FromPod,
            from_pod_frame(tcp(pod(), router(), (8080, 40000), SYN | ACK), 64),
            TcAction::Redirect,
        )
        .with(knows(&[pair]))
        .becomes(tcp(service(), pod(), (80, 40000), SYN | ACK).frame(NODE_MAC, POD_MAC, 63))
        .counts(&[forwarded(Ingress)])
        .translates(&[pair.map(|(key, entry)| {
            let flags = entry.flags | NatEntry::ESTABLISHED;
            (key, NatEntry { flags, ..entry })
        })]),
    ]
}
