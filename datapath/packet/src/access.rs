//! How packets are read and changed.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A packet could not be read or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessError {
    /// The bytes lie beyond the end of the packet.
    OutOfBounds,
    /// The packet cannot be changed in this way: no memory, or not supported for this kind of packet.
    Refused,
}

/// One packet, layer 2 first. Offsets count from the first byte of the Ethernet header.
///
/// The two implementations are the kernel's socket buffer (`ebpf`) and a buffer in memory (`sim`).
#[expect(clippy::len_without_is_empty, reason = "a packet has layer 2 at least")]
pub trait Packet {
    /// Length in bytes, layer 2 included. Of a packet that will be segmented: all segments' payload in one.
    fn len(&self) -> u32;

    /// Payload bytes per segment of a packet that will be segmented (GSO); 0: this is one packet.
    fn segment_size(&self) -> u32;

    /// Interface at which the packet is seen.
    fn ifindex(&self) -> u32;

    /// The mark that travels with the packet inside one network namespace.
    fn mark(&self) -> u32;

    /// Sets the mark.
    fn set_mark(&mut self, mark: u32);

    /// Whether the packet came with a VLAN tag, which the kernel keeps beside the packet and not in it.
    fn is_tagged(&self) -> bool;

    /// Hash of the flow.
    fn hash(&self) -> u32;

    /// Reads a value.
    fn load<T: FromBytes + Copy>(&self, offset: u32) -> Result<T, AccessError>;

    /// Writes a value. Checksums of higher layers are the caller's business.
    fn store<T: IntoBytes + Immutable>(&mut self, offset: u32, value: &T) -> Result<(), AccessError>;

    /// Puts `new` in the place of `old`, which is what the packet has at `offset`, and corrects a checksum for it, also one
    /// that is still to be computed. Both are a multiple of four bytes long and begin at an even distance from the first
    /// byte that the checksum covers.
    fn replace<T: IntoBytes + Immutable>(
        &mut self,
        offset: u32,
        old: &T,
        new: &T,
        covered: Covered,
    ) -> Result<(), AccessError>;

    /// Cuts or extends the end to `len` bytes. The packet is one packet afterwards, never a list of segments.
    fn resize(&mut self, len: u32) -> Result<(), AccessError>;

    /// Opens `bytes` bytes of undefined content between layer 2 and layer 3.
    fn open_layer3(&mut self, bytes: u32) -> Result<(), AccessError>;

    /// One's complement sum of `len` bytes (RFC 1071), folded to 16 bits, not inverted. At most [`MAX_SUM`] bytes.
    fn sum(&self, offset: u32, len: u32) -> Result<u16, AccessError>;
}

/// A checksum, and how it covers what is replaced.
#[derive(Clone, Copy, Debug)]
pub struct Covered {
    /// Offset of the checksum.
    pub field: u32,
    /// Whether what is replaced belongs to the pseudo-header.
    pub by_pseudo_header: bool,
    /// Whether zero says that there is no checksum (UDP).
    pub zero_is_none: bool,
}

/// Most bytes that [`Packet::sum`] takes: the payload of a packet of IPv6's least MTU.
pub const MAX_SUM: u32 = 1280;
