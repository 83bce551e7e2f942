//! The two programs of a pod's link.

use abi::{
    Addr, Direction, DropReason, Endpoint,
    event::{ObservationPoint, TraceReason},
};
use packet::{Ethernet, Family, Fragment, V4, V6, ethernet::ether_type, icmp6, ip::Scope};

use crate::{
    Context, Route, RouteQuery, Verdict,
    conntrack::{self, Side},
    icmp_error, ingress,
    nat::{self, Translated},
    neighbour,
    parse::Parsed,
    report::{self, Sighting},
    source,
    verdict::{Dropped, access},
};

/// Program `from_pod`: what a pod sends.
#[inline(always)]
pub fn from_pod<C: Context>(cx: &mut C) -> Result<Verdict, Dropped> {
    let result = match cx.load::<Ethernet>(0) {
        // It would leave the node with its tag, into a network that is not the pod's.
        Ok(_) if cx.is_tagged() => Err(Dropped::egress(DropReason::VlanFiltered)),
        Ok(ethernet) if ethernet.ether_type == ether_type::IPV6 && V6::is_enabled(&cx.config()) => {
            leave::<V6, C>(cx, &ethernet.src)
        }
        Ok(ethernet) if ethernet.ether_type == ether_type::IPV4 && V4::is_enabled(&cx.config()) => {
            leave::<V4, C>(cx, &ethernet.src)
        }
        Ok(_) => Err(Dropped::egress(DropReason::UnsupportedL3Protocol)),
        Err(error) => Err(Dropped::egress(access(error))),
    };
    report::conclude(cx, result)
}

/// Program `to_pod`: what the stack delivers to a pod.
#[inline(always)]
pub fn to_pod<C: Context>(cx: &mut C) -> Result<Verdict, Dropped> {
    if is_done(cx) {
        return Ok(Verdict::Pass);
    }
    let result = match cx.load::<Ethernet>(0) {
        Ok(ethernet) if ethernet.ether_type == ether_type::IPV6 && V6::is_enabled(&cx.config()) => {
            enter::<V6, C>(cx)
        }
        Ok(ethernet) if ethernet.ether_type == ether_type::IPV4 && V4::is_enabled(&cx.config()) => {
            enter::<V4, C>(cx)
        }
        _ => return Ok(Verdict::Pass),
    };
    report::conclude(cx, result)
}

/// Whether a program before this one has dealt with the packet to the end.
#[inline(always)]
pub(crate) fn is_done<C: Context>(cx: &C) -> bool {
    cx.mark() & 0xffff == abi::mark::DONE
}

#[inline(never)]
fn leave<F: Family, C: Context>(cx: &mut C, mac: &[u8; 6]) -> Result<Verdict, Dropped> {
    let mut parsed = Parsed::default();
    cx.parse::<F>(&mut parsed).map_err(Dropped::egress)?;
    if F::IS_V6 && parsed.is_control && icmp6::is_link_only(parsed.control) {
        let handled = cx.neighbour(&parsed).map_err(Dropped::egress)?;
        return Ok(handled.verdict(cx.ifindex()));
    }
    if parsed.dst().is_multicast() {
        // No router forwards what is meant for the link, and nobody misses it; the rest is not supported.
        return if parsed.dst().is_link_multicast() {
            Ok(Verdict::Consumed(DropReason::MulticastHandled))
        } else {
            Err(Dropped::egress(DropReason::MulticastHandled))
        };
    }
    let sender = source::verify(cx, parsed.src(), mac).map_err(Dropped::egress)?;
    if report::wants_arrivals(cx) {
        let ifindex = cx.ifindex();
        sight(cx, &parsed, sender, ObservationPoint::FromEndpoint, ifindex);
    }
    if F::IS_V6
        && parsed.control == icmp6::kind::ECHO_REQUEST
        && parsed.is_control
        && matches!(parsed.fragment, Fragment::Whole)
        && *parsed.dst() == F::router(&cx.config())
    {
        return neighbour::echo(cx, &parsed).map_err(Dropped::egress);
    }
    go_on::<F, C>(cx, &mut parsed, sender)
}

/// Where a packet goes whose sender is known.
#[inline(never)]
fn go_on<F: Family, C: Context>(cx: &mut C, parsed: &mut Parsed, sender: u16) -> Result<Verdict, Dropped> {
    let mut receiver = Endpoint::default();
    let mut is_local = find(cx, parsed.dst(), &mut receiver);
    let translates = F::IS_V6 && cx.config().services != 0;
    if translates && is_local && !nat::is_pod(&receiver) {
        match cx.balance(parsed, receiver.flags).map_err(Dropped::egress)? {
            Translated::No => {}
            Translated::Yes => is_local = find(cx, parsed.dst(), &mut receiver),
            Translated::Looped => return go_back::<F, C>(cx, parsed),
            Translated::Refused => {
                return icmp_error::port_unreachable::<F, C>(cx, parsed, Direction::Egress);
            }
        }
    }
    conntrack::track::<F, C>(cx, parsed, Side::Out).map_err(Dropped::egress)?;
    let is_local_pod = is_local && nat::is_pod(&receiver);
    if translates && !is_local_pod && nat::is_answer(parsed) {
        cx.restore(parsed).map_err(Dropped::egress)?;
    }
    if cx.config().host_routing == 0 || parsed.dst().is_link_local() {
        return Ok(to_stack(cx, parsed, sender));
    }
    if is_local_pod {
        ingress::deliver::<F, C>(cx, parsed, &receiver, Direction::Egress)
    } else if is_local {
        Ok(to_stack(cx, parsed, sender))
    } else {
        forward::<F, C>(cx, parsed, sender)
    }
}

