//! Services: frontends, sets of backends, and what makes a client come back to its backend.
//!
//! A frontend names two sets of backends, one for clients inside the cluster and one for those outside. A set is
//! written whole under a number that was never used before, then the frontend is switched to it in one update, then
//! the old set is removed: a lookup finds the old set or the new one, never a mixture.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Addr;

/// Where a service is reached.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct ServiceKey {
    /// Address of the service; unspecified: every address of every node of the cluster (a node port).
    pub addr: Addr,
    /// Port, network order.
    pub port: [u8; 2],
    /// IP protocol number: TCP, UDP or SCTP.
    pub proto: u8,
    /// 6 or 4: tells the node ports of the two families apart, which have no address; set in every key.
    pub family: u8,
    /// Always zero.
    pub pad: [u8; 4],
}

/// A set of backends.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct BackendSet {
    /// Number of the set, in [`BackendKey::set`]; 0 with no backends.
    pub id: u32,
    /// How many backends; slots run from 0.
    pub count: u32,
}

/// A frontend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Service {
    /// Backends for clients of the cluster: pods and nodes.
    pub inside: BackendSet,
    /// Backends for everybody else.
    pub outside: BackendSet,
    /// Number of the frontend on this node; what lists print as its ID. Never 0.
    pub number: u32,
    /// How long a client keeps its backend, seconds; 0: each connection is balanced anew.
    pub affinity: u32,
    /// [`Service::NODE_PORT`] and others.
    pub flags: u32,
}

impl Service {
    /// A node port: the key has no address.
    pub const NODE_PORT: u32 = 1 << 0;
    /// Clients outside the cluster may use it (node port, external IP, load balancer IP, host port).
    pub const EXTERNAL: u32 = 1 << 1;
    /// `externalTrafficPolicy: Local`: the source of outside clients is kept, and without a backend on this node their
    /// packets are dropped, not refused, so that the balancer in front of it looks elsewhere.
    pub const OUTSIDE_LOCAL: u32 = 1 << 2;
    /// `internalTrafficPolicy: Local`: without a backend on this node packets are dropped, not refused.
    pub const INSIDE_LOCAL: u32 = 1 << 3;
    /// Clients outside the cluster must be in [`SourceRangeKey`]'s table.
    pub const SOURCE_RANGES: u32 = 1 << 4;
    /// Packets are balanced by the table of their set in `names::MAGLEV`; otherwise at random.
    pub const MAGLEV: u32 = 1 << 5;
    /// Backends on other nodes answer the client directly.
    pub const DSR: u32 = 1 << 6;
    /// A host port of a pod of this node.
    pub const HOST_PORT: u32 = 1 << 7;
    /// Packets to the address go up the stack, since the answering socket is there: the health check node port.
    pub const TO_STACK: u32 = 1 << 8;
}

/// A slot of a set of backends.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct BackendKey {
    /// [`BackendSet::id`].
    pub set: u32,
    /// From 0 to [`BackendSet::count`], exclusive.
    pub slot: u32,
}

/// Where a service's packets go.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct Backend {
    /// Address.
    pub addr: Addr,
    /// Port, network order.
    pub port: [u8; 2],
    /// [`Backend::TERMINATING`] and others to come.
    pub flags: u16,
    /// Number of the backend on this node; what lists print. Never 0.
    pub number: u32,
}

impl Backend {
    /// It is being shut down, and chosen only since nothing better is there.
    pub const TERMINATING: u16 = 1 << 0;
}

/// Entries of a Maglev table: a prime well above a hundred times the number of backends of nearly all services
/// (Eisenbud et al., "Maglev", NSDI 2016, §3.4 and §5.3). Cilium's default, too.
pub const MAGLEV_SIZE: usize = 16_381;

/// For each hash the slot of a backend of the set.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MaglevTable(pub [u16; MAGLEV_SIZE]);

/// A prefix that may use a service from outside the cluster: key of an LPM trie.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct SourceRangeKey {
    /// [`Service::number`], network order, so that it is a prefix.
    pub service: [u8; 4],
    /// First address of the range.
    pub addr: [u8; 16],
}

impl SourceRangeKey {
    /// Bits of the number, which all prefixes contain.
    pub const SERVICE_BITS: u32 = 32;
}

/// Tells whether a backend still belongs to a service. Kept for UDP and for services with client affinity, which
/// remember a backend.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct MemberKey {
    /// Address of the backend.
    pub addr: Addr,
    /// Its port, network order.
    pub port: [u8; 2],
    /// Always zero.
    pub pad: [u8; 2],
    /// [`Service::number`].
    pub service: u32,
}

/// Values of the member table, a bit set: for whom a backend is there.
pub mod member {
    /// For clients of the cluster.
    pub const INSIDE: u32 = 1 << 0;
    /// For clients outside.
    pub const OUTSIDE: u32 = 1 << 1;
}

/// A client of a service with affinity.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AffinityKey {
    /// Address of the client; for sockets, whose address is not known yet, the cookie of their network namespace in the
    /// last eight bytes (native order).
    pub client: Addr,
    /// [`Service::number`].
    pub service: u32,
    /// 1: `client` is a cookie.
    pub is_cookie: u32,
}

/// Backend that a client had last.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Affinity {
    /// Which.
    pub backend: Backend,
    /// When it was last chosen, nanoseconds of the monotonic clock since boot.
    pub used: u64,
}

/// What a socket was promised, and what it got: kept at the socket, and gone with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SocketTranslation {
    /// Address that the program asked for.
    pub service_addr: Addr,
    /// Address that its packets go to.
    pub backend_addr: Addr,
    /// Port that the program asked for, network order.
    pub service_port: [u8; 2],
    /// Port that its packets go to.
    pub backend_port: [u8; 2],
    /// [`Service::number`]; 0: unused.
    pub service: u32,
}

/// How many services an unconnected UDP socket can talk to at once with answers under their addresses; the one that was
/// used first goes.
pub const DATAGRAM_PEERS: usize = 8;

/// Services that an unconnected UDP socket has sent to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SocketPeers {
    /// The services; unused ones are zero.
    pub peers: [SocketTranslation; DATAGRAM_PEERS],
    /// Which one is replaced next.
    pub next: u64,
}
