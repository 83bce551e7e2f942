//! Packets: header types, the walk over IPv6 extension headers, checksums, and the trait [`Packet`] behind which a
//! kernel socket buffer and a buffer in memory look the same.
//!
//! Imports only `abi`. No unsafe, no allocation, no panic: the kernel's verifier reads a panic as a path without end.
//! Multi-byte fields are byte arrays in network order.
#![no_std]
#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

pub mod access;
pub mod checksum;
pub mod ethernet;
pub mod extension;
pub mod family;
pub mod icmp6;
pub mod ip;
pub mod transport;

pub use access::{AccessError, Covered, Packet};
pub use ethernet::Ethernet;
pub use extension::{Chain, Fragment};
pub use family::{Family, V4, V6};

/// IP protocol numbers (IANA "Assigned Internet Protocol Numbers").
pub mod protocol {
    /// Transmission control.
    pub const TCP: u8 = 6;
    /// User datagrams.
    pub const UDP: u8 = 17;
    /// Datagram congestion control.
    pub const DCCP: u8 = 33;
    /// The IPv6 fragment header; also the protocol under which later fragments are tracked.
    pub const FRAGMENT: u8 = 44;
    /// Control messages of IPv6.
    pub const ICMPV6: u8 = 58;
    /// Control messages of IPv4.
    pub const ICMP: u8 = 1;
    /// Stream control transmission.
    pub const SCTP: u8 = 132;
    /// UDP with partial checksums.
    pub const UDP_LITE: u8 = 136;
}
