//! What holds for every packet.

use abi::{Addr, CtKey, Endpoint};
use packet::{Packet as _, checksum, icmp6::kind, transport::tcp_flag};
use proptest::prelude::*;
use seta_sim::{
    Builder, Program, Sim, TcAction, checksum_is_valid,
    rows::{self, node},
};
use stages::{Route, Verdict, conntrack::turned};

fn program() -> impl Strategy<Value = Program> {
    prop::sample::select(Program::ALL.to_vec())
}

fn route() -> impl Strategy<Value = Route> {
    prop_oneof![
        Just(Route::Stack),
        Just(Route::Failed),
        Just(Route::Via {
            ifindex: 2,
            next_hop: node::host()
        }),
        (0u32..2000).prop_map(|mtu| Route::TooBig { mtu }),
    ]
}

/// A packet of a row with some bytes changed and its end cut or grown: close enough to real ones to get far.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let rows: Vec<Vec<u8>> = rows::all().into_iter().map(|row| row.before.packet).collect();
    (
        prop::sample::select(rows),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        0usize..1600,
    )
        .prop_map(|(mut packet, changes, len)| {
            for (index, byte) in changes {
                let at = index.index(packet.len());
                packet[at] = byte;
            }
            if len < 200 {
                packet.resize(len, 0x5a);
            }
            packet
        })
}

