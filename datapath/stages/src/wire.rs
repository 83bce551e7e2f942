//! The fast lane in front of `from_netdev`: node ports, load balancers and external addresses whose backend is on another
//! node, and what comes back.
//!
//! It takes a packet only when all of its way is known and nothing but the packet and the counter of forwarded packets
//! changes: the pair is there and need not be renewed, the other end is not on this node, the next hop's link-layer address
//! is known and behind the device that the packet came by. Every other packet is left untouched, and `from_netdev` does with
//! it what it always does. So there is one place where a connection is opened, renewed and ended, where a backend is chosen
//! and a sender told; and as every pair is renewed every few seconds, neighbours are probed as if there were no lane.

use abi::{Config, Direction, Endpoint, NatEntry};
use packet::{
    Ethernet, Family, Fragment, V6, checksum,
    ethernet::ether_type,
    ip::Ipv6,
    protocol,
    transport::{Tcp, Udp},
};

use crate::{
    Context, RouteQuery,
    nat::{self, Workspace, balance, dsr, pair, read_key},
    parse::{self, Parsed},
    report,
    verdict::{Dropped, access},
};

/// Link-layer addresses that a packet leaves with, receiver first, as they stand in the header.
pub type Hop = [[u8; 6]; 2];

/// A packet at the device, before the stack has seen it.
pub trait Wire: Context {
    /// How a packet goes on by the device that it came by; `None` if it leaves by another one or not at all, is too long,
    /// or the neighbour is not known.
    fn hop(&mut self, query: &RouteQuery<'_>) -> Option<Hop>;
}

/// What becomes of a packet in the fast lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Untouched on to the stack and its programs.
    Leave,
    /// Out by the device that it came by.
    Turn,
}

/// Program `from_wire`.
#[inline(always)]
pub fn from_wire<W: Wire>(cx: &mut W) -> Result<Lane, Dropped> {
    // Who wants to hear of every arrival hears of it in `from_netdev`.
    if !is_open(&cx.config()) || report::wants_arrivals(cx) {
        return Ok(Lane::Leave);
    }
    if cx.load(Ethernet::TYPE) != Ok(ether_type::IPV6) {
        return Ok(Lane::Leave);
    }
    let mut parsed = Parsed::default();
    if parse::parse::<V6, W>(cx, &mut parsed).is_err() || !is_plain(&parsed) {
        return Ok(Lane::Leave);
    }
    let flags = match cx.endpoint(parsed.dst()) {
        Some(own) if !nat::is_pod(&own) => own.flags,
        _ => return Ok(Lane::Leave),
    };
    if !is_finished(cx, &parsed) {
        return Ok(Lane::Leave);
    }
    let result = cx
        .with_workspace(|cx, work| turn(cx, work, &mut parsed, flags))
        .unwrap_or(Ok(Lane::Leave));
    if let Err(dropped) = result {
        report::dropped(cx, dropped);
    }
    result
}

/// Whether there is anything to do for the lane.
#[inline(always)]
fn is_open(config: &Config) -> bool {
    config.services != 0 && config.host_routing != 0 && V6::is_enabled(config)
}

/// Whether a packet is one of a connection, in one piece, and may go on.
#[inline(always)]
fn is_plain(parsed: &Parsed) -> bool {
    matches!(parsed.protocol, protocol::TCP | protocol::UDP)
        && matches!(parsed.fragment, Fragment::Whole)
        && parsed.growth == 0
        && parsed.hop_limit > 1
}

/// Whether the checksum is one. A sender on the same machine (a veth pair) leaves it to the device: the field then holds
/// the sum of the pseudo-header. The stack remembers that beside the packet and makes up for it, but of what turns round
/// here it remembers nothing. A real checksum looks like that once in 65 535 times, and that packet goes the other way.
///
/// The checksum of a packet inside a tunnel may be unfinished, too, and cannot be told: a device whose other end is a
/// process of this machine (veth, tap) is therefore no place for this program.
#[inline(never)]
fn is_finished<W: Wire>(cx: &W, parsed: &Parsed) -> bool {
    let field = if parsed.protocol == protocol::TCP {
        Tcp::CHECKSUM
    } else {
        Udp::CHECKSUM
    };
    let Ok(field) = cx.load::<[u8; 2]>(parsed.offset.wrapping_add(field)) else {
        return false;
    };
    let Ok(payload) = cx.load::<[u8; 2]>(Ethernet::LEN.wrapping_add(Ipv6::PAYLOAD_LEN)) else {
        return false;
    };
    let payload = u32::from(u16::from_be_bytes(payload));
    let first = Ethernet::LEN.wrapping_add(Ipv6::LEN);
    // Bytes behind the packet are not covered by anything.
    if cx.len() != first.wrapping_add(payload) {
        return false;
    }
    let len = payload.saturating_sub(parsed.offset.saturating_sub(first));
    let sum = checksum::pseudo_header(parsed.src(), parsed.dst(), len as u16, parsed.protocol);
    let field = u16::from_be_bytes(field);
    // One's complement has two zeros.
    field != sum && !(is_zero(field) && is_zero(sum)) && field != 0
}

#[inline(always)]
fn is_zero(sum: u16) -> bool {
    matches!(sum, 0 | 0xffff)
}

/// Translates a packet and turns it round, if that is all there is to do.
#[inline(always)]
fn turn<W: Wire>(cx: &mut W, work: &mut Workspace, parsed: &mut Parsed, flags: u16) -> Result<Lane, Dropped> {
    if read_key(cx, work, parsed).is_err()
        || !pair::stands(cx, work, parsed)
        || !is_known(cx, work, flags)
        // The option of direct server return is put in front by tc, which can make a packet longer and answer for it.
        || dsr::growth(cx, &work.entry, parsed) != 0
        || cx.endpoint(&work.entry.dst).is_some()
    {
        return Ok(Lane::Leave);
    }
    let query = RouteQuery {
        src: &work.entry.src,
        dst: &work.entry.dst,
        flow_info: parsed.flow_info,
        ifindex: cx.ifindex(),
        len: parsed.wire_len(cx).min(u32::from(u16::MAX)) as u16,
        protocol: parsed.protocol,
        is_v6: true,
    };
    let Some(hop) = cx.hop(&query) else {
        return Ok(Lane::Leave);
    };
    nat::rewrite(cx, work, parsed).map_err(Dropped::ingress)?;
    V6::decrement_hop_limit(cx, parsed.hop_limit)
        .and_then(|()| cx.store(Ethernet::ADDRESSES, &hop))
        .map_err(access)
        .map_err(Dropped::ingress)?;
    report::count_forwarded(cx, Direction::Egress);
    Ok(Lane::Turn)
}

/// Whether `balance::inbound` would go by this pair.
#[inline(always)]
fn is_known<W: Wire>(cx: &W, work: &mut Workspace, flags: u16) -> bool {
    let is_service = flags & Endpoint::SERVICE != 0;
    if work.entry.flags & NatEntry::REPLY != 0 {
        return !is_service && nat::is_ours(cx, work.key.dst_port);
    }
    work.entry.flags & NatEntry::SERVICE != 0 && (is_service || !balance::is_for_stack(cx, work))
}
