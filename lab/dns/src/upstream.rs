//! Questions about names that are not ours, asked elsewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::wire::{HEADER, Transport};

/// How long one server may take, and how many are tried: together less than the 5 s that resolvers wait.
const PATIENCE: Duration = Duration::from_millis(1500);
const ATTEMPTS: usize = 2;
/// Most octets of an answer in a datagram.
const DATAGRAM: usize = 4096;

/// Whom to ask.
#[derive(Debug)]
pub(crate) struct Upstream {
    servers: Vec<SocketAddr>,
    permits: Arc<Semaphore>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("the question cannot be read")]
    Question,
    #[error("{0} does not answer")]
    Timeout(SocketAddr),
    #[error("cannot ask {0}")]
    Io(SocketAddr, #[source] std::io::Error),
    #[error("there is nobody to ask")]
    Nobody,
}

impl Upstream {
    /// Asks `servers` in their order, not more than `max_concurrent` questions at a time.
    pub(crate) fn new(servers: Vec<SocketAddr>, max_concurrent: usize) -> Self {
        Self {
            servers,
            permits: Arc::new(Semaphore::new(max_concurrent)),
        }
    }

    /// The right to ask one question; `None` when too many are being asked.
    pub(crate) fn permit(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().ok()
    }

    /// Asks a question as it is and returns the answer as it is, both with the question's own id.
    pub(crate) async fn ask(&self, question: &[u8], transport: Transport) -> Result<Vec<u8>, UpstreamError> {
        let mut failure = UpstreamError::Nobody;
        for server in self.servers.iter().take(ATTEMPTS) {
            // An id of our own, and a port of the kernel's choice: what an answer must guess to be believed.
            let mut sent = question.to_vec();
            let [high, low, ..] = sent.as_mut_slice() else {
                return Err(UpstreamError::Question);
            };
            [*high, *low] = rand::random::<u16>().to_be_bytes();
            let end = question_end(question).ok_or(UpstreamError::Question)?;
            let asked = async {
                match transport {
                    Transport::Udp => datagram(*server, &sent, end).await,
                    Transport::Tcp => stream(*server, &sent, end).await,
                }
            };
            match timeout(PATIENCE, asked).await {
                Ok(Ok(mut answer)) => {
                    answer[..2].copy_from_slice(&question[..2]);
                    return Ok(answer);
                }
                Ok(Err(error)) => failure = UpstreamError::Io(*server, error),
                Err(_) => failure = UpstreamError::Timeout(*server),
            }
        }
        Err(failure)
    }
}

async fn datagram(server: SocketAddr, question: &[u8], end: usize) -> std::io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut answer).await?;
        if answers(&answer[..length], question, end) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn stream(server: SocketAddr, question: &[u8], end: usize) -> std::io::Result<Vec<u8>> {
    let too_long = |_| std::io::Error::from(std::io::ErrorKind::InvalidInput);
    let mut stream = TcpStream::connect(server).await?;
    let mut message = u16::try_from(question.len())
        .map_err(too_long)?
        .to_be_bytes()
        .to_vec();
    message.extend_from_slice(question);
    stream.write_all(&message).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    if answers(&answer, question, end) {
        Ok(answer)
    } else {
        Err(std::io::ErrorKind::InvalidData.into())
    }
}

/// Whether a message is the answer to a question whose question section ends at `end`: same id, and the same question
/// but for the case of letters. (Most servers keep the case; those that do not are none the less believed.)
fn answers(answer: &[u8], question: &[u8], end: usize) -> bool {
    answer.len() >= end
        && answer[..2] == question[..2]
        && answer[2] & 0x80 != 0
        && answer[4..6] == question[4..6]
        && answer[HEADER..end].eq_ignore_ascii_case(&question[HEADER..end])
}

/// Where the section of the only question of a message ends. `None` if there is not exactly one.
pub(crate) fn question_end(message: &[u8]) -> Option<usize> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut at = HEADER;
    loop {
        match usize::from(*message.get(at)?) {
            0 => break,
            length @ 1..=63 => at += 1 + length,
            // Nothing comes before the first name that it could point to.
            _ => return None,
        }
    }
    // The end of the name, type and class.
    Some(at + 5).filter(|end| *end <= message.len())
}
