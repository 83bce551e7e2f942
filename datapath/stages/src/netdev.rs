//! The programs of native devices and of the node's own device.

use abi::{Config, Direction, DropReason, event::ObservationPoint, tables::bucket};
use packet::{
    Ethernet, Family, V4, V6, ethernet::ether_type, icmp6, ip::Scope, protocol, transport::tcp_flag,
};

use crate::{
    Context, Route, Verdict, icmp_error, ingress,
    nat::{self, Translated},
    parse::Parsed,
    pod::{find_route, is_done},
    rate::Rate,
    report::{self, AGGREGATE_CONNECTIONS, Sighting},
    source,
    verdict::{Dropped, access},
};

/// Trace events about the node's own traffic: 100 per second and CPU, 200 at once.
const HOST_TRACES: Rate = Rate {
    slot: bucket::HOST_TRACES,
    interval: 10_000_000,
    burst: 200,
};

/// Program `from_netdev`: what comes from other nodes and the world.
#[inline(always)]
pub fn from_netdev<C: Context>(cx: &mut C) -> Result<Verdict, Dropped> {
    if cx.is_tagged() {
        // For a VLAN device on top of this one.
        return Ok(Verdict::Pass);
    }
    let result = match cx.load::<Ethernet>(0) {
        Ok(ethernet) if ethernet.ether_type == ether_type::IPV6 && V6::is_enabled(&cx.config()) => {
            arrive::<V6, C>(cx)
        }
        Ok(ethernet) if ethernet.ether_type == ether_type::IPV4 && V4::is_enabled(&cx.config()) => {
            arrive::<V4, C>(cx)
        }
        _ => return Ok(Verdict::Pass),
    };
    report::conclude(cx, result)
}

/// Program `to_netdev`: what leaves the node through the stack. It is watched, and translated where it must be.
#[inline(always)]
pub fn to_netdev<C: Context>(cx: &mut C) -> Result<Verdict, Dropped> {
    if is_done(cx) {
        return Ok(Verdict::Pass);
    }
    let result = match cx.load::<Ethernet>(0) {
        Ok(ethernet) if ethernet.ether_type == ether_type::IPV6 && V6::is_enabled(&cx.config()) => {
            watch::<V6, C>(cx)
        }
        Ok(ethernet) if ethernet.ether_type == ether_type::IPV4 && V4::is_enabled(&cx.config()) => {
            watch::<V4, C>(cx)
        }
        _ => return Ok(Verdict::Pass),
    };
    report::conclude(cx, result)
}

/// Program `from_host`: what the stack routes towards the pods of this node.
#[inline(always)]
pub fn from_host<C: Context>(cx: &mut C) -> Result<Verdict, Dropped> {
    let result = match cx.load::<Ethernet>(0) {
        Ok(ethernet) if ethernet.ether_type == ether_type::IPV6 && V6::is_enabled(&cx.config()) => {
            hand_over::<V6, C>(cx)
        }
        Ok(ethernet) if ethernet.ether_type == ether_type::IPV4 && V4::is_enabled(&cx.config()) => {
            hand_over::<V4, C>(cx)
        }
        _ => return Ok(Verdict::Pass),
    };
    report::conclude(cx, result)
}

#[inline(never)]
fn arrive<F: Family, C: Context>(cx: &mut C) -> Result<Verdict, Dropped> {
    let mut parsed = Parsed::default();
    let is_valid = cx.parse::<F>(&mut parsed);
    if report::wants_arrivals(cx) && is_valid.is_ok() {
        node_trace(cx, &parsed, ObservationPoint::FromNetwork);
    }
    // What is for the node or for nobody here is left alone, whatever it looks like.
    let pod = match cx.endpoint(parsed.dst()) {
        Some(endpoint) if nat::is_pod(&endpoint) => endpoint,
        Some(own) if F::IS_V6 && is_valid.is_ok() && translates(&cx.config()) => {
            return arrive_translated::<F, C>(cx, &mut parsed, own.flags);
        }
        _ => return Ok(Verdict::Pass),
    };
    is_valid.map_err(Dropped::ingress)?;
    source::from_outside(cx, parsed.src()).map_err(Dropped::ingress)?;
    if cx.config().host_routing == 0 {
        return Ok(Verdict::Pass);
    }
    ingress::deliver::<F, C>(cx, &mut parsed, &pod, Direction::Ingress)
}

#[inline(always)]
fn translates(config: &Config) -> bool {
    config.services != 0 || config.masquerade_v6 != 0
}

