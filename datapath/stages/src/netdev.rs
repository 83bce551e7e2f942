//! The programs of native devices and of the node's own device.

use abi::{Direction, DropReason, Endpoint, event::ObservationPoint, tables::bucket};
use packet::{
    Ethernet, Family, V4, V6, ethernet::ether_type, icmp6, ip::Scope, protocol, transport::tcp_flag,
};

use crate::{
    Context, Verdict, ingress,
    parse::Parsed,
    pod::is_done,
    rate::Rate,
    report::{self, AGGREGATE_CONNECTIONS, Sighting},
    source,
    verdict::Dropped,
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

/// Program `to_netdev`: what leaves the node through the stack. It is only watched.
#[inline(always)]
pub fn to_netdev<C: Context>(cx: &mut C) -> Result<Verdict, Dropped> {
    if !is_done(cx) {
        match cx.load::<Ethernet>(0) {
            Ok(ethernet) if ethernet.ether_type == ether_type::IPV6 && V6::is_enabled(&cx.config()) => {
                watch::<V6, C>(cx);
            }
            Ok(ethernet) if ethernet.ether_type == ether_type::IPV4 && V4::is_enabled(&cx.config()) => {
                watch::<V4, C>(cx);
            }
            _ => {}
        }
    }
    Ok(Verdict::Pass)
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
        Some(endpoint) if endpoint.flags & Endpoint::HOST == 0 => endpoint,
        _ => return Ok(Verdict::Pass),
    };
    is_valid.map_err(Dropped::ingress)?;
    source::from_outside(cx, parsed.src()).map_err(Dropped::ingress)?;
    if cx.config().host_routing == 0 {
        return Ok(Verdict::Pass);
    }
    ingress::deliver::<F, C>(cx, &mut parsed, &pod, Direction::Ingress)
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
        Some(pod) if pod.flags & Endpoint::HOST == 0 => {
            ingress::address(cx, &pod).map_err(Dropped::ingress)?;
            Ok(Verdict::Device { ifindex: pod.ifindex })
        }
        _ => Err(Dropped::ingress(DropReason::NoMatchingLocalContainerFound)),
    }
}

#[inline(never)]
fn watch<F: Family, C: Context>(cx: &mut C) {
    report::count_forwarded(cx, Direction::Egress);
    // What the stack sends is well formed, or not ours to judge.
    let mut parsed = Parsed::default();
    if cx.parse::<F>(&mut parsed).is_err() {
        return;
    }
    if F::IS_V6 && parsed.is_control && icmp6::is_link_only(parsed.control) {
        return;
    }
    if cx.config().monitor_aggregation >= AGGREGATE_CONNECTIONS {
        // Nobody tracks the node's own connections: of TCP only the beginning and the end are reported.
        let is_edge = parsed.tcp_flags & (tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST) != 0;
        if (parsed.protocol == protocol::TCP && !is_edge) || !HOST_TRACES.take(cx) {
            return;
        }
    }
    node_trace(cx, &parsed, ObservationPoint::ToNetwork);
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
