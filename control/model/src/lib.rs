//! The node's view of the cluster as plain data, and every decision that can be made on data alone: which address a pod
//! gets, which labels make its identity, what the kernel's tables should hold.
//!
//! Pure: no clock, no randomness, no IO. Times are [`std::time::Duration`] since the Unix epoch and random numbers are
//! `u64`, both handed in by the caller. Imports `abi`; must not import kube, aya, netlink or tokio.
#![forbid(unsafe_code)]

pub mod addr;
pub mod config;
pub mod desired;
pub mod endpoint;
pub mod identity;
pub mod inputs;
pub mod ipam;
pub mod ipmasq;
pub mod labels;
pub mod lbpool;
pub mod service;
pub mod state;

pub use config::AgentConfig;
pub use endpoint::{Endpoint, EndpointId, EndpointState};
pub use identity::Identity;
pub use ipam::Ipam;
pub use labels::{Label, LabelFilter, Labels};
