//! A remote command's connection, whatever protocol carries it: exec and attach use [`RemoteCommand`] and nothing else.

use std::time::Duration;

use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    sync::mpsc,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    handshake::Protocol,
    spdy::session::{Session, Stream},
    status::Outcome,
    websocket,
};

/// How long a client may take to open the streams it announced.
const STREAMS_WITHIN: Duration = Duration::from_secs(30);
/// How long the last bytes may take to reach the client.
pub(crate) const FLUSH_WITHIN: Duration = Duration::from_secs(10);
/// Bytes in flight per stream.
pub(crate) const PIPE: usize = 64 << 10;
/// The longest message with a terminal size.
const MAX_SIZE_MESSAGE: usize = 4096;

/// Which streams the client asked for, from the query of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// `stdin=true`
    pub stdin: bool,
    /// `stdout=true`
    pub stdout: bool,
    /// `stderr=true`; never together with a terminal
    pub stderr: bool,
    /// `tty=true`
    pub tty: bool,
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The streams of a remote command. Streams that were not asked for are `None`.
///
/// After a hang-up of the client, reads end and writes fail.
#[derive(Debug)]
pub struct RemoteCommand {
    /// What the client types; its end is the client's end of input.
    pub stdin: Option<DuplexStream>,
    /// For the client's standard output.
    pub stdout: Option<DuplexStream>,
    /// For the client's standard error.
    pub stderr: Option<DuplexStream>,
    /// Sizes of the client's terminal, the current one first.
    pub resize: Option<mpsc::Receiver<TerminalSize>>,
    pub(crate) error: DuplexStream,
    pub(crate) connection: Connection,
}

#[derive(Debug)]
pub(crate) enum Connection {
    Spdy {
        session: Session,
        version: u8,
        _resizing: Option<AbortOnDropHandle<()>>,
    },
    WebSocket {
        socket: AbortOnDropHandle<()>,
        version: u8,
    },
}

/// Why a connection did not become a remote command.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The client did not open all streams in time.
    #[error("timed out waiting for client to create streams")]
    Timeout,
    /// The connection ended before.
    #[error("client hung up before it had created its streams")]
    HungUp,
    /// A stream of an unknown or unwanted kind, or twice the same.
    #[error("unexpected stream of type {0:?}")]
    UnexpectedStream(String),
    /// The agreed protocol is one of port-forwarding.
    #[error("not a remote command protocol")]
    WrongProtocol,
}

impl RemoteCommand {
    /// Serves the agreed protocol on `io`, the connection after the upgrade, and waits until all streams are there.
    ///
    /// # Errors
    /// See [`AcceptError`]; the connection is closed then.
    pub async fn accept<S>(io: S, protocol: Protocol, wanted: Wanted) -> Result<Self, AcceptError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match protocol {
            Protocol::Spdy(version) => {
                timeout(STREAMS_WITHIN, over_spdy(Session::serve(io), version, wanted))
                    .await
                    .map_err(|_| AcceptError::Timeout)?
            }
            Protocol::WebSocket { version, encoding } => {
                Ok(websocket::remote_command(io, version, encoding, wanted).await)
            }
            Protocol::SpdyForward | Protocol::TunnelledSpdyForward => Err(AcceptError::WrongProtocol),
        }
    }

    /// Waits until the client hangs up.
    pub async fn hung_up(&mut self) {
        match &mut self.connection {
            Connection::Spdy { session, .. } => session.closed().await,
            Connection::WebSocket { socket, .. } if !socket.is_finished() => drop(socket.await),
            Connection::WebSocket { .. } => {}
        }
    }

    /// Tells the client how it ended, after everything that was written to the other streams, and closes the connection.
    pub async fn finish(self, outcome: &Outcome) {
        let Self {
            stdin,
            stdout,
            stderr,
            resize,
            mut error,
            connection,
        } = self;
        drop((stdin, stdout, stderr, resize));
        let version = match &connection {
            Connection::Spdy { version, .. } | Connection::WebSocket { version, .. } => *version,
        };
        let message = if version >= 4 {
            outcome.to_status()
        } else {
            outcome.to_text().into_bytes()
        };
        // A client that hung up does not want to know.
        let _ = timeout(FLUSH_WITHIN, error.write_all(&message)).await;
        drop(error);
        match connection {
            Connection::Spdy { session, .. } => session.finish(FLUSH_WITHIN).await,
            Connection::WebSocket { socket, .. } if !socket.is_finished() => {
                drop(timeout(FLUSH_WITHIN, socket).await);
            }
            Connection::WebSocket { .. } => {}
        }
    }
}

