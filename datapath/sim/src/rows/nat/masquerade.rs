//! Pods in the name of their node: the way out, the way back, ports that are taken.

use abi::{
    Addr, CtKey,
    Direction::{Egress, Ingress},
    DropReason::{NoMappingForNatMasquerade, UnsupportedProtocolForNatMasquerade},
    NatEntry, Peer,
};
use packet::{
    icmp6::kind as icmp,
    protocol::{ICMPV6, TCP, UDP},
    transport::tcp_flag::{ACK, SYN},
};
use stages::{Route, nat::hash};
use zerocopy::IntoBytes;

use super::{Ends, Half, arriving, knows, pair, ping, stack_frame, tcp, tracks, translating, udp, world};
use crate::{
    Builder,
    Program::{FromNetdev, FromPod, ToNetdev},
    TcAction,
    rows::{
        Row, drop_event, dropped, forwarded,
        making::{TO_NETWORK, from_pod_frame, key, row, syn},
        node::{IFINDEX, NODE_MAC, POD_MAC, gateway, host, other, pod, remote},
    },
};

pub(super) fn rows() -> Vec<Row> {
    let unchanged = |name, packet: Vec<u8>| {
        row(name, ToNetdev, packet, TcAction::Next)
            .with(translating)
            .counts(&[forwarded(Egress)])
            .reports(&[TO_NETWORK])
    };
    let open = pair((pod(), world(), 40000, 80), (host(), world(), 40000, 80), TCP, 0);
    let asked = pair((pod(), world(), 40000, 53), (host(), world(), 40000, 53), UDP, 0);
    let pinged = pair(
        (pod(), world(), 0xabcd, 0),
        (host(), world(), 0xabcd, 0),
        ICMPV6,
        0,
    );
    vec![
        unchanged("masquerade: TCP", stack_frame(syn(pod(), world())))
            .becomes(stack_frame(syn(host(), world())))
            .translates(&[open]),
        unchanged("masquerade: UDP", stack_frame(udp(pod(), world(), (40000, 53))))
            .becomes(stack_frame(udp(host(), world(), (40000, 53))))
            .translates(&[asked]),
        unchanged(
            "masquerade: echo",
            stack_frame(ping(pod(), world(), icmp::ECHO_REQUEST, 0xabcd)),
        )
        .becomes(stack_frame(ping(host(), world(), icmp::ECHO_REQUEST, 0xabcd)))
        .translates(&[pinged]),
        row(
            "masquerade: by the FIB",
            FromPod,
            from_pod_frame(syn(pod(), world()), 64),
            TcAction::Redirect,
        )
        .with(translating)
        .with(|sim| {
            sim.route = Route::Via {
                ifindex: IFINDEX,
                next_hop: gateway(),
            }
        })
        .becomes(from_pod_frame(syn(host(), world()), 63))
        .counts(&[forwarded(Egress)])
        .reports(&[TO_NETWORK])
        .opens(&[key(pod(), world(), (40000, 80), TCP, CtKey::OUT)])
        .translates(&[open]),
        unchanged("no masquerade: another pod", stack_frame(syn(pod(), remote()))),
        unchanged("no masquerade: another node", stack_frame(syn(pod(), gateway()))).with(|sim| {
            let peer = Peer {
                flags: Peer::NODE,
                ..Peer::default()
            };
            sim.peers.insert(gateway(), peer);
        }),
        unchanged(
            "no masquerade: a prefix that is excepted",
            stack_frame(syn(pod(), world())),
        )
        .with(|sim| {
            sim.translation.plain.insert((48, world().0));
        }),
        unchanged(
            "no masquerade: an answer",
            stack_frame(tcp(pod(), world(), (80, 40000), SYN | ACK)),
        )
        .with(tracks(key(world(), pod(), (40000, 80), TCP, CtKey::IN), 0)),
        row(
            "masquerade: a connection that is known",
            ToNetdev,
            stack_frame(tcp(pod(), world(), (40000, 80), ACK)),
            TcAction::Next,
        )
        .with(knows(&[open]))
        .becomes(stack_frame(tcp(host(), world(), (40000, 80), ACK)))
        .counts(&[forwarded(Egress)])
        .translates(&[pair(
            (pod(), world(), 40000, 80),
            (host(), world(), 40000, 80),
            TCP,
            NatEntry::ESTABLISHED,
        )]),
        row(
            "masquerade: no port for this protocol",
            ToNetdev,
            stack_frame(ping(pod(), world(), icmp::ECHO_REPLY, 1)),
            TcAction::Shot,
        )
        .with(translating)
        .counts(&[dropped(UnsupportedProtocolForNatMasquerade, Egress)])
        .reports(&[drop_event(UnsupportedProtocolForNatMasquerade)]),
        row(
            "masquerade: a device without an address",
            ToNetdev,
            stack_frame(syn(pod(), world())),
            TcAction::Shot,
        )
        .with(translating)
        .with(|sim| sim.translation.masquerade.clear())
        .counts(&[dropped(NoMappingForNatMasquerade, Egress)])
        .reports(&[drop_event(NoMappingForNatMasquerade)]),
    ]
}

