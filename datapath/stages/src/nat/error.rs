//! ICMPv6 errors about translated packets: the message shows the packet as it was on the other side of the
//! translation, so it is translated back inside and outside (RFC 5508 §4.2 has the same for IPv4).
//!
//! The pair is found by the packet inside, turned: that is what an answer to it would look like, and says what it looked
//! like before. Checksums are computed here and not left to the kernel's helpers: a message may carry a request of its
//! inner packet's sender to the hardware (`icmp_error`), which the helpers would take for one about the message.

use abi::{Addr, DropReason};
use packet::{
    Ethernet, Family, Fragment, V6, checksum,
    icmp6::{self, Icmp6},
    ip::Ipv6,
    protocol,
    transport::{Ports, Tcp, Udp},
};
use zerocopy::IntoBytes;

use super::{Workspace, is_same};
use crate::{Context, parse::Parsed, verdict::access};

/// Translates an error message. `false`: it is not about a translated packet.
#[inline(always)]
pub fn translate<C: Context>(cx: &mut C, parsed: &mut Parsed) -> Result<bool, DropReason> {
    cx.with_workspace(|cx, work| message(cx, work, parsed))
        .unwrap_or(Ok(false))
}

#[inline(always)]
fn message<C: Context>(cx: &mut C, work: &mut Workspace, parsed: &mut Parsed) -> Result<bool, DropReason> {
    let mut inner = Inner::default();
    if !read_inner(cx, work, parsed, &mut inner) {
        return Ok(false);
    }
    let now = cx.now();
    let Workspace { key, entry, .. } = work;
    let is_known = cx.nat(key, |found| {
        *entry = *found;
        found.expires > now
    });
    // An error goes to the sender of the packet that caused it; anything else is made up.
    if is_known != Some(true) || !is_same(&work.key.dst, parsed.dst()) {
        return Ok(false);
    }
    // The key is that of an answer: its destination is the sender of the packet inside.
    let mut change = Change(0);
    put(cx, inner.addresses, &work.key.dst, &work.entry.dst, &mut change)?;
    let dst = inner.addresses.wrapping_add(ADDRESS);
    put(cx, dst, &work.key.src, &work.entry.src, &mut change)?;
    let mut within = change;
    inner_ports(cx, work, &inner, &mut change, &mut within)?;
    inner_checksum(cx, &inner, &mut change, within)?;
    outer(cx, work, parsed, change)?;
    Ok(true)
}

/// Bytes of an address.
const ADDRESS: u32 = 16;

/// Where the packet inside a message has what.
#[derive(Default)]
struct Inner {
    addresses: u32,
    transport: u32,
    protocol: u8,
    control: u8,
}

/// Difference between two sums.
#[derive(Clone, Copy)]
struct Change(u16);

impl Change {
    #[inline(never)]
    fn note(&mut self, old: &[u8], new: &[u8]) {
        self.0 = checksum::add(self.0, checksum::add(!checksum::sum(old), checksum::sum(new)));
    }

    /// A checksum after the change.
    #[inline(always)]
    fn applied(self, field: [u8; 2]) -> [u8; 2] {
        (!checksum::add(!u16::from_be_bytes(field), self.0)).to_be_bytes()
    }
}

/// Puts the key of an answer to the packet inside into `work.key`. Of a later fragment nothing is known: it has no ports.
#[inline(always)]
fn read_inner<C: Context>(cx: &C, work: &mut Workspace, parsed: &Parsed, inner: &mut Inner) -> bool {
    read_header(cx, work, parsed, inner) && read_ports(cx, work, inner)
}

#[inline(never)]
fn read_header<C: Context>(cx: &C, work: &mut Workspace, parsed: &Parsed, inner: &mut Inner) -> bool {
    let offset = parsed.offset.wrapping_add(Icmp6::LEN);
    let Ok(header) = cx.load::<Ipv6>(offset) else {
        return false;
    };
    // Turned at once: an answer goes the other way.
    work.key.src = Addr(header.dst);
    work.key.dst = Addr(header.src);
    let Ok(chain) = V6::chain(cx, offset, &header) else {
        return false;
    };
    inner.addresses = offset.wrapping_add(V6::ADDRESSES);
    inner.transport = chain.offset;
    inner.protocol = chain.protocol;
    work.key.proto = chain.protocol;
    work.key.pad = [0; 3];
    !matches!(chain.fragment, Fragment::Later)
}

