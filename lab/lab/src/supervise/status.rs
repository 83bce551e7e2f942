//! The supervisor's hand on `status.json`.

use std::sync::{Arc, Mutex, PoisonError};

use crate::state::{KubeletStatus, Paths, Status, write_json};

/// The status, kept in memory and written to its file with every change. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct StatusFile {
    paths: Paths,
    status: Arc<Mutex<Status>>,
}

impl StatusFile {
    /// Of a supervisor that starts now.
    pub(crate) fn new(paths: &Paths) -> Self {
        Self {
            paths: paths.clone(),
            status: Arc::default(),
        }
    }

    /// Changes the status and writes it down, if it did change. A failure is logged: the cluster works without.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Status)) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let before = status.clone();
        change(&mut status);
        if *status != before
            && let Err(error) = write_json(&self.paths.status(), &*status)
        {
            tracing::warn!("{error:#}");
        }
    }

    /// Changes what is said about one node.
    pub(crate) fn change_node(&self, node: &str, change: impl FnOnce(&mut KubeletStatus)) {
        self.change(|status| {
            let position = status
                .kubelets
                .iter()
                .position(|kubelet| kubelet.node == node)
                .unwrap_or_else(|| {
                    status.kubelets.push(KubeletStatus {
                        node: node.to_owned(),
                        pid: None,
                        restarts: 0,
                        ready: false,
                    });
                    status.kubelets.len() - 1
                });
            if let Some(kubelet) = status.kubelets.get_mut(position) {
                change(kubelet);
            }
        });
    }
}
