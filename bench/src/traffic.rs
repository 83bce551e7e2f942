//! TCP request/response and stream between two network namespaces, by threads of this process.
//!
//! Rules against noise (docs/performance.md): server on CPU 0, client on CPU 1, cubic per socket (BBR, the default of some
//! machines, hides what the path can do).

use std::{
    ffi::OsString,
    fs::File,
    io::{Read as _, Write as _},
    net::{Ipv6Addr, SocketAddrV6, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    sched::{CloneFlags, CpuSet, sched_setaffinity, setns},
    sys::socket::{setsockopt, sockopt::TcpCongestion},
    unistd::Pid,
};

/// Where one side of a measurement runs.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The network namespace, as a file.
    pub netns: PathBuf,
    /// The address to listen on, or to connect to.
    pub address: Ipv6Addr,
}

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    /// One byte there, one byte back, one connection: transactions per second.
    RequestResponse,
    /// Bytes one way in writes of 64 KiB: bits per second.
    Stream,
}

/// Run one load for that long; transactions or bits per second, as the client counts (for a stream: what the server read).
pub(crate) fn measure(load: Load, server: &Place, client: &Place, duration: Duration) -> Result<f64> {
    let (ready, listening) = mpsc::channel();
    let at = server.clone();
    let served = thread::spawn(move || serve(load, &at, &ready));
    let address = listening
        .recv()
        .map_err(|_| anyhow!("the server ended before it listened"))?;
    let from = client.netns.clone();
    let sent = thread::spawn(move || call(load, &from, address, duration));
    let called = sent.join().map_err(|_| anyhow!("the client panicked"))??;
    let received = served.join().map_err(|_| anyhow!("the server panicked"))??;
    Ok(match load {
        Load::RequestResponse => called,
        Load::Stream => received,
    })
}

fn serve(load: Load, at: &Place, ready: &mpsc::Sender<SocketAddrV6>) -> Result<f64> {
    enter(&at.netns)?;
    pin(0)?;
    let listener = TcpListener::bind((at.address, 0)).with_context(|| format!("listen on {}", at.address))?;
    let port = listener.local_addr().context("local address")?.port();
    ready.send(SocketAddrV6::new(at.address, port, 0, 0)).ok();
    let (mut stream, _) = listener.accept().context("accept")?;
    prepare(&stream)?;
    match load {
        Load::RequestResponse => {
            let mut byte = [0];
            while stream.read(&mut byte).context("read a request")? == 1 {
                stream.write_all(&byte).context("write a response")?;
            }
            Ok(0.0)
        }
        Load::Stream => {
            let mut buffer = vec![0; 256 * 1024];
            let (started, mut bytes) = (Instant::now(), 0_u64);
            loop {
                match stream.read(&mut buffer).context("read the stream")? {
                    0 => break,
                    count => bytes += count as u64,
                }
            }
            Ok(bytes as f64 * 8.0 / started.elapsed().as_secs_f64())
        }
    }
}

fn call(load: Load, netns: &Path, address: SocketAddrV6, duration: Duration) -> Result<f64> {
    enter(netns)?;
    pin(1)?;
    let mut stream = TcpStream::connect_timeout(&address.into(), Duration::from_secs(5))
        .with_context(|| format!("connect to {address}"))?;
    prepare(&stream)?;
    let started = Instant::now();
    match load {
        Load::RequestResponse => {
            let (mut byte, mut count) = ([1], 0_u64);
            while started.elapsed() < duration {
                stream.write_all(&byte).context("write a request")?;
                stream.read_exact(&mut byte).context("read a response")?;
                count += 1;
            }
            Ok(count as f64 / started.elapsed().as_secs_f64())
        }
        Load::Stream => {
            let block = vec![0; 64 * 1024];
            while started.elapsed() < duration {
                stream.write_all(&block).context("write the stream")?;
            }
            Ok(0.0)
        }
    }
}

fn prepare(stream: &TcpStream) -> Result<()> {
    setsockopt(stream, TcpCongestion, &OsString::from("cubic")).context("this kernel has no cubic")?;
    stream.set_nodelay(true).context("TCP_NODELAY")?;
    // A path that does not carry the packets ends the measurement with an error, not with a hang.
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .context("read timeout")?;
    stream
        .set_write_timeout(Some(Duration::from_secs(10)))
        .context("write timeout")
}

/// This thread's sockets are made in that namespace from now on.
pub(crate) fn enter(netns: &Path) -> Result<()> {
    let file = File::open(netns).with_context(|| format!("open {}", netns.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {}", netns.display()))
}

pub(crate) fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).context("CPU number")?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("pin to CPU {cpu}"))
}
