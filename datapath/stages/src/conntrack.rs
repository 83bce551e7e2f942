//! Connection tracking (`reference/cilium.md` §2.4).
//!
//! A connection has one entry per endpoint of this node that takes part: [`CtKey::OUT`] at the side that sent the first
//! packet, [`CtKey::IN`] at the side that received it. A packet is looked up as "first direction" and as "reply"; the
//! likelier one first, so that a packet of a known connection costs one lookup.
//!
//! Later fragments have no ports. They are tracked by addresses under the protocol number of the fragment header, which
//! no whole packet has: so they are counted and aged, and never borrow or lend the state of a connection with ports.

use abi::{CtEntry, CtKey, DropReason, event::TraceReason};
use packet::{Ethernet, Family, Fragment, protocol, transport::tcp_flag};

use crate::{Context, parse::Parsed, related::Known, report::identity_of};

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

impl Default for Tracked {
    fn default() -> Self {
        Self {
            reason: TraceReason::Unknown,
            report: true,
        }
    }
}

/// Looks the packet up, updates or creates its entry, and puts the answer into `parsed`.
#[inline(always)]
pub fn track<F: Family, C: Context>(cx: &mut C, parsed: &mut Parsed, side: Side) -> Result<(), DropReason> {
    parsed.tuple.dir = side as u8;
    if parsed.is_control && F::is_error(parsed.control) {
        let known = cx.is_known::<F>(parsed);
        let reason = if matches!(known, Known::No) {
            TraceReason::New
        } else {
            TraceReason::Related
        };
        parsed.tracked = Tracked { reason, report: true };
        parsed.is_translated = matches!(known, Known::Translated);
        return Ok(());
    }
    cx.look_up(parsed)
}

/// Looks up a packet with a key of its own, updates or creates the entry.
#[inline(always)]
pub fn look_up<C: Context>(cx: &mut C, parsed: &mut Parsed) -> Result<(), DropReason> {
    let tuple = &parsed.tuple;
    // A client's port is usually the higher one: then this is the first direction.
    let is_forward = (is_tcp(parsed) && is_first(parsed.tcp_flags))
        || u16::from_be_bytes(tuple.src_port) >= u16::from_be_bytes(tuple.dst_port);
    if !find(cx, parsed, is_forward) && !find(cx, parsed, !is_forward) {
        begin(cx, parsed)?;
    }
    Ok(())
}

/// Looks for a connection in which the packet goes this way, and counts it there. A function of its own, called twice.
#[inline(never)]
fn find<C: Context>(cx: &mut C, parsed: &mut Parsed, is_forward: bool) -> bool {
    let mut seen = Seen::new(cx, parsed);
    let key = if is_forward {
        parsed.tuple
    } else {
        turned(&parsed.tuple)
    };
    match update(cx, &key, &mut seen, is_forward) {
        Some(tracked) => {
            parsed.tracked = tracked;
            parsed.is_translated = seen.is_translated;
            true
        }
        None => false,
    }
}

/// A new connection.
#[inline(never)]
fn begin<C: Context>(cx: &mut C, parsed: &mut Parsed) -> Result<(), DropReason> {
    let mut entry = CtEntry {
        src_identity: identity_of(cx, parsed.src()),
        dst_identity: identity_of(cx, parsed.dst()),
        flags: if parsed.is_translated {
            CtEntry::TRANSLATED
        } else {
            0
        },
        ..CtEntry::default()
    };
    Seen::new(cx, parsed).start(&mut entry);
    cx.add_connection(&parsed.tuple, &entry)
        .map_err(|_| DropReason::CtMapInsertionFailed)?;
    parsed.tracked = Tracked {
        reason: TraceReason::New,
        report: true,
    };
    Ok(())
}

#[inline(always)]
fn update<C: Context>(cx: &mut C, key: &CtKey, seen: &mut Seen, is_forward: bool) -> Option<Tracked> {
    cx.connection(key, |entry| {
        let is_stale = entry.expires <= seen.now;
        let reopens = seen.opens() && entry.flags & (CtEntry::TX_CLOSING | CtEntry::RX_CLOSING) != 0;
        if is_stale || reopens {
            // Nothing of it holds any more, not even who is behind the addresses: the caller makes a new entry.
            return None;
        }
        if seen.is_translated {
            entry.flags |= CtEntry::TRANSLATED;
        }
        seen.is_translated = entry.flags & CtEntry::TRANSLATED != 0;
        let report = seen.continues(entry, is_forward);
        let reason = if is_forward {
            TraceReason::Established
        } else {
            TraceReason::Reply
        };
        Some(Tracked { reason, report })
    })?
}

