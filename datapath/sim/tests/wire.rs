//! The fast lane against `from_netdev`, packet by packet: what it leaves it has not touched, and what it turns round is
//! what `from_netdev` would have sent, with the same tables and counters behind it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use abi::{Addr, Backend, BackendKey, Endpoint, MemberKey, NatEntry, Service};
use packet::{protocol, transport::tcp_flag};
use proptest::prelude::*;
use seta_sim::{
    Builder, DEVICE_MAC, NEIGHBOUR_MAC, Program, Sim,
    rows::{
        self,
        node::{IFINDEX, NODE_MAC, OUTSIDE_MAC, gateway, host, remote},
    },
};
use stages::{Lane, Route, Verdict, from_wire};

/// Runs both; tells what the fast lane did.
fn agree(sim: &Sim, name: &str) -> Lane {
    let (mut fast, mut slow) = (sim.clone(), sim.clone());
    let lane = from_wire(&mut fast).unwrap_or_else(|dropped| panic!("{name}: {dropped:?}"));
    if lane == Lane::Leave {
        assert_eq!(fast.packet, sim.packet, "{name}");
        assert_eq!(fast.snapshot(), sim.snapshot(), "{name}");
        let times = |sim: &Sim| sim.translation.entries().collect::<Vec<_>>();
        assert_eq!(times(&fast), times(sim), "{name}");
        return lane;
    }
    let verdict = slow.run(Program::FromNetdev);
    assert!(
        matches!(verdict, Ok(Verdict::Neighbour { ifindex, .. }) if ifindex == sim.ifindex),
        "{name}: {verdict:?}"
    );
    assert_eq!(fast.packet[14..], slow.packet[14..], "{name}");
    assert_eq!(fast.packet[..6], NEIGHBOUR_MAC, "{name}");
    assert_eq!(fast.packet[6..12], DEVICE_MAC, "{name}");
    assert_eq!(fast.snapshot(), slow.snapshot(), "{name}");
    let times = |sim: &Sim| sim.translation.entries().collect::<Vec<_>>();
    assert_eq!(times(&fast), times(&slow), "{name}");
    lane
}

#[test]
fn both_ways_agree_on_every_row() {
    for row in rows::all() {
        let mut sim = row.before.clone();
        agree(&sim, row.name);
        sim.route = Route::Via {
            ifindex: sim.ifindex,
            next_hop: gateway(),
        };
        agree(&sim, row.name);
    }
}

fn world() -> Addr {
    Addr("2001:db8:1::9".parse::<std::net::Ipv6Addr>().unwrap().octets())
}

/// A node that has opened a connection of a client outside to a backend on another node, and a packet of it.
#[derive(Clone, Debug)]
struct Case {
    is_tcp: bool,
    is_back: bool,
    flags: u8,
    hop_limit: u8,
    age: u64,
    is_unfinished: bool,
    padding: usize,
    route: u8,
    payload: Vec<u8>,
}

fn case() -> impl Strategy<Value = Case> {
    (
        any::<(bool, bool)>(),
        prop::sample::select(vec![
            0,
            tcp_flag::ACK,
            tcp_flag::SYN,
            tcp_flag::FIN,
            tcp_flag::RST,
        ]),
        prop::sample::select(vec![0u8, 1, 2, 60, 255]),
        prop::sample::select(vec![0, 1_000_000_000, 3_000_000_000, 100_000_000_000_000]),
        prop::bool::weighted(0.2),
        prop::sample::select(vec![0, 0, 0, 6]),
        prop::sample::select(vec![0u8, 0, 0, 1, 2]),
        prop::collection::vec(any::<u8>(), 0..64),
    )
        .prop_map(
            |((is_tcp, is_back), flags, hop_limit, age, is_unfinished, padding, route, payload)| Case {
                is_tcp,
                is_back,
                flags,
                hop_limit,
                age,
                is_unfinished,
                padding,
                route,
                payload,
            },
        )
}

