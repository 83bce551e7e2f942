//! One SPDY connection on the server side: frames to streams and back.
//!
//! Each stream is a [`DuplexStream`]; two small tasks per stream move its bytes. Everything between is bounded: a stream that
//! nobody reads stops the reading of the connection, as a full pipe would.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf},
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::debug;

use super::{
    frame::{self, Frame, FrameError, Rst},
    headers::{HeaderDecoder, HeaderEncoder, HeaderError, Headers},
    window::{Overflow, Windows},
};

/// Streams of one connection that may be open at a time.
const MAX_STREAMS: usize = 512;
/// Bytes in flight between a stream's tasks and its user.
const PIPE: usize = 64 << 10;
/// Data is sent in pieces of this size, so that streams take turns.
const PIECE: usize = 16 << 10;
/// Frames waiting to be written, and pieces waiting to be read per stream.
const QUEUE: usize = 16;
/// How much is read before the peer is given room again.
const GRANT_EVERY: usize = 16 << 10;
/// Bytes of one connection that wait to be read by the users of its streams.
const UNREAD: usize = 4 << 20;

/// A stream that the client opened.
#[derive(Debug)]
pub struct Stream {
    /// Its headers; Kubernetes names the purpose in `streamtype`.
    pub headers: Headers,
    /// Its bytes. Shutting down the writing half sends FIN; end of file is the client's FIN or reset.
    pub io: DuplexStream,
}

impl Stream {
    /// The first value of a header; `name` in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A connection. Dropping it ends everything at once; see [`Session::finish`] for the orderly way.
#[derive(Debug)]
pub struct Session {
    incoming: mpsc::Receiver<Stream>,
    writer: mpsc::Sender<Frame>,
    senders: TaskTracker,
    reading: AbortOnDropHandle<()>,
    writing: AbortOnDropHandle<io::Result<()>>,
}

#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error(transparent)]
    Window(#[from] Overflow),
    #[error("the writing side is gone")]
    WriterGone,
}

#[derive(Debug)]
struct Flow {
    windows: Mutex<Windows>,
    granted: Notify,
}

impl Flow {
    fn windows(&self) -> MutexGuard<'_, Windows> {
        // The arithmetic inside cannot be left half done.
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(&self, stream: u32, want: usize) -> usize {
        loop {
            let granted = self.granted.notified();
            tokio::pin!(granted);
            granted.as_mut().enable();
            let taken = self.windows().take(stream, want);
            if taken > 0 {
                return taken;
            }
            granted.await;
        }
    }
}

impl Session {
    /// Starts to serve the connection behind `io`. Must be called within a tokio runtime.
    pub fn serve<S>(io: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(io);
        let (writer, frames) = mpsc::channel(QUEUE);
        let (opened, incoming) = mpsc::channel(QUEUE);
        let senders = TaskTracker::new();
        let reader = Reader {
            io: read,
            writer: writer.clone(),
            opened: Some(opened),
            streams: HashMap::new(),
            flow: Arc::new(Flow {
                windows: Mutex::new(Windows::new()),
                granted: Notify::new(),
            }),
            senders: senders.clone(),
            unread: Arc::new(Semaphore::new(UNREAD)),
            last_stream: 0,
        };
        let reading = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = reader.run().await {
                debug!(%error, "SPDY connection ended");
            }
        }));
        let writing = AbortOnDropHandle::new(tokio::spawn(write_frames(write, frames)));
        Self {
            incoming,
            writer,
            senders,
            reading,
            writing,
        }
    }

    /// The next stream the client opens; `None` once the connection is over.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.incoming.recv().await
    }

    /// Resets streams that the client opens from now on: nobody would serve them.
    pub fn refuse_more(&mut self) {
        self.incoming.close();
    }

    /// Waits until the connection is over by the client's doing.
    pub async fn closed(&mut self) {
        // A handle must not be asked again once it has answered.
        if !self.reading.is_finished() {
            let _ = (&mut self.reading).await;
        }
    }

    /// Sends what is still under way on all streams, then closes the connection. The streams must have been closed or dropped
    /// before, or this waits for `patience` in vain.
    pub async fn finish(self, patience: Duration) {
        let Self {
            incoming,
            writer,
            senders,
            reading,
            writing,
        } = self;
        drop(incoming);
        senders.close();
        let orderly = async {
            senders.wait().await;
            let _ = writer
                .send(Frame::GoAway {
                    last_stream: 0,
                    status: 0,
                })
                .await;
            // The client has everything once it hangs up in its turn. Closing first could cut off what it has not read yet.
            if !reading.is_finished() {
                let _ = reading.await;
            }
        };
        let _ = timeout(patience, orderly).await;
        drop(writer);
        let _ = timeout(patience, writing).await;
    }
}

