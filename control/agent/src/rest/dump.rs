//! Whole tables of the kernel as a JSON list that is sent while it is read: the longest have millions of entries, and the
//! agent's memory is small.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use futures::{StreamExt as _, stream};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use super::refuse;
use crate::agent::Agent;

/// Bytes that are sent at once.
const PART: usize = 64 << 10;
/// Parts that wait for the reader.
const WAITING: usize = 2;
/// A reader that takes nothing for so long has left, or holds up the next one.
const PATIENCE: Duration = Duration::from_secs(20);

/// One dump at a time: each keeps a processor busy.
static TURN: Semaphore = Semaphore::const_new(1);

/// Sends what `write` puts into the list. An error before the first part becomes the answer; a later one breaks the
/// answer off, so that nobody takes a part of it for the whole.
pub(super) async fn list<W>(agent: Arc<Agent>, write: W) -> Response
where
    W: FnOnce(&Agent, &mut List) -> anyhow::Result<()> + Send + 'static,
{
    answer(move |list| write(&agent, list)).await
}

async fn answer<W>(write: W) -> Response
where
    W: FnOnce(&mut List) -> anyhow::Result<()> + Send + 'static,
{
    // It is never closed.
    let turn = TURN.acquire().await;
    let (parts, mut sent) = mpsc::channel(WAITING);
    let mut list = List {
        text: vec![b'['],
        parts,
        runtime: Handle::current(),
    };
    tokio::task::spawn_blocking(move || {
        let written = write(&mut list).and_then(|()| list.end());
        if let Err(error) = written {
            tracing::debug!("a table was not sent: {error:#}");
            // Without a reader nobody has to know.
            let _ = list.part(Err(io::Error::other(format!("{error:#}"))));
        }
        drop(turn);
    });
    match sent.recv().await {
        Some(Ok(first)) => {
            let rest = stream::unfold(sent, async |mut sent| Some((sent.recv().await?, sent)));
            Body::from_stream(stream::iter([Ok(first)]).chain(rest)).into_response()
        }
        Some(Err(error)) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), 0),
        None => refuse(StatusCode::INTERNAL_SERVER_ERROR, "the table cannot be read", 0),
    }
}

/// A JSON list on its way to a reader.
pub(super) struct List {
    text: Vec<u8>,
    parts: mpsc::Sender<Result<Bytes, io::Error>>,
    runtime: Handle,
}

impl List {
    /// Adds an entry.
    ///
    /// # Errors
    /// The reader has left.
    pub(super) fn push(&mut self, entry: &impl Serialize) -> anyhow::Result<()> {
        if self.text.last() != Some(&b'[') {
            self.text.push(b',');
        }
        serde_json::to_writer(&mut self.text, entry)?;
        if self.text.len() >= PART {
            self.flush()?;
        }
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.text.push(b']');
        self.flush()
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let text = std::mem::replace(&mut self.text, Vec::with_capacity(PART + PART / 8));
        self.part(Ok(text.into()))
    }

    fn part(&self, part: Result<Bytes, io::Error>) -> anyhow::Result<()> {
        self.runtime
            .block_on(tokio::time::timeout(PATIENCE, self.parts.send(part)))
            .context("the reader takes nothing")?
            .context("the reader has left")
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use serde_json::Value;

    use super::*;

    async fn body(response: Response) -> Result<Value, axum::Error> {
        let bytes = to_bytes(response.into_body(), usize::MAX).await?;
        Ok(serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn lists_of_any_length_arrive_whole() {
        for entries in [0, 1, 2, 100_000u64] {
            let response = answer(move |list| (0..entries).try_for_each(|entry| list.push(&entry))).await;
            let expected: Vec<u64> = (0..entries).collect();
            assert_eq!(body(response).await.unwrap(), serde_json::json!(expected));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_error_is_told_or_breaks_the_answer_off() {
        let response = answer(|_| anyhow::bail!("no map")).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(body(response).await.unwrap()["error"], "no map");
        let late = |list: &mut List| {
            (0..100_000).try_for_each(|entry| list.push(&entry))?;
            anyhow::bail!("no map any more")
        };
        let response = answer(late).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(body(response).await.is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_reader_that_leaves_makes_room_for_the_next() {
        let left = answer(|list| (0..1_000_000).try_for_each(|entry| list.push(&entry))).await;
        drop(left);
        assert_eq!(
            body(answer(|_| Ok(())).await).await.unwrap(),
            serde_json::json!([])
        );
    }
}
