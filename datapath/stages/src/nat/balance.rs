//! Packets to services.
//!
//! A connection is balanced once; its entry says where its further packets go. A UDP "connection" may go on for ever: each
//! time its pair is renewed it is asked whether the backend still belongs to the service.

use abi::{
    DropReason,
    DropReason::{DeniedByLbSrcRangeCheck, IsAClusterip, NoMappingForNatMasquerade, ServiceBackendNotFound},
    Endpoint, NatEntry, Service,
};
use packet::{Family, V6, protocol};

use super::{Translated, Workspace, dsr, follow, hash, is_error, is_ours, is_same, pair, read_key, rewrite};
use crate::{
    Context, Route,
    parse::Parsed,
    pod::find_route,
    service::{Choice, Client, Wanted, choose, find, is_member},
    source,
};

/// A packet of a pod to an address of a service or of this node; `flags` are those of the address's endpoint.
#[inline(always)]
pub fn from_pod<C: Context>(cx: &mut C, parsed: &mut Parsed, flags: u16) -> Result<Translated, DropReason> {
    let is_service = flags & Endpoint::SERVICE != 0;
    if is_error(parsed) {
        let is_known = cx.translate_error(parsed)?;
        return Ok(done(is_known, is_service));
    }
    cx.with_workspace(|cx, work| {
        match read_key(cx, work, parsed) {
            Ok(()) => {}
            Err(reason) if is_service => return Err(reason),
            Err(_) => return Ok(Translated::No),
        }
        if flags & Endpoint::ROUTER != 0 {
            // The answer of a pod that talks to itself.
            if follow(cx, work, parsed).is_none() || !is_same(&work.entry.dst, &work.key.src) {
                return Ok(Translated::No);
            }
            parsed.tracked.report = false;
            return rewrite(cx, work, parsed).map(|()| Translated::Looped);
        }
        if !is_service && is_for_stack(cx, work) {
            return Ok(Translated::No);
        }
        if !goes_on(cx, work, parsed, Client::Inside) {
            match open(cx, work, Client::Inside)? {
                Translated::Yes => {}
                other => return Ok(other),
            }
            if is_same(&work.entry.dst, &work.key.src) {
                work.entry.src = V6::router(&cx.config());
                pair::add_with_port(cx, work, parsed)?;
            } else {
                pair::add(cx, work, parsed)?;
            }
        }
        let is_looped = !is_same(&work.entry.src, &work.key.src);
        rewrite(cx, work, parsed)?;
        parsed.is_translated = true;
        parsed.tracked.report = !is_looped || work.entry.created == cx.now();
        Ok(if is_looped {
            Translated::Looped
        } else {
            Translated::Yes
        })
    })
    .unwrap_or(Ok(Translated::No))
}

/// A packet that a native device received for an address of a service or of this node.
#[inline(always)]
pub fn inbound<C: Context>(cx: &mut C, parsed: &mut Parsed, flags: u16) -> Result<Translated, DropReason> {
    let is_service = flags & Endpoint::SERVICE != 0;
    if is_error(parsed) {
        let is_known = cx.translate_error(parsed)?;
        return Ok(done(is_known, is_service));
    }
    cx.with_workspace(|cx, work| {
        match read_key(cx, work, parsed) {
            Ok(()) => {}
            Err(reason) if is_service => return Err(reason),
            // It may be one of a datagram for the node.
            Err(_) => return Ok(Translated::No),
        }
        if !is_service
            && is_ours(cx, work.key.dst_port)
            && follow(cx, work, parsed).is_some()
            && work.entry.flags & NatEntry::REPLY != 0
        {
            return rewrite(cx, work, parsed).map(|()| Translated::Yes);
        }
        if cx.config().services == 0 || (!is_service && is_for_stack(cx, work)) {
            return Ok(Translated::No);
        }
        // Pods and nodes are known; everybody else is outside.
        let client = match cx.peer(parsed.src()) {
            Some(_) => Client::Inside,
            None => Client::Outside,
        };
        if !goes_on(cx, work, parsed, client) {
            source::from_outside(cx, parsed.src())?;
            match open(cx, work, client)? {
                Translated::Yes => {}
                other => return Ok(other),
            }
            if stands_in(cx, work, parsed, client)? {
                pair::add_with_port(cx, work, parsed)?;
            } else {
                pair::add(cx, work, parsed)?;
            }
        }
        parsed.growth = dsr::growth(cx, &work.entry, parsed);
        rewrite(cx, work, parsed)?;
        parsed.is_translated = true;
        Ok(Translated::Yes)
    })
    .unwrap_or(Ok(Translated::No))
}

