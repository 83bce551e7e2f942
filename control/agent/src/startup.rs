//! From nothing, or from what a predecessor left, to a node whose pods are served. The order is the point: whatever
//! is running keeps running, and the node becomes ready only when new pods would work.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ipnet::IpNet;
use k8s::{Access, Cluster};
use loader::{Datapath, MapSizes, Options};
use model::AgentConfig;
use model::addr::Family;
use model::config::Warning;
use netlink::{Netlink, Sysctls};
use tokio::sync::{Mutex, watch};

use crate::agent::Agent;
use crate::background;
use crate::changes::Changes;
use crate::cluster::Feed;
use crate::controllers::Controllers;
use crate::endpoints::{Endpoints, Settings, Store, load, now};
use crate::events::Events;
use crate::follow::Follower;
use crate::fresh::Fresh;
use crate::ipmasq::IpMasq;
use crate::kernel::{Kernel, Linux};
use crate::reconcile::Reconciler;
use crate::registry::{Alone, Kubernetes, Registry};
use crate::services::{InKernel, Services};
use crate::tasks::Tasks;
use crate::view::SharedView;
use crate::{Args, cniconf, host, node, queue, rest};

/// How long a restarted agent asks for the Node before it goes on with what it remembers.
const NODE_PATIENCE: Duration = Duration::from_secs(2);
/// How long a new agent waits for the Node to have its pod CIDRs.
const NODE_WAIT: Duration = Duration::from_secs(300);
/// How long the first synchronisation may take before the log says that it takes long.
const SYNC_PATIENCE: Duration = Duration::from_secs(30);
/// Each attempt to find the CRDs ends after this, so that `status` shows why they are not found.
const CRD_PATIENCE: Duration = Duration::from_secs(10);
/// Pauses between attempts at a step that needs the API server.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The steps of the start in `status`.
const WAIT_FOR_CRDS: &str = "wait-for-crds";
const FIRST_RECONCILE: &str = "first-reconcile";

