//! Port-forwarding: pairs of a data and an error stream, one pair per forwarded connection.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    handshake::Protocol,
    spdy::session::{Session, Stream},
    websocket,
};

/// Connections of which only one stream has come so far.
const MAX_HALVES: usize = 64;

/// One connection to a port of the pod.
#[derive(Debug)]
pub struct Forwarded {
    /// The port in the pod.
    pub port: u16,
    /// Bytes of the connection.
    pub data: DuplexStream,
    /// Where to write why the port cannot be reached; nothing means success.
    pub error: DuplexStream,
}

/// A client's port-forward connection.
#[derive(Debug)]
pub struct PortForward {
    session: Session,
    halves: HashMap<String, Stream>,
    _tunnel: Option<AbortOnDropHandle<()>>,
}

/// The agreed protocol cannot carry a port-forward.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("not a protocol of port-forwarding that is served here")]
pub struct WrongProtocol;

impl PortForward {
    /// Serves the agreed protocol on `io`, the connection after the upgrade.
    ///
    /// # Errors
    /// When the protocol is not SPDY, plain or tunnelled.
    pub async fn accept<S>(io: S, protocol: Protocol) -> Result<Self, WrongProtocol>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (session, tunnel) = match protocol {
            Protocol::SpdyForward => (Session::serve(io), None),
            Protocol::TunnelledSpdyForward => {
                let (io, task) = websocket::tunnel(io).await;
                (Session::serve(io), Some(task))
            }
            Protocol::Spdy(_) | Protocol::WebSocket { .. } => return Err(WrongProtocol),
        };
        Ok(Self {
            session,
            halves: HashMap::new(),
            _tunnel: tunnel,
        })
    }

    /// The next connection the client wants; `None` once it hung up.
    pub async fn next(&mut self) -> Option<Forwarded> {
        loop {
            let stream = self.session.accept().await?;
            let kind = stream.header("streamtype").unwrap_or_default();
            let port = stream.header("port").and_then(|port| port.parse().ok());
            let port = port.filter(|port| *port > 0);
            let (Some(port), "data" | "error") = (port, kind) else {
                continue;
            };
            // Clients older than the request id use one pair per port.
            let request = stream
                .header("requestid")
                .or(stream.header("port"))
                .unwrap_or_default()
                .to_owned();
            let is_data = kind == "data";
            match self.halves.remove(&request) {
                Some(other) if (other.header("streamtype") == Some("data")) != is_data => {
                    let (data, error) = if is_data {
                        (stream.io, other.io)
                    } else {
                        (other.io, stream.io)
                    };
                    return Some(Forwarded { port, data, error });
                }
                _ if self.halves.len() < MAX_HALVES => {
                    self.halves.insert(request, stream);
                }
                _ => {}
            }
        }
    }

    /// Closes the connection once the streams are done.
    pub async fn finish(self, patience: Duration) {
        self.session.finish(patience).await;
    }
}

/// Tells a client why its connection failed.
pub async fn refuse(mut error: DuplexStream, why: String) {
    let _ = error.write_all(&Bytes::from(why)).await;
    let _ = error.shutdown().await;
}
