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
use nix::time::{ClockId, clock_gettime};

use crate::traffic::{enter, pin};

/// Connections before the clock starts.
const WARM_UP: usize = 300;
/// Nobody waits longer for the other side.
const PATIENCE: i64 = 10;

/// What a run of connections came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// Connections per second.
    pub(crate) per_second: f64,
    /// Time that client and server were on their CPUs per connection, µs: with all that the kernel did for them on the
    /// way, and without the turns that other processes of the machine had.
    pub(crate) cpu: f64,
}

/// Connections from one namespace to an address that leads to a port of another.
pub(crate) fn rate(
    server: &Path,
    port: u16,
    client: &Path,
    target: SocketAddrV6,
    count: usize,
) -> Result<Rate> {
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
        let served = served.join().map_err(|_| anyhow!("the server panicked"))??;
        return Ok(Rate {
            per_second: count as f64 / called.0.as_secs_f64(),
            cpu: (called.1 + served).as_secs_f64() * 1e6 / count as f64,
        });
    }
    served.join().map_err(|_| anyhow!("the server panicked"))??;
    bail!("the server ended before it listened")
}

fn serve(netns: &Path, port: u16, count: usize, ready: &mpsc::Sender<()>) -> Result<Duration> {
    enter(netns)?;
    pin(0)?;
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).context("listen")?;
    // Holds for accept, too, and accepted sockets inherit it.
    setsockopt(&listener, ReceiveTimeout, &TimeVal::new(PATIENCE, 0)).context("SO_RCVTIMEO")?;
    setsockopt(&listener, TcpCongestion, &OsString::from("cubic")).context("this kernel has no cubic")?;
    ready.send(()).ok();
    let (mut byte, mut started) = ([0], on_cpu()?);
    for number in 0..count {
        if number == WARM_UP {
            started = on_cpu()?;
        }
        let (mut stream, _) = listener.accept().context("accept")?;
        stream.read_exact(&mut byte).context("read a request")?;
        stream.write_all(&byte).context("write a response")?;
    }
    Ok(on_cpu()?.saturating_sub(started))
}

fn call(netns: &Path, target: SocketAddrV6, count: usize) -> Result<(Duration, Duration)> {
    enter(netns)?;
    pin(1)?;
    let (mut started, mut cpu) = (Instant::now(), on_cpu()?);
    let (mut byte, target) = ([1], SockaddrIn6::from(target));
    let cubic = OsString::from("cubic");
    for number in 0..WARM_UP + count {
        if number == WARM_UP {
            (started, cpu) = (Instant::now(), on_cpu()?);
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
    Ok((started.elapsed(), on_cpu()?.saturating_sub(cpu)))
}

/// How long this thread has been on a CPU.
fn on_cpu() -> Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("CPU time")?;
    Ok(time.into())
}
