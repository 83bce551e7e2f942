//! HTTP/1.1 over the agent's unix socket: one connection per request, every wait has a deadline.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::ApiError;

/// Most bytes of an answer that is taken as a whole. Tables, which may be longer, are copied.
const MAX_BODY: usize = 64 << 20;

/// A request that did not bring the answer it asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: the agent is down, or was never started.
    #[error("the agent does not answer on {}", socket.display())]
    Connect {
        /// Where it should listen.
        socket: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The agent did not answer in time.
    #[error("the agent did not answer within {} s", .0.as_secs())]
    Deadline(Duration),
    /// The connection broke.
    #[error("talking to the agent")]
    Http(#[from] hyper::Error),
    /// The request could not be written down.
    #[error("making the request")]
    Request(#[from] hyper::http::Error),
    /// Where the answer was copied to takes no more.
    #[error("keeping the agent's answer: {0}")]
    Write(#[source] std::io::Error),
    /// The body was too long or broke off.
    #[error("reading the agent's answer: {0}")]
    Body(String),
    /// The agent refused.
    #[error("{}", .error.error)]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its words.
        error: ApiError,
    },
    /// The agent answered something else than was asked for.
    #[error("the agent's answer is not what was asked for")]
    Decode(#[from] serde_json::Error),
}

/// A client of one socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    deadline: Duration,
}

impl Client {
    /// A client of the agent that listens on `socket`; every request ends within `deadline`.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>, deadline: Duration) -> Self {
        Self {
            socket: socket.into(),
            deadline,
        }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// GET and decode.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = self.exchange(Method::GET, path, Bytes::new()).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// GET, and copy the answer as it comes. It may be of any length; the deadline counts anew with every part of it.
    pub async fn copy(&self, path: &str, to: &mut impl Write) -> Result<(), ClientError> {
        let late = |_| ClientError::Deadline(self.deadline);
        let response = tokio::time::timeout(self.deadline, self.send(Method::GET, path, Bytes::new()))
            .await
            .map_err(late)??;
        let mut body = response.into_body();
        while let Some(frame) = tokio::time::timeout(self.deadline, body.frame())
            .await
            .map_err(late)?
        {
            let frame = frame.map_err(|error| ClientError::Body(error.to_string()))?;
            if let Ok(data) = frame.into_data() {
                to.write_all(&data).map_err(ClientError::Write)?;
            }
        }
        to.flush().map_err(ClientError::Write)
    }

    /// PUT and decode.
    pub async fn put<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let body = self
            .exchange(Method::PUT, path, serde_json::to_vec(body)?.into())
            .await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// GET an endless answer, line by line, until `each` answers false or the agent goes away.
    pub async fn lines(&self, path: &str, mut each: impl FnMut(&[u8]) -> bool) -> Result<(), ClientError> {
        let response = tokio::time::timeout(self.deadline, self.send(Method::GET, path, Bytes::new()))
            .await
            .map_err(|_| ClientError::Deadline(self.deadline))??;
        let mut body = response.into_body();
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            rest.extend_from_slice(&data);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if !each(&line[..end]) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let whole = async {
            let response = self.send(method, path, body).await?;
            read(response.into_body()).await
        };
        tokio::time::timeout(self.deadline, whole)
            .await
            .map_err(|_| ClientError::Deadline(self.deadline))?
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Connect {
                socket: self.socket.clone(),
                source,
            })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // The connection ends when the answer was read; its errors come out at the sender.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = read(response.into_body()).await?;
        let error = serde_json::from_slice(&body).unwrap_or_else(|_| ApiError {
            error: format!("{status}: {}", String::from_utf8_lossy(&body)),
            cni_code: 0,
        });
        Err(ClientError::Refused {
            status: status.as_u16(),
            error,
        })
    }
}

async fn read(body: Incoming) -> Result<Bytes, ClientError> {
    let whole = Limited::new(body, MAX_BODY)
        .collect()
        .await
        .map_err(|error| ClientError::Body(error.to_string()))?;
    Ok(whole.to_bytes())
}
