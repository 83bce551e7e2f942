//! How a packet ends.

use abi::{Addr, Direction, DropReason};
use packet::{AccessError, extension::ChainError};

/// What becomes of a packet that is not dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours: as if the program were not there.
    Pass,
    /// To the node's stack, which routes it or takes it.
    Stack,
    /// Into the pod behind this host-side device, past the device's egress programs.
    Peer {
        /// The host-side device.
        ifindex: u32,
    },
    /// Out of a device, through its egress programs, with the link-layer addresses that are in the packet.
    Device {
        /// The device.
        ifindex: u32,
    },
    /// Out of a device, with the link-layer address of the next hop.
    Neighbour {
        /// The device.
        ifindex: u32,
        /// Next hop; the destination itself when it is on the link.
        next_hop: Addr,
    },
    /// Taken from the network without noise: counted under the reason, no event. For what every pod sends at its start
    /// and no router forwards: router solicitations, multicast reports, duplicate address detection.
    Consumed(DropReason),
}

/// A packet was dropped: counted and reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Why.
    pub reason: DropReason,
    /// On its way from or to an endpoint.
    pub direction: Direction,
}

impl Dropped {
    #[inline(always)]
    pub(crate) fn egress(reason: DropReason) -> Self {
        Self {
            reason,
            direction: Direction::Egress,
        }
    }

    #[inline(always)]
    pub(crate) fn ingress(reason: DropReason) -> Self {
        Self {
            reason,
            direction: Direction::Ingress,
        }
    }
}

/// The reason for a packet that cannot be read or changed.
#[inline(always)]
pub(crate) fn access(error: AccessError) -> DropReason {
    match error {
        AccessError::OutOfBounds => DropReason::InvalidPacketDropped,
        AccessError::Refused => DropReason::ErrorWritingToPacket,
    }
}

#[inline(always)]
pub(crate) fn chain(_: ChainError) -> DropReason {
    DropReason::InvalidIpv6ExtensionHeader
}
