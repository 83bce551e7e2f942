//! What every part of the running agent can reach: the value behind the REST socket.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s::{Kind, WatchState};
use loader::Datapath;
use model::AgentConfig;
use netlink::Netlink;
use tokio::sync::watch;

use crate::changes::Changes;
use crate::controllers::Controllers;
use crate::endpoints::Endpoints;
use crate::events::Events;
use crate::fresh::Fresh;
use crate::kernel::Kernel;
use crate::registry::Registry;
use crate::services::Services;
use crate::view::SharedView;

/// How watches are, by kind.
pub(crate) type WatchHealth = watch::Receiver<BTreeMap<Kind, WatchState>>;

/// The running agent.
pub(crate) struct Agent {
    /// Name of this node.
    pub(crate) node: String,
    /// Configuration.
    pub(crate) config: Arc<AgentConfig>,
    /// Keys that have no effect, as text.
    pub(crate) warnings: Vec<String>,
    /// What is known of the cluster.
    pub(crate) view: SharedView,
    /// The pods of this node.
    pub(crate) endpoints: Arc<Endpoints>,
    /// Tables and links.
    pub(crate) kernel: Arc<dyn Kernel>,
    /// Links, addresses and routes of the node.
    pub(crate) netlink: Netlink,
    /// Programs and tables.
    pub(crate) datapath: Arc<Datapath>,
    /// Services and what the tables hold of them.
    pub(crate) services: Arc<Services>,
    /// Pods whose links are not made yet.
    pub(crate) fresh: Arc<Fresh>,
    /// Events of the datapath.
    pub(crate) events: Events,
    /// Background work.
    pub(crate) controllers: Controllers,
    /// The rest of the cluster.
    pub(crate) registry: Arc<dyn Registry>,
    /// How the watches are; nothing when the agent is alone.
    pub(crate) watches: Option<WatchHealth>,
    /// Whoever follows changes of pods and cluster.
    pub(crate) changed: Changes,
    /// Where the CNI configuration is written, as the agent sees it.
    pub(crate) cni_conf: Option<PathBuf>,
    /// MTU of pods, bytes.
    pub(crate) mtu: u32,
    /// When the agent started.
    pub(crate) started: Instant,
    /// Milliseconds from start to ready; 0: not ready yet.
    pub(crate) ready_after: AtomicU64,
    /// What the agent waits for until it is ready.
    pub(crate) waits_for: Mutex<&'static str>,
}

impl Agent {
    /// Everything that exists is served, and new pods are taken.
    pub(crate) fn set_ready(&self) {
        let millis = u64::try_from(self.started.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        // Only the first time counts.
        let _ = self
            .ready_after
            .compare_exchange(0, millis, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The agent cannot be ready before this is there.
    pub(crate) fn wait_for(&self, what: &'static str) {
        *self.waits_for.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// Why the agent is not ready; nothing when it is.
    pub(crate) fn why_not_ready(&self) -> Option<String> {
        let what = *self.waits_for.lock().unwrap_or_else(PoisonError::into_inner);
        self.ready()
            .is_none()
            .then(|| format!("starting: waiting for {what}"))
    }

    /// How long it took to become ready; nothing when it is not yet.
    pub(crate) fn ready(&self) -> Option<Duration> {
        match self.ready_after.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(Duration::from_millis(millis)),
        }
    }
}

/// Version of the agent, as `cilium-dbg` prints it.
pub(crate) const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));
