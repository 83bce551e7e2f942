//! A pod on this node: one supervised worker each.

pub(crate) mod backoff;
pub(crate) mod container;
pub(crate) mod hook;
pub(crate) mod http;
pub(crate) mod plan;
pub(crate) mod probe;
pub(crate) mod sandbox;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod termination;
pub(crate) mod worker;
