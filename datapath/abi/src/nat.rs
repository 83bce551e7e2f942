//! Translation of addresses and ports, packet by packet: services that no socket hook sees, and masquerade.
//!
//! A translated connection has two entries, one per direction: each says how a packet that arrives with the tuple of the
//! key leaves. The two name each other, so that either can renew the other.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Addr;

/// Addresses and ports of a packet before translation.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct NatKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port, network order; for ICMP echo requests the identifier, else 0.
    pub src_port: [u8; 2],
    /// Destination port, network order; for ICMP echo replies the identifier, else 0.
    pub dst_port: [u8; 2],
    /// IP protocol number.
    pub proto: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

/// Addresses and ports after translation.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct NatEntry {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub src_port: [u8; 2],
    /// Destination port.
    pub dst_port: [u8; 2],
    /// [`NatEntry::REPLY`] and others.
    pub flags: u32,
    /// When the pair was made, nanoseconds of the monotonic clock since boot.
    pub created: u64,
    /// When the pair may be reused, same clock.
    pub expires: u64,
}

impl NatEntry {
    /// Packets that match answer those of the other entry.
    pub const REPLY: u32 = 1 << 0;
    /// TCP: FIN was seen from the client, or RST from anyone.
    pub const CLIENT_CLOSING: u32 = 1 << 1;
    /// TCP: FIN was seen from the server, or RST from anyone.
    pub const SERVER_CLOSING: u32 = 1 << 2;
    /// TCP: a packet other than the first SYN was seen.
    pub const ESTABLISHED: u32 = 1 << 3;
    /// Made for a service; otherwise for masquerade.
    pub const SERVICE: u32 = 1 << 4;
    /// The answers are given by a backend on another node, straight to the client.
    pub const DSR: u32 = 1 << 5;
    /// The reply is taken up by the node's own stack: the client is a process of the node.
    pub const HOST: u32 = 1 << 6;
}

/// The datagram that a fragment belongs to (RFC 8200 §4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FragmentKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Identification, network order.
    pub id: [u8; 4],
    /// IP protocol number.
    pub proto: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

/// Ports of a datagram, known from its first fragment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FragmentPorts {
    /// Source port, network order.
    pub src: [u8; 2],
    /// Destination port, network order.
    pub dst: [u8; 2],
}

/// Prefix of destinations that pods reach with their own address (`nonMasqueradeCIDRs`): key of an LPM trie.
pub type PlainKey = [u8; 16];
