//! Remote commands over WebSocket channels, and SPDY connections inside WebSocket messages.

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use crate::{
    channel::{self, Encoding, Incoming},
    remote::{Connection, FLUSH_WITHIN, PIPE, RemoteCommand, TerminalSize, Wanted, take_sizes},
};

/// The longest message accepted; client-go sends at most 32 KiB at a time, tunnelled SPDY at most a frame.
const MAX_MESSAGE: usize = 2 << 20;
/// Output is sent in messages of this size.
const PIECE: usize = 16 << 10;
/// Messages waiting to be written.
const QUEUE: usize = 16;

pub(crate) async fn upgrade<S>(io: S) -> WebSocketStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

pub(crate) async fn remote_command<S>(io: S, version: u8, encoding: Encoding, wanted: Wanted) -> RemoteCommand
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let socket = upgrade(io).await;
    let (queue, messages) = mpsc::channel(QUEUE);
    let mut outputs = Vec::new();
    let mut output = |number: u8, wanted: bool| {
        wanted.then(|| {
            let (ours, theirs) = tokio::io::duplex(PIPE);
            outputs.push(AbortOnDropHandle::new(tokio::spawn(pump(
                number,
                ours,
                queue.clone(),
            ))));
            theirs
        })
    };
    let stdout = output(channel::STDOUT, wanted.stdout);
    let stderr = output(channel::STDERR, wanted.stderr && !wanted.tty);
    let (error_ours, error) = tokio::io::duplex(PIPE);
    let last_word = AbortOnDropHandle::new(tokio::spawn(pump_last(outputs, error_ours, queue.clone())));
    let (input, stdin) = match wanted.stdin {
        true => {
            let (ours, theirs) = tokio::io::duplex(PIPE);
            (Some(ours), Some(theirs))
        }
        false => (None, None),
    };
    let (sizes, resize) = mpsc::channel(8);
    // An empty message on the first channel tells the client that the command is on its way.
    let first = match (wanted.stdout, wanted.stderr) {
        (true, _) => channel::STDOUT,
        (_, true) => channel::STDERR,
        _ => channel::ERROR,
    };
    let _ = queue.send((first, Bytes::new())).await;
    let socket = Socket {
        socket,
        encoding,
        has_close: version >= 5,
        input,
        sizes,
    };
    let socket = AbortOnDropHandle::new(tokio::spawn(async move {
        socket.serve(messages, last_word).await;
    }));
    drop(queue);
    RemoteCommand {
        stdin,
        stdout,
        stderr,
        resize: wanted.tty.then_some(resize),
        error,
        connection: Connection::WebSocket { socket, version },
    }
}

/// How it ended, once everything that was written before is on its way: clients (kube-rs) stop reading at this message.
async fn pump_last(
    outputs: Vec<AbortOnDropHandle<()>>,
    from_app: DuplexStream,
    queue: mpsc::Sender<(u8, Bytes)>,
) {
    for output in outputs {
        // However it ended, there is nothing more to wait for.
        let _ = output.await;
    }
    pump(channel::ERROR, from_app, queue).await;
}

/// User to client: one channel.
async fn pump(number: u8, mut from_app: DuplexStream, queue: mpsc::Sender<(u8, Bytes)>) {
    loop {
        let mut piece = BytesMut::with_capacity(PIECE);
        match from_app.read_buf(&mut piece).await {
            Ok(read) if read > 0 => {}
            _ => return,
        }
        if queue.send((number, piece.freeze())).await.is_err() {
            return;
        }
    }
}

struct Socket<S> {
    socket: WebSocketStream<S>,
    encoding: Encoding,
    has_close: bool,
    input: Option<DuplexStream>,
    sizes: mpsc::Sender<TerminalSize>,
}

impl<S> Socket<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// `pumps` fill `messages`; they end with the connection.
    async fn serve(self, mut messages: mpsc::Receiver<(u8, Bytes)>, pumps: AbortOnDropHandle<()>) {
        let Self {
            socket,
            encoding,
            has_close,
            mut input,
            sizes,
        } = self;
        let (mut sink, mut source) = socket.split();
        let incoming = async {
            while let Some(Ok(message)) = source.next().await {
                let data = match message {
                    Message::Binary(data) => data,
                    Message::Text(text) => Bytes::from(text),
                    // Pings are answered by the library, and so is a close: reading on sends the answer, and is the end.
                    _ => continue,
                };
                match channel::decode(&data, encoding, has_close) {
                    Ok(Incoming::Data(channel::STDIN, data)) => {
                        if let Some(open) = &mut input
                            && open.write_all(&data).await.is_err()
                        {
                            input = None;
                        }
                    }
                    Ok(Incoming::Data(channel::RESIZE, data)) => {
                        for size in take_sizes(&mut data.to_vec()) {
                            // Only the newest size matters: a full queue means that nobody looks yet.
                            let _ = sizes.try_send(size);
                        }
                    }
                    Ok(Incoming::Close(channel::STDIN)) => input = None,
                    Ok(_) => {}
                    Err(error) => {
                        debug!(%error, "WebSocket message refused");
                        return;
                    }
                }
            }
        };
        let outgoing = async {
            while let Some((number, data)) = messages.recv().await {
                let message = channel::encode(number, &data, encoding);
                let message = match encoding {
                    Encoding::Binary => Message::Binary(message),
                    Encoding::Base64 => Message::Text(String::from_utf8_lossy(&message).into_owned().into()),
                };
                if sink.send(message).await.is_err() {
                    return;
                }
            }
            let bye = CloseFrame {
                code: CloseCode::Normal,
                reason: "".into(),
            };
            let _ = sink.send(Message::Close(Some(bye))).await;
        };
        tokio::pin!(incoming);
        tokio::select! {
            // The client hung up: nobody reads the output any more, and dropping it here tells the writers.
            () = &mut incoming => {}
            // All was said: wait for the client's own close, so that nothing is cut off.
            () = outgoing => {
                let _ = timeout_at(Instant::now() + FLUSH_WITHIN, incoming).await;
            }
        }
        drop(pumps);
    }
}

/// A byte stream inside binary messages, as the port-forward of kubectl 1.31 tunnels SPDY.
pub(crate) async fn tunnel<S>(io: S) -> (DuplexStream, AbortOnDropHandle<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (ours, theirs) = tokio::io::duplex(PIPE);
    let (mut sink, mut source) = upgrade(io).await.split();
    let (mut from_app, mut to_app) = tokio::io::split(ours);
    let task = tokio::spawn(async move {
        let inward = async {
            while let Some(Ok(message)) = source.next().await {
                let data = match message {
                    Message::Binary(data) => data,
                    Message::Close(_) => break,
                    _ => continue,
                };
                if to_app.write_all(&data).await.is_err() {
                    break;
                }
            }
            let _ = to_app.shutdown().await;
        };
        let outward = async {
            loop {
                let mut piece = BytesMut::with_capacity(PIECE);
                match from_app.read_buf(&mut piece).await {
                    Ok(read) if read > 0 => {}
                    _ => break,
                }
                if sink.send(Message::Binary(piece.freeze())).await.is_err() {
                    break;
                }
            }
            let _ = sink.close().await;
        };
        tokio::join!(inward, outward);
    });
    (theirs, AbortOnDropHandle::new(task))
}
