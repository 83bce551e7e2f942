//! The decision: who keeps what, who gets what, and why somebody gets nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Pool, Range, Request, following};
use crate::addr::Family;
use crate::inputs::ObjectName;

/// Why a Service did not get all it asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No pool in use has addresses of that family for it.
    #[error("no enabled CiliumLoadBalancerIPPool with {0} addresses selects this service")]
    NoPool(Family),
    /// All pools for it are used up.
    #[error("every enabled CiliumLoadBalancerIPPool that selects this service has run out of {0} addresses")]
    Exhausted(Family),
    /// No pool in use has the address that it asks for.
    #[error("no enabled CiliumLoadBalancerIPPool has {0}")]
    Outside(IpAddr),
    /// The pool of the address selects other Services.
    #[error("the CiliumLoadBalancerIPPool that has {0} does not select this service")]
    NotSelected(IpAddr),
    /// Another Service has the address.
    #[error("{address} belongs to service {holder}")]
    Taken {
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: ObjectName,
    },
    /// The Services that have the address cannot share it with this one.
    #[error("{address} belongs to service {holder}, which cannot share it: {why}")]
    Incompatible {
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: ObjectName,
        /// Why not.
        why: &'static str,
    },
    /// What it asks for is no address.
    #[error("the requested address {0:?} cannot be parsed")]
    Unreadable(String),
}

impl Refusal {
    /// Cilium's word for it in the Service's condition.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoPool(_) | Self::Outside(_) => "no_pool",
            Self::Exhausted(_) => "out_of_ips",
            Self::NotSelected(_) => "pool_selector_mismatch",
            Self::Taken { .. } => "already_allocated",
            Self::Incompatible { .. } => "already_allocated_incompatible_service",
            Self::Unreadable(_) => "request_invalid",
        }
    }
}

/// What a Service gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Its addresses: in the order in which it asks for them, or in that of its families.
    pub addresses: Vec<IpAddr>,
    /// Why that is not all.
    pub refusal: Option<Refusal>,
}

/// Two blocks with addresses in common.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{own} overlaps {other} of pool {pool}")]
pub struct Conflict {
    /// The pool's own block.
    own: Range,
    /// The other block.
    other: Range,
    /// Pool of the other block; may be the same pool.
    pool: String,
}

/// How a pool is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolReport {
    /// Addresses that may be handed out.
    pub total: u128,
    /// Addresses that Services have.
    pub used: u128,
    /// Addresses that may be handed out and nobody has.
    pub available: u128,
    /// An older pool has some of its addresses: nothing new is handed out.
    pub conflict: Option<Conflict>,
}

/// The decision about all Services and pools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// For each Service.
    pub services: BTreeMap<ObjectName, Grant>,
    /// For each pool, by name.
    pub pools: BTreeMap<String, PoolReport>,
}

/// Decides. Who has an address and may have it keeps it; then come addresses asked for by name; then everybody else
/// gets the lowest free address of the oldest pool that selects them. Among equals the older Service comes first.
#[must_use]
pub fn plan(pools: &[Pool], services: &[Request]) -> Plan {
    let mut pools: Vec<&Pool> = pools.iter().collect();
    pools.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    let mut services: Vec<&Request> = services.iter().collect();
    services.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));

    let conflicts = conflicts(&pools);
    let offering = pools
        .iter()
        .zip(&conflicts)
        .map(|(pool, conflict)| !pool.disabled && conflict.is_none());
    let mut book = Book {
        offering: offering.collect(),
        cursors: pools.iter().map(|pool| vec![None; pool.ranges.len()]).collect(),
        pools: &pools,
        holders: BTreeMap::new(),
        shared: BTreeMap::new(),
    };
    let mut grants: Vec<Grant> = services.iter().map(|service| book.keep(service)).collect();
    for (service, grant) in services.iter().zip(&mut grants) {
        book.grant_wanted(service, grant);
    }
    for (service, grant) in services.iter().zip(&mut grants) {
        if service.wanted.is_empty() && service.unreadable.is_empty() {
            book.grant_any(service, grant);
        }
        sort(service, &mut grant.addresses);
    }
    let reports = pools.iter().zip(conflicts).enumerate();
    let reports = reports.map(|(index, (pool, conflict))| (pool.name.clone(), book.report(index, conflict)));
    Plan {
        pools: reports.collect(),
        services: services
            .iter()
            .map(|service| service.name.clone())
            .zip(grants)
            .collect(),
    }
}

