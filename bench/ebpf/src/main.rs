//! The limit that the datapath is measured against: redirect, and nothing else.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::TC_ACT_SHOT,
    helpers::{bpf_redirect_neigh, bpf_redirect_peer},
    macros::classifier,
    programs::TcContext,
};

/// Interface that everything is redirected to; set before the load.
#[unsafe(no_mangle)]
static IFINDEX: u32 = 0;

fn target() -> u32 {
    // SAFETY: the static is always there and aligned; volatile, since the loader changes it behind the compiler's back.
    unsafe { core::ptr::read_volatile(&raw const IFINDEX) }
}

/// Out of a device, through the neighbour table.
#[classifier]
pub fn limit_out(_: TcContext) -> i32 {
    // SAFETY: without parameters the helper looks up route and neighbour of the packet itself.
    i32::try_from(unsafe { bpf_redirect_neigh(target(), core::ptr::null_mut(), 0, 0) }).unwrap_or(TC_ACT_SHOT)
}

/// Into the pod behind a device.
#[classifier]
pub fn limit_in(_: TcContext) -> i32 {
    // SAFETY: a helper without pointers.
    i32::try_from(unsafe { bpf_redirect_peer(target(), 0) }).unwrap_or(TC_ACT_SHOT)
}

/// The linker wants one; nothing calls it.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
