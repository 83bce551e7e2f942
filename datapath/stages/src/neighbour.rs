//! Neighbour discovery of pods (RFC 4861, RFC 4862) and echo to the router.
//!
//! A pod has one neighbour, the router, and thinks that others may be: who asks for the router or another local
//! endpoint learns the MAC of the host side of its own link. Other targets are dropped and counted.
//! The checksum of a solicitation is not verified: its sender may have left it to the hardware.

use abi::{Addr, DropReason, Endpoint};
use packet::{
    Ethernet, Family, Fragment, V6, checksum,
    icmp6::{self, Advertisement, Icmp6, OptionHead, Solicitation, kind},
    ip::{Ipv6, Scope},
    protocol,
};
use zerocopy::IntoBytes;

use crate::{
    Context, Verdict,
    icmp_error::write_ip,
    parse::Parsed,
    source::{self, Link},
    verdict::access,
};

/// Most options that are looked at; real solicitations have one or two (RFC 4861, RFC 3971).
const MAX_OPTIONS: u32 = 8;

/// What became of a message between a pod and its neighbours.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// The packet is the answer now.
    Answered = 1,
    /// Nothing has to be done about it.
    Quietly = 2,
    /// The node's stack wants to know.
    Stack = 3,
}

impl Handled {
    /// What to do with the packet that came in by `ifindex`.
    #[inline(always)]
    #[must_use]
    pub fn verdict(self, ifindex: u32) -> Verdict {
        match self {
            Self::Answered => Verdict::Device { ifindex },
            Self::Quietly => Verdict::Consumed(DropReason::MulticastHandled),
            Self::Stack => Verdict::Stack,
        }
    }
}

/// A message of a pod that never leaves its link (`icmp6::is_link_only`).
#[inline(always)]
pub fn from_pod<C: Context>(cx: &mut C, parsed: &Parsed) -> Result<Handled, DropReason> {
    let mut link = Link::default();
    source::by_device(cx, &mut link)?;
    if !(*parsed.src() == link.addr || parsed.src().is_link_local() || parsed.src().is_unspecified()) {
        return Err(DropReason::InvalidSourceIp);
    }
    match parsed.control {
        kind::ROUTER_SOLICITATION | kind::MLD_REPORT | kind::MLD_DONE | kind::MLD_REPORT_V2 => {
            Ok(Handled::Quietly)
        }
        // RFC 6980 §5: these are never fragmented.
        kind::NEIGHBOUR_SOLICITATION | kind::NEIGHBOUR_ADVERTISEMENT
            if matches!(parsed.fragment, Fragment::Whole) =>
        {
            let message: Solicitation = cx.load(parsed.offset).map_err(access)?;
            let target = Addr(message.target);
            // RFC 4861 §7.1.1, §7.1.2: only who is on the link can send with this hop limit.
            if parsed.hop_limit != icmp6::HOP_LIMIT || message.icmp.code != 0 || target.is_multicast() {
                return Err(DropReason::InvalidPacketDropped);
            }
            if parsed.control == kind::NEIGHBOUR_ADVERTISEMENT {
                // The node's stack may learn about the pod from it, about nobody else.
                let is_own = target == link.addr || target.is_link_local();
                return if is_own {
                    to_stack(cx, parsed.dst())
                } else {
                    Err(DropReason::ForbiddenIcmpv6Message)
                };
            }
            solicitation(cx, parsed, &link, &target)
        }
        // Queries, router advertisements and redirects: only routers send them.
        _ => Err(DropReason::ForbiddenIcmpv6Message),
    }
}

#[inline(always)]
fn solicitation<C: Context>(
    cx: &mut C,
    parsed: &Parsed,
    link: &Link,
    target: &Addr,
) -> Result<Handled, DropReason> {
    let is_probe = parsed.src().is_unspecified();
    check_options(cx, parsed.offset.wrapping_add(Solicitation::LEN), is_probe)?;
    if is_probe && !icmp6::is_solicited_node(parsed.dst()) {
        return Err(DropReason::InvalidPacketDropped);
    }
    let flags = if *target == V6::router(&cx.config()) {
        Advertisement::ROUTER
    } else {
        match cx.endpoint(target) {
            // Duplicate address detection of its own address: silence says that it is free.
            Some(endpoint) if endpoint.ifindex == cx.ifindex() => {
                return Ok(Handled::Quietly);
            }
            Some(_) => 0,
            None if is_probe && target.is_link_local() => {
                return Ok(Handled::Quietly);
            }
            // The node's end of the link has such an address, and its stack knows which.
            None if target.is_link_local() => return to_stack(cx, parsed.dst()),
            None => return Err(DropReason::UnknownL3TargetAddress),
        }
    };
    advertise(cx, parsed.src(), target, link, flags)?;
    cx.set_mark(abi::mark::DONE);
    Ok(Handled::Answered)
}

/// To the node's stack, which would forward what is for others: past conntrack and policy.
#[inline(always)]
fn to_stack<C: Context>(cx: &C, dst: &Addr) -> Result<Handled, DropReason> {
    let is_for_node = dst.is_link_multicast()
        || dst.is_link_local()
        || cx
            .endpoint(dst)
            .is_some_and(|endpoint| endpoint.flags & Endpoint::HOST != 0);
    if is_for_node {
        Ok(Handled::Stack)
    } else {
        Err(DropReason::ForbiddenIcmpv6Message)
    }
}

