//! What is passed on to a kubelet.

use crate::support::{DEADLINE, PODS, pod, start};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn logs_and_upgrades_reach_the_kubelet() {
    let server = start().await;
    server.post(PODS, &pod("p", "node-a")).await;
    server.post(PODS, &pod("lost", "node-b")).await;
    let socket = tokio::net::UnixListener::bind(server.directory.path().join("node-a.sock")).unwrap();
    // A kubelet that says what it was asked; an upgraded connection is an echo.
    let kubelet = tokio::spawn(async move {
        loop {
            let (mut stream, _) = socket.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let line = head.lines().next().unwrap().to_owned();
                if head.to_lowercase().contains("upgrade: echo") {
                    let answer =
                        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                } else {
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{line}",
                        line.len()
                    );
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    let log = server.get(&format!("{PODS}/p/log?follow=true&tailLines=5")).await;
    assert_eq!(
        log.text,
        "GET /containerLogs/default/p/c?follow=true&tailLines=5 HTTP/1.1"
    );
    let plain = server
        .raw(
            true,
            "POST",
            &format!("{PODS}/p/exec?command=ls&command=-l&container=c&stdout=true"),
            &[],
            "",
        )
        .await;
    assert_eq!(
        plain.text,
        "POST /exec/default/p/c?command=ls&command=-l&stdout=true HTTP/1.1"
    );

    let headers = [("connection", "Upgrade"), ("upgrade", "echo")];
    let response = server
        .open(
            true,
            "GET",
            &format!("{PODS}/p/exec?command=cat&stdin=true"),
            &headers,
            "",
        )
        .await;
    assert_eq!(response.status(), 101);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let sent: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let mut got = vec![0; sent.len()];
    let both = async { tokio::try_join!(write.write_all(&sent), read.read_exact(&mut got)) };
    tokio::time::timeout(DEADLINE, both).await.unwrap().unwrap();
    assert_eq!(got, sent);

    assert_eq!(
        server
            .get(&format!("{PODS}/p/log?container=nope"))
            .await
            .message(),
        "container nope is not valid for pod p"
    );
    assert_eq!(
        server.get(&format!("{PODS}/lost/log")).await.code,
        500,
        "a kubelet that is not there"
    );
    kubelet.abort();
}