/// For each pool, oldest first, the first block that another one had before it. A pool that is out of use for that
/// reason is in nobody's way.
fn conflicts(pools: &[&Pool]) -> Vec<Option<Conflict>> {
    let mut taken: Vec<(&Pool, &Range)> = Vec::new();
    let find = |pool: &Pool, taken: &[(&Pool, &Range)]| {
        pool.ranges.iter().enumerate().find_map(|(index, own)| {
            let before = pool.ranges.iter().take(index).map(|range| (pool, range));
            let (owner, other) = taken
                .iter()
                .copied()
                .chain(before)
                .find(|(_, other)| own.overlaps(other))?;
            Some(Conflict {
                own: *own,
                other: *other,
                pool: owner.name.clone(),
            })
        })
    };
    pools
        .iter()
        .map(|pool| {
            let conflict = find(pool, &taken);
            if conflict.is_none() {
                taken.extend(pool.ranges.iter().map(|range| (*pool, range)));
            }
            conflict
        })
        .collect()
}

/// An address that is given.
struct Held<'a> {
    /// Index of the pool that it is from.
    pool: usize,
    /// Who has it; more than one if they share it.
    holders: Vec<&'a Request>,
}

/// Who has what.
struct Book<'a> {
    /// Oldest first.
    pools: &'a [&'a Pool],
    /// Which of them hand out addresses.
    offering: Vec<bool>,
    /// For each block the address from where to look for a free one. Nothing is given back while we plan.
    cursors: Vec<Vec<Option<IpAddr>>>,
    holders: BTreeMap<IpAddr, Held<'a>>,
    /// Addresses by the sharing key of those who have them.
    shared: BTreeMap<&'a str, Vec<IpAddr>>,
}

impl<'a> Book<'a> {
    /// What a Service has and may keep. Pools out of use still count: they are to be drained, not emptied.
    fn keep(&mut self, service: &'a Request) -> Grant {
        let mut grant = Grant::default();
        for address in &service.current {
            let asked = if service.wanted.is_empty() {
                let family = Family::of(*address);
                service.families.contains(&family)
                    && grant.addresses.iter().all(|other| Family::of(*other) != family)
            } else {
                service.wanted.contains(address) && !grant.addresses.contains(address)
            };
            let Some(pool) = self.pool_of(*address, service).filter(|_| asked) else {
                continue;
            };
            if self.refuses(*address, service).is_none() {
                self.enter(*address, pool, service);
                grant.addresses.push(*address);
            }
        }
        grant
    }

    fn grant_wanted(&mut self, service: &'a Request, grant: &mut Grant) {
        if let Some(text) = service.unreadable.first() {
            grant.refusal = Some(Refusal::Unreadable(text.clone()));
        }
        for address in &service.wanted {
            if grant.addresses.contains(address) {
                continue;
            }
            match self.wanted(*address, service) {
                Ok(pool) => {
                    self.enter(*address, pool, service);
                    grant.addresses.push(*address);
                }
                Err(refusal) => {
                    grant.refusal.get_or_insert(refusal);
                }
            }
        }
    }

    /// The pool from which a Service may have the very address that it asks for.
    fn wanted(&self, address: IpAddr, service: &Request) -> Result<usize, Refusal> {
        let mut offers = (0..self.pools.len())
            .filter(|index| self.offering.get(*index) == Some(&true))
            .filter_map(|index| Some((index, *self.pools.get(index)?)))
            .filter(|(_, pool)| pool.ranges.iter().any(|range| range.offers(address)))
            .peekable();
        if offers.peek().is_none() {
            return Err(Refusal::Outside(address));
        }
        let (pool, _) = offers
            .find(|(_, pool)| pool.admits(service))
            .ok_or(Refusal::NotSelected(address))?;
        self.refuses(address, service).map_or(Ok(pool), Err)
    }

    /// One address for each family that is missing.
    fn grant_any(&mut self, service: &'a Request, grant: &mut Grant) {
        for family in &service.families {
            if grant
                .addresses
                .iter()
                .any(|address| Family::of(*address) == *family)
            {
                continue;
            }
            let found = self
                .shareable(*family, service)
                .map_or_else(|| self.free(*family, service), Ok);
            match found {
                Ok((address, pool)) => {
                    self.enter(address, pool, service);
                    grant.addresses.push(address);
                }
                Err(refusal) => {
                    grant.refusal.get_or_insert(refusal);
                }
            }
        }
    }

