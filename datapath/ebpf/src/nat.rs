//! The tables of translation as [`Translations`].

use abi::{Addr, FragmentKey, FragmentPorts, NatEntry, NatKey, nat::PlainKey};
use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_NO_PREALLOC, BPF_NOEXIST, bpf_sock, bpf_sock_tuple},
    btf_maps::{HashMap, LpmTrie, LruHashMap, PerCpuArray, lpm_trie::Key},
    helpers::generated::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
    macros::btf_map,
};
use packet::protocol;
use stages::nat::{NotStored, Translations, Workspace};

use crate::{services::services_of, skb::Skb, xdp::Frame};

/// Pairs of translated connections; the oldest goes when it is full.
#[btf_map(name = "seta_nat")]
static NAT: LruHashMap<NatKey, NatEntry, 131_072> = LruHashMap::new();

/// Ports of fragmented datagrams; the oldest goes when it is full.
#[btf_map(name = "seta_fragments")]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts, 8192> = LruHashMap::new();

/// Destinations that pods reach with their own address.
#[btf_map(name = "seta_plain")]
static PLAIN: LpmTrie<PlainKey, u32, 16_384> = LpmTrie::new();

/// Addresses that pods leave native devices with.
#[btf_map(name = "seta_masquerade")]
static MASQUERADE: HashMap<u32, Addr, 1024, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Room to work in, beside the stack. Not pinned: it holds nothing between two packets.
#[btf_map(name = "seta_workspace")]
static WORKSPACE: PerCpuArray<Workspace, 1> = PerCpuArray::new();

/// `EEXIST`, as helpers return it.
const EXISTS: i32 = -17;
/// `BPF_F_CURRENT_NETNS`.
const OWN_NAMESPACE: u64 = u64::MAX;

/// [`Translations`] for a kind of hook.
macro_rules! translations_of {
    ($hook:ty) => {
        impl Translations for $hook {
            #[inline(always)]
            fn nat<R>(&mut self, key: &NatKey, with: impl FnOnce(&mut NatEntry) -> R) -> Option<R> {
                // SAFETY: the entry lives until the end of the RCU section that the program runs in. Two CPUs may change flags and
                // lifetime at once, of which one is lost until the next packet; addresses and ports are never changed in place.
                NAT.get_ptr_mut(key)
                    .map(|entry| with(unsafe { &mut *entry }))
            }

            #[inline(always)]
            fn add_nat(&mut self, key: &NatKey, entry: &NatEntry, replace: bool) -> Result<(), NotStored> {
                let flags = if replace { BPF_ANY } else { BPF_NOEXIST };
                match NAT.insert(key, entry, u64::from(flags)) {
                    Ok(()) => Ok(()),
                    Err(EXISTS) => Err(NotStored::Exists),
                    Err(_) => Err(NotStored::Full),
                }
            }

            #[inline(always)]
            fn is_plain(&self, addr: &Addr) -> bool {
                PLAIN.get(&Key::new(128, addr.0)).is_some()
            }

            #[inline(always)]
            fn masquerade_address(&self, ifindex: u32) -> Option<Addr> {
                // SAFETY: copied out at once; user space replaces entries whole.
                unsafe { MASQUERADE.get(ifindex).copied() }
            }

            #[inline(always)]
            fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
                // SAFETY: copied out at once; an entry is never changed in place.
                unsafe { FRAGMENTS.get(key).copied() }
            }

            #[inline(always)]
            fn add_fragment(&mut self, key: &FragmentKey, ports: &FragmentPorts) {
                // An LRU map makes room; if it cannot at this moment, the datagram is lost as if on the way.
                let _full = FRAGMENTS.insert(key, ports, 0);
            }

            #[inline(always)]
            fn has_socket(&mut self, key: &NatKey) -> bool {
                if key.proto != protocol::TCP && key.proto != protocol::UDP {
                    return false;
                }
                // SAFETY: all integers; zero is valid for each.
                let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
                let ends = &mut tuple.__bindgen_anon_1;
                ends.ipv6.saddr = zerocopy::transmute!(key.src.0);
                ends.ipv6.daddr = zerocopy::transmute!(key.dst.0);
                ends.ipv6.sport = u16::from_ne_bytes(key.src_port);
                ends.ipv6.dport = u16::from_ne_bytes(key.dst_port);
                // The size tells the helper the family.
                let len = size_of_val(unsafe { &ends.ipv6 }) as u32;
                // SAFETY: the context is valid, and the tuple as long as said.
                let socket: *mut bpf_sock = unsafe {
                    if key.proto == protocol::TCP {
                        bpf_skc_lookup_tcp(self.as_ptr().cast(), &raw mut tuple, len, OWN_NAMESPACE, 0)
                    } else {
                        bpf_sk_lookup_udp(self.as_ptr().cast(), &raw mut tuple, len, OWN_NAMESPACE, 0)
                    }
                };
                if socket.is_null() {
                    return false;
                }
                // SAFETY: the helper above has given us this reference, which is not used any more.
                unsafe { bpf_sk_release(socket.cast()) };
                true
            }

            #[inline(always)]
            fn with_workspace<R>(&mut self, with: impl FnOnce(&mut Self, &mut Workspace) -> R) -> Option<R> {
                let work = WORKSPACE.get_ptr_mut(0)?;
                // SAFETY: the room is this CPU's, and no other program runs on it before this one has ended; within a program the
                // logic takes it once at a time.
                Some(with(&mut <$hook>::new(self.as_ptr()), unsafe {
                    &mut *work
                }))
            }
        }
    };
}

services_of!(Skb);
services_of!(Frame);
translations_of!(Skb);
translations_of!(Frame);
