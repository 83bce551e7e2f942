//! ICMP errors belong to the connection of the packet they tell about.

use abi::{CtEntry, CtKey};
use packet::{Family, Fragment, icmp6::Icmp6, protocol, transport::Ports};

use crate::{
    Context,
    conntrack::turned,
    parse::{Parsed, has_ports},
};

/// Whether an error message is about a known connection.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It is not.
    No = 0,
    /// It is.
    Yes = 1,
    /// It is, and the connection is translated on this node.
    Translated = 2,
}

/// Whether an error message is about a connection of this side (`parsed.tuple.dir`), found by the packet inside. An
/// error about nothing that is known is a packet of its own, which leaves no entry, so that a flood of errors cannot
/// push connections out.
#[inline(always)]
pub fn is_known<F: Family, C: Context>(cx: &mut C, parsed: &Parsed) -> Known {
    let now = cx.now();
    let known = |entry: &mut CtEntry| {
        if entry.expires <= now {
            Known::No
        } else if entry.flags & CtEntry::TRANSLATED == 0 {
            Known::Yes
        } else {
            Known::Translated
        }
    };
    let Some(key) = inner_key::<F, C>(cx, parsed) else {
        return Known::No;
    };
    match cx.connection(&key, known) {
        None | Some(Known::No) => {}
        Some(found) => return found,
    }
    cx.connection(&turned(&key), known).unwrap_or(Known::No)
}

/// Key of the packet inside, turned: the error travels against it, as a reply does.
#[inline(always)]
fn inner_key<F: Family, C: Context>(cx: &C, parsed: &Parsed) -> Option<CtKey> {
    let offset = parsed.offset.wrapping_add(Icmp6::LEN);
    let header: F::Header = cx.load(offset).ok()?;
    // An error goes to the sender of the packet that caused it; anything else is made up.
    if F::src(&header) != *parsed.dst() {
        return None;
    }
    let chain = F::chain(cx, offset, &header).ok()?;
    let mut key = CtKey {
        src: F::dst(&header),
        dst: F::src(&header),
        proto: chain.protocol,
        dir: parsed.tuple.dir,
        ..CtKey::default()
    };
    if matches!(chain.fragment, Fragment::Later) {
        key.proto = protocol::FRAGMENT;
    } else if chain.protocol == protocol::TCP || has_ports(chain.protocol) {
        let ports: Ports = cx.load(chain.offset).ok()?;
        key.src_port = ports.dst;
        key.dst_port = ports.src;
    } else if chain.protocol == F::CONTROL {
        let icmp: Icmp6 = cx.load(chain.offset).ok()?;
        if icmp.kind == F::ECHO_REQUEST {
            key.dst_port = icmp.echo_id();
        } else if icmp.kind == F::ECHO_REPLY {
            key.src_port = icmp.echo_id();
        }
    }
    Some(key)
}
