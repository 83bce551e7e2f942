//! "Something changed": told to everybody who follows, any number of changes at once as one.

use tokio::sync::watch;

/// Whoever changes something calls [`Changes::touch`]; whoever follows waits on a receiver of its own. Clones share
/// the followers.
#[derive(Clone, Debug)]
pub(crate) struct Changes(watch::Sender<u64>);

impl Default for Changes {
    fn default() -> Self {
        Self(watch::channel(0).0)
    }
}

impl Changes {
    /// Something changed.
    pub(crate) fn touch(&self) {
        self.0
            .send_modify(|generation| *generation = generation.wrapping_add(1));
    }

    /// Follows from now on.
    #[must_use]
    pub(crate) fn follow(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}
