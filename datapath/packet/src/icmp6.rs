//! ICMPv6 (RFC 4443) and neighbour discovery (RFC 4861).

use abi::Addr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Message types.
pub mod kind {
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Packet too big.
    pub const TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem.
    pub const PARAMETER: u8 = 4;
    /// First type that is not an error.
    pub const FIRST_INFORMATIONAL: u8 = 128;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// Multicast listener query.
    pub const MLD_QUERY: u8 = 130;
    /// Multicast listener report, version 1.
    pub const MLD_REPORT: u8 = 131;
    /// Multicast listener done.
    pub const MLD_DONE: u8 = 132;
    /// Router solicitation.
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Router advertisement.
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Neighbour solicitation.
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// Neighbour advertisement.
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// Redirect.
    pub const REDIRECT: u8 = 137;
    /// Multicast listener report, version 2.
    pub const MLD_REPORT_V2: u8 = 143;
}

/// Codes of [`kind::UNREACHABLE`].
pub mod unreachable {
    /// Nobody listens on the port.
    pub const PORT: u8 = 4;
}

/// The first eight bytes of every message.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Icmp6 {
    /// [`kind`].
    pub kind: u8,
    /// Meaning depends on the type.
    pub code: u8,
    /// Checksum with pseudo-header.
    pub checksum: [u8; 2],
    /// Echo: identifier and sequence number. Packet too big: MTU. Else zero or flags.
    pub body: [u8; 4],
}

impl Icmp6 {
    /// Bytes on the wire.
    pub const LEN: u32 = 8;
    /// Offset of the checksum.
    pub const CHECKSUM: u32 = 2;
    /// Offset of the body.
    pub const BODY: u32 = 4;

    /// Identifier of an echo message.
    #[must_use]
    #[inline]
    pub const fn echo_id(&self) -> [u8; 2] {
        let [high, low, ..] = self.body;
        [high, low]
    }
}

/// Neighbour solicitation without options (RFC 4861 §4.3).
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Solicitation {
    /// Type 135, code 0.
    pub icmp: Icmp6,
    /// Whose link-layer address is wanted.
    pub target: [u8; 16],
}

impl Solicitation {
    /// Bytes on the wire.
    pub const LEN: u32 = 24;
}

/// Neighbour advertisement with the target's link-layer address (RFC 4861 §4.4, §4.6.1).
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Advertisement {
    /// Type 136, code 0, [`Advertisement::ROUTER`] and others in the first byte of the body.
    pub icmp: Icmp6,
    /// Whose link-layer address this is.
    pub target: [u8; 16],
    /// Option type: 2.
    pub option: u8,
    /// Option length in units of 8 bytes: 1.
    pub option_len: u8,
    /// The link-layer address.
    pub mac: [u8; 6],
}

impl Advertisement {
    /// Bytes on the wire.
    pub const LEN: u32 = 32;
    /// Offset of the target.
    pub const TARGET: u32 = 8;
    /// Offset of the option.
    pub const OPTION: u32 = 24;
    /// Flag: the sender is a router.
    pub const ROUTER: u8 = 0x80;
    /// Flag: the answer to a solicitation.
    pub const SOLICITED: u8 = 0x40;
    /// Flag: replaces what the receiver has stored.
    pub const OVERRIDE: u8 = 0x20;
    /// Option type "target link-layer address".
    pub const TARGET_OPTION: u8 = 2;
}

/// An option of a neighbour discovery message, first two bytes (RFC 4861 §4.6).
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct OptionHead {
    /// Type; 1: source link-layer address.
    pub kind: u8,
    /// Length in units of 8 bytes; 0 makes the message invalid.
    pub len: u8,
}

impl OptionHead {
    /// Option type "source link-layer address".
    pub const SOURCE: u8 = 1;
}

/// Hop limit that proves that no router was passed (RFC 4861 §7.1.1).
pub const HOP_LIMIT: u8 = 255;

/// All nodes of the link, `ff02::1`.
pub const ALL_NODES: Addr = Addr([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// Ethernet address of an IPv6 multicast address (RFC 2464 §7).
#[must_use]
#[inline]
pub const fn multicast_mac(addr: &Addr) -> [u8; 6] {
    let [.., a, b, c, d] = addr.0;
    [0x33, 0x33, a, b, c, d]
}

/// Whether an address is a solicited-node multicast address (RFC 4291 §2.7.1).
#[must_use]
#[inline]
pub const fn is_solicited_node(addr: &Addr) -> bool {
    matches!(addr.0, [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, ..])
}

/// Whether a message is an error, about which no error may be sent (RFC 4443 §2.4 e). Redirects count as such.
#[must_use]
#[inline]
pub const fn is_error(kind: u8) -> bool {
    kind < kind::FIRST_INFORMATIONAL || kind == kind::REDIRECT
}

/// Whether a message never leaves its link: neighbour discovery and multicast listener reports.
#[must_use]
#[inline]
pub const fn is_link_only(kind: u8) -> bool {
    matches!(kind, kind::MLD_QUERY..=kind::REDIRECT | kind::MLD_REPORT_V2)
}
