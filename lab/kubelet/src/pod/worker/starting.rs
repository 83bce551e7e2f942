//! Starting: sandbox, volumes, images, containers.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use tokio::time::{Instant, timeout};

use super::{Worker, find, instant};
use crate::{
    catalogue::Image,
    events, files,
    pod::{
        container::{self, Start},
        hook, sandbox,
        state::Current,
        status,
    },
    volumes,
};

/// How long a postStart hook may take; the pod does nothing else meanwhile.
const HOOK_WITHIN: Duration = Duration::from_secs(30);

impl Worker {
    /// Volumes and sandbox. `Err` says when to try again.
    pub(super) async fn set_up(&mut self, spec: &PodSpec) -> Result<(), Instant> {
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
                Err((volume, error)) => {
                    let message = format!(
                        "MountVolume.SetUp failed for volume \"{volume}\" : {}",
                        chain(&error)
                    );
                    self.context.events.warning(about, "FailedMount", message);
                    return Err(Instant::now() + Duration::from_secs(1));
                }
            }
        }
        self.setup_backoff.reset();
        Ok(())
    }

    pub(super) fn hold(&mut self) -> Instant {
        let until = self
            .setup_backoff
            .until(Timestamp::now(), SignedDuration::ZERO, false);
        self.setup_hold = Some(until);
        instant(until)
    }

    /// The pod as its containers may see it: with the addresses it has by now.
    pub(super) fn pod_with_addresses(&self) -> Pod {
        let mut pod = (*self.pod).clone();
        pod.status = Some(status::build(
            &pod,
            &self.state,
            self.context.host_ips(),
            Timestamp::now(),
        ));
        pod
    }

    pub(super) async fn start(&mut self, spec: &PodSpec, name: &str) {
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
    pub(super) fn pull(&mut self, container: &Container, reference: &str) -> Option<Image> {
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

    pub(super) async fn post_start(&mut self, container: &Container, id: &str) {
        let hook = container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.post_start.as_ref());
        let Some(hook) = hook else { return };
        let run = hook::run(&self.context, container, hook, id, self.address(), HOOK_WITHIN);
        let failed = match timeout(HOOK_WITHIN, run).await {
            Ok(result) => result.err(),
            Err(_) => Some(format!("no end within {HOOK_WITHIN:?}")),
        };
        if let Some(why) = failed {
            let about = events::pod_reference(&self.pod, Some(&container.name));
            self.context.events.warning(
                about,
                "FailedPostStartHook",
                format!("PostStartHook failed: {why}"),
            );
            self.kill(&container.name, "FailedPostStartHook").await;
        }
    }

    /// Keeps the logs of this attempt and the one before.
    pub(super) fn forget_logs(&self, name: &str, attempt: u32) {
        let Some(old) = attempt.checked_sub(2) else { return };
        let path = self.context.paths.log(&self.uid, name, old);
        let _ = files::remove(&crate::logs::rotated(&path));
        let _ = files::remove(&path);
    }
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