/// RFC 4861 §7.1.1: no option of length 0; no link-layer address of a sender who has no address.
#[inline(always)]
fn check_options<C: Context>(cx: &C, mut offset: u32, is_probe: bool) -> Result<(), DropReason> {
    for _ in 0..MAX_OPTIONS {
        let Ok(option) = cx.load::<OptionHead>(offset) else {
            return Ok(());
        };
        if option.len == 0 || (is_probe && option.kind == OptionHead::SOURCE) {
            return Err(DropReason::InvalidPacketDropped);
        }
        offset = offset.wrapping_add(u32::from(option.len).wrapping_mul(8));
    }
    Ok(())
}

/// Turns the solicitation of `asker` into the answer. Its source is the target, as from the neighbour itself; a probe is
/// answered to all nodes (RFC 4861 §7.2.4). Two steps, each with a place on the stack that it gives back.
#[inline(always)]
fn advertise<C: Context>(
    cx: &mut C,
    asker: &Addr,
    target: &Addr,
    link: &Link,
    flags: u8,
) -> Result<(), DropReason> {
    cx.resize(Ethernet::LEN + Ipv6::LEN + Advertisement::LEN)
        .map_err(access)?;
    write_headers(cx, asker, target, link)?;
    write_advertisement(cx, asker, target, link, flags)
}

/// Who gets the answer.
#[inline(always)]
fn receiver(asker: &Addr) -> Addr {
    if asker.is_unspecified() {
        icmp6::ALL_NODES
    } else {
        *asker
    }
}

#[inline(never)]
fn write_headers<C: Context>(cx: &mut C, asker: &Addr, target: &Addr, link: &Link) -> Result<(), DropReason> {
    let mac = if asker.is_unspecified() {
        icmp6::multicast_mac(&icmp6::ALL_NODES)
    } else {
        link.mac
    };
    cx.store(Ethernet::ADDRESSES, &[mac, link.node_mac])
        .map_err(access)?;
    let ends = [*target, receiver(asker)];
    write_ip(cx, Advertisement::LEN as u16, icmp6::HOP_LIMIT, &ends)
}

#[inline(never)]
fn write_advertisement<C: Context>(
    cx: &mut C,
    asker: &Addr,
    target: &Addr,
    link: &Link,
    flags: u8,
) -> Result<(), DropReason> {
    let solicited = if asker.is_unspecified() {
        0
    } else {
        Advertisement::SOLICITED
    };
    let [a, b, c, d, e, f] = link.node_mac;
    let option = [Advertisement::TARGET_OPTION, 1, a, b, c, d, e, f];
    let mut icmp = Icmp6 {
        kind: kind::NEIGHBOUR_ADVERTISEMENT,
        code: 0,
        checksum: [0; 2],
        body: [flags | solicited | Advertisement::OVERRIDE, 0, 0, 0],
    };
    let addresses = checksum::add(
        checksum::sum(&target.0),
        checksum::pseudo_header(
            target,
            &receiver(asker),
            Advertisement::LEN as u16,
            protocol::ICMPV6,
        ),
    );
    let rest = checksum::add(checksum::sum(icmp.as_bytes()), checksum::sum(&option));
    icmp.checksum = (!checksum::add(addresses, rest)).to_be_bytes();
    let at = Ethernet::LEN + Ipv6::LEN;
    cx.store(at, &icmp).map_err(access)?;
    cx.store(at + Advertisement::TARGET, target).map_err(access)?;
    cx.store(at + Advertisement::OPTION, &option).map_err(access)
}

/// Turns an echo request into the reply. The checksum follows the type; addresses change places, which leaves it alone.
#[inline(never)]
pub fn echo<C: Context>(cx: &mut C, parsed: &Parsed) -> Result<Verdict, DropReason> {
    let ethernet: Ethernet = cx.load(0).map_err(access)?;
    let icmp: Icmp6 = cx.load(parsed.offset).map_err(access)?;
    let reply = Icmp6 {
        kind: kind::ECHO_REPLY,
        checksum: checksum::update(
            icmp.checksum,
            [icmp.kind, icmp.code],
            [kind::ECHO_REPLY, icmp.code],
        ),
        ..icmp
    };
    cx.store(parsed.offset, &reply).map_err(access)?;
    cx.store(Ethernet::ADDRESSES, &[ethernet.src, ethernet.dst])
        .map_err(access)?;
    cx.store(Ethernet::LEN + Ipv6::HOP_LIMIT, &ECHO_HOP_LIMIT)
        .map_err(access)?;
    cx.store(
        Ethernet::LEN + Ipv6::HOP_LIMIT + 1,
        &[parsed.dst().0, parsed.src().0],
    )
    .map_err(access)?;
    cx.set_mark(abi::mark::DONE);
    Ok(Verdict::Device {
        ifindex: cx.ifindex(),
    })
}

const ECHO_HOP_LIMIT: u8 = 64;
