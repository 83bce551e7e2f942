//! Starting and stopping: keys, store, initial objects, listeners.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{Api, Cluster};
use crate::client::Client;
use crate::config::{Handle, ServeError, ServerConfig};
use crate::kubeconfig::{Entry, KubeconfigError};
use crate::pki::{Credentials, PkiError};
use crate::store::Store;
use crate::token::Tokens;
use crate::{bootstrap, http};

/// How long shutdown waits for connections, which end within [`http::DRAIN`] of themselves.
const STOP: Duration = Duration::from_secs(2);

/// Starts the server; it answers when this returns. Must be called within a tokio runtime.
pub async fn serve(config: ServerConfig) -> Result<Handle, ServeError> {
    let (services, pods) = (config.service_cidr, config.pod_cidr);
    if services.contains(&pods) || pods.contains(&services) {
        return Err(ServeError::RangesOverlap { services, pods });
    }
    let credentials = Arc::new(Credentials::open(&config.data_dir, &config.cluster_name)?);
    let tokens = Tokens::new(&credentials)?;
    let tls = credentials.server_config(&names(&config))?;
    let cluster = Cluster {
        service_cidr: config.service_cidr,
        advertise: config.advertise,
        ca_certificate: credentials.ca_pem().to_owned(),
    };
    // Counting from the time makes revisions of an earlier run old, so its watchers start over.
    let first = u64::try_from(Timestamp::now().as_second()).unwrap_or(1);
    let store = Store::new(first, config.watch_history);
    let api = Arc::new(Api::new(store, tokens, config.kubelets.clone(), cluster));
    bootstrap::create(&api)?;

    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let mut addresses = Vec::new();
    for listener in config.listeners {
        listener.set_nonblocking(true).map_err(ServeError::Listener)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(ServeError::Listener)?;
        addresses.push(listener.local_addr().map_err(ServeError::Listener)?);
        let (api, tls, stop, open) = (api.clone(), tls.clone(), stop.clone(), tasks.clone());
        tasks.spawn(http::accept(listener, tls, api, stop, open));
    }
    if addresses.is_empty() {
        return Err(ServeError::NoListener);
    }
    tasks.close();
    Ok(Handle {
        client: Client::new(api),
        credentials,
        addresses,
        cluster_name: config.cluster_name,
        advertise: config.advertise,
        stop,
        tasks,
    })
}

/// Everything that callers may call the server.
fn names(config: &ServerConfig) -> Vec<String> {
    let mut names: Vec<String> = [
        "localhost",
        "127.0.0.1",
        "::1",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    .map(str::to_owned)
    .into();
    names.push(config.kubernetes_service_ip().to_string());
    names.push(config.advertise.ip().to_string());
    names.extend(config.cert_sans.iter().cloned());
    names.sort();
    names.dedup();
    names
}

impl Handle {
    /// The in-process client, as `system:admin`.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Where the server listens, in the order of the listeners given.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// PEM of the certificate authority.
    pub fn ca_certificate(&self) -> &str {
        self.credentials.ca_pem()
    }

    /// Kubeconfig entry for people: context `kind-<cluster>`, group `system:masters`, through the first listener.
    pub fn admin_kubeconfig(&self) -> Result<Entry, PkiError> {
        let context = format!("kind-{}", self.cluster_name);
        self.entry(
            &context,
            self.addresses[0],
            "kubernetes-admin",
            &["system:masters"],
        )
    }

    /// Kubeconfig of the kubelet of a node, through the advertised address.
    pub fn kubelet_kubeconfig(&self, node: &str) -> Result<Entry, PkiError> {
        self.entry(
            &self.cluster_name,
            self.advertise,
            &format!("system:node:{node}"),
            &["system:nodes"],
        )
    }

    /// Kubeconfig of a controller, for example `kube-scheduler`, through the advertised address.
    pub fn controller_kubeconfig(&self, name: &str) -> Result<Entry, PkiError> {
        self.entry(
            &self.cluster_name,
            self.advertise,
            &format!("system:{name}"),
            &["system:masters"],
        )
    }

    fn entry(
        &self,
        context: &str,
        server: SocketAddr,
        user: &str,
        groups: &[&str],
    ) -> Result<Entry, PkiError> {
        Ok(Entry {
            context: context.to_owned(),
            server: format!("https://{server}"),
            ca_certificate: self.credentials.ca_pem().to_owned(),
            client: self.credentials.client(user, groups)?,
        })
    }

    /// Merges the admin entry into a kubeconfig file and makes it the current context.
    pub fn write_admin_kubeconfig(&self, path: &std::path::Path) -> Result<(), KubeconfigError> {
        let entry = self.admin_kubeconfig().map_err(KubeconfigError::Credentials)?;
        crate::kubeconfig::merge(path, &entry)
    }

    /// Stops listening, lets open requests end for a moment, then drops them (watches among them).
    pub async fn shutdown(self) {
        self.stop.cancel();
        if tokio::time::timeout(STOP, self.tasks.wait()).await.is_err() {
            tracing::warn!("API server: some requests were still open at shutdown");
        }
    }
}
