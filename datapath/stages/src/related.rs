//! ICMP errors belong to the connection of the packet they tell about.

use abi::{Addr, CtEntry, CtKey, event::TraceReason};
use packet::{Family, Fragment, Packet, icmp6::Icmp6, protocol, transport::Ports};

use crate::{
    Env, Tables,
    conntrack::{Side, Tracked, turn},
    parse::{Parsed, has_ports},
};

/// Matches an error message to a connection by the packet inside. An error about nothing that is known is a packet of
/// its own, which is reported and leaves no entry, so that a flood of errors cannot push connections out.
#[inline(never)]
pub fn track_error<F: Family, P: Packet, T: Tables, E: Env<P>>(
    packet: &P,
    tables: &mut T,
    env: &E,
    parsed: &Parsed<F>,
    side: Side,
) -> Tracked {
    let now = env.now();
    let is_known = |tables: &mut T, key: &CtKey| {
        tables.connection(key, |entry: &mut CtEntry| entry.expires > now).unwrap_or(false)
    };
    let Some(mut key) = inner_key(packet, parsed, side) else {
        return Tracked { reason: TraceReason::New, report: true };
    };
    let mut known = is_known(tables, &key);
    if !known {
        turn(&mut key);
        known = is_known(tables, &key);
    }
    Tracked { reason: if known { TraceReason::Related } else { TraceReason::New }, report: true }
}

/// Key of the packet inside, turned: the error travels against it, as a reply does.
#[inline(always)]
fn inner_key<F: Family, P: Packet>(packet: &P, parsed: &Parsed<F>, side: Side) -> Option<CtKey> {
    let offset = parsed.offset.wrapping_add(Icmp6::LEN);
    let header: F::Header = packet.load(offset).ok()?;
    let (inner_src, inner_dst): (Addr, Addr) = (F::src(&header), F::dst(&header));
    let chain = F::chain(packet, offset, &header).ok()?;
    let mut key = CtKey {
        src: inner_dst,
        dst: inner_src,
        src_port: [0; 2],
        dst_port: [0; 2],
        proto: chain.protocol,
        dir: side as u8,
        pad: [0; 2],
    };
    if matches!(chain.fragment, Fragment::Later) {
        key.proto = protocol::FRAGMENT;
    } else if chain.protocol == protocol::TCP || has_ports(chain.protocol) {
        let ports: Ports = packet.load(chain.offset).ok()?;
        key.src_port = ports.dst;
        key.dst_port = ports.src;
    } else if chain.protocol == F::CONTROL {
        let icmp: Icmp6 = packet.load(chain.offset).ok()?;
        if icmp.kind == F::ECHO_REQUEST {
            key.dst_port = icmp.echo_id();
        } else if icmp.kind == F::ECHO_REPLY {
            key.src_port = icmp.echo_id();
        }
    }
    Some(key)
}
