//! The sockets: datagrams and connections in, answers out.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use hickory_proto::op::{Message, ResponseCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::index::Index;
use crate::metrics::Metrics;
use crate::status::Readiness;
use crate::upstream::{Upstream, UpstreamError};
use crate::wire::{self, Chase, Response, Transport};
use crate::zone::Zone;

/// Largest request that is read from a datagram, octets; a question is never longer.
const REQUEST: usize = 4096;
/// Most connections at a time; further ones wait to be accepted.
const CONNECTIONS: usize = 512;
/// How long a connection may be silent, and how long the other side may take to read.
const IDLE: Duration = Duration::from_secs(10);
/// Pause after the system refused to give a datagram or a connection.
const REFUSED: Duration = Duration::from_millis(100);

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) index: Arc<RwLock<Index>>,
    pub(crate) readiness: Readiness,
    pub(crate) zone: Zone,
    pub(crate) upstream: Option<Upstream>,
    pub(crate) metrics: Metrics,
    pub(crate) turn: AtomicUsize,
}

/// What is left to do after the pure part.
enum Next {
    Done(Option<Vec<u8>>),
    Upstream(Response),
}

impl Server {
    fn begin(&self, request: &[u8], transport: Transport) -> Next {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let known = self.readiness.is_synced().then_some(&*index);
        match wire::respond(known, &self.zone, request, transport, turn) {
            Response::Silence => Next::Done(None),
            Response::Reply(reply) => Next::Done(Some(reply)),
            other => Next::Upstream(other),
        }
    }

    /// Asks upstream and returns the answer; it is an answer in any case.
    async fn ask(&self, request: &[u8], response: Response, transport: Transport) -> Option<Vec<u8>> {
        let Some(upstream) = &self.upstream else {
            return match response {
                Response::Forward { refusal } => Some(refusal),
                Response::Chase(chase) => Some(wire::fit(&chase.reply, chase.limit)),
                Response::Reply(reply) => Some(reply),
                Response::Silence => None,
            };
        };
        match response {
            Response::Forward { refusal } => {
                Some(self.asked(upstream, request, transport).await.unwrap_or(refusal))
            }
            Response::Chase(chase) => Some(self.chase(upstream, *chase).await),
            Response::Reply(reply) => Some(reply),
            Response::Silence => None,
        }
    }

    async fn asked(&self, upstream: &Upstream, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let Some(_permit) = upstream.permit() else {
            self.metrics.rejected();
            return None;
        };
        let answer = upstream.ask(question, transport).await;
        self.metrics.forwarded(answer.is_ok());
        answer.map_err(|error| tell(&error)).ok()
    }

    /// Adds what upstream says about the end of a chain of aliases. If it says nothing the alias alone is the answer.
    async fn chase(&self, upstream: &Upstream, chase: Chase) -> Vec<u8> {
        let Chase {
            mut reply,
            question,
            limit,
        } = chase;
        let answer = match question.to_vec() {
            // Over TCP, so that the answer is whole.
            Ok(question) => self.asked(upstream, &question, Transport::Tcp).await,
            Err(_) => None,
        };
        if let Some(answer) = answer.and_then(|answer| Message::from_vec(&answer).ok()) {
            match answer.metadata.response_code {
                ResponseCode::NoError => reply.answers.extend(answer.answers),
                ResponseCode::NXDomain => {
                    // The code is about the last name (RFC 6604).
                    reply.metadata.response_code = ResponseCode::NXDomain;
                    reply.answers.extend(answer.answers);
                    reply.authorities.extend(answer.authorities);
                }
                _ => {}
            }
        }
        wire::fit(&reply, limit)
    }

    async fn answer(&self, request: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let started = Instant::now();
        let answer = match self.begin(request, transport) {
            Next::Done(answer) => answer,
            Next::Upstream(response) => self.ask(request, response, transport).await,
        };
        self.metrics
            .answered(request, transport, answer.as_deref(), started.elapsed());
        answer
    }
}

