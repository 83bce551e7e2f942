//! What the fuzz targets in `fuzz/` do with their input: here, so that the committed corpora are replayed on stable too.
//! A finding is a panic.

use abi::Direction;
use packet::{V4, V6};
use stages::{Route, Verdict, parse::Parsed};

use crate::{
    Program, Sim, TcAction,
    rows::{self, node},
};

/// The parser of both families on a frame. What it finds lies inside the packet.
pub fn packet(data: &[u8]) {
    let sim = Sim {
        packet: data.to_vec(),
        ..Sim::default()
    };
    let mut parsed = Parsed::default();
    if stages::parse::parse::<V6, Sim>(&sim, &mut parsed).is_ok() {
        // Eight headers of at most 2 KiB behind Ethernet and IPv6.
        assert!(parsed.offset <= 14 + 40 + 8 * 2048, "walked too far");
        assert!(parsed.wire_len(&sim) as usize <= data.len(), "longer than it is");
    }
    let mut parsed = Parsed::default();
    if stages::parse::parse::<V4, Sim>(&sim, &mut parsed).is_ok() {
        assert!(parsed.offset <= 14 + 60, "longer than an IPv4 header can be");
    }
}

/// A program of the node of the rows. The first eight bytes choose the program, the world and its settings, the rest is
/// the frame. A dropped packet is counted, and none leaves under a false address.
pub fn stages(data: &[u8]) {
    let Some((&[program, route, mtu, segment, mark, level, families, hosting], frame)) =
        data.split_first_chunk::<8>()
    else {
        return;
    };
    let program = Program::ALL[usize::from(program) % Program::ALL.len()];
    let mut sim = Sim {
        packet: frame.to_vec(),
        segment_size: u32::from(segment) * 16,
        mark: if mark == 0xff { abi::mark::DONE } else { 0 },
        route: match route % 4 {
            0 => Route::Stack,
            1 => Route::Failed,
            2 => Route::TooBig {
                mtu: u32::from(route) * 8,
            },
            _ => Route::Via {
                ifindex: u32::from(route % 8),
                next_hop: node::host(),
            },
        },
        ..node::sim()
    };
    sim.config.monitor_aggregation = level % 5;
    sim.config.enable_ipv4 = families & 1;
    sim.config.enable_ipv6 = families >> 1 & 1;
    sim.config.host_routing = hosting & 1;
    if families & 4 != 0 {
        rows::with_services(&mut sim, families & 8 != 0);
    }
    sim.endpoints
        .values_mut()
        .for_each(|endpoint| endpoint.mtu = u32::from(mtu) * 16);
    let result = sim.run(program);
    let drops: u64 = sim
        .counters
        .iter()
        .filter(|(slot, _)| *slot % 256 != 0)
        .map(|(_, counter)| counter.packets)
        .sum();
    if TcAction::from(result) == TcAction::Shot {
        assert!(drops > 0, "a drop without a count");
    }
    if let Err(dropped) = result {
        let slot = abi::reason::metric_index(dropped.reason as u8, dropped.direction);
        assert!(sim.counters.contains_key(&slot), "counted under another reason");
        assert!(matches!(
            dropped.direction,
            Direction::Egress | Direction::Ingress
        ));
    }
    if program == Program::FromPod && matches!(result, Ok(Verdict::Peer { .. } | Verdict::Neighbour { .. })) {
        assert_eq!(frame.get(6..12), Some(&node::POD_MAC[..]), "a false MAC leaves");
    }
}
