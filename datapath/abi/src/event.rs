//! Records in the event ring. Layouts follow Cilium's monitor messages (`bpf/lib/{trace,drop}.h`), so that the same
//! facts are there for the flow server. Each record is a header struct followed by up to
//! [`CAPTURE`] bytes of the packet, layer 2 first.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Addr;

/// How many bytes of a packet are copied into an event.
pub const CAPTURE: usize = 128;

/// Values of [`EventHeader::kind`].
pub mod kind {
    /// [`super::DropNotify`].
    pub const DROP: u8 = 1;
    /// [`super::TraceNotify`].
    pub const TRACE: u8 = 4;
    /// [`super::PolicyVerdictNotify`]; its producer comes with the policy issue.
    pub const POLICY_VERDICT: u8 = 5;
    /// [`super::TraceSockNotify`].
    pub const TRACE_SOCK: u8 = 7;
}

/// Values of [`EventHeader::subtype`] for traces.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObservationPoint {
    /// Delivered to a pod of this node.
    ToEndpoint = 0,
    /// Delivered to the node itself.
    ToHost = 2,
    /// Handed to the kernel's stack for routing.
    ToStack = 3,
    /// Received from a pod of this node.
    FromEndpoint = 5,
    /// Received from the node itself (`cilium_host`).
    FromHost = 7,
    /// Received on a native device.
    FromNetwork = 10,
    /// Leaving through a native device.
    ToNetwork = 11,
}

/// Values of [`TraceNotify::reason`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceReason {
    /// First packet of a connection.
    New = 0,
    /// Later packet in the direction of the first.
    Established = 1,
    /// Packet in the other direction.
    Reply = 2,
    /// ICMP error about a known connection.
    Related = 3,
    /// No conntrack lookup was made here.
    Unknown = 5,
}

/// The start of every record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EventHeader {
    /// [`kind`].
    pub kind: u8,
    /// Observation point or drop reason.
    pub subtype: u8,
    /// Endpoint number that reports; 0: the node.
    pub source: u16,
    /// Flow hash of the packet.
    pub hash: u32,
    /// Length of the packet, bytes.
    pub len_orig: u32,
    /// Bytes of the packet in this record.
    pub len_cap: u16,
    /// Version of the layout.
    pub version: u16,
}

/// A packet was seen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TraceNotify {
    /// Kind [`kind::TRACE`], subtype [`ObservationPoint`].
    pub header: EventHeader,
    /// Identity of the sender.
    pub src_label: u32,
    /// Identity of the receiver; 0 when not known here.
    pub dst_label: u32,
    /// Endpoint number of the receiver when local.
    pub dst_id: u16,
    /// [`TraceReason`].
    pub reason: u8,
    /// Bit 0: IPv6.
    pub flags: u8,
    /// Interface the packet leaves through, or came in by.
    pub ifindex: u32,
    /// Destination before translation; unspecified: none.
    pub orig_addr: Addr,
    /// Nanoseconds of the monotonic clock since boot.
    pub time: u64,
}

/// A packet was dropped.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DropNotify {
    /// Kind [`kind::DROP`], subtype [`crate::DropReason`].
    pub header: EventHeader,
    /// Identity of the sender.
    pub src_label: u32,
    /// Identity of the receiver; 0 when not known here.
    pub dst_label: u32,
    /// Endpoint number of the receiver when local.
    pub dst_id: u32,
    /// [`crate::Direction`].
    pub direction: u8,
    /// Bit 0: IPv6.
    pub flags: u8,
    /// Always zero.
    pub pad: [u8; 2],
    /// Interface the packet came in by.
    pub ifindex: u32,
    /// Always zero.
    pub pad2: u32,
    /// Nanoseconds of the monotonic clock since boot.
    pub time: u64,
}

/// Policy decided about the first packet of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PolicyVerdictNotify {
    /// Kind [`kind::POLICY_VERDICT`]; the source is the endpoint whose policy it is.
    pub header: EventHeader,
    /// Identity of the other side.
    pub remote_label: u32,
    /// 0: allowed; positive: port of the proxy; negative: number of the drop reason.
    pub verdict: i32,
    /// Destination port, native order; for ICMP its type.
    pub dst_port: u16,
    /// IP protocol.
    pub proto: u8,
    /// Bits 0–1: [`crate::Direction`]; bit 2: IPv6; bits 3–5: match type; bit 6: audited.
    pub bits: u8,
    /// Authentication that the policy asks for.
    pub auth_type: u8,
    /// Always zero.
    pub pad: [u8; 3],
    /// Which rule it was; 0: none.
    pub cookie: u32,
    /// Always zero.
    pub pad2: u32,
    /// Nanoseconds of the monotonic clock since boot.
    pub time: u64,
}

/// The address of a socket was translated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TraceSockNotify {
    /// [`kind::TRACE_SOCK`].
    pub kind: u8,
    /// 1 before and 2 after translation on the way out, 3 before and 4 after it on the way back.
    pub point: u8,
    /// 1: TCP, 2: UDP.
    pub l4_proto: u8,
    /// Bit 0: IPv6.
    pub flags: u8,
    /// Port of the peer, native order.
    pub dst_port: u16,
    /// Always zero.
    pub pad: u16,
    /// Cookie of the socket.
    pub sock_cookie: u64,
    /// cgroup of the process.
    pub cgroup_id: u64,
    /// Address of the peer.
    pub dst_addr: Addr,
    /// Nanoseconds of the monotonic clock since boot.
    pub time: u64,
}
