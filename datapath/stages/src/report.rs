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
    let mut end = Addr::UNSPECIFIED;
    if read_end(cx, SENDER, &mut end) {
        event.src_label = identity_of(cx, &end);
    }
    if read_end(cx, RECEIVER, &mut end) {
        event.dst_label = identity_of(cx, &end);
        event.flags = if end.is_v4() { 0 } else { FLAG_V6 };
        let receiver = cx.endpoint(&end).map_or(0, |endpoint| endpoint.id);
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

/// Which of the two addresses of a header.
const SENDER: u32 = 0;
const RECEIVER: u32 = 1;

/// Reads an address of a packet, if it is there.
#[inline(never)]
fn read_end<C: Context>(cx: &C, which: u32, end: &mut Addr) -> bool {
    match cx.load(Ethernet::TYPE) {
        Ok(ether_type::IPV6) => {
            let first = Ethernet::LEN + V6::ADDRESSES;
            let Ok(addr) = cx.load(first.wrapping_add(which.wrapping_mul(16))) else {
                return false;
            };
            *end = addr;
        }
        Ok(ether_type::IPV4) => {
            let first = Ethernet::LEN + V4::ADDRESSES;
            let Ok(addr) = cx.load(first.wrapping_add(which.wrapping_mul(4))) else {
                return false;
            };
            *end = Addr::from_v4(addr);
        }
        _ => return false,
    }
    true
}