async fn write_frames<W: AsyncWrite>(io: WriteHalf<W>, mut frames: mpsc::Receiver<Frame>) -> io::Result<()> {
    let mut io = io;
    let mut buffer = BytesMut::new();
    while let Some(frame) = frames.recv().await {
        let last = matches!(frame, Frame::GoAway { .. });
        frame::encode(&frame, &mut buffer);
        while let Ok(frame) = frames.try_recv() {
            frame::encode(&frame, &mut buffer);
            if buffer.len() > PIPE {
                break;
            }
        }
        io.write_all_buf(&mut buffer).await?;
        io.flush().await?;
        if last {
            io.shutdown().await?;
        }
    }
    io.shutdown().await
}

/// Bytes for a user, and the room that they take until they are read.
type Piece = (Bytes, OwnedSemaphorePermit);

/// What the reader keeps of an open stream.
struct Open {
    /// Gone after the client's FIN.
    inbound: Option<mpsc::Sender<Piece>>,
    /// Ends both directions when dropped by a reset.
    tasks: [tokio::task::AbortHandle; 2],
}

impl Open {
    fn is_over(&self) -> bool {
        self.tasks.iter().all(tokio::task::AbortHandle::is_finished)
    }
}

struct Reader<R> {
    io: ReadHalf<R>,
    writer: mpsc::Sender<Frame>,
    /// Gone after the client's GOAWAY.
    opened: Option<mpsc::Sender<Stream>>,
    streams: HashMap<u32, Open>,
    flow: Arc<Flow>,
    senders: TaskTracker,
    /// Room for bytes that nobody has read yet: frames are large, and streams many.
    unread: Arc<Semaphore>,
    last_stream: u32,
}

impl<R: AsyncRead + Send> Reader<R> {
    async fn run(mut self) -> Result<(), SessionError> {
        let result = self.read().await;
        // Without the connection nobody will ever read: senders must not wait for it.
        for stream in self.streams.values() {
            stream.tasks.iter().for_each(tokio::task::AbortHandle::abort);
        }
        result
    }

