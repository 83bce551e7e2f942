//! The kernel's socket buffer as a [`Packet`]; with it, all that a program is given.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::generated::{
        bpf_csum_diff, bpf_get_hash_recalc, bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_tail,
        bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
};
use packet::{AccessError, Covered, Ethernet, Packet, access::MAX_SUM, checksum};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A packet at a tc hook. The pointer is the program's context and lives as long as the program runs. Tables
/// (`tables.rs`) and the world (`kernel.rs`) need no more than it.
pub(crate) struct Skb(*mut __sk_buff);

impl Skb {
    /// The packet of a program's context.
    #[inline(always)]
    pub(crate) fn new(context: *mut __sk_buff) -> Self {
        Self(context)
    }

    /// The context, for helpers.
    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> *mut __sk_buff {
        self.0
    }
}

/// Headers are made of bytes and may lie anywhere; so placed, their addresses are copied word by word.
#[repr(C, align(8))]
struct Aligned<T>(T);

impl Packet for Skb {
    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: the context is valid while the program runs; the verifier checks the field.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    fn segment_size(&self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.0).gso_size }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.0).ifindex }
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.0).mark }
    }

    #[inline(always)]
    fn set_mark(&mut self, mark: u32) {
        // SAFETY: as in `len`; tc programs may write the mark.
        unsafe { (*self.0).mark = mark }
    }

    #[inline(always)]
    fn is_tagged(&self) -> bool {
        // SAFETY: as in `len`.
        unsafe { (*self.0).vlan_present != 0 }
    }

    #[inline(always)]
    fn hash(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { bpf_get_hash_recalc(self.0) }
    }

    #[inline(always)]
    fn load<T: FromBytes + Copy>(&self, offset: u32) -> Result<T, AccessError> {
        let mut value = Aligned(MaybeUninit::<T>::uninit());
        // SAFETY: the helper checks the bounds of the packet and writes exactly the size of the value.
        let failed = unsafe {
            bpf_skb_load_bytes(
                self.0.cast(),
                offset,
                value.0.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            )
        };
        if failed != 0 {
            return Err(AccessError::OutOfBounds);
        }
        // SAFETY: the helper has written every byte, and any bytes are a valid `T: FromBytes`.
        Ok(unsafe { value.0.assume_init() })
    }

    #[inline(always)]
    fn store<T: IntoBytes + Immutable>(&mut self, offset: u32, value: &T) -> Result<(), AccessError> {
        // Where the hardware has summed up the packet, the sum begins at layer 3.
        let flags = if offset < Ethernet::LEN {
            0
        } else {
            BPF_F_RECOMPUTE_CSUM
        };
        // SAFETY: the helper checks the bounds of the packet and reads exactly the size of the value, all of which is
        // initialised in a `T: IntoBytes`.
        let failed = unsafe {
            bpf_skb_store_bytes(
                self.0,
                offset,
                core::ptr::from_ref(value).cast(),
                size_of::<T>() as u32,
                u64::from(flags),
            )
        };
        if failed == 0 {
            Ok(())
        } else {
            Err(AccessError::Refused)
        }
    }

    #[inline(always)]
    fn replace<T: IntoBytes + Immutable>(
        &mut self,
        offset: u32,
        old: &T,
        new: &T,
        covered: Covered,
    ) -> Result<(), AccessError> {
        const {
            assert!(
                size_of::<T>().is_multiple_of(4),
                "the helper adds words of four bytes"
            );
        }
        let len = size_of::<T>() as u32;
        let (old, new) = (core::ptr::from_ref(old), core::ptr::from_ref(new));
        // A device may have summed up the whole packet (`CHECKSUM_COMPLETE`). What belongs to the pseudo-header and the
        // checksum both change that sum, by amounts that cancel out: the first helper sees to one, the second, which was
        // made for IPv4 with a checksum of its own in front, to the other. (`BPF_F_IPV6` leaves out both, from Linux 6.16
        // on.) What belongs to the transport header is left out by both.
        let recompute = if covered.by_pseudo_header {
            BPF_F_RECOMPUTE_CSUM
        } else {
            0
        };
        let mut flags = 0;
        if covered.by_pseudo_header {
            flags |= BPF_F_PSEUDO_HDR;
        }
        if covered.zero_is_none {
            flags |= BPF_F_MARK_MANGLED_0;
        }
        // SAFETY: old and new are initialised and as long as said; the helpers check the bounds of the packet.
        let failed = unsafe {
            let change = bpf_csum_diff(old.cast_mut().cast(), len, new.cast_mut().cast(), len, 0);
            bpf_skb_store_bytes(self.0, offset, new.cast(), len, u64::from(recompute)) != 0
                || bpf_l4_csum_replace(self.0, covered.field, 0, change as u64, u64::from(flags)) != 0
        };
        if failed { Err(AccessError::Refused) } else { Ok(()) }
    }

    #[inline(always)]
    fn resize(&mut self, len: u32) -> Result<(), AccessError> {
        // SAFETY: the context is valid; the kernel checks the length.
        let failed = unsafe { bpf_skb_change_tail(self.0, len, 0) };
        if failed == 0 {
            Ok(())
        } else {
            Err(AccessError::Refused)
        }
    }

    #[inline(always)]
    fn open_layer3(&mut self, bytes: u32) -> Result<(), AccessError> {
        // SAFETY: the context is valid; the kernel checks the length.
        let failed = unsafe { bpf_skb_adjust_room(self.0, bytes as i32, BPF_ADJ_ROOM_MAC, 0) };
        if failed == 0 {
            Ok(())
        } else {
            Err(AccessError::Refused)
        }
    }

    #[inline(never)]
    fn sum(&self, offset: u32, len: u32) -> Result<u16, AccessError> {
        if len > MAX_SUM {
            return Err(AccessError::OutOfBounds);
        }
        let mut chunk = [0u64; CHUNK as usize / 8];
        let mut seed = 0u32;
        let whole = len / CHUNK;
        for index in 0..MAX_SUM / CHUNK {
            if index >= whole {
                break;
            }
            seed = self.add(
                offset.wrapping_add(index.wrapping_mul(CHUNK)),
                &mut chunk,
                CHUNK,
                seed,
            )?;
        }
        let rest = len & (CHUNK - 1);
        if rest != 0 {
            // What the packet does not fill counts as zero.
            chunk = [0; CHUNK as usize / 8];
            seed = self.add(
                offset.wrapping_add(whole.wrapping_mul(CHUNK)),
                &mut chunk,
                rest,
                seed,
            )?;
        }
        // The helper adds words as they lie in memory.
        Ok(u16::from_be(checksum::fold(seed)))
    }
}

/// Bytes that are summed at a time; they lie on the stack.
const CHUNK: u32 = 32;

impl Skb {
    /// Adds `len` bytes, at least one and at most a chunk, to a sum.
    #[inline(always)]
    fn add(
        &self,
        offset: u32,
        chunk: &mut [u64; CHUNK as usize / 8],
        len: u32,
        seed: u32,
    ) -> Result<u32, AccessError> {
        let space: *mut u32 = chunk.as_mut_ptr().cast();
        // SAFETY: the first helper checks the bounds of the packet and writes no more than the chunk; the second reads
        // the chunk, which is initialised and a multiple of four bytes long.
        unsafe {
            if bpf_skb_load_bytes(self.0.cast(), offset, space.cast(), len) != 0 {
                return Err(AccessError::OutOfBounds);
            }
            Ok(bpf_csum_diff(core::ptr::null_mut(), 0, space, CHUNK, seed) as u32)
        }
    }
}
