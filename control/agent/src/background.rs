//! What runs for as long as the agent does.

use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt as _;
use k8s::Cluster;
use loader::{Collection, Expires, Layout, Table};
use netlink::{Monitor, MonitorEvent};
use tokio::net::UnixListener;
use tokio::sync::{Mutex, watch};

use crate::agent::Agent;
use crate::changes::Changes;
use crate::cluster::Feed;
use crate::follow::Follower;
use crate::ipmasq::IpMasq;
use crate::kernel::POD_PREFIX;
use crate::node::Publisher;
use crate::reconcile::Reconciler;
use crate::services::{self, Services};
use crate::tasks::Tasks;
use crate::{RECONCILE, cniconf, health, queue, rest};

/// The task that catches up on queued deletes.
pub(crate) const REPLAY: &str = "replay-deletes";
/// The task that publishes the node.
pub(crate) const PUBLISH_NODE: &str = "publish-node";
/// The task that gives pods their identities.
pub(crate) const SYNC_IDENTITIES: &str = "sync-identities";
/// The task that keeps the node's condition and taint.
pub(crate) const MARK_READY: &str = "mark-node-ready";

/// Everything is compared with the kernel and the API server anew this often, even when nothing seems to change.
const RESYNC: Duration = Duration::from_secs(30);
const SWEEP: Duration = Duration::from_secs(15);
const LINKS_PERIOD: Duration = Duration::from_millis(500);
/// The kubelet brings changes of a ConfigMap to its file within a minute or so.
const MASQ_PERIOD: Duration = Duration::from_secs(5);
const REPLAY_PERIOD: Duration = Duration::from_secs(10);
const EXPIRED_PERIOD: Duration = Duration::from_secs(30);
/// The condition and the configuration file are looked after this often.
const ANNOUNCE_PERIOD: Duration = Duration::from_secs(60);
/// The tables of services are read and compared this often.
const SERVICES_PERIOD: Duration = Duration::from_secs(300);
/// Sets of backends that nobody uses any more stay for one to two of these.
const COLLECT: Duration = Duration::from_secs(1);
/// Changes of services that are written together when they come faster.
const SERVICE_BATCH: usize = 1024;
/// The task that follows nodes and pods on behalf of services.
const SYNC_SERVICES: &str = "sync-services";
/// Entries of a connection table that are looked at between two breaths.
const EXPIRED_BATCH: usize = 1024;
/// Events that are taken from the ring at once.
const EVENT_BATCH: usize = 256;
/// Changes of routes come in crowds (every new link makes some); the first waits this long for the others.
const CROWD: Duration = Duration::from_millis(500);

/// What is served, and what looks after the datapath by itself. None of it needs the API server.
pub(crate) fn serve(
    agent: &Arc<Agent>,
    tasks: &mut Tasks,
    socket: StdListener,
    queued: PathBuf,
    ip_masq: IpMasq,
) {
    let router = rest::router(Arc::clone(agent));
    tasks.keep("serve-api", move || {
        let (router, socket) = (router.clone(), socket.try_clone());
        async move { Ok(axum::serve(UnixListener::from_std(socket?)?, router).await?) }
    });
    let (own, port) = (Arc::clone(agent), agent.config.health_port);
    tasks.keep("serve-health", move || {
        health::serve_health(Arc::clone(&own), port)
    });
    if let Some(address) = agent.config.prometheus {
        let own = Arc::clone(agent);
        tasks.keep("serve-metrics", move || {
            health::serve_metrics(Arc::clone(&own), address)
        });
    }
    let own = Arc::clone(agent);
    tasks.keep("read-events", move || read_events(Arc::clone(&own)));
    let own = Arc::clone(agent);
    tasks.every("collect-expired", EXPIRED_PERIOD, move || {
        collect_expired(Arc::clone(&own))
    });
    let own = Arc::clone(agent);
    tasks.keep("follow-devices", move || follow_devices(Arc::clone(&own)));
    let own = Arc::clone(agent);
    tasks.every("sweep-endpoints", SWEEP, move || {
        let agent = Arc::clone(&own);
        async move {
            agent.endpoints.sweep().await?;
            agent.datapath.prune()?;
            Ok(())
        }
    });
    let own = Arc::clone(agent);
    tasks.every("make-links", LINKS_PERIOD, move || {
        let agent = Arc::clone(&own);
        async move { agent.fresh.settle(&agent.datapath).await }
    });
    let own = Arc::clone(agent);
    tasks.follow("finish-deletes", agent.endpoints.retired(), SWEEP, move |_| {
        let agent = Arc::clone(&own);
        async move { Ok(agent.endpoints.finish().await?) }
    });
    let (own, ip_masq) = (Arc::clone(agent), Arc::new(ip_masq));
    tasks.every("follow-ip-masq-agent", MASQ_PERIOD, move || {
        let (agent, ip_masq) = (Arc::clone(&own), Arc::clone(&ip_masq));
        async move { ip_masq.reconcile(&agent.datapath) }
    });
    let own = Arc::clone(agent);
    tasks.every(REPLAY, REPLAY_PERIOD, move || {
        let (agent, queued) = (Arc::clone(&own), queued.clone());
        async move { queue::replay(&queued, &agent.endpoints).await }
    });
}

