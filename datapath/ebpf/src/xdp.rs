//! A frame of a device as a [`Packet`], before there is a socket buffer; and the way out again.

use core::{ffi::c_void, mem::MaybeUninit};

use abi::event::CAPTURE;
use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup, xdp_md},
    helpers::generated::{
        bpf_csum_diff, bpf_fib_lookup, bpf_xdp_get_buff_len, bpf_xdp_load_bytes, bpf_xdp_store_bytes,
    },
};
use packet::{AccessError, Covered, Packet, checksum};
use stages::{
    Context, RouteQuery,
    wire::{Hop, Wire},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::routes::{AF_INET6, words};

/// A frame at an XDP hook. The pointer is the program's context and lives as long as the program runs.
pub(crate) struct Frame(*mut xdp_md);

impl Frame {
    /// The frame of a program's context.
    #[inline(always)]
    pub(crate) fn new(context: *mut xdp_md) -> Self {
        Self(context)
    }

    /// The context, for helpers.
    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> *mut xdp_md {
        self.0
    }
}

/// Copies the first bytes of a frame into a record, at most [`CAPTURE`]; the signature of the helper for socket buffers.
///
/// # Safety
/// As for the helper: `context` is the program's, and `to` has room for `len` bytes.
#[inline(always)]
pub(crate) unsafe fn load(context: *const c_void, offset: u32, to: *mut c_void, mut len: u32) -> i64 {
    // The caller has checked the length, and the compiler checks it on a copy that the verifier does not connect with this
    // one. SAFETY: the assembly is empty; it only hides what is known of the number.
    unsafe { core::arch::asm!("/* {0} */", inout(reg) len, options(pure, nomem, nostack, preserves_flags)) };
    if len == 0 || len > CAPTURE as u32 {
        return -1;
    }
    // SAFETY: the caller's.
    unsafe { bpf_xdp_load_bytes(context.cast_mut().cast(), offset, to, len) as i64 }
}

/// Headers are made of bytes and may lie anywhere; so placed, their addresses are copied word by word.
#[repr(C, align(8))]
struct Aligned<T>(T);

impl Packet for Frame {
    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { bpf_xdp_get_buff_len(self.0) as u32 }
    }

    /// What a device receives is one packet. (A veth device may bring more at once: their checksum is unfinished.)
    #[inline(always)]
    fn segment_size(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid while the program runs; the verifier checks the field.
        unsafe { (*self.0).ingress_ifindex }
    }

    /// Frames have none yet.
    #[inline(always)]
    fn mark(&self) -> u32 {
        0
    }

    /// What turns round here passes no other program, for whom the mark would be.
    #[inline(always)]
    fn set_mark(&mut self, _mark: u32) {}

    /// A tag is part of the frame.
    #[inline(always)]
    fn is_tagged(&self) -> bool {
        false
    }

    /// The device's is not to be had in all of them.
    #[inline(always)]
    fn hash(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn load<T: FromBytes + Copy>(&self, offset: u32) -> Result<T, AccessError> {
        let mut value = Aligned(MaybeUninit::<T>::uninit());
        // SAFETY: the helper checks the bounds of the frame and writes exactly the size of the value.
        let failed =
            unsafe { bpf_xdp_load_bytes(self.0, offset, value.0.as_mut_ptr().cast(), size_of::<T>() as u32) };
        if failed != 0 {
            return Err(AccessError::OutOfBounds);
        }
        // SAFETY: the helper has written every byte, and any bytes are a valid `T: FromBytes`.
        Ok(unsafe { value.0.assume_init() })
    }

    #[inline(always)]
    fn store<T: IntoBytes + Immutable>(&mut self, offset: u32, value: &T) -> Result<(), AccessError> {
        // SAFETY: the helper checks the bounds of the frame and reads exactly the size of the value, all of which is
        // initialised in a `T: IntoBytes`.
        let failed = unsafe {
            bpf_xdp_store_bytes(
                self.0,
                offset,
                core::ptr::from_ref(value).cast_mut().cast(),
                size_of::<T>() as u32,
            )
        };
        if failed == 0 {
            Ok(())
        } else {
            Err(AccessError::Refused)
        }
    }

    /// The checksum is finished (`stages::wire`), so that pseudo-header and transport header count alike (RFC 1624).
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
        let field: [u8; 2] = self.load(covered.field)?;
        self.store(offset, new)?;
        if covered.zero_is_none && field == [0; 2] {
            return Ok(());
        }
        let len = size_of::<T>() as u32;
        let (old, new) = (core::ptr::from_ref(old), core::ptr::from_ref(new));
        let seed = u32::from(!u16::from_ne_bytes(field));
        // SAFETY: old and new are initialised and as long as said.
        let sum = unsafe { bpf_csum_diff(old.cast_mut().cast(), len, new.cast_mut().cast(), len, seed) };
        let sum = match !checksum::fold(sum as u32) {
            0 if covered.zero_is_none => 0xffff,
            sum => sum,
        };
        self.store(covered.field, &sum.to_ne_bytes())
    }

    /// Error messages are made by the programs behind.
    #[inline(always)]
    fn resize(&mut self, _len: u32) -> Result<(), AccessError> {
        Err(AccessError::Refused)
    }

    /// As `resize`.
    #[inline(always)]
    fn open_layer3(&mut self, _bytes: u32) -> Result<(), AccessError> {
        Err(AccessError::Refused)
    }

    /// As `resize`.
    #[inline(always)]
    fn sum(&self, _offset: u32, _len: u32) -> Result<u16, AccessError> {
        Err(AccessError::Refused)
    }
}

impl Context for Frame {}

impl Wire for Frame {
    #[inline(always)]
    fn hop(&mut self, query: &RouteQuery<'_>) -> Option<Hop> {
        // SAFETY: all integers; zero is valid for each.
        let mut lookup: FibLookup = unsafe { core::mem::zeroed() };
        lookup.family = AF_INET6;
        lookup.l4_protocol = query.protocol;
        lookup.ifindex = query.ifindex;
        lookup.__bindgen_anon_1.tot_len = query.len;
        lookup.__bindgen_anon_2.flowinfo = u32::from_ne_bytes(query.flow_info);
        lookup.__bindgen_anon_3.ipv6_src = words(query.src);
        lookup.__bindgen_anon_4.ipv6_dst = words(query.dst);
        // SAFETY: the context is valid, and the size is that of the structure.
        let answer =
            unsafe { bpf_fib_lookup(self.0.cast(), &raw mut lookup, size_of::<FibLookup>() as i32, 0) };
        if answer != i64::from(BPF_FIB_LKUP_RET_SUCCESS) || lookup.ifindex != query.ifindex {
            return None;
        }
        Some([lookup.dmac, lookup.smac])
    }
}
