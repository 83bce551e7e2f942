//! The tables of services, and [`Services`] over them for every kind of hook.

use abi::{
    Addr, Affinity, AffinityKey, Backend, BackendKey, Endpoint, MemberKey, Peer, Service, ServiceKey,
    SocketPeers, SocketTranslation, SourceRangeKey,
    service::{MAGLEV_SIZE, MaglevTable},
};
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{HashMap, LpmTrie, LruHashMap, SkStorage, lpm_trie::Key},
    macros::btf_map,
};

use crate::maps::{ENDPOINTS, IPCACHE};

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// Frontends.
#[btf_map(name = "seta_services")]
static SERVICES: HashMap<ServiceKey, Service, 262_144, NO_PREALLOC> = HashMap::new();

/// Sets of backends, slot by slot.
#[btf_map(name = "seta_backends")]
static BACKENDS: HashMap<BackendKey, Backend, 1_048_576, NO_PREALLOC> = HashMap::new();

/// For each set that packets are balanced to, the slot of each hash.
#[btf_map(name = "seta_maglev")]
static MAGLEV: HashMap<u32, MaglevTable, 65_536, NO_PREALLOC> = HashMap::new();

/// Who may use a service from outside.
#[btf_map(name = "seta_ranges")]
static SOURCE_RANGES: LpmTrie<SourceRangeKey, u32, 65_536> = LpmTrie::new();

/// Backends that are remembered somewhere and must be known to be alive.
#[btf_map(name = "seta_members")]
static MEMBERS: HashMap<MemberKey, u32, 262_144, NO_PREALLOC> = HashMap::new();

/// Backends that clients come back to; the oldest goes when it is full.
#[btf_map(name = "seta_affinity")]
static AFFINITY: LruHashMap<AffinityKey, Affinity, 65_536> = LruHashMap::new();

/// What a connected socket asked for.
#[btf_map(name = "seta_sockets")]
pub(crate) static SOCKETS: SkStorage<SocketTranslation> = SkStorage::new();

/// What an unconnected UDP socket asked for.
#[btf_map(name = "seta_sock_peers")]
pub(crate) static SOCKET_PEERS: SkStorage<SocketPeers> = SkStorage::new();

#[inline(always)]
pub(crate) fn service(key: &ServiceKey) -> Option<Service> {
    // SAFETY: copied out at once; user space replaces entries whole, and the kernel frees the old one only after the
    // RCU section that the program runs in.
    unsafe { SERVICES.get(key).copied() }
}

#[inline(always)]
pub(crate) fn backend(key: &BackendKey) -> Option<Backend> {
    // SAFETY: as in `service`.
    unsafe { BACKENDS.get(key).copied() }
}

#[inline(always)]
pub(crate) fn maglev(set: u32, hash: u32) -> Option<u32> {
    let table = MAGLEV.get_ptr(set)?;
    let mut slot = u64::from(hash).wrapping_mul(MAGLEV_SIZE as u64) >> 32;
    // The compiler knows that the slot is inside, and the verifier does not: the check is for the one and hidden from the
    // other. SAFETY: the instruction changes nothing. (Without one, the debug information names a line that has no code.)
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) slot, options(pure, nomem, nostack, preserves_flags)) };
    if slot >= MAGLEV_SIZE as u64 {
        return None;
    }
    // SAFETY: as in `service`; the slot is inside the table. Never copied out: it is larger than the stack.
    Some(u32::from(unsafe { *(*table).0.as_ptr().add(slot as usize) }))
}

#[inline(always)]
pub(crate) fn member(key: &MemberKey) -> u32 {
    // SAFETY: as in `service`.
    unsafe { MEMBERS.get(key).copied() }.unwrap_or(0)
}

#[inline(always)]
pub(crate) fn affinity(key: &AffinityKey) -> Option<Affinity> {
    // SAFETY: copied out at once. Two CPUs may choose for one client at the same time: either choice holds.
    unsafe { AFFINITY.get(key).copied() }
}

#[inline(always)]
pub(crate) fn set_affinity(key: &AffinityKey, affinity: &Affinity) {
    // An LRU map makes room; if it cannot at this moment, the client is balanced anew next time.
    let _full = AFFINITY.insert(key, affinity, 0);
}

#[inline(always)]
pub(crate) fn is_in_range(service: u32, addr: &Addr) -> bool {
    let key = Key::new(
        SourceRangeKey::SERVICE_BITS + 128,
        SourceRangeKey {
            service: service.to_be_bytes(),
            addr: addr.0,
        },
    );
    SOURCE_RANGES.get(&key).is_some()
}

#[inline(always)]
pub(crate) fn is_node(addr: &Addr) -> bool {
    // SAFETY: as in `service`.
    if unsafe { ENDPOINTS.get(addr) }.is_some_and(|endpoint| endpoint.flags & Endpoint::HOST != 0) {
        return true;
    }
    // SAFETY: as in `service`.
    unsafe { IPCACHE.get(addr) }.is_some_and(|peer| peer.flags & Peer::NODE != 0)
}

/// [`stages::service::Services`] over the maps, for a kind of hook.
macro_rules! services_of {
    ($hook:ty) => {
        impl stages::service::Services for $hook {
            #[inline(always)]
            fn service(&self, key: &abi::ServiceKey) -> Option<abi::Service> {
                $crate::services::service(key)
            }

            #[inline(always)]
            fn backend(&self, key: &abi::BackendKey) -> Option<abi::Backend> {
                $crate::services::backend(key)
            }

            #[inline(always)]
            fn maglev(&self, set: u32, hash: u32) -> Option<u32> {
                $crate::services::maglev(set, hash)
            }

            #[inline(always)]
            fn member(&self, key: &abi::MemberKey) -> u32 {
                $crate::services::member(key)
            }

            #[inline(always)]
            fn affinity(&self, key: &abi::AffinityKey) -> Option<abi::Affinity> {
                $crate::services::affinity(key)
            }

            #[inline(always)]
            fn set_affinity(&mut self, key: &abi::AffinityKey, affinity: &abi::Affinity) {
                $crate::services::set_affinity(key, affinity);
            }

            #[inline(always)]
            fn is_in_range(&self, service: u32, addr: &abi::Addr) -> bool {
                $crate::services::is_in_range(service, addr)
            }

            #[inline(always)]
            fn is_node(&self, addr: &abi::Addr) -> bool {
                $crate::services::is_node(addr)
            }
        }
    };
}
pub(crate) use services_of;