impl Case {
    /// The node after the first packets, with this packet at the device.
    fn sim(&self) -> Sim {
        let mut sim = Sim::default();
        let via = Route::Via {
            ifindex: IFINDEX,
            next_hop: gateway(),
        };
        sim.route = via;
        sim.config.services = 1;
        sim.config.router_v6 = rows::node::router();
        sim.translation.masquerade.insert(IFINDEX, host());
        sim.endpoints.insert(
            host(),
            Endpoint {
                flags: Endpoint::HOST,
                ..Endpoint::default()
            },
        );
        self.serve(&mut sim);
        let first = self.packet(false, tcp_flag::SYN, 60);
        let answer = self.packet(true, tcp_flag::SYN | tcp_flag::ACK, 60);
        let second = self.packet(false, tcp_flag::ACK, 60);
        for packet in [first, answer, second] {
            sim.packet = packet;
            assert!(matches!(
                sim.run(Program::FromNetdev),
                Ok(Verdict::Neighbour { .. })
            ));
        }
        sim.now += self.age;
        sim.route = match self.route {
            0 => via,
            1 => Route::Stack,
            _ => Route::Via {
                ifindex: IFINDEX + 1,
                next_hop: gateway(),
            },
        };
        sim.mark = 0;
        sim.packet = self.packet(self.is_back, self.flags, self.hop_limit);
        if self.is_unfinished {
            self.unfinish(&mut sim.packet);
        }
        sim.packet.extend(vec![0; self.padding]);
        sim
    }

    fn serve(&self, sim: &mut Sim) {
        let set = abi::BackendSet { id: 7, count: 1 };
        let proto = if self.is_tcp { protocol::TCP } else { protocol::UDP };
        let (addr, port) = (remote(), 8080u16.to_be_bytes());
        sim.translation.services.insert(
            abi::ServiceKey {
                addr: Addr::UNSPECIFIED,
                port: 30080u16.to_be_bytes(),
                proto,
                family: 6,
                pad: [0; 4],
            },
            Service {
                inside: set,
                outside: set,
                number: 3,
                affinity: 0,
                flags: Service::NODE_PORT | Service::EXTERNAL,
            },
        );
        sim.translation.backends.insert(
            BackendKey { set: 7, slot: 0 },
            Backend {
                addr,
                port,
                flags: 0,
                number: 1,
            },
        );
        let member = MemberKey {
            addr,
            port,
            pad: [0; 2],
            service: 3,
        };
        sim.translation.members.insert(member, 3);
    }

    fn packet(&self, is_back: bool, flags: u8, hop_limit: u8) -> Vec<u8> {
        let (src, dst, ports) = if is_back {
            (remote(), host(), (8080, 40000))
        } else {
            (world(), host(), (40000, 30080))
        };
        let builder = Builder::new(src, dst, &self.payload);
        let builder = if self.is_tcp {
            builder.tcp(ports.0, ports.1, flags)
        } else {
            builder.udp(ports.0, ports.1)
        };
        builder.frame(OUTSIDE_MAC, NODE_MAC, hop_limit)
    }

    /// Leaves the checksum to the device, as Linux does.
    fn unfinish(&self, packet: &mut [u8]) {
        let field = 54 + if self.is_tcp { 16 } else { 6 };
        let addr = |at: usize| Addr(packet[at..at + 16].try_into().unwrap());
        let len = u16::try_from(packet.len() - 54).unwrap();
        let sum = packet::checksum::pseudo_header(&addr(22), &addr(38), len, packet[20]);
        packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    }

    /// Whether the fast lane is there for this very packet.
    fn is_for_it(&self) -> bool {
        let is_quiet = !self.is_tcp || self.flags & (tcp_flag::FIN | tcp_flag::RST | tcp_flag::SYN) == 0;
        is_quiet
            && self.hop_limit > 1
            && self.age <= 1_000_000_000
            && !self.is_unfinished
            && self.padding == 0
            && self.route == 0
    }
}

proptest! {
    #[test]
    fn both_ways_agree_on_every_packet_of_a_connection(case in case()) {
        let sim = case.sim();
        let pairs: Vec<NatEntry> = sim.translation.entries().map(|(_, entry)| entry).collect();
        prop_assert_eq!(pairs.len(), 2);
        let lane = agree(&sim, "case");
        if case.is_for_it() {
            prop_assert_eq!(lane, Lane::Turn);
            let mut turned = sim.clone();
            let _ = from_wire(&mut turned);
            prop_assert!(seta_sim::checksum_is_valid(&turned.packet));
        } else if case.is_unfinished || case.padding != 0 || case.route != 0 || case.hop_limit < 2 {
            prop_assert_eq!(lane, Lane::Leave);
        }
    }
}
