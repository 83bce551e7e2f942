//! Translation of addresses and ports, packet by packet: services that no socket hook has seen, and masquerade.
//! IPv6 only.
//!
//! A translated connection has a pair of entries, one per direction (`abi::nat`). The entry of the first direction is
//! keyed by what the client sends, the other by what comes back. A packet of a known connection costs one lookup; every
//! few seconds, and when TCP changes its state, the packet renews the other half too, or makes it again when the table
//! has dropped it. So either direction keeps both alive.
//!
//! Where a packet is translated:
//!
//! ```text
//! from_pod     before conntrack: to the backend of a service ([`balance::from_pod`]);
//!              behind conntrack: answers of a backend to who is not a pod of this node ([`restore`]);
//!              behind the FIB: to the address of the node ([`masquerade::masquerade`])
//! from_netdev  before anything else: to a backend, or back to who was masqueraded ([`balance::inbound`])
//! ingress      before conntrack: what another node says of a service ([`dsr::learn`]);
//!              behind conntrack: answers of a backend to a pod ([`restore`])
//! to_netdev    what the stack sends: masquerade, answers of backends on the node itself ([`masquerade::outbound`])
//! ```
//!
//! Answers to a pod are restored as the last thing before they reach it, so that conntrack knows the connection by its
//! backend on all its way, and policy will judge who really talks. Conntrack says which answers these are
//! ([`abi::CtEntry::TRANSLATED`]): others are not looked up here. Masquerade lies outside of conntrack, which knows the
//! pod by its own address.
//!
//! A pod that is its own backend talks to the router ([`Translated::Looped`]): such packets go round past conntrack, as
//! neither side of the connection is anybody else.
//!
//! What a step needs lies in a [`Workspace`] instead of on the stack, of which the kernel has 512 bytes.

use abi::{
    Addr, AffinityKey,
    DropReason::{self, FirstLogicalDatagramFragmentNotFound, UnsupportedProtocolForNatMasquerade},
    Endpoint, FragmentKey, FragmentPorts, NatEntry, NatKey, Service,
    event::TraceReason,
};
use packet::{
    Covered, Ethernet, Family, Fragment, V6,
    icmp6::{self, Icmp6},
    protocol,
    transport::{Ports, Tcp, Udp},
};

use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::{Context, parse::Parsed, verdict::access};

pub mod balance;
pub mod dsr;
pub mod error;
pub mod hash;
pub mod masquerade;
pub mod pair;

/// An entry could not be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotStored {
    /// There is one.
    Exists,
    /// There is no room.
    Full,
}

/// The tables of translation, and the node's sockets.
pub trait Translations {
    /// Gives an entry to `with`.
    fn nat<R>(&mut self, key: &NatKey, with: impl FnOnce(&mut NatEntry) -> R) -> Option<R>;

    /// Stores an entry, in the place of another one if `replace`. The least recently used one goes when there is no room.
    fn add_nat(&mut self, key: &NatKey, entry: &NatEntry, replace: bool) -> Result<(), NotStored>;

    /// Whether pods reach a destination with their own address, as the operator says.
    fn is_plain(&self, addr: &Addr) -> bool;

    /// Address that pods leave a device with.
    fn masquerade_address(&self, ifindex: u32) -> Option<Addr>;

    /// Ports of a datagram whose first fragment was seen.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts>;

    /// Remembers the ports of a datagram; forgets another one when there is no room.
    fn add_fragment(&mut self, key: &FragmentKey, ports: &FragmentPorts);

    /// Whether a socket of the node would take this packet. TCP and UDP.
    fn has_socket(&mut self, key: &NatKey) -> bool;

    /// Gives the one workspace of this CPU to `with`, which must not ask for it again. `None`: never, but the kernel's
    /// verifier cannot know.
    fn with_workspace<R>(&mut self, with: impl FnOnce(&mut Self, &mut Workspace) -> R) -> Option<R>;
}

/// What a step works with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Workspace {
    /// The packet as it came.
    pub key: NatKey,
    /// How it leaves.
    pub entry: NatEntry,
    /// Key of the other half.
    pub back_key: NatKey,
    /// The other half.
    pub back: NatEntry,
    /// The datagram of a fragment.
    pub fragment: FragmentKey,
    /// The service that is meant.
    pub service: Service,
    /// Who means it.
    pub client: AffinityKey,
}

/// What became of a packet.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translated {
    /// Nothing.
    No = 0,
    /// It has other addresses or ports.
    Yes = 1,
    /// It goes back to the pod that sent it.
    Looped = 2,
    /// Nobody is there: its sender is to be told.
    Refused = 3,
}

