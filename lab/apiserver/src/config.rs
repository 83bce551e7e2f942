//! What the server is told at start, and the handle that its owner keeps.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::Ipv6Net;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::pki::Credentials;

/// Finds the unix socket of the kubelet of a node. `None`: no such node runs here.
pub type KubeletResolver = Arc<dyn Fn(&str) -> Option<PathBuf> + Send + Sync>;

/// Everything that the server needs to know. Nothing is read from the environment.
pub struct ServerConfig {
    /// Bound listeners; the first one is the address that [`Handle::admin_kubeconfig`] names.
    /// Bound by the caller, because some live in other network namespaces.
    pub listeners: Vec<std::net::TcpListener>,
    /// Cluster name; the kubeconfig context is `kind-<name>`.
    pub cluster_name: String,
    /// Cluster addresses of Services.
    pub service_cidr: Ipv6Net,
    /// Addresses of pods of the whole cluster; must not overlap those of Services.
    pub pod_cidr: Ipv6Net,
    /// The address that pods reach the server at: endpoint of the `kubernetes` Service, and the server in the
    /// kubeconfigs of kubelets and controllers.
    pub advertise: SocketAddr,
    /// Names and addresses in the server certificate beside 127.0.0.1, ::1, localhost, `kubernetes.default…`,
    /// the first service address and `advertise`.
    pub cert_sans: Vec<String>,
    /// Where the certificate authority and the token key are kept, so that kubeconfigs survive a restart.
    pub data_dir: PathBuf,
    /// How to reach kubelets for exec, attach, port-forward and logs.
    pub kubelets: KubeletResolver,
    /// Changes remembered per resource for watchers (`410 Gone` beyond).
    pub watch_history: usize,
}

impl ServerConfig {
    /// Changes remembered per resource unless told otherwise.
    pub const DEFAULT_WATCH_HISTORY: usize = 4096;

    /// First address of the service range, that of the `kubernetes` Service.
    pub fn kubernetes_service_ip(&self) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.service_cidr.network()) + 1)
    }
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No listener was given.
    #[error("no listener was given")]
    NoListener,
    /// Pods and Services would get the same addresses.
    #[error("the service range {services} and the pod range {pods} overlap")]
    RangesOverlap {
        /// Range of Services.
        services: Ipv6Net,
        /// Range of pods.
        pods: Ipv6Net,
    },
    /// A listener could not be used.
    #[error("cannot use a listener")]
    Listener(#[source] std::io::Error),
    /// Keys or certificates could not be made, read or kept.
    #[error("certificates")]
    Pki(#[from] crate::pki::PkiError),
    /// The objects that every cluster has could not be made.
    #[error("cannot create the initial objects")]
    Bootstrap(#[from] crate::status::Status),
}

/// A running server. Dropping the handle does not stop it; [`Handle::shutdown`] does.
pub struct Handle {
    pub(crate) client: Client,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) cluster_name: String,
    pub(crate) advertise: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: tokio_util::task::TaskTracker,
}