/// Keeps the view up to date. A watch that ends takes all with it and is started again.
pub(crate) fn watch(
    tasks: &mut Tasks,
    cluster: Cluster,
    node: String,
    feed: Arc<Mutex<Feed>>,
    health: watch::Sender<std::collections::BTreeMap<k8s::Kind, k8s::WatchState>>,
) {
    tasks.keep("watch-cluster", move || {
        let (cluster, node, feed, health) =
            (cluster.clone(), node.clone(), Arc::clone(&feed), health.clone());
        async move {
            let mut watches = cluster.watch(&node);
            let mut states = watches.health();
            let mut feed = feed.lock().await;
            loop {
                tokio::select! {
                    input = watches.next() => feed.take(input?),
                    changed = states.changed() => {
                        changed.context("the watches have ended")?;
                        health.send_modify(|all| all.extend(states.borrow_and_update().clone()));
                    }
                }
            }
        }
    });
}

/// Keeps services up to date, and serves their health check ports.
pub(crate) fn watch_services(
    tasks: &mut Tasks,
    cluster: Cluster,
    services: &Arc<Services>,
    health: watch::Sender<std::collections::BTreeMap<k8s::Kind, k8s::WatchState>>,
) {
    let own = Arc::clone(services);
    tasks.keep("watch-services", move || {
        let (cluster, services, health) = (cluster.clone(), Arc::clone(&own), health.clone());
        async move {
            let mut watches = cluster.watch_services();
            let mut states = watches.health();
            services.begin().await;
            loop {
                tokio::select! {
                    input = watches.next() => {
                        let mut inputs = vec![input?];
                        while inputs.len() < SERVICE_BATCH && let Some(input) = watches.next().now_or_never() {
                            inputs.push(input?);
                        }
                        if let Err(error) = services.take(inputs).await {
                            tracing::warn!(error = format!("{error:#}"), "services cannot be written, trying again");
                        }
                    }
                    changed = states.changed() => {
                        changed.context("the watches have ended")?;
                        health.send_modify(|all| all.extend(states.borrow_and_update().clone()));
                    }
                }
            }
        }
    });
    let own = Arc::clone(services);
    tasks.keep("serve-health-checks", move || {
        services::serve_checks(Arc::clone(&own))
    });
    let own = Arc::clone(services);
    tasks.every("collect-backends", COLLECT, move || {
        let services = Arc::clone(&own);
        async move { services.collect().await }
    });
}

/// Closes sockets that are connected to backends which have left their services.
pub(crate) fn close_stale_sockets(tasks: &mut Tasks, services: &Arc<Services>) {
    let own = Arc::clone(services);
    tasks.follow("close-stale-sockets", &services.left(), RESYNC, move |_| {
        let services = Arc::clone(&own);
        async move { services.close_stale().await }
    });
}