    /// An address of others who share it with the Service.
    fn shareable(&self, family: Family, service: &Request) -> Option<(IpAddr, usize)> {
        let key = service.sharing.as_ref()?.key.as_str();
        let given = self.shared.get(key)?.iter();
        given
            .filter(|address| Family::of(**address) == family && self.refuses(**address, service).is_none())
            .find_map(|address| {
                let pool = self.holders.get(address)?.pool;
                // A pool that does not select the Service would take the address away the next time.
                self.pools.get(pool)?.admits(service).then_some((*address, pool))
            })
    }

    /// The lowest free address of the oldest pool that selects the Service.
    fn free(&mut self, family: Family, service: &Request) -> Result<(IpAddr, usize), Refusal> {
        let mut refusal = Refusal::NoPool(family);
        let pools = self.pools.iter().zip(&self.offering).zip(&mut self.cursors);
        for (index, ((pool, offering), cursors)) in pools.enumerate() {
            if !offering || !pool.admits(service) {
                continue;
            }
            for (range, cursor) in pool.ranges.iter().zip(cursors) {
                if range.family() != family {
                    continue;
                }
                refusal = Refusal::Exhausted(family);
                let mut next = range.next_offered(*cursor);
                while let Some(address) = next.filter(|address| self.holders.contains_key(address)) {
                    next = following(address).and_then(|from| range.next_offered(Some(from)));
                }
                // A block that is used up is looked at from its end.
                *cursor = Some(next.unwrap_or(range.last));
                if let Some(address) = next {
                    return Ok((address, index));
                }
            }
        }
        Err(refusal)
    }

    /// The pool of an address that the Service has: one in use before one that is not.
    fn pool_of(&self, address: IpAddr, service: &Request) -> Option<usize> {
        let mut fit: Vec<usize> = (0..self.pools.len())
            .filter(|index| {
                self.pools.get(*index).is_some_and(|pool| {
                    pool.admits(service) && pool.ranges.iter().any(|range| range.contains(address))
                })
            })
            .collect();
        fit.sort_by_key(|index| self.offering.get(*index) != Some(&true));
        fit.first().copied()
    }

    /// Why a Service cannot have an address that others have.
    fn refuses(&self, address: IpAddr, service: &Request) -> Option<Refusal> {
        let held = self.holders.get(&address)?;
        held.holders.iter().find_map(|holder| {
            let why = service.incompatible_with(holder)?;
            let holder = holder.name.clone();
            Some(if service.sharing.is_some() {
                Refusal::Incompatible { address, holder, why }
            } else {
                Refusal::Taken { address, holder }
            })
        })
    }

    fn enter(&mut self, address: IpAddr, pool: usize, service: &'a Request) {
        let held = self.holders.entry(address).or_insert_with(|| Held {
            pool,
            holders: Vec::new(),
        });
        if let Some(sharing) = service.sharing.as_ref().filter(|_| held.holders.is_empty()) {
            self.shared.entry(&sharing.key).or_default().push(address);
        }
        held.holders.push(service);
    }

    fn report(&self, index: usize, conflict: Option<Conflict>) -> PoolReport {
        let ranges = self.pools.get(index).map_or(&[][..], |pool| &pool.ranges);
        let total = ranges
            .iter()
            .fold(0_u128, |sum, range| sum.saturating_add(range.size()));
        let held = self.holders.iter().filter(|(_, held)| held.pool == index);
        let (mut used, mut offered) = (0, 0);
        for (address, _) in held {
            used += 1;
            offered += u128::from(ranges.iter().any(|range| range.offers(*address)));
        }
        PoolReport {
            total,
            used,
            available: total.saturating_sub(offered),
            conflict,
        }
    }
}

/// The order in which a Service's addresses are written, which is the same however it got them.
fn sort(service: &Request, addresses: &mut [IpAddr]) {
    let place = |address: &IpAddr| {
        let wanted = service.wanted.iter().position(|wanted| wanted == address);
        let family = service
            .families
            .iter()
            .position(|family| *family == Family::of(*address));
        (wanted, family)
    };
    addresses.sort_by_key(|address| (place(address), *address));
}
