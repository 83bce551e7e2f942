//! Ending: killed containers, containers that ended, the end of the pod.

use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
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

use super::{API_WITHIN, RETRY, Wish, Worker, find, metadata_text};
use crate::{
    events,
    pod::{
        backoff::Backoff,
        container, plan, sandbox,
        state::{Current, Ended},
        termination,
    },
};

/// The longest last word of a container, in bytes, as in Kubernetes.
const MAX_MESSAGE: usize = 4096;

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
        let deadline = Instant::now() + Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        let (_keep, deadline) = watch::channel(deadline);
        let spec = self.spec();
        termination::stop(&self.context, &self.uid, find(&spec, name), &id, deadline).await;
        self.container_ended(name, &id).await;
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

    pub(super) async fn stop_all(&mut self, deadline: watch::Receiver<Instant>) {
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
