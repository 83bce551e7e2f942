//! Errors a router sends: destination unreachable, packet too big and time exceeded (RFC 4443 §3.1 to §3.3).
//!
//! A packet that was translated here is translated back first: its sender would not know it otherwise.
//!
//! The packet itself becomes the error: cut so that the whole fits the least MTU, moved back, and sent where it came
//! from. An IPv4 packet goes to the stack instead, which sends its own errors.
//!
//! A packet whose checksum the sender left to the hardware keeps that request, and whatever device it leaves by may
//! still fulfil it: inside the message. The message's own checksum is made for that moment ([`left_to_hardware`]). On
//! virtual links nobody fulfils the request, and the receiver takes the message as verified.

use abi::{Addr, Direction, DropReason, tables::bucket};
use packet::{
    Ethernet, Family, Fragment, V6, checksum,
    icmp6::{self, Icmp6},
    ip::{Ipv6, Scope},
    protocol,
    transport::{Tcp, Udp},
};
use zerocopy::IntoBytes;

use crate::{
    Context, Verdict,
    parse::Parsed,
    rate::Rate,
    verdict::{Dropped, access},
};

/// Least MTU of an IPv6 link; no error message is longer (RFC 4443 §2.4 c).
const MINIMUM_MTU: u32 = 1280;
/// Bytes in front of the packet inside.
const HEADERS: u32 = Ipv6::LEN + Icmp6::LEN;
/// Hop limit of our own messages.
const HOP_LIMIT: u8 = 64;
/// 100 per second and CPU, 50 at once.
const LIMIT: Rate = Rate {
    slot: bucket::ICMP_ERRORS,
    interval: 10_000_000,
    burst: 50,
};

/// The hop limit ends here.
#[inline(always)]
pub fn time_exceeded<F: Family, C: Context>(
    cx: &mut C,
    parsed: &mut Parsed,
    direction: Direction,
) -> Result<Verdict, Dropped> {
    let problem = Problem {
        kind: icmp6::kind::TIME_EXCEEDED,
        code: 0,
        reason: DropReason::TtlExceeded,
        direction,
        body: 0,
    };
    report_back::<F, C>(cx, parsed, problem)
}

/// The next link takes at most `mtu` bytes of layer 3.
#[inline(always)]
pub fn too_big<F: Family, C: Context>(
    cx: &mut C,
    parsed: &mut Parsed,
    direction: Direction,
    mtu: u32,
) -> Result<Verdict, Dropped> {
    // The text of this reason is "Fragmentation needed".
    let reason = DropReason::CtMissingTcpAckFlag;
    report_back::<F, C>(
        cx,
        parsed,
        Problem {
            kind: icmp6::kind::TOO_BIG,
            code: 0,
            reason,
            direction,
            body: mtu,
        },
    )
}

/// No service is on this port of the address, or it has no backend.
#[inline(always)]
pub fn port_unreachable<F: Family, C: Context>(
    cx: &mut C,
    parsed: &mut Parsed,
    direction: Direction,
) -> Result<Verdict, Dropped> {
    let problem = Problem {
        kind: icmp6::kind::UNREACHABLE,
        code: icmp6::unreachable::PORT,
        reason: DropReason::ServiceBackendNotFound,
        direction,
        body: 0,
    };
    report_back::<F, C>(cx, parsed, problem)
}

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    /// Type of the message.
    pub kind: u8,
    /// Code of the message.
    pub code: u8,
    /// Reason the packet is dropped for.
    pub reason: DropReason,
    /// Where it was going.
    pub direction: Direction,
    /// Second word of the message.
    pub body: u32,
}

#[inline(always)]
fn report_back<F: Family, C: Context>(
    cx: &mut C,
    parsed: &mut Parsed,
    problem: Problem,
) -> Result<Verdict, Dropped> {
    if !F::IS_V6 {
        return Ok(Verdict::Stack);
    }
    let dropped = Dropped {
        reason: problem.reason,
        direction: problem.direction,
    };
    if !is_due(cx, parsed) {
        return Err(dropped);
    }
    // What is answered is counted and reported here, while it still is the packet that is dropped.
    cx.dropped(dropped);
    if cx.config().services != 0 && parsed.is_translated {
        cx.revert(parsed)
            .map_err(|reason| Dropped { reason, ..dropped })?;
    }
    cx.answer(parsed, problem)
        .map_err(|reason| Dropped { reason, ..dropped })?;
    Ok(Verdict::Device {
        ifindex: cx.ifindex(),
    })
}

/// Turns the packet into a message to its sender.
#[inline(always)]
pub fn answer<C: Context>(cx: &mut C, parsed: &Parsed, problem: Problem) -> Result<(), DropReason> {
    write(cx, parsed, problem)?;
    cx.set_mark(abi::mark::DONE);
    Ok(())
}

/// Whether a message about the packet may be sent, now.
#[inline(never)]
fn is_due<C: Context>(cx: &mut C, parsed: &Parsed) -> bool {
    cx.load(Ethernet::ADDRESSES)
        .is_ok_and(|first| deserves_answer(first, parsed))
        && LIMIT.take(cx)
}

