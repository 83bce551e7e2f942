//! A pod sends from its own address and its own MAC only, and nobody else from it.

use abi::{Addr, DropReason};
use packet::{Ethernet, ip::Scope};

use crate::Context;

/// Number of the pod that sent a packet, known by its source address. One lookup proves address, device and MAC.
#[inline(always)]
pub fn verify<C: Context>(cx: &C, src: &Addr, mac: &[u8; 6]) -> Result<u16, DropReason> {
    match cx.endpoint(src) {
        Some(pod) if pod.ifindex == cx.ifindex() && pod.mac == *mac => Ok(pod.id),
        _ => Err(explain(cx, mac)),
    }
}

/// A packet for a pod that a native device received: not from an address of this node or its pods, which would lend it
/// their identity, nor from one that no router forwards (RFC 4291 §2.5.2, §2.5.3, §2.5.6, §2.7).
#[inline(always)]
pub fn from_outside<C: Context>(cx: &C, src: &Addr) -> Result<(), DropReason> {
    if src.is_link_local()
        || src.is_multicast()
        || src.is_unspecified()
        || src.is_loopback()
        || cx.endpoint(src).is_some()
    {
        return Err(DropReason::InvalidSourceIp);
    }
    Ok(())
}

/// A pod's link, as seen from its host side.
#[derive(Clone, Copy, Debug, Default)]
pub struct Link {
    /// Address of the pod.
    pub addr: Addr,
    /// MAC address of the pod.
    pub mac: [u8; 6],
    /// MAC address of the host side.
    pub node_mac: [u8; 6],
}

/// Fills in the link a packet came by, for packets whose source address says nothing. The MAC is checked.
#[inline(never)]
pub fn by_device<C: Context>(cx: &C, link: &mut Link) -> Result<(), DropReason> {
    let addr = cx.device(cx.ifindex()).ok_or(DropReason::EpNotReady)?;
    let found = cx.endpoint(&addr).map(|pod| Link {
        addr,
        mac: pod.mac,
        node_mac: pod.node_mac,
    });
    *link = found.ok_or(DropReason::EpNotReady)?;
    let ethernet: Ethernet = cx.load(0).map_err(crate::verdict::access)?;
    if link.mac == ethernet.src {
        Ok(())
    } else {
        Err(DropReason::InvalidSourceMac)
    }
}

/// Which of the three was wrong.
#[inline(never)]
fn explain<C: Context>(cx: &C, mac: &[u8; 6]) -> DropReason {
    let owner = cx.device(cx.ifindex()).and_then(|addr| cx.endpoint(&addr));
    match owner {
        None => DropReason::EpNotReady,
        Some(pod) if pod.mac != *mac => DropReason::InvalidSourceMac,
        Some(_) => DropReason::InvalidSourceIp,
    }
}
