//! A pod sends from its own address and its own MAC only.

use abi::{Addr, DropReason, Endpoint};
use packet::{Ethernet, Packet};

use crate::Tables;

/// The pod that sent a packet, known by its source address. One lookup proves address, device and MAC on the fast path.
#[inline(always)]
pub fn verify<P: Packet, T: Tables>(packet: &P, tables: &T, src: &Addr, mac: &[u8; 6]) -> Result<Endpoint, DropReason> {
    match tables.endpoint(src) {
        Some(pod) if pod.ifindex == packet.ifindex() && pod.mac == *mac => Ok(pod),
        _ => Err(explain(packet, tables, mac)),
    }
}

/// The pod behind the device of a packet whose source address says nothing, such as link-local ones. Its MAC is checked.
#[inline(never)]
pub fn by_device<P: Packet, T: Tables>(packet: &P, tables: &T) -> Result<(Addr, Endpoint), DropReason> {
    let addr = tables.device(packet.ifindex()).ok_or(DropReason::EpNotReady)?;
    let pod = tables.endpoint(&addr).ok_or(DropReason::EpNotReady)?;
    let ethernet: Ethernet = packet.load(0).map_err(crate::verdict::access)?;
    if pod.mac == ethernet.src { Ok((addr, pod)) } else { Err(DropReason::InvalidSourceMac) }
}

/// Which of the three was wrong.
#[inline(never)]
fn explain<P: Packet, T: Tables>(packet: &P, tables: &T, mac: &[u8; 6]) -> DropReason {
    let owner = tables.device(packet.ifindex()).and_then(|addr| tables.endpoint(&addr));
    match owner {
        None => DropReason::EpNotReady,
        Some(pod) if pod.mac != *mac => DropReason::InvalidSourceMac,
        Some(_) => DropReason::InvalidSourceIp,
    }
}
