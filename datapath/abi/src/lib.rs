//! The contract between the kernel programs and user space: map keys and values, events, drop reasons,
//! load-time constants.
//!
//! Imported by everyone, imports nothing of ours. `no_std`, no unsafe, no features. Every type that crosses the
//! border derives `IntoBytes + FromBytes`, so that padding (which would be stack garbage in a map key) cannot exist.
//! Multi-byte fields that are on the wire are network-order byte arrays; counters and identities are native.
#![no_std]
#![forbid(unsafe_code)]

pub mod config;
pub mod conntrack;
pub mod event;
pub mod nat;
pub mod reason;
pub mod service;
pub mod tables;

pub use config::Config;
pub use conntrack::{CtEntry, CtKey};
pub use event::{DropNotify, EventHeader, PolicyVerdictNotify, TraceNotify, TraceSockNotify};
pub use nat::{FragmentKey, FragmentPorts, NatEntry, NatKey};
pub use reason::{Direction, DropReason};
pub use service::{
    Affinity, AffinityKey, Backend, BackendKey, BackendSet, MemberKey, Service, ServiceKey, SocketPeers,
    SocketTranslation, SourceRangeKey,
};
pub use tables::{Addr, Bucket, Endpoint, Peer};

/// Rises with every change of a layout in this crate. Pinned maps of another version are not reused.
pub const ABI_VERSION: u32 = 2;

/// Names under which maps are pinned below the bpffs directory, and names of the programs in the object.
pub mod names {
    /// Hash: [`crate::Addr`] to [`crate::Endpoint`]: pods of this node, and the node's own addresses.
    pub const ENDPOINTS: &str = "seta_endpoints";
    /// Hash: interface index (`u32`) to [`crate::Addr`]: which endpoint a host-side pod device belongs to.
    pub const DEVICES: &str = "seta_devices";
    /// Hash: [`crate::Addr`] to [`crate::Peer`]: identity of every single address known in the cluster.
    pub const IPCACHE: &str = "seta_ipcache";
    /// LRU hash: [`crate::CtKey`] to [`crate::CtEntry`], TCP only.
    pub const CT_TCP: &str = "seta_ct_tcp";
    /// LRU hash: [`crate::CtKey`] to [`crate::CtEntry`], everything but TCP.
    pub const CT_ANY: &str = "seta_ct_any";
    /// Per-CPU array: index [`crate::reason::metric_index`] to [`crate::tables::Counter`].
    pub const METRICS: &str = "seta_metrics";
    /// Ring buffer of [`crate::event`] records.
    pub const EVENTS: &str = "seta_events";
    /// Per-CPU array: event type (first byte of a record) to `u64`: events that found no room in the ring.
    pub const EVENTS_LOST: &str = "seta_lost";
    /// Per-CPU array: [`crate::tables::bucket`] to [`crate::tables::Bucket`].
    pub const RATES: &str = "seta_rates";
    /// Hash: [`crate::ServiceKey`] to [`crate::Service`].
    pub const SERVICES: &str = "seta_services";
    /// Hash: [`crate::BackendKey`] to [`crate::Backend`].
    pub const BACKENDS: &str = "seta_backends";
    /// Hash: number of a set (`u32`) to [`crate::service::MaglevTable`].
    pub const MAGLEV: &str = "seta_maglev";
    /// LPM trie: [`crate::SourceRangeKey`] to `u32` (unused, 1).
    pub const SOURCE_RANGES: &str = "seta_ranges";
    /// Hash: [`crate::MemberKey`] to `u32`, bits of [`crate::service::member`].
    pub const MEMBERS: &str = "seta_members";
    /// LRU hash: [`crate::AffinityKey`] to [`crate::Affinity`].
    pub const AFFINITY: &str = "seta_affinity";
    /// Socket storage: [`crate::SocketTranslation`] of a connected socket.
    pub const SOCKETS: &str = "seta_sockets";
    /// Socket storage: [`crate::SocketPeers`] of an unconnected UDP socket.
    pub const SOCKET_PEERS: &str = "seta_sock_peers";
    /// LRU hash: [`crate::NatKey`] to [`crate::NatEntry`].
    pub const NAT: &str = "seta_nat";
    /// LRU hash: [`crate::FragmentKey`] to [`crate::FragmentPorts`].
    pub const FRAGMENTS: &str = "seta_fragments";
    /// LPM trie: [`crate::nat::PlainKey`] to `u32` (unused, 1).
    pub const PLAIN: &str = "seta_plain";
    /// Hash: interface index (`u32`) of a native device to the [`crate::Addr`] that pods leave the node with.
    pub const MASQUERADE: &str = "seta_masquerade";
    /// Global (read-only data) that holds [`crate::Config`], set before the load.
    pub const CONFIG: &str = "CONFIG";

    /// tcx ingress of the host side of a pod's link: packets a pod sends.
    pub const FROM_POD: &str = "from_pod";
    /// tcx egress of the host side of a pod's link: packets that the stack delivers to a pod.
    pub const TO_POD: &str = "to_pod";
    /// tcx ingress of a native device: packets from other nodes and the world.
    pub const FROM_NETDEV: &str = "from_netdev";
    /// XDP of a native device: packets of known connections between others, before the stack sees them.
    pub const FROM_WIRE: &str = "from_wire";
    /// tcx egress of a native device: packets that leave the node through the stack.
    pub const TO_NETDEV: &str = "to_netdev";
    /// tcx egress of `cilium_host`: packets of the node itself to pods of this node.
    pub const FROM_HOST: &str = "from_host";

    /// cgroup `connect6`: a socket is connected to a service.
    pub const CONNECT6: &str = "connect6";
    /// cgroup `sendmsg6`: a datagram is sent to a service by a socket that is not connected.
    pub const SENDMSG6: &str = "sendmsg6";
    /// cgroup `recvmsg6`: a datagram comes back.
    pub const RECVMSG6: &str = "recvmsg6";
    /// cgroup `getpeername6`: a program asks who it is connected to.
    pub const GETPEERNAME6: &str = "getpeername6";
    /// cgroup `post_bind6`: a process of the node takes a port.
    pub const POST_BIND6: &str = "post_bind6";
}

/// Values of the packet mark (`skb->mark`) inside the node's network namespace.
pub mod mark {
    /// Lower 16 bits of the mark of a packet that a program here has dealt with to the end: later programs on its way
    /// out of the node let it pass without a second look. Number as in Cilium (`MARK_MAGIC_IDENTITY`). Only the kernel
    /// programs and processes with `CAP_NET_ADMIN` in the node's namespace can set it; it does not survive a change of
    /// the namespace.
    pub const DONE: u32 = 0x0f00;
}
