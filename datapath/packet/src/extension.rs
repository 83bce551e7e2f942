//! The walk over IPv6 extension headers (RFC 8200 §4).
//!
//! Headers are skipped by their length, whatever is inside: also those that this code has no name for, as far as IANA
//! lists them as extension headers. The authentication header counts its length in other units (RFC 4302 §2.2).
//! Encrypted payload, "no next header" and every other number end the walk. The total work is bounded.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{AccessError, Packet, protocol};

/// Most extension headers that are walked; RFC 8200 §4.1 knows seven in their recommended order, and one more is grace.
pub const MAX_HEADERS: u32 = 8;

/// Which part of a datagram a packet is.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragment {
    /// The whole datagram.
    #[default]
    Whole,
    /// The first fragment: the transport header is here.
    First,
    /// A later fragment: no transport header.
    Later,
}

/// Where the walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Offset of what follows the last extension header.
    pub offset: u32,
    /// Bytes of a hop-by-hop header, which the kernel adds to TCP packets beyond 64 KiB and takes away before the wire.
    pub jumbo: u32,
    /// Protocol number of what follows.
    pub protocol: u8,
    /// Fragment header found on the way.
    pub fragment: Fragment,
    /// Identification in the fragment header, network order.
    pub id: [u8; 4],
}

/// Why a chain of extension headers cannot be walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainError {
    /// The packet ends inside the chain.
    Truncated,
    /// More than [`MAX_HEADERS`] headers.
    TooLong,
}

impl From<AccessError> for ChainError {
    fn from(_: AccessError) -> Self {
        Self::Truncated
    }
}

/// The first eight bytes of every extension header.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
struct Head {
    next_header: u8,
    /// Length without the first unit; reserved in the fragment header.
    len: u8,
    /// In a fragment header: offset in units of 8 bytes (13 bits), 2 reserved, more follow (1).
    offset_more: [u8; 2],
    rest: [u8; 4],
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;
const EXPERIMENT_1: u8 = 253;
const EXPERIMENT_2: u8 = 254;
/// Option type of a jumbo payload (RFC 2675 §2).
const JUMBO_OPTION: u8 = 0xc2;

/// Whether a next-header number is an extension header that can be skipped (IANA "IPv6 Extension Header Types").
#[must_use]
#[inline]
pub const fn is_extension(number: u8) -> bool {
    matches!(
        number,
        HOP_BY_HOP
            | ROUTING
            | protocol::FRAGMENT
            | AUTHENTICATION
            | DESTINATION
            | MOBILITY
            | HOST_IDENTITY
            | SHIM6
            | EXPERIMENT_1
            | EXPERIMENT_2
    )
}

/// Walks from the header that `chain` stands at to the first thing that is no extension header.
#[inline]
pub fn walk<P: Packet>(packet: &P, chain: &mut Chain) -> Result<(), ChainError> {
    for _ in 0..MAX_HEADERS {
        // Behind the header of a later fragment comes data, whatever the header says.
        if !is_extension(chain.protocol) || chain.fragment == Fragment::Later {
            return Ok(());
        }
        let head: Head = packet.load(chain.offset)?;
        let len = match chain.protocol {
            protocol::FRAGMENT => {
                let offset_more = u16::from_be_bytes(head.offset_more);
                chain.id = head.rest;
                if offset_more & 0xfff8 != 0 {
                    chain.fragment = Fragment::Later;
                } else if offset_more & 1 != 0 {
                    chain.fragment = Fragment::First;
                }
                8
            }
            AUTHENTICATION => (head.len as u32).wrapping_add(2).wrapping_mul(4),
            _ => (head.len as u32).wrapping_add(1).wrapping_mul(8),
        };
        let [option, _] = head.offset_more;
        if chain.protocol == HOP_BY_HOP && len == 8 && option == JUMBO_OPTION {
            chain.jumbo = len;
        }
        chain.protocol = head.next_header;
        chain.offset = chain.offset.wrapping_add(len);
    }
    if is_extension(chain.protocol) && chain.fragment != Fragment::Later {
        return Err(ChainError::TooLong);
    }
    Ok(())
}
