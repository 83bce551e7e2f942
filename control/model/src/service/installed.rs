//! What the tables hold, as far as it was read or written: small, and by frontend.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use abi::{Addr, Backend, BackendKey, MemberKey, Service, ServiceKey, SourceRangeKey};

use super::plan::Step;

/// The tables of services, entry by entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// [`abi::names::SERVICES`].
    pub services: BTreeMap<ServiceKey, Service>,
    /// [`abi::names::BACKENDS`].
    pub backends: BTreeMap<BackendKey, Backend>,
    /// Keys of [`abi::names::MAGLEV`]. The values follow from the sets.
    pub maglev: BTreeSet<u32>,
    /// [`abi::names::MEMBERS`].
    pub members: BTreeMap<MemberKey, u32>,
    /// Prefixes of [`abi::names::SOURCE_RANGES`]: bits (the service's number included) and data.
    pub ranges: BTreeSet<(u32, SourceRangeKey)>,
    /// Keys of [`abi::names::ENDPOINTS`] with [`abi::Endpoint::SERVICE`].
    pub addresses: BTreeSet<Addr>,
}

/// A set of backends in the tables.
#[derive(Clone, Debug)]
pub(super) struct Set {
    pub(super) backends: Arc<[Backend]>,
    pub(super) maglev: bool,
    /// How often frontends name it.
    users: u32,
}

/// Address and port.
pub(super) type Place = (Addr, [u8; 2]);

/// What the tables hold, and which numbers are taken.
#[derive(Debug, Default)]
pub struct Installed {
    pub(super) services: BTreeMap<ServiceKey, Service>,
    pub(super) sets: BTreeMap<u32, Set>,
    /// By number of the service.
    pub(super) members: BTreeMap<u32, BTreeMap<Place, u32>>,
    /// By number of the service: bits of the address, and the address.
    pub(super) ranges: BTreeMap<u32, BTreeSet<(u32, [u8; 16])>>,
    pub(super) addresses: BTreeSet<Addr>,
    /// Numbers of backends, and how many sets they are in.
    numbers: HashMap<Place, (u32, u32)>,
    service_numbers: BTreeSet<u32>,
    last_service: u32,
    last_backend: u32,
    last_set: u32,
    /// Sets that may be without users, and those that were so at the last call of [`Installed::collect`].
    loose: BTreeSet<u32>,
    ripe: BTreeSet<u32>,
}

impl Installed {
    /// Takes over what the tables hold, with its numbers. The steps remove what belongs to nothing; they are to be done
    /// at once, before any plan is made.
    #[must_use]
    pub fn read(tables: Tables) -> (Self, Vec<Step>) {
        let mut this = Self::default();
        let mut garbage = Vec::new();
        let mut slots: BTreeMap<u32, Vec<(u32, Backend)>> = BTreeMap::new();
        for (key, backend) in tables.backends {
            slots.entry(key.set).or_default().push((key.slot, backend));
        }
        let last_set = slots
            .keys()
            .chain(&tables.maglev)
            .max()
            .copied()
            .unwrap_or_default();
        for (id, slots) in slots {
            // Slots are in order. A set with a gap was never written to its end, or somebody was at it.
            let whole = id != 0 && (0..).zip(&slots).all(|(index, (slot, _))| index == *slot);
            if whole {
                this.add_set(
                    id,
                    slots.into_iter().map(|(_, backend)| backend).collect(),
                    tables.maglev.contains(&id),
                );
            } else {
                garbage.extend(
                    slots
                        .into_iter()
                        .map(|(slot, _)| Step::RemoveSlot(BackendKey { set: id, slot })),
                );
            }
        }
        let loose_tables = tables.maglev.iter().filter(|id| !this.sets.contains_key(id));
        garbage.extend(loose_tables.map(|id| Step::RemoveMaglev(*id)));
        for (key, service) in tables.services {
            this.set_service(key, service);
        }
        for (key, bits) in tables.members {
            if this.service_numbers.contains(&key.service) && key.pad == [0; 2] {
                this.members
                    .entry(key.service)
                    .or_default()
                    .insert((key.addr, key.port), bits);
            } else {
                garbage.push(Step::RemoveMember(key));
            }
        }
        for (bits, key) in tables.ranges {
            let number = u32::from_be_bytes(key.service);
            match bits.checked_sub(SourceRangeKey::SERVICE_BITS) {
                Some(bits) if this.service_numbers.contains(&number) => {
                    this.ranges.entry(number).or_default().insert((bits, key.addr));
                }
                _ => garbage.push(Step::RemoveRange(bits, key)),
            }
        }
        this.addresses = tables.addresses;
        this.last_set = this.last_set.max(last_set);
        (this, garbage)
    }

