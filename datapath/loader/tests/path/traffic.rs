//! Real sockets in pods.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::{Ipv6RecvErr, Ipv6Ttl, TcpCongestion};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, setsockopt};

use crate::topology::{POD, Path2};

/// Longest that anything here may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// Sends `bytes` bytes from one pod to the other over TCP; how long it took. Panics when they do not arrive as sent.
pub(crate) fn transfer(path: &Path2, from: usize, bytes: usize) -> Duration {
    let started = Instant::now();
    let (tell, address) = mpsc::channel();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || path.in_pod(1 - from, || receive(1 - from, &tell)));
        let address: SocketAddr = address.recv_timeout(DEADLINE).unwrap();
        path.in_pod(from, || send(address, bytes));
        let (received, sum) = receiver.join().unwrap();
        assert_eq!(
            (received, sum),
            (bytes, checksum(bytes)),
            "what arrived is not what was sent"
        );
    });
    started.elapsed()
}

fn receive(side: usize, tell: &mpsc::Sender<SocketAddr>) -> (usize, u64) {
    let listener = TcpListener::bind((POD[side].parse::<Ipv6Addr>().unwrap(), 0)).unwrap();
    tell.send(listener.local_addr().unwrap()).unwrap();
    let mut stream = accept(&listener);
    let (mut received, mut sum) = (0, 0u64);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => return (received, sum),
            read => {
                for byte in &buffer[..read] {
                    sum = sum.rotate_left(1) ^ u64::from(*byte);
                }
                received += read;
            }
        }
    }
}

fn send(address: SocketAddr, bytes: usize) {
    let mut stream = connect(address);
    let data: Vec<u8> = (0..bytes).map(pattern).collect();
    stream.write_all(&data).unwrap();
}

fn pattern(index: usize) -> u8 {
    (index.wrapping_mul(2_654_435_761) >> 13) as u8
}

fn checksum(bytes: usize) -> u64 {
    (0..bytes).fold(0u64, |sum, index| sum.rotate_left(1) ^ u64::from(pattern(index)))
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, DEADLINE).unwrap();
    prepare(&stream);
    stream
}

fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + DEADLINE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                prepare(&stream);
                return stream;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                assert!(Instant::now() < deadline, "nobody connects");
                std::thread::yield_now();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// BBR, the default of some machines, does not fill the largest packets.
fn prepare(stream: &TcpStream) {
    setsockopt(stream, TcpCongestion, &"cubic".into()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
}

/// An error message, as the kernel hands it to the socket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) kind: u8,
    pub(crate) from: Ipv6Addr,
    pub(crate) errno: i32,
}

/// A TCP connection that is up, whose packets then expire at the first router: what its sender hears. With
/// `IPV6_RECVERR`, TCP has no queue of messages but makes the next one the error of the socket.
pub(crate) fn tcp_that_expires(path: &Path2) -> std::io::Error {
    let (tell, address) = mpsc::channel();
    let (done, finished) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            path.in_pod(1, move || {
                let listener = TcpListener::bind((POD[1].parse::<Ipv6Addr>().unwrap(), 0)).unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                let _stream = accept(&listener);
                finished.recv_timeout(DEADLINE).ok();
            });
        });
        let address = address.recv_timeout(DEADLINE).unwrap();
        let heard = path.in_pod(0, || {
            let mut stream = connect(address);
            setsockopt(&stream, Ipv6RecvErr, &true).unwrap();
            setsockopt(&stream, Ipv6Ttl, &1).unwrap();
            // More than a segment, so that the packet is one that is still to be segmented.
            stream.write_all(&[7; 8000]).unwrap();
            let deadline = Instant::now() + DEADLINE;
            loop {
                if let Some(error) = stream.take_error().unwrap() {
                    return error;
                }
                assert!(Instant::now() < deadline, "the sender hears nothing");
                std::thread::yield_now();
            }
        });
        done.send(()).ok();
        heard
    })
}

/// A datagram that expires at the first router: what its sender hears.
pub(crate) fn udp_that_expires(path: &Path2) -> Heard {
    path.in_pod(0, || {
        let socket = std::net::UdpSocket::bind((POD[0].parse::<Ipv6Addr>().unwrap(), 0)).unwrap();
        setsockopt(&socket, Ipv6RecvErr, &true).unwrap();
        setsockopt(&socket, Ipv6Ttl, &1).unwrap();
        socket
            .send_to(&[1; 99], (POD[1].parse::<Ipv6Addr>().unwrap(), 5353))
            .unwrap();
        heard(&socket)
    })
}

/// A connection attempt that expires at the first router: how it ends, and when.
pub(crate) fn connect_that_expires(path: &Path2) -> (std::io::Error, Duration) {
    path.in_pod(0, || {
        let socket = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Inet6,
            nix::sys::socket::SockType::Stream,
            nix::sys::socket::SockFlag::empty(),
            None,
        )
        .unwrap();
        setsockopt(&socket, Ipv6Ttl, &1).unwrap();
        setsockopt(
            &socket,
            nix::sys::socket::sockopt::SendTimeout,
            &nix::sys::time::TimeVal::new(20, 0),
        )
        .unwrap();
        let to = std::net::SocketAddrV6::new(POD[1].parse().unwrap(), 80, 0, 0);
        let started = Instant::now();
        let error = nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrIn6::from(to)).unwrap_err();
        (error.into(), started.elapsed())
    })
}

/// Waits for the first entry of a socket's error queue.
fn heard(socket: &impl AsRawFd) -> Heard {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let mut space = nix::cmsg_space!([u8; 128]);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        if let Ok(message) = recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut [], Some(&mut space), flags) {
            for control in message.cmsgs().unwrap() {
                if let ControlMessageOwned::Ipv6RecvErr(error, Some(from)) = control {
                    return Heard {
                        kind: error.ee_type,
                        from: Ipv6Addr::from(from.sin6_addr.s6_addr),
                        errno: i32::try_from(error.ee_errno).unwrap(),
                    };
                }
            }
        }
        assert!(Instant::now() < deadline, "the sender hears nothing");
        std::thread::yield_now();
    }
}
