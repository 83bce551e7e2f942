//! New pods run their programs as filters, since making links takes the kernel long (`Datapath::attach_pod_at_once`);
//! the links follow when no more pods come. So do those of pods that a predecessor left with filters.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use loader::{AttachError, Datapath};

/// Links are made when no pod came for so long: each holds the kernel's routing lock, which a burst of pods needs
/// itself.
const QUIET: Duration = Duration::from_secs(1);

/// Pods whose links are not made yet, by the index of the host-side device. Bounded by the pods of the node.
#[derive(Debug, Default)]
pub(crate) struct Fresh(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: BTreeSet<u32>,
    last: Option<Instant>,
}

impl Fresh {
    /// A pod has its filters.
    pub(crate) fn insert(&self, ifindex: u32) {
        let mut state = self.lock();
        state.waiting.insert(ifindex);
        state.last = Some(Instant::now());
    }

    /// A pod is going, or has its links.
    pub(crate) fn remove(&self, ifindex: u32) {
        self.lock().waiting.remove(&ifindex);
    }

    /// Makes the links of all that wait, as long as no new pod comes. Goes on after a failure, which keeps the filters
    /// where they are, and reports the first.
    pub(crate) async fn settle(self: &Arc<Self>, datapath: &Arc<Datapath>) -> anyhow::Result<()> {
        let (mut outcome, mut done) = (Ok(()), None);
        while let Some(ifindex) = self.next(done) {
            done = Some(ifindex);
            let datapath = Arc::clone(datapath);
            // The kernel lets the caller wait, which the runtime's threads must not.
            let made = tokio::task::spawn_blocking(move || datapath.attach_pod(ifindex)).await?;
            match made {
                // Or deleted meanwhile.
                Ok(_) | Err(AttachError::NoDevice { .. }) => self.remove(ifindex),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        Ok(outcome?)
    }

    /// The next that waits, if it is quiet.
    fn next(&self, done: Option<u32>) -> Option<u32> {
        let state = self.lock();
        let quiet = state.last.is_none_or(|last| last.elapsed() >= QUIET);
        let first = done.map_or(0, |done| done.saturating_add(1));
        state.waiting.range(first..).next().copied().filter(|_| quiet)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
