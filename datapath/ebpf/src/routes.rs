//! The node's routing table, and what it answered a moment ago.
//!
//! A lookup walks rules and a tree of routes, whose memory nothing else on the way of a packet touches: of a packet at a
//! time it took a third of `from_pod` and more (docs/performance.md). So each CPU keeps its last answers and believes them
//! for [`LIFETIME`]; `stages::Env::route` tells why that may be. Only "forward" is kept; every other answer, and
//! a packet that is longer than the route of a kept one allows, is asked for each time.

use core::ffi::c_void;

use abi::Addr;
use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH,
        BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_UNSUPP_LWT, BPF_FIB_LOOKUP_SKIP_NEIGH,
        bpf_fib_lookup as FibLookup,
    },
    helpers::generated::bpf_fib_lookup,
};
use stages::{Env, Route, RouteQuery};

use crate::maps;

/// How long an answer is believed, nanoseconds. The clock moves in steps of up to 10 ms (`CONFIG_HZ`), so it may be twice
/// that.
const LIFETIME: u64 = 10_000_000;
/// Number of answers that a CPU keeps, a power of two. Another question at the same place takes it over.
pub(crate) const KEPT: usize = 1 << KEPT_BITS;
const KEPT_BITS: u32 = 8;

const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;

/// An answer with its question, which is all that it depends on but for the length of the packet. The addresses tell the
/// family (`abi::Addr`).
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Kept {
    src: Addr,
    dst: Addr,
    /// Traffic class and flow label, interface the packet came in by.
    flow: u64,
    protocol: u64,
    /// Until when the answer is believed, nanoseconds of the monotonic clock since boot; 0: it is none.
    until: u64,
    next_hop: Addr,
    ifindex: u32,
    /// What the route takes, bytes of layer 3.
    mtu: u32,
    /// What the kernel is asked, and answers: here, as it would take an eighth of the stack.
    lookup: FibLookup,
}

/// The kept answer, or the routing table's.
#[inline(always)]
pub(crate) fn find<C: Env>(cx: &C, context: *mut c_void, query: &RouteQuery<'_>) -> Route {
    let flow = u64::from(u32::from_ne_bytes(query.flow_info)) << 32 | u64::from(query.ifindex);
    let Some(kept) = maps::ROUTES.get_ptr_mut(place(query, flow)) else {
        return Route::Failed;
    };
    // SAFETY: the entry is this CPU's, and packets of pods are received one after the other on a CPU.
    let kept = unsafe { &mut *kept };
    if kept.dst == *query.dst
        && kept.src == *query.src
        && kept.flow == flow
        && kept.protocol == u64::from(query.protocol)
        && kept.until > cx.now()
        && u32::from(query.len) <= kept.mtu
    {
        return Route::Via {
            ifindex: kept.ifindex,
            next_hop: kept.next_hop,
        };
    }
    kept.until = 0;
    kept.src = *query.src;
    kept.dst = *query.dst;
    kept.flow = flow;
    kept.protocol = u64::from(query.protocol);
    let lookup = &mut kept.lookup;
    // SAFETY: all integers; zero is valid for each.
    *lookup = unsafe { core::mem::zeroed() };
    lookup.family = if query.is_v6 { AF_INET6 } else { AF_INET };
    lookup.l4_protocol = query.protocol;
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
    lookup.__bindgen_anon_1.tot_len = query.len;
    // SAFETY: the context is valid, and the size is that of the structure.
    let answer = unsafe {
        bpf_fib_lookup(
            context,
            lookup,
            size_of::<FibLookup>() as i32,
            BPF_FIB_LOOKUP_SKIP_NEIGH,
        )
    };
    if answer < 0 {
        return Route::Failed;
    }
    // SAFETY: where it forwards or finds the packet too long, the kernel has put the MTU here.
    let mtu = u32::from(unsafe { lookup.__bindgen_anon_1.mtu_result });
    match answer as u32 {
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => {
            kept.next_hop = if query.is_v6 {
                // SAFETY: any bytes are a valid address; the kernel put the gateway here, if there is one.
                Addr(zerocopy::transmute!(unsafe { lookup.__bindgen_anon_4.ipv6_dst }))
            } else {
                // SAFETY: as above.
                Addr::from_v4(unsafe { lookup.__bindgen_anon_4.ipv4_dst }.to_ne_bytes())
            };
            kept.ifindex = lookup.ifindex;
            kept.mtu = mtu;
            kept.until = cx.now().saturating_add(LIFETIME);
            Route::Via {
                ifindex: kept.ifindex,
                next_hop: kept.next_hop,
            }
        }
        BPF_FIB_LKUP_RET_FRAG_NEEDED => Route::TooBig { mtu },
        BPF_FIB_LKUP_RET_UNSUPP_LWT | BPF_FIB_LKUP_RET_BLACKHOLE.. => Route::Stack,
    }
}

/// Place of a question.
#[inline(always)]
fn place(query: &RouteQuery<'_>, flow: u64) -> u32 {
    /// 2^64 divided by the golden ratio: the upper bits of a product with it depend on all bits of the other factor.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let [src_high, src_low]: [u64; 2] = zerocopy::transmute!(query.src.0);
    let [dst_high, dst_low]: [u64; 2] = zerocopy::transmute!(query.dst.0);
    let mixed = (dst_low ^ dst_high ^ src_high ^ flow)
        .wrapping_mul(SPREAD)
        .wrapping_add(src_low)
        .wrapping_mul(SPREAD);
    (mixed >> (u64::BITS - KEPT_BITS)) as u32
}

/// An address as the kernel's 32-bit words, bytes in their order.
#[inline(always)]
pub(crate) fn words(addr: &Addr) -> [u32; 4] {
    zerocopy::transmute!(addr.0)
}