    async fn read(&mut self) -> Result<(), SessionError> {
        let mut decoder = HeaderDecoder::new();
        let mut encoder = HeaderEncoder::new()?;
        let mut buffer = BytesMut::with_capacity(PIPE);
        loop {
            while let Some(frame) = frame::decode(&mut buffer)? {
                self.handle(frame, &mut decoder, &mut encoder).await?;
            }
            if self.io.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn handle(
        &mut self,
        frame: Frame,
        decoder: &mut HeaderDecoder,
        encoder: &mut HeaderEncoder,
    ) -> Result<(), SessionError> {
        match frame {
            Frame::SynStream {
                stream,
                flags,
                headers,
                ..
            } => {
                let headers = decoder.decode(&headers)?;
                self.syn_stream(stream, flags & frame::FLAG_FIN != 0, headers, encoder)
                    .await?;
            }
            Frame::Data { stream, fin, data } => self.data(stream, fin, data).await?,
            // The compression state runs through these too.
            Frame::SynReply { headers, .. } => drop(decoder.decode(&headers)?),
            Frame::Headers { stream, fin, headers } => {
                decoder.decode(&headers)?;
                if fin {
                    self.data(stream, true, Bytes::new()).await?;
                }
            }
            Frame::RstStream { stream, .. } => {
                self.forget(stream);
            }
            Frame::Settings(settings) => {
                self.flow.windows().settings(&settings);
                self.flow.granted.notify_waiters();
            }
            // Odd numbers are the client's own: echo. We send none, so even ones answer nothing.
            Frame::Ping(id) if id % 2 == 1 => self.send(Frame::Ping(id)).await?,
            Frame::WindowUpdate { stream, delta } => {
                let granted = self.flow.windows().grant(stream, delta);
                match granted {
                    Err(overflow) if stream == 0 => return Err(overflow.into()),
                    Err(_) => {
                        self.forget(stream);
                        self.reset(stream, Rst::FlowControlError).await?;
                    }
                    Ok(()) => {}
                }
                self.flow.granted.notify_waiters();
            }
            Frame::GoAway { .. } => self.opened = None,
            Frame::Ping(_) | Frame::Unknown(_) => {}
        }
        Ok(())
    }

    async fn syn_stream(
        &mut self,
        id: u32,
        fin: bool,
        headers: Headers,
        encoder: &mut HeaderEncoder,
    ) -> Result<(), SessionError> {
        if id.is_multiple_of(2) || id <= self.last_stream {
            return self.reset(id, Rst::ProtocolError).await;
        }
        self.last_stream = id;
        self.streams.retain(|_, stream| !stream.is_over());
        let room = self.streams.len() < MAX_STREAMS;
        let Some(opened) = self.opened.clone().filter(|opened| room && !opened.is_closed()) else {
            return self.reset(id, Rst::RefusedStream).await;
        };
        self.flow.windows().open(id);
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let (from_app, to_app) = tokio::io::split(ours);
        let (inbound, pieces) = mpsc::channel(QUEUE);
        let receiving = tokio::spawn(receive(id, to_app, pieces, self.writer.clone()));
        let sending = self
            .senders
            .spawn(send(id, from_app, self.writer.clone(), self.flow.clone()));
        let tasks = [receiving.abort_handle(), sending.abort_handle()];
        self.streams.insert(
            id,
            Open {
                inbound: (!fin).then_some(inbound),
                tasks,
            },
        );
        // client-go drops data that comes before the reply: nothing may be sent earlier.
        self.send(Frame::SynReply {
            stream: id,
            fin: false,
            headers: encoder.encode(&[])?,
        })
        .await?;
        if opened.send(Stream { headers, io: theirs }).await.is_err() {
            self.opened = None;
        }
        Ok(())
    }

    async fn data(&mut self, id: u32, fin: bool, data: Bytes) -> Result<(), SessionError> {
        let Some(open) = self.streams.get_mut(&id) else {
            // Data may still be under way when a stream ends here; only streams that never were are an error.
            return if id > self.last_stream {
                self.reset(id, Rst::InvalidStream).await
            } else {
                Ok(())
            };
        };
        if let Some(inbound) = &open.inbound
            && !data.is_empty()
        {
            let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
            // Never closed; a frame is smaller than all of the room.
            if let Ok(room) = self.unread.clone().acquire_many_owned(size).await {
                let _ = inbound.send((data, room)).await;
            }
        }
        if fin {
            open.inbound = None;
        }
        Ok(())
    }

    /// Ends a stream in both directions.
    fn forget(&mut self, id: u32) {
        if let Some(stream) = self.streams.remove(&id) {
            stream.tasks.iter().for_each(tokio::task::AbortHandle::abort);
        }
        self.flow.windows().close(id);
    }

    async fn reset(&mut self, id: u32, why: Rst) -> Result<(), SessionError> {
        self.send(Frame::RstStream {
            stream: id,
            status: why as u32,
        })
        .await
    }

    async fn send(&mut self, frame: Frame) -> Result<(), SessionError> {
        self.writer
            .send(frame)
            .await
            .map_err(|_| SessionError::WriterGone)
    }
}

/// Client to user.
async fn receive(
    id: u32,
    mut to_app: WriteHalf<DuplexStream>,
    mut pieces: mpsc::Receiver<Piece>,
    writer: mpsc::Sender<Frame>,
) {
    let mut unacknowledged = 0;
    while let Some((piece, _room)) = pieces.recv().await {
        // A user who no longer reads does not stop the other streams: the rest is swallowed.
        let _ = to_app.write_all(&piece).await;
        unacknowledged += piece.len();
        if unacknowledged >= GRANT_EVERY {
            let delta = u32::try_from(unacknowledged).unwrap_or(u32::MAX);
            for stream in [id, 0] {
                if writer.send(Frame::WindowUpdate { stream, delta }).await.is_err() {
                    return;
                }
            }
            unacknowledged = 0;
        }
    }
    let _ = to_app.shutdown().await;
}

/// User to client.
async fn send(id: u32, mut from_app: ReadHalf<DuplexStream>, writer: mpsc::Sender<Frame>, flow: Arc<Flow>) {
    loop {
        let mut piece = BytesMut::with_capacity(PIECE);
        let read = from_app.read_buf(&mut piece).await.unwrap_or(0);
        let mut piece = piece.freeze();
        if read == 0 {
            let _ = writer
                .send(Frame::Data {
                    stream: id,
                    fin: true,
                    data: piece,
                })
                .await;
            flow.windows().close(id);
            return;
        }
        while !piece.is_empty() {
            let data = piece.split_to(flow.take(id, piece.len()).await);
            if writer
                .send(Frame::Data {
                    stream: id,
                    fin: false,
                    data,
                })
                .await
                .is_err()
            {
                return;
            }
        }
    }
}