fn run(
    packet: Vec<u8>,
    program: Program,
    route: Route,
    change: impl FnOnce(&mut Sim),
) -> (Sim, Result<Verdict, stages::Dropped>) {
    let mut sim = Sim {
        packet,
        route,
        ..node::sim()
    };
    change(&mut sim);
    let result = sim.run(program);
    (sim, result)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Garbage ends in a verdict, is counted at most once as a drop, and is never delivered by accident.
    #[test]
    fn garbage_ends_in_a_verdict(packet in prop::collection::vec(any::<u8>(), 0..300), program in program(), route in route()) {
        let (sim, result) = run(packet, program, route, |_| {});
        let drops: u64 = sim.counters.iter().filter(|(slot, _)| *slot % 256 != 0).map(|(_, counter)| counter.packets).sum();
        prop_assert_eq!(drops, u64::from(TcAction::from(result) == TcAction::Shot));
    }

    /// The same for packets that are nearly right, with every MTU and segment size.
    #[test]
    fn nearly_right_packets_end_in_a_verdict(
        packet in mutated(), program in program(), route in route(), mtu in 0u32..1600, segment in 0u32..1600, v4 in any::<bool>(),
    ) {
        let (sim, result) = run(packet, program, route, |sim| {
            sim.segment_size = segment;
            sim.config.enable_ipv4 = v4.into();
            sim.endpoints.values_mut().for_each(|endpoint| endpoint.mtu = mtu);
        });
        let drops: u64 = sim.counters.iter().filter(|(slot, _)| *slot % 256 != 0).map(|(_, counter)| counter.packets).sum();
        // A packet that is answered with an error counts as dropped and leaves as the answer.
        prop_assert!(drops <= 1 || result.is_err());
        if TcAction::from(result) == TcAction::Shot {
            prop_assert!(drops >= 1, "a drop without a count");
        }
    }

    /// A pod never gets a packet out under another address or MAC.
    #[test]
    fn no_spoofed_packet_leaves(packet in mutated(), route in route()) {
        let (sim, result) = run(packet.clone(), Program::FromPod, route, |_| {});
        let answered = sim.mark == abi::mark::DONE && matches!(result, Ok(Verdict::Device { .. }));
        if matches!(result, Ok(Verdict::Peer { .. } | Verdict::Neighbour { .. })) && !answered {
            prop_assert_eq!(&packet[6..12], &node::POD_MAC[..]);
            if packet[12..14] == [0x86, 0xdd] {
                prop_assert_eq!(&packet[22..38], &node::pod().0[..]);
            }
        }
    }

    /// What we write ourselves has a valid checksum: advertisements, echo replies, errors.
    #[test]
    fn answers_have_valid_checksums(id in any::<[u8; 4]>(), payload in prop::collection::vec(any::<u8>(), 0..1400), hop in 0u8..3) {
        let echo = Builder::new(node::pod(), node::router(), &payload).icmp6(kind::ECHO_REQUEST, 0, id);
        let (sim, result) = run(echo.frame(node::POD_MAC, node::NODE_MAC, 64), Program::FromPod, Route::Stack, |_| {});
        prop_assert_eq!(TcAction::from(result), TcAction::Redirect);
        prop_assert!(checksum_is_valid(&sim.packet));

        let expired = Builder::new(node::pod(), node::other(), &payload).udp(1, 2);
        let (sim, result) = run(expired.frame(node::POD_MAC, node::NODE_MAC, hop.min(1)), Program::FromPod, Route::Stack, |_| {});
        prop_assert_eq!(TcAction::from(result), TcAction::Redirect);
        prop_assert!(checksum_is_valid(&sim.packet));
        prop_assert!(sim.packet.len() <= 14 + 1280, "longer than the least MTU");
        prop_assert_eq!(&sim.packet[22..38], &node::router().0[..]);
    }

    /// Incremental update and full sum agree.
    #[test]
    fn incremental_checksum_is_the_full_one(mut bytes in prop::collection::vec(any::<u8>(), 4..60), new in any::<[u8; 2]>()) {
        let field = (!checksum::sum(&bytes)).to_be_bytes();
        let old = [bytes[0], bytes[1]];
        bytes[..2].copy_from_slice(&new);
        let updated = u16::from_be_bytes(checksum::update(field, old, new));
        let full = !checksum::sum(&bytes);
        // 0 and 0xffff are the same number in one's complement.
        prop_assert!(updated == full || (updated ^ full == 0xffff && (updated == 0 || full == 0)));
    }

    /// The sum of two even halves is the sum of the whole.
    #[test]
    fn sums_add_up(left in prop::collection::vec(any::<[u8; 2]>(), 0..40), right in prop::collection::vec(any::<u8>(), 0..80)) {
        let left = left.concat();
        let whole = [left.clone(), right.clone()].concat();
        prop_assert_eq!(checksum::add(checksum::sum(&left), checksum::sum(&right)), checksum::sum(&whole));
    }

    /// A reply finds the entry of the packet it answers, and turning a key twice changes nothing.
    #[test]
    fn replies_find_their_connection(ports in any::<(u16, u16)>(), udp in any::<bool>()) {
        let build = |src: Addr, dst: Addr, from: u16, to: u16, flags| {
            let builder = Builder::new(src, dst, &[1, 2, 3]);
            if udp { builder.udp(from, to) } else { builder.tcp(from, to, flags) }
        };
        let first = build(node::pod(), node::remote(), ports.0, ports.1, tcp_flag::SYN);
        let (mut sim, _) = run(first.frame(node::POD_MAC, node::NODE_MAC, 64), Program::FromPod, Route::Via { ifindex: 2, next_hop: node::host() }, |_| {});
        prop_assert_eq!(sim.connections.len(), 1);
        sim.mark = 0;
        sim.packet = build(node::remote(), node::pod(), ports.1, ports.0, tcp_flag::SYN | tcp_flag::ACK).frame(node::OUTSIDE_MAC, node::NODE_MAC, 60);
        let result = sim.run(Program::FromNetdev);
        prop_assert_eq!(result, Ok(Verdict::Peer { ifindex: node::IFINDEX }));
        prop_assert_eq!(sim.connections.len(), 1, "the reply made an entry of its own");
        prop_assert_eq!(sim.connections.values().next().map(|entry| entry.packets), Some(2));

        let key = CtKey { src: node::pod(), dst: node::remote(), src_port: ports.0.to_be_bytes(), dst_port: ports.1.to_be_bytes(), ..CtKey::default() };
        let other = CtKey { src: key.dst, dst: key.src, src_port: key.dst_port, dst_port: key.src_port, dir: CtKey::IN, ..key };
        prop_assert_eq!(turned(&key), other);
        prop_assert_eq!(turned(&other), key);
    }

    /// A hop limit goes down by one, and only it and the MACs change.
    #[test]
    fn forwarding_changes_hop_limit_and_macs_only(hop in 2u8..=255, payload in prop::collection::vec(any::<u8>(), 0..100)) {
        let builder = Builder::new(node::pod(), node::other(), &payload).udp(9, 10);
        let (sim, _) = run(builder.clone().frame(node::POD_MAC, node::NODE_MAC, hop), Program::FromPod, Route::Stack, |_| {});
        prop_assert_eq!(sim.packet, builder.frame(node::NODE_MAC, node::OTHER_MAC, hop - 1));
    }
}

