//! Pairs of entries: how they are made, how they find a free port, and how long they live.

use abi::{DropReason, NatEntry, NatKey};
use packet::{Fragment, protocol, transport::tcp_flag};

use super::{NotStored, REFRESH, Workspace, hash, is_ours};
use crate::{Context, parse::Parsed, service::scale};

/// How many ports are tried before a connection is given up.
const TRIES: u32 = 32;

/// What a packet means for the life of its pair. Lifetimes are those of conntrack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    pub(crate) now: u64,
    tcp: u64,
    syn: u64,
    close: u64,
    any: u64,
    flags: u8,
    is_tcp: bool,
}

impl Life {
    #[inline(always)]
    pub(crate) fn of<C: Context>(cx: &C, parsed: &Parsed) -> Self {
        let config = cx.config();
        Self {
            now: cx.now(),
            tcp: config.ct_tcp,
            syn: config.ct_syn,
            close: config.ct_close,
            any: config.ct_any,
            flags: parsed.tcp_flags,
            is_tcp: parsed.protocol == protocol::TCP && !matches!(parsed.fragment, Fragment::Later),
        }
    }

    /// A packet of a connection that has an entry: `None` when the entry is none any more, else whether it was written.
    #[inline(always)]
    pub(crate) fn goes_on(&self, entry: &mut NatEntry) -> Option<bool> {
        const CLOSING: u32 = NatEntry::CLIENT_CLOSING | NatEntry::SERVER_CLOSING;
        if entry.expires <= self.now {
            return None;
        }
        let mut flags = entry.flags;
        if self.opens() && flags & CLOSING != 0 && flags & NatEntry::REPLY == 0 {
            if flags & NatEntry::SERVICE != 0 {
                // A new connection from the port of an old one: balanced anew.
                return None;
            }
            flags &= !(CLOSING | NatEntry::ESTABLISHED);
        }
        let lifetime = self.lifetime(&mut flags);
        let expires = self.now.saturating_add(lifetime);
        let is_due = flags != entry.flags
            || expires > entry.expires.saturating_add(REFRESH)
            || expires < entry.expires;
        if is_due {
            entry.flags = flags;
            entry.expires = expires;
        }
        Some(is_due)
    }

    #[inline(always)]
    fn opens(&self) -> bool {
        self.is_tcp && self.flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN
    }

    /// Adds what the packet tells to the flags of an entry; how long the pair lives from now on.
    #[inline(always)]
    fn lifetime(&self, flags: &mut u32) -> u64 {
        const CLOSING: u32 = NatEntry::CLIENT_CLOSING | NatEntry::SERVER_CLOSING;
        if !self.is_tcp {
            return self.any;
        }
        if !self.opens() {
            *flags |= NatEntry::ESTABLISHED;
        }
        if self.flags & tcp_flag::RST != 0 {
            *flags |= CLOSING;
        } else if self.flags & tcp_flag::FIN != 0 {
            *flags |= if *flags & NatEntry::REPLY == 0 {
                NatEntry::CLIENT_CLOSING
            } else {
                NatEntry::SERVER_CLOSING
            };
        }
        if *flags & CLOSING == CLOSING {
            self.close
        } else if *flags & NatEntry::DSR != 0 && *flags & CLOSING != 0 {
            // The other side's FIN never comes by here.
            self.syn
        } else if *flags & NatEntry::ESTABLISHED != 0 {
            self.tcp
        } else {
            self.syn
        }
    }
}

/// Whether the pair of the packet in `work.key` is there and the packet changes nothing about it; then its entry is in
/// `work.entry`.
#[inline(always)]
pub(crate) fn stands<C: Context>(cx: &mut C, work: &mut Workspace, parsed: &Parsed) -> bool {
    let life = Life::of(cx, parsed);
    let Workspace { key, entry, .. } = work;
    cx.nat(key, |found| {
        *entry = *found;
        life.goes_on(entry) == Some(false)
    }) == Some(true)
}

/// Key of the packets that come back.
#[inline(always)]
pub(crate) fn turn_key(key: &mut NatKey) {
    core::mem::swap(&mut key.src, &mut key.dst);
    core::mem::swap(&mut key.src_port, &mut key.dst_port);
}