/// What comes back to who was masqueraded.
pub(super) fn back() -> Vec<Row> {
    let moved = pair((pod(), world(), 40000, 80), (host(), world(), 50000, 80), TCP, 0);
    let established = |pairs: [Half; 2]| {
        pairs.map(|(key, entry)| {
            let flags = entry.flags | NatEntry::ESTABLISHED;
            (key, NatEntry { flags, ..entry })
        })
    };
    let pinged = pair(
        (pod(), world(), 0xabcd, 0),
        (host(), world(), 0xbbbb, 0),
        ICMPV6,
        0,
    );
    vec![
        row(
            "answer to who was masqueraded",
            FromNetdev,
            arriving(tcp(world(), host(), (80, 50000), SYN | ACK)),
            TcAction::Redirect,
        )
        .with(knows(&[moved]))
        .with(tracks(key(pod(), world(), (40000, 80), TCP, CtKey::OUT), 0))
        .becomes(tcp(world(), pod(), (80, 40000), SYN | ACK).frame(NODE_MAC, POD_MAC, 59))
        .counts(&[forwarded(Ingress)])
        .translates(&[established(moved)]),
        row(
            "echo reply to who was masqueraded",
            FromNetdev,
            arriving(ping(world(), host(), icmp::ECHO_REPLY, 0xbbbb)),
            TcAction::Redirect,
        )
        .with(knows(&[pinged]))
        .with(tracks(key(pod(), world(), (0xabcd, 0), ICMPV6, CtKey::OUT), 0))
        .becomes(ping(world(), pod(), icmp::ECHO_REPLY, 0xabcd).frame(NODE_MAC, POD_MAC, 59))
        .counts(&[forwarded(Ingress)]),
        row(
            "to a port of the node that nobody was given",
            FromNetdev,
            arriving(tcp(world(), host(), (80, 50001), SYN | ACK)),
            TcAction::Next,
        )
        .with(knows(&[moved])),
        row(
            "half of a pair that was dropped is made again",
            FromNetdev,
            arriving(tcp(world(), host(), (80, 50000), ACK)),
            TcAction::Redirect,
        )
        .with(knows(&[moved]))
        .with(move |sim| {
            sim.translation.nat.remove(moved[0].0.as_bytes());
        })
        .with(tracks(key(pod(), world(), (40000, 80), TCP, CtKey::OUT), 0))
        .becomes(tcp(world(), pod(), (80, 40000), ACK).frame(NODE_MAC, POD_MAC, 59))
        .counts(&[forwarded(Ingress)])
        .translates(&[established(moved)]),
    ]
}

/// The first port that is tried when its own is taken.
fn next_port(from: Ends, proto: u8) -> u16 {
    let [(key, _), _] = pair(from, from, proto, 0);
    let number = hash::next(hash::connection(&key));
    32_768 + u16::try_from((u64::from(number) * 32_768) >> 32).unwrap_or(0)
}

pub(super) fn collisions() -> Vec<Row> {
    let ends = (pod(), world(), 40000, 80);
    let taken = pair(
        (other(), world(), 40000, 80),
        (host(), world(), 40000, 80),
        TCP,
        0,
    );
    let moved = pair(ends, (host(), world(), next_port(ends, TCP), 80), TCP, 0);
    let low = (pod(), world(), 1000, 80);
    let own = (host(), world(), 40000, 80);
    let leaving = |name, src: Addr, port| {
        let packet = stack_frame(Builder::new(src, world(), &[]).tcp(port, 80, SYN));
        row(name, ToNetdev, packet, TcAction::Next)
            .counts(&[forwarded(Egress)])
            .reports(&[TO_NETWORK])
    };
    let becomes = |port| stack_frame(Builder::new(host(), world(), &[]).tcp(port, 80, SYN));
    vec![
        leaving("masquerade: the port belongs to another pod", pod(), 40000)
            .with(knows(&[taken]))
            .becomes(becomes(next_port(ends, TCP)))
            .translates(&[moved]),
        leaving("masquerade: the port belonged to another pod", pod(), 40000)
            .with(knows(&[
                taken.map(|(key, entry)| (key, NatEntry { expires: 1, ..entry }))
            ]))
            .becomes(becomes(40000))
            .translates(&[pair(ends, (host(), world(), 40000, 80), TCP, 0)]),
        leaving("masquerade: the port belongs to the node", pod(), 40000)
            .with(translating)
            .with(move |sim| {
                let [_, (back, _)] = pair(ends, own, TCP, 0);
                sim.translation.sockets.insert(back.as_bytes().to_vec());
            })
            .becomes(becomes(next_port(ends, TCP)))
            .translates(&[moved]),
        leaving("masquerade: a port that is not for it", pod(), 1000)
            .with(translating)
            .becomes(becomes(next_port(low, TCP)))
            .translates(&[pair(low, (host(), world(), next_port(low, TCP), 80), TCP, 0)]),
        leaving("the node's own connection from a port of a pod", host(), 40000)
            .with(knows(&[taken]))
            .becomes(becomes(next_port(own, TCP)))
            .translates(&[pair(
                own,
                (host(), world(), next_port(own, TCP), 80),
                TCP,
                NatEntry::HOST,
            )]),
        leaving("the node's own connection", host(), 40001).with(knows(&[taken])),
        row(
            "no entry more: masquerade",
            ToNetdev,
            stack_frame(syn(pod(), world())),
            TcAction::Shot,
        )
        .with(translating)
        .with(|sim| {
            sim.translation.nat_max = 0;
            // The kernel's table never is full.
            sim.route = Route::Failed;
        })
        .counts(&[dropped(NoMappingForNatMasquerade, Egress)])
        .reports(&[drop_event(NoMappingForNatMasquerade)]),
    ]
}