/// Starts everything; ends when the node is ready. What goes on afterwards runs in `tasks`.
pub(crate) async fn start(
    args: Args,
    config: AgentConfig,
    warnings: Vec<Warning>,
    controllers: Controllers,
    tasks: &mut Tasks,
    started: Instant,
    end: watch::Sender<Option<String>>,
) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let families: Vec<Family> = config.families().collect();
    let netlink = Netlink::open().context("talking to the kernel")?;
    let sysctls = Sysctls::at(args.procfs.join("sys"));
    let cluster = connect(&args).await?;

    std::fs::create_dir_all(&args.state_dir)
        .with_context(|| format!("making {}", args.state_dir.display()))?;
    let state_file = args.state_dir.join("agent.json");
    let remembered = load(&state_file, &args.node_name).context("reading the state file")?;
    let mut store = blocks(remembered, cluster.as_ref(), &args, &families).await?;
    store
        .choose_routers(&families, rand::random(), now())
        .context("choosing the router's address")?;

    host::enable_forwarding(&sysctls, config.enable_ipv4).context("switching forwarding on")?;
    let natives = host::native_devices(&netlink, &config.devices).await?;
    let mtu = host::mtu(config.mtu, &natives);
    let router = host::ensure_router(&netlink, &sysctls, store.routers(), mtu).await?;
    let datapath = Arc::new(open(&args.bpffs, &config, &store, router.index).await?);
    let fresh = Arc::new(Fresh::default());
    let kernel: Arc<dyn Kernel> = Arc::new(Linux {
        netlink: netlink.clone(),
        sysctls,
        datapath: Arc::clone(&datapath),
        remover: Netlink::open().context("talking to the kernel")?,
        fresh: Arc::clone(&fresh),
    });

    let (view, changes) = (SharedView::default(), Changes::default());
    let settings = Settings {
        families: families.clone(),
        mtu,
        route_mtu: mtu,
        cluster: config.cluster_name.clone(),
        labels: config.labels.clone(),
        state_file,
    };
    let endpoints = Arc::new(Endpoints::new(
        Arc::clone(&kernel),
        settings,
        view.clone(),
        store,
        changes.clone(),
    ));
    endpoints.persist().await?;
    let queued = queue_directory(&args.socket);
    // What was deleted while no agent ran must not be restored.
    if let Err(error) = queue::replay(&queued, &endpoints).await {
        controllers.failure(background::REPLAY, format!("{error:#}"));
    }
    endpoints
        .recover()
        .await
        .context("comparing the known pods with the kernel")?;

    let services = Arc::new(Services::new(
        args.node_name.clone(),
        config.services.settings,
        view.clone(),
        Arc::clone(&endpoints),
        Arc::new(InKernel(Arc::clone(&datapath))),
        changes.clone(),
    ));
    services.load().await?;
    let reconciler = Arc::new(Reconciler {
        services: Arc::clone(&services),
        node: args.node_name.clone(),
        config: Arc::clone(&config),
        view: view.clone(),
        endpoints: Arc::clone(&endpoints),
        kernel: Arc::clone(&kernel),
        netlink: netlink.clone(),
        known: Mutex::default(),
    });
    let ip_masq = IpMasq::new(&config, args.ip_masq_agent_config_path.as_deref());
    // A file that cannot be used leaves the table as it was; the task that follows it tells.
    if let Err(error) = ip_masq.reconcile(&datapath) {
        tracing::warn!("destinations without masquerade: {error:#}");
    }
    reconciler.seed().await.context("writing the tables")?;
    sockets(&datapath, &config, &args.cgroup_root)?;
    if !config.kube_proxy_replacement {
        services.clear().await?;
    }
    let (pruned, moved) = (datapath.prune()?, datapath.settle()?);
    tracing::debug!(pruned, moved, "programs attached");

    let watches = cluster
        .as_ref()
        .map(|_| watch::channel(std::collections::BTreeMap::new()));
    let registry: Arc<dyn Registry> = match &cluster {
        Some(cluster) => Arc::new(Kubernetes {
            cluster: cluster.clone(),
            view: view.clone(),
        }),
        None => Arc::new(Alone::default()),
    };
    let agent = Arc::new(Agent {
        node: args.node_name.clone(),
        warnings: warnings.iter().map(ToString::to_string).collect(),
        view: view.clone(),
        endpoints: Arc::clone(&endpoints),
        kernel,
        netlink,
        datapath,
        services: Arc::clone(&services),
        fresh,
        events: Events::default(),
        controllers,
        registry: Arc::clone(&registry),
        watches: watches.as_ref().map(|(_, health)| health.clone()),
        changed: changes.clone(),
        cni_conf: config.cni_conf.clone().map(Into::into),
        mtu,
        started,
        ready_after: AtomicU64::new(0),
        waits_for: std::sync::Mutex::new("the CRDs of cilium.io"),
        config: Arc::clone(&config),
    });
    background::serve(&agent, tasks, rest::bind(&args.socket)?, queued, ip_masq);

    let publisher = Arc::new(node::Publisher {
        name: args.node_name.clone(),
        view: view.clone(),
        endpoints: Arc::clone(&endpoints),
        registry: Arc::clone(&registry),
        boot_id: boot_id(&args.procfs),
        end,
    });
    let follower = Arc::new(Follower::new(endpoints, view.clone(), Arc::clone(&registry)));
    if let (Some(cluster), Some((health, _))) = (cluster, watches) {
        // No end: the pods are served, and an agent that gives up would only start again and wait here.
        let crds = async || {
            let patience = config.crd_wait_timeout.min(CRD_PATIENCE);
            cluster
                .wait_for_crds(patience)
                .await
                .context("waiting for the CRDs")
        };
        insist(&agent, WAIT_FOR_CRDS, crds).await;
        agent.wait_for("the first synchronisation with the API server");
        let (complete, is_complete) = watch::channel(false);
        let feed = Feed::new(view, args.node_name.clone(), changes, complete);
        background::watch(
            tasks,
            cluster.clone(),
            args.node_name.clone(),
            Arc::new(Mutex::new(feed)),
            health.clone(),
        );
        wait_until(is_complete).await?;
        if config.kube_proxy_replacement {
            agent.wait_for("the services");
            let complete = services.complete();
            background::watch_services(tasks, cluster, &services, health);
            wait_until(complete).await?;
        }
        agent.wait_for("the Node to be published");
        insist(&agent, background::PUBLISH_NODE, async || publisher.run().await).await;
    }
    agent.wait_for("tables and routes");
    insist(&agent, FIRST_RECONCILE, async || reconciler.run(true).await).await;
    agent.wait_for("the identities of the pods");
    insist(&agent, background::SYNC_IDENTITIES, async || {
        follower.identities().await
    })
    .await;

    agent.set_ready();
    let took = started.elapsed();
    announce(&agent, &args).await?;
    background::follow(&agent, tasks, reconciler, follower, publisher);
    if config.kube_proxy_replacement {
        background::follow_services(tasks, &agent.changed, &services);
        background::close_stale_sockets(tasks, &services);
    }
    tracing::info!(
        node = agent.node,
        pods = agent.endpoints.store().iter().count(),
        ?took,
        "ready"
    );
    Ok(())
}

