//! The crate against a real kernel, in network namespaces of its own. Needs root; says so where it is not.

mod harness;
mod links;
mod pod;
mod routes;