/// A full table drops what needs an entry, with its reason.
#[test]
fn full_table_drops_with_its_reason() {
    let packet = Builder::new(node::pod(), node::host(), &[])
        .tcp(1, 2, tcp_flag::SYN)
        .frame(node::POD_MAC, node::NODE_MAC, 64);
    let (_, result) = run(packet, Program::FromPod, Route::Stack, |sim| {
        sim.connections_max = 0;
    });
    assert_eq!(
        result.map_err(|dropped| dropped.reason),
        Err(abi::DropReason::CtMapInsertionFailed)
    );
}

/// Errors are sent while there are tokens, and again when time has passed.
#[test]
fn errors_are_limited() {
    let packet =
        Builder::new(node::pod(), node::other(), &[])
            .udp(1, 2)
            .frame(node::POD_MAC, node::NODE_MAC, 1);
    let mut sim = node::sim();
    let mut sent = 0;
    for _ in 0..200 {
        sim.packet.clone_from(&packet);
        sim.mark = 0;
        sent += u32::from(sim.run(Program::FromPod).is_ok());
    }
    assert_eq!(sent, 50);
    sim.now += 1_000_000_000;
    sim.packet.clone_from(&packet);
    assert!(sim.run(Program::FromPod).is_ok());
    assert_eq!(sim.ifindex(), node::IFINDEX);
}

/// Lifetimes: SYN, established, both closed; and an entry whose time is over is a new connection.
#[test]
fn connections_age_by_their_state() {
    let mut sim = node::sim();
    let config = sim.config;
    let mut step = |src: Addr, dst: Addr, ports: (u16, u16), flags: u8, advance: u64| {
        sim.now += advance;
        sim.mark = 0;
        let builder = Builder::new(src, dst, &[]).tcp(ports.0, ports.1, flags);
        let (program, packet) = if src == node::pod() {
            (Program::FromPod, builder.frame(node::POD_MAC, node::NODE_MAC, 64))
        } else {
            (
                Program::FromNetdev,
                builder.frame(node::OUTSIDE_MAC, node::NODE_MAC, 64),
            )
        };
        sim.packet = packet;
        sim.run(program).unwrap();
        let entry = *sim.connections.values().next().unwrap();
        (entry.expires - sim.now, entry.packets)
    };
    let (pod, remote) = (node::pod(), node::remote());
    assert_eq!(
        step(pod, remote, (40000, 80), tcp_flag::SYN, 0),
        (config.ct_syn, 1)
    );
    assert_eq!(
        step(remote, pod, (80, 40000), tcp_flag::SYN | tcp_flag::ACK, 1),
        (config.ct_tcp, 2)
    );
    assert_eq!(
        step(pod, remote, (40000, 80), tcp_flag::FIN | tcp_flag::ACK, 1),
        (config.ct_tcp, 3)
    );
    assert_eq!(
        step(remote, pod, (80, 40000), tcp_flag::FIN | tcp_flag::ACK, 1),
        (config.ct_close, 4)
    );
    assert_eq!(
        step(pod, remote, (40000, 80), tcp_flag::SYN, 1),
        (config.ct_syn, 1),
        "opened again"
    );
    assert_eq!(
        step(pod, remote, (40000, 80), tcp_flag::ACK, config.ct_syn + 1),
        (config.ct_tcp, 1),
        "too late"
    );
}

/// An endpoint without a MAC or device belongs to nobody's link.
#[test]
fn an_empty_endpoint_takes_nothing() {
    let packet =
        Builder::new(node::remote(), node::pod(), &[])
            .udp(1, 2)
            .frame(node::OUTSIDE_MAC, node::NODE_MAC, 60);
    let (_, result) = run(packet, Program::ToPod, Route::Stack, |sim| {
        sim.endpoints.insert(node::pod(), Endpoint::default());
    });
    assert!(result.is_err());
}

proptest! {
    /// The same on a node with services.
    #[test]
    fn nearly_right_packets_to_services_are_judged(
        frame in mutated(), program in 0..5u8, route in any::<u8>(), is_local in any::<bool>(),
    ) {
        let mut input = vec![program, route, 0, 0, 0, 3, if is_local { 14 } else { 6 }, 1];
        input.extend(frame);
        seta_sim::fuzz::stages(&input);
    }
}
