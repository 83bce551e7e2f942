//! The node agent: knows the pods of its node and the cluster around them, and keeps the kernel's programs, tables,
//! links and routes as they should be.
//!
//! It brings the walls together (`k8s`, `netlink`, `loader`) around the decisions of `model`, and serves what it
//! knows on a REST socket (`api`). Nothing that a packet needs lives in this process: it may end at any moment.
//!
//! ```text
//! k8s watches ─→ view ─┬─→ follow ──→ identities, CiliumEndpoints
//!                      ├─→ node ────→ CiliumNode
//! CNI ─→ rest ─→ endpoints ─┴─→ reconcile ─→ tables, routes
//! ring ─→ events ─→ counts, monitor
//! ```
#![forbid(unsafe_code)]

mod agent;
mod background;
mod changes;
mod cleanup;
mod cluster;
mod cniconf;
mod config;
mod controllers;
mod endpoints;
mod events;
mod files;
mod follow;
mod fresh;
mod health;
mod host;
mod ipmasq;
mod kernel;
mod metrics;
mod node;
mod programs;
mod queue;
mod reconcile;
mod registry;
mod rest;
mod services;
mod startup;
mod tasks;
mod view;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ipnet::IpNet;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

pub use cleanup::{CleanupArgs, cleanup};

use controllers::Controllers;
use tasks::Tasks;

/// The task that writes tables and routes.
const RECONCILE: &str = "reconcile";
/// How long background tasks get to end.
const DRAIN: Duration = Duration::from_secs(5);
/// Threads of the runtime; on machines with many cores the default would be as many.
const WORKERS: usize = 2;
/// `EX_USAGE` of sysexits(3): the configuration cannot be used, starting again will not help.
const EX_USAGE: u8 = 64;

/// Run the agent of a node
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Directory with one file per key of the `cilium-config` ConfigMap
    #[arg(long, default_value = "/tmp/cilium/config-map")]
    pub config_dir: PathBuf,
    /// Kubeconfig file; without it the service account of the pod is used
    #[arg(long)]
    pub k8s_kubeconfig: Option<PathBuf>,
    /// Name of this node in Kubernetes
    #[arg(long, env = "K8S_NODE_NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub node_name: String,
    /// Directory of the state file
    #[arg(long, default_value = "/var/run/cilium/state")]
    pub state_dir: PathBuf,
    /// Socket to serve on; the queue of the CNI plugin's deletes is beside it
    #[arg(long, env = "CILIUM_SOCK", default_value = api::SOCKET)]
    pub socket: PathBuf,
    /// Mount point of bpffs
    #[arg(long, default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// The file of ip-masq-agent, which names destinations that are not masqueraded [default: that of the configuration]
    #[arg(long)]
    pub ip_masq_agent_config_path: Option<PathBuf>,
    /// Root of the node's cgroup v2 hierarchy, or of a hybrid one with it in `unified`: services are translated at the
    /// sockets of all processes below
    #[arg(long, default_value = "/host/sys/fs/cgroup")]
    pub cgroup_root: PathBuf,
    /// Where to copy the CNI plugin; left out when the directory does not exist
    #[arg(long, default_value = "/host/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,
    /// A proc file system whose `sys` can be written
    #[arg(long, default_value = "/proc")]
    pub procfs: PathBuf,
    /// Run without Kubernetes, as a cluster of one node with these pod CIDRs
    #[arg(long, hide = true, value_delimiter = ',')]
    pub alone: Vec<IpNet>,
}

/// Runs the agent until a signal asks it to end. The datapath stays as it is.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let (config, warnings) = match config::read(&args.config_dir) {
        Ok(read) => read,
        Err(error) => {
            eprintln!("level=error msg=\"bad configuration\" error=\"{error}\"");
            return Ok(ExitCode::from(EX_USAGE));
        }
    };
    start_logging(config.debug);
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // It waits more than it computes, and every thread costs memory.
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let ended = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("listening for signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listening for signals")?;
        let stop = async {
            tokio::select! { _ = terminate.recv() => "SIGTERM", _ = interrupt.recv() => "SIGINT" }
        };
        let controllers = Controllers::default();
        let mut tasks = Tasks::new(controllers.clone());
        let uninstall = config
            .cni_uninstall
            .then(|| config.cni_conf.clone().map(PathBuf::from))
            .flatten();
        let (end, mut ending) = watch::channel(None);
        let work = async {
            startup::start(args, config, warnings, controllers, &mut tasks, started, end).await?;
            std::future::pending::<anyhow::Result<()>>().await
        };
        // Its own error is the sender's end, which is that of `work`.
        let another = async {
            match ending.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(reason)) => bail!("another agent has to start: {reason}"),
                _ => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            signal = stop => {
                tracing::info!(signal, "ending; the datapath goes on");
                Ok(())
            }
            failed = work => failed,
            another = another => another,
        };
        tasks.drain(DRAIN).await;
        if let Some(path) = uninstall {
            cniconf::remove(&path)?;
        }
        ended
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended.map(|()| ExitCode::SUCCESS)
}

/// Structured lines on standard error; `RUST_LOG` narrows or widens them.
fn start_logging(debug: bool) {
    let default = if debug {
        "debug,kube_client=off,aya=info,aya_obj=info,kube=info,hyper=info,rustls=info,tower=info"
    } else {
        // kube_client tells every failed request as an error of its own; ours say what they mean for the node.
        "info,kube_client=off"
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    // Somebody who calls the agent as a library may log already.
    let _ = lines.try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_configuration_ends_the_agent_before_it_touches_anything() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("routing-mode"), "carrier-pigeon").expect("a key");
        let path = |name: &str| directory.path().join(name);
        let args = Args {
            config_dir: directory.path().to_owned(),
            k8s_kubeconfig: None,
            node_name: "node".to_owned(),
            state_dir: path("state"),
            socket: path("socket"),
            bpffs: path("bpf"),
            cgroup_root: path("cgroup"),
            ip_masq_agent_config_path: Some(path("ip-masq-agent")),
            cni_bin_dir: path("bin"),
            procfs: path("proc"),
            alone: Vec::new(),
        };
        assert_eq!(run(args).expect("an exit code"), ExitCode::from(EX_USAGE));
        assert!(!path("state").exists());
    }
}
