//! Direct server return: a backend on another node answers the client itself, under the address of the service.
//!
//! The node that takes the packet of a client keeps the client's address and says in a destination option which address
//! and port the client knows ([`tell`]); the node of the backend remembers that for the answers ([`learn`]) and leaves the
//! option where it is: its type tells whoever does not know it to skip it (RFC 8200 §4.2). TCP says it with the SYN,
//! everything else with every packet, so that a pair that is lost comes back.
//!
//! The option is that of Cilium (`reference/cilium.md` §5.5). Anybody may send one: it counts only for clients outside the
//! cluster, and only when it names a service that is served so.

use abi::{
    Addr,
    DropReason::{self, InvalidPacketDropped, NoMappingForNatMasquerade, ServiceBackendNotFound},
    NatEntry, NatKey, Service,
};
use packet::{Ethernet, Fragment, ip::Ipv6, protocol, transport::tcp_flag};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Workspace, balance::find_service, follow, is_same, pair};
use crate::{Context, parse::Parsed, verdict::access};

/// A destination options header with nothing but this option.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
struct Told {
    next_header: u8,
    shape: [u8; 3],
    addr: [u8; 16],
    port: [u8; 2],
    pad: [u8; 2],
}

impl Told {
    const LEN: u8 = size_of::<Self>() as u8;
    /// Length of the header in units of 8 bytes without the first, type of the option, and its length.
    const SHAPE: [u8; 3] = [2, 0x1b, 20];
}

const HOP_BY_HOP: u8 = 0;
const DESTINATION: u8 = 60;
/// Offset of the first header behind that of IPv6.
const BEHIND: u32 = Ethernet::LEN + Ipv6::LEN;

/// Bytes that a packet to a backend elsewhere will grow by.
#[inline(always)]
pub(crate) fn growth<C: Context>(cx: &C, entry: &NatEntry, parsed: &Parsed) -> i8 {
    if entry.flags & NatEntry::DSR != 0 && speaks(parsed) && has_room(cx) {
        Told::LEN as i8
    } else {
        parsed.growth
    }
}

/// Whether a packet is one of those that carry the option.
#[inline(always)]
fn speaks(parsed: &Parsed) -> bool {
    !matches!(parsed.fragment, Fragment::Later)
        && (parsed.protocol != protocol::TCP
            || parsed.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN)
}

/// Whether the option may stand in front: nothing may stand before hop-by-hop options.
#[inline(always)]
pub(super) fn has_room<C: Context>(cx: &C) -> bool {
    first_header(cx).is_some_and(|number| number != HOP_BY_HOP)
}

#[inline(always)]
fn first_header<C: Context>(cx: &C) -> Option<u8> {
    let [number, _]: [u8; 2] = cx.load(Ethernet::LEN.wrapping_add(6)).ok()?;
    Some(number)
}

/// Puts the option into a packet that was translated to a backend elsewhere.
#[inline(always)]
pub fn tell<C: Context>(cx: &mut C, parsed: &mut Parsed) -> Result<(), DropReason> {
    cx.with_workspace(|cx, work| {
        let tuple = &parsed.tuple;
        work.key = NatKey {
            src: tuple.dst,
            dst: tuple.src,
            src_port: tuple.dst_port,
            dst_port: tuple.src_port,
            proto: parsed.protocol,
            pad: [0; 3],
        };
        let Workspace { key, entry, .. } = work;
        cx.nat(key, |found| *entry = *found)
            .ok_or(NoMappingForNatMasquerade)?;
        write(cx, entry)
    })
    .unwrap_or(Ok(()))?;
    parsed.offset = parsed.offset.wrapping_add(u32::from(Told::LEN));
    parsed.growth = 0;
    Ok(())
}

#[inline(never)]
fn write<C: Context>(cx: &mut C, entry: &NatEntry) -> Result<(), DropReason> {
    let mut header: Ipv6 = cx.load(Ethernet::LEN).map_err(access)?;
    let told = Told {
        next_header: header.next_header,
        shape: Told::SHAPE,
        addr: entry.src.0,
        port: entry.src_port,
        pad: [0; 2],
    };
    header.next_header = DESTINATION;
    header.payload_len = u16::from_be_bytes(header.payload_len)
        .checked_add(u16::from(Told::LEN))
        .ok_or(InvalidPacketDropped)?
        .to_be_bytes();
    cx.open_layer3(u32::from(Told::LEN)).map_err(access)?;
    cx.store(Ethernet::LEN, &header).map_err(access)?;
    cx.store(BEHIND, &told).map_err(access)
}

/// Remembers what the option of a packet to a pod of this node says. A packet without one, or with one that says nothing
/// here, is left alone; one that names no service is dropped: its answers would come from a stranger.
#[inline(always)]
pub fn learn<C: Context>(cx: &mut C, parsed: &mut Parsed) -> Result<(), DropReason> {
    if first_header(cx) != Some(DESTINATION) || !speaks(parsed) {
        return Ok(());
    }
    cx.with_workspace(|cx, work| {
        if !read(cx, work, parsed) || cx.peer(parsed.src()).is_some() || cx.endpoint(parsed.src()).is_some() {
            return Ok(());
        }
        if !find_service(cx, work) || work.service.flags & Service::DSR == 0 {
            return Err(ServiceBackendNotFound);
        }
        let goes_on = follow(cx, work, parsed).is_some() && is_to(work, parsed);
        if !goes_on {
            work.entry.src = parsed.tuple.src;
            work.entry.dst = parsed.tuple.dst;
            work.entry.src_port = parsed.tuple.src_port;
            work.entry.dst_port = parsed.tuple.dst_port;
            work.entry.flags = NatEntry::SERVICE | NatEntry::DSR;
            pair::add(cx, work, parsed)?;
        }
        parsed.is_translated = true;
        Ok(())
    })
    .unwrap_or(Ok(()))
}

/// Puts the packet as the client sent it into `work.key`, if there is such an option.
#[inline(never)]
fn read<C: Context>(cx: &C, work: &mut Workspace, parsed: &Parsed) -> bool {
    let Ok(told) = cx.load::<Told>(BEHIND) else {
        return false;
    };
    work.key = NatKey {
        src: parsed.tuple.src,
        dst: Addr(told.addr),
        src_port: parsed.tuple.src_port,
        dst_port: told.port,
        proto: parsed.protocol,
        pad: [0; 3],
    };
    told.shape == Told::SHAPE
}

/// Whether the pair leads to the pod that the packet came for.
#[inline(always)]
fn is_to(work: &Workspace, parsed: &Parsed) -> bool {
    is_same(&work.entry.dst, parsed.dst())
        && work.entry.dst_port == parsed.tuple.dst_port
        && work.entry.flags & NatEntry::REPLY == 0
}
