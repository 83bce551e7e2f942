//! Stages as global functions: the verifier checks each once, with arguments it knows nothing about, and not again for
//! every path that leads there. Without them `from_pod` takes 260 000 steps to verify, with them 44 000.
//!
//! Such a function takes the context, scalars, and pointers that may be null as far as the verifier knows, and returns
//! an integer: [`code`] and [`result`] carry a `Result` over the border.

use abi::{Direction, DropReason, event::ObservationPoint};
use aya_ebpf::bindings::__sk_buff;
use packet::{Family, V4, V6};
use stages::{Context, Dropped, conntrack, icmp_error, icmp_error::Problem, neighbour, neighbour::Handled};
use stages::{
    nat::{self, Translated, balance, dsr, masquerade},
    related::Known,
};
use stages::{parse, parse::Parsed, related, report, report::Sighting};

use crate::skb::Skb;

impl Context for Skb {
    #[inline(always)]
    fn parse<F: Family>(&mut self, parsed: &mut Parsed) -> Result<(), DropReason> {
        result(if F::IS_V6 {
            border_parse_v6(self.as_ptr(), parsed)
        } else {
            border_parse_v4(self.as_ptr(), parsed)
        })
    }

    #[inline(always)]
    fn look_up(&mut self, parsed: &mut Parsed) -> Result<(), DropReason> {
        result(border_look_up(self.as_ptr(), parsed))
    }

    #[inline(always)]
    fn is_known<F: Family>(&mut self, parsed: &Parsed) -> Known {
        let answer = if F::IS_V6 {
            border_is_known_v6(self.as_ptr(), parsed)
        } else {
            border_is_known_v4(self.as_ptr(), parsed)
        };
        match answer {
            NO => Known::No,
            TRANSLATED => Known::Translated,
            _ => Known::Yes,
        }
    }

    #[inline(always)]
    fn balance(&mut self, parsed: &mut Parsed, flags: u16) -> Result<Translated, DropReason> {
        translated(border_balance(self.as_ptr(), parsed, u32::from(flags)))
    }

    #[inline(always)]
    fn inbound(&mut self, parsed: &mut Parsed, flags: u16) -> Result<Translated, DropReason> {
        translated(border_inbound(self.as_ptr(), parsed, u32::from(flags)))
    }

    #[inline(always)]
    fn tell(&mut self, parsed: &mut Parsed) -> Result<(), DropReason> {
        result(border_tell(self.as_ptr(), parsed))
    }

    #[inline(always)]
    fn learn(&mut self, parsed: &mut Parsed) -> Result<(), DropReason> {
        result(border_learn(self.as_ptr(), parsed))
    }

    #[inline(always)]
    fn masquerade(&mut self, parsed: &mut Parsed, ifindex: u32) -> Result<(), DropReason> {
        result(border_masquerade(self.as_ptr(), parsed, ifindex))
    }

    #[inline(always)]
    fn outbound(&mut self, parsed: &mut Parsed) -> Result<(), DropReason> {
        result(border_outbound(self.as_ptr(), parsed))
    }

    #[inline(always)]
    fn translate_error(&mut self, parsed: &mut Parsed) -> Result<bool, DropReason> {
        translated(border_translate_error(self.as_ptr(), parsed))
            .map(|translated| translated == Translated::Yes)
    }

    #[inline(always)]
    fn restore(&mut self, parsed: &mut Parsed) -> Result<(), DropReason> {
        result(border_restore(self.as_ptr(), parsed))
    }

    #[inline(always)]
    fn revert(&mut self, parsed: &mut Parsed) -> Result<(), DropReason> {
        result(border_revert(self.as_ptr(), parsed))
    }

    #[inline(always)]
    fn neighbour(&mut self, parsed: &Parsed) -> Result<Handled, DropReason> {
        match border_neighbour(self.as_ptr(), parsed) {
            ANSWERED => Ok(Handled::Answered),
            QUIETLY => Ok(Handled::Quietly),
            STACK => Ok(Handled::Stack),
            other => Err(reason(other)),
        }
    }

    #[inline(always)]
    fn answer(&mut self, parsed: &Parsed, problem: Problem) -> Result<(), DropReason> {
        let what = u32::from(problem.kind)
            | (problem.reason as u32) << 8
            | (problem.direction as u32) << 16
            | u32::from(problem.code) << 24;
        result(border_answer(self.as_ptr(), parsed, what, problem.body))
    }

    #[inline(always)]
    fn trace(&mut self, parsed: &Parsed, sighting: Sighting) {
        let ids = u32::from(sighting.source) << 16 | u32::from(sighting.dst_id);
        border_trace(
            self.as_ptr(),
            parsed,
            sighting.point as u32,
            ids,
            sighting.ifindex,
        );
    }

