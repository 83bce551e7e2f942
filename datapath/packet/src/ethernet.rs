//! Layer 2.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Ethernet header.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
pub struct Ethernet {
    /// Receiver.
    pub dst: [u8; 6],
    /// Sender.
    pub src: [u8; 6],
    /// What follows: [`ether_type`].
    pub ether_type: [u8; 2],
}

impl Ethernet {
    /// Bytes on the wire; layer 3 starts here.
    pub const LEN: u32 = 14;
    /// Offset of the two addresses, receiver first.
    pub const ADDRESSES: u32 = 0;
    /// Offset of the type.
    pub const TYPE: u32 = 12;
}

/// Values of [`Ethernet::ether_type`].
pub mod ether_type {
    /// IPv4.
    pub const IPV4: [u8; 2] = [0x08, 0x00];
    /// IPv6.
    pub const IPV6: [u8; 2] = [0x86, 0xdd];
}
