//! The tables of services and of translation in memory.

use std::collections::{BTreeMap, BTreeSet};

use abi::{
    Addr, Affinity, AffinityKey, Backend, BackendKey, Endpoint, FragmentKey, FragmentPorts, MemberKey,
    NatEntry, NatKey, Peer, Service, ServiceKey, SourceRangeKey,
};
use stages::{
    nat::{NotStored, Translations, Workspace},
    service::Services,
};
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::Sim;

/// What services and masquerade go by.
#[derive(Clone, Debug)]
pub struct Translation {
    /// Frontends.
    pub services: BTreeMap<ServiceKey, Service>,
    /// Backends by set and slot.
    pub backends: BTreeMap<BackendKey, Backend>,
    /// Backends that are remembered.
    pub members: BTreeMap<MemberKey, u32>,
    /// Backends of clients; bytes of the key, as below.
    pub affinity: BTreeMap<Vec<u8>, Affinity>,
    /// Who may use a service from outside: bits and prefix.
    pub ranges: BTreeSet<(u32, SourceRangeKey)>,
    /// Translated connections.
    pub nat: BTreeMap<Vec<u8>, NatEntry>,
    /// Most entries of them that are taken.
    pub nat_max: usize,
    /// Destinations without masquerade: bits and prefix.
    pub plain: BTreeSet<(u32, [u8; 16])>,
    /// Addresses of native devices.
    pub masquerade: BTreeMap<u32, Addr>,
    /// Ports of datagrams.
    pub fragments: BTreeMap<Vec<u8>, FragmentPorts>,
    /// Keys of packets that a socket of the node takes.
    pub sockets: BTreeSet<Vec<u8>>,
}

impl Default for Translation {
    fn default() -> Self {
        Self {
            services: BTreeMap::new(),
            backends: BTreeMap::new(),
            members: BTreeMap::new(),
            affinity: BTreeMap::new(),
            ranges: BTreeSet::new(),
            nat: BTreeMap::new(),
            nat_max: 1024,
            plain: BTreeSet::new(),
            masquerade: BTreeMap::new(),
            fragments: BTreeMap::new(),
            sockets: BTreeSet::new(),
        }
    }
}

impl Translation {
    /// The entries, keys decoded.
    pub fn entries(&self) -> impl Iterator<Item = (NatKey, NatEntry)> + '_ {
        self.nat
            .iter()
            .filter_map(|(key, entry)| Some((NatKey::read_from_bytes(key).ok()?, *entry)))
    }
}

/// Whether the first bits of two byte strings are alike.
fn matches(bits: u32, one: &[u8], other: &[u8]) -> bool {
    (0..bits).all(|bit| {
        let (byte, mask) = ((bit / 8) as usize, 0x80 >> (bit % 8));
        one[byte] & mask == other[byte] & mask
    })
}

impl Services for Sim {
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        self.translation.services.get(key).copied()
    }

    fn backend(&self, key: &BackendKey) -> Option<Backend> {
        self.translation.backends.get(key).copied()
    }

    fn maglev(&self, _set: u32, _hash: u32) -> Option<u32> {
        None
    }

    fn member(&self, key: &MemberKey) -> u32 {
        self.translation.members.get(key).copied().unwrap_or(0)
    }

    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.translation.affinity.get(key.as_bytes()).copied()
    }

    fn set_affinity(&mut self, key: &AffinityKey, affinity: &Affinity) {
        self.translation
            .affinity
            .insert(key.as_bytes().to_vec(), *affinity);
    }

    fn is_in_range(&self, service: u32, addr: &Addr) -> bool {
        let key = SourceRangeKey {
            service: service.to_be_bytes(),
            addr: addr.0,
        };
        let mut ranges = self.translation.ranges.iter();
        ranges.any(|(bits, range)| matches(*bits, range.as_bytes(), key.as_bytes()))
    }

    fn is_node(&self, addr: &Addr) -> bool {
        let own = self.endpoints.get(addr);
        let peer = self.peers.get(addr);
        own.is_some_and(|own| own.flags & Endpoint::HOST != 0)
            || peer.is_some_and(|peer| peer.flags & Peer::NODE != 0)
    }
}

impl Translations for Sim {
    fn nat<R>(&mut self, key: &NatKey, with: impl FnOnce(&mut NatEntry) -> R) -> Option<R> {
        self.translation.nat.get_mut(key.as_bytes()).map(with)
    }

    fn add_nat(&mut self, key: &NatKey, entry: &NatEntry, replace: bool) -> Result<(), NotStored> {
        let table = &mut self.translation.nat;
        let exists = table.contains_key(key.as_bytes());
        if exists && !replace {
            return Err(NotStored::Exists);
        }
        if !exists && table.len() >= self.translation.nat_max {
            return Err(NotStored::Full);
        }
        table.insert(key.as_bytes().to_vec(), *entry);
        Ok(())
    }

    fn is_plain(&self, addr: &Addr) -> bool {
        let mut plain = self.translation.plain.iter();
        plain.any(|(bits, prefix)| matches(*bits, prefix, &addr.0))
    }

    fn masquerade_address(&self, ifindex: u32) -> Option<Addr> {
        self.translation.masquerade.get(&ifindex).copied()
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        self.translation.fragments.get(key.as_bytes()).copied()
    }

    fn add_fragment(&mut self, key: &FragmentKey, ports: &FragmentPorts) {
        self.translation.fragments.insert(key.as_bytes().to_vec(), *ports);
    }

    fn has_socket(&mut self, key: &NatKey) -> bool {
        self.translation.sockets.contains(key.as_bytes())
    }

    fn with_workspace<R>(&mut self, with: impl FnOnce(&mut Self, &mut Workspace) -> R) -> Option<R> {
        // Whatever was there before, as in the kernel.
        let mut work = Workspace::default();
        work.entry.flags = u32::MAX;
        Some(with(self, &mut work))
    }
}
