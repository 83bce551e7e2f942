//! The kernel programs.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod constants;
mod maps;

use aya_ebpf::{bindings::TC_ACT_UNSPEC, macros::classifier, programs::TcContext};

fn count(ctx: &TcContext) -> i32 {
    if constants::config().enable_ipv6 != 0
        && let Some(slot) = maps::METRICS.get_ptr_mut(0)
    {
        // SAFETY: the slot belongs to this CPU, and tc programs of one CPU do not interrupt one another.
        unsafe {
            (*slot).packets = (*slot).packets.wrapping_add(1);
            (*slot).bytes = (*slot).bytes.wrapping_add(u64::from(ctx.len()));
        }
    }
    TC_ACT_UNSPEC
}

#[classifier]
fn from_pod(ctx: TcContext) -> i32 {
    count(&ctx)
}
#[classifier]
fn to_pod(ctx: TcContext) -> i32 {
    count(&ctx)
}
#[classifier]
fn from_netdev(ctx: TcContext) -> i32 {
    count(&ctx)
}
#[classifier]
fn to_netdev(ctx: TcContext) -> i32 {
    count(&ctx)
}
#[classifier]
fn from_host(ctx: TcContext) -> i32 {
    count(&ctx)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
