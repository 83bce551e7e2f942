//! Connecting to a port inside a pod's network namespace, as port-forward does: to localhost, IPv6 first.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

const WITHIN: Duration = Duration::from_secs(5);

/// Connects to `port` on localhost of a namespace; `None` is our own.
pub(crate) async fn local(netns: Option<PathBuf>, port: u16) -> io::Result<tokio::net::TcpStream> {
    let (answer, connected) = oneshot::channel();
    // A thread of its own, because a thread that entered a namespace is good for nothing else.
    std::thread::spawn(move || {
        let _ = answer.send(connect(netns.as_deref(), port));
    });
    let stream = connected.await.map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    tokio::net::TcpStream::from_std(stream)
}

fn connect(netns: Option<&Path>, port: u16) -> io::Result<TcpStream> {
    if let Some(path) = netns {
        setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
    }
    let to = |ip: IpAddr| TcpStream::connect_timeout(&SocketAddr::new(ip, port), WITHIN);
    to(Ipv6Addr::LOCALHOST.into()).or_else(|_| to(Ipv4Addr::LOCALHOST.into()))
}
