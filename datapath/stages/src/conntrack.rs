//! Connection tracking (`reference/cilium.md` §2.4).
//!
//! A connection has one entry per endpoint of this node that takes part: [`CtKey::OUT`] at the side that sent the first
//! packet, [`CtKey::IN`] at the side that received it. A packet is looked up as "first direction" and as "reply"; the
//! likelier one first, so that a packet of a known connection costs one lookup.
//!
//! Later fragments have no ports. They are tracked by addresses under the protocol number of the fragment header, which
//! no whole packet has: so they are counted and aged, and never borrow or lend the state of a connection with ports.

use abi::{CtEntry, CtKey, DropReason, event::TraceReason};
use packet::{Family, Fragment, protocol, transport::tcp_flag};

use crate::{Env, Tables, parse::Parsed};

/// Which side of a connection is looked at.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The endpoint sends.
    Out = CtKey::OUT,
    /// The endpoint receives.
    In = CtKey::IN,
}

/// What conntrack says about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// State of the connection, as events name it.
    pub reason: TraceReason,
    /// Whether this packet is to be reported at aggregation levels that ask conntrack.
    pub report: bool,
}

/// Looks the packet up, updates or creates its entry.
#[inline(always)]
pub fn track<F: Family, P, T: Tables, E: Env<P>>(
    tables: &mut T,
    env: &mut E,
    parsed: &Parsed<F>,
    side: Side,
    bytes: u32,
) -> Result<Tracked, DropReason> {
    let packet = Seen {
        now: env.now(),
        bytes,
        tcp_flags: parsed.tcp_flags,
        is_tcp: parsed.protocol == protocol::TCP && !matches!(parsed.fragment, Fragment::Later),
    };
    // A client's port is usually the higher one: then this is the first direction.
    let first_is_forward = packet.opens() || parsed.src_port > parsed.dst_port;
    let mut key = if first_is_forward { forward_key(parsed, side) } else { reverse_key(parsed, side) };
    if let Some(tracked) = update(tables, env, &key, &packet, first_is_forward) {
        return Ok(tracked);
    }
    miss(tables, env, &mut key, &packet, first_is_forward)
}

/// The first guess was wrong: the other direction, else a new connection.
#[inline(never)]
fn miss<P, T: Tables, E: Env<P>>(
    tables: &mut T,
    env: &mut E,
    key: &mut CtKey,
    packet: &Seen,
    first_was_forward: bool,
) -> Result<Tracked, DropReason> {
    turn(key);
    if let Some(tracked) = update(tables, env, key, packet, !first_was_forward) {
        return Ok(tracked);
    }
    if first_was_forward {
        turn(key);
    }
    let mut entry = CtEntry::default();
    packet.start(&mut entry, env.config());
    tables.add_connection(key, &entry).map_err(|_| DropReason::CtMapInsertionFailed)?;
    Ok(Tracked { reason: TraceReason::New, report: true })
}

#[inline(always)]
fn update<P, T: Tables, E: Env<P>>(
    tables: &mut T,
    env: &mut E,
    key: &CtKey,
    packet: &Seen,
    is_forward: bool,
) -> Option<Tracked> {
    let config = env.config();
    tables.connection(key, |entry| {
        let is_stale = entry.expires <= packet.now;
        let reopens = packet.opens() && entry.flags & (CtEntry::TX_CLOSING | CtEntry::RX_CLOSING) != 0;
        if is_stale || reopens {
            // In the other direction this is no reply any more: the caller makes a new entry.
            if !is_forward {
                return None;
            }
            *entry = CtEntry::default();
            packet.start(entry, config);
            return Some(Tracked { reason: TraceReason::New, report: true });
        }
        let report = packet.continues(entry, config, is_forward);
        let reason = if is_forward { TraceReason::Established } else { TraceReason::Reply };
        Some(Tracked { reason, report })
    })?
}

/// What conntrack looks at in a packet.
struct Seen {
    now: u64,
    bytes: u32,
    tcp_flags: u8,
    is_tcp: bool,
}

impl Seen {
    /// Whether this is the first packet of a TCP connection.
    #[inline(always)]
    fn opens(&self) -> bool {
        self.is_tcp && self.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN
    }

