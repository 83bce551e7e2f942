//! Counters and events.

use abi::{
    Addr, Direction, DropNotify, EventHeader, TraceNotify,
    event::{CAPTURE, ObservationPoint, kind},
    reason::metric_index,
    tables::identity,
};
use packet::{Ethernet, Family, V4, V6, ethernet::ether_type};

use crate::{Context, Verdict, parse::Parsed, verdict::Dropped};

/// Version of the record layouts.
const VERSION: u16 = 1;
/// Bit of the flags of a record: the packet is IPv6.
const FLAG_V6: u8 = 1;

/// The level of aggregation (`abi::Config::monitor_aggregation`) from which packets are not reported on arrival.
const AGGREGATE_ARRIVAL: u8 = 1;
/// The level from which conntrack decides what is reported.
pub(crate) const AGGREGATE_CONNECTIONS: u8 = 3;

/// A place on the way of a packet that can be reported.
#[derive(Clone, Copy, Debug)]
pub struct Sighting {
    /// Where.
    pub point: ObservationPoint,
    /// Endpoint number that reports; 0: the node.
    pub source: u16,
    /// Endpoint number of the receiver when it is local.
    pub dst_id: u16,
    /// Interface the packet leaves through, or came in by.
    pub ifindex: u32,
}

/// Counts a packet that was forwarded.
#[inline(always)]
pub fn count_forwarded<C: Context>(cx: &mut C, direction: Direction) {
    cx.count(metric_index(0, direction), cx.len());
}

/// Whether points where packets arrive are reported.
#[inline(always)]
pub fn wants_arrivals<C: Context>(cx: &C) -> bool {
    cx.config().monitor_aggregation < AGGREGATE_ARRIVAL
}

/// Whether a packet that conntrack has seen is reported.
#[inline(always)]
pub fn wants<C: Context>(cx: &C, parsed: &Parsed) -> bool {
    parsed.tracked.report || cx.config().monitor_aggregation < AGGREGATE_CONNECTIONS
}

/// Sends a trace event. Identities are looked up here: few packets are reported.
#[inline(always)]
pub fn trace<C: Context>(cx: &mut C, parsed: &Parsed, sighting: Sighting) {
    let len = cx.len();
    let captured = len.min(CAPTURE as u32);
    let event = TraceNotify {
        header: EventHeader {
            kind: kind::TRACE,
            subtype: sighting.point as u8,
            source: sighting.source,
            hash: cx.hash(),
            len_orig: len,
            len_cap: captured as u16,
            version: VERSION,
        },
        src_label: identity_of(cx, parsed.src()),
        dst_label: identity_of(cx, parsed.dst()),
        dst_id: sighting.dst_id,
        reason: parsed.tracked.reason as u8,
        flags: if parsed.is_v6 { FLAG_V6 } else { 0 },
        ifindex: sighting.ifindex,
        orig_addr: Addr::UNSPECIFIED,
        time: cx.now(),
    };
    cx.emit(kind::TRACE, &event, captured);
}

/// The last thing every entry function does: counts and reports what is not forwarded.
#[inline(always)]
pub(crate) fn conclude<C: Context>(cx: &mut C, result: Result<Verdict, Dropped>) -> Result<Verdict, Dropped> {
    match result {
        Ok(Verdict::Consumed(reason)) => {
            cx.count(metric_index(reason as u8, Direction::Egress), cx.len());
        }
        Err(dropped) => cx.dropped(dropped),
        Ok(_) => {}
    }
    result
}

/// Counts and reports a drop. The packet is read again, as far as it can be.
#[inline(always)]
pub fn dropped<C: Context>(cx: &mut C, dropped: Dropped) {
    let len = cx.len();
    cx.count(metric_index(dropped.reason as u8, dropped.direction), len);
    let captured = len.min(CAPTURE as u32);
    let mut event = DropNotify {
        header: EventHeader {
            kind: kind::DROP,
            subtype: dropped.reason as u8,
            source: 0,
            hash: cx.hash(),
            len_orig: len,
            len_cap: captured as u16,
            version: VERSION,
        },
        direction: dropped.direction as u8,
        ifindex: cx.ifindex(),
        time: cx.now(),
        ..DropNotify::default()
    };
    let mut ends = Ends::default();
    if read_ends(cx, &mut ends) {
        event.src_label = identity_of(cx, &ends.src);
        event.dst_label = identity_of(cx, &ends.dst);
        event.flags = ends.flags;
        let receiver = cx.endpoint(&ends.dst).map_or(0, |endpoint| endpoint.id);
        event.dst_id = u32::from(receiver);
        if matches!(dropped.direction, Direction::Ingress) {
            event.header.source = receiver;
        }
    }
    if matches!(dropped.direction, Direction::Egress)
        && let Some(addr) = cx.device(cx.ifindex())
        && let Some((id, identity)) = cx.endpoint(&addr).map(|pod| (pod.id, pod.identity))
    {
        // The device tells who sent it, also when the source address lies.
        event.header.source = id;
        event.src_label = identity;
    }
    cx.emit(kind::DROP, &event, captured);
}

/// Identity behind an address: of a local endpoint, else of the cluster, else the world.
#[inline(never)]
pub(crate) fn identity_of<C: Context>(cx: &C, addr: &Addr) -> u32 {
    if let Some(identity) = cx.endpoint(addr).map(|endpoint| endpoint.identity) {
        return identity;
    }
    cx.peer(addr).map_or(identity::WORLD, |peer| peer.identity)
}

/// Who a packet is from and for, as far as it can be read.
#[derive(Default)]
struct Ends {
    src: Addr,
    dst: Addr,
    flags: u8,
}

#[inline(never)]
fn read_ends<C: Context>(cx: &C, ends: &mut Ends) -> bool {
    match cx.load::<[u8; 2]>(Ethernet::TYPE) {
        Ok(ether_type::IPV6) => {
            let Ok([src, dst]) = cx.load::<[Addr; 2]>(Ethernet::LEN + V6::ADDRESSES) else {
                return false;
            };
            *ends = Ends {
                src,
                dst,
                flags: FLAG_V6,
            };
            true
        }
        Ok(ether_type::IPV4) => {
            let Ok([src, dst]) = cx.load::<[[u8; 4]; 2]>(Ethernet::LEN + V4::ADDRESSES) else {
                return false;
            };
            *ends = Ends {
                src: Addr::from_v4(src),
                dst: Addr::from_v4(dst),
                flags: 0,
            };
            true
        }
        _ => false,
    }
}
