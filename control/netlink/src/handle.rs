//! The connection to the kernel's routing socket, bound to one network namespace.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::sys::{Socket, TokioSocket, protocols::NETLINK_ROUTE};

use crate::{NetlinkError, Netns};

/// How long the kernel may take to answer one request. It answers in microseconds; this only keeps a caller from
/// waiting for ever while somebody else holds the kernel's routing lock.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// How often a list is read again when something changed under the reading.
const DUMP_TRIES: usize = 10;
/// How long a list that nobody waits for any more gets to end.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// A connection to the kernel, bound to the network namespace it was opened in. Clones share it.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
    /// Keeps the task that reads the socket until the last clone is gone.
    reader: Arc<Reader>,
    /// Held while a list is read.
    dumps: Arc<tokio::sync::Mutex<()>>,
}

/// The task that moves messages between the socket and the requests. When it ends for whatever reason, requests
/// answer with [`NetlinkError::Closed`].
#[derive(Debug)]
struct Reader {
    task: tokio::task::JoinHandle<()>,
    closed: Arc<AtomicBool>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Netlink {
    /// Connects in the network namespace of the calling thread. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`NetlinkError::Open`].
    pub fn open() -> Result<Self, NetlinkError> {
        Self::from_socket(Socket::new(NETLINK_ROUTE).map_err(NetlinkError::Open)?)
    }

    /// Connects inside `netns`; the calling thread stays where it is.
    ///
    /// # Errors
    /// [`NetlinkError::Netns`], [`NetlinkError::Open`].
    pub async fn open_in(netns: &Netns) -> Result<Self, NetlinkError> {
        let socket = netns
            .run(|| Socket::new(NETLINK_ROUTE))
            .await?
            .map_err(NetlinkError::Open)?;
        Self::from_socket(socket)
    }

    pub(crate) fn from_socket(socket: Socket) -> Result<Self, NetlinkError> {
        let (connection, handle, _unsolicited) = rtnetlink::from_socket(tokio_socket(socket)?);
        let closed = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn({
            let closed = Arc::clone(&closed);
            let mut connection = Box::pin(connection);
            async move {
                connection.as_mut().await;
                // Told before the connection is dropped and ends the streams of its requests.
                closed.store(true, Ordering::Release);
            }
        });
        Ok(Self {
            handle,
            reader: Arc::new(Reader { task, closed }),
            dumps: Arc::default(),
        })
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) async fn change(
        &self,
        operation: &'static str,
        subject: impl Fn() -> String,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.exchange(operation, subject, message, NLM_F_ACK | flags)
            .await
            .map(drop)
    }

    /// Asks for everything of a kind.
    pub(crate) async fn dump(
        &self,
        operation: &'static str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        // The kernel answers one list per socket at a time and refuses a second one (`netlink_dump_start`: EBUSY).
        let _turn = self.dumps.lock().await;
        for _ in 0..DUMP_TRIES {
            match self
                .exchange(operation, String::new, message.clone(), NLM_F_DUMP)
                .await
            {
                Ok(answers) if answers.interrupted => {}
                Ok(answers) => return Ok(answers.messages),
                // The rest of a list whose caller has gone is still being read.
                Err(error) if error.errno() == Some(nix::libc::EBUSY) => tokio::time::sleep(BUSY_PAUSE).await,
                Err(error) => return Err(error),
            }
        }
        Err(NetlinkError::Unstable { operation })
    }

    /// Sends one request and collects the answers until the kernel says that there are no more.
    pub(crate) async fn exchange(
        &self,
        operation: &'static str,
        subject: impl Fn() -> String,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Answers, NetlinkError> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        let mut stream = self
            .handle
            .clone()
            .request(message)
            .map_err(|_| NetlinkError::Closed)?;
        let collect = async {
            let mut answers = Answers::default();
            while let Some(answer) = stream.next().await {
                answers.interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
                match answer.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(NetlinkError::Refused {
                            operation,
                            subject: subject(),
                            source: error.to_io(),
                        });
                    }
                    NetlinkPayload::InnerMessage(inner) => answers.messages.push(inner),
                    _ => {}
                }
            }
            // The stream ends after the last answer or acknowledgement, but also when the connection does.
            if self.reader.closed.load(Ordering::Acquire) {
                Err(NetlinkError::Closed)
            } else {
                Ok(answers)
            }
        };
        tokio::time::timeout(DEADLINE, collect).await.unwrap_or_else(|_| {
            Err(NetlinkError::Deadline {
                operation,
                subject: subject(),
                after: DEADLINE,
            })
        })
    }
}

/// What the kernel answered to one request.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) messages: Vec<RouteNetlinkMessage>,
    /// Something changed while a list was read, so that it may have entries twice or not at all.
    interrupted: bool,
}

/// Makes a socket, opened in whatever namespace, known to this thread's runtime.
pub(crate) fn tokio_socket(socket: Socket) -> Result<TokioSocket, NetlinkError> {
    // Checked here because the conversion below panics without a runtime.
    tokio::runtime::Handle::try_current().map_err(|error| NetlinkError::Open(io::Error::other(error)))?;
    // SAFETY: `into_raw_fd` hands over the only owner of an open socket, and the new owner takes it at once.
    Ok(unsafe { TokioSocket::from_raw_fd(socket.into_raw_fd()) })
}
