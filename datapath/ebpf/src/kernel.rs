//! Clock, routing table and event ring as [`Env`].

use abi::{Addr, Config, event::CAPTURE};
use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH,
        BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_UNSUPP_LWT, BPF_FIB_LOOKUP_SKIP_NEIGH,
        bpf_fib_lookup as FibLookup,
    },
    helpers::generated::{bpf_fib_lookup, bpf_ktime_get_coarse_ns, bpf_skb_load_bytes},
};
use stages::{Env, Route, RouteQuery};
use zerocopy::{Immutable, IntoBytes};

use crate::{constants, maps, skb::Skb};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Space for one record: whole, as the ring needs a constant size.
#[repr(C)]
struct Record<H> {
    header: H,
    data: [u8; CAPTURE],
}

impl Env for Skb {
    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: no arguments.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn config(&self) -> Config {
        *constants::config()
    }

    #[inline(always)]
    fn route(&mut self, query: &RouteQuery<'_>) -> Route {
        // SAFETY: all integers; zero is valid for each.
        let mut lookup: FibLookup = unsafe { core::mem::zeroed() };
        lookup.family = if query.is_v6 { AF_INET6 } else { AF_INET };
        lookup.l4_protocol = query.protocol;
        lookup.__bindgen_anon_1.tot_len = query.len;
        lookup.ifindex = query.ifindex;
        if query.is_v6 {
            lookup.__bindgen_anon_2.flowinfo = u32::from_ne_bytes(query.flow_info);
            lookup.__bindgen_anon_3.ipv6_src = words(query.src);
            lookup.__bindgen_anon_4.ipv6_dst = words(query.dst);
        } else {
            let [tos, ..] = query.flow_info;
            let ([_, _, _, src], [_, _, _, dst]) = (words(query.src), words(query.dst));
            lookup.__bindgen_anon_2.tos = tos;
            lookup.__bindgen_anon_3.ipv4_src = src;
            lookup.__bindgen_anon_4.ipv4_dst = dst;
        }
        // SAFETY: the context is valid, and the size is that of the structure.
        let answer = unsafe {
            bpf_fib_lookup(
                self.as_ptr().cast(),
                &raw mut lookup,
                size_of::<FibLookup>() as i32,
                BPF_FIB_LOOKUP_SKIP_NEIGH,
            )
        };
        if answer < 0 {
            return Route::Failed;
        }
        match answer as u32 {
            BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => {
                let next_hop = if query.is_v6 {
                    // SAFETY: any bytes are a valid address; the kernel put the gateway here, if there is one.
                    address(unsafe { lookup.__bindgen_anon_4.ipv6_dst })
                } else {
                    // SAFETY: as above.
                    Addr::from_v4(unsafe { lookup.__bindgen_anon_4.ipv4_dst }.to_ne_bytes())
                };
                Route::Via {
                    ifindex: lookup.ifindex,
                    next_hop,
                }
            }
            // SAFETY: the kernel has put the MTU here.
            BPF_FIB_LKUP_RET_FRAG_NEEDED => Route::TooBig {
                mtu: u32::from(unsafe { lookup.__bindgen_anon_1.mtu_result }),
            },
            BPF_FIB_LKUP_RET_UNSUPP_LWT | BPF_FIB_LKUP_RET_BLACKHOLE.. => Route::Stack,
        }
    }

    #[inline(always)]
    fn emit<H: IntoBytes + Immutable + 'static>(&mut self, kind: u8, header: &H, captured: u32) {
        let Some(mut record) = maps::EVENTS.reserve_untyped::<Record<H>>(0) else {
            lost(kind);
            return;
        };
        let target = record.as_mut_ptr();
        // SAFETY: the record has room for the header, and nobody else sees it before it is submitted.
        unsafe { core::ptr::copy_nonoverlapping(core::ptr::from_ref(header), &raw mut (*target).header, 1) };
        let failed = if captured == 0 || captured > CAPTURE as u32 {
            1
        } else {
            // SAFETY: at most `CAPTURE` bytes are written, for which there is room.
            unsafe {
                bpf_skb_load_bytes(
                    self.as_ptr().cast(),
                    0,
                    (&raw mut (*target).data).cast(),
                    captured,
                )
            }
        };
        if failed == 0 {
            record.submit(0);
        } else {
            record.discard(0);
            lost(kind);
        }
    }
}

#[inline(always)]
fn lost(kind: u8) {
    if let Some(counter) = maps::EVENTS_LOST.get_ptr_mut(u32::from(kind)) {
        // SAFETY: the slot is this CPU's.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}

/// An address as the kernel's 32-bit words, bytes in their order.
#[inline(always)]
fn words(addr: &Addr) -> [u32; 4] {
    zerocopy::transmute!(addr.0)
}

#[inline(always)]
fn address(words: [u32; 4]) -> Addr {
    Addr(zerocopy::transmute!(words))
}