    #[inline(always)]
    fn dropped(&mut self, dropped: Dropped) {
        border_dropped(self.as_ptr(), dropped.reason as u32, dropped.direction as u32);
    }
}

const NO: u32 = Known::No as u32;
const TRANSLATED: u32 = Known::Translated as u32;

const UNCHANGED: u32 = Translated::No as u32;
const CHANGED: u32 = Translated::Yes as u32;
const LOOPED: u32 = Translated::Looped as u32;
const REFUSED: u32 = Translated::Refused as u32;

/// What a border of translation returns.
#[inline(always)]
fn translated(code: u32) -> Result<Translated, DropReason> {
    match code {
        UNCHANGED => Ok(Translated::No),
        CHANGED => Ok(Translated::Yes),
        LOOPED => Ok(Translated::Looped),
        REFUSED => Ok(Translated::Refused),
        other => Err(reason(other)),
    }
}

/// [`translated`] the other way.
#[inline(always)]
fn translation(result: Result<Translated, DropReason>) -> u32 {
    match result {
        Ok(translated) => translated as u32,
        Err(reason) => reason as u32,
    }
}

const ANSWERED: u32 = Handled::Answered as u32;
const QUIETLY: u32 = Handled::Quietly as u32;
const STACK: u32 = Handled::Stack as u32;