    #[inline(always)]
    fn ends(&self) -> bool {
        self.is_tcp && self.tcp_flags & (tcp_flag::FIN | tcp_flag::RST) != 0
    }

    /// Fills the entry of a new connection.
    #[inline(always)]
    fn start(&self, entry: &mut CtEntry, config: &abi::Config) {
        entry.packets = 1;
        entry.bytes = u64::from(self.bytes);
        entry.tx_report = self.now;
        entry.tx_flags = self.tcp_flags;
        self.age(entry, config, true);
    }

    /// Counts a further packet; the answer is whether it is to be reported (§2.3): a TCP flag not seen before in this
    /// direction, FIN or RST, or nothing reported for an interval.
    #[inline(always)]
    fn continues(&self, entry: &mut CtEntry, config: &abi::Config, is_forward: bool) -> bool {
        entry.packets = entry.packets.wrapping_add(1);
        entry.bytes = entry.bytes.wrapping_add(u64::from(self.bytes));
        self.age(entry, config, is_forward);
        let (flags, last) = if is_forward {
            (&mut entry.tx_flags, &mut entry.tx_report)
        } else {
            (&mut entry.rx_flags, &mut entry.rx_report)
        };
        let fresh = self.tcp_flags & !*flags;
        *flags |= self.tcp_flags;
        let report = fresh & config.monitor_flags != 0
            || self.ends()
            || self.now.wrapping_sub(*last) >= config.monitor_interval;
        if report {
            *last = self.now;
        }
        report
    }

    /// Moves the TCP state on and sets the lifetime.
    #[inline(always)]
    fn age(&self, entry: &mut CtEntry, config: &abi::Config, is_forward: bool) {
        let lifetime = if !self.is_tcp {
            config.ct_any
        } else {
            if !self.opens() {
                entry.flags |= CtEntry::SEEN_NON_SYN;
            }
            if self.ends() {
                let both = CtEntry::TX_CLOSING | CtEntry::RX_CLOSING;
                entry.flags |= if self.tcp_flags & tcp_flag::RST != 0 {
                    both
                } else if is_forward {
                    CtEntry::TX_CLOSING
                } else {
                    CtEntry::RX_CLOSING
                };
            }
            let closing = entry.flags & (CtEntry::TX_CLOSING | CtEntry::RX_CLOSING);
            if closing == CtEntry::TX_CLOSING | CtEntry::RX_CLOSING {
                config.ct_close
            } else if entry.flags & CtEntry::SEEN_NON_SYN != 0 {
                config.ct_tcp
            } else {
                config.ct_syn
            }
        };
        entry.expires = self.now.saturating_add(lifetime);
    }
}

/// Key under which a packet is the first direction of a connection.
#[inline(always)]
pub fn forward_key<F: Family>(parsed: &Parsed<F>, side: Side) -> CtKey {
    CtKey {
        src: parsed.src,
        dst: parsed.dst,
        src_port: parsed.src_port,
        dst_port: parsed.dst_port,
        proto: tracked_protocol(parsed),
        dir: side as u8,
        pad: [0; 2],
    }
}

/// Key under which a packet is a reply: the other way round, begun at the other side.
#[inline(always)]
pub fn reverse_key<F: Family>(parsed: &Parsed<F>, side: Side) -> CtKey {
    CtKey {
        src: parsed.dst,
        dst: parsed.src,
        src_port: parsed.dst_port,
        dst_port: parsed.src_port,
        proto: tracked_protocol(parsed),
        dir: side as u8 ^ 1,
        pad: [0; 2],
    }
}

/// Makes the one of the other.
#[inline(always)]
pub(crate) fn turn(key: &mut CtKey) {
    core::mem::swap(&mut key.src, &mut key.dst);
    core::mem::swap(&mut key.src_port, &mut key.dst_port);
    key.dir ^= 1;
}

#[inline(always)]
fn tracked_protocol<F: Family>(parsed: &Parsed<F>) -> u8 {
    if matches!(parsed.fragment, Fragment::Later) { protocol::FRAGMENT } else { parsed.protocol }
}
