//! Masquerade: pods leave the node with its address.
//!
//! A port is the packet's own if it is in `abi::Config::nat_ports` and free, else one found from a hash of the connection.
//! It is free when no pair has it and no socket of the node would take the answer. Should the node itself later open a
//! connection from a port that a pair has, to the same other end, that connection is given another one
//! ([`NatEntry::HOST`]).
//!
//! Neighbour discovery, listener reports, multicast and link-local addresses never come here, or leave as they are.

use abi::{
    Addr, CtEntry, CtKey,
    DropReason::{self, NoMappingForNatMasquerade, UnsupportedProtocolForNatMasquerade},
    Endpoint, NatEntry, Peer,
};
use packet::{icmp6, ip::Scope, protocol, transport::tcp_flag};

use super::{Workspace, follow, is_error, is_ours, is_pod, pair, read_key, rewrite};
use crate::{Context, conntrack::turned, parse::Parsed};

/// A packet of a pod that leaves by a native device.
#[inline(always)]
pub fn masquerade<C: Context>(cx: &mut C, parsed: &mut Parsed, ifindex: u32) -> Result<(), DropReason> {
    if keeps_source(cx, parsed.dst()) {
        return Ok(());
    }
    if is_error(parsed) {
        // About nothing that is translated: of a connection to the pod's own address.
        return cx.translate_error(parsed).map(|_| ());
    }
    cx.with_workspace(|cx, work| leave(cx, work, parsed, ifindex))
        .unwrap_or(Ok(()))
}

/// A packet that the stack sends by a native device: of a pod, or of the node itself.
#[inline(always)]
pub fn outbound<C: Context>(cx: &mut C, parsed: &mut Parsed) -> Result<(), DropReason> {
    if parsed.src().is_link_local() || parsed.dst().is_link_local() || parsed.dst().is_multicast() {
        return Ok(());
    }
    let Some(sender) = cx.endpoint(parsed.src()) else {
        return Ok(());
    };
    if is_pod(&sender) {
        if cx.config().masquerade_v6 == 0 || is_reply(cx, parsed) {
            return Ok(());
        }
        let ifindex = cx.ifindex();
        return masquerade(cx, parsed, ifindex);
    }
    if sender.flags & Endpoint::HOST == 0 {
        return Ok(());
    }
    if is_error(parsed) {
        return cx.translate_error(parsed).map(|_| ());
    }
    cx.with_workspace(|cx, work| of_node(cx, work, parsed))
        .unwrap_or(Ok(()))
}

/// Whether a destination is reached with the pod's own address.
#[inline(never)]
fn keeps_source<C: Context>(cx: &C, dst: &Addr) -> bool {
    let config = cx.config();
    is_inside(dst, &config.native_v6, config.native_v6_bits)
        || dst.is_link_local()
        || cx.peer(dst).is_some_and(|peer| peer.flags & Peer::NODE != 0)
        || cx.is_plain(dst)
}

/// Whether an address is in a prefix of some bits; in none when that is 0.
#[inline(always)]
fn is_inside(addr: &Addr, prefix: &Addr, bits: u8) -> bool {
    if bits == 0 {
        return false;
    }
    let mask = |bits: u8| match bits {
        0 => 0,
        1..64 => u64::MAX.wrapping_shl(64u32.wrapping_sub(u32::from(bits))),
        _ => u64::MAX,
    };
    let [high, low]: [[u8; 8]; 2] = zerocopy::transmute!(addr.0);
    let [first, second]: [[u8; 8]; 2] = zerocopy::transmute!(prefix.0);
    let differs = |one: [u8; 8], other: [u8; 8], mask: u64| {
        (u64::from_be_bytes(one) ^ u64::from_be_bytes(other)) & mask != 0
    };
    !differs(high, first, mask(bits)) && !differs(low, second, mask(bits.saturating_sub(64)))
}