/// A packet to the node's own address or that of a service, which may be meant for somebody else.
#[inline(never)]
fn arrive_translated<F: Family, C: Context>(
    cx: &mut C,
    parsed: &mut Parsed,
    flags: u16,
) -> Result<Verdict, Dropped> {
    match cx.inbound(parsed, flags).map_err(Dropped::ingress)? {
        Translated::No | Translated::Looped => return Ok(Verdict::Pass),
        Translated::Refused => {
            return icmp_error::port_unreachable::<F, C>(cx, parsed, Direction::Ingress);
        }
        Translated::Yes => {}
    }
    match cx.endpoint(parsed.dst()) {
        Some(pod) if nat::is_pod(&pod) => {
            if cx.config().host_routing == 0 {
                return Ok(Verdict::Pass);
            }
            parsed.growth = parsed.growth.min(0);
            ingress::deliver::<F, C>(cx, parsed, &pod, Direction::Ingress)
        }
        // A process of the node is the backend, or asked for what comes now.
        Some(_) => Ok(Verdict::Pass),
        None => pass_on::<F, C>(cx, parsed),
    }
}

/// To a backend on another node, or back to a client.
#[inline(always)]
fn pass_on<F: Family, C: Context>(cx: &mut C, parsed: &mut Parsed) -> Result<Verdict, Dropped> {
    if parsed.hop_limit <= 1 {
        return icmp_error::time_exceeded::<F, C>(cx, parsed, Direction::Ingress);
    }
    // What has been done here is not to be looked at again on the way out.
    let (ifindex, next_hop) = match find_route(cx, parsed, &parsed.tuple.dst) {
        Route::Via { ifindex, next_hop } if cx.config().host_routing != 0 => (ifindex, next_hop),
        Route::TooBig { mtu } => {
            let mtu = mtu.saturating_add_signed(i32::from(parsed.growth.max(0)).wrapping_neg());
            return icmp_error::too_big::<F, C>(cx, parsed, Direction::Ingress, mtu);
        }
        Route::Failed => return Err(Dropped::ingress(DropReason::FibLookupFailed)),
        Route::Via { .. } | Route::Stack => {
            tell(cx, parsed)?;
            cx.set_mark(abi::mark::DONE);
            return Ok(Verdict::Stack);
        }
    };
    tell(cx, parsed)?;
    F::decrement_hop_limit(cx, parsed.hop_limit)
        .map_err(access)
        .map_err(Dropped::ingress)?;
    report::count_forwarded(cx, Direction::Egress);
    cx.set_mark(abi::mark::DONE);
    Ok(Verdict::Neighbour { ifindex, next_hop })
}

#[inline(always)]
fn tell<C: Context>(cx: &mut C, parsed: &mut Parsed) -> Result<(), Dropped> {
    if parsed.growth <= 0 {
        return Ok(());
    }
    cx.tell(parsed).map_err(Dropped::ingress)
}

#[inline(never)]
fn hand_over<F: Family, C: Context>(cx: &mut C) -> Result<Verdict, Dropped> {
    let mut parsed = Parsed::default();
    cx.parse::<F>(&mut parsed).map_err(Dropped::ingress)?;
    if parsed.dst().is_multicast() || parsed.dst().is_link_local() {
        return Ok(Verdict::Pass);
    }
    if report::wants_arrivals(cx) {
        node_trace(cx, &parsed, ObservationPoint::FromHost);
    }
    match cx.endpoint(parsed.dst()) {
        Some(pod) if nat::is_pod(&pod) => {
            ingress::address(cx, &pod).map_err(Dropped::ingress)?;
            Ok(Verdict::Device { ifindex: pod.ifindex })
        }
        _ => Err(Dropped::ingress(DropReason::NoMatchingLocalContainerFound)),
    }
}

#[inline(never)]
fn watch<F: Family, C: Context>(cx: &mut C) -> Result<Verdict, Dropped> {
    // What the stack sends is well formed, or not ours to judge.
    let mut parsed = Parsed::default();
    let is_valid = cx.parse::<F>(&mut parsed).is_ok();
    let is_link_only = F::IS_V6 && parsed.is_control && icmp6::is_link_only(parsed.control);
    if F::IS_V6 && is_valid && !is_link_only && translates(&cx.config()) {
        cx.outbound(&mut parsed).map_err(Dropped::egress)?;
    }
    report::count_forwarded(cx, Direction::Egress);
    if !is_valid || is_link_only {
        return Ok(Verdict::Pass);
    }
    if cx.config().monitor_aggregation >= AGGREGATE_CONNECTIONS {
        // Nobody tracks the node's own connections: of TCP only the beginning and the end are reported.
        let is_edge = parsed.tcp_flags & (tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST) != 0;
        if (parsed.protocol == protocol::TCP && !is_edge) || !HOST_TRACES.take(cx) {
            return Ok(Verdict::Pass);
        }
    }
    node_trace(cx, &parsed, ObservationPoint::ToNetwork);
    Ok(Verdict::Pass)
}

/// A point where the node itself is the observer, and conntrack was not asked.
#[inline(always)]
fn node_trace<C: Context>(cx: &mut C, parsed: &Parsed, point: ObservationPoint) {
    let ifindex = cx.ifindex();
    cx.trace(
        parsed,
        Sighting {
            point,
            source: 0,
            dst_id: 0,
            ifindex,
        },
    );
}
