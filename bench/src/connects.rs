//! TCP connect, request, response: one connection per transaction, one after the other, by threads of this process.
//!
//! A fixed number of connections, so that no variant has to look through more of its own leftovers than another.

use std::{
    ffi::OsString,
    io::{Read as _, Write as _},
    net::{Ipv6Addr, SocketAddrV6, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::{
    socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn6, connect, setsockopt, socket,
        sockopt::{ReceiveTimeout, TcpCongestion},
    },
    time::TimeVal,
};

use crate::traffic::{enter, pin};

/// Connections before the clock starts.
const WARM_UP: usize = 300;
/// Nobody waits longer for the other side.
const PATIENCE: i64 = 10;

/// Connections per second from one namespace to an address that leads to a port of another.
pub(crate) fn rate(
    server: &Path,
    port: u16,
    client: &Path,
    target: SocketAddrV6,
    count: usize,
) -> Result<f64> {
    let (ready, listening) = mpsc::channel();
    let at = server.to_owned();
    let served = thread::spawn(move || serve(&at, port, WARM_UP + count, &ready));
    // When the server fails it says why below.
    if listening.recv().is_ok() {
        let from = client.to_owned();
        let called = thread::spawn(move || call(&from, target, count))
            .join()
            .map_err(|_| anyhow!("the client panicked"))?
            .with_context(|| format!("connect to {target}"))?;
        served.join().map_err(|_| anyhow!("the server panicked"))??;
        return Ok(count as f64 / called.as_secs_f64());
    }
    served.join().map_err(|_| anyhow!("the server panicked"))??;
    bail!("the server ended before it listened")
}

fn serve(netns: &Path, port: u16, count: usize, ready: &mpsc::Sender<()>) -> Result<()> {
    enter(netns)?;
    pin(0)?;
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).context("listen")?;
    // Holds for accept, too, and accepted sockets inherit it.
    setsockopt(&listener, ReceiveTimeout, &TimeVal::new(PATIENCE, 0)).context("SO_RCVTIMEO")?;
    setsockopt(&listener, TcpCongestion, &OsString::from("cubic")).context("this kernel has no cubic")?;
    ready.send(()).ok();
    let mut byte = [0];
    for _ in 0..count {
        let (mut stream, _) = listener.accept().context("accept")?;
        stream.read_exact(&mut byte).context("read a request")?;
        stream.write_all(&byte).context("write a response")?;
    }
    Ok(())
}

fn call(netns: &Path, target: SocketAddrV6, count: usize) -> Result<Duration> {
    enter(netns)?;
    pin(1)?;
    let mut started = Instant::now();
    let (mut byte, target) = ([1], SockaddrIn6::from(target));
    let cubic = OsString::from("cubic");
    for number in 0..WARM_UP + count {
        if number == WARM_UP {
            started = Instant::now();
        }
        // The namespace gives up after two lost SYNs; the server's end ends a read.
        let fd = socket(
            AddressFamily::Inet6,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .context("socket")?;
        setsockopt(&fd, TcpCongestion, &cubic).context("this kernel has no cubic")?;
        connect(fd.as_raw_fd(), &target).context("connect")?;
        let mut stream = TcpStream::from(fd);
        stream.write_all(&byte).context("write a request")?;
        stream.read_exact(&mut byte).context("read a response")?;
    }
    Ok(started.elapsed())
}
