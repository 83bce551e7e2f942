//! The worker of one pod: brings what runs to what the API asks for, and tells the API what runs.

mod ending;
mod reporting;
mod starting;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::{
    backoff::Backoff,
    plan::{self, Phase},
    probe::{News, Report, Target},
    sandbox,
    state::PodState,
    termination,
};
use crate::{context::Context, events, sources::Sources, volumes};

/// Pods with this annotation run inside the lab's own process: they are only reported.
const IN_PROCESS: &str = "seta.io/in-process";
/// How often volumes made of ConfigMaps and Secrets are looked after.
const REFRESH: Duration = Duration::from_secs(10);
/// How long one write to the API may take.
const API_WITHIN: Duration = Duration::from_secs(10);
/// How long to wait after a failure that has no back-off of its own.
const RETRY: Duration = Duration::from_millis(500);

/// What the watch says about a pod.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    /// It should be as this object says.
    Be(Arc<Pod>),
    /// The object is gone: end it at once, there is nobody to report to.
    Gone,
}

/// Something that happened to the pod's containers.
enum Event {
    /// A container's shim is gone.
    Ended {
        container: String,
        id: String,
    },
    Probe(Report),
}

/// Watches over a running container; dropping it ends the watch.
struct Watching {
    _end: AbortOnDropHandle<()>,
    _probes: AbortOnDropHandle<()>,
}

pub(crate) struct Worker {
    context: Arc<Context>,
    wishes: watch::Receiver<Wish>,
    pod: Arc<Pod>,
    uid: String,
    state: PodState,
    volumes: Option<BTreeMap<String, PathBuf>>,
    setup_backoff: Backoff,
    /// Nothing of the set-up is tried again before.
    setup_hold: Option<Timestamp>,
    written: Option<PodStatus>,
    watching: HashMap<String, Watching>,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    sources: Sources,
}

impl Worker {
    /// A worker for a pod, going on from what an earlier kubelet left.
    pub(crate) fn new(context: Arc<Context>, pod: Arc<Pod>, wishes: watch::Receiver<Wish>) -> Self {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let state = PodState::load(&context.paths.pod(&uid));
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let sources = Sources::new(context.client.clone(), namespace);
        Self {
            wishes,
            uid,
            state,
            volumes: None,
            setup_backoff: Backoff::default(),
            setup_hold: None,
            written: None,
            watching: HashMap::new(),
            events: mpsc::channel(64),
            sources,
            pod,
            context,
        }
    }

    /// Works until the pod is gone from this node and from the API.
    pub(crate) async fn run(mut self) {
        self.state.started_at.get_or_insert_with(Timestamp::now);
        if self
            .pod
            .metadata
            .annotations
            .iter()
            .flatten()
            .any(|(key, value)| key == IN_PROCESS && value == "true")
        {
            return self.report_only().await;
        }
        self.adopt().await;
        let mut refreshed = Instant::now();
        loop {
            if let Wish::Be(pod) = self.wishes.borrow_and_update().clone() {
                self.pod = pod;
            }
            if matches!(*self.wishes.borrow(), Wish::Gone) || self.pod.metadata.deletion_timestamp.is_some() {
                return self.terminate().await;
            }
            let wake = self.reconcile().await;
            self.publish().await;
            if refreshed.elapsed() >= REFRESH && self.volumes.is_some() {
                refreshed = Instant::now();
                if let Err(error) =
                    volumes::refresh(&self.pod, &self.context.paths.pod(&self.uid), &self.sources).await
                {
                    warn!(%error, pod = self.name(), "cannot renew a volume");
                }
            }
            let mut network = self.context.network.clone();
            let waits_for_network = self.state.sandbox.is_none();
            tokio::select! {
                changed = self.wishes.changed() => if changed.is_err() { return },
                Some(event) = self.events.1.recv() => self.handle(event).await,
                () = sleep_until(wake.min(refreshed + REFRESH)) => {}
                Ok(()) = network.changed(), if waits_for_network => self.setup_hold = None,
            }
        }
    }

    fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    /// Where probes and hooks reach the pod.
    fn address(&self) -> Option<IpAddr> {
        let host_network = self
            .pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.host_network == Some(true));
        match (&self.state.sandbox, host_network) {
            (Some(sandbox), false) => sandbox.addresses.first().copied(),
            _ => self.context.host_ips().first().copied(),
        }
    }

    fn spec(&self) -> PodSpec {
        self.pod.spec.clone().unwrap_or_default()
    }

    /// Finds out what became of the containers while no kubelet was there.
    async fn adopt(&mut self) {
        let running: Vec<(String, String)> = self
            .state
            .units
            .iter()
            .filter_map(|(name, unit)| Some((name.clone(), unit.running()?.to_owned())))
            .collect();
        for (name, id) in running {
            self.watch(&name, &id);
        }
        if let Some(sandbox) = self.state.sandbox.clone() {
            if sandbox
                .netns
                .as_ref()
                .is_some_and(|netns| !crate::mounts::is_mount_point(netns))
            {
                warn!(pod = self.name(), "the sandbox is gone: starting afresh");
                let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
                self.context
                    .events
                    .normal(events::pod_reference(&self.pod, None), "SandboxChanged", message);
                self.lose_sandbox().await;
            } else if let Err(error) = sandbox::check(&self.context, &sandbox).await {
                if !error.is_verdict() {
                    // The agent is down or the plugin is not there: no reason to end what runs.
                    return warn!(pod = self.name(), %error, "cannot check the sandbox: it is taken as it is");
                }
                let message = format!("Pod sandbox changed, it will be killed and re-created: {error}");
                self.context
                    .events
                    .normal(events::pod_reference(&self.pod, None), "SandboxChanged", message);
                self.lose_sandbox().await;
            }
        }
    }

    /// One step towards the wish; returns when to take the next, if nothing happens before.
    async fn reconcile(&mut self) -> Instant {
        let spec = self.spec();
        if matches!(plan::phase(&spec, &self.state), Phase::Succeeded | Phase::Failed) {
            let over = watch::channel(Instant::now() + Duration::from_secs(30)).1;
            self.stop_all(over).await;
            if let Some(sandbox) = self.state.sandbox.clone()
                && sandbox::remove(&self.context, &sandbox).await.is_ok()
                && let Some(sandbox) = &mut self.state.sandbox
            {
                sandbox.netns = None;
                sandbox.attached = None;
            }
            self.save();
            return Instant::now() + REFRESH;
        }
        if let Some(hold) = self.setup_hold.filter(|hold| *hold > Timestamp::now()) {
            return instant(hold);
        }
        if let Err(retry) = self.set_up(&spec).await {
            return retry;
        }
        let plan = plan::next(&spec, &self.state, Timestamp::now());
        for name in &plan.start {
            // Whoever deletes the pod does not want to wait for the rest.
            if self.wishes.has_changed().unwrap_or(true) {
                break;
            }
            self.start(&spec, name).await;
        }
        let again = plan::next(&spec, &self.state, Timestamp::now());
        match again.start.is_empty() {
            true => again.wake.map_or_else(|| Instant::now() + REFRESH, instant),
            false => Instant::now() + RETRY,
        }
    }

    /// Watches a running container and starts its probes.
    fn watch(&mut self, name: &str, id: &str) {
        let dir = self.context.paths.container(id);
        let (events, container, own_id) = (self.events.0.clone(), name.to_owned(), id.to_owned());
        let end = tokio::spawn(async move {
            termination::ended(&dir).await;
            let _ = events
                .send(Event::Ended {
                    container,
                    id: own_id,
                })
                .await;
        });
        let spec = self.spec();
        let (reports, mut news) = mpsc::channel(16);
        let target = find(&spec, name)
            .zip(self.address())
            .map(|(container, address)| Target {
                context: self.context.clone(),
                container: container.clone(),
                id: id.to_owned(),
                address,
                started: self.state.units.get(name).is_some_and(|unit| unit.started),
                reports,
            });
        let events = self.events.0.clone();
        let probes = tokio::spawn(async move {
            let Some(target) = target else { return };
            let forward = async {
                while let Some(report) = news.recv().await {
                    let _ = events.send(Event::Probe(report)).await;
                }
            };
            tokio::join!(target.run(), forward);
        });
        let watching = Watching {
            _end: AbortOnDropHandle::new(end),
            _probes: AbortOnDropHandle::new(probes),
        };
        self.watching.insert(name.to_owned(), watching);
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Ended { container, id } => self.container_ended(&container, &id).await,
            Event::Probe(Report { container, id, news }) => {
                let spec = self.spec();
                let Some(unit) = self
                    .state
                    .units
                    .get_mut(&container)
                    .filter(|unit| unit.running() == Some(&id))
                else {
                    return;
                };
                let about = events::pod_reference(&self.pod, Some(&container));
                match news {
                    News::Started => {
                        unit.started = true;
                        unit.ready = find(&spec, &container)
                            .is_some_and(|container| container.readiness_probe.is_none());
                    }
                    News::Ready(ready) => unit.ready = ready,
                    News::Failure(kind, why) => {
                        let message = format!("{} probe failed: {}", kind.name(), why.trim());
                        self.context.events.warning(about, "Unhealthy", message);
                    }
                    News::Unhealthy(kind) => {
                        let message = format!(
                            "Container {container} failed {} probe, will be restarted",
                            kind.name().to_lowercase()
                        );
                        self.context.events.normal(about, "Killing", message);
                        self.kill(&container, kind.name()).await;
                    }
                }
                self.save();
            }
        }
    }
}

fn find<'a>(spec: &'a PodSpec, name: &str) -> Option<&'a Container> {
    spec.init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .find(|container| container.name == name)
}

fn metadata_text(field: &Option<String>) -> String {
    field.clone().unwrap_or_default()
}

fn instant(at: Timestamp) -> Instant {
    let wait = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
    Instant::now() + wait + Duration::from_millis(5)
}
