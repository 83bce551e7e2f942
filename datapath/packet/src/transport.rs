//! Layer 4 headers.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// TCP header without options (RFC 9293 §3.1).
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Tcp {
    /// Sender's port.
    pub src_port: [u8; 2],
    /// Receiver's port.
    pub dst_port: [u8; 2],
    /// Number of the first byte.
    pub sequence: [u8; 4],
    /// Next byte expected.
    pub acknowledgment: [u8; 4],
    /// Header length in 32-bit words (upper 4 bits).
    pub data_offset: u8,
    /// [`tcp_flag`].
    pub flags: u8,
    /// Receive window.
    pub window: [u8; 2],
    /// Checksum with pseudo-header.
    pub checksum: [u8; 2],
    /// Urgent pointer.
    pub urgent: [u8; 2],
}

impl Tcp {
    /// Offset of the checksum.
    pub const CHECKSUM: u32 = 16;

    /// Header length with options, bytes.
    #[must_use]
    #[inline]
    pub const fn header_len(&self) -> u8 {
        (self.data_offset >> 4).wrapping_mul(4)
    }
}

/// Bits of [`Tcp::flags`].
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 1 << 0;
    /// Start of a connection.
    pub const SYN: u8 = 1 << 1;
    /// End of a connection at once.
    pub const RST: u8 = 1 << 2;
    /// Acknowledgment is valid.
    pub const ACK: u8 = 1 << 4;
}

/// UDP header (RFC 768).
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Udp {
    /// Sender's port.
    pub src_port: [u8; 2],
    /// Receiver's port.
    pub dst_port: [u8; 2],
    /// Header and data, bytes.
    pub len: [u8; 2],
    /// Checksum with pseudo-header.
    pub checksum: [u8; 2],
}

impl Udp {
    /// Offset of the checksum.
    pub const CHECKSUM: u32 = 6;
}

/// The ports, which TCP, UDP, SCTP, DCCP and UDP-Lite have in the same place.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Ports {
    /// Sender's port.
    pub src: [u8; 2],
    /// Receiver's port.
    pub dst: [u8; 2],
}