/// What conntrack looks at in a packet, and in the constants: all of these would take a fifth of the stack.
struct Seen {
    now: u64,
    tcp: u64,
    syn: u64,
    close: u64,
    any: u64,
    interval: u64,
    reported_flags: u8,
    bytes: u32,
    tcp_flags: u8,
    is_tcp: bool,
    is_translated: bool,
}

impl Seen {
    #[inline(always)]
    fn new<C: Context>(cx: &C, parsed: &Parsed) -> Self {
        let config = cx.config();
        Self {
            now: cx.now(),
            tcp: config.ct_tcp,
            syn: config.ct_syn,
            close: config.ct_close,
            any: config.ct_any,
            interval: config.monitor_interval,
            reported_flags: config.monitor_flags,
            bytes: cx.len().saturating_sub(Ethernet::LEN),
            tcp_flags: parsed.tcp_flags,
            is_tcp: is_tcp(parsed),
            is_translated: parsed.is_translated,
        }
    }

    /// Whether this is the first packet of a TCP connection.
    #[inline(always)]
    fn opens(&self) -> bool {
        self.is_tcp && is_first(self.tcp_flags)
    }

    #[inline(always)]
    fn ends(&self) -> bool {
        self.is_tcp && self.tcp_flags & (tcp_flag::FIN | tcp_flag::RST) != 0
    }

    /// Fills the entry of a new connection.
    #[inline(always)]
    fn start(&self, entry: &mut CtEntry) {
        entry.packets = 1;
        entry.bytes = u64::from(self.bytes);
        entry.tx_report = self.now;
        entry.tx_flags = self.tcp_flags;
        self.age(entry, true);
    }

    /// Counts a further packet; the answer is whether it is to be reported (§2.3): a TCP flag not seen before in this
    /// direction, FIN or RST, or nothing reported for an interval.
    #[inline(always)]
    fn continues(&self, entry: &mut CtEntry, is_forward: bool) -> bool {
        entry.packets = entry.packets.wrapping_add(1);
        entry.bytes = entry.bytes.wrapping_add(u64::from(self.bytes));
        self.age(entry, is_forward);
        let (flags, last) = if is_forward {
            (&mut entry.tx_flags, &mut entry.tx_report)
        } else {
            (&mut entry.rx_flags, &mut entry.rx_report)
        };
        let fresh = self.tcp_flags & !*flags;
        *flags |= self.tcp_flags;
        let report =
            fresh & self.reported_flags != 0 || self.ends() || self.now.wrapping_sub(*last) >= self.interval;
        if report {
            *last = self.now;
        }
        report
    }

    /// Moves the TCP state on and sets the lifetime.
    #[inline(always)]
    fn age(&self, entry: &mut CtEntry, is_forward: bool) {
        let lifetime = if !self.is_tcp {
            self.any
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
                self.close
            } else if entry.flags & CtEntry::SEEN_NON_SYN != 0 {
                self.tcp
            } else {
                self.syn
            }
        };
        entry.expires = self.now.saturating_add(lifetime);
    }
}

#[inline(always)]
fn is_tcp(parsed: &Parsed) -> bool {
    parsed.protocol == protocol::TCP && !matches!(parsed.fragment, Fragment::Later)
}

/// Whether these are the flags of the first packet of a TCP connection.
#[inline(always)]
fn is_first(flags: u8) -> bool {
    flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN
}

/// Key of the same connection for a packet of the other direction: the other way round, begun at the other side.
///
/// In words: byte by byte, the lookup that follows would wait for each of them.
#[inline(always)]
pub fn turned(key: &CtKey) -> CtKey {
    let [src_high, src_low, dst_high, dst_low, rest]: [u64; 5] = zerocopy::transmute!(*key);
    let [ports, rest]: [u32; 2] = zerocopy::transmute!(rest);
    let rest: u64 = zerocopy::transmute!([ports.rotate_left(16), rest ^ OTHER_SIDE]);
    zerocopy::transmute!([dst_high, dst_low, src_high, src_low, rest])
}

/// What differs in the last word of the keys of the two sides: [`CtKey::OUT`] or [`CtKey::IN`], behind the protocol.
const OTHER_SIDE: u32 = u32::from_ne_bytes([0, CtKey::OUT ^ CtKey::IN, 0, 0]);
