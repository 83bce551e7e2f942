//! New pods run their programs as filters, since making links takes the kernel long (`Datapath::attach_pod_at_once`);
//! the links follow when no more pods come. A predecessor's are made at the start, with those of all other pods.

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

    /// Whether a pod has only its filters.
    #[must_use]
    pub(crate) fn contains(&self, ifindex: u32) -> bool {
        self.lock().waiting.contains(&ifindex)
    }

    /// Makes the links of all that wait, as long as no new pod comes.
    pub(crate) async fn settle(self: &Arc<Self>, datapath: &Arc<Datapath>) -> anyhow::Result<()> {
        while let Some(ifindex) = self.next() {
            let (datapath, fresh) = (Arc::clone(datapath), Arc::clone(self));
            // The kernel lets the caller wait, which the runtime's threads must not.
            tokio::task::spawn_blocking(move || match datapath.attach_pod(ifindex) {
                // Deleted meanwhile.
                Ok(_) | Err(AttachError::NoDevice { .. }) => {
                    fresh.remove(ifindex);
                    Ok(())
                }
                Err(error) => Err(error),
            })
            .await??;
        }
        Ok(())
    }

    fn next(&self) -> Option<u32> {
        let state = self.lock();
        let quiet = state.last.is_none_or(|last| last.elapsed() >= QUIET);
        state.waiting.first().copied().filter(|_| quiet)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
