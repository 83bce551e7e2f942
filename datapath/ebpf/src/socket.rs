//! The cgroup hooks of sockets: adapters and entry points around `stages::socket`.

use abi::{Addr, SocketPeers, SocketTranslation};
use aya_ebpf::{
    bindings::bpf_sock,
    helpers::generated::{
        bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_set_retval,
    },
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};
use stages::{
    service::Wanted,
    socket::{self, Refusal, Socket},
};

use crate::{
    constants,
    services::{SOCKET_PEERS, SOCKETS, services_of},
};

/// What a cgroup program answers.
const REFUSE: i32 = 0;
const PROCEED: i32 = 1;

const ENOMEM: i32 = 12;
const ECONNREFUSED: i32 = 111;

/// A socket, and the address that a system call of it is about.
struct Hook(SockAddrContext);

services_of!(Hook);

impl Socket for Hook {
    #[inline(always)]
    fn peer(&self) -> Wanted {
        let context = self.0.sock_addr;
        // SAFETY: the context is valid while the program runs; the verifier checks each field.
        unsafe {
            let words = [
                (*context).user_ip6[0],
                (*context).user_ip6[1],
                (*context).user_ip6[2],
                (*context).user_ip6[3],
            ];
            // The port is in network order, in the lower half of a native word.
            let [first, second, ..] = (*context).user_port.to_ne_bytes();
            Wanted {
                addr: Addr(zerocopy::transmute!(words)),
                port: [first, second],
                proto: (*context).protocol as u8,
            }
        }
    }

    #[inline(always)]
    fn set_peer(&mut self, addr: &Addr, port: [u8; 2]) {
        let context = self.0.sock_addr;
        let [a, b, c, d]: [u32; 4] = zerocopy::transmute!(addr.0);
        let [first, second] = port;
        // SAFETY: as in `peer`; these fields may be written in every hook that this is called in.
        unsafe {
            (*context).user_ip6[0] = a;
            (*context).user_ip6[1] = b;
            (*context).user_ip6[2] = c;
            (*context).user_ip6[3] = d;
            (*context).user_port = u32::from_ne_bytes([first, second, 0, 0]);
        }
    }

    #[inline(always)]
    fn namespace(&self) -> u64 {
        // SAFETY: the context is valid.
        unsafe { bpf_get_netns_cookie(self.0.sock_addr.cast()) }
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: no arguments.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: no arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn remember(&mut self, translation: &SocketTranslation) -> bool {
        let mut value = *translation;
        // SAFETY: the socket is that of the context; what is there is written over below.
        let kept = unsafe { SOCKETS.get_or_insert_ptr_mut(&self.0, Some(&mut value)) };
        if kept.is_null() {
            return false;
        }
        // SAFETY: not null, and it lives as long as the socket. Threads that share a socket and connect it at the same
        // time may mix their addresses, as they would the socket's own.
        unsafe { *kept = *translation };
        true
    }

    #[inline(always)]
    fn translation<R>(&mut self, with: impl FnOnce(&mut SocketTranslation) -> R) -> Option<R> {
        // SAFETY: as in `remember`.
        let kept = unsafe { SOCKETS.get_ptr_mut(&self.0) };
        // SAFETY: null or valid.
        unsafe { kept.as_mut() }.map(with)
    }

    #[inline(always)]
    fn peers<R>(&mut self, create: bool, with: impl FnOnce(&mut SocketPeers) -> R) -> Option<R> {
        // SAFETY: as in `remember`; new ones are zero.
        let kept = unsafe {
            if create {
                SOCKET_PEERS.get_or_insert_ptr_mut(&self.0, None)
            } else {
                SOCKET_PEERS.get_ptr_mut(&self.0)
            }
        };
        // SAFETY: null or valid.
        unsafe { kept.as_mut() }.map(with)
    }
}

/// A refusal, as the system call returns it.
#[inline(always)]
fn answer(result: Result<(), Refusal>) -> i32 {
    let number = match result {
        Ok(()) => return PROCEED,
        Err(Refusal::NoBackend) => ECONNREFUSED,
        Err(Refusal::NoMemory) => ENOMEM,
    };
    // SAFETY: an integer. Should it fail, the call returns EPERM.
    let _old = unsafe { bpf_set_retval(-number) };
    REFUSE
}

/// A socket is connected.
#[cgroup_sock_addr(connect6)]
fn connect6(context: SockAddrContext) -> i32 {
    answer(socket::connect(&mut Hook(context)))
}

/// A datagram is sent by a socket that is not connected.
#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(context: SockAddrContext) -> i32 {
    answer(socket::send(&mut Hook(context)))
}

/// A datagram was received.
#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(context: SockAddrContext) -> i32 {
    socket::receive(&mut Hook(context));
    PROCEED
}

/// A program asks for the other end of its socket.
#[cgroup_sock_addr(getpeername6)]
fn getpeername6(context: SockAddrContext) -> i32 {
    socket::name_peer(&mut Hook(context));
    PROCEED
}

/// A hook that needs nothing but the tables.
struct Bound;

services_of!(Bound);

/// A process takes a port.
#[cgroup_sock(post_bind6)]
fn post_bind6(context: SockContext) -> i32 {
    let sock: *mut bpf_sock = context.sock;
    // SAFETY: the context is valid.
    let namespace = unsafe { bpf_get_netns_cookie(sock.cast()) };
    if namespace != constants::config().node_namespace {
        return PROCEED;
    }
    // SAFETY: the context is valid while the program runs; the verifier checks each field.
    let bound = unsafe {
        let words = [
            (*sock).src_ip6[0],
            (*sock).src_ip6[1],
            (*sock).src_ip6[2],
            (*sock).src_ip6[3],
        ];
        Wanted {
            addr: Addr(zerocopy::transmute!(words)),
            port: ((*sock).src_port as u16).to_be_bytes(),
            proto: (*sock).protocol as u8,
        }
    };
    if socket::may_bind(&Bound, &bound) {
        PROCEED
    } else {
        REFUSE
    }
}
