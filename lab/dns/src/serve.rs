//! The life of a server: configuration, sockets, watches, and a quiet end.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config as ClientConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::args::{Args, Flags};
use crate::corefile::{Config, Forward, Kubernetes, Upstream as Named, resolv_servers};
use crate::index::Index;
use crate::metrics::Metrics;
use crate::server::{self, Server};
use crate::status::{self, Readiness};
use crate::upstream::Upstream;
use crate::watch;
use crate::zone::Zone;

/// How long answers that were begun may take when the server ends.
const DRAIN: Duration = Duration::from_secs(4);

/// Runs the server until SIGTERM or SIGINT. It then says that it is not ready and goes on answering for the time that
/// `health { lameduck … }` gives, so that whoever has not heard of its end yet still gets an answer.
///
/// # Errors
/// The Corefile, the sockets or the credentials cannot be used, or a part of the server ended.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let flags = Flags::parse(&args.flags).map_err(|problem| anyhow!(problem))?;
    let file = flags.corefile.display();
    let text = std::fs::read_to_string(&flags.corefile).with_context(|| format!("cannot read {file}"))?;
    let config = Config::parse(&text).with_context(|| format!("cannot use {file}"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(live(&config))?;
    Ok(ExitCode::SUCCESS)
}

async fn live(config: &Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    for word in &config.without_effect {
        tracing::warn!("`{word}` in the Corefile has no effect");
    }
    let upstream = config.forward.as_ref().map(upstream).transpose()?.flatten();
    let (datagrams, connections) = server::bind(config.port).await?;
    let client = connect(&config.kubernetes).await?;

    let index = Arc::new(RwLock::new(Index::new()));
    let mut tasks = JoinSet::new();
    let readiness = Readiness {
        synced: watch::start(&client, config.kubernetes.pods, &index, &mut tasks),
        leaving: Arc::new(AtomicBool::new(false)),
    };
    let server = Arc::new(Server {
        index,
        zone: zone(config, upstream.is_some()),
        readiness: readiness.clone(),
        upstream,
        metrics: Metrics::new(),
        turn: AtomicUsize::new(0),
    });
    status::start(config, &server, &mut tasks).await?;
    let (answers, stop) = (TaskTracker::new(), CancellationToken::new());
    let datagrams = tasks.spawn(server::datagrams(
        server.clone(),
        Arc::new(datagrams),
        answers.clone(),
        stop.clone(),
    ));
    let connections = tasks.spawn(server::connections(
        server,
        connections,
        answers.clone(),
        stop.clone(),
    ));
    tracing::info!(port = config.port, "serving");

    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = tasks.join_next() => Some(ended),
    };
    if let Some(ended) = ended {
        // Nothing here ends by itself. Whoever started us starts us again.
        bail!("a part of the server ended: {ended:?}");
    }
    readiness.leaving.store(true, Ordering::Release);
    let lameduck = config.health.map_or(Duration::ZERO, |(_, lameduck)| lameduck);
    tracing::info!(?lameduck, "leaving");
    tokio::time::sleep(lameduck).await;
    stop.cancel();
    answers.close();
    let drained = async {
        while !(datagrams.is_finished() && connections.is_finished()) {
            tasks.join_next().await;
        }
        answers.wait().await;
    };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::warn!("some answers were not finished");
    }
    Ok(())
}

fn zone(config: &Config, recursion: bool) -> Zone {
    let kubernetes = &config.kubernetes;
    // Grows from one server to the next, which is all that is asked of it.
    let started = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Zone {
        domain: kubernetes.domain.clone(),
        reverse: kubernetes.reverse.clone(),
        fallthrough: kubernetes.fallthrough.clone(),
        ttl: kubernetes.ttl,
        pods: kubernetes.pods,
        rotate: config.rotate,
        serial: started.as_secs() as u32,
        recursion,
    }
}

/// Whom to ask about other names; `None` if in the end nobody is named.
fn upstream(forward: &Forward) -> anyhow::Result<Option<Upstream>> {
    let mut servers = Vec::new();
    for named in &forward.to {
        match named {
            Named::Server(address) => servers.push(*address),
            Named::File(file) => {
                let text = std::fs::read_to_string(file)
                    .with_context(|| format!("cannot read {}", file.display()))?;
                let found = resolv_servers(&text);
                if found.is_empty() {
                    tracing::warn!(file = %file.display(), "names no server that can be asked");
                }
                servers.extend(found);
            }
        }
    }
    Ok((!servers.is_empty()).then(|| Upstream::new(servers, forward.max_concurrent)))
}

/// The API server, by the credentials of the pod or of the file that the Corefile names. Nothing is looked for elsewhere: in
/// the lab, a container sees the machine's own files.
async fn connect(kubernetes: &Kubernetes) -> anyhow::Result<Client> {
    let config = match &kubernetes.kubeconfig {
        None => ClientConfig::incluster().context("no credentials of a pod")?,
        Some(file) => {
            let kubeconfig =
                Kubeconfig::read_from(file).with_context(|| format!("cannot read {}", file.display()))?;
            ClientConfig::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?
        }
    };
    Ok(Client::try_from(config)?)
}