/// What becomes of an error message: about nothing that is known, it stays what it is; to a service, it goes nowhere.
#[inline(always)]
fn done(is_known: bool, is_service: bool) -> Translated {
    match (is_known, is_service) {
        (true, _) => Translated::Yes,
        (false, true) => Translated::Refused,
        (false, false) => Translated::No,
    }
}

/// Finds the service of `work.key`.
#[inline(never)]
pub(super) fn find_service<C: Context>(cx: &C, work: &mut Workspace) -> bool {
    let wanted = Wanted {
        addr: work.key.dst,
        port: work.key.dst_port,
        proto: work.key.proto,
    };
    match find(cx, &wanted) {
        Some(service) => {
            work.service = service;
            true
        }
        None => false,
    }
}

/// Whether an address of the node is meant and no service.
#[inline(always)]
pub(crate) fn is_for_stack<C: Context>(cx: &C, work: &mut Workspace) -> bool {
    !find_service(cx, work) || work.service.flags & Service::TO_STACK != 0
}

/// Whether the connection is known, and its backend, if it is UDP, still one of the service.
#[inline(never)]
fn goes_on<C: Context>(cx: &mut C, work: &mut Workspace, parsed: &Parsed, client: Client) -> bool {
    match follow(cx, work, parsed) {
        None => false,
        Some(_) if work.entry.flags & (NatEntry::SERVICE | NatEntry::REPLY) != NatEntry::SERVICE => false,
        Some(true) if parsed.protocol == protocol::UDP => {
            find_service(cx, work)
                && is_member(
                    cx,
                    work.service.number,
                    client,
                    &work.entry.dst,
                    work.entry.dst_port,
                )
        }
        Some(_) => true,
    }
}

/// Whether a client from outside may use the service.
#[inline(always)]
fn may_enter<C: Context>(cx: &C, work: &Workspace) -> Result<(), DropReason> {
    if work.service.flags & Service::EXTERNAL == 0 {
        return Err(IsAClusterip);
    }
    if work.service.flags & Service::SOURCE_RANGES != 0 && !cx.is_in_range(work.service.number, &work.key.src)
    {
        return Err(DeniedByLbSrcRangeCheck);
    }
    Ok(())
}

/// A new connection: chooses a backend and fills in the entry.
#[inline(never)]
fn open<C: Context>(cx: &mut C, work: &mut Workspace, client: Client) -> Result<Translated, DropReason> {
    if !find_service(cx, work) {
        return Ok(Translated::Refused);
    }
    if matches!(client, Client::Outside) {
        may_enter(cx, work)?;
    }
    if draw(cx, work, client) {
        return Ok(Translated::Yes);
    }
    let local = match client {
        Client::Inside => Service::INSIDE_LOCAL,
        Client::Outside => Service::OUTSIDE_LOCAL,
    };
    if work.service.flags & local != 0 {
        Err(ServiceBackendNotFound)
    } else {
        Ok(Translated::Refused)
    }
}

/// Chooses a backend; `false`: there is none.
#[inline(never)]
fn draw<C: Context>(cx: &mut C, work: &mut Workspace, client: Client) -> bool {
    let hash = hash::connection(&work.key);
    let choice = if work.service.flags & Service::MAGLEV != 0 {
        Choice::Hash(hash)
    } else {
        Choice::Random(hash)
    };
    work.client.client = work.key.src;
    work.client.service = work.service.number;
    work.client.is_cookie = 0;
    let now = cx.now();
    let Some(backend) = choose(cx, &work.service, client, &work.client, now, choice) else {
        return false;
    };
    work.entry.src = work.key.src;
    work.entry.dst = backend.addr;
    work.entry.src_port = work.key.src_port;
    work.entry.dst_port = backend.port;
    work.entry.flags = NatEntry::SERVICE;
    true
}

/// Whether the node stands in for a client from elsewhere, under its own address: answers of backends on this node come
/// by here anyway, those of others would not, unless their node is told what to answer with. Processes of another node are
/// not: only pods' packets are looked at there.
#[inline(never)]
fn stands_in<C: Context>(
    cx: &mut C,
    work: &mut Workspace,
    parsed: &Parsed,
    client: Client,
) -> Result<bool, DropReason> {
    if cx.endpoint(&work.entry.dst).is_some() {
        return Ok(false);
    }
    if work.service.flags & Service::DSR != 0
        && matches!(client, Client::Outside)
        && dsr::has_room(cx)
        && !cx.is_node(&work.entry.dst)
    {
        work.entry.flags |= NatEntry::DSR;
        return Ok(false);
    }
    let ifindex = match find_route(cx, parsed, &work.entry.dst) {
        Route::Via { ifindex, .. } => ifindex,
        _ => cx.ifindex(),
    };
    work.entry.src = cx.masquerade_address(ifindex).ok_or(NoMappingForNatMasquerade)?;
    Ok(true)
}
