//! The kernel programs: maps, adapters and entry points around the logic of `stages`.
//!
//! An entry does nothing but call its function in `stages` and turn the verdict into what tc understands. Names of maps
//! and programs are the contract with the loader, `abi::names`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod borders;
mod constants;
mod kernel;
mod maps;
mod nat;
mod routes;
mod services;
mod skb;
mod socket;
mod tables;
mod verdict;
mod xdp;

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

use crate::{
    skb::Skb,
    verdict::{act, last, turn},
    xdp::Frame,
};

/// tcx ingress of the host side of a pod's link.
#[classifier]
fn from_pod(context: TcContext) -> i32 {
    act(stages::from_pod(&mut Skb::new(context.skb.skb)))
}

/// tcx egress of the host side of a pod's link.
#[classifier]
fn to_pod(context: TcContext) -> i32 {
    last(act(stages::to_pod(&mut Skb::new(context.skb.skb))))
}

/// tcx ingress of a native device.
#[classifier]
fn from_netdev(context: TcContext) -> i32 {
    act(stages::from_netdev(&mut Skb::new(context.skb.skb)))
}

/// XDP of a native device.
#[xdp(frags)]
fn from_wire(context: XdpContext) -> u32 {
    turn(stages::from_wire(&mut Frame::new(context.ctx)))
}

/// tcx egress of a native device.
#[classifier]
fn to_netdev(context: TcContext) -> i32 {
    act(stages::to_netdev(&mut Skb::new(context.skb.skb)))
}

/// tcx egress of `cilium_host`.
#[classifier]
fn from_host(context: TcContext) -> i32 {
    act(stages::from_host(&mut Skb::new(context.skb.skb)))
}

/// The linker wants one; nothing calls it, which `cargo xtask` checks in the object.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
