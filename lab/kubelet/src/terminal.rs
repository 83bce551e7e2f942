//! Receiving a terminal from the runtime: the OCI console socket carries one message with one file descriptor.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    time::Duration,
};

use lab_streams::TerminalSize;
use rustix::{
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
    termios::{Winsize, tcsetwinsize},
};
use tokio::io::{Interest, unix::AsyncFd};

/// How long the runtime may take from its connection to its message.
const WITHIN: Duration = Duration::from_secs(30);

/// Waits for a connection and takes the terminal's master end from it. Blocks: for threads.
pub(crate) fn receive(listener: &UnixListener) -> io::Result<OwnedFd> {
    let (connection, _) = listener.accept()?;
    connection.set_read_timeout(Some(WITHIN))?;
    receive_from(&connection)
}

pub(crate) fn receive_from(connection: &UnixStream) -> io::Result<OwnedFd> {
    let mut text = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        connection,
        &mut [IoSliceMut::new(&mut text)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message
            && let Some(fd) = fds.next()
        {
            return Ok(fd);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "the runtime sent no terminal",
    ))
}

/// A terminal's master end for asynchronous use.
#[derive(Debug)]
pub(crate) struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
        // SAFETY: the descriptor is owned by the `AsyncFd`, which never gives it away: it stays open and the same until both
        // are dropped together.
        let fd = unsafe { AsyncFd::register(fd) }?;
        Ok(Self(fd))
    }

    /// Reads some bytes; 0 when the other side is closed.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self
            .0
            .async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut *buffer)?))
            .await;
        match read {
            // How a master end says that the last slave end was closed.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => Ok(0),
            read => read,
        }
    }

    pub(crate) async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let written = self
                .0
                .async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, data)?))
                .await?;
            data = data.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    pub(crate) fn resize(&self, size: TerminalSize) {
        let size = Winsize {
            ws_row: size.height,
            ws_col: size.width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // Nobody can do anything about a terminal that is gone.
        let _ = tcsetwinsize(self.0.get_ref(), size);
    }
}
