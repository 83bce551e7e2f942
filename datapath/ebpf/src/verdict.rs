//! The one place where a verdict becomes an action of tc or XDP.

use abi::Addr;
use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_redir_neigh, xdp_action},
    helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer},
};
use stages::{Dropped, Lane, Verdict};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// Carries a verdict out. "Unspecified" lets the next program on the hook have its say; "OK" does not.
#[inline(always)]
pub(crate) fn act(result: Result<Verdict, Dropped>) -> i32 {
    match result {
        Ok(Verdict::Pass) => TC_ACT_UNSPEC,
        Ok(Verdict::Stack) => TC_ACT_OK,
        // SAFETY: these helpers take integers, and the kernel checks the device when the program has ended.
        Ok(Verdict::Peer { ifindex }) => unsafe { bpf_redirect_peer(ifindex, 0) as i32 },
        // SAFETY: as above.
        Ok(Verdict::Device { ifindex }) => unsafe { bpf_redirect(ifindex, 0) as i32 },
        Ok(Verdict::Neighbour { ifindex, next_hop }) => neighbour(ifindex, &next_hop),
        Ok(Verdict::Consumed(_)) | Err(_) => TC_ACT_SHOT,
    }
}

/// The last word on what is delivered: while a new pod's filter becomes a link, the same program is behind this one,
/// and would see, count and track what it lets pass a second time.
#[inline(always)]
pub(crate) fn last(action: i32) -> i32 {
    if action == TC_ACT_UNSPEC {
        TC_ACT_OK
    } else {
        action
    }
}

/// What the device does with a packet of the fast lane.
#[inline(always)]
pub(crate) fn turn(result: Result<Lane, Dropped>) -> u32 {
    match result {
        Ok(Lane::Leave) => xdp_action::XDP_PASS,
        Ok(Lane::Turn) => xdp_action::XDP_TX,
        Err(_) => xdp_action::XDP_DROP,
    }
}

#[inline(always)]
fn neighbour(ifindex: u32, next_hop: &Addr) -> i32 {
    let words: [u32; 4] = zerocopy::transmute!(next_hop.0);
    // SAFETY: all integers; zero is valid for each.
    let mut target: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    // IPv4-mapped, `abi::Addr`.
    if words[0] == 0 && words[1] == 0 && words[2] == u32::from_ne_bytes([0, 0, 0xff, 0xff]) {
        target.nh_family = AF_INET;
        target.__bindgen_anon_1.ipv4_nh = words[3];
    } else {
        target.nh_family = AF_INET6;
        target.__bindgen_anon_1.ipv6_nh = words;
    }
    // SAFETY: the structure is whole, and the size is its size.
    unsafe { bpf_redirect_neigh(ifindex, &raw mut target, size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
}