#[inline(never)]
fn read_ports<C: Context>(cx: &C, work: &mut Workspace, inner: &mut Inner) -> bool {
    if inner.protocol != protocol::ICMPV6 {
        let Ok(ports) = cx.load::<Ports>(inner.transport) else {
            return false;
        };
        work.key.src_port = ports.dst;
        work.key.dst_port = ports.src;
        return true;
    }
    let Ok(icmp) = cx.load::<Icmp6>(inner.transport) else {
        return false;
    };
    inner.control = icmp.kind;
    let is_request = icmp.kind == icmp6::kind::ECHO_REQUEST;
    work.key.dst_port = if is_request { icmp.echo_id() } else { [0; 2] };
    work.key.src_port = if is_request { [0; 2] } else { icmp.echo_id() };
    is_request || icmp.kind == icmp6::kind::ECHO_REPLY
}

#[inline(never)]
fn inner_ports<C: Context>(
    cx: &mut C,
    work: &Workspace,
    inner: &Inner,
    change: &mut Change,
    within: &mut Change,
) -> Result<(), DropReason> {
    let (key, entry) = (&work.key, &work.entry);
    if inner.protocol == protocol::ICMPV6 {
        let (old, new) = if inner.control == icmp6::kind::ECHO_REQUEST {
            (key.dst_port, entry.dst_port)
        } else {
            (key.src_port, entry.src_port)
        };
        within.note(&old, &new);
        return put(cx, inner.transport.wrapping_add(Icmp6::BODY), &old, &new, change);
    }
    let (old, new) = ([key.dst_port, key.src_port], [entry.dst_port, entry.src_port]);
    within.note(old.as_bytes(), new.as_bytes());
    put(cx, inner.transport, &old, &new, change)
}

/// The checksum of the packet inside, if the message reaches so far. Nobody looks at it but people.
#[inline(never)]
fn inner_checksum<C: Context>(
    cx: &mut C,
    inner: &Inner,
    change: &mut Change,
    within: Change,
) -> Result<(), DropReason> {
    let field = inner.transport.wrapping_add(match inner.protocol {
        protocol::TCP => Tcp::CHECKSUM,
        protocol::UDP => Udp::CHECKSUM,
        protocol::ICMPV6 => Icmp6::CHECKSUM,
        _ => return Ok(()),
    });
    let Ok(old) = cx.load::<[u8; 2]>(field) else {
        return Ok(());
    };
    let new = within.applied(old);
    put(cx, field, &old, &new, change)
}

/// The message itself goes to who sent the packet inside. Its source is changed when it is the other end of the
/// connection; a router on the way stays what it is.
#[inline(never)]
fn outer<C: Context>(
    cx: &mut C,
    work: &Workspace,
    parsed: &mut Parsed,
    mut change: Change,
) -> Result<(), DropReason> {
    let src = if is_same(parsed.src(), &work.key.src) {
        work.entry.src
    } else {
        *parsed.src()
    };
    let offset = Ethernet::LEN.wrapping_add(V6::ADDRESSES);
    put(cx, offset, &parsed.tuple.src, &src, &mut change)?;
    let dst = offset.wrapping_add(ADDRESS);
    put(cx, dst, &parsed.tuple.dst, &work.entry.dst, &mut change)?;
    let field = parsed.offset.wrapping_add(Icmp6::CHECKSUM);
    let old: [u8; 2] = cx.load(field).map_err(access)?;
    cx.store(field, &change.applied(old)).map_err(access)?;
    parsed.tuple.src = src;
    parsed.tuple.dst = work.entry.dst;
    Ok(())
}

#[inline(always)]
fn put<C: Context, T: IntoBytes + zerocopy::Immutable>(
    cx: &mut C,
    offset: u32,
    old: &T,
    new: &T,
    change: &mut Change,
) -> Result<(), DropReason> {
    change.note(old.as_bytes(), new.as_bytes());
    cx.store(offset, new).map_err(access)
}
