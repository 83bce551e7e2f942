//! What a worker knows of its pod, written to `pods/<uid>/state.json` so that the next kubelet goes on where this one stopped.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::backoff::Backoff;
use crate::{
    cni::{Attachment, Network},
    files,
    shim::Exit,
};

/// A pod on this node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct PodState {
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) sandbox: Option<Sandbox>,
    /// By container name, init containers too.
    pub(crate) units: BTreeMap<String, Unit>,
}

/// The pod's network namespace and its attachment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    /// `None` for host network.
    pub(crate) netns: Option<PathBuf>,
    pub(crate) addresses: Vec<std::net::IpAddr>,
    /// The network the pod was attached to: DEL must ask the same plugins.
    pub(crate) attached: Option<Attached>,
}

/// An attachment and its result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attached {
    pub(crate) network: Network,
    pub(crate) attachment: Attachment,
    pub(crate) result: Value,
}

/// A container of the pod, over all its attempts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Unit {
    /// How often it was started again.
    pub(crate) restarts: u32,
    /// The newest attempt's number; it names the log.
    pub(crate) attempt: Option<u32>,
    pub(crate) current: Current,
    /// How the attempt before ended.
    pub(crate) last: Option<Ended>,
    pub(crate) backoff: Backoff,
    /// No new attempt before.
    pub(crate) hold_until: Option<Timestamp>,
    /// Readiness and startup as the probes say; without probes, running.
    pub(crate) ready: bool,
    pub(crate) started: bool,
}

/// Where a container stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Current {
    /// Not started yet, or held back, with the reason that people see.
    Waiting {
        reason: String,
        message: String,
    },
    Running {
        id: String,
        at: Timestamp,
    },
    Ended(Ended),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) id: String,
    pub(crate) started_at: Timestamp,
    pub(crate) exit: Exit,
    pub(crate) reason: String,
    pub(crate) message: Option<String>,
}

impl Default for Current {
    fn default() -> Self {
        Self::Waiting {
            reason: "ContainerCreating".to_owned(),
            message: String::new(),
        }
    }
}

impl Unit {
    pub(crate) fn running(&self) -> Option<&str> {
        match &self.current {
            Current::Running { id, .. } => Some(id),
            _ => None,
        }
    }

    /// The newest end: of the current attempt, or of the one before when the container waits to start again.
    pub(crate) fn ended(&self) -> Option<&Ended> {
        match &self.current {
            Current::Ended(ended) => Some(ended),
            Current::Waiting { .. } => self.last.as_ref(),
            Current::Running { .. } => None,
        }
    }

    pub(crate) fn wait(&mut self, reason: &str, message: String) {
        if let Current::Ended(ended) = &self.current {
            self.last = Some(ended.clone());
        }
        self.current = Current::Waiting {
            reason: reason.to_owned(),
            message,
        };
        self.ready = false;
        self.started = false;
    }
}

impl PodState {
    /// The state of a pod that a kubelet left; a file that cannot be read is set aside.
    pub(crate) fn load(dir: &Path) -> Self {
        let path = dir.join("state.json");
        let Ok(text) = std::fs::read(&path) else {
            return Self::default();
        };
        serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(%error, path = %path.display(), "state is corrupt: set aside");
            let _ = std::fs::rename(&path, path.with_extension("corrupt"));
            Self::default()
        })
    }

    pub(crate) fn save(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)?;
        files::write_atomically(&dir.join("state.json"), &serde_json::to_vec(self)?)
    }
}
