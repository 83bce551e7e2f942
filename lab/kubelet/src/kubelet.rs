//! The kubelet as a whole: starts its parts, watches the pods of its node, keeps one worker per pod.

use std::{
    collections::{HashMap, HashSet},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use futures::TryStreamExt;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use crate::{
    Args,
    catalogue::Catalogue,
    cleanup,
    cni::{self, Network},
    context::Context,
    events::Recorder,
    node,
    pod::{
        state::PodState,
        worker::{Wish, Worker},
    },
    server,
};

/// How long to wait before a part that failed is started again.
const RESTART: Duration = Duration::from_secs(1);
/// How long plugins may take to collect garbage; pods wait for it.
const GARBAGE_WITHIN: Duration = Duration::from_secs(5);

/// Runs until a signal.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(&args.root_dir)
        .with_context(|| format!("cannot make the root directory {}", args.root_dir.display()))?;
    let kubeconfig = Kubeconfig::read_from(&args.kubeconfig)
        .with_context(|| format!("cannot read the kubeconfig {}", args.kubeconfig.display()))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    let catalogue = Catalogue::new(&args.seta_binary, args.image_catalogue.as_deref())?;
    let listener = server::bind(&args.socket)?;
    let (events, write_events) = Recorder::new(client.clone(), &args.node_name);
    let (network_news, network) =
        watch::channel::<Result<Arc<Network>, Arc<str>>>(Err("cni plugin not initialized".into()));
    let node_args = args.clone();
    let context = Arc::new(Context::new(args, client, catalogue, events, network));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let parts = [
        AbortOnDropHandle::new(tokio::spawn(write_events)),
        AbortOnDropHandle::new(tokio::spawn(node::watch_network(node_args, network_news))),
        supervise("node", context.clone(), node::keep),
        supervise("pods", context.clone(), watch_pods),
        AbortOnDropHandle::new(tokio::spawn(server::serve(context.clone(), listener))),
    ];
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!("stopping; containers go on");
    drop(parts);
    let _ = crate::files::remove(&context.args.socket);
    Ok(ExitCode::SUCCESS)
}

/// Runs a part again when it ends or panics.
fn supervise<F>(
    name: &'static str,
    context: Arc<Context>,
    part: fn(Arc<Context>) -> F,
) -> AbortOnDropHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let ended = AbortOnDropHandle::new(tokio::spawn(part(context.clone()))).await;
            match ended {
                Ok(()) => warn!(part = name, "ended: starting it again"),
                Err(error) => error!(part = name, %error, "failed: starting it again"),
            }
            sleep(RESTART).await;
        }
    }))
}

/// A pod's worker and the channel that tells it what is wanted.
struct Running {
    wishes: watch::Sender<Wish>,
    task: AbortOnDropHandle<()>,
}

async fn watch_pods(context: Arc<Context>) {
    let api: Api<Pod> = Api::all(context.client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", context.args.node_name));
    let mut stream = std::pin::pin!(watcher(api, config).default_backoff());
    let mut workers: HashMap<String, Running> = HashMap::new();
    let mut listed: HashSet<String> = HashSet::new();
    collect_garbage(&context).await;
    let mut first = true;
    loop {
        let event = match stream.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                warn!(%error, "cannot watch pods");
                continue;
            }
        };
        workers.retain(|_, running| !running.task.is_finished());
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(pod) => {
                listed.extend(pod.metadata.uid.clone());
                wish(&context, &mut workers, pod);
            }
            Event::InitDone => {
                for (uid, running) in &workers {
                    if !listed.contains(uid) {
                        running.wishes.send_replace(Wish::Gone);
                    }
                }
                if std::mem::take(&mut first) {
                    end_orphans(&context, &mut workers);
                }
            }
            Event::Apply(pod) => wish(&context, &mut workers, pod),
            Event::Delete(pod) => {
                if let Some(running) = pod.metadata.uid.as_ref().and_then(|uid| workers.get(uid)) {
                    running.wishes.send_replace(Wish::Gone);
                }
            }
        }
    }
}

fn wish(context: &Arc<Context>, workers: &mut HashMap<String, Running>, pod: Pod) {
    let Some(uid) = pod.metadata.uid.clone() else {
        return;
    };
    let pod = Arc::new(pod);
    match workers.get(&uid) {
        Some(running) => drop(running.wishes.send_replace(Wish::Be(pod))),
        None => drop(workers.insert(uid, start(context.clone(), pod.clone(), Wish::Be(pod)))),
    }
}

fn start(context: Arc<Context>, pod: Arc<Pod>, wish: Wish) -> Running {
    let (wishes, receiver) = watch::channel(wish);
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let worker = Worker::new(context.clone(), pod.clone(), receiver.clone());
            match AbortOnDropHandle::new(tokio::spawn(worker.run())).await {
                Ok(()) => return,
                // The state on disk tells the next one where this one was.
                Err(error) => {
                    error!(%error, pod = pod.metadata.name, "a pod's worker failed: starting it again");
                }
            }
            sleep(RESTART).await;
        }
    }));
    Running { wishes, task }
}

/// Ends pods that an earlier kubelet left and that are gone from the API.
fn end_orphans(context: &Arc<Context>, workers: &mut HashMap<String, Running>) {
    for entry in std::fs::read_dir(context.paths.pods())
        .into_iter()
        .flatten()
        .flatten()
    {
        let uid = entry.file_name().to_string_lossy().into_owned();
        if workers.contains_key(&uid) {
            continue;
        }
        info!(uid, "ending a pod that is gone from the API");
        let metadata = ObjectMeta {
            uid: Some(uid.clone()),
            ..ObjectMeta::default()
        };
        let pod = Arc::new(Pod {
            metadata,
            ..Pod::default()
        });
        workers.insert(uid, start(context.clone(), pod, Wish::Gone));
    }
}

/// Before the first pod: removes containers that no pod knows, and tells the plugins which attachments are valid. Later it
/// could meet what a worker has just made and not yet written down.
async fn collect_garbage(context: &Context) {
    let paths = context.paths.clone();
    let read = move || {
        let pods = std::fs::read_dir(paths.pods()).into_iter().flatten().flatten();
        let states: Vec<PodState> = pods.map(|entry| PodState::load(&entry.path())).collect();
        cleanup::unknown_containers(&paths, &states);
        states
            .into_iter()
            .filter_map(|state| Some(state.sandbox?.attached?.attachment))
            .collect::<Vec<_>>()
    };
    let Ok(valid) = tokio::task::spawn_blocking(read).await else {
        return;
    };
    // Without a configuration nothing is attached that could be garbage.
    let Ok(network) = cni::load(&context.args.cni_conf_dir) else {
        return;
    };
    match timeout(GARBAGE_WITHIN, context.cni.gc(&network, &valid)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "plugins cannot collect garbage"),
        Err(_) => warn!("plugins cannot collect garbage in time"),
    }
}
