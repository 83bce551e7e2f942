//! Closing connected UDP sockets whose other end is gone (`sock_diag(7)`).
//!
//! A datagram socket that was connected to a backend of a service goes on sending there after the backend has gone, and
//! nobody tells it. Closing it by `SOCK_DESTROY` (Linux 4.9, `CONFIG_INET_DIAG_DESTROY`) ends its next call with
//! `ECONNABORTED`, upon which programs connect anew: to a backend that is there.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::path::PathBuf;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::TimeVal;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::netns::{Netns, NetnsError};

// include/uapi/linux/{netlink,sock_diag,inet_diag}.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const AF_INET6: u8 = 10;
const IPPROTO_UDP: u8 = 17;
/// A connected UDP socket is "established".
const ESTABLISHED: u32 = 1 << 1;
/// How long the kernel may take for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sockets could not be closed.
#[derive(Debug, thiserror::Error)]
pub enum DatagramError {
    /// The namespace could not be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The kernel refused, or did not answer.
    #[error("cannot close UDP sockets in {path}")]
    Kernel {
        /// The namespace.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// `struct nlmsghdr`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Header {
    len: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

/// `struct inet_diag_sockid`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Identity {
    src_port: [u8; 2],
    dst_port: [u8; 2],
    src: [u8; 16],
    dst: [u8; 16],
    ifindex: u32,
    cookie: [u32; 2],
}

/// `struct inet_diag_req_v2`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Request {
    header: Header,
    family: u8,
    protocol: u8,
    extensions: u8,
    pad: u8,
    states: u32,
    id: Identity,
}

/// The start of `struct inet_diag_msg`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Answer {
    family: u8,
    state: u8,
    timer: u8,
    retransmits: u8,
    id: Identity,
}

/// Closes every UDP socket in a namespace that is connected to one of `peers`. Returns how many there were.
///
/// # Errors
/// [`DatagramError`].
pub async fn close_datagram_sockets(
    netns: &Netns,
    peers: BTreeSet<SocketAddrV6>,
) -> Result<usize, DatagramError> {
    let path = netns.path().to_owned();
    let closed = netns.run(move || close(&peers)).await?;
    closed.map_err(|source| DatagramError::Kernel { path, source })
}

fn close(peers: &BTreeSet<SocketAddrV6>) -> io::Result<usize> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let timeout = TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
    setsockopt(&socket, ReceiveTimeout, &timeout)?;
    let found = list(&socket, peers)?;
    let mut closed = 0;
    for id in found {
        match destroy(&socket, id) {
            Ok(()) => closed += 1,
            // Closed by its owner meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(closed)
}

fn request(kind: u16, flags: u16, id: Identity) -> Request {
    Request {
        header: Header {
            len: size_of::<Request>() as u32,
            kind,
            flags: NLM_F_REQUEST | flags,
            sequence: 1,
            port: 0,
        },
        family: AF_INET6,
        protocol: IPPROTO_UDP,
        extensions: 0,
        pad: 0,
        states: ESTABLISHED,
        id,
    }
}

/// All connected UDP sockets with one of these other ends.
fn list(socket: &Socket, peers: &BTreeSet<SocketAddrV6>) -> io::Result<Vec<Identity>> {
    let any = Identity {
        src_port: [0; 2],
        dst_port: [0; 2],
        src: Ipv6Addr::UNSPECIFIED.octets(),
        dst: Ipv6Addr::UNSPECIFIED.octets(),
        ifindex: 0,
        cookie: [u32::MAX; 2],
    };
    socket.send(request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, any).as_bytes(), 0)?;
    let mut found = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        for message in Messages(&datagram) {
            let (header, body) = message?;
            match header.kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return Err(errno(body)),
                _ => {
                    let (answer, _) = Answer::read_from_prefix(body).map_err(|_| malformed())?;
                    let port = u16::from_be_bytes(answer.id.dst_port);
                    if peers.contains(&SocketAddrV6::new(answer.id.dst.into(), port, 0, 0)) {
                        found.push(answer.id);
                    }
                }
            }
        }
    }
}

fn destroy(socket: &Socket, id: Identity) -> io::Result<()> {
    socket.send(request(SOCK_DESTROY, NLM_F_ACK, id).as_bytes(), 0)?;
    let (datagram, _) = socket.recv_from_full()?;
    let message = Messages(&datagram).next().ok_or_else(malformed)?;
    match message? {
        (header, body) if header.kind == NLMSG_ERROR => match errno(body) {
            // An acknowledgement is error 0.
            error if error.raw_os_error() == Some(0) => Ok(()),
            error => Err(error),
        },
        _ => Err(malformed()),
    }
}

/// The number at the start of an error message, which is negative.
fn errno(body: &[u8]) -> io::Error {
    match i32::read_from_prefix(body) {
        Ok((number, _)) => io::Error::from_raw_os_error(number.saturating_neg()),
        Err(_) => malformed(),
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is malformed")
}

/// The netlink messages in a datagram.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = io::Result<(Header, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let split = || {
            let (header, _) = Header::read_from_prefix(self.0).ok()?;
            let len = usize::try_from(header.len).ok()?;
            let body = self.0.get(size_of::<Header>()..len)?;
            // Messages begin at multiples of four.
            let rest = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
            Some((header, body, rest))
        };
        let Some((header, body, rest)) = split() else {
            self.0 = &[];
            return Some(Err(malformed()));
        };
        self.0 = rest;
        Some(Ok((header, body)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_the_kernels() {
        assert_eq!(size_of::<Request>(), 16 + 56);
        assert_eq!(size_of::<Answer>(), 52);
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Messages(&bytes).count() <= 14);
        }
    }
}