/// Looks up a local address; by reference, as this is done twice and each answer would have a place on the stack.
#[inline(never)]
fn find<C: Context>(cx: &C, addr: &Addr, endpoint: &mut Endpoint) -> bool {
    match cx.endpoint(addr) {
        Some(found) => {
            *endpoint = found;
            true
        }
        None => false,
    }
}

/// Back into the pod it came from: it is a backend of the service that it uses.
#[inline(never)]
fn go_back<F: Family, C: Context>(cx: &mut C, parsed: &mut Parsed) -> Result<Verdict, Dropped> {
    let pod = cx
        .device(cx.ifindex())
        .and_then(|addr| cx.endpoint(&addr))
        .ok_or(Dropped::egress(DropReason::EpNotReady))?;
    if parsed.hop_limit <= 1 {
        return icmp_error::time_exceeded::<F, C>(cx, parsed, Direction::Egress);
    }
    if report::wants(cx, parsed) {
        sight(cx, parsed, pod.id, ObservationPoint::ToEndpoint, pod.ifindex);
    }
    report::count_forwarded(cx, Direction::Ingress);
    F::decrement_hop_limit(cx, parsed.hop_limit)
        .map_err(access)
        .map_err(Dropped::egress)?;
    ingress::address(cx, &pod).map_err(Dropped::egress)?;
    Ok(Verdict::Peer { ifindex: pod.ifindex })
}

/// To another node or the world.
#[inline(never)]
fn forward<F: Family, C: Context>(cx: &mut C, parsed: &mut Parsed, sender: u16) -> Result<Verdict, Dropped> {
    if parsed.hop_limit <= 1 {
        return icmp_error::time_exceeded::<F, C>(cx, parsed, Direction::Egress);
    }
    let (ifindex, next_hop) = match find_route(cx, parsed, &parsed.tuple.dst) {
        Route::Via { ifindex, next_hop } => (ifindex, next_hop),
        Route::TooBig { mtu } => {
            return icmp_error::too_big::<F, C>(cx, parsed, Direction::Egress, mtu);
        }
        Route::Stack => return Ok(to_stack(cx, parsed, sender)),
        Route::Failed => return Err(Dropped::egress(DropReason::FibLookupFailed)),
    };
    if ifindex == cx.config().host_ifindex {
        // The route to the node's own pods, and none of them has this address.
        return Err(Dropped::egress(DropReason::NoMatchingLocalContainerFound));
    }
    // Answers to who knows the pod by its own address keep it.
    if F::IS_V6 && cx.config().masquerade_v6 != 0 && !matches!(parsed.tracked.reason, TraceReason::Reply) {
        cx.masquerade(parsed, ifindex).map_err(Dropped::egress)?;
    }
    F::decrement_hop_limit(cx, parsed.hop_limit)
        .map_err(access)
        .map_err(Dropped::egress)?;
    if report::wants(cx, parsed) {
        sight(cx, parsed, sender, ObservationPoint::ToNetwork, ifindex);
    }
    report::count_forwarded(cx, Direction::Egress);
    cx.set_mark(abi::mark::DONE);
    Ok(Verdict::Neighbour { ifindex, next_hop })
}

/// A function of its own, as question and answer take a third of the kernel's stack.
#[inline(never)]
pub(crate) fn find_route<C: Context>(cx: &mut C, parsed: &Parsed, dst: &Addr) -> Route {
    let query = RouteQuery {
        src: parsed.src(),
        dst,
        flow_info: parsed.flow_info,
        ifindex: cx.ifindex(),
        len: parsed.wire_len(cx).min(u32::from(u16::MAX)) as u16,
        protocol: parsed.protocol,
        is_v6: parsed.is_v6,
    };
    cx.route(&query)
}

#[inline(always)]
fn to_stack<C: Context>(cx: &mut C, parsed: &Parsed, sender: u16) -> Verdict {
    if report::wants(cx, parsed) {
        sight(cx, parsed, sender, ObservationPoint::ToStack, 0);
    }
    report::count_forwarded(cx, Direction::Egress);
    Verdict::Stack
}

#[inline(always)]
fn sight<C: Context>(cx: &mut C, parsed: &Parsed, sender: u16, point: ObservationPoint, ifindex: u32) {
    cx.trace(
        parsed,
        Sighting {
            point,
            source: sender,
            dst_id: 0,
            ifindex,
        },
    );
}

#[inline(never)]
fn enter<F: Family, C: Context>(cx: &mut C) -> Result<Verdict, Dropped> {
    let mut parsed = Parsed::default();
    cx.parse::<F>(&mut parsed).map_err(Dropped::ingress)?;
    // With any other hop limit it comes from behind a router (RFC 4861 §6.1, §7.1) and is a packet like others.
    let is_link_only = F::IS_V6
        && parsed.is_control
        && icmp6::is_link_only(parsed.control)
        && parsed.hop_limit == icmp6::HOP_LIMIT;
    if is_link_only || parsed.dst().is_multicast() || parsed.dst().is_link_local() {
        // Between the node and its pod: no connection, no policy.
        return Ok(Verdict::Pass);
    }
    let pod = cx
        .endpoint(parsed.dst())
        .filter(|pod| pod.ifindex == cx.ifindex());
    let pod = pod.ok_or(Dropped::ingress(DropReason::NoMatchingLocalContainerFound))?;
    ingress::admit::<F, C>(cx, &mut parsed, &pod).map_err(Dropped::ingress)?;
    Ok(Verdict::Pass)
}