/// RFC 4443 §2.4 e: never about an error or a redirect, nor about what went to many or came from nobody in particular.
/// A later fragment of a control message may be one of an error.
fn deserves_answer(first_byte: u8, parsed: &Parsed) -> bool {
    let is_group_frame = first_byte & 1 != 0;
    let may_be_error = parsed.protocol == protocol::ICMPV6
        && (matches!(parsed.fragment, Fragment::Later) || icmp6::is_error(parsed.control));
    !(is_group_frame
        || may_be_error
        || parsed.dst().is_multicast()
        || parsed.src().is_multicast()
        || parsed.src().is_unspecified())
}

/// What stands in the checksum field of a packet whose checksum is still to be computed: the sum of its pseudo-header.
/// A finished checksum has this value by chance in one of 65 536 packets, whose error is lost then.
#[inline(never)]
fn left_to_hardware<C: Context>(cx: &C, parsed: &Parsed) -> Option<u16> {
    let field = match parsed.protocol {
        protocol::TCP => Tcp::CHECKSUM,
        protocol::UDP => Udp::CHECKSUM,
        _ => return None,
    };
    if !matches!(parsed.fragment, Fragment::Whole) {
        return None;
    }
    let field: [u8; 2] = cx.load(parsed.offset.wrapping_add(field)).ok()?;
    let len = checksum::fold(cx.len().saturating_sub(parsed.offset));
    let seed = checksum::pseudo_header(parsed.src(), parsed.dst(), len, parsed.protocol);
    (field == seed.to_be_bytes()).then_some(seed)
}

/// One function per part, as each gives its place on the stack back.
#[inline(always)]
fn write<C: Context>(cx: &mut C, parsed: &Parsed, problem: Problem) -> Result<(), DropReason> {
    let kept = cx.len().min(Ethernet::LEN + MINIMUM_MTU - HEADERS);
    let inner = kept.saturating_sub(Ethernet::LEN);
    // With the field filled in, the transport header and all behind it sum up to the inverse of what is there now,
    // wherever the end was cut.
    let (summed, rest) = match left_to_hardware(cx, parsed) {
        Some(seed) if parsed.offset.saturating_add(u32::from(parsed.transport_len)) <= kept => {
            (parsed.offset.saturating_sub(Ethernet::LEN), !seed)
        }
        _ => (inner, 0),
    };
    cx.resize(kept).map_err(access)?;
    cx.open_layer3(HEADERS).map_err(access)?;
    let sum = cx.sum(Ethernet::LEN + HEADERS, summed).map_err(access)?;
    let payload = inner.saturating_add(Icmp6::LEN) as u16;
    write_message(cx, parsed, problem, payload, checksum::add(sum, rest))?;
    write_headers(cx, parsed, payload)
}

/// The message, but for what is inside, which has this sum.
#[inline(never)]
fn write_message<C: Context>(
    cx: &mut C,
    parsed: &Parsed,
    problem: Problem,
    payload: u16,
    inner: u16,
) -> Result<(), DropReason> {
    let mut icmp = Icmp6 {
        kind: problem.kind,
        code: problem.code,
        checksum: [0; 2],
        body: problem.body.to_be_bytes(),
    };
    let own = own_address(cx);
    let headers = checksum::add(
        checksum::pseudo_header(&own, parsed.src(), payload, protocol::ICMPV6),
        checksum::sum(icmp.as_bytes()),
    );
    icmp.checksum = (!checksum::add(headers, inner)).to_be_bytes();
    cx.store(Ethernet::LEN + Ipv6::LEN, &icmp).map_err(access)
}

/// Everything in front of the message.
#[inline(never)]
fn write_headers<C: Context>(cx: &mut C, parsed: &Parsed, payload: u16) -> Result<(), DropReason> {
    let ethernet: Ethernet = cx.load(0).map_err(access)?;
    cx.store(Ethernet::ADDRESSES, &[ethernet.src, ethernet.dst])
        .map_err(access)?;
    let own = own_address(cx);
    write_ip(cx, payload, HOP_LIMIT, &[own, *parsed.src()])
}

/// The address that a message goes out with (RFC 4443 §2.2 d): to the network the node's own on that device, as nobody
/// out there need know the way to the router of its pods.
#[inline(always)]
fn own_address<C: Context>(cx: &C) -> Addr {
    match cx.masquerade_address(cx.ifindex()) {
        Some(own) => own,
        None => cx.config().router_v6,
    }
}

/// The IPv6 header of a control message of ours. In two pieces, which take less of the stack than one.
#[inline(always)]
pub(crate) fn write_ip<C: Context>(
    cx: &mut C,
    payload: u16,
    hop_limit: u8,
    ends: &[Addr; 2],
) -> Result<(), DropReason> {
    let [high, low] = payload.to_be_bytes();
    let head = [Ipv6::VERSION, 0, 0, 0, high, low, protocol::ICMPV6, hop_limit];
    cx.store(Ethernet::LEN, &head).map_err(access)?;
    cx.store(Ethernet::LEN + V6::ADDRESSES, ends).map_err(access)
}
