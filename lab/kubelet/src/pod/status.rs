//! The status of a pod, from what its worker knows: pure.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    plan::{self, Phase},
    state::{Current, Ended, PodState, Unit},
};

/// The status to be written. `old` is the pod as the API has it: conditions keep their transition times, and those of
/// others (PodScheduled) stay.
pub(crate) fn build(old: &Pod, state: &PodState, host_ips: &[IpAddr], now: Timestamp) -> PodStatus {
    let empty = PodStatus::default();
    let before = old.status.as_ref().unwrap_or(&empty);
    let Some(spec) = &old.spec else {
        return before.clone();
    };
    let phase = plan::phase(spec, state);
    let initialized = plan::next(spec, state, now).initialized || phase == Phase::Succeeded;
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let statuses = |containers: &[Container], waiting: &str| {
        let list = containers
            .iter()
            .map(|container| container_status(container, state, phase, waiting));
        list.collect::<Vec<_>>()
    };
    let init_statuses = statuses(inits, "PodInitializing");
    let app_statuses = statuses(
        &spec.containers,
        if initialized {
            "ContainerCreating"
        } else {
            "PodInitializing"
        },
    );
    let unready: Vec<&str> = spec
        .containers
        .iter()
        .chain(inits.iter().filter(|init| plan::is_sidecar(init)))
        .map(|container| container.name.as_str())
        .filter(|name| !state.units.get(*name).is_some_and(|unit| unit.ready))
        .collect();
    let pod_ips: Vec<IpAddr> = match (&state.sandbox, spec.host_network == Some(true)) {
        (Some(_), true) => host_ips.to_vec(),
        (Some(sandbox), false) => sandbox.addresses.clone(),
        (None, _) => Vec::new(),
    };
    let not_ready = match phase {
        Phase::Succeeded => Some(("PodCompleted", String::new())),
        Phase::Failed => Some(("PodFailed", String::new())),
        _ if !unready.is_empty() => Some((
            "ContainersNotReady",
            format!("containers with unready status: [{}]", unready.join(" ")),
        )),
        _ => None,
    };
    let not_initialized = (!initialized).then(|| {
        let open = inits
            .iter()
            .map(|init| init.name.as_str())
            .collect::<Vec<_>>()
            .join(" ");
        (
            "ContainersNotInitialized",
            format!("containers with incomplete status: [{open}]"),
        )
    });
    let completed = (phase == Phase::Succeeded).then_some("PodCompleted");
    let mut conditions = vec![
        condition("PodReadyToStartContainers", state.sandbox.is_some(), None),
        condition(
            "Initialized",
            not_initialized.is_none(),
            not_initialized.or(completed.map(|reason| (reason, String::new()))),
        ),
        condition("Ready", not_ready.is_none(), not_ready.clone()),
        condition("ContainersReady", not_ready.is_none(), not_ready),
    ];
    let known = before.conditions.as_deref().unwrap_or_default();
    for condition in &mut conditions {
        let same = known
            .iter()
            .find(|old| old.type_ == condition.type_ && old.status == condition.status);
        condition.last_transition_time = same
            .and_then(|old| old.last_transition_time.clone())
            .or(Some(Time(now)));
    }
    let foreign = known
        .iter()
        .filter(|old| !conditions.iter().any(|own| own.type_ == old.type_))
        .cloned();
    conditions.extend(foreign.collect::<Vec<_>>());
    PodStatus {
        phase: Some(phase.as_str().to_owned()),
        conditions: Some(conditions),
        container_statuses: Some(app_statuses),
        init_container_statuses: (!inits.is_empty()).then_some(init_statuses),
        host_ip: host_ips.first().map(ToString::to_string),
        host_ips: Some(host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: pod_ips.first().map(ToString::to_string),
        pod_ips: (!pod_ips.is_empty())
            .then(|| pod_ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect()),
        qos_class: before
            .qos_class
            .clone()
            .or_else(|| Some(qos(&spec.containers).to_owned())),
        start_time: before.start_time.clone().or_else(|| state.started_at.map(Time)),
        observed_generation: old.metadata.generation,
        ..PodStatus::default()
    }
}

fn condition(kind: &str, holds: bool, why_not: Option<(&str, String)>) -> PodCondition {
    let (reason, message) = why_not.unzip();
    PodCondition {
        type_: kind.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: reason.map(str::to_owned),
        message: message.filter(|message| !message.is_empty()),
        ..PodCondition::default()
    }
}

fn container_status(container: &Container, state: &PodState, phase: Phase, waiting: &str) -> ContainerStatus {
    let image = container.image.clone().unwrap_or_default();
    let default = Unit::default();
    let unit = state.units.get(&container.name).unwrap_or(&default);
    let (id, current) = match &unit.current {
        Current::Running { id, at } => {
            let running = ContainerStateRunning {
                started_at: Some(Time(*at)),
            };
            (
                Some(id),
                ContainerState {
                    running: Some(running),
                    ..ContainerState::default()
                },
            )
        }
        Current::Ended(ended) => (Some(&ended.id), terminated(ended)),
        // A pod that is over has nothing to wait for.
        Current::Waiting { .. }
            if matches!(phase, Phase::Failed | Phase::Succeeded) && unit.last.is_some() =>
        {
            (
                unit.last.as_ref().map(|ended| &ended.id),
                unit.last.as_ref().map(terminated).unwrap_or_default(),
            )
        }
        Current::Waiting { reason, message } => {
            let reason = if reason == "ContainerCreating" {
                waiting
            } else {
                reason
            };
            let waiting = ContainerStateWaiting {
                reason: Some(reason.to_owned()),
                message: Some(message.clone()).filter(|message| !message.is_empty()),
            };
            let state = ContainerState {
                waiting: Some(waiting),
                ..ContainerState::default()
            };
            (unit.last.as_ref().map(|ended| &ended.id), state)
        }
    };
    let done_init = matches!(&unit.current, Current::Ended(ended) if ended.exit.code == 0);
    let is_init = container.restart_policy.is_none() && waiting == "PodInitializing" && done_init;
    ContainerStatus {
        name: container.name.clone(),
        image_id: id.map(|_| format!("seta-lab://{image}")).unwrap_or_default(),
        image,
        container_id: id.map(|id| format!("crun://{id}")),
        ready: unit.ready || is_init,
        started: Some(unit.started),
        restart_count: i32::try_from(unit.restarts).unwrap_or(i32::MAX),
        state: Some(current),
        last_state: unit.last.as_ref().map(terminated),
        ..ContainerStatus::default()
    }
}

fn terminated(ended: &Ended) -> ContainerState {
    let terminated = ContainerStateTerminated {
        container_id: Some(format!("crun://{}", ended.id)),
        exit_code: ended.exit.code,
        started_at: Some(Time(ended.started_at)),
        finished_at: Some(Time(ended.exit.finished_at)),
        reason: Some(ended.reason.clone()),
        message: ended.message.clone(),
        ..ContainerStateTerminated::default()
    };
    ContainerState {
        terminated: Some(terminated),
        ..ContainerState::default()
    }
}

fn qos(containers: &[Container]) -> &'static str {
    let lists = |container: &Container| {
        let resources = container.resources.clone().unwrap_or_default();
        (
            resources.requests.unwrap_or_default(),
            resources.limits.unwrap_or_default(),
        )
    };
    if containers
        .iter()
        .map(lists)
        .all(|(requests, limits)| requests.is_empty() && limits.is_empty())
    {
        return "BestEffort";
    }
    let guaranteed = containers.iter().map(lists).all(|(requests, limits)| {
        let both = ["cpu", "memory"].iter().all(|name| limits.contains_key(*name));
        both && requests
            .iter()
            .all(|(name, value)| limits.get(name) == Some(value))
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conditions_keep_their_times_and_those_of_others() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "c", "image": "nginx"}]},
            "status": {"conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:01Z"},
            ]},
        }))
        .unwrap();
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let mut state = PodState::default();
        let time = |status: &PodStatus, kind: &str| {
            let condition = status
                .conditions
                .iter()
                .flatten()
                .find(|condition| condition.type_ == kind)
                .unwrap();
            (
                condition.status.clone(),
                condition.last_transition_time.clone().unwrap().0.to_string(),
            )
        };
        let status = build(&pod, &state, &["fd00::2".parse().unwrap()], now);
        assert_eq!(
            time(&status, "Ready"),
            ("False".to_owned(), "2026-01-01T00:00:01Z".to_owned())
        );
        assert_eq!(time(&status, "PodScheduled").1, "2026-01-01T00:00:00Z");
        assert_eq!(
            (status.phase.as_deref(), status.pod_ip.as_deref()),
            (Some("Pending"), None)
        );
        let unit = Unit {
            attempt: Some(0),
            ready: true,
            started: true,
            current: Current::Running {
                id: "x".to_owned(),
                at: now,
            },
            ..Unit::default()
        };
        state.units.insert("c".to_owned(), unit);
        let status = build(&pod, &state, &[], now);
        assert_eq!(time(&status, "Ready"), ("True".to_owned(), now.to_string()));
        assert_eq!(status.phase.as_deref(), Some("Running"));
    }
}
