//! Conntrack keys and values.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Addr;

/// A connection as seen from one endpoint of this node, in the direction of its first packet.
///
/// A connection between two pods of one node has two entries, one for the sender's egress ([`CtKey::OUT`]) and one
/// for the receiver's ingress ([`CtKey::IN`]), as each side has a policy of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CtKey {
    /// Who sent the first packet.
    pub src: Addr,
    /// Who it was sent to.
    pub dst: Addr,
    /// Source port, network order; for ICMP echo the identifier; else 0.
    pub src_port: [u8; 2],
    /// Destination port, network order; for ICMP echo 0.
    pub dst_port: [u8; 2],
    /// IP protocol number.
    pub proto: u8,
    /// [`CtKey::OUT`] or [`CtKey::IN`].
    pub dir: u8,
    /// Always zero.
    pub pad: [u8; 2],
}

impl CtKey {
    /// The connection leaves an endpoint of this node.
    pub const OUT: u8 = 0;
    /// The connection enters an endpoint of this node.
    pub const IN: u8 = 1;
}

/// State of a connection. "tx" is the direction of the first packet, "rx" the replies.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CtEntry {
    /// When the entry may be reused: nanoseconds of the monotonic clock since boot (`bpf_ktime_get_ns`).
    pub expires: u64,
    /// Packets in both directions.
    pub packets: u64,
    /// Bytes in both directions (layer 3).
    pub bytes: u64,
    /// When the last trace event was sent for tx, nanoseconds.
    pub tx_report: u64,
    /// The same for rx.
    pub rx_report: u64,
    /// Identity of the source when the entry was made.
    pub src_identity: u32,
    /// Identity of the destination when the entry was made.
    pub dst_identity: u32,
    /// [`CtEntry::SEEN_NON_SYN`] and others.
    pub flags: u16,
    /// Every TCP flag seen in tx (wire bits, FIN = 1).
    pub tx_flags: u8,
    /// Every TCP flag seen in rx.
    pub rx_flags: u8,
    /// Reverse translation of a service; 0: none. Filled by the load balancer.
    pub rev_nat: u16,
    /// Always zero.
    pub pad: [u8; 2],
}

impl CtEntry {
    /// tx sent FIN, or RST was seen.
    pub const TX_CLOSING: u16 = 1 << 0;
    /// rx sent FIN, or RST was seen.
    pub const RX_CLOSING: u16 = 1 << 1;
    /// A packet other than the first SYN was seen: the connection is (or was) established.
    pub const SEEN_NON_SYN: u16 = 1 << 4;
    /// Addresses or ports were changed before this entry saw the packet: replies have to be looked up in `names::NAT`.
    pub const TRANSLATED: u16 = 1 << 5;
}
