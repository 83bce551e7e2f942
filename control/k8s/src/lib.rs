//! The wall to Kubernetes: the only crate of the agent and the operator that knows kube-rs.
//!
//! Objects come in as `model` types over a bounded channel ([`Watches`]), and go out through the methods of
//! [`Cluster`]. Every request has a deadline; watches reconnect by themselves and say how they are ([`WatchState`]).
#![forbid(unsafe_code)]

mod client;
mod convert;
mod crds;
mod endpoint;
mod error;
mod gc;
mod identity;
mod lbipam;
mod lease;
mod node;
mod policy_crds;
mod service;
mod types;
mod watch;

pub use client::{Access, Cluster, ConnectError};
pub use crds::{CrdError, SCHEMA_VERSION, definitions};
pub use error::{RequestError, RequestErrorKind};
pub use gc::{Deleted, ObjectVersion, StoredEndpoint, StoredIdentity, StoredNode};
pub use identity::{ResolveError, Resolved};
pub use lbipam::{LoadBalancers, NoLoadBalancers, PoolKind, Responsibility, StoredBalancer, StoredPool};
pub use lease::{Election, Leadership, LeaseError, LeaseTimes};
pub use watch::{Change, Input, Kind, WatchEnded, WatchState, Watches};

#[cfg(test)]
mod fake;