/// How much later a packet must expire than its entry says for the pair to be written. Nanoseconds.
const REFRESH: u64 = 2_000_000_000;

/// An answer to a translated packet gets the addresses back that its receiver knows. A translation that is not there any
/// more is a drop: the receiver would end the connection about an answer from a stranger.
#[inline(always)]
pub fn restore<C: Context>(cx: &mut C, parsed: &mut Parsed) -> Result<(), DropReason> {
    if is_error(parsed) {
        return cx.translate_error(parsed).map(|_| ());
    }
    let restored = cx.with_workspace(|cx, work| {
        if read_key(cx, work, parsed).is_err() {
            // Fragments of what was never translated come here, too.
            return Ok(true);
        }
        if follow(cx, work, parsed).is_none() || work.entry.flags & NatEntry::REPLY == 0 {
            return Ok(matches!(parsed.fragment, Fragment::Later) || !parsed.is_translated);
        }
        rewrite(cx, work, parsed).map(|()| true)
    });
    match restored {
        Some(Ok(true)) | None => Ok(()),
        Some(Ok(false)) => Err(DropReason::SnatNoMapFound),
        Some(Err(reason)) => Err(reason),
    }
}

/// Takes back what was done to a packet, so that an error message shows its sender what it has sent.
#[inline(always)]
pub fn revert<C: Context>(cx: &mut C, parsed: &mut Parsed) -> Result<(), DropReason> {
    cx.with_workspace(|cx, work| {
        read_key(cx, work, parsed)?;
        pair::turn_key(&mut work.key);
        let Workspace { key, entry, .. } = work;
        if cx.nat(key, |found| *entry = *found).is_none() {
            return Ok(());
        }
        core::mem::swap(&mut entry.src, &mut entry.dst);
        core::mem::swap(&mut entry.src_port, &mut entry.dst_port);
        rewrite(cx, work, parsed)
    })
    .unwrap_or(Ok(()))
}

/// Whether a packet is an error message about another one.
#[inline(always)]
pub(crate) fn is_error(parsed: &Parsed) -> bool {
    parsed.is_control && V6::is_error(parsed.control)
}

/// Whether two addresses are the same, compared in two steps: what is derived for bytes takes sixteen.
#[inline(always)]
pub(crate) fn is_same(one: &Addr, other: &Addr) -> bool {
    let one: [u64; 2] = zerocopy::transmute!(*one);
    let other: [u64; 2] = zerocopy::transmute!(*other);
    (one[0] ^ other[0]) | (one[1] ^ other[1]) == 0
}

/// Whether a local address is one of a pod.
#[inline(always)]
pub(crate) fn is_pod(endpoint: &Endpoint) -> bool {
    endpoint.flags & (Endpoint::HOST | Endpoint::SERVICE) == 0
}

/// Whether a packet that conntrack has seen answers one that was translated. A later fragment always may.
#[inline(always)]
pub(crate) fn is_answer(parsed: &Parsed) -> bool {
    let is_back = matches!(parsed.tracked.reason, TraceReason::Reply | TraceReason::Related);
    (parsed.is_translated && is_back) || matches!(parsed.fragment, Fragment::Later)
}

/// Fills in the key of a packet. A first fragment leaves its ports for those that come behind it; without it they have
/// none.
#[inline(never)]
pub(crate) fn read_key<C: Context>(
    cx: &mut C,
    work: &mut Workspace,
    parsed: &Parsed,
) -> Result<(), DropReason> {
    let tuple = &parsed.tuple;
    work.key = NatKey {
        src: tuple.src,
        dst: tuple.dst,
        src_port: tuple.src_port,
        dst_port: tuple.dst_port,
        proto: parsed.protocol,
        pad: [0; 3],
    };
    if matches!(parsed.fragment, Fragment::Whole) {
        return Ok(());
    }
    work.fragment = FragmentKey {
        src: tuple.src,
        dst: tuple.dst,
        id: parsed.fragment_id,
        proto: parsed.protocol,
        pad: [0; 3],
    };
    if matches!(parsed.fragment, Fragment::First) {
        let ports = FragmentPorts {
            src: tuple.src_port,
            dst: tuple.dst_port,
        };
        cx.add_fragment(&work.fragment, &ports);
    } else {
        let ports = cx
            .fragment(&work.fragment)
            .ok_or(FirstLogicalDatagramFragmentNotFound)?;
        work.key.src_port = ports.src;
        work.key.dst_port = ports.dst;
    }
    Ok(())
}

