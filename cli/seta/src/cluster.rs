//! The way to a cluster, and what kind of cluster it is.

pub(crate) mod agents;
pub(crate) mod detect;
pub(crate) mod exec;

use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use crate::cli::Global;
use crate::failure::Failure;

/// A cluster that does not answer a first question within this time cannot be reached.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// No single answer takes longer; no command of ours leaves a connection silent for longer either.
const ANY_ANSWER: Duration = Duration::from_secs(30);

/// A cluster that answers.
#[derive(Clone)]
pub(crate) struct Cluster {
    /// Its API.
    pub(crate) client: Client,
    /// The namespace Seta runs in.
    pub(crate) namespace: String,
    /// Name of the context, if a kubeconfig was used.
    pub(crate) context: Option<String>,
    /// Name of the cluster in the kubeconfig.
    pub(crate) name: Option<String>,
}

/// Connects, and asks the server for its version to know that it is there.
pub(crate) async fn connect(global: &Global) -> anyhow::Result<Cluster> {
    let (mut config, context, name) = configuration(global).await?;
    config.connect_timeout = Some(FIRST_ANSWER);
    config.read_timeout = Some(ANY_ANSWER);
    config.write_timeout = Some(ANY_ANSWER);
    let server = config.cluster_url.clone();
    let client = Client::try_from(config)
        .map_err(|error| Failure::Unreachable(format!("no connection to {server} is possible: {error}")))?;
    match tokio::time::timeout(FIRST_ANSWER, client.apiserver_version()).await {
        Ok(Ok(_)) => Ok(Cluster {
            client,
            namespace: global.namespace().to_owned(),
            context,
            name,
        }),
        Ok(Err(error)) => {
            let hint = if context
                .as_deref()
                .is_some_and(|context| context.starts_with("kind-"))
            {
                " (is the cluster up? `seta lab status` tells)"
            } else {
                ""
            };
            Err(Failure::Unreachable(format!(
                "the cluster at {server} does not answer{hint}: {}",
                root(&error)
            ))
            .into())
        }
        Err(_) => Err(Failure::Unreachable(format!(
            "the cluster at {server} did not answer within {} seconds",
            FIRST_ANSWER.as_secs()
        ))
        .into()),
    }
}

/// What the API server said, or why it could not be asked: one sentence, without the machinery around it.
pub(crate) fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        error => root(error),
    }
}

/// Answers of the API server become errors for people.
pub(crate) trait Told<T> {
    /// `doing` says what was going on, such as "listing pods".
    fn told(self, doing: &str) -> anyhow::Result<T>;
}

impl<T> Told<T> for kube::Result<T> {
    fn told(self, doing: &str) -> anyhow::Result<T> {
        self.map_err(|error| anyhow::anyhow!("{doing}: {}", told(&error)))
    }
}

/// The innermost cause, which is the one that people can act on ("connection refused").
fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

async fn configuration(global: &Global) -> anyhow::Result<(Config, Option<String>, Option<String>)> {
    let unreachable = |error: &dyn std::fmt::Display| Failure::Unreachable(format!("kubeconfig: {error}"));
    let kubeconfig = match &global.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let kubeconfig = match kubeconfig {
        Ok(kubeconfig) => kubeconfig,
        // In a pod there is no kubeconfig, and whoever names one wants no other.
        Err(error) => match Config::incluster() {
            Ok(config) if global.kubeconfig.is_none() && global.context.is_none() => {
                return Ok((config, None, None));
            }
            _ => {
                let cause = match &error {
                    KubeconfigError::ReadConfig(cause, path) => format!("{}: {cause}", path.display()),
                    other => root(other),
                };
                return Err(Failure::Unreachable(format!(
                    "no kubeconfig can be read ({cause}); name one with --kubeconfig, or bring a cluster up with `seta lab up`"
                ))
                .into());
            }
        },
    };
    let context = global
        .context
        .clone()
        .or_else(|| kubeconfig.current_context.clone());
    let known: Vec<_> = kubeconfig
        .contexts
        .iter()
        .map(|context| context.name.as_str())
        .collect();
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    if context.is_none() {
        return Err(Failure::Unreachable(format!(
            "the kubeconfig has no current context; name one with --context (it has: {known})"
        ))
        .into());
    }
    if let Some(wanted) = &context
        && !kubeconfig.contexts.iter().any(|known| known.name == *wanted)
    {
        return Err(
            Failure::Unreachable(format!("the kubeconfig has no context {wanted}; it has: {known}")).into(),
        );
    }
    let name = kubeconfig
        .contexts
        .iter()
        .find(|known| Some(&known.name) == context.as_ref())
        .and_then(|known| Some(known.context.as_ref()?.cluster.clone()));
    let options = KubeConfigOptions {
        context: context.clone(),
        ..KubeConfigOptions::default()
    };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|error| unreachable(&error))?;
    Ok((config, context, name))
}