/// Whether a pod answers somebody who opened the connection: conntrack of the pod's ingress knows. Asked only of packets
/// that come out of the stack; others bring the answer with them.
#[inline(never)]
fn is_reply<C: Context>(cx: &mut C, parsed: &Parsed) -> bool {
    let key = turned(&CtKey {
        dir: CtKey::OUT,
        ..parsed.tuple
    });
    let now = cx.now();
    cx.connection(&key, |entry: &mut CtEntry| entry.expires > now)
        .unwrap_or(false)
}

#[inline(always)]
fn leave<C: Context>(
    cx: &mut C,
    work: &mut Workspace,
    parsed: &mut Parsed,
    ifindex: u32,
) -> Result<(), DropReason> {
    read_key(cx, work, parsed)?;
    if follow(cx, work, parsed).is_none() {
        let is_supported = match parsed.protocol {
            protocol::TCP | protocol::UDP => true,
            protocol::ICMPV6 => parsed.is_control && parsed.control == icmp6::kind::ECHO_REQUEST,
            _ => false,
        };
        if !is_supported {
            return Err(UnsupportedProtocolForNatMasquerade);
        }
        let src = cx.masquerade_address(ifindex).ok_or(NoMappingForNatMasquerade)?;
        new_source(cx, work, parsed, src, 0)?;
    }
    rewrite(cx, work, parsed)
}

/// Packets of the node itself: an answer of a backend that is a process of the node, or a connection whose port a pair
/// has already.
#[inline(always)]
fn of_node<C: Context>(cx: &mut C, work: &mut Workspace, parsed: &mut Parsed) -> Result<(), DropReason> {
    if read_key(cx, work, parsed).is_err() {
        return Ok(());
    }
    if follow(cx, work, parsed).is_some() {
        // The entry of a client that has the node's address and is not this node's process leads elsewhere.
        if work.entry.flags & (NatEntry::REPLY | NatEntry::HOST) == 0 {
            return Ok(());
        }
        return rewrite(cx, work, parsed);
    }
    let opens = parsed.protocol != protocol::TCP
        || parsed.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN;
    if !opens || !is_ours(cx, work.key.src_port) {
        return Ok(());
    }
    work.back_key = work.key;
    pair::turn_key(&mut work.back_key);
    let now = cx.now();
    let is_taken = cx.nat(&work.back_key, |found| {
        found.expires > now && found.flags & NatEntry::REPLY != 0
    });
    if is_taken != Some(true) {
        return Ok(());
    }
    let src = work.key.src;
    new_source(cx, work, parsed, src, NatEntry::HOST)?;
    rewrite(cx, work, parsed)
}

#[inline(always)]
fn new_source<C: Context>(
    cx: &mut C,
    work: &mut Workspace,
    parsed: &Parsed,
    src: Addr,
    flags: u32,
) -> Result<(), DropReason> {
    work.entry.src = src;
    work.entry.dst = work.key.dst;
    work.entry.src_port = work.key.src_port;
    work.entry.dst_port = work.key.dst_port;
    work.entry.flags = flags;
    pair::add_with_port(cx, work, parsed)
}

#[cfg(test)]
mod tests {
    use abi::Addr;

    use super::is_inside;

    #[test]
    fn prefixes() {
        let addr = |text: &str| Addr(text.parse::<core::net::Ipv6Addr>().unwrap().octets());
        let rows = [
            ("fd00:10:244:1::5", "fd00:10:244::", 56, true),
            ("fd00:10:245::5", "fd00:10:244::", 56, false),
            ("fd00:10:244::5", "fd00:10:244::", 64, true),
            ("fd00:10:244:1::5", "fd00:10:244::", 64, false),
            ("fd00::1:2", "fd00::1:0", 112, true),
            ("fd00::2:2", "fd00::1:0", 112, false),
            ("fd00::1", "fd00::1", 128, true),
            ("fd00::2", "fd00::1", 128, false),
            ("ffff::", "::", 0, false),
            ("8000::", "::", 1, false),
            ("7fff::", "::", 1, true),
        ];
        for (host, prefix, bits, inside) in rows {
            assert_eq!(
                is_inside(&addr(host), &addr(prefix), bits),
                inside,
                "{host} in {prefix}/{bits}"
            );
        }
    }
}