/// Finds the translation of the packet in `work.key` and copies it to `work.entry`. `Some(true)`: the pair was renewed.
#[inline(never)]
pub(crate) fn follow<C: Context>(cx: &mut C, work: &mut Workspace, parsed: &Parsed) -> Option<bool> {
    let life = pair::Life::of(cx, parsed);
    let Workspace { key, entry, .. } = work;
    let is_due = cx.nat(key, |found| {
        let is_due = life.goes_on(found)?;
        *entry = *found;
        Some(is_due)
    })??;
    if is_due && !pair::renew_other(cx, work, life.now) {
        return None;
    }
    Some(is_due)
}

/// Gives a packet the addresses and ports of `work.entry`, and its checksum what belongs to them.
#[inline(never)]
pub(crate) fn rewrite<C: Context>(
    cx: &mut C,
    work: &Workspace,
    parsed: &mut Parsed,
) -> Result<(), DropReason> {
    let to = &work.entry;
    let has_transport = !matches!(parsed.fragment, Fragment::Later);
    let field = if has_transport { checksum(parsed) } else { None };
    if has_transport {
        ports(cx, to, parsed)?;
    }
    let offset = Ethernet::LEN.wrapping_add(V6::ADDRESSES);
    let (Some(old), Some(new)) = (addresses(parsed.tuple.as_bytes()), addresses(to.as_bytes())) else {
        return Err(DropReason::InvalidPacketDropped);
    };
    match field {
        Some(field) => cx.replace(
            offset,
            old,
            new,
            Covered {
                by_pseudo_header: true,
                ..field
            },
        ),
        None => cx.store(offset, new),
    }
    .map_err(access)?;
    parsed.tuple.src = to.src;
    parsed.tuple.dst = to.dst;
    Ok(())
}

/// Source and destination as they stand at the beginning of a key or entry: copies would take a fifth of the stack.
#[inline(always)]
fn addresses(bytes: &[u8]) -> Option<&[Addr; 2]> {
    <[Addr; 2]>::ref_from_prefix(bytes)
        .ok()
        .map(|(addresses, _)| addresses)
}

#[inline(always)]
fn ports<C: Context>(cx: &mut C, to: &NatEntry, parsed: &mut Parsed) -> Result<(), DropReason> {
    let tuple = &mut parsed.tuple;
    if tuple.src_port == to.src_port && tuple.dst_port == to.dst_port {
        return Ok(());
    }
    let Some(covered) = checksum(parsed) else {
        // SCTP: its checksum is one over the whole packet.
        return Err(UnsupportedProtocolForNatMasquerade);
    };
    let tuple = &mut parsed.tuple;
    if parsed.is_control {
        let offset = parsed.offset.wrapping_add(Icmp6::BODY);
        let [_, _, high, low]: [u8; 4] = cx.load(offset).map_err(access)?;
        let id = |src: [u8; 2], dst: [u8; 2]| {
            if parsed.control == icmp6::kind::ECHO_REQUEST {
                src
            } else {
                dst
            }
        };
        let ([a, b], [c, d]) = (id(tuple.src_port, tuple.dst_port), id(to.src_port, to.dst_port));
        cx.replace(offset, &[a, b, high, low], &[c, d, high, low], covered)
    } else {
        let old = Ports {
            src: tuple.src_port,
            dst: tuple.dst_port,
        };
        let new = Ports {
            src: to.src_port,
            dst: to.dst_port,
        };
        cx.replace(parsed.offset, &old, &new, covered)
    }
    .map_err(access)?;
    tuple.src_port = to.src_port;
    tuple.dst_port = to.dst_port;
    Ok(())
}

/// The checksum of the transport header that covers addresses and ports.
#[inline(always)]
fn checksum(parsed: &Parsed) -> Option<Covered> {
    let field = if parsed.is_control {
        Icmp6::CHECKSUM
    } else {
        match parsed.protocol {
            protocol::TCP => Tcp::CHECKSUM,
            protocol::UDP => Udp::CHECKSUM,
            _ => return None,
        }
    };
    Some(Covered {
        field: parsed.offset.wrapping_add(field),
        by_pseudo_header: false,
        zero_is_none: parsed.protocol == protocol::UDP,
    })
}

/// Whether a port is one that translation may take.
#[inline(always)]
pub(crate) fn is_ours<C: Context>(cx: &C, port: [u8; 2]) -> bool {
    let [first, last] = cx.config().nat_ports;
    (first..=last).contains(&u16::from_be_bytes(port))
}
