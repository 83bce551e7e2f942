//! What an observer must be told to name what it sees. The agent answers from its index, tests from a table.

use std::net::IpAddr;
use std::sync::Arc;

use crate::flow::{Endpoint, Policy, Service, TrafficDirection};

/// Names behind numbers. Answers are asked for once or twice per flow: they must be cheap, must not wait, and share what they hand out.
pub trait Lookup {
    /// Who has this address: a pod of the cluster, a node, or the identity of the longest prefix, down to the world.
    fn endpoint(&self, address: IpAddr) -> Option<Arc<Endpoint>>;

    /// Nothing but the identity and its labels.
    fn identity(&self, identity: u32) -> Option<Arc<Endpoint>>;

    /// The pod of this node whose process is in the cgroup, and its address of this family.
    fn cgroup(&self, cgroup: u64, ipv6: bool) -> Option<(IpAddr, Arc<Endpoint>)>;

    /// The service that listens at the address; without a port, any port of it.
    fn service(&self, address: IpAddr, port: Option<u16>) -> Option<Arc<Service>>;

    /// DNS names under which the pod of this node learnt the address.
    fn names(&self, id: u32, address: IpAddr) -> Arc<[Arc<str>]>;

    /// Name of a device of this node.
    fn interface(&self, index: u32) -> Option<Arc<str>>;

    /// Which policies decided.
    fn policies(&self, question: &PolicyQuestion) -> Decision;
}

/// A decision of policy, to be explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyQuestion {
    /// Number of the pod whose policy it is.
    pub endpoint: u32,
    /// Direction.
    pub direction: TrafficDirection,
    /// Identity of the other side.
    pub remote: u32,
    /// IP protocol.
    pub protocol: u8,
    /// Destination port.
    pub port: u16,
    /// Whether it was let through.
    pub allowed: bool,
    /// Which rule the datapath says it was; 0: none.
    pub cookie: u32,
}

/// Why policy decided as it did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The policies.
    pub policies: Vec<Policy>,
    /// Their `spec.log.value`.
    pub log: Vec<Arc<str>>,
}

/// Labels as flows carry them: sorted, and of the CIDR labels only the longest prefix.
#[must_use]
pub fn flow_labels<T: AsRef<str>>(labels: impl IntoIterator<Item = T>) -> Arc<[Arc<str>]> {
    let mut kept: Vec<Arc<str>> = labels
        .into_iter()
        .map(|label| Arc::from(label.as_ref()))
        .collect();
    let longest = kept
        .iter()
        .filter_map(|label| Some((prefix_length(label)?, label.clone())))
        .max();
    kept.retain(|label| {
        prefix_length(label).is_none() || longest.as_ref().is_some_and(|(_, best)| best == label)
    });
    kept.sort_unstable();
    kept.into()
}

/// The length of the prefix in `cidr:fd00--0/64`.
fn prefix_length(label: &str) -> Option<u8> {
    label
        .strip_prefix("cidr:")?
        .split(['/', '='])
        .nth(1)?
        .parse()
        .ok()
}
