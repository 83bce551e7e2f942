//! Connecting to the API server.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::error::{RequestError, request};

/// After so much silence a connection is given up. Longer than an idle watch lasts, which the server ends after 290 s
/// and kube after 295 s.
const SILENCE: Duration = Duration::from_secs(300);

/// Where the API server's address and our credentials come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// The service account of the pod: `KUBERNETES_SERVICE_HOST` (a name, an IPv4 or a bare IPv6 address) and
    /// `KUBERNETES_SERVICE_PORT`; the token is read anew when it rotates.
    InCluster,
    /// A kubeconfig file and one of its contexts; `None` is the current one.
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The context.
        context: Option<String>,
    },
    /// The service account when there is one, else the user's kubeconfig (`KUBECONFIG`, `~/.kube/config`).
    #[default]
    Infer,
}

/// No client could be made. Whether the API server answers is found out by the first request.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no usable service account.
    #[error("the pod's service account cannot be used")]
    InCluster(#[source] kube::config::InClusterError),
    /// There is no usable kubeconfig.
    #[error("the kubeconfig cannot be used")]
    Kubeconfig(#[source] Box<kube::config::KubeconfigError>),
    /// The credentials cannot be used.
    #[error("the credentials for the API server cannot be used")]
    Client(#[source] Box<kube::Error>),
}

/// A connection to the API server. Cheap to clone; connections are made when needed and again after a failure.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) client: Client,
    /// Who is named as the manager of the fields that are written.
    pub(crate) manager: &'static str,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("manager", &self.manager)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Makes a client. `manager` is the name of our program, which the API server records with what is written.
    ///
    /// # Errors
    /// When address or credentials cannot be used.
    pub async fn connect(access: &Access, manager: &'static str) -> Result<Self, ConnectError> {
        let mut config = match access {
            Access::InCluster => Config::incluster().map_err(ConnectError::InCluster)?,
            Access::Kubeconfig { path, context } => {
                let kubeconfig =
                    Kubeconfig::read_from(path).map_err(|error| ConnectError::Kubeconfig(Box::new(error)))?;
                let options = KubeConfigOptions {
                    context: context.clone(),
                    ..KubeConfigOptions::default()
                };
                from_kubeconfig(kubeconfig, &options).await?
            }
            Access::Infer => match Config::incluster() {
                Ok(config) => config,
                Err(error) => {
                    tracing::debug!(%error, "no service account, trying the kubeconfig");
                    let options = KubeConfigOptions::default();
                    Config::from_kubeconfig(&options)
                        .await
                        .map_err(|error| ConnectError::Kubeconfig(Box::new(error)))?
                }
            },
        };
        config.connect_timeout = Some(Duration::from_secs(5));
        config.write_timeout = Some(Duration::from_secs(10));
        // A list of a watch has no deadline of its own: without this one, a server that died without a word would hold
        // it for as long as TCP hopes, a quarter of an hour.
        config.read_timeout = Some(SILENCE);
        let client = Client::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))?;
        Ok(Self { client, manager })
    }

    /// Version of the API server, such as `1.33 (v1.33.1)`. Also tells whether it answers at all.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn version(&self) -> Result<String, RequestError> {
        let info = request("get", "the API server's version", self.client.apiserver_version()).await?;
        Ok(format!("{}.{} ({})", info.major, info.minor, info.git_version))
    }
}

async fn from_kubeconfig(
    kubeconfig: Kubeconfig,
    options: &KubeConfigOptions,
) -> Result<Config, ConnectError> {
    Config::from_custom_kubeconfig(kubeconfig, options)
        .await
        .map_err(|error| ConnectError::Kubeconfig(Box::new(error)))
}