async fn over_spdy(mut session: Session, version: u8, wanted: Wanted) -> Result<RemoteCommand, AcceptError> {
    let (mut stdin, mut stdout, mut stderr, mut error, mut resize) = (None, None, None, None, None);
    let want_resize = wanted.tty && version >= 3;
    let want_stderr = wanted.stderr && !wanted.tty;
    let mut missing = 1
        + usize::from(wanted.stdin)
        + usize::from(wanted.stdout)
        + usize::from(want_stderr)
        + usize::from(want_resize);
    while missing > 0 {
        let stream = session.accept().await.ok_or(AcceptError::HungUp)?;
        let kind = stream.header("streamtype").unwrap_or_default().to_owned();
        let slot = match kind.as_str() {
            "stdin" if wanted.stdin => &mut stdin,
            "stdout" if wanted.stdout => &mut stdout,
            "stderr" if want_stderr => &mut stderr,
            "error" => &mut error,
            "resize" if want_resize => &mut resize,
            _ => return Err(AcceptError::UnexpectedStream(kind)),
        };
        if slot.replace(stream).is_some() {
            return Err(AcceptError::UnexpectedStream(kind));
        }
        missing -= 1;
    }
    session.refuse_more();
    let io = |stream: Option<Stream>| stream.map(|stream| stream.io);
    let (sizes, resizing) = match io(resize) {
        Some(stream) => {
            let (sender, receiver) = mpsc::channel(8);
            (
                Some(receiver),
                Some(AbortOnDropHandle::new(tokio::spawn(read_sizes(stream, sender)))),
            )
        }
        None => (None, None),
    };
    Ok(RemoteCommand {
        stdin: io(stdin),
        stdout: io(stdout),
        stderr: io(stderr),
        resize: sizes,
        error: io(error).ok_or(AcceptError::HungUp)?,
        connection: Connection::Spdy {
            session,
            version,
            _resizing: resizing,
        },
    })
}

/// The resize stream is a sequence of JSON objects without separators that can be relied on.
async fn read_sizes(mut stream: DuplexStream, sizes: mpsc::Sender<TerminalSize>) {
    let mut buffer = Vec::new();
    loop {
        match stream.read_buf(&mut buffer).await {
            Ok(read) if read > 0 => {}
            _ => return,
        }
        for size in take_sizes(&mut buffer) {
            if sizes.send(size).await.is_err() {
                return;
            }
        }
        if buffer.len() > MAX_SIZE_MESSAGE {
            return;
        }
    }
}

/// Takes all complete sizes from the front of `buffer`. Garbage is dropped with everything behind it.
pub(crate) fn take_sizes(buffer: &mut Vec<u8>) -> Vec<TerminalSize> {
    let mut sizes = Vec::new();
    let mut documents = serde_json::Deserializer::from_slice(buffer).into_iter::<TerminalSize>();
    let mut used = 0;
    loop {
        match documents.next() {
            Some(Ok(size)) => {
                sizes.push(size);
                used = documents.byte_offset();
            }
            Some(Err(error)) if !error.is_eof() => {
                used = buffer.len();
                break;
            }
            Some(Err(_)) | None => break,
        }
    }
    buffer.drain(..used);
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_in_pieces_or_together() {
        let mut buffer = br#"{"Width":80,"Height":24}{"Width":81,"Hei"#.to_vec();
        assert_eq!(
            take_sizes(&mut buffer),
            [TerminalSize {
                width: 80,
                height: 24
            }]
        );
        buffer.extend_from_slice(b"ght\":25}\n");
        assert_eq!(
            take_sizes(&mut buffer),
            [TerminalSize {
                width: 81,
                height: 25
            }]
        );
        buffer.extend_from_slice(br#"{"Width":-1} garbage"#);
        assert_eq!(take_sizes(&mut buffer), []);
        assert!(buffer.is_empty());
    }
}