async fn connect(args: &Args) -> anyhow::Result<Option<Cluster>> {
    if !args.alone.is_empty() {
        return Ok(None);
    }
    let access = match &args.k8s_kubeconfig {
        Some(path) => Access::Kubeconfig {
            path: path.clone(),
            context: None,
        },
        None => Access::Infer,
    };
    Ok(Some(
        Cluster::connect(&access, "cilium-agent")
            .await
            .context("connecting to the API server")?,
    ))
}

/// The state with the blocks that the node has now, or had when nobody can tell.
async fn blocks(
    remembered: Option<Store>,
    cluster: Option<&Cluster>,
    args: &Args,
    families: &[Family],
) -> anyhow::Result<Store> {
    let fit = |node: &model::inputs::Node| {
        let blocks = node::blocks_of(node, families);
        families
            .iter()
            .all(|family| blocks.iter().any(|block| Family::of(block.network()) == *family))
    };
    let given: Option<Vec<IpNet>> = match (cluster, &remembered) {
        (None, _) => Some(args.alone.clone()),
        (Some(cluster), None) => {
            tracing::info!(node = args.node_name, "waiting for the node's pod CIDRs");
            let node = cluster.wait_for_node(&args.node_name, NODE_WAIT, fit).await?;
            Some(node::blocks_of(&node, families))
        }
        (Some(cluster), Some(_)) => match tokio::time::timeout(NODE_PATIENCE, cluster.node(&args.node_name))
            .await
        {
            Ok(Ok(node)) if fit(&node) => Some(node::blocks_of(&node, families)),
            Ok(Ok(_)) => bail!("node {} has no pod CIDR any more", args.node_name),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the Node cannot be read, going on with the blocks of the state file");
                None
            }
            Err(_) => {
                tracing::warn!("the API server does not answer, going on with the blocks of the state file");
                None
            }
        },
    };
    match (remembered, given) {
        (Some(mut store), Some(given)) => {
            for (address, owner) in store.ipam.set_blocks(&given)? {
                tracing::warn!(%address, %owner, "is outside of the node's pod CIDRs, other nodes cannot reach it");
            }
            Ok(store)
        }
        (Some(store), None) => Ok(store),
        (None, Some(given)) => Ok(Store::new(&args.node_name, &given)?),
        (None, None) => bail!("node {} has no pod CIDR", args.node_name),
    }
}

