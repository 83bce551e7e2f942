//! The kernel's socket buffer as a [`Packet`]; with it, all that a program is given.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC},
    helpers::generated::{
        bpf_csum_diff, bpf_get_hash_recalc, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes,
        bpf_skb_store_bytes,
    },
};
use packet::{AccessError, Ethernet, Packet, access::MAX_SUM, checksum};
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
