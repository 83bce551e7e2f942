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
    for (service, grant) in services.iter().zip(&mut grants) {
        book.name_holder(service, grant);
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

/// Who has what.
struct Book<'a> {
    /// Oldest first.
    pools: &'a [&'a Pool],
    /// Which of them hand out addresses.
    offering: Vec<bool>,
    /// For each block the address from where to look for a free one. Nothing is given back while we plan.
    cursors: Vec<Vec<Option<IpAddr>>>,
    /// Who has an address; more than one if they share it.
    holders: BTreeMap<IpAddr, Vec<&'a Request>>,
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
            if asked && self.may_keep(*address, service) && self.refuses(*address, service).is_none() {
                self.enter(*address, service);
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
                Ok(()) => {
                    self.enter(*address, service);
                    grant.addresses.push(*address);
                }
                Err(refusal) => {
                    grant.refusal.get_or_insert(refusal);
                }
            }
        }
    }

    /// Whether a Service may have the very address that it asks for.
    fn wanted(&self, address: IpAddr, service: &Request) -> Result<(), Refusal> {
        let mut offers = self
            .pools
            .iter()
            .zip(&self.offering)
            .filter(|(pool, offering)| **offering && pool.ranges.iter().any(|range| range.offers(address)))
            .peekable();
        if offers.peek().is_none() {
            return Err(Refusal::Outside(address));
        }
        if !offers.any(|(pool, _)| pool.admits(service)) {
            return Err(Refusal::NotSelected(address));
        }
        self.refuses(address, service).map_or(Ok(()), Err)
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
                Ok(address) => {
                    self.enter(address, service);
                    grant.addresses.push(address);
                }
                Err(refusal) => {
                    grant.refusal.get_or_insert(refusal);
                }
            }
        }
    }

    /// An address of others who share it with the Service.
    fn shareable(&self, family: Family, service: &Request) -> Option<IpAddr> {
        let key = service.sharing.as_ref()?.key.as_str();
        let mut given = self.shared.get(key)?.iter().copied();
        given.find(|address| {
            Family::of(*address) == family
                && self.refuses(*address, service).is_none()
                && self.is_offered(*address, service)
        })
    }

    /// Whether a pool in use that selects the Service has an address. A newcomer among those who share it is as new as
    /// any other.
    fn is_offered(&self, address: IpAddr, service: &Request) -> bool {
        let has = |pool: &Pool| pool.ranges.iter().any(|range| range.contains(address));
        let mut pools = self.pools.iter().zip(&self.offering);
        pools.any(|(pool, offering)| *offering && has(pool) && pool.admits(service))
    }

    /// The lowest free address of the oldest pool that selects the Service.
    fn free(&mut self, family: Family, service: &Request) -> Result<IpAddr, Refusal> {
        let mut refusal = Refusal::NoPool(family);
        let pools = self.pools.iter().zip(&self.offering).zip(&mut self.cursors);
        for ((pool, offering), cursors) in pools {
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
                    return Ok(address);
                }
            }
        }
        Err(refusal)
    }

    /// Whether a Service may go on with an address that it has.
    fn may_keep(&self, address: IpAddr, service: &Request) -> bool {
        let has = |pool: &Pool| pool.ranges.iter().any(|range| range.contains(address));
        self.pools.iter().any(|pool| has(pool) && pool.admits(service))
    }

    /// The pool that an address counts for: of those that have it one in use before one that is not, then the oldest. Who
    /// has the address makes no difference.
    fn pool_of(&self, address: IpAddr) -> Option<usize> {
        let has = |pool: &Pool| pool.ranges.iter().any(|range| range.contains(address));
        let pools = self.pools.iter().zip(&self.offering).enumerate();
        let fit = pools.filter(|(_, (pool, _))| has(pool));
        Some(fit.min_by_key(|(_, (_, offering))| !**offering)?.0)
    }

    /// Why a Service cannot have an address that others have.
    fn refuses(&self, address: IpAddr, service: &Request) -> Option<Refusal> {
        let opposed = self
            .holders
            .get(&address)?
            .iter()
            .filter_map(|holder| Some((*holder, service.incompatible_with(holder)?)));
        let (holder, why) = opposed.min_by_key(|(holder, _)| (holder.created, &holder.name))?;
        let holder = holder.name.clone();
        Some(if service.sharing.is_some() {
            Refusal::Incompatible { address, holder, why }
        } else {
            Refusal::Taken { address, holder }
        })
    }

    /// Names the holder of an address that was refused, now that all who will have it do. Who had it at the moment of the
    /// refusal depends on who kept it and who just got it, and would differ the next time.
    fn name_holder(&self, service: &Request, grant: &mut Grant) {
        if let Some(Refusal::Taken { address, .. } | Refusal::Incompatible { address, .. }) = grant.refusal
            && let Some(refusal) = self.refuses(address, service)
        {
            grant.refusal = Some(refusal);
        }
    }

    fn enter(&mut self, address: IpAddr, service: &'a Request) {
        let holders = self.holders.entry(address).or_default();
        if let Some(sharing) = service.sharing.as_ref().filter(|_| holders.is_empty()) {
            self.shared.entry(&sharing.key).or_default().push(address);
        }
        holders.push(service);
    }

    fn report(&self, index: usize, conflict: Option<Conflict>) -> PoolReport {
        let ranges = self.pools.get(index).map_or(&[][..], |pool| &pool.ranges);
        let total = ranges
            .iter()
            .fold(0_u128, |sum, range| sum.saturating_add(range.size()));
        let (mut used, mut offered) = (0, 0);
        for address in self
            .holders
            .keys()
            .filter(|address| self.pool_of(**address) == Some(index))
        {
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
