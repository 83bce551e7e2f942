//! Addresses of load balancers: which address of which pool a Service of type LoadBalancer gets (Cilium's LB-IPAM).
//!
//! There is no state but what the API holds: a Service that has an address keeps it for as long as it may, so that a
//! restarted operator comes to the same result as the one before. [`plan`] decides for all Services at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::addr::Family;
use crate::inputs::{ObjectName, Protocol};

mod plan;

pub use plan::{Conflict, Grant, Plan, PoolReport, Refusal, plan};

/// Addresses from one to another, both inclusive, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The block's first address.
    first: IpAddr,
    /// Its last one.
    last: IpAddr,
    /// The first and the last one are only kept by those who have them, not handed out.
    reserve_ends: bool,
}

/// A block of a pool that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// It is not written as an address or a prefix is.
    #[error("{field}: {text:?} cannot be parsed")]
    Unreadable {
        /// `cidr`, `start` or `stop`.
        field: &'static str,
        /// What is there.
        text: String,
    },
    /// It ends before it begins, or in another family.
    #[error("the block from {start} to {stop} has no address")]
    Empty {
        /// `start`.
        start: IpAddr,
        /// `stop`.
        stop: IpAddr,
    },
    /// It has neither `cidr` nor `start`.
    #[error("a block needs a cidr or a start")]
    Missing,
}

impl Range {
    /// All addresses of a prefix. `ends`: whether its first and last address may be handed out; of a prefix with one or
    /// two addresses they always are (`allowFirstLastIPs`).
    #[must_use]
    pub fn of_prefix(prefix: IpNet, ends: bool) -> Self {
        let (first, last) = (prefix.network(), prefix.broadcast());
        Self {
            first,
            last,
            reserve_ends: !ends && prefix.max_prefix_len() - prefix.prefix_len() > 1,
        }
    }

    /// A block as the API has it: `cidr`, or `start` and `stop`; without `stop` it is one address.
    ///
    /// # Errors
    /// When that is no block.
    pub fn parse(cidr: &str, start: &str, stop: &str, ends: bool) -> Result<Self, BlockError> {
        fn read<T: std::str::FromStr>(field: &'static str, text: &str) -> Result<T, BlockError> {
            text.trim().parse().map_err(|_| BlockError::Unreadable {
                field,
                text: text.to_owned(),
            })
        }
        if !cidr.is_empty() {
            return Ok(Self::of_prefix(read("cidr", cidr)?, ends));
        }
        if start.is_empty() {
            return Err(BlockError::Missing);
        }
        let start: IpAddr = read("start", start)?;
        let stop = if stop.is_empty() {
            start
        } else {
            read("stop", stop)?
        };
        if Family::of(start) != Family::of(stop) || stop < start {
            return Err(BlockError::Empty { start, stop });
        }
        Ok(Self {
            first: start,
            last: stop,
            reserve_ends: false,
        })
    }

    /// Family of its addresses.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.first)
    }

    /// Whether an address is one of the block's.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        // Addresses of another family compare as all smaller or all larger.
        self.first <= address && address <= self.last
    }

    /// Whether an address may be handed out.
    #[must_use]
    pub fn offers(&self, address: IpAddr) -> bool {
        self.contains(address) && !(self.reserve_ends && (address == self.first || address == self.last))
    }

    /// How many addresses may be handed out; one too few for `::/0`, whose number is beyond the type.
    #[must_use]
    pub fn size(&self) -> u128 {
        let reserved = if self.reserve_ends { 2 } else { 0 };
        let distance = bits(self.last) - bits(self.first);
        distance.saturating_add(1).saturating_sub(reserved)
    }

    /// Whether two blocks have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.family() == other.family() && self.first <= other.last && other.first <= self.last
    }

    /// The first address that may be handed out, at `from` or behind it.
    fn next_offered(&self, from: Option<IpAddr>) -> Option<IpAddr> {
        let start = from.unwrap_or(self.first).max(self.first);
        if self.offers(start) {
            return Some(start);
        }
        following(start).filter(|next| self.offers(*next))
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} - {}", self.first, self.last)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The next higher address; `None` behind the last one of the family.
fn following(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => Some(Ipv4Addr::from_bits(address.to_bits().checked_add(1)?).into()),
        IpAddr::V6(address) => Some(Ipv6Addr::from_bits(address.to_bits().checked_add(1)?).into()),
    }
}

