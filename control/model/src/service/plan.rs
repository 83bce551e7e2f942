//! The order of writes that leads from what the tables hold to what is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use abi::service::member;
use abi::{Addr, Backend, BackendKey, BackendSet, MemberKey, Service, ServiceKey, SourceRangeKey};
use ipnet::IpNet;

use super::installed::{Installed, Place};
use super::{Frontend, Target};
use crate::addr::{Family, to_abi};
use crate::inputs::Protocol;

/// A write. Every removal may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A set that no frontend names yet, with its Maglev table if it has one. Slots are in order.
    AddSet {
        /// Its number.
        id: u32,
        /// Its backends.
        backends: Arc<[Backend]>,
        /// Whether there is a table.
        maglev: bool,
    },
    /// A set that no frontend names any more.
    RemoveSet {
        /// Its number.
        id: u32,
        /// How many backends it has.
        count: u32,
        /// Whether there is a table.
        maglev: bool,
    },
    /// An entry of the member table.
    SetMember(MemberKey, u32),
    /// The same.
    RemoveMember(MemberKey),
    /// A source range; bits with those of the number.
    AddRange(u32, SourceRangeKey),
    /// The same.
    RemoveRange(u32, SourceRangeKey),
    /// A frontend, new or not.
    SetService(ServiceKey, Service),
    /// The same.
    RemoveService(ServiceKey),
    /// An address becomes a service's.
    AddAddress(Addr),
    /// The same.
    RemoveAddress(Addr),
    /// A slot of a set that is not whole.
    RemoveSlot(BackendKey),
    /// A Maglev table without a set.
    RemoveMaglev(u32),
}

impl Installed {
    /// The steps for some frontends, all of one owner as [`super::ServiceIndex::wanted`] groups them. They are to be
    /// done in order, each followed by [`Installed::apply`]; after a failure the rest is left, and the plan made anew
    /// later. `is_node` says which addresses are nodes' and stay theirs.
    pub fn plan(
        &mut self,
        wanted: &[(ServiceKey, Option<Frontend>)],
        is_node: impl Fn(&Addr) -> bool,
    ) -> Vec<Step> {
        let mut sets = Sets::new(self, wanted);
        let mut plan = Plan::default();
        for (key, frontend) in wanted {
            let have = self.services.get(key).copied();
            match frontend {
                Some(frontend) => plan.frontend(self, &mut sets, key, frontend, have),
                None => {
                    if let Some(have) = have {
                        plan.first_last.push(Step::RemoveService(*key));
                        plan.members(self, have.number, &BTreeMap::new());
                        plan.ranges(self, have.number, &BTreeSet::new());
                    }
                }
            }
        }
        plan.addresses(self, wanted, is_node);
        let parts = [sets.added, plan.gain, plan.switch, plan.first_last, plan.lose];
        parts.into_iter().flatten().collect()
    }
}

/// The steps of a plan by their place in it.
#[derive(Default)]
struct Plan {
    gain: Vec<Step>,
    switch: Vec<Step>,
    first_last: Vec<Step>,
    lose: Vec<Step>,
}

impl Plan {
    fn frontend(
        &mut self,
        installed: &mut Installed,
        sets: &mut Sets,
        key: &ServiceKey,
        frontend: &Frontend,
        have: Option<Service>,
    ) {
        let number = have.map_or_else(|| installed.new_service(), |have| have.number);
        let value = Service {
            inside: sets.of(installed, &frontend.inside),
            outside: sets.of(installed, &frontend.outside),
            number,
            affinity: frontend.affinity,
            flags: frontend.flags,
        };
        let remembers = key.proto == Protocol::Udp.number() || frontend.affinity != 0;
        let mut members = BTreeMap::new();
        if remembers {
            for (targets, bit) in [
                (&frontend.inside, member::INSIDE),
                (&frontend.outside, member::OUTSIDE),
            ] {
                for target in targets.iter() {
                    *members.entry((target.addr, target.port)).or_default() |= bit;
                }
            }
        }
        self.members(installed, number, &members);
        self.ranges(installed, number, &frontend.ranges.iter().map(range).collect());
        if have != Some(value) {
            self.switch.push(Step::SetService(*key, value));
        }
    }

    fn members(&mut self, installed: &Installed, service: u32, want: &BTreeMap<Place, u32>) {
        let none = BTreeMap::new();
        let have = installed.members.get(&service).unwrap_or(&none);
        let key = |(addr, port): &Place| MemberKey {
            addr: *addr,
            port: *port,
            pad: [0; 2],
            service,
        };
        for (place, bits) in want {
            let before = have.get(place).copied().unwrap_or_default();
            if before | bits != before {
                self.gain.push(Step::SetMember(key(place), before | bits));
            }
            if before & !bits != 0 {
                self.lose.push(Step::SetMember(key(place), *bits));
            }
        }
        let gone = have.keys().filter(|place| !want.contains_key(place));
        self.lose.extend(gone.map(|place| Step::RemoveMember(key(place))));
    }

