//! Whatever comes after the upgrade, the server answers, refuses or hangs up; it never fails or waits for ever.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use proptest::prelude::*;
use seta_lab_streams::{Outcome, PortForward, Protocol, RemoteCommand, Wanted, channel::Encoding};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PROTOCOLS: [Protocol; 4] = [
    Protocol::Spdy(4),
    Protocol::Spdy(1),
    Protocol::WebSocket {
        version: 5,
        encoding: Encoding::Binary,
    },
    Protocol::WebSocket {
        version: 1,
        encoding: Encoding::Base64,
    },
];

async fn feed(protocol: Protocol, bytes: Vec<u8>) {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let wanted = Wanted {
        stdin: true,
        stdout: true,
        stderr: false,
        tty: true,
    };
    let served = tokio::spawn(async move {
        if let Ok(mut command) = RemoteCommand::accept(server, protocol, wanted).await {
            command.hung_up().await;
            command.finish(&Outcome::Exit(1)).await;
        }
    });
    // A server that hung up already does not take everything.
    let _ = client.write_all(&bytes).await;
    let _ = client.shutdown().await;
    let _ = client.read_to_end(&mut Vec::new()).await;
    tokio::time::timeout(Duration::from_secs(20), served)
        .await
        .unwrap()
        .unwrap();
}

async fn feed_forward(protocol: Protocol, bytes: Vec<u8>) {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let served = tokio::spawn(async move {
        let mut forward = PortForward::accept(server, protocol).await.unwrap();
        while forward.next().await.is_some() {}
        forward.finish(Duration::from_secs(5)).await;
    });
    let _ = client.write_all(&bytes).await;
    let _ = client.shutdown().await;
    let _ = client.read_to_end(&mut Vec::new()).await;
    tokio::time::timeout(Duration::from_secs(20), served)
        .await
        .unwrap()
        .unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300), control: bool) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut bytes = bytes;
        if control && bytes.len() > 8 {
            // The head of a SPDY control frame that fits, so that more of the way is gone.
            let length = bytes.len() - 8;
            bytes[..3].copy_from_slice(&[0x80, 3, 0]);
            bytes[3] %= 10;
            bytes[5..8].copy_from_slice(&[0, (length >> 8) as u8, length as u8]);
        }
        runtime.block_on(async {
            for protocol in PROTOCOLS {
                feed(protocol, bytes.clone()).await;
            }
            for protocol in [Protocol::SpdyForward, Protocol::TunnelledSpdyForward] {
                feed_forward(protocol, bytes.clone()).await;
            }
        });
    }
}
