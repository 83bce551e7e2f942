//! Services at the socket: a program asks for a service, and its socket is connected to a backend. No packet of the
//! connection is touched afterwards.
//!
//! What the program asked for is kept at the socket ([`SocketTranslation`], [`abi::SocketPeers`]), so that it sees
//! the service, and not the backend, as its peer, and nothing outlives the socket.

use abi::{
    Addr, AffinityKey, Backend, Service, ServiceKey, SocketPeers, SocketTranslation, service::DATAGRAM_PEERS,
};
use packet::ip::Scope;

use crate::service::{Choice, Client, Services, Wanted, choose, find, is_member};

/// A socket in one of the cgroup hooks.
pub trait Socket: Services {
    /// The other end: whom it connects or sends to, or receives from.
    fn peer(&self) -> Wanted;

    /// Puts another address and port in place of [`Socket::peer`].
    fn set_peer(&mut self, addr: &Addr, port: [u8; 2]);

    /// Cookie of the network namespace, which stands for the pod.
    fn namespace(&self) -> u64;

    /// Nanoseconds of the monotonic clock since boot.
    fn now(&self) -> u64;

    /// A number that nobody can foresee.
    fn random(&self) -> u32;

    /// Keeps a translation at the socket. `false`: no memory.
    fn remember(&mut self, translation: &SocketTranslation) -> bool;

    /// The translation that is kept at the socket.
    fn translation<R>(&mut self, with: impl FnOnce(&mut SocketTranslation) -> R) -> Option<R>;

    /// The services that the socket sends datagrams to; made if `create`. `None`: there are none, or no memory.
    fn peers<R>(&mut self, create: bool, with: impl FnOnce(&mut SocketPeers) -> R) -> Option<R>;
}

/// Why a socket is not connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The service has no backend: `ECONNREFUSED`, as from a port that nobody listens on.
    NoBackend,
    /// What was promised could not be kept at the socket: `ENOMEM`.
    NoMemory,
}

/// `connect6`: connects a socket to a backend when it asks for a service.
#[inline(always)]
pub fn connect<S: Socket>(socket: &mut S) -> Result<(), Refusal> {
    let wanted = socket.peer();
    let Some(found) = resolve(socket, &wanted)? else {
        // A socket may be connected again, elsewhere.
        let _none = socket.translation(|kept| kept.service = 0);
        return Ok(());
    };
    let translation = found.translation(&wanted);
    if !socket.remember(&translation) {
        return Err(Refusal::NoMemory);
    }
    socket.set_peer(&translation.backend_addr, translation.backend_port);
    Ok(())
}

/// `sendmsg6`: a datagram from a socket that is not connected. As long as its backend belongs to the service, a socket
/// stays with it.
#[inline(always)]
pub fn send<S: Socket>(socket: &mut S) -> Result<(), Refusal> {
    let wanted = socket.peer();
    let known = socket.peers(false, |peers| {
        peers.peers.iter().copied().find(|peer| {
            peer.service != 0 && peer.service_addr == wanted.addr && peer.service_port == wanted.port
        })
    });
    if let Some(Some(known)) = known
        && is_member(
            socket,
            known.service,
            Client::Inside,
            &known.backend_addr,
            known.backend_port,
        )
    {
        socket.set_peer(&known.backend_addr, known.backend_port);
        return Ok(());
    }
    let Some(found) = resolve(socket, &wanted)? else {
        return Ok(());
    };
    let translation = found.translation(&wanted);
    let kept = socket.peers(true, |peers| keep(peers, &translation));
    if kept.is_none() {
        return Err(Refusal::NoMemory);
    }
    socket.set_peer(&translation.backend_addr, translation.backend_port);
    Ok(())
}

/// `recvmsg6`: a datagram from a backend comes from the service, as far as the program sees.
#[inline(always)]
pub fn receive<S: Socket>(socket: &mut S) {
    let from = socket.peer();
    let comes_from = |peer: &SocketTranslation| {
        peer.service != 0 && peer.backend_addr == from.addr && peer.backend_port == from.port
    };
    let connected = socket.translation(|kept| comes_from(kept).then_some(*kept));
    let service = match connected.flatten() {
        Some(kept) => Some(kept),
        None => socket
            .peers(false, |peers| peers.peers.iter().copied().find(comes_from))
            .flatten(),
    };
    if let Some(service) = service {
        socket.set_peer(&service.service_addr, service.service_port);
    }
}

/// `getpeername6`: the peer of a socket that was connected to a service is the service.
#[inline(always)]
pub fn name_peer<S: Socket>(socket: &mut S) {
    let peer = socket.peer();
    let service = socket.translation(|kept| {
        (kept.service != 0 && kept.backend_addr == peer.addr && kept.backend_port == peer.port)
            .then_some(*kept)
    });
    if let Some(Some(service)) = service {
        socket.set_peer(&service.service_addr, service.service_port);
    }
}

/// `post_bind6`, in the namespace of the node: whether a process may have this port. A port that is a node port is
/// not for processes: their packets would go to the service.
#[inline(always)]
pub fn may_bind<T: Services>(tables: &T, bound: &Wanted) -> bool {
    let key = ServiceKey {
        addr: Addr::UNSPECIFIED,
        port: bound.port,
        proto: bound.proto,
        family: if bound.addr.is_v4() { 4 } else { 6 },
        pad: [0; 4],
    };
    bound.addr.is_loopback() || tables.service(&key).is_none()
}

/// A service, and the backend that was chosen for a socket.
struct Found {
    service: Service,
    backend: Backend,
}

impl Found {
    #[inline(always)]
    fn translation(&self, wanted: &Wanted) -> SocketTranslation {
        SocketTranslation {
            service_addr: wanted.addr,
            backend_addr: self.backend.addr,
            service_port: wanted.port,
            backend_port: self.backend.port,
            service: self.service.number,
        }
    }
}

/// A backend for the service that is asked for; `None` when it is no service.
#[inline(always)]
fn resolve<S: Socket>(socket: &mut S, wanted: &Wanted) -> Result<Option<Found>, Refusal> {
    // A set that is replaced at this moment may be found by its number no more: then there is a new number.
    for _attempt in 0..2 {
        let Some(service) = find(socket, wanted) else {
            return Ok(None);
        };
        if service.inside.count == 0 {
            return Err(Refusal::NoBackend);
        }
        let client: [u64; 2] = [0, socket.namespace()];
        let who = AffinityKey {
            client: Addr(zerocopy::transmute!(client)),
            service: service.number,
            is_cookie: 1,
        };
        let (now, choice) = (socket.now(), Choice::Random(socket.random()));
        if let Some(backend) = choose(socket, &service, Client::Inside, &who, now, choice) {
            return Ok(Some(Found { service, backend }));
        }
    }
    Err(Refusal::NoBackend)
}

/// Puts a translation into the place of an older one for the same service or the same backend, else of the oldest. Of two
/// services with one backend, the one that was asked last is answered for.
#[inline(always)]
fn keep(peers: &mut SocketPeers, translation: &SocketTranslation) {
    let same = peers.peers.iter_mut().find(|peer| {
        let is_service =
            peer.service_addr == translation.service_addr && peer.service_port == translation.service_port;
        let is_backend =
            peer.backend_addr == translation.backend_addr && peer.backend_port == translation.backend_port;
        is_service || is_backend
    });
    if let Some(same) = same {
        *same = *translation;
        return;
    }
    let index = peers.next as usize & (DATAGRAM_PEERS - 1);
    if let Some(oldest) = peers.peers.get_mut(index) {
        *oldest = *translation;
    }
    peers.next = peers.next.wrapping_add(1);
}