/// Loads programs beside those that run. The verifier takes a while, so not on a thread of the runtime.
async fn open(
    bpffs: &Path,
    config: &AgentConfig,
    store: &Store,
    host_ifindex: u32,
) -> anyhow::Result<Datapath> {
    let memory = loader::total_memory().context("asking for the size of the memory")?;
    let connections = config.map_sizes(memory);
    let sizes = MapSizes {
        ct_tcp: connections.ct_tcp,
        ct_any: connections.ct_any,
        nat: connections.nat,
        services: config.services.map_max.unwrap_or(MapSizes::default().services),
        ..MapSizes::default()
    };
    let node_namespace =
        loader::network_namespace().context("asking for the cookie of the network namespace")?;
    let constants = config.datapath(store.routers(), host_ifindex, node_namespace);
    let options = Options {
        root: bpffs.to_owned(),
        config: constants,
        sizes,
        ..Options::default()
    };
    let datapath = tokio::task::spawn_blocking(move || Datapath::open(&options))
        .await?
        .context("loading the datapath")?;
    for news in datapath.news().iter().filter(|news| news.reason.is_replacement()) {
        tracing::warn!(map = news.name, reason = ?news.reason, copied = news.copied, left = news.left, "map made anew");
    }
    Ok(datapath)
}

/// Has services translated at the sockets of the node, or no longer.
fn sockets(datapath: &Datapath, config: &AgentConfig, cgroup_root: &Path) -> anyhow::Result<()> {
    if !config.kube_proxy_replacement {
        let detached = datapath.detach_sockets()?;
        if detached > 0 {
            tracing::info!("services are no longer translated");
        }
        return Ok(());
    }
    // Where a machine still has version 1 too, this is the place of version 2.
    let hybrid = cgroup_root.join("unified");
    let root = if hybrid.is_dir() { &hybrid } else { cgroup_root };
    datapath
        .attach_sockets(root)
        .context("kube-proxy-replacement: true needs the node's cgroup v2 root at --cgroup-root")?;
    Ok(())
}

/// Does a step until it is done. Whoever asks for the status sees why it is not.
async fn insist(agent: &Agent, name: &'static str, step: impl AsyncFn() -> anyhow::Result<()>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let outcome = step().await;
        agent.controllers.report(name, &outcome);
        if outcome.is_ok() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn wait_until(mut complete: watch::Receiver<bool>) -> anyhow::Result<()> {
    loop {
        match tokio::time::timeout(SYNC_PATIENCE, complete.wait_for(|complete| *complete)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(_)) => bail!("the watches ended before they were complete"),
            // No end: an agent that gives up would only start again and wait here.
            Err(_) => tracing::warn!("still waiting for the first synchronisation with the API server"),
        }
    }
}

/// Tells the kubelet and the scheduler that pods may come.
async fn announce(agent: &Agent, args: &Args) -> anyhow::Result<()> {
    if args.cni_bin_dir.is_dir() {
        cniconf::install_plugin(&args.cni_bin_dir)
            .with_context(|| format!("copying the CNI plugin to {}", args.cni_bin_dir.display()))?;
    }
    if let Some(path) = &agent.cni_conf {
        cniconf::write(path, agent.config.cni_exclusive, &agent.config.cni_log_file)
            .with_context(|| format!("writing the CNI configuration {}", path.display()))?;
    }
    let marked = agent.registry.mark_ready(&agent.node).await;
    agent.controllers.report(
        background::MARK_READY,
        &marked.map_err(|error| format!("{error:#}")),
    );
    Ok(())
}

/// The queue of the plugin that talks to `socket`.
fn queue_directory(socket: &Path) -> std::path::PathBuf {
    let name = Path::new(api::DELETE_QUEUE).file_name().unwrap_or_default();
    socket
        .parent()
        .map_or_else(|| api::DELETE_QUEUE.into(), |directory| directory.join(name))
}

/// Identifies the boot of the machine; empty when the kernel does not say.
fn boot_id(procfs: &Path) -> String {
    let id = std::fs::read_to_string(procfs.join("sys/kernel/random/boot_id"));
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}
