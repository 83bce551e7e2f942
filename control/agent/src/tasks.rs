//! Supervised background tasks: whatever ends or panics is started again with back-off, and shows in `status`.
//! At the end they are drained by name, within a deadline.

use std::time::Duration;

use anyhow::anyhow;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::changes::Changes;
use crate::controllers::Controllers;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A task that ran this long before it failed starts again without the pauses of earlier failures.
const GOOD_RUN: Duration = Duration::from_secs(60);

/// The agent's background tasks.
#[derive(Debug)]
pub(crate) struct Tasks {
    running: Vec<(&'static str, JoinHandle<()>)>,
    stop: CancellationToken,
    controllers: Controllers,
}

impl Tasks {
    /// No task yet; failures are counted in `controllers`.
    #[must_use]
    pub(crate) fn new(controllers: Controllers) -> Self {
        Self {
            running: Vec::new(),
            stop: CancellationToken::new(),
            controllers,
        }
    }

    /// Keeps `make()` running until the agent stops.
    pub(crate) fn keep<F>(&mut self, name: &'static str, mut make: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (stop, controllers) = (self.stop.clone(), self.controllers.clone());
        let supervisor = async move {
            let mut pause = FIRST_PAUSE;
            loop {
                let began = Instant::now();
                let run = AbortOnDropHandle::new(tokio::spawn(make()));
                let ended = tokio::select! {
                    () = stop.cancelled() => return,
                    ended = run => ended,
                };
                let error = match ended {
                    Ok(Ok(())) => anyhow!("ended, though it should run for ever"),
                    Ok(Err(error)) => error,
                    Err(panic) => anyhow!("{panic}"),
                };
                controllers.failure(name, error);
                pause = if began.elapsed() >= GOOD_RUN {
                    FIRST_PAUSE
                } else {
                    (pause * 2).min(LONGEST_PAUSE)
                };
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        };
        self.running.push((name, tokio::spawn(supervisor)));
    }

    /// Runs `work` again and again: `period` after a success, with back-off after a failure.
    pub(crate) fn every<F>(
        &mut self,
        name: &'static str,
        period: Duration,
        mut work: impl FnMut() -> F + Send + 'static,
    ) where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (stop, controllers) = (self.stop.clone(), self.controllers.clone());
        let repeat = async move {
            let mut pause = FIRST_PAUSE;
            loop {
                let run = AbortOnDropHandle::new(tokio::spawn(work()));
                let outcome = tokio::select! {
                    () = stop.cancelled() => return,
                    ended = run => ended.unwrap_or_else(|panic| Err(anyhow!("{panic}"))),
                };
                controllers.report(name, &outcome);
                let wait = if outcome.is_ok() {
                    pause = FIRST_PAUSE;
                    period
                } else {
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    pause
                };
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(wait) => {}
                }
            }
        };
        self.running.push((name, tokio::spawn(repeat)));
    }

    /// Runs `work` at once, after every change, and when `period` has passed without one; `work` is told whether it
    /// is to look at everything anew. After a failure it is tried again with back-off.
    pub(crate) fn follow<F>(
        &mut self,
        name: &'static str,
        changes: &Changes,
        period: Duration,
        mut work: impl FnMut(bool) -> F + Send + 'static,
    ) where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (stop, controllers) = (self.stop.clone(), self.controllers.clone());
        let mut changed = changes.follow();
        let repeat = async move {
            let (mut pause, mut whole) = (FIRST_PAUSE, true);
            loop {
                changed.mark_unchanged();
                let run = AbortOnDropHandle::new(tokio::spawn(work(whole)));
                let outcome = tokio::select! {
                    () = stop.cancelled() => return,
                    ended = run => ended.unwrap_or_else(|panic| Err(anyhow!("{panic}"))),
                };
                controllers.report(name, &outcome);
                whole = outcome.is_err();
                if outcome.is_err() {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                    }
                    continue;
                }
                pause = FIRST_PAUSE;
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = changed.changed() => {}
                    () = tokio::time::sleep(period) => whole = true,
                }
            }
        };
        self.running.push((name, tokio::spawn(repeat)));
    }

    /// Stops everything; what has not ended after `deadline` is named and dropped.
    pub(crate) async fn drain(self, deadline: Duration) {
        self.stop.cancel();
        let end = Instant::now() + deadline;
        for (name, task) in self.running {
            let task = AbortOnDropHandle::new(task);
            if tokio::time::timeout_at(end, task).await.is_err() {
                tracing::warn!(task = name, "did not end in time, dropped");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_fails_panics_or_ends_is_started_again() {
        let controllers = Controllers::default();
        let mut tasks = Tasks::new(controllers.clone());
        let runs = Arc::new(AtomicU32::new(0));
        let counter = runs.clone();
        tasks.keep("task", move || {
            let run = counter.fetch_add(1, Ordering::Relaxed);
            async move {
                match run {
                    0 => Ok(()),
                    1 => Err(anyhow!("no")),
                    2 => panic!("a panic of the test"),
                    _ => std::future::pending().await,
                }
            }
        });
        let until = Instant::now() + Duration::from_secs(60);
        while runs.load(Ordering::Relaxed) < 4 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let counts = controllers.snapshot();
        assert_eq!(
            (runs.load(Ordering::Relaxed), counts[0].status.failure_count),
            (4, 3)
        );
        tasks.drain(Duration::from_secs(1)).await;
    }

    #[tokio::test]
    async fn a_follower_runs_at_once_after_changes_and_now_and_then() {
        let mut tasks = Tasks::new(Controllers::default());
        let changes = Changes::default();
        let (sender, mut runs) = tokio::sync::mpsc::unbounded_channel();
        let period = Duration::from_millis(300);
        tasks.follow("follower", &changes, period, move |whole| {
            let sender = sender.clone();
            async move { Ok(sender.send(whole)?) }
        });
        assert_eq!(runs.recv().await, Some(true));
        changes.touch();
        changes.touch();
        assert_eq!(runs.recv().await, Some(false));
        let began = Instant::now();
        assert_eq!(runs.recv().await, Some(true));
        assert!(began.elapsed() >= period / 2, "two changes at once are one");
        tasks.drain(Duration::from_secs(1)).await;
    }

    #[tokio::test]
    async fn a_task_that_does_not_end_is_dropped_at_the_deadline() {
        let mut tasks = Tasks::new(Controllers::default());
        tasks.every("stuck", Duration::from_secs(1), std::future::pending);
        let began = Instant::now();
        tasks.drain(Duration::from_millis(50)).await;
        assert!(began.elapsed() < Duration::from_secs(20));
    }
}
