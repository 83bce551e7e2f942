//! Node ports, from outside.

use abi::{
    BackendSet, CtEntry, CtKey,
    Direction::{Egress, Ingress},
    DropReason::{DeniedByLbSrcRangeCheck, IsAClusterip, ServiceBackendNotFound},
    NatEntry, Service,
};
use packet::{
    icmp6::{kind as icmp, unreachable},
    protocol::TCP,
    transport::tcp_flag::{ACK, SYN},
};
use stages::Route;

use super::{
    Half, NODE_PORT, NODE_PORT_FLAGS, arriving, is_empty, knows, pair, serves, service, stack_frame, tcp,
    tracks, world,
};
use crate::{
    Builder,
    Program::{FromNetdev, FromPod, ToNetdev},
    TcAction,
    rows::{
        Row, drop_event, dropped, forwarded,
        making::{TO_ENDPOINT, TO_NETWORK, drops, from_pod_frame, key, row, syn},
        node::{IFINDEX, NODE_MAC, OUTSIDE_MAC, POD_MAC, gateway, host, pod, remote},
    },
};

pub(super) fn rows() -> Vec<Row> {
    let asked = |dst, port| Builder::new(world(), dst, &[]).tcp(40000, port, SYN);
    let direct = |backend| {
        pair(
            (world(), host(), 40000, NODE_PORT),
            (world(), backend, 40000, 8080),
            TCP,
            NatEntry::SERVICE,
        )
    };
    let through = pair(
        (world(), host(), 40000, NODE_PORT),
        (host(), remote(), 40000, 8080),
        TCP,
        NatEntry::SERVICE,
    );
    let established = |pairs: [Half; 2]| {
        pairs.map(|(key, entry)| {
            let flags = entry.flags | NatEntry::ESTABLISHED;
            (key, NatEntry { flags, ..entry })
        })
    };
    vec![
        {
            let packet = arriving(syn(world(), service()));
            let inside = &packet[14..];
            let answer =
                Builder::new(host(), world(), inside).icmp6(icmp::UNREACHABLE, unreachable::PORT, [0; 4]);
            row(
                "service without backends, asked from outside: the node says so, not the router of its pods",
                FromNetdev,
                packet.clone(),
                TcAction::Redirect,
            )
            .with(is_empty(Service::EXTERNAL))
            .becomes(answer.frame(NODE_MAC, OUTSIDE_MAC, 64))
            .counts(&[dropped(ServiceBackendNotFound, Ingress)])
            .reports(&[drop_event(ServiceBackendNotFound)])
        },
        row(
            "node port: backend on this node",
            FromNetdev,
            arriving(asked(host(), NODE_PORT)),
            TcAction::Redirect,
        )
        .with(serves(TCP, pod(), NODE_PORT_FLAGS))
        .becomes(asked(pod(), 8080).frame(NODE_MAC, POD_MAC, 59))
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT])
        .opens(&[key(world(), pod(), (40000, 8080), TCP, CtKey::IN)])
        .translates(&[direct(pod())]),
        row(
            "node port: answer of a backend on this node",
            FromPod,
            from_pod_frame(tcp(pod(), world(), (8080, 40000), SYN | ACK), 64),
            TcAction::Ok,
        )
        .with(knows(&[direct(pod())]))
        .with(tracks(
            key(world(), pod(), (40000, 8080), TCP, CtKey::IN),
            CtEntry::TRANSLATED,
        ))
        .becomes(from_pod_frame(
            tcp(host(), world(), (NODE_PORT, 40000), SYN | ACK),
            64,
        ))
        .counts(&[forwarded(Egress)])
        .translates(&[established(direct(pod()))]),
        row(
            "node port: backend on another node",
            FromNetdev,
            arriving(asked(host(), NODE_PORT)),
            TcAction::Ok,
        )
        .with(serves(TCP, remote(), NODE_PORT_FLAGS))
        .becomes(arriving(
            Builder::new(host(), remote(), &[]).tcp(40000, 8080, SYN),
        ))
        .translates(&[through]),
        row(
            "node port: answer of a backend on another node",
            FromNetdev,
            arriving(tcp(remote(), host(), (8080, 40000), SYN | ACK)),
            TcAction::Ok,
        )
        .with(knows(&[through]))
        .becomes(arriving(tcp(host(), world(), (NODE_PORT, 40000), SYN | ACK)))
        .translates(&[established(through)]),
        row(
            "node port: backend on another node, by the FIB",
            FromNetdev,
            arriving(asked(host(), NODE_PORT)),
            TcAction::Redirect,
        )
        .with(serves(TCP, remote(), NODE_PORT_FLAGS))
        .with(|sim| {
            sim.route = Route::Via {
                ifindex: IFINDEX,
                next_hop: gateway(),
            }
        })
        .becomes(
            Builder::new(host(), remote(), &[])
                .tcp(40000, 8080, SYN)
                .frame(OUTSIDE_MAC, NODE_MAC, 59),
        )
        .counts(&[forwarded(Egress)])
        .translates(&[through]),
        row(
            "node port: backend on the node itself",
            FromNetdev,
            arriving(asked(host(), NODE_PORT)),
            TcAction::Next,
        )
        .with(serves(TCP, host(), NODE_PORT_FLAGS))
        .becomes(arriving(asked(host(), 8080)))
        .translates(&[direct(host())]),
        row(
            "node port: answer of a backend on the node itself",
            ToNetdev,
            stack_frame(tcp(host(), world(), (8080, 40000), SYN | ACK)),
            TcAction::Next,
        )
        .with(knows(&[direct(host())]))
        .becomes(stack_frame(tcp(host(), world(), (NODE_PORT, 40000), SYN | ACK)))
        .counts(&[forwarded(Egress)])
        .reports(&[TO_NETWORK])
        .translates(&[established(direct(host()))]),
        row(
            "a port of the node that is no service",
            FromNetdev,
            arriving(asked(host(), 22)),
            TcAction::Next,
        )
        .with(serves(TCP, pod(), NODE_PORT_FLAGS)),
        drops(
            "cluster address from outside",
            FromNetdev,
            arriving(asked(service(), 80)),
            IsAClusterip,
        )
        .with(serves(TCP, pod(), 0)),
        drops(
            "load balancer: a client that may not",
            FromNetdev,
            arriving(asked(service(), 80)),
            DeniedByLbSrcRangeCheck,
        )
        .with(serves(TCP, pod(), Service::EXTERNAL | Service::SOURCE_RANGES)),
        drops(
            "node port: none on this node",
            FromNetdev,
            arriving(asked(host(), NODE_PORT)),
            ServiceBackendNotFound,
        )
        .with(|sim| {
            serves(TCP, pod(), NODE_PORT_FLAGS | Service::OUTSIDE_LOCAL)(sim);
            for service in sim.translation.services.values_mut() {
                service.outside = BackendSet::default();
            }
        }),
    ]
}
