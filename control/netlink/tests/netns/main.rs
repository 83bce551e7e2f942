//! The crate against a real kernel, in network namespaces of its own. Needs root; says so where it is not.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod datagram;
mod harness;
mod links;
mod pod;
mod routes;
