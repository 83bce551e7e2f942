//! Ending: killed containers, containers that ended, the end of the pod.

use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::{API_WITHIN, Wish, Worker, find, metadata_text};
use crate::{
    events,
    pod::{
        container, plan, sandbox,
        state::{Current, Ended},
        termination,
    },
};

/// The longest last word of a container, in bytes, as in Kubernetes.
const MAX_MESSAGE: usize = 4096;
/// How long to wait after the plugins did not let go of a pod: doubling from the first to the longest.
const DETACH_FIRST: Duration = Duration::from_millis(500);
const DETACH_LONGEST: Duration = Duration::from_secs(30);
/// How often they are asked about a pod whose object is gone.
const DETACH_TRIES: u32 = 6;

impl Worker {
    pub(super) async fn lose_sandbox(&mut self) {
        self.stop_all(watch::channel(Instant::now()).1).await;
        if let Some(sandbox) = self.state.sandbox.take() {
            let _ = sandbox::remove(&self.context, &sandbox).await;
        }
    }

    pub(super) async fn kill(&mut self, name: &str, why: &str) {
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
        let (_hurry, deadline) = self.deadline(u64::try_from(grace).unwrap_or(0));
        self.stop(&self.spec(), &[(name.to_owned(), id)], &deadline).await;
    }

    /// A deadline in so many seconds, which a more urgent deletion of the pod moves nearer.
    fn deadline(&self, seconds: u64) -> (AbortOnDropHandle<()>, watch::Receiver<Instant>) {
        let (move_deadline, deadline) = watch::channel(Instant::now() + Duration::from_secs(seconds));
        let mut wishes = self.wishes.clone();
        let hurry = tokio::spawn(async move {
            while wishes.changed().await.is_ok() {
                let grace = match &*wishes.borrow() {
                    Wish::Gone => Some(0),
                    Wish::Be(pod) => pod.metadata.deletion_grace_period_seconds,
                };
                let Some(grace) = grace else { continue };
                let by = Instant::now() + Duration::from_secs(u64::try_from(grace).unwrap_or(0));
                move_deadline.send_if_modified(|deadline| {
                    let sooner = by < *deadline;
                    *deadline = by.min(*deadline);
                    sooner
                });
            }
            // The receiver must not take the end of this task for news.
            std::future::pending::<()>().await;
        });
        (AbortOnDropHandle::new(hurry), deadline)
    }

    /// Stops some containers side by side and takes down how they ended.
    async fn stop(
        &mut self,
        spec: &PodSpec,
        running: &[(String, String)],
        deadline: &watch::Receiver<Instant>,
    ) {
        let address = self.address();
        let stops = running.iter().map(|(name, id)| {
            let victim = termination::Victim {
                pod_uid: &self.uid,
                container: find(spec, name),
                id,
                address,
            };
            termination::stop(&self.context, victim, deadline.clone())
        });
        let failures = futures::future::join_all(stops).await;
        for ((name, id), failure) in running.iter().zip(failures) {
            if let Some(why) = failure {
                let about = events::pod_reference(&self.pod, Some(name));
                let message = format!("PreStopHook failed: {why}");
                self.context.events.warning(about, "FailedPreStopHook", message);
            }
            self.container_ended(name, id).await;
        }
    }

    /// Takes down how a container ended and when it may start again.
    pub(super) async fn container_ended(&mut self, name: &str, id: &str) {
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
        termination::kill_remains(&self.context, &self.uid, id).await;
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
    pub(super) async fn terminate(mut self) {
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
        let (hurry, deadline) = self.deadline(grace);
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
        self.stop_all(deadline).await;
        drop(hurry);
        if !gone {
            self.publish().await;
        }
        self.detach().await;
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

    pub(super) async fn stop_all(&mut self, deadline: watch::Receiver<Instant>) {
        let spec = self.spec();
        let (mut sidecars, mut others) = (Vec::new(), Vec::new());
        for (name, unit) in &self.state.units {
            let Some(id) = unit.running() else { continue };
            let place = spec
                .init_containers
                .iter()
                .flatten()
                .position(|init| init.name == *name && plan::is_sidecar(init));
            let one = (name.clone(), id.to_owned());
            match place {
                Some(place) => sidecars.push((place, one)),
                None => others.push(one),
            }
        }
        self.stop(&spec, &others, &deadline).await;
        // Sidecars serve the others to the end, and go in the reverse order of their start.
        sidecars.sort_by_key(|(place, _)| std::cmp::Reverse(*place));
        for (_, one) in sidecars {
            self.stop(&spec, &[one], &deadline).await;
        }
    }

    /// Removes the sandbox. The plugins are asked until they agree, less and less often; once the pod's object is gone too, only
    /// so many times: what they still hold is then for their garbage collection.
    async fn detach(&mut self) {
        let mut wait = DETACH_FIRST;
        let mut tries = 0;
        while let Some(mut sandbox) = self.state.sandbox.clone() {
            let Err(error) = sandbox::remove(&self.context, &sandbox).await else {
                self.state.sandbox = None;
                return;
            };
            let about = events::pod_reference(&self.pod, None);
            let message = format!("error killing pod: failed to \"KillPodSandbox\": {error}");
            self.context.events.warning(about, "FailedKillPod", message);
            tries += 1;
            if tries >= DETACH_TRIES && matches!(*self.wishes.borrow(), Wish::Gone) {
                warn!(pod = self.name(), %error, "the plugins do not let go of a pod that is gone: removed without them");
                sandbox.attached = None;
                let _ = sandbox::remove(&self.context, &sandbox).await;
                self.state.sandbox = None;
                return;
            }
            sleep(wait).await;
            wait = (wait * 2).min(DETACH_LONGEST);
        }
    }

    pub(super) async fn remove_files(&mut self) {
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
    pub(super) async fn delete_object(&self, key: &(String, String)) {
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