fn tell(error: &UpstreamError) {
    tracing::debug!(
        error = error as &dyn std::error::Error,
        "cannot forward a question"
    );
}

/// Opens the sockets of a port, for both address families where the machine has both.
///
/// # Errors
/// The port is taken, or not for us.
pub(crate) async fn bind(port: u16) -> anyhow::Result<(UdpSocket, TcpListener)> {
    let both = async |address: std::net::IpAddr| -> std::io::Result<(UdpSocket, TcpListener)> {
        Ok((
            UdpSocket::bind((address, port)).await?,
            TcpListener::bind((address, port)).await?,
        ))
    };
    match both(Ipv6Addr::UNSPECIFIED.into()).await {
        Err(error) if error.raw_os_error() == Some(EAFNOSUPPORT) => both(Ipv4Addr::UNSPECIFIED.into()).await,
        bound => bound,
    }
    .with_context(|| format!("cannot serve port {port}"))
}

/// "Address family not supported", the same on every Linux.
const EAFNOSUPPORT: i32 = 97;

/// Answers datagrams until told to stop. What needs others is answered in tasks of its own, as many as `upstream` permits;
/// everything else at once.
pub(crate) async fn datagrams(
    server: Arc<Server>,
    socket: Arc<UdpSocket>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let mut buffer = vec![0; REQUEST];
    while let Some(received) = stop.run_until_cancelled(socket.recv_from(&mut buffer)).await {
        let (length, peer) = match received {
            Ok(received) => received,
            Err(error) => {
                tracing::warn!(%error, "cannot receive");
                tokio::time::sleep(REFUSED).await;
                continue;
            }
        };
        let request = &buffer[..length];
        let started = Instant::now();
        match server.begin(request, Transport::Udp) {
            Next::Done(answer) => {
                if let Some(answer) = &answer {
                    send(&socket, answer, peer).await;
                }
                server
                    .metrics
                    .answered(request, Transport::Udp, answer.as_deref(), started.elapsed());
            }
            Next::Upstream(response) => {
                let (server, socket, request) = (server.clone(), socket.clone(), request.to_vec());
                tasks.spawn(async move {
                    let answer = server.ask(&request, response, Transport::Udp).await;
                    if let Some(answer) = &answer {
                        send(&socket, answer, peer).await;
                    }
                    server
                        .metrics
                        .answered(&request, Transport::Udp, answer.as_deref(), started.elapsed());
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], peer: std::net::SocketAddr) {
    if let Err(error) = socket.send_to(answer, peer).await {
        tracing::debug!(%error, %peer, "cannot send an answer");
    }
}

/// Answers on connections until told to stop; then each may finish the answer that it is at.
pub(crate) async fn connections(
    server: Arc<Server>,
    listener: TcpListener,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let next = async || {
        let permit = permits.clone().acquire_owned().await;
        (permit, listener.accept().await)
    };
    while let Some((permit, accepted)) = stop.run_until_cancelled(next()).await {
        match accepted {
            Ok((stream, _)) => {
                let (server, stop) = (server.clone(), stop.clone());
                tasks.spawn(async move {
                    let _permit = permit;
                    // Whoever goes away in the middle is nobody's business.
                    let _ = connection(&server, stream, &stop).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(REFUSED).await;
            }
        }
    }
}

async fn connection(server: &Server, mut stream: TcpStream, stop: &CancellationToken) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let length = match stop.run_until_cancelled(timeout(IDLE, stream.read_u16())).await {
            Some(Ok(length)) => usize::from(length?),
            _ => return Ok(()),
        };
        let mut request = vec![0; length];
        timeout(IDLE, stream.read_exact(&mut request)).await??;
        let Some(answer) = server.answer(&request, Transport::Tcp).await else {
            return Ok(());
        };
        let mut message = u16::try_from(answer.len())
            .unwrap_or(u16::MAX)
            .to_be_bytes()
            .to_vec();
        message.extend_from_slice(&answer);
        timeout(IDLE, stream.write_all(&message)).await??;
    }
}
