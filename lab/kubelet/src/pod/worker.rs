//! The worker of one pod: brings what runs to what the API asks for, and tells the API what runs.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::{
    backoff::Backoff,
    container::{self, Start},
    plan::{self, Phase},
    probe::{News, Report, Target},
    sandbox,
    state::{Current, Ended, PodState, Unit},
    status, termination,
};
use crate::{
    catalogue::Image,
    context::{ContainerView, Context, PodView},
    events, files,
    sources::Sources,
    volumes,
};

/// Pods with this annotation run inside the lab's own process: they are only reported.
const IN_PROCESS: &str = "seta.io/in-process";
/// How often volumes made of ConfigMaps and Secrets are looked after.
const REFRESH: Duration = Duration::from_secs(10);
/// How long one write to the API may take.
const API_WITHIN: Duration = Duration::from_secs(10);
/// How long to wait after a failure that has no back-off of its own.
const RETRY: Duration = Duration::from_millis(500);
/// The longest last word of a container, in bytes, as in Kubernetes.
const MAX_MESSAGE: usize = 4096;

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
                self.lose_sandbox().await;
            } else if let Err(error) = sandbox::check(&self.context, &sandbox).await {
                let message = format!("Pod sandbox changed, it will be killed and re-created: {error}");
                self.context
                    .events
                    .normal(events::pod_reference(&self.pod, None), "SandboxChanged", message);
                self.lose_sandbox().await;
            }
        }
    }

    async fn lose_sandbox(&mut self) {
        self.stop_all(watch::channel(Instant::now()).1).await;
        if let Some(sandbox) = self.state.sandbox.take() {
            let _ = sandbox::remove(&self.context, &sandbox).await;
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

    /// Volumes and sandbox. `Err` says when to try again.
    async fn set_up(&mut self, spec: &PodSpec) -> Result<(), Instant> {
        let dir = self.context.paths.pod(&self.uid);
        let host_network = spec.host_network == Some(true);
        let about = events::pod_reference(&self.pod, None);
        if self.state.sandbox.is_none() {
            let network = self.context.network.borrow().clone();
            let network = match network {
                _ if host_network => None,
                Ok(network) => Some(network),
                Err(why) => {
                    let message = format!("network is not ready: {}", crate::node::not_ready_message(&why));
                    self.context.events.warning(about, "NetworkNotReady", message);
                    return Err(self.hold());
                }
            };
            match sandbox::make(&self.context, &self.pod, network).await {
                Ok(sandbox) => self.state.sandbox = Some(sandbox),
                Err(error) => {
                    let message =
                        format!("Failed to create pod sandbox: rpc error: code = Unknown desc = {error}");
                    self.context
                        .events
                        .warning(about, "FailedCreatePodSandBox", message);
                    // Often the agent is only starting: the kubelet too tries again soon.
                    return Err(Instant::now() + Duration::from_secs(1));
                }
            }
            self.save();
            self.publish().await;
        }
        if self.volumes.is_none() {
            match volumes::set_up(&self.pod_with_addresses(), &dir, &self.sources).await {
                Ok(paths) => self.volumes = Some(paths),
                Err(error) => {
                    let message = format!("MountVolume.SetUp failed for volume: {}", chain(&error));
                    self.context.events.warning(about, "FailedMount", message);
                    return Err(Instant::now() + Duration::from_secs(1));
                }
            }
        }
        self.setup_backoff.reset();
        Ok(())
    }

    fn hold(&mut self) -> Instant {
        let until = self
            .setup_backoff
            .until(Timestamp::now(), SignedDuration::ZERO, false);
        self.setup_hold = Some(until);
        instant(until)
    }

    /// The pod as its containers may see it: with the addresses it has by now.
    fn pod_with_addresses(&self) -> Pod {
        let mut pod = (*self.pod).clone();
        pod.status = Some(status::build(
            &pod,
            &self.state,
            self.context.host_ips(),
            Timestamp::now(),
        ));
        pod
    }

    async fn start(&mut self, spec: &PodSpec, name: &str) {
        let Some(container) = find(spec, name).cloned() else {
            return;
        };
        let about = events::pod_reference(&self.pod, Some(name));
        let reference = container.image.clone().unwrap_or_default();
        let image = match self.pull(&container, &reference) {
            Some(image) => image,
            None => return self.save_and_publish().await,
        };
        let unit = self.state.units.entry(name.to_owned()).or_default();
        let again = unit.ended().is_some();
        let attempt = unit.attempt.map_or(0, |attempt| attempt + 1);
        if let Current::Ended(ended) = &unit.current {
            unit.last = Some(ended.clone());
        }
        let (Some(sandbox), Some(volumes)) = (self.state.sandbox.clone(), self.volumes.clone()) else {
            return;
        };
        let pod = self.pod_with_addresses();
        let previous = self
            .state
            .units
            .get(name)
            .and_then(|unit| unit.last.as_ref())
            .map(|ended| ended.id.clone());
        let request = Start {
            context: &self.context,
            pod: &pod,
            spec,
            container: &container,
            image: &image,
            sandbox: &sandbox,
            volumes: &volumes,
            attempt,
        };
        let started = container::start(request).await;
        let unit = self.state.units.entry(name.to_owned()).or_default();
        match started {
            Ok(id) => {
                unit.attempt = Some(attempt);
                unit.restarts += u32::from(again);
                unit.hold_until = None;
                unit.started = container.startup_probe.is_none();
                unit.ready = unit.started && container.readiness_probe.is_none();
                unit.current = Current::Running {
                    id: id.clone(),
                    at: Timestamp::now(),
                };
                self.save();
                self.context
                    .events
                    .normal(about.clone(), "Created", format!("Created container: {name}"));
                self.context
                    .events
                    .normal(about, "Started", format!("Started container {name}"));
                self.watch(name, &id);
                self.post_start(&container, &id).await;
                if let Some(previous) = previous {
                    container::remove(&self.context, &self.uid, &previous).await;
                }
                self.forget_logs(name, attempt);
            }
            Err(error) => {
                let message = chain(&error);
                unit.wait(error.reason(), message.clone());
                let until = unit.backoff.until(Timestamp::now(), SignedDuration::ZERO, false);
                unit.hold_until = Some(until);
                self.context
                    .events
                    .warning(about, "Failed", format!("Error: {message}"));
            }
        }
        self.save_and_publish().await;
    }

    /// The image, or `None` after the unit was told to wait.
    fn pull(&mut self, container: &Container, reference: &str) -> Option<Image> {
        let about = events::pod_reference(&self.pod, Some(&container.name));
        let unit = self.state.units.entry(container.name.clone()).or_default();
        match self.context.catalogue.pull(reference) {
            Ok(image) => {
                let message = format!("Container image \"{reference}\" already present on machine");
                self.context.events.normal(about, "Pulled", message);
                Some(image.clone())
            }
            Err(error) => {
                let backing_off =
                    matches!(&unit.current, Current::Waiting { reason, .. } if reason == "ErrImagePull");
                if backing_off {
                    let message = format!("Back-off pulling image \"{reference}\"");
                    self.context.events.normal(about, "BackOff", message.clone());
                    unit.wait("ImagePullBackOff", format!("{message}: ErrImagePull: {error}"));
                } else {
                    self.context.events.normal(
                        about.clone(),
                        "Pulling",
                        format!("Pulling image \"{reference}\""),
                    );
                    let message = format!("Failed to pull image \"{reference}\": {error}");
                    self.context.events.warning(about.clone(), "Failed", message);
                    self.context
                        .events
                        .warning(about, "Failed", "Error: ErrImagePull".to_owned());
                    unit.wait("ErrImagePull", error.to_string());
                }
                // First the error is shown for a moment, then the waiting.
                let until = match backing_off {
                    true => unit.backoff.until(Timestamp::now(), SignedDuration::ZERO, false),
                    false => Timestamp::now() + SignedDuration::from_secs(2),
                };
                unit.hold_until = Some(until);
                None
            }
        }
    }

    async fn post_start(&mut self, container: &Container, id: &str) {
        let hook = container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.post_start.as_ref());
        let Some(command) = hook.and_then(|hook| hook.exec.as_ref()?.command.clone()) else {
            return;
        };
        let ended = crate::exec::capture(&self.context, id, &command, Duration::from_secs(30)).await;
        if !matches!(ended, Ok((0, _))) {
            let about = events::pod_reference(&self.pod, Some(&container.name));
            self.context
                .events
                .warning(about, "FailedPostStartHook", "PostStartHook failed".to_owned());
            self.kill(&container.name, "FailedPostStartHook").await;
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
        let addresses = match (&self.state.sandbox, spec.host_network == Some(true)) {
            (Some(sandbox), false) => sandbox.addresses.clone(),
            _ => self.context.host_ips().to_vec(),
        };
        let (reports, mut news) = mpsc::channel(16);
        let target = find(&spec, name)
            .zip(addresses.first())
            .map(|(container, address)| Target {
                context: self.context.clone(),
                container: container.clone(),
                id: id.to_owned(),
                address: *address,
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

    async fn kill(&mut self, name: &str, why: &str) {
        let Some(id) = self
            .state
            .units
            .get(name)
            .and_then(|unit| unit.running())
            .map(str::to_owned)
        else {
            return;
        };
        info!(pod = self.name(), container = name, why, "killing a container");
        let grace = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds)
            .unwrap_or(30);
        let deadline = Instant::now() + Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        let (_keep, deadline) = watch::channel(deadline);
        let spec = self.spec();
        termination::stop(&self.context, &self.uid, find(&spec, name), &id, deadline).await;
        self.container_ended(name, &id).await;
    }

    /// Takes down how a container ended and when it may start again.
    async fn container_ended(&mut self, name: &str, id: &str) {
        let spec = self.spec();
        let Some(unit) = self.state.units.get_mut(name) else {
            return;
        };
        let Current::Running { id: running, at } = &unit.current else {
            return;
        };
        if running != id {
            return;
        }
        self.watching.remove(name);
        let started_at = *at;
        let dir = self.context.paths.container(id);
        let exit = termination::exit(&dir);
        let policy = find(&spec, name).and_then(|container| container.termination_message_policy.clone());
        let log = unit
            .attempt
            .map(|attempt| self.context.paths.log(&self.uid, name, attempt));
        let message = last_word(&dir, exit.code, policy.as_deref(), log.as_deref());
        let reason = if exit.code == 0 { "Completed" } else { "Error" }.to_owned();
        let ran = exit.finished_at.duration_since(started_at);
        let code = exit.code;
        let finished_at = exit.finished_at;
        unit.current = Current::Ended(Ended {
            id: id.to_owned(),
            started_at,
            exit,
            reason,
            message,
        });
        unit.ready = false;
        unit.started = false;
        let init = spec
            .init_containers
            .iter()
            .flatten()
            .find(|init| init.name == name);
        if plan::is_restarted(&spec, init, code) && self.pod.metadata.deletion_timestamp.is_none() {
            let until = unit.backoff.until(finished_at, ran, true);
            unit.hold_until = Some(until);
            let wait = until.duration_since(finished_at);
            if wait > SignedDuration::ZERO {
                // The end moves to the last state; people see the waiting.
                let text = format!(
                    "back-off {} restarting failed container={name} pod={}_{}({})",
                    duration_text(wait),
                    self.pod.metadata.name.as_deref().unwrap_or_default(),
                    self.pod.metadata.namespace.as_deref().unwrap_or_default(),
                    self.uid
                );
                unit.wait("CrashLoopBackOff", text);
                let about = events::pod_reference(&self.pod, Some(name));
                let message = format!(
                    "Back-off restarting failed container {name} in pod {}_{}({})",
                    self.pod.metadata.name.as_deref().unwrap_or_default(),
                    self.pod.metadata.namespace.as_deref().unwrap_or_default(),
                    self.uid
                );
                self.context.events.warning(about, "BackOff", message);
            }
        }
        self.save();
    }

    /// Ends the pod and tells the API that it is over.
    async fn terminate(mut self) {
        let spec = self.spec();
        let gone = matches!(*self.wishes.borrow(), Wish::Gone);
        let metadata = &self.pod.metadata;
        let grace = metadata
            .deletion_grace_period_seconds
            .or(spec.termination_grace_period_seconds)
            .unwrap_or(30);
        let grace = if gone {
            0
        } else {
            u64::try_from(grace).unwrap_or(0)
        };
        let (move_deadline, deadline) = watch::channel(Instant::now() + Duration::from_secs(grace));
        for (name, _) in self
            .state
            .units
            .iter()
            .filter(|(_, unit)| unit.running().is_some())
        {
            let about = events::pod_reference(&self.pod, Some(name));
            self.context
                .events
                .normal(about, "Killing", format!("Stopping container {name}"));
        }
        // A second deletion may be more urgent than the first.
        let mut wishes = self.wishes.clone();
        let hurry = tokio::spawn(async move {
            while wishes.changed().await.is_ok() {
                let grace = match &*wishes.borrow() {
                    Wish::Gone => Some(0),
                    Wish::Be(pod) => pod.metadata.deletion_grace_period_seconds,
                };
                let by = Instant::now()
                    + Duration::from_secs(u64::try_from(grace.unwrap_or(i64::MAX)).unwrap_or(0).min(86_400));
                move_deadline.send_if_modified(|deadline| {
                    let sooner = by < *deadline;
                    *deadline = by.min(*deadline);
                    sooner
                });
            }
        });
        let hurry = AbortOnDropHandle::new(hurry);
        self.stop_all(deadline).await;
        drop(hurry);
        if !gone {
            self.publish().await;
        }
        let mut backoff = Backoff::default();
        while let Some(sandbox) = self.state.sandbox.clone() {
            match sandbox::remove(&self.context, &sandbox).await {
                Ok(()) => self.state.sandbox = None,
                Err(error) => {
                    let about = events::pod_reference(&self.pod, None);
                    let message = format!("error killing pod: failed to \"KillPodSandbox\": {error}");
                    self.context.events.warning(about, "FailedKillPod", message);
                    let wait = backoff
                        .fail(SignedDuration::ZERO, false)
                        .min(SignedDuration::from_secs(10));
                    sleep(
                        Duration::try_from(wait)
                            .unwrap_or(RETRY)
                            .min(Duration::from_secs(2)),
                    )
                    .await;
                }
            }
        }
        let key = (
            metadata_text(&self.pod.metadata.namespace),
            metadata_text(&self.pod.metadata.name),
        );
        self.remove_files().await;
        if !gone {
            self.delete_object(&key).await;
        }
        let mut pods = self.context.pods();
        if pods.get(&key).is_some_and(|view| view.uid == self.uid) {
            pods.remove(&key);
        }
    }

    async fn stop_all(&mut self, deadline: watch::Receiver<Instant>) {
        let spec = self.spec();
        let running: Vec<(String, String)> = self
            .state
            .units
            .iter()
            .filter_map(|(name, unit)| Some((name.clone(), unit.running()?.to_owned())))
            .collect();
        let stops = running.iter().map(|(name, id)| {
            termination::stop(&self.context, &self.uid, find(&spec, name), id, deadline.clone())
        });
        futures::future::join_all(stops).await;
        for (name, id) in running {
            self.container_ended(&name, &id).await;
        }
    }

    async fn remove_files(&mut self) {
        let ids: Vec<String> = self
            .state
            .units
            .values()
            .flat_map(|unit| [unit.ended(), unit.last.as_ref()])
            .flatten()
            .map(|ended| ended.id.clone())
            .collect();
        for id in ids {
            container::remove(&self.context, &self.uid, &id).await;
        }
        let (pod, logs, uid) = (
            self.context.paths.pod(&self.uid),
            self.context.paths.logs().join(&self.uid),
            self.uid.clone(),
        );
        let removed =
            tokio::task::spawn_blocking(move || crate::cleanup::remove_pod(&pod, &logs, &uid)).await;
        if let Ok(Err(error)) = removed {
            warn!(%error, pod = self.name(), "cannot remove the pod's files");
        }
    }

    /// The last act: the object goes when the kubelet says so. Tried until it is done or somebody else did it.
    async fn delete_object(&self, key: &(String, String)) {
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.0);
        let preconditions = Preconditions {
            uid: Some(self.uid.clone()),
            resource_version: None,
        };
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        loop {
            match timeout(API_WITHIN, api.delete(&key.1, &params)).await {
                Ok(Ok(_)) => return,
                // Not there any more, or another pod of the same name.
                Ok(Err(kube::Error::Api(status))) if status.code == 404 || status.code == 409 => return,
                Ok(Err(error)) => warn!(%error, pod = key.1, "cannot delete the pod's object"),
                Err(_) => warn!(pod = key.1, "cannot delete the pod's object in time"),
            }
            if matches!(*self.wishes.borrow(), Wish::Gone) {
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    fn save(&self) {
        if let Err(error) = self.state.save(&self.context.paths.pod(&self.uid)) {
            warn!(%error, pod = self.name(), "cannot write the pod's state");
        }
    }

    async fn save_and_publish(&mut self) {
        self.save();
        self.publish().await;
    }

    /// Writes the status if it changed, and what the server must know.
    async fn publish(&mut self) {
        let view = self.view();
        self.context.pods().insert(
            (
                metadata_text(&self.pod.metadata.namespace),
                metadata_text(&self.pod.metadata.name),
            ),
            view,
        );
        let status = status::build(&self.pod, &self.state, self.context.host_ips(), Timestamp::now());
        self.write(status).await;
    }

    async fn write(&mut self, status: PodStatus) {
        if self
            .written
            .as_ref()
            .is_some_and(|written| same(written, &status))
        {
            return;
        }
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), namespace);
        // Times of transitions are taken from the API's object: what was written last is fresher than the watch.
        let mut status = status;
        if let Some(written) = &self.written {
            keep_times(&mut status, written);
        }
        let patch = Patch::Merge(json!({"metadata": {"uid": self.uid}, "status": clearing(&status)}));
        match timeout(
            API_WITHIN,
            api.patch_status(self.name(), &PatchParams::default(), &patch),
        )
        .await
        {
            Ok(Ok(_)) => self.written = Some(status),
            Ok(Err(kube::Error::Api(error))) if error.code == 404 => {}
            Ok(Err(error)) => warn!(%error, pod = self.name(), "cannot write the pod's status"),
            Err(_) => warn!(pod = self.name(), "cannot write the pod's status in time"),
        }
    }

    fn view(&self) -> PodView {
        let containers = self.state.units.iter().map(|(name, unit)| {
            let view = ContainerView {
                running: unit.running().map(str::to_owned),
                attempt: unit.attempt,
            };
            (name.clone(), view)
        });
        PodView {
            uid: self.uid.clone(),
            pod: self.pod.clone(),
            netns: self
                .state
                .sandbox
                .as_ref()
                .and_then(|sandbox| sandbox.netns.clone()),
            containers: containers.collect(),
        }
    }

    /// Keeps the logs of this attempt and the one before.
    fn forget_logs(&self, name: &str, attempt: u32) {
        let Some(old) = attempt.checked_sub(2) else { return };
        let path = self.context.paths.log(&self.uid, name, old);
        let _ = files::remove(&crate::logs::rotated(&path));
        let _ = files::remove(&path);
    }

    /// A pod that runs inside the lab: Running as long as its object is there.
    async fn report_only(mut self) {
        let spec = self.spec();
        // What runs in the lab's own process uses the node's network: no namespace of its own.
        self.state.sandbox = Some(super::state::Sandbox {
            id: self.uid.clone(),
            netns: None,
            addresses: Vec::new(),
            attached: None,
        });
        for container in &spec.containers {
            let unit = Unit {
                attempt: Some(0),
                ready: true,
                started: true,
                current: Current::Running {
                    id: self.uid.clone(),
                    at: self.state.started_at.unwrap_or_default(),
                },
                ..Unit::default()
            };
            self.state.units.insert(container.name.clone(), unit);
        }
        loop {
            if let Wish::Be(pod) = self.wishes.borrow_and_update().clone() {
                self.pod = pod;
            }
            if matches!(*self.wishes.borrow(), Wish::Gone) {
                return;
            }
            let key = (
                metadata_text(&self.pod.metadata.namespace),
                metadata_text(&self.pod.metadata.name),
            );
            if self.pod.metadata.deletion_timestamp.is_some() {
                return self.delete_object(&key).await;
            }
            let status = status::build(&self.pod, &self.state, self.context.host_ips(), Timestamp::now());
            self.write(status).await;
            tokio::select! {
                changed = self.wishes.changed() => if changed.is_err() { return },
                () = sleep(REFRESH) => {}
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

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// `1m20s`, as Go prints durations.
fn duration_text(wait: SignedDuration) -> String {
    match (wait.as_secs() / 60, wait.as_secs() % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

/// What the container wrote to its termination log or, if it asks so, the end of its output.
fn last_word(
    dir: &std::path::Path,
    code: i32,
    policy: Option<&str>,
    log: Option<&std::path::Path>,
) -> Option<String> {
    let end = |text: Vec<u8>| {
        let text = text
            .get(text.len().saturating_sub(MAX_MESSAGE)..)
            .unwrap_or_default()
            .to_vec();
        Some(String::from_utf8_lossy(&text).into_owned()).filter(|text| !text.is_empty())
    };
    let message = std::fs::read(dir.join("termination-log")).ok().and_then(end);
    if message.is_some() || code == 0 || policy != Some("FallbackToLogsOnError") {
        return message;
    }
    let content = std::fs::read(log?).ok()?;
    let tail = content.get(crate::logs::tail_start(&content, 80)..)?;
    let mut printer = crate::logs::Printer::new(crate::logs::Options::default());
    let mut text = Vec::new();
    for line in tail.split(|byte| *byte == b'\n').filter_map(crate::logs::parse) {
        printer.print(&line, &mut text);
    }
    end(text)
}

/// Whether two statuses say the same; times of transitions follow from the rest.
fn same(one: &PodStatus, other: &PodStatus) -> bool {
    let without_times = |status: &PodStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_transition_time = None;
        }
        status
    };
    without_times(one) == without_times(other)
}

fn keep_times(status: &mut PodStatus, written: &PodStatus) {
    for condition in status.conditions.iter_mut().flatten() {
        let known = written
            .conditions
            .iter()
            .flatten()
            .find(|old| old.type_ == condition.type_ && old.status == condition.status);
        if let Some(known) = known {
            condition.last_transition_time = known.last_transition_time.clone();
        }
    }
}

/// The status as a merge patch: what is not set is removed.
fn clearing(status: &PodStatus) -> serde_json::Value {
    let mut value = json!(status);
    if let Some(map) = value.as_object_mut() {
        for key in ["podIP", "podIPs", "message", "reason", "initContainerStatuses"] {
            map.entry(key).or_insert(serde_json::Value::Null);
        }
    }
    value
}
