//! The daemon behind a cluster: builds it, keeps its parts running, and ends with it.
//!
//! The API server and the controllers run inside this process ([`crate::control_plane`]); each kubelet is a process of
//! its own inside its node ([`kubelets`]), and is started again when it ends. If the cluster cannot be built, the
//! supervisor gives up and says why in `status.json`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cgroup::{self, Cgroups};
use crate::control_plane::{ControlPlane, Listeners};
use crate::state::{Paths, Phase, Spec};
use crate::{node, topology};

mod kubelets;
mod status;

pub(crate) use kubelets::{image_catalogue as kubelet_image_catalogue, kubeconfig as kubelet_kubeconfig};
pub(crate) use status::StatusFile;

/// How long kubelets and API server may take to stop; what is left then is killed by `down` with its control group.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// How often logs are looked at, and how long one may be, bytes.
const LOG_INTERVAL: Duration = Duration::from_secs(30);
const LOG_LIMIT: u64 = 16 << 20;

/// Runs the daemon until it is told to stop by SIGTERM or SIGINT, or has failed.
///
/// # Errors
/// The cluster could not be built or its API server ended; the same is written into `status.json`.
pub(crate) fn run(cluster: &str) -> anyhow::Result<ExitCode> {
    // Leaves the terminal of `up`. It fails only for the leader of a process group, which is detached enough.
    let _ = nix::unistd::setsid();
    log_to_stderr();
    let paths = Paths::of(cluster);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(supervise(&paths));
    // Tasks that did not end by themselves are dropped here.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result.map(|()| ExitCode::SUCCESS)
}

/// Logs as the lab's daemons do: to standard error, at the level that `SETA_LAB_LOG` asks for.
pub(crate) fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("SETA_LAB_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}

async fn supervise(paths: &Paths) -> anyhow::Result<()> {
    let status = StatusFile::new(paths);
    let mut signals = Signals::listen()?;
    let outcome = live(paths, &status, &mut signals).await;
    if let Err(error) = &outcome {
        tracing::error!("{error:#}");
        status.change(|status| {
            status.phase = Phase::Failed;
            status.error = Some(format!("{error:#}"));
        });
    }
    outcome
}

/// The whole life of a cluster.
async fn live(paths: &Paths, status: &StatusFile, signals: &mut Signals) -> anyhow::Result<()> {
    let started = Instant::now();
    let spec = paths.require_spec()?;
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();

    let building = build(paths, &spec, &stop, &tasks, status);
    let control_plane = tokio::select! {
        built = building => built?,
        () = signals.recv() => return Ok(()),
    };
    let ready_after = started.elapsed();
    status.change(|status| {
        status.phase = Phase::Running;
        status.ready_after_ms = u64::try_from(ready_after.as_millis()).ok();
    });
    tracing::info!(?ready_after, "the cluster is up");

    signals.recv().await;
    tracing::info!("stopping");
    status.change(|status| status.phase = Phase::Stopping);
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(STOP_PATIENCE, tasks.wait()).await.is_err() {
        tracing::warn!("some parts did not stop within {STOP_PATIENCE:?}");
    }
    if tokio::time::timeout(STOP_PATIENCE, control_plane.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("the API server did not stop within {STOP_PATIENCE:?}");
    }
    Ok(())
}

/// From nothing to a cluster that can be used.
async fn build(
    paths: &Paths,
    spec: &Spec,
    stop: &CancellationToken,
    tasks: &TaskTracker,
    status: &StatusFile,
) -> anyhow::Result<ControlPlane> {
    let cgroups = Cgroups::of(&spec.cluster)?;
    cgroup::create(&cgroups.supervisor())?;
    cgroup::join(&cgroups.supervisor(), std::process::id())?;
    cgroup::delegate_controllers(cgroups.root());

    make_hosts(paths, spec, &cgroups).await?;
    topology::build(paths, spec)
        .await
        .context("cannot build the network")?;
    tracing::info!(nodes = spec.nodes.len(), "the network is there");

    let listeners = Listeners::open(paths, spec).await?;
    let control_plane = ControlPlane::start(paths, spec, listeners, stop, tasks, status).await?;
    for node in &spec.nodes {
        tasks.spawn(kubelets::keep_running(
            paths.clone(),
            spec.clone(),
            node.clone(),
            stop.clone(),
            status.clone(),
        ));
    }
    tasks.spawn(bound_logs(paths.clone(), spec.clone(), stop.clone()));
    control_plane.settle(paths, spec, stop, tasks).await?;
    Ok(control_plane)
}

/// All namespaces, at the same time.
async fn make_hosts(paths: &Paths, spec: &Spec, cgroups: &Cgroups) -> anyhow::Result<()> {
    let mut hosts = JoinSet::new();
    for node in &spec.nodes {
        let (paths, cgroups, name) = (paths.clone(), cgroups.clone(), node.name.clone());
        hosts.spawn_blocking(move || node::create(&paths, &cgroups, &name));
    }
    for host in [topology::SWITCH, topology::ROUTER, topology::OUTSIDE] {
        let paths = paths.clone();
        hosts.spawn_blocking(move || node::create_network_only(&paths, host));
    }
    while let Some(made) = hosts.join_next().await {
        made.context("making a node panicked")??;
    }
    Ok(())
}

/// Keeps each log at a bounded length, since they live in memory: one that is too long starts again from nothing.
async fn bound_logs(paths: Paths, spec: Spec, stop: CancellationToken) {
    let logs: Vec<_> = std::iter::once(paths.supervisor_log())
        .chain(spec.nodes.iter().map(|node| paths.kubelet_log(&node.name)))
        .collect();
    while stop
        .run_until_cancelled(tokio::time::sleep(LOG_INTERVAL))
        .await
        .is_some()
    {
        for log in &logs {
            if std::fs::metadata(log).is_ok_and(|meta| meta.len() > LOG_LIMIT) {
                // Writers append, so they go on at the new end.
                let cut = std::fs::OpenOptions::new()
                    .write(true)
                    .open(log)
                    .and_then(|file| file.set_len(0));
                if let Err(error) = cut {
                    tracing::warn!(%error, log = %log.display(), "cannot cut a log");
                }
            }
        }
    }
}

/// The signals that mean stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
