//! Security identities: the numbers with a fixed meaning, and the cluster-wide mapping of label sets to numbers.
//!
//! The mapping lives in `CiliumIdentity` objects whose name is the number, so that creating one is a compare-and-set on
//! the number. Two nodes may still give two numbers to one label set at the same moment; [`IdentityIndex::lookup`]
//! then gives the same answer on every node (oldest object, then lowest number), and the operator removes the other
//! once nobody uses it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::inputs::CiliumIdentity;
use crate::labels::{Label, Labels};

/// A numeric security identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity(pub u32);

/// Number and name of the reserved identities (Cilium `pkg/identity/numericidentity.go`).
const RESERVED: [(u32, &str); 11] = [
    (abi::tables::identity::UNKNOWN, "unknown"),
    (abi::tables::identity::HOST, "host"),
    (abi::tables::identity::WORLD, "world"),
    (abi::tables::identity::UNMANAGED, "unmanaged"),
    (abi::tables::identity::HEALTH, "health"),
    (abi::tables::identity::INIT, "init"),
    (abi::tables::identity::REMOTE_NODE, "remote-node"),
    (abi::tables::identity::KUBE_APISERVER, "kube-apiserver"),
    (abi::tables::identity::INGRESS, "ingress"),
    (9, "world-ipv4"),
    (10, "world-ipv6"),
];

impl Identity {
    /// Not known.
    pub const UNKNOWN: Self = Self(abi::tables::identity::UNKNOWN);
    /// The local node.
    pub const HOST: Self = Self(abi::tables::identity::HOST);
    /// Everything outside the cluster (in a single-stack cluster).
    pub const WORLD: Self = Self(abi::tables::identity::WORLD);
    /// A pod that is not managed by us.
    pub const UNMANAGED: Self = Self(abi::tables::identity::UNMANAGED);
    /// The health endpoint.
    pub const HEALTH: Self = Self(abi::tables::identity::HEALTH);
    /// A pod whose labels are not known yet.
    pub const INIT: Self = Self(abi::tables::identity::INIT);
    /// Another node.
    pub const REMOTE_NODE: Self = Self(abi::tables::identity::REMOTE_NODE);
    /// The API server.
    pub const KUBE_APISERVER: Self = Self(abi::tables::identity::KUBE_APISERVER);
    /// Ingress.
    pub const INGRESS: Self = Self(abi::tables::identity::INGRESS);
    /// First number that is given to a label set.
    pub const MIN: Self = Self(abi::tables::identity::MIN_CLUSTER);
    /// Last number that is given to a label set.
    pub const MAX: Self = Self(abi::tables::identity::MAX_CLUSTER);

    /// Name of a reserved identity.
    #[must_use]
    pub fn reserved_name(self) -> Option<&'static str> {
        RESERVED
            .iter()
            .find(|(number, _)| *number == self.0)
            .map(|(_, name)| *name)
    }

    /// The reserved identity of that name.
    #[must_use]
    pub fn from_reserved_name(name: &str) -> Option<Self> {
        RESERVED
            .iter()
            .find(|(_, n)| *n == name)
            .map(|(number, _)| Self(*number))
    }

    /// Whether a label set can have this number.
    #[must_use]
    pub fn is_cluster(self) -> bool {
        (Self::MIN..=Self::MAX).contains(&self)
    }

    /// All reserved identities with their label (`reserved:host`, …).
    pub fn all_reserved() -> impl Iterator<Item = (Self, Label)> {
        RESERVED
            .iter()
            .map(|(number, name)| (Self(*number), Label::reserved(*name)))
    }
}

impl std::fmt::Display for Identity {
    /// The number, or the name of a reserved identity.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.reserved_name() {
            Some(name) => f.pad(name),
            None => f.pad(&self.0.to_string()),
        }
    }
}

/// What to do to get a number for a label set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// The label set has this number already.
    Existing(Identity),
    /// Create the object with this number. When that fails because the name is taken, learn the object that took it
    /// ([`IdentityIndex::upsert`]) and ask again.
    Create(Identity),
}

/// No number could be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocationError {
    /// Every number stands for a label set.
    #[error("all {in_use} cluster identities ({min} to {max}) are in use: unused ones are removed by the operator; fewer \
             labels can be made identity-relevant with the `labels` key", min = Identity::MIN.0, max = Identity::MAX.0)]
    Exhausted {
        /// How many.
        in_use: usize,
    },
    /// An identity needs at least one label.
    #[error("an empty label set has no identity")]
    NoLabels,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    labels: Labels,
    created: i64,
}

/// All identities of the cluster, by number and by label set.
#[derive(Clone, Debug, Default)]
pub struct IdentityIndex {
    by_number: BTreeMap<Identity, Record>,
    by_labels: BTreeMap<Labels, BTreeSet<(i64, Identity)>>,
}

impl IdentityIndex {
    /// An index without any identity.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Learns an object. Returns whether anything changed.
    pub fn upsert(&mut self, object: CiliumIdentity) -> bool {
        let CiliumIdentity {
            identity,
            labels,
            created,
        } = object;
        let record = Record { labels, created };
        if self.by_number.get(&identity) == Some(&record) {
            return false;
        }
        self.remove(identity);
        self.by_labels
            .entry(record.labels.clone())
            .or_default()
            .insert((created, identity));
        self.by_number.insert(identity, record);
        true
    }

    /// Forgets an object. Returns its labels if it was known.
    pub fn remove(&mut self, identity: Identity) -> Option<Labels> {
        let record = self.by_number.remove(&identity)?;
        if let Some(numbers) = self.by_labels.get_mut(&record.labels) {
            numbers.remove(&(record.created, identity));
            if numbers.is_empty() {
                self.by_labels.remove(&record.labels);
            }
        }
        Some(record.labels)
    }

    /// The number of a label set: of the oldest object, then of the lowest number, so that all nodes agree.
    #[must_use]
    pub fn lookup(&self, labels: &Labels) -> Option<Identity> {
        self.by_labels.get(labels)?.first().map(|(_, identity)| *identity)
    }

    /// The label set of a number, reserved ones included.
    #[must_use]
    pub fn labels(&self, identity: Identity) -> Option<Labels> {
        match identity.reserved_name() {
            Some(name) => Some(Labels::from_iter([Label::reserved(name)])),
            None => self.by_number.get(&identity).map(|record| record.labels.clone()),
        }
    }

    /// Cluster identities in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (Identity, &Labels)> {
        self.by_number
            .iter()
            .map(|(identity, record)| (*identity, &record.labels))
    }

    /// How many cluster identities there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    /// Finds the number of `labels`, or chooses a free one, starting the search at a random place so that nodes that
    /// allocate at the same time seldom choose the same.
    ///
    /// # Errors
    /// When every number is in use or `labels` is empty.
    pub fn allocate(&self, labels: &Labels, random: u64) -> Result<Allocation, AllocationError> {
        if labels.is_empty() {
            return Err(AllocationError::NoLabels);
        }
        if let Some(identity) = self.lookup(labels) {
            return Ok(Allocation::Existing(identity));
        }
        let count = Identity::MAX.0 - Identity::MIN.0 + 1;
        let start = (random % u64::from(count)) as u32;
        (0..count)
            .map(|step| Identity(Identity::MIN.0 + (start + step) % count))
            .find(|candidate| !self.by_number.contains_key(candidate))
            .map(Allocation::Create)
            .ok_or(AllocationError::Exhausted {
                in_use: self.by_number.len(),
            })
    }
}

#[cfg(test)]
mod tests;
