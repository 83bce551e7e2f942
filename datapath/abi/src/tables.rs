//! Keys and values of the endpoint, device, identity and counter tables.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IPv6 address in network order; an IPv4 address is stored IPv4-mapped (`::ffff:a.b.c.d`, RFC 4291 §2.5.5.2),
/// so that one table serves both families.
///
/// Aligned, so that the kernel programs copy and compare it in two steps instead of sixteen.
#[repr(C, align(8))]
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
pub struct Addr(pub [u8; 16]);

impl Addr {
    /// The unspecified address, `::`.
    pub const UNSPECIFIED: Self = Self([0; 16]);

    /// The IPv4-mapped form of an IPv4 address in network order.
    #[must_use]
    pub const fn from_v4(v4: [u8; 4]) -> Self {
        let [a, b, c, d] = v4;
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// Whether this is the form of an IPv4 address.
    #[must_use]
    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        let [first, second, third, _]: [u32; 4] = zerocopy::transmute!(self.0);
        first | second == 0 && third == u32::from_ne_bytes([0, 0, 0xff, 0xff])
    }
}

/// A local destination: a pod on this node, or an address of the node itself.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Endpoint {
    /// Host-side interface index of the pod's link; 0 for an address of the node.
    pub ifindex: u32,
    /// Security identity of the endpoint.
    pub identity: u32,
    /// Local endpoint number, unique on the node.
    pub id: u16,
    /// [`Endpoint::HOST`] and others to come.
    pub flags: u16,
    /// Largest packet (layer 3, bytes) that the pod takes; 0: not limited.
    pub mtu: u32,
    /// MAC address of the device inside the pod.
    pub mac: [u8; 6],
    /// MAC address of the host-side device: the router, as the pod sees it.
    pub node_mac: [u8; 6],
    /// Keeps the size a multiple of four.
    pub pad: [u8; 4],
}

impl Endpoint {
    /// The address belongs to the node itself: the packet goes up the stack.
    pub const HOST: u16 = 1 << 0;
    /// The address is the node's router address (`cilium_host`), which answers neighbour discovery and echo.
    pub const ROUTER: u16 = 1 << 1;
    /// The address belongs to one or more services, and to nobody else: packets are balanced, or refused.
    pub const SERVICE: u16 = 1 << 2;
}

/// What the node knows of an address anywhere in the cluster.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Peer {
    /// Security identity behind the address.
    pub identity: u32,
    /// [`Peer::NODE`] and others to come.
    pub flags: u32,
    /// Address of the node that hosts it; unspecified when local or when it is a node.
    pub node: Addr,
}

impl Peer {
    /// The address is one of a node of the cluster, this one included.
    pub const NODE: u32 = 1 << 0;
}

/// Packets and bytes, one slot of a per-CPU counter.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Counter {
    /// Packets counted.
    pub packets: u64,
    /// Bytes counted, as the device sees them (layer 2 included).
    pub bytes: u64,
}

/// A token bucket, one per CPU and use ([`bucket`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Bucket {
    /// When tokens were last added, nanoseconds of the monotonic clock since boot; 0: never, the bucket is full.
    pub filled: u64,
    /// Tokens left.
    pub tokens: u64,
}

/// Slots of the token bucket table.
pub mod bucket {
    /// ICMPv6 errors that the datapath sends (RFC 4443 §2.4 f).
    pub const ICMP_ERRORS: u32 = 0;
    /// Trace events about traffic of the node itself, which has no conntrack to aggregate by.
    pub const HOST_TRACES: u32 = 1;
    /// Number of slots.
    pub const SLOTS: u32 = 2;
}

/// Numeric identities with a fixed meaning (Cilium `pkg/identity/numericidentity.go`).
pub mod identity {
    /// Not known.
    pub const UNKNOWN: u32 = 0;
    /// The local node.
    pub const HOST: u32 = 1;
    /// Everything outside the cluster.
    pub const WORLD: u32 = 2;
    /// A pod that is not managed by us.
    pub const UNMANAGED: u32 = 3;
    /// The health endpoint.
    pub const HEALTH: u32 = 4;
    /// A pod whose labels are not known yet.
    pub const INIT: u32 = 5;
    /// Another node of the cluster.
    pub const REMOTE_NODE: u32 = 6;
    /// The API server.
    pub const KUBE_APISERVER: u32 = 7;
    /// Ingress.
    pub const INGRESS: u32 = 8;
    /// First identity that is given to a label set.
    pub const MIN_CLUSTER: u32 = 256;
    /// Last identity that is given to a label set.
    pub const MAX_CLUSTER: u32 = 65535;
}
