//! What differs between IPv6 and IPv4, behind one trait.

use abi::{Addr, Config};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    AccessError, Chain, Ethernet, Fragment, Packet, checksum,
    ethernet::ether_type,
    extension,
    extension::ChainError,
    icmp6,
    ip::{Ipv4, Ipv6, is_mapped},
    protocol,
};

/// An address family. Implemented by [`V6`] and [`V4`].
pub trait Family {
    /// The layer 3 header.
    type Header: FromBytes + IntoBytes + Immutable + KnownLayout + Copy;

    /// Ethernet type.
    const ETHER_TYPE: [u8; 2];
    /// Whether this is IPv6.
    const IS_V6: bool;
    /// Protocol number of control messages.
    const CONTROL: u8;
    /// Control message type "echo request".
    const ECHO_REQUEST: u8;
    /// Control message type "echo reply".
    const ECHO_REPLY: u8;

    /// Offset of the two addresses inside the header, sender first.
    const ADDRESSES: u32;

    /// Sender.
    fn src(header: &Self::Header) -> Addr;
    /// Receiver.
    fn dst(header: &Self::Header) -> Addr;
    /// Hop limit, or time to live.
    fn hop_limit(header: &Self::Header) -> u8;
    /// Whether version and lengths can be those of a packet with `len` bytes of layer 3.
    fn is_valid(header: &Self::Header, len: u32) -> bool;
    /// Traffic class, or type of service, and flow label, as the FIB wants them: network order.
    fn flow_info(header: &Self::Header) -> [u8; 4];
    /// Finds the transport header of a layer 3 header at `offset`.
    fn chain<P: Packet>(packet: &P, offset: u32, header: &Self::Header) -> Result<Chain, ChainError>;
    /// Writes a hop limit one lower than `hop_limit`, which the packet has, and the header checksum where there is one.
    fn decrement_hop_limit<P: Packet>(packet: &mut P, hop_limit: u8) -> Result<(), AccessError>;
    /// Whether a control message is an error about another packet.
    fn is_error(kind: u8) -> bool;
    /// Whether the family is switched on.
    fn is_enabled(config: &Config) -> bool;
    /// Address of the router as pods know it.
    fn router(config: &Config) -> Addr;
}

/// IPv6.
#[derive(Clone, Copy, Debug)]
pub enum V6 {}

/// IPv4.
#[derive(Clone, Copy, Debug)]
pub enum V4 {}

impl Family for V6 {
    type Header = Ipv6;

    const ETHER_TYPE: [u8; 2] = ether_type::IPV6;
    const IS_V6: bool = true;
    const CONTROL: u8 = protocol::ICMPV6;
    const ECHO_REQUEST: u8 = icmp6::kind::ECHO_REQUEST;
    const ECHO_REPLY: u8 = icmp6::kind::ECHO_REPLY;
    const ADDRESSES: u32 = 8;

    #[inline(always)]
    fn src(header: &Ipv6) -> Addr {
        Addr(header.src)
    }

    #[inline(always)]
    fn dst(header: &Ipv6) -> Addr {
        Addr(header.dst)
    }

    #[inline(always)]
    fn hop_limit(header: &Ipv6) -> u8 {
        header.hop_limit
    }

    #[inline(always)]
    fn is_valid(header: &Ipv6, len: u32) -> bool {
        header.is_version_6()
            && Ipv6::LEN.wrapping_add(u16::from_be_bytes(header.payload_len) as u32) <= len
            && !is_mapped(&Addr(header.src))
            && !is_mapped(&Addr(header.dst))
    }

    #[inline(always)]
    fn flow_info(header: &Ipv6) -> [u8; 4] {
        let [first, second, third, fourth] = header.version_class_flow;
        [first & 0x0f, second, third, fourth]
    }

    #[inline(always)]
    fn chain<P: Packet>(packet: &P, offset: u32, header: &Ipv6) -> Result<Chain, ChainError> {
        let first = offset.wrapping_add(Ipv6::LEN);
        let mut chain = Chain {
            offset: first,
            jumbo: 0,
            protocol: header.next_header,
            fragment: Fragment::Whole,
            id: [0; 4],
        };
        if extension::is_extension(header.next_header) {
            walk_v6(packet, &mut chain)?;
        }
        Ok(chain)
    }

