//! What the logic needs from outside: tables and the world.

use abi::{Addr, Bucket, Config, CtEntry, CtKey, Endpoint, Peer};
use zerocopy::{Immutable, IntoBytes};

/// A table took no further entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

/// The tables of `abi::names`. Values are copied out; what is changed in place is lent to a closure, so that no
/// reference into a table outlives the entry.
pub trait Tables {
    /// Local pod or address of the node.
    fn endpoint(&self, addr: &Addr) -> Option<Endpoint>;

    /// Address of the pod behind a host-side device.
    fn device(&self, ifindex: u32) -> Option<Addr>;

    /// What is known of an address of the cluster.
    fn peer(&self, addr: &Addr) -> Option<Peer>;

    /// Gives the entry of a connection to `with`.
    fn connection<R>(&mut self, key: &CtKey, with: impl FnOnce(&mut CtEntry) -> R) -> Option<R>;

    /// Stores a new connection; the least recently used one goes when there is no room.
    fn add_connection(&mut self, key: &CtKey, entry: &CtEntry) -> Result<(), TableFull>;

    /// Counts a packet of `bytes` bytes in a slot of the metrics table.
    fn count(&mut self, slot: u32, bytes: u32);

    /// Gives a token bucket of this CPU to `with`.
    fn bucket<R>(&mut self, slot: u32, with: impl FnOnce(&mut Bucket) -> R) -> Option<R>;
}

/// What the routing table is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteQuery<'a> {
    /// Sender.
    pub src: &'a Addr,
    /// Receiver.
    pub dst: &'a Addr,
    /// Traffic class and flow label, network order.
    pub flow_info: [u8; 4],
    /// Interface the packet came in by.
    pub ifindex: u32,
    /// Layer 3 length of the packet, or of one of its segments.
    pub len: u16,
    /// Protocol number.
    pub protocol: u8,
    /// Whether the addresses are IPv6.
    pub is_v6: bool,
}

/// What the routing table answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Forward.
    Via {
        /// Device to leave by.
        ifindex: u32,
        /// Next hop; the destination itself when it is on the link.
        next_hop: Addr,
    },
    /// The packet is longer than the route allows.
    TooBig {
        /// What it allows, bytes of layer 3.
        mtu: u32,
    },
    /// An address of the node, no route, or one that forbids: the stack takes it, or tells the sender.
    Stack,
    /// The lookup itself failed.
    Failed,
}

/// The world around a packet.
pub trait Env {
    /// Nanoseconds of the monotonic clock since boot. Coarse is good enough: the finest lifetime here is seconds.
    fn now(&self) -> u64;

    /// Load-time constants.
    fn config(&self) -> Config;

    /// Asks the routing table of the node. The answer may be one of some milliseconds ago to the same question (the kernel
    /// programs: 10 ms, by a clock that moves in steps of up to 10 ms), for a packet that is not longer than that route
    /// allows. So a change of routes reaches packets that much later: no routing protocol is as fast. A device that went
    /// down or away meanwhile refuses the packet, as it would have a moment earlier; its number is not given again. Next
    /// hops are remembered, not their link-layer addresses.
    fn route(&mut self, query: &RouteQuery<'_>) -> Route;

    /// Sends a record: `header`, then the first `captured` bytes of the packet, at most `abi::event::CAPTURE`.
    /// Records that find no room are counted under `kind`.
    fn emit<H: IntoBytes + Immutable + 'static>(&mut self, kind: u8, header: &H, captured: u32);
}
