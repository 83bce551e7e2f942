//! A SPDY client that does not keep to the rules, or asks for more than it is given.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use seta_lab_streams::spdy::frame::{self, Frame, Rst};
use seta_lab_streams::spdy::headers::HeaderEncoder;
use seta_lab_streams::spdy::session::Session;
use seta_lab_streams::{Outcome, Protocol, RemoteCommand, Wanted};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);

struct Client {
    io: DuplexStream,
    buffer: BytesMut,
    encoder: HeaderEncoder,
}

impl Client {
    fn new(io: DuplexStream) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
            encoder: HeaderEncoder::new().unwrap(),
        }
    }

    async fn send(&mut self, frame: &Frame) {
        let mut bytes = BytesMut::new();
        frame::encode(frame, &mut bytes);
        self.io.write_all(&bytes).await.unwrap();
    }

    async fn open(&mut self, stream: u32, kind: &str) {
        let headers = self
            .encoder
            .encode(&[("streamtype".to_owned(), kind.to_owned())])
            .unwrap();
        let frame = Frame::SynStream {
            stream,
            associated: 0,
            priority: 0,
            flags: 0,
            headers,
        };
        self.send(&frame).await;
    }

    /// The next frame; `None` when the server hung up.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = frame::decode(&mut self.buffer).unwrap() {
                return Some(frame);
            }
            let read = timeout(DEADLINE, self.io.read_buf(&mut self.buffer))
                .await
                .unwrap();
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    }
}

#[tokio::test]
async fn streams_that_nobody_will_serve_are_refused_and_hanging_up_is_noticed() {
    let (client, server) = tokio::io::duplex(1 << 20);
    let mut client = Client::new(client);
    client.open(1, "error").await;
    let mut command = RemoteCommand::accept(server, Protocol::Spdy(4), Wanted::default())
        .await
        .unwrap();
    assert!(matches!(
        client.next().await,
        Some(Frame::SynReply { stream: 1, .. })
    ));
    for stream in (3..203).step_by(2) {
        client.open(stream, "stdin").await;
        let refused = Frame::RstStream {
            stream,
            status: Rst::RefusedStream as u32,
        };
        assert_eq!(client.next().await, Some(refused));
    }
    drop(client);
    timeout(DEADLINE, command.hung_up()).await.unwrap();
    timeout(DEADLINE, command.finish(&Outcome::Success))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_window_that_overflows_ends_its_stream_or_the_connection() {
    let (client, server) = tokio::io::duplex(1 << 16);
    let mut client = Client::new(client);
    let mut session = Session::serve(server);
    client.open(1, "data").await;
    let mut stream = session.accept().await.unwrap();
    assert!(matches!(
        client.next().await,
        Some(Frame::SynReply { stream: 1, .. })
    ));
    let grant = |stream| Frame::WindowUpdate {
        stream,
        delta: 0x7fff_ffff,
    };
    client.send(&grant(1)).await;
    let reset = Frame::RstStream {
        stream: 1,
        status: Rst::FlowControlError as u32,
    };
    assert_eq!(client.next().await, Some(reset));
    assert_eq!(
        timeout(DEADLINE, stream.io.read(&mut [0]))
            .await
            .unwrap()
            .unwrap(),
        0
    );
    client.send(&grant(0)).await;
    timeout(DEADLINE, session.closed()).await.unwrap();
}

#[tokio::test]
async fn what_nobody_reads_is_not_kept_without_bounds() {
    let (client, server) = tokio::io::duplex(1 << 16);
    let mut client = Client::new(client);
    let mut session = Session::serve(server);
    let mut streams = Vec::new();
    for id in (1..33).step_by(2) {
        client.open(id, "data").await;
        streams.push(session.accept().await.unwrap());
    }
    let data = Bytes::from(vec![0; frame::MAX_FRAME]);
    let mut taken = 0;
    for stream in (1..33).step_by(2).cycle() {
        let data = data.clone();
        let frame = Frame::Data {
            stream,
            fin: false,
            data,
        };
        // Without a bound the server takes 16 frames for each of the 16 streams.
        if timeout(Duration::from_millis(500), client.send(&frame))
            .await
            .is_err()
        {
            break;
        }
        taken += 1;
        assert!(taken <= 8, "{taken} frames are kept");
    }
    drop(streams);
}
