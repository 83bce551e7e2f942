//! Telling: the state on disk, the status in the API, the view for the server.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::{API_WITHIN, REFRESH, Wish, Worker, metadata_text};
use crate::{
    context::{ContainerView, PodView},
    pod::{
        state::{Current, Sandbox, Unit},
        status,
    },
};

impl Worker {
    pub(super) fn save(&self) {
        if let Err(error) = self.state.save(&self.context.paths.pod(&self.uid)) {
            warn!(%error, pod = self.name(), "cannot write the pod's state");
        }
    }

    pub(super) async fn save_and_publish(&mut self) {
        self.save();
        self.publish().await;
    }

    /// Writes the status if it changed, and what the server must know.
    pub(super) async fn publish(&mut self) {
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

    pub(super) async fn write(&mut self, status: PodStatus) {
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

    pub(super) fn view(&self) -> PodView {
        let containers = self.state.units.iter().map(|(name, unit)| {
            let view = ContainerView {
                running: unit.running().map(str::to_owned),
                attempt: unit.attempt,
                waiting: match &unit.current {
                    Current::Waiting { reason, .. } => Some(reason.clone()),
                    _ => None,
                },
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

    /// A pod that runs inside the lab: Running as long as its object is there.
    pub(super) async fn report_only(mut self) {
        let spec = self.spec();
        // What runs in the lab's own process uses the node's network: no namespace of its own.
        self.state.sandbox = Some(Sandbox {
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
