//! The operator: what has to be done once per cluster and not once per node. It registers the CRDs, gives load balancers
//! their addresses, and removes objects that nobody uses any more.
//!
//! Several replicas are safe: only the holder of a Lease gives addresses and collects garbage. Without an operator running pods
//! still start (once the CRDs exist) and no traffic is affected.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use k8s::{Access, Cluster, Election, Leadership, LeaseTimes};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

mod collect;
mod garbage;
mod lbipam;
mod metrics;
mod options;
mod serve;

pub use options::Args;

use collect::Collector;
use lbipam::Allocator;
use metrics::Metrics;
use options::Options;

/// Exit code for a configuration that cannot be used (sysexits `EX_USAGE`).
const BAD_CONFIG: u8 = 64;
/// How long the definitions may take to be served.
const CRD_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest pause between two attempts to register the definitions.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long the tasks may take to end.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs the operator until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start, or a part of it fails for good.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = read_config(&args.config_dir)?;
    let options = match Options::parse(args, &config, unique_identity()) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}");
            return Ok(ExitCode::from(BAD_CONFIG));
        }
    };
    init_logging(&options);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    let outcome = runtime.block_on(operate(options));
    // Nothing may keep the process alive: whatever is left was told to end and had its time.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn operate(options: Options) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let signals = stop_on_signal(stop.clone())?;
    let metrics = Arc::new(Metrics::default());
    let access = match &options.kubeconfig {
        Some(path) => Access::Kubeconfig {
            path: path.clone(),
            context: None,
        },
        None => Access::Infer,
    };
    let cluster = Cluster::connect(&access, "cilium-operator").await?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        identity = options.identity,
        "operator starts"
    );

    let mut tasks = JoinSet::new();
    tasks.spawn(signals);
    for server in serve::servers(&options, &metrics, &cluster, &stop).await? {
        tasks.spawn(server);
    }
    tasks.spawn(lead(options, cluster, metrics, stop.clone()));

    let mut outcome = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let result = ended.context("a task panicked").and_then(|result| result);
        if let Err(error) = result {
            outcome = outcome.and(Err(error));
        }
        if !stop.is_cancelled() {
            stop.cancel();
        }
        if tokio::time::timeout(DRAIN, drain(&mut tasks)).await.is_err() {
            tracing::warn!(left = tasks.len(), "some tasks did not end in time");
            tasks.abort_all();
        }
    }
    tracing::info!("operator ends");
    outcome
}

async fn drain(tasks: &mut JoinSet<anyhow::Result<()>>) {
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = format!("{error:#}"), "a task ended with an error"),
            Err(error) => tracing::error!(%error, "a task panicked"),
        }
    }
}

/// Registers the definitions, then takes part in the election, and gives addresses and collects garbage while it is
/// the leader.
async fn lead(
    options: Options,
    cluster: Cluster,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    // Registering is idempotent, and agents wait for it: it does not wait for the election.
    if stop.run_until_cancelled(register(&cluster)).await.is_none() {
        return Ok(());
    }
    metrics.crds_registered.set(1);
    let (leading, told) = watch::channel(false);
    let collector = Collector::new(cluster.clone(), options.garbage, Arc::clone(&metrics));
    let mut duties = JoinSet::new();
    duties.spawn(collector.run(told.clone()));
    if let Some(responsibility) = options.balancers {
        let allocator = Allocator::new(cluster.clone(), responsibility, Arc::clone(&metrics));
        duties.spawn(allocator.run(told));
    }

    let me = &options.identity;
    let mut election = Election::new(
        cluster,
        &options.namespace,
        &options.lease,
        me,
        LeaseTimes::default(),
    );
    let mut ticks = tokio::time::interval(election.times().retry);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = duties.join_next() => {
                ended.context("a duty of the leader panicked")?;
                anyhow::bail!("a duty of the leader has ended");
            }
            _ = ticks.tick() => {}
        }
        let Some(leads) = stop.run_until_cancelled(campaign(&mut election)).await else {
            break;
        };
        metrics.leading.set(i64::from(leads));
        if leading.send_replace(leads) != leads {
            tracing::info!(leading = leads, "leadership changed");
        }
    }
    leading.send_replace(false);
    metrics.leading.set(0);
    if let Err(error) = election.release().await {
        tracing::warn!(
            error = format!("{:#}", anyhow::Error::new(error)),
            "the Lease was not given back"
        );
    }
    Ok(())
}

/// One step of the election; returns whether we are the leader after it. A leader that gets no answer stops being one
/// before the Lease runs out.
async fn campaign(election: &mut Election) -> bool {
    let remaining = election.remaining();
    let limit = if remaining.is_zero() {
        election.times().renew_deadline
    } else {
        remaining
    };
    match tokio::time::timeout(limit, election.step()).await {
        Ok(Ok(Leadership::Leader)) => true,
        Ok(Ok(Leadership::Follower { holder })) => {
            tracing::debug!(holder, "another replica leads");
            false
        }
        Ok(Err(error)) => {
            tracing::warn!(
                error = format!("{:#}", anyhow::Error::new(error)),
                "the Lease was not renewed"
            );
            !election.remaining().is_zero()
        }
        Err(_) => {
            tracing::warn!(?limit, "the Lease was not renewed: no answer");
            false
        }
    }
}

/// Registers the definitions, again and again until it works: without them nothing works, and giving up would
/// only add the pause of a restart.
async fn register(cluster: &Cluster) {
    let mut pause = Duration::from_millis(200);
    loop {
        match cluster.register_crds(CRD_TIMEOUT).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(
                    error = format!("{:#}", anyhow::Error::new(error)),
                    "definitions are not registered yet"
                );
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn stop_on_signal(
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM"),
            _ = interrupt.recv() => tracing::info!("SIGINT"),
            () = stop.cancelled() => {}
        }
        stop.cancel();
        Ok(())
    })
}

/// A name in the election that no other process has. Host name and process number would not do: replicas on the host
/// network share the former, and each is number 1 of its container.
fn unique_identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{}", host.trim(), uuid::Uuid::new_v4())
}

/// Reads the mounted ConfigMap: one file per key. A directory that does not exist is an empty configuration.
fn read_config(dir: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", dir.display())),
    };
    let mut config = BTreeMap::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", dir.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // `..data` and the like are how the kubelet swaps a ConfigMap.
        if name.starts_with("..") || !entry.path().is_file() {
            continue;
        }
        let path: PathBuf = entry.path();
        let value =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        config.insert(name, value.trim().to_owned());
    }
    Ok(config)
}

fn init_logging(options: &Options) {
    // kube logs every failed request as an error of its own; ours are warnings that say what was tried.
    let level = if options.debug { "debug" } else { "info" };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new(format!(
            "warn,kube_client=off,seta_operator={level},seta_k8s={level}"
        ))
    });
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // Whoever calls us as a library may have a subscriber already; then that one stays.
    let installed = if options.json_logs {
        builder.json().try_init()
    } else {
        builder.with_ansi(false).try_init()
    };
    if installed.is_err() {
        tracing::debug!("a log subscriber is installed already");
    }
}
