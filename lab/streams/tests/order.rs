//! How a command ended is the last thing that a client hears: kube-rs stops reading there.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use futures::StreamExt;
use seta_lab_streams::{Outcome, Protocol, RemoteCommand, Wanted, channel, channel::Encoding};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

const PROTOCOL: Protocol = Protocol::WebSocket {
    version: 5,
    encoding: Encoding::Binary,
};

/// The channels of all messages with content, and how many bytes each had, for a command that writes that much.
async fn heard(stdout: usize, stderr: usize) -> Vec<(u8, usize)> {
    let (client, server) = tokio::io::duplex(1 << 10);
    let wanted = Wanted {
        stdout: true,
        stderr: true,
        ..Wanted::default()
    };
    let command = tokio::spawn(async move {
        let mut command = RemoteCommand::accept(server, PROTOCOL, wanted).await.unwrap();
        let (mut out, mut err) = (command.stdout.take().unwrap(), command.stderr.take().unwrap());
        err.write_all(&vec![b'e'; stderr]).await.unwrap();
        out.write_all(&vec![b'o'; stdout]).await.unwrap();
        drop((out, err));
        command.finish(&Outcome::Success).await;
    });
    let mut socket = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let mut heard = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        if message.is_binary()
            && let [number, rest @ ..] = message.into_data().as_ref()
            && !rest.is_empty()
        {
            heard.push((*number, rest.len()));
        }
    }
    command.await.unwrap();
    heard
}

async fn ends_with_its_status(stdout: usize, stderr: usize) {
    let heard = tokio::time::timeout(Duration::from_secs(30), heard(stdout, stderr))
        .await
        .unwrap();
    let sum = |wanted| {
        let of = heard.iter().filter(|(number, _)| *number == wanted);
        of.map(|(_, length)| length).sum::<usize>()
    };
    assert_eq!(
        (sum(channel::STDOUT), sum(channel::STDERR)),
        (stdout, stderr),
        "everything comes"
    );
    let statuses = heard
        .iter()
        .filter(|(number, _)| *number == channel::ERROR)
        .count();
    assert_eq!(statuses, 1);
    assert_eq!(
        heard.last().unwrap().0,
        channel::ERROR,
        "nothing comes after the status: {heard:?}"
    );
}

#[tokio::test]
async fn long_output_is_before_the_status() {
    ends_with_its_status(1 << 20, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_few_bytes_are_before_the_status_however_the_tasks_are_scheduled() {
    for _ in 0..2000 {
        ends_with_its_status(3, 3).await;
    }
}