/// Writes the other half of a pair into the workspace.
#[inline(never)]
fn other_half(work: &mut Workspace) {
    let Workspace {
        key,
        entry,
        back_key,
        back,
        ..
    } = work;
    back_key.src = entry.dst;
    back_key.dst = entry.src;
    back_key.src_port = entry.dst_port;
    back_key.dst_port = entry.src_port;
    back_key.proto = key.proto;
    back_key.pad = [0; 3];
    back.src = key.dst;
    back.dst = key.src;
    back.src_port = key.dst_port;
    back.dst_port = key.src_port;
    back.flags = entry.flags ^ NatEntry::REPLY;
    back.created = entry.created;
    back.expires = entry.expires;
}

/// Gives the other half the state of this one, or makes it again. `false`: its key belongs to another connection by now.
#[inline(never)]
pub(crate) fn renew_other<C: Context>(cx: &mut C, work: &mut Workspace, now: u64) -> bool {
    other_half(work);
    let Workspace { back_key, back, .. } = work;
    let is_own = cx.nat(back_key, |found| {
        if is_same(found, back) {
            found.flags |= back.flags;
            found.expires = back.expires;
            return Some(true);
        }
        (found.expires > now).then_some(false)
    });
    match is_own {
        Some(Some(is_own)) => is_own,
        // Expired, or not there.
        Some(None) => cx.add_nat(back_key, back, true).is_ok(),
        // Should it have been taken in this moment, or there be no room, the next packet sees it.
        None => cx.add_nat(back_key, back, false).is_ok(),
    }
}

#[inline(always)]
fn is_same(one: &NatEntry, other: &NatEntry) -> bool {
    super::is_same(&one.dst, &other.dst)
        && one.dst_port == other.dst_port
        && super::is_same(&one.src, &other.src)
        && one.src_port == other.src_port
}

/// Stores a new pair: `work.key` becomes `work.entry`, whose addresses, ports and flags are filled in.
#[inline(never)]
pub(crate) fn add<C: Context>(cx: &mut C, work: &mut Workspace, parsed: &Parsed) -> Result<(), DropReason> {
    begin(cx, work, parsed);
    other_half(work);
    cx.add_nat(&work.back_key, &work.back, true)
        .and_then(|()| cx.add_nat(&work.key, &work.entry, true))
        .map_err(|_| DropReason::NoMappingForNatMasquerade)
}

/// The same for an entry with another source address: looks for a port that is free on it, the packet's own first.
#[inline(never)]
pub(crate) fn add_with_port<C: Context>(
    cx: &mut C,
    work: &mut Workspace,
    parsed: &Parsed,
) -> Result<(), DropReason> {
    begin(cx, work, parsed);
    let [first, last] = cx.config().nat_ports;
    let count = u32::from(last).saturating_sub(u32::from(first)).saturating_add(1);
    let now = work.entry.created;
    let mut number = hash::connection(&work.key);
    for attempt in 0..TRIES {
        if attempt == 0 && is_ours(cx, work.key.src_port) {
            work.entry.src_port = work.key.src_port;
        } else {
            number = hash::next(number);
            let port = u32::from(first).wrapping_add(scale(number, count)) as u16;
            work.entry.src_port = port.to_be_bytes();
        }
        other_half(work);
        if take(cx, work, now) {
            return cx
                .add_nat(&work.key, &work.entry, true)
                .map_err(|_| DropReason::NoMappingForNatMasquerade);
        }
    }
    Err(DropReason::NoMappingForNatMasquerade)
}

/// Whether the port of `work.back_key` was free, and is taken now.
#[inline(never)]
fn take<C: Context>(cx: &mut C, work: &Workspace, now: u64) -> bool {
    if cx.has_socket(&work.back_key) {
        return false;
    }
    match cx.add_nat(&work.back_key, &work.back, false) {
        Ok(()) => true,
        Err(NotStored::Full) => false,
        Err(NotStored::Exists) => {
            // Its time is over, or its other half was dropped from the table.
            let is_free = cx
                .nat(&work.back_key, |found| {
                    found.expires <= now || is_same(found, &work.back)
                })
                .unwrap_or(true);
            is_free && cx.add_nat(&work.back_key, &work.back, true).is_ok()
        }
    }
}

#[inline(always)]
fn begin<C: Context>(cx: &C, work: &mut Workspace, parsed: &Parsed) {
    let life = Life::of(cx, parsed);
    work.entry.created = life.now;
    let lifetime = life.lifetime(&mut work.entry.flags);
    work.entry.expires = life.now.saturating_add(lifetime);
}