    /// Notes a step that was done.
    pub fn apply(&mut self, step: &Step) {
        match step {
            Step::AddSet { id, backends, maglev } => self.add_set(*id, Arc::clone(backends), *maglev),
            Step::RemoveSet { id, .. } => self.remove_set(*id),
            Step::SetService(key, service) => self.set_service(*key, *service),
            Step::RemoveService(key) => {
                if let Some(service) = self.services.remove(key) {
                    self.service_numbers.remove(&service.number);
                    self.release(&service);
                }
            }
            Step::SetMember(key, bits) => {
                let members = self.members.entry(key.service).or_default();
                members.insert((key.addr, key.port), *bits);
            }
            Step::RemoveMember(key) => {
                if let Some(members) = self.members.get_mut(&key.service) {
                    members.remove(&(key.addr, key.port));
                    if members.is_empty() {
                        self.members.remove(&key.service);
                    }
                }
            }
            Step::AddRange(bits, key) => {
                let range = (bits.saturating_sub(SourceRangeKey::SERVICE_BITS), key.addr);
                self.ranges
                    .entry(u32::from_be_bytes(key.service))
                    .or_default()
                    .insert(range);
            }
            Step::RemoveRange(bits, key) => {
                let number = u32::from_be_bytes(key.service);
                if let Some(ranges) = self.ranges.get_mut(&number) {
                    ranges.remove(&(bits.saturating_sub(SourceRangeKey::SERVICE_BITS), key.addr));
                    if ranges.is_empty() {
                        self.ranges.remove(&number);
                    }
                }
            }
            Step::AddAddress(addr) => {
                self.addresses.insert(*addr);
            }
            Step::RemoveAddress(addr) => {
                self.addresses.remove(addr);
            }
            Step::RemoveSlot(_) | Step::RemoveMaglev(_) => {}
        }
    }

    /// Notes that steps of a plan were not done, and will not be.
    pub fn abandon(&mut self, steps: &[Step]) {
        for step in steps {
            if let Step::AddSet { backends, .. } = step {
                self.forget(backends);
            }
        }
    }

    /// Steps that remove the sets that nobody has used since the call before the last one. To be called about once a
    /// second while [`Installed::is_waiting`]: a program that began before a frontend was switched has long ended.
    pub fn collect(&mut self) -> Vec<Step> {
        let unused = |set: &u32| self.sets.get(set).is_some_and(|set| set.users == 0);
        let ripe: Vec<u32> = self.ripe.iter().filter(|set| unused(set)).copied().collect();
        self.ripe = self.loose.iter().filter(|set| unused(set)).copied().collect();
        self.loose.clear();
        // What cannot be removed is tried again.
        self.loose.extend(&ripe);
        let steps = ripe.into_iter().filter_map(|id| {
            let set = self.sets.get(&id)?;
            Some(Step::RemoveSet {
                id,
                count: u32::try_from(set.backends.len()).unwrap_or(u32::MAX),
                maglev: set.maglev,
            })
        });
        steps.collect()
    }