/// One requirement of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// The label has one of these values.
    In(String, BTreeSet<String>),
    /// The label has none of these values, or is not there.
    NotIn(String, BTreeSet<String>),
    /// The label is there.
    Exists(String),
    /// The label is not there.
    DoesNotExist(String),
}

impl Requirement {
    fn admits(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists(key) => labels.contains_key(key),
            Self::DoesNotExist(key) => !labels.contains_key(key),
        }
    }
}

/// A `CiliumLoadBalancerIPPool`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// Name of the object.
    pub name: String,
    /// Seconds since the Unix epoch when it was created. The older of two pools that overlap is the one in use.
    pub created: i64,
    /// Blocks that can be used.
    pub ranges: Vec<Range>,
    /// What is wrong with the others.
    pub broken: Vec<BlockError>,
    /// Labels that a Service must have; empty: every Service. `None`: the selector cannot be understood, so that it
    /// admits nobody.
    pub selector: Option<Vec<Requirement>>,
    /// Nothing new is handed out; who has an address keeps it.
    pub disabled: bool,
}

impl Pool {
    fn admits(&self, service: &Request) -> bool {
        let admits = |all: &Vec<Requirement>| all.iter().all(|one| one.admits(&service.labels));
        self.selector.as_ref().is_some_and(admits)
    }
}

/// Which Services may have the same address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// They name the same key.
    pub key: String,
    /// Namespaces, besides its own, with whose Services the Service shares; `*`: all.
    pub namespaces: BTreeSet<String>,
}

/// A Service that wants addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Namespace and name.
    pub name: ObjectName,
    /// Seconds since the Unix epoch when it was created; the older Service chooses first.
    pub created: i64,
    /// What selectors look at: its labels, and `io.kubernetes.service.namespace` and `…name`.
    pub labels: BTreeMap<String, String>,
    /// Families that it wants an address of, in its order.
    pub families: Vec<Family>,
    /// Addresses that it asks for by name; no others are given then.
    pub wanted: Vec<IpAddr>,
    /// What it asks for and cannot be read.
    pub unreadable: Vec<String>,
    /// Whether it shares addresses.
    pub sharing: Option<Sharing>,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `spec.selector`.
    pub selector: BTreeMap<String, String>,
    /// Ports at its addresses.
    pub ports: BTreeSet<(Protocol, u16)>,
    /// Addresses that it has (`status.loadBalancer.ingress`).
    pub current: Vec<IpAddr>,
}

impl Request {
    /// Why two Services cannot have the same address; the order of the two makes no difference.
    fn incompatible_with(&self, other: &Self) -> Option<&'static str> {
        let (Some(ours), Some(theirs)) = (&self.sharing, &other.sharing) else {
            return Some("one of them has no sharing key");
        };
        let admits = |sharing: &Sharing, namespace: &str| {
            let listed = |name: &str| sharing.namespaces.contains(name);
            listed("*") || listed(namespace)
        };
        let strangers = self.name.namespace != other.name.namespace;
        if ours.key != theirs.key {
            Some("the sharing keys differ")
        } else if strangers && !(admits(ours, &other.name.namespace) && admits(theirs, &self.name.namespace))
        {
            Some("they do not share across their namespaces")
        } else if self.external_local != other.external_local {
            Some("the external traffic policies differ")
        } else if self.external_local && self.selector != other.selector {
            Some("with external traffic policy Local the selectors have to be the same")
        } else if !self.ports.is_disjoint(&other.ports) {
            Some("they have a port in common")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests;