/// Follows what services depend on, and tries again what could not be written.
pub(crate) fn follow_services(tasks: &mut Tasks, changes: &Changes, services: &Arc<Services>) {
    let own = Arc::clone(services);
    tasks.follow(SYNC_SERVICES, changes, SERVICES_PERIOD, move |whole| {
        let services = Arc::clone(&own);
        async move { services.sync(whole).await }
    });
}

/// Follows changes of pods and cluster.
pub(crate) fn follow(
    agent: &Arc<Agent>,
    tasks: &mut Tasks,
    reconciler: Arc<Reconciler>,
    follower: Arc<Follower>,
    publisher: Arc<Publisher>,
) {
    let changes = &agent.changed;
    tasks.follow(RECONCILE, changes, RESYNC, move |whole| {
        let reconciler = Arc::clone(&reconciler);
        async move { reconciler.run(whole).await }
    });
    let own = Arc::clone(&follower);
    tasks.follow(SYNC_IDENTITIES, changes, RESYNC, move |_| {
        let follower = Arc::clone(&own);
        async move { follower.identities().await }
    });
    // Nobody to publish to when the agent is alone.
    if agent.watches.is_some() {
        tasks.follow("publish-endpoints", changes, RESYNC, move |whole| {
            let follower = Arc::clone(&follower);
            async move { follower.publish(whole).await }
        });
        tasks.follow(PUBLISH_NODE, changes, RESYNC, move |_| {
            let publisher = Arc::clone(&publisher);
            async move { publisher.run().await }
        });
    }
    let own = Arc::clone(agent);
    tasks.every(MARK_READY, ANNOUNCE_PERIOD, move || {
        let agent = Arc::clone(&own);
        async move {
            if let Some(path) = &agent.cni_conf {
                cniconf::write(path, agent.config.cni_exclusive, &agent.config.cni_log_file)?;
            }
            agent.registry.mark_ready(&agent.node).await
        }
    });
}

async fn read_events(agent: Arc<Agent>) -> anyhow::Result<()> {
    let mut reader = agent.datapath.events()?;
    let (mut events, mut malformed) = (Vec::with_capacity(EVENT_BATCH), 0);
    loop {
        reader.read(&mut events, EVENT_BATCH).await?;
        for event in events.drain(..) {
            agent.events.record(&event);
        }
        agent.events.unknown(reader.malformed() - malformed);
        malformed = reader.malformed();
    }
}

/// Removes expired connections and translations, so that the tables show what there is and the oldest living entries are
/// not pushed out.
async fn collect_expired(agent: Arc<Agent>) -> anyhow::Result<()> {
    collect(agent.datapath.ct_tcp()).await?;
    collect(agent.datapath.ct_any()).await?;
    collect(&agent.datapath.nat().nat).await
}

async fn collect<K: Layout, V: Layout + Expires>(table: &Table<K, V>) -> anyhow::Result<()> {
    let mut pass = Collection::new(table, EXPIRED_BATCH);
    while pass.step(loader::monotonic_ns())? {
        tokio::task::yield_now().await;
    }
    let report = pass.report();
    tracing::debug!(
        table = table.name(),
        seen = report.seen,
        removed = report.removed,
        "expired entries collected"
    );
    Ok(())
}

/// Wakes the reconciler when addresses or routes of the node change.
async fn follow_devices(agent: Arc<Agent>) -> anyhow::Result<()> {
    let mut monitor = Monitor::open()?;
    loop {
        match monitor.next().await? {
            // Links of pods come and go with ADD and DEL, which do their own work.
            MonitorEvent::Link(link) | MonitorEvent::LinkGone(link) if link.name.starts_with(POD_PREFIX) => {}
            MonitorEvent::Address(address) | MonitorEvent::AddressGone(address) if !address.global => {}
            MonitorEvent::Routes => {
                let rest = async { while monitor.next().await.is_ok() {} };
                // Running into the deadline is the ordinary end.
                let _ = tokio::time::timeout(CROWD, rest).await;
                agent.changed.touch();
            }
            _ => agent.changed.touch(),
        }
    }
}