    /// Whether sets wait for [`Installed::collect`].
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !(self.loose.is_empty() && self.ripe.is_empty())
    }

    /// All frontends in the tables.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceKey, &Service)> {
        self.services.iter()
    }

    /// The backends of a set.
    #[must_use]
    pub fn backends(&self, set: u32) -> &[Backend] {
        self.sets.get(&set).map_or(&[], |set| &set.backends)
    }

    /// Who may use a service from outside: bits and address, by the service's number.
    pub fn ranges(&self) -> impl Iterator<Item = (u32, &BTreeSet<(u32, [u8; 16])>)> {
        self.ranges.iter().map(|(number, ranges)| (*number, ranges))
    }

    /// Whether a backend still belongs to any service that remembers its backends.
    #[must_use]
    pub fn is_member(&self, addr: Addr, port: [u8; 2]) -> bool {
        self.members
            .values()
            .any(|members| members.contains_key(&(addr, port)))
    }

    /// Addresses that are only services'.
    #[must_use]
    pub fn addresses(&self) -> &BTreeSet<Addr> {
        &self.addresses
    }

    /// The tables entry by entry.
    #[must_use]
    pub fn tables(&self) -> Tables {
        let slots = |(id, set): (&u32, &Set)| {
            let set_id = *id;
            let slots = (0..).zip(set.backends.to_vec());
            slots.map(move |(slot, backend)| (BackendKey { set: set_id, slot }, backend))
        };
        let members = self.members.iter().flat_map(|(service, members)| {
            members.iter().map(|((addr, port), bits)| {
                let key = MemberKey {
                    addr: *addr,
                    port: *port,
                    pad: [0; 2],
                    service: *service,
                };
                (key, *bits)
            })
        });
        let ranges = self.ranges.iter().flat_map(|(number, ranges)| {
            let service = number.to_be_bytes();
            ranges.iter().map(move |(bits, addr)| {
                let key = SourceRangeKey { service, addr: *addr };
                (bits + SourceRangeKey::SERVICE_BITS, key)
            })
        });
        Tables {
            services: self.services.clone(),
            backends: self.sets.iter().flat_map(slots).collect(),
            maglev: self
                .sets
                .iter()
                .filter(|(_, set)| set.maglev)
                .map(|(id, _)| *id)
                .collect(),
            members: members.collect(),
            ranges: ranges.collect(),
            addresses: self.addresses.clone(),
        }
    }

    /// A number for a new frontend.
    pub(super) fn new_service(&mut self) -> u32 {
        self.last_service = free(self.last_service, |number| self.service_numbers.contains(&number));
        self.last_service
    }

    /// A number for a new set.
    pub(super) fn new_set(&mut self) -> u32 {
        self.last_set = free(self.last_set, |number| self.sets.contains_key(&number));
        self.last_set
    }

    /// The number of a backend, which it keeps for as long as it is in a set.
    pub(super) fn backend_number(&mut self, place: Place) -> u32 {
        let next = free(self.last_backend, |_| false);
        let (number, _) = *self.numbers.entry(place).or_insert((next, 0));
        if number == next {
            self.last_backend = next;
        }
        number
    }

    /// Forgets the numbers of backends that were given but have come into no set.
    fn forget(&mut self, backends: &[Backend]) {
        for backend in backends {
            let place = (backend.addr, backend.port);
            if self.numbers.get(&place).is_some_and(|(_, sets)| *sets == 0) {
                self.numbers.remove(&place);
            }
        }
    }

    fn add_set(&mut self, id: u32, backends: Arc<[Backend]>, maglev: bool) {
        for backend in backends.iter() {
            let place = (backend.addr, backend.port);
            self.numbers.entry(place).or_insert((backend.number, 0)).1 += 1;
            self.last_backend = self.last_backend.max(backend.number);
        }
        self.last_set = self.last_set.max(id);
        self.loose.insert(id);
        let set = Set {
            backends,
            maglev,
            users: 0,
        };
        self.sets.insert(id, set);
    }

    fn remove_set(&mut self, id: u32) {
        self.loose.remove(&id);
        self.ripe.remove(&id);
        let Some(set) = self.sets.remove(&id) else { return };
        for backend in set.backends.iter() {
            let place = (backend.addr, backend.port);
            if let Some((_, sets)) = self.numbers.get_mut(&place) {
                *sets = sets.saturating_sub(1);
            }
        }
        self.forget(&set.backends);
    }

    fn set_service(&mut self, key: ServiceKey, service: Service) {
        for set in [service.inside, service.outside] {
            if let Some(set) = self.sets.get_mut(&set.id) {
                set.users += 1;
            }
        }
        self.service_numbers.insert(service.number);
        self.last_service = self.last_service.max(service.number);
        if let Some(before) = self.services.insert(key, service) {
            self.release(&before);
            if before.number != service.number {
                self.service_numbers.remove(&before.number);
            }
        }
    }

    fn release(&mut self, service: &Service) {
        for id in [service.inside.id, service.outside.id] {
            if let Some(set) = self.sets.get_mut(&id) {
                set.users = set.users.saturating_sub(1);
                if set.users == 0 {
                    self.loose.insert(id);
                }
            }
        }
    }
}

/// The next number after `last` that is not 0 and not taken.
fn free(last: u32, is_taken: impl Fn(u32) -> bool) -> u32 {
    let mut number = last.wrapping_add(1);
    while number == 0 || is_taken(number) {
        number = number.wrapping_add(1);
    }
    number
}
