//! The loader against a real kernel, each test in a network and mount namespace of its own, with a bpffs of its own.
//! Needs root; says so where it is not.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod filters;
mod harness;
mod links;
mod maps;
mod sockets;
mod tables;
mod wire;