    fn ranges(&mut self, installed: &Installed, service: u32, want: &BTreeSet<(u32, [u8; 16])>) {
        let none = BTreeSet::new();
        let have = installed.ranges.get(&service).unwrap_or(&none);
        let entry = |(bits, addr): &(u32, [u8; 16])| {
            let key = SourceRangeKey {
                service: service.to_be_bytes(),
                addr: *addr,
            };
            (bits + SourceRangeKey::SERVICE_BITS, key)
        };
        for (bits, key) in want.difference(have).map(entry) {
            self.gain.push(Step::AddRange(bits, key));
        }
        for (bits, key) in have.difference(want).map(entry) {
            self.lose.push(Step::RemoveRange(bits, key));
        }
    }

    /// An address is claimed after its first frontend is there, and let go after its last one has gone.
    fn addresses(
        &mut self,
        installed: &Installed,
        wanted: &[(ServiceKey, Option<Frontend>)],
        is_node: impl Fn(&Addr) -> bool,
    ) {
        let touched: BTreeMap<ServiceKey, bool> =
            wanted.iter().map(|(key, want)| (*key, want.is_some())).collect();
        let addresses: BTreeSet<Addr> = touched.keys().map(|key| key.addr).collect();
        for addr in addresses.into_iter().filter(|addr| *addr != Addr::UNSPECIFIED) {
            let first = ServiceKey {
                addr,
                ..ServiceKey::default()
            };
            let stays = |key: &ServiceKey| touched.get(key).copied().unwrap_or(true);
            let mut there = installed
                .services
                .range(first..)
                .map(|(key, _)| key)
                .take_while(|key| key.addr == addr);
            let mut coming = touched.range(first..).take_while(|(key, _)| key.addr == addr);
            let want = !is_node(&addr) && (there.any(stays) || coming.any(|(_, want)| *want));
            match (want, installed.addresses.contains(&addr)) {
                (true, false) => self.switch.push(Step::AddAddress(addr)),
                (false, true) => self.first_last.push(Step::RemoveAddress(addr)),
                _ => {}
            }
        }
    }
}

/// The sets that the frontends of one owner can share.
struct Sets {
    /// Lists that outside clients choose from by Maglev.
    mapped: Vec<Arc<[Target]>>,
    /// Sets that are there.
    old: BTreeSet<u32>,
    new: Vec<(Arc<[Target]>, BackendSet)>,
    added: Vec<Step>,
}

impl Sets {
    fn new(installed: &Installed, wanted: &[(ServiceKey, Option<Frontend>)]) -> Self {
        let mut mapped: Vec<Arc<[Target]>> = Vec::new();
        for frontend in wanted.iter().filter_map(|(_, frontend)| frontend.as_ref()) {
            let balanced = frontend.flags & Service::MAGLEV != 0 && !frontend.outside.is_empty();
            if balanced && !mapped.contains(&frontend.outside) {
                mapped.push(Arc::clone(&frontend.outside));
            }
        }
        let have = wanted.iter().filter_map(|(key, _)| installed.services.get(key));
        Self {
            mapped,
            old: have
                .flat_map(|service| [service.inside.id, service.outside.id])
                .collect(),
            new: Vec::new(),
            added: Vec::new(),
        }
    }

    /// The set with these backends: one that is there, or a new one.
    fn of(&mut self, installed: &mut Installed, targets: &Arc<[Target]>) -> BackendSet {
        if targets.is_empty() {
            return BackendSet::default();
        }
        if let Some((_, set)) = self.new.iter().find(|(known, _)| known == targets) {
            return *set;
        }
        let maglev = self.mapped.contains(targets);
        let old = self.old.iter().find(|id| {
            let set = installed.sets.get(id);
            set.is_some_and(|set| set.maglev == maglev && is_same(&set.backends, targets))
        });
        let count = u32::try_from(targets.len()).unwrap_or(u32::MAX);
        let set = match old {
            Some(id) => BackendSet { id: *id, count },
            None => {
                let id = installed.new_set();
                // The number is taken from here on, also for the sets that follow in this plan.
                let backends = targets.iter().map(|target| Backend {
                    addr: target.addr,
                    port: target.port,
                    flags: if target.terminating {
                        Backend::TERMINATING
                    } else {
                        0
                    },
                    number: installed.backend_number((target.addr, target.port)),
                });
                let backends = backends.collect();
                self.added.push(Step::AddSet { id, backends, maglev });
                BackendSet { id, count }
            }
        };
        self.new.push((Arc::clone(targets), set));
        set
    }
}

/// Whether a set has exactly these backends. Ours are sorted like the targets; another order is as good.
fn is_same(backends: &[Backend], targets: &[Target]) -> bool {
    let target = |backend: &Backend| Target {
        addr: backend.addr,
        port: backend.port,
        terminating: backend.flags & Backend::TERMINATING != 0,
    };
    if backends.len() != targets.len() {
        return false;
    }
    if backends.iter().map(target).eq(targets.iter().copied()) {
        return true;
    }
    let mut sorted: Vec<Target> = backends.iter().map(target).collect();
    sorted.sort_unstable();
    sorted == targets
}

/// Bits and first address in the form of the table, where IPv4 is mapped.
fn range(net: &IpNet) -> (u32, [u8; 16]) {
    let mapped = if Family::of(net.addr()) == Family::V4 {
        96
    } else {
        0
    };
    (u32::from(net.prefix_len()) + mapped, to_abi(net.network()).0)
}
