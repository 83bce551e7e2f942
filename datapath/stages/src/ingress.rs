//! The last steps on the way into a pod, wherever the packet came from.

use abi::{Direction, DropReason, Endpoint, event::ObservationPoint};
use packet::{Ethernet, Family};

use crate::{
    Context, Verdict,
    conntrack::{self, Side},
    icmp_error, nat,
    parse::Parsed,
    report::{self, Sighting},
    verdict::{Dropped, access},
};

/// Offset of the transport header of an IPv6 packet without extension headers.
const PLAIN: u32 = Ethernet::LEN + packet::ip::Ipv6::LEN;

/// Conntrack, policy (to come, between conntrack and translation), the addresses that the pod knows, trace, count.
#[inline(always)]
pub fn admit<F: Family, C: Context>(
    cx: &mut C,
    parsed: &mut Parsed,
    pod: &Endpoint,
) -> Result<(), DropReason> {
    if F::IS_V6 && cx.config().services != 0 && parsed.offset != PLAIN {
        cx.learn(parsed)?;
    }
    conntrack::track::<F, C>(cx, parsed, Side::In)?;
    if F::IS_V6 && cx.config().services != 0 && nat::is_answer(parsed) {
        cx.restore(parsed)?;
    }
    if report::wants(cx, parsed) {
        let sighting = Sighting {
            point: ObservationPoint::ToEndpoint,
            source: pod.id,
            dst_id: pod.id,
            ifindex: pod.ifindex,
        };
        cx.trace(parsed, sighting);
    }
    report::count_forwarded(cx, Direction::Ingress);
    Ok(())
}

/// Routes a packet to a pod of this node and hands it over.
#[inline(always)]
pub fn deliver<F: Family, C: Context>(
    cx: &mut C,
    parsed: &mut Parsed,
    pod: &Endpoint,
    direction: Direction,
) -> Result<Verdict, Dropped> {
    if parsed.hop_limit <= 1 {
        return icmp_error::time_exceeded::<F, C>(cx, parsed, direction);
    }
    if pod.mtu != 0 && parsed.wire_len(cx) > pod.mtu {
        return icmp_error::too_big::<F, C>(cx, parsed, direction, pod.mtu);
    }
    admit::<F, C>(cx, parsed, pod).map_err(Dropped::ingress)?;
    F::decrement_hop_limit(cx, parsed.hop_limit)
        .map_err(access)
        .map_err(Dropped::ingress)?;
    address(cx, pod).map_err(Dropped::ingress)?;
    Ok(Verdict::Peer { ifindex: pod.ifindex })
}

/// Puts the link-layer addresses of a pod's link on a packet.
#[inline(always)]
pub fn address<C: Context>(cx: &mut C, pod: &Endpoint) -> Result<(), DropReason> {
    cx.store(Ethernet::ADDRESSES, &[pod.mac, pod.node_mac])
        .map_err(access)
}
