//! Services: finding the frontend, and choosing a backend.

use abi::{
    Addr, Affinity, AffinityKey, Backend, BackendKey, BackendSet, MemberKey, Service, ServiceKey,
    service::member,
};
use packet::ip::Scope;

/// The tables of services. Values are copied out.
pub trait Services {
    /// A frontend.
    fn service(&self, key: &ServiceKey) -> Option<Service>;

    /// A slot of a set of backends.
    fn backend(&self, key: &BackendKey) -> Option<Backend>;

    /// Slot of a set that a hash stands for; `None` where the set has no table.
    fn maglev(&self, set: u32, hash: u32) -> Option<u32>;

    /// For whom a backend is there, bits of [`member`]; 0: for nobody.
    fn member(&self, key: &MemberKey) -> u32;

    /// The backend that a client had last.
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity>;

    /// Remembers a client's backend; forgets another when there is no room.
    fn set_affinity(&mut self, key: &AffinityKey, affinity: &Affinity);

    /// Whether an address may use a service from outside the cluster.
    fn is_in_range(&self, service: u32, addr: &Addr) -> bool;

    /// Whether an address belongs to a node of the cluster, this one included.
    fn is_node(&self, addr: &Addr) -> bool;
}

/// On which side of the cluster's border a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// A pod or a node.
    Inside,
    /// Everybody else.
    Outside,
}

impl Client {
    /// The set of a frontend that is there for this client.
    #[inline(always)]
    #[must_use]
    pub fn set(self, service: &Service) -> BackendSet {
        match self {
            Self::Inside => service.inside,
            Self::Outside => service.outside,
        }
    }

    #[inline(always)]
    fn membership(self) -> u32 {
        match self {
            Self::Inside => member::INSIDE,
            Self::Outside => member::OUTSIDE,
        }
    }
}

/// Where a packet or socket wants to go.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Address.
    pub addr: Addr,
    /// Port, network order.
    pub port: [u8; 2],
    /// IP protocol number.
    pub proto: u8,
}

/// The service behind an address and port: one of that address, or a node port when the address is a node's.
#[inline(always)]
pub fn find<T: Services>(tables: &T, wanted: &Wanted) -> Option<Service> {
    let mut key = ServiceKey {
        addr: wanted.addr,
        port: wanted.port,
        proto: wanted.proto,
        family: if wanted.addr.is_v4() { 4 } else { 6 },
        pad: [0; 4],
    };
    if let Some(service) = tables.service(&key) {
        // Nobody's address: node ports are kept under it, and none of them is meant. A socket that is connected to it
        // reaches its own namespace.
        return (!wanted.addr.is_unspecified()).then_some(service);
    }
    // Nearly all connections end here: few ports are node ports, and only for them is it asked whose the address is.
    key.addr = Addr::UNSPECIFIED;
    tables.service(&key).filter(|_| tables.is_node(&wanted.addr))
}

/// How a backend is chosen from a set.
#[derive(Clone, Copy, Debug)]
pub enum Choice {
    /// By this random number, all backends alike.
    Random(u32),
    /// By this hash of the connection, alike on every node; at random where the set has no table.
    Hash(u32),
}

/// Chooses a backend for a new connection. `None`: the set is empty, or was removed while it was being read.
#[inline(always)]
pub fn choose<T: Services>(
    tables: &mut T,
    service: &Service,
    client: Client,
    who: &AffinityKey,
    now: u64,
    choice: Choice,
) -> Option<Backend> {
    let set = client.set(service);
    if set.count == 0 {
        return None;
    }
    if service.affinity == 0 {
        return draw(tables, set, choice);
    }
    let backend = match remembered(tables, service, client, who, now) {
        Some(backend) => backend,
        None => draw(tables, set, choice)?,
    };
    tables.set_affinity(who, &Affinity { backend, used: now });
    Some(backend)
}

/// The backend that the client had last, if that was not too long ago and it still belongs to the service.
#[inline(always)]
fn remembered<T: Services>(
    tables: &T,
    service: &Service,
    client: Client,
    who: &AffinityKey,
    now: u64,
) -> Option<Backend> {
    const SECOND: u64 = 1_000_000_000;
    let Affinity { backend, used } = tables.affinity(who)?;
    let lifetime = u64::from(service.affinity).saturating_mul(SECOND);
    (now.saturating_sub(used) < lifetime
        && is_member(tables, service.number, client, &backend.addr, backend.port))
    .then_some(backend)
}

/// Whether a backend still belongs to a service. Known for UDP, and for services with affinity.
#[inline(always)]
pub fn is_member<T: Services>(tables: &T, service: u32, client: Client, addr: &Addr, port: [u8; 2]) -> bool {
    let key = MemberKey {
        addr: *addr,
        port,
        pad: [0; 2],
        service,
    };
    tables.member(&key) & client.membership() != 0
}

#[inline(always)]
fn draw<T: Services>(tables: &T, set: BackendSet, choice: Choice) -> Option<Backend> {
    let number = match choice {
        Choice::Random(number) | Choice::Hash(number) => number,
    };
    let slot = match choice {
        Choice::Hash(hash) => tables.maglev(set.id, hash),
        Choice::Random(_) => None,
    };
    let slot = slot.unwrap_or_else(|| scale(number, set.count));
    tables.backend(&BackendKey { set: set.id, slot })
}

/// Maps a number that may be anything evenly to `0..count`, without a division.
#[inline(always)]
pub(crate) fn scale(number: u32, count: u32) -> u32 {
    (u64::from(number).wrapping_mul(u64::from(count)) >> 32) as u32
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test that is wrong panics")]
mod tests {
    extern crate std;

    use std::vec;

    use super::scale;

    #[test]
    fn numbers_are_spread_evenly() {
        for count in [1, 2, 3, 7, 1000] {
            let step = u32::MAX / (count * 10);
            let mut hits = vec![0u32; count as usize];
            for index in 0..count * 10 {
                hits[scale(index * step, count) as usize] += 1;
            }
            assert!(hits.iter().all(|hit| (9..=11).contains(hit)), "{count}: {hits:?}");
        }
        assert_eq!(scale(u32::MAX, u32::MAX), u32::MAX - 1);
        assert_eq!(scale(5, 0), 0);
    }
}
