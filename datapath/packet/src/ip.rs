//! Layer 3 headers.

use abi::Addr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// IPv6 header (RFC 8200 §3).
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Ipv6 {
    /// Version (4 bits), traffic class (8), flow label (20).
    pub version_class_flow: [u8; 4],
    /// Bytes after this header; 0 for a jumbogram, which inside a host is every TCP packet beyond 64 KiB (BIG TCP).
    pub payload_len: [u8; 2],
    /// Protocol or first extension header.
    pub next_header: u8,
    /// Routers that may still be passed.
    pub hop_limit: u8,
    /// Sender.
    pub src: [u8; 16],
    /// Receiver.
    pub dst: [u8; 16],
}

impl Ipv6 {
    /// Bytes on the wire.
    pub const LEN: u32 = 40;
    /// Offset of the hop limit inside the header.
    pub const HOP_LIMIT: u32 = 7;
    /// Offset of the length of what follows the header.
    pub const PAYLOAD_LEN: u32 = 4;
    /// First byte's upper half.
    pub const VERSION: u8 = 0x60;

    /// Whether the version field says 6.
    #[must_use]
    #[inline]
    pub const fn is_version_6(&self) -> bool {
        let [first, ..] = self.version_class_flow;
        first & 0xf0 == Self::VERSION
    }
}

/// IPv4 header without options (RFC 791).
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Ipv4 {
    /// Version (4 bits) and header length in 32-bit words (4 bits).
    pub version_ihl: u8,
    /// Differentiated services and congestion notification.
    pub tos: u8,
    /// Header and payload, bytes.
    pub total_len: [u8; 2],
    /// Identification of the datagram.
    pub id: [u8; 2],
    /// Flags (3 bits) and fragment offset in units of 8 bytes (13 bits).
    pub flags_offset: [u8; 2],
    /// Routers that may still be passed.
    pub ttl: u8,
    /// Protocol.
    pub protocol: u8,
    /// Checksum of the header.
    pub checksum: [u8; 2],
    /// Sender.
    pub src: [u8; 4],
    /// Receiver.
    pub dst: [u8; 4],
}

impl Ipv4 {
    /// Bytes on the wire without options.
    pub const LEN: u32 = 20;
    /// Offset of time to live, protocol and checksum.
    pub const TTL: u32 = 8;
}

/// What an address is good for (RFC 4291 §2.4).
pub trait Scope {
    /// `ff00::/8`, or IPv4's 224.0.0.0/4.
    fn is_multicast(&self) -> bool;
    /// Multicast that no router forwards: interface-local and link-local scope.
    fn is_link_multicast(&self) -> bool;
    /// `fe80::/10`.
    fn is_link_local(&self) -> bool;
    /// `::`.
    fn is_unspecified(&self) -> bool;
    /// `::1`, or IPv4's 127.0.0.0/8.
    fn is_loopback(&self) -> bool;
}

impl Scope for Addr {
    #[inline]
    fn is_multicast(&self) -> bool {
        let [first, ..] = self.0;
        first == 0xff || (is_mapped(self) && matches!(self.0, [.., a, _, _, _] if a & 0xf0 == 0xe0))
    }

    #[inline]
    fn is_link_multicast(&self) -> bool {
        let [first, second, ..] = self.0;
        first == 0xff && second & 0x0f <= 2
    }

    #[inline]
    fn is_link_local(&self) -> bool {
        let [first, second, ..] = self.0;
        first == 0xfe && second & 0xc0 == 0x80
    }

    #[inline]
    fn is_unspecified(&self) -> bool {
        *self == Self::UNSPECIFIED
    }

    #[inline]
    fn is_loopback(&self) -> bool {
        *self == LOOPBACK || (is_mapped(self) && matches!(self.0, [.., 127, _, _, _]))
    }
}

const LOOPBACK: Addr = Addr([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// Whether an address stands for one of IPv4 (`abi::Addr`). None is forwarded (RFC 6890 §2.2.3).
#[inline]
pub(crate) fn is_mapped(addr: &Addr) -> bool {
    let [first, second, third, _]: [u32; 4] = zerocopy::transmute!(addr.0);
    first | second == 0 && third == u32::from_ne_bytes([0, 0, 0xff, 0xff])
}
