//! The packet logic, written once for the kernel, the tests and the simulator.
//!
//! Every program of `abi::names` has one entry function here. What a packet is ([`packet::Packet`]), what is known
//! ([`Tables`]) and what the world can do ([`Env`]) are traits; the kernel implements them with a socket buffer, maps
//! and helpers, `sim` with memory. Every packet ends as a [`Verdict`] or with a reason in `abi::reason`; only the
//! program entries in `ebpf` know what the kernel calls these.
//!
//! # The way of a packet
//!
//! ```text
//! from_pod     parse, source, neighbour discovery and echo to the router, services, conntrack OUT, [egress policy],
//!              local: hop limit, MTU, ingress | remote: FIB, hop limit, MTU, masquerade | node: stack
//! from_wire    parse, known connections between others: out again | else untouched
//! from_netdev  parse, services and answers to the node, local pod: hop limit, MTU, ingress | else untouched
//! from_host    parse, local pod: to its device
//! to_pod       parse, ingress
//! to_netdev    masquerade, trace
//! ingress      conntrack IN, [ingress policy], answers of services, trace to-endpoint
//! ```
//!
//! In brackets: places for stages to come. Policy belongs behind conntrack, as replies and related errors skip it
//! (`reference/cilium.md` §2.4), and before the hop limit, so that a packet that is not allowed provokes no error
//! message. Later fragments will skip it too: they have no ports, and without its first fragment, which is judged, no
//! datagram is put together again.
#![no_std]
#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

pub mod conntrack;
pub mod context;
pub mod env;
pub mod icmp_error;
pub mod ingress;
pub mod nat;
pub mod neighbour;
pub mod netdev;
pub mod parse;
pub mod pod;
pub mod rate;
pub mod related;
pub mod report;
pub mod service;
pub mod socket;
pub mod source;
pub mod verdict;
pub mod wire;

pub use context::Context;
pub use env::{Env, Route, RouteQuery, TableFull, Tables};
pub use netdev::{from_host, from_netdev, to_netdev};
pub use pod::{from_pod, to_pod};
pub use verdict::{Dropped, Verdict};
pub use wire::{Lane, Wire, from_wire};
