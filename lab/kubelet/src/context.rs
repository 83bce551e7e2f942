//! What all parts of a kubelet share.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use tokio::sync::watch;

use crate::{
    Args,
    catalogue::Catalogue,
    cni::{Caller, Network},
    events::Recorder,
};

/// Shared by the node, the pod workers and the server.
pub(crate) struct Context {
    pub(crate) args: Args,
    pub(crate) client: Client,
    pub(crate) catalogue: Catalogue,
    pub(crate) events: Recorder,
    pub(crate) cni: Caller,
    /// The network, or why there is none.
    pub(crate) network: watch::Receiver<Result<Arc<Network>, Arc<str>>>,
    pub(crate) paths: Paths,
    pods: Mutex<HashMap<(String, String), PodView>>,
}

/// Where things are.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    root: PathBuf,
}

/// What the server must know of a pod.
#[derive(Debug, Clone)]
pub(crate) struct PodView {
    pub(crate) uid: String,
    pub(crate) pod: Arc<Pod>,
    /// The pod's network namespace; `None` is the node's.
    pub(crate) netns: Option<PathBuf>,
    pub(crate) containers: HashMap<String, ContainerView>,
}

/// What the server must know of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerView {
    /// The running container, or none.
    pub(crate) running: Option<String>,
    /// How often it was started again.
    pub(crate) attempt: Option<u32>,
    /// Why it does not run yet, or not again, as its status says.
    pub(crate) waiting: Option<String>,
}

impl Context {
    pub(crate) fn new(
        args: Args,
        client: Client,
        catalogue: Catalogue,
        events: Recorder,
        network: watch::Receiver<Result<Arc<Network>, Arc<str>>>,
    ) -> Self {
        let paths = Paths::new(&args.root_dir);
        let cni = Caller {
            bin_dir: args.cni_bin_dir.clone(),
        };
        Self {
            args,
            client,
            catalogue,
            events,
            cni,
            network,
            paths,
            pods: Mutex::default(),
        }
    }

    /// The node's addresses as text, the primary one first.
    pub(crate) fn host_ips(&self) -> &[IpAddr] {
        &self.args.node_ips
    }

    /// The pods of this node, by namespace and name.
    pub(crate) fn pods(&self) -> MutexGuard<'_, HashMap<(String, String), PodView>> {
        // Views are replaced as a whole, so they are whole after a panic too.
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Paths {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    pub(crate) fn runtime(&self) -> PathBuf {
        self.root.join("crun")
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    pub(crate) fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    pub(crate) fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    pub(crate) fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(crate) fn log(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.logs()
            .join(uid)
            .join(container)
            .join(format!("{attempt}.log"))
    }
}