    #[inline(always)]
    fn decrement_hop_limit<P: Packet>(packet: &mut P, hop_limit: u8) -> Result<(), AccessError> {
        packet.store(
            Ethernet::LEN.wrapping_add(Ipv6::HOP_LIMIT),
            &hop_limit.wrapping_sub(1),
        )
    }

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        kind < icmp6::kind::FIRST_INFORMATIONAL
    }

    #[inline(always)]
    fn is_enabled(config: &Config) -> bool {
        config.enable_ipv6 != 0
    }

    #[inline(always)]
    fn router(config: &Config) -> Addr {
        config.router_v6
    }
}

/// Out of line: few packets have extension headers, and the walk is the largest part of parsing for the verifier.
/// The result is by reference, as the linker cannot describe a `Result` with its tag inside `Chain` in valid BTF.
#[inline(never)]
fn walk_v6<P: Packet>(packet: &P, chain: &mut Chain) -> Result<(), ChainError> {
    extension::walk(packet, chain)
}

impl Family for V4 {
    type Header = Ipv4;

    const ETHER_TYPE: [u8; 2] = ether_type::IPV4;
    const IS_V6: bool = false;
    const CONTROL: u8 = protocol::ICMP;
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;
    const ADDRESSES: u32 = 12;

    #[inline(always)]
    fn src(header: &Ipv4) -> Addr {
        Addr::from_v4(header.src)
    }

    #[inline(always)]
    fn dst(header: &Ipv4) -> Addr {
        Addr::from_v4(header.dst)
    }

    #[inline(always)]
    fn hop_limit(header: &Ipv4) -> u8 {
        header.ttl
    }

    #[inline(always)]
    fn is_valid(header: &Ipv4, len: u32) -> bool {
        let total = u16::from_be_bytes(header.total_len) as u32;
        // Total length 0: a packet beyond 64 KiB that is still to be segmented (BIG TCP).
        header.version_ihl & 0xf0 == 0x40 && v4_header_len(header) >= Ipv4::LEN && total <= len
    }

    #[inline(always)]
    fn flow_info(header: &Ipv4) -> [u8; 4] {
        [header.tos, 0, 0, 0]
    }

    #[inline(always)]
    fn chain<P: Packet>(_packet: &P, offset: u32, header: &Ipv4) -> Result<Chain, ChainError> {
        let flags_offset = u16::from_be_bytes(header.flags_offset);
        let fragment = match (flags_offset & 0x1fff, flags_offset & 0x2000) {
            (0, 0) => Fragment::Whole,
            (0, _) => Fragment::First,
            _ => Fragment::Later,
        };
        Ok(Chain {
            offset: offset.wrapping_add(v4_header_len(header)),
            jumbo: 0,
            protocol: header.protocol,
            fragment,
            id: [0, 0, header.id[0], header.id[1]],
        })
    }

    #[inline(always)]
    fn decrement_hop_limit<P: Packet>(packet: &mut P, hop_limit: u8) -> Result<(), AccessError> {
        let offset = Ethernet::LEN.wrapping_add(Ipv4::TTL);
        let [_, protocol, high, low]: [u8; 4] = packet.load(offset)?;
        let ttl = hop_limit.wrapping_sub(1);
        let [high, low] = checksum::update([high, low], [hop_limit, protocol], [ttl, protocol]);
        packet.store(offset, &[ttl, protocol, high, low])
    }

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        // Unreachable, source quench, redirect, time exceeded, parameter problem (RFC 1122 §3.2.2).
        matches!(kind, 3 | 4 | 5 | 11 | 12)
    }

    #[inline(always)]
    fn is_enabled(config: &Config) -> bool {
        config.enable_ipv4 != 0
    }

    #[inline(always)]
    fn router(config: &Config) -> Addr {
        config.router_v4
    }
}

#[inline(always)]
fn v4_header_len(header: &Ipv4) -> u32 {
    u32::from(header.version_ihl & 0x0f).wrapping_mul(4)
}