/// Zero for success; reasons begin at 130.
#[inline(always)]
fn code(result: Result<(), DropReason>) -> u32 {
    match result {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn result(code: u32) -> Result<(), DropReason> {
    if code == 0 { Ok(()) } else { Err(reason(code)) }
}

/// Only numbers of reasons cross a border; the verifier and the compiler cannot know.
#[inline(always)]
fn reason(code: u32) -> DropReason {
    DropReason::from_number(code as u8).unwrap_or(DropReason::InvalidPacketDropped)
}

#[inline(always)]
fn direction(code: u32) -> Direction {
    if code == Direction::Ingress as u32 {
        Direction::Ingress
    } else {
        Direction::Egress
    }
}

/// What a border returns for a null pointer, which none of the callers above passes.
const NULL: u32 = DropReason::InvalidPacketDropped as u32;

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn border_parse_v6(skb: *mut __sk_buff, parsed: *mut Parsed) -> u32 {
    // SAFETY: null, or a reference of the caller.
    unsafe { parsed.as_mut() }.map_or(NULL, |parsed| {
        code(parse::parse::<V6, Skb>(&Skb::new(skb), parsed))
    })
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn border_parse_v4(skb: *mut __sk_buff, parsed: *mut Parsed) -> u32 {
    // SAFETY: null, or a reference of the caller.
    unsafe { parsed.as_mut() }.map_or(NULL, |parsed| {
        code(parse::parse::<V4, Skb>(&Skb::new(skb), parsed))
    })
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn border_look_up(skb: *mut __sk_buff, parsed: *mut Parsed) -> u32 {
    // SAFETY: null, or a reference of the caller.
    unsafe { parsed.as_mut() }.map_or(NULL, |parsed| {
        code(conntrack::look_up(&mut Skb::new(skb), parsed))
    })
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn border_is_known_v6(skb: *mut __sk_buff, parsed: *const Parsed) -> u32 {
    // SAFETY: null, or a reference of the caller.
    unsafe { parsed.as_ref() }.map_or(0, |parsed| {
        related::is_known::<V6, Skb>(&mut Skb::new(skb), parsed) as u32
    })
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn border_is_known_v4(skb: *mut __sk_buff, parsed: *const Parsed) -> u32 {
    // SAFETY: null, or a reference of the caller.
    unsafe { parsed.as_ref() }.map_or(0, |parsed| {
        related::is_known::<V4, Skb>(&mut Skb::new(skb), parsed) as u32
    })
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn border_balance(skb: *mut __sk_buff, parsed: *mut Parsed, flags: u32) -> u32 {
    // SAFETY: null, or a reference of the caller.
    unsafe { parsed.as_mut() }.map_or(NULL, |parsed| {
        translation(balance::from_pod(&mut Skb::new(skb), parsed, flags as u16))
    })
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn border_inbound(skb: *mut __sk_buff, parsed: *mut Parsed, flags: u32) -> u32 {
    // SAFETY: null, or a reference of the caller.
    unsafe { parsed.as_mut() }.map_or(NULL, |parsed| {
        translation(balance::inbound(&mut Skb::new(skb), parsed, flags as u16))
    })
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn border_tell(skb: *mut __sk_buff, parsed: *mut Parsed) -> u32 {
    // SAFETY: null, or a reference of the caller.
    unsafe { parsed.as_mut() }.map_or(NULL, |parsed| code(dsr::tell(&mut Skb::new(skb), parsed)))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn border_learn(skb: *mut __sk_buff, parsed: *mut Parsed) -> u32 {
    // SAFETY: null, or a reference of the caller.
    unsafe { parsed.as_mut() }.map_or(NULL, |parsed| code(dsr::learn(&mut Skb::new(skb), parsed)))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn border_masquerade(skb: *mut __sk_buff, parsed: *mut Parsed, ifindex: u32) -> u32 {
    // SAFETY: null, or a reference of the caller.
    unsafe { parsed.as_mut() }.map_or(NULL, |parsed| {
        code(masquerade::masquerade(&mut Skb::new(skb), parsed, ifindex))
    })
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn border_outbound(skb: *mut __sk_buff, parsed: *mut Parsed) -> u32 {
    // SAFETY: null, or a reference of the caller.
    unsafe { parsed.as_mut() }.map_or(NULL, |parsed| {
        code(masquerade::outbound(&mut Skb::new(skb), parsed))
    })
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn border_translate_error(skb: *mut __sk_buff, parsed: *mut Parsed) -> u32 {
    let answer = |is_translated| {
        if is_translated {
            Translated::Yes
        } else {
            Translated::No
        }
    };
    // SAFETY: null, or a reference of the caller.
    unsafe { parsed.as_mut() }.map_or(NULL, |parsed| {
        translation(nat::error::translate(&mut Skb::new(skb), parsed).map(answer))
    })
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn border_restore(skb: *mut __sk_buff, parsed: *mut Parsed) -> u32 {
    // SAFETY: null, or a reference of the caller.
    unsafe { parsed.as_mut() }.map_or(NULL, |parsed| code(nat::restore(&mut Skb::new(skb), parsed)))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn border_revert(skb: *mut __sk_buff, parsed: *mut Parsed) -> u32 {
    // SAFETY: null, or a reference of the caller.
    unsafe { parsed.as_mut() }.map_or(NULL, |parsed| code(nat::revert(&mut Skb::new(skb), parsed)))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn border_neighbour(skb: *mut __sk_buff, parsed: *const Parsed) -> u32 {
    // SAFETY: null, or a reference of the caller.
    unsafe { parsed.as_ref() }.map_or(NULL, |parsed| {
        match neighbour::from_pod(&mut Skb::new(skb), parsed) {
            Ok(handled) => handled as u32,
            Err(reason) => reason as u32,
        }
    })
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn border_answer(skb: *mut __sk_buff, parsed: *const Parsed, what: u32, body: u32) -> u32 {
    let problem = Problem {
        kind: what as u8,
        code: (what >> 24) as u8,
        reason: reason(what >> 8),
        direction: direction(what >> 16),
        body,
    };
    // SAFETY: null, or a reference of the caller.
    unsafe { parsed.as_ref() }.map_or(NULL, |parsed| {
        code(icmp_error::answer(&mut Skb::new(skb), parsed, problem))
    })
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn border_trace(
    skb: *mut __sk_buff,
    parsed: *const Parsed,
    point: u32,
    ids: u32,
    ifindex: u32,
) -> u32 {
    let point = match point {
        TO_ENDPOINT => ObservationPoint::ToEndpoint,
        TO_STACK => ObservationPoint::ToStack,
        TO_NETWORK => ObservationPoint::ToNetwork,
        FROM_ENDPOINT => ObservationPoint::FromEndpoint,
        FROM_HOST => ObservationPoint::FromHost,
        FROM_NETWORK => ObservationPoint::FromNetwork,
        _ => ObservationPoint::ToHost,
    };
    let sighting = Sighting {
        point,
        source: (ids >> 16) as u16,
        dst_id: ids as u16,
        ifindex,
    };
    // SAFETY: null, or a reference of the caller.
    if let Some(parsed) = unsafe { parsed.as_ref() } {
        report::trace(&mut Skb::new(skb), parsed, sighting);
    }
    0
}

const TO_ENDPOINT: u32 = ObservationPoint::ToEndpoint as u32;
const TO_STACK: u32 = ObservationPoint::ToStack as u32;
const TO_NETWORK: u32 = ObservationPoint::ToNetwork as u32;
const FROM_ENDPOINT: u32 = ObservationPoint::FromEndpoint as u32;
const FROM_HOST: u32 = ObservationPoint::FromHost as u32;
const FROM_NETWORK: u32 = ObservationPoint::FromNetwork as u32;

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn border_dropped(skb: *mut __sk_buff, number: u32, way: u32) -> u32 {
    report::dropped(
        &mut Skb::new(skb),
        Dropped {
            reason: reason(number),
            direction: direction(way),
        },
    );
    0
}
