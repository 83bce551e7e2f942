//! Gives every pod a node: one that may run it, and of those the one with the fewest pods.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use lab_apiserver::{Client, Patch, Resource};
use serde_json::json;

use super::common::{self, condition, controller_of, has_ended, node_name};
use super::events::{self, Kind, Subject};
use super::fit::{self, Misfit};
use super::{Controller, Key, Next, Trigger};

/// The name by which pods ask for this scheduler, and its name in events.
const SCHEDULER: &str = "default-scheduler";
/// When to look again at a pod that fits nowhere, if no node changes before.
const RETRY: Duration = Duration::from_secs(10);

/// The controller.
pub(crate) struct Scheduler {
    client: Client,
}

impl Scheduler {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    async fn refuse(&self, pod: &Pod, key: &Key, message: &str) -> anyhow::Result<()> {
        let told = condition(pod, "PodScheduled").is_some_and(|condition| {
            condition.status == "False" && condition.message.as_deref() == Some(message)
        });
        if told {
            return Ok(());
        }
        let since = condition(pod, "PodScheduled")
            .filter(|condition| condition.status == "False")
            .and_then(|condition| condition.last_transition_time.as_ref())
            .map_or_else(Timestamp::now, |time| time.0);
        let patch = json!({"status": {"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastTransitionTime": since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }]}});
        self.client
            .patch_status(
                &Resource::core("pods"),
                key.namespace(),
                &key.name,
                Patch::Strategic,
                patch,
            )
            .await?;
        let subject = Subject {
            api_version: "v1",
            kind: "Pod",
            meta: &pod.metadata,
        };
        events::record(
            &self.client,
            SCHEDULER,
            subject,
            Kind::Warning,
            "FailedScheduling",
            message,
        )
        .await;
        Ok(())
    }
}

impl Controller for Scheduler {
    const NAME: &'static str = "scheduler";

    fn client(&self) -> &Client {
        &self.client
    }

    fn triggers(&self) -> Vec<Trigger> {
        let (pods, nodes) = (Resource::core("pods"), Resource::core("nodes"));
        vec![Trigger::itself(pods.clone()), Trigger::all(nodes, pods)]
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let resource = Resource::core("pods");
        let Some(pod) = common::get::<Pod>(&self.client, &resource, key).await? else {
            return Ok(Next::Wait);
        };
        if !is_ours(&pod) {
            return Ok(Next::Wait);
        }
        let nodes: Vec<Node> = common::list(&self.client, &Resource::core("nodes"), None).await?;
        let pods: Vec<Pod> = common::list(&self.client, &resource, None).await?;
        match choose(&pod, &nodes, &pods) {
            Ok(node) => {
                match self.client.bind(&key.namespace, &key.name, node).await {
                    Ok(()) => {}
                    // Somebody else was faster, or the pod is gone.
                    Err(status) if status.is_conflict() || status.is_not_found() => return Ok(Next::Wait),
                    Err(status) => return Err(status.into()),
                }
                let subject = Subject {
                    api_version: "v1",
                    kind: "Pod",
                    meta: &pod.metadata,
                };
                let message = format!("Successfully assigned {key} to {node}");
                events::record(
                    &self.client,
                    SCHEDULER,
                    subject,
                    Kind::Normal,
                    "Scheduled",
                    &message,
                )
                .await;
                Ok(Next::Wait)
            }
            Err(refusal) => {
                self.refuse(&pod, key, &refusal).await?;
                Ok(Next::After(RETRY))
            }
        }
    }
}

/// Whether a pod waits for this scheduler.
fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    node_name(pod).is_none()
        && pod.metadata.deletion_timestamp.is_none()
        && !has_ended(pod)
        && spec
            .scheduler_name
            .as_deref()
            .is_none_or(|name| name == SCHEDULER)
        && spec.scheduling_gates.as_deref().unwrap_or_default().is_empty()
}

/// The best node for a pod, or why there is none in the words of Kubernetes.
fn choose<'a>(pod: &Pod, nodes: &'a [Node], pods: &[Pod]) -> Result<&'a str, String> {
    let by_name: BTreeMap<&str, &Node> = nodes
        .iter()
        .filter_map(|node| Some((node.metadata.name.as_deref()?, node)))
        .collect();
    if by_name.is_empty() {
        return Err("no nodes available to schedule pods".to_owned());
    }
    let spec = pod.spec.clone().unwrap_or_default();
    let mut best: Option<((usize, usize), &'a str)> = None;
    let mut misfits = Vec::new();
    for node in nodes {
        let Some(name) = node.metadata.name.as_deref() else {
            continue;
        };
        match fit::check_node(&spec, node).and_then(|()| fit::check_pods(pod, node, pods, &by_name)) {
            Ok(()) => {
                let score = crowd(pod, name, pods);
                if best.is_none_or(|best| (score, name) < best) {
                    best = Some((score, name));
                }
            }
            Err(misfit) => misfits.push(misfit),
        }
    }
    best.map(|(_, name)| name).ok_or_else(|| refusal(&misfits))
}

/// How crowded a node is for a pod: its siblings first, so that replicas spread, then everybody.
fn crowd(pod: &Pod, node: &str, pods: &[Pod]) -> (usize, usize) {
    let owner = controller_of(&pod.metadata).map(|owner| &owner.uid);
    let there = pods
        .iter()
        .filter(|other| node_name(other) == Some(node) && !has_ended(other));
    let is_sibling =
        |other: &&Pod| owner.is_some() && controller_of(&other.metadata).map(|owner| &owner.uid) == owner;
    (there.clone().filter(is_sibling).count(), there.count())
}

/// The message of Kubernetes' scheduler for a pod that fits nowhere.
fn refusal(misfits: &[Misfit]) -> String {
    let total = misfits.len();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for misfit in misfits {
        *counts.entry(misfit.to_string()).or_default() += 1;
    }
    let mut reasons: Vec<String> = counts
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    reasons.sort();
    let victims = misfits.iter().filter(|misfit| misfit.goes_with_pods()).count();
    let preemption: Vec<String> = [
        (victims, "No preemption victims found for incoming pod"),
        (total - victims, "Preemption is not helpful for scheduling"),
    ]
    .iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, reason)| format!("{count} {reason}"))
    .collect();
    format!(
        "0/{total} nodes are available: {}. preemption: 0/{total} nodes are available: {}.",
        reasons.join(", "),
        preemption.join(", ")
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::needless_pass_by_value, reason = "`json!` as an argument reads best")]

    use serde_json::Value;

    use super::*;

    fn node(name: &str, taints: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {"taints": taints},
        }))
        .unwrap()
    }

    fn pod(spec: Value) -> Pod {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "default"}, "spec": {"containers": []}});
        pod["spec"]
            .as_object_mut()
            .unwrap()
            .extend(spec.as_object().unwrap().clone());
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn the_emptier_node_wins_and_the_name_decides_ties() {
        let nodes = [node("b", json!([])), node("a", json!([]))];
        let on_a = pod(json!({"nodeName": "a"}));
        assert_eq!(choose(&pod(json!({})), &nodes, &[]), Ok("a"));
        assert_eq!(
            choose(&pod(json!({})), &nodes, std::slice::from_ref(&on_a)),
            Ok("b")
        );
        let mut ended = on_a;
        ended.status = serde_json::from_value(json!({"phase": "Succeeded"})).unwrap();
        assert_eq!(choose(&pod(json!({})), &nodes, &[ended]), Ok("a"));
    }

    #[test]
    fn siblings_spread() {
        let owned = |mut pod: Pod| {
            pod.metadata.owner_references = serde_json::from_value(json!([
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true}]))
            .unwrap();
            pod
        };
        let nodes = [node("a", json!([])), node("b", json!([]))];
        let others = pod(json!({"nodeName": "b"}));
        let pods = [owned(pod(json!({"nodeName": "a"}))), others.clone(), others];
        assert_eq!(choose(&owned(pod(json!({}))), &nodes, &pods), Ok("b"));
        assert_eq!(choose(&pod(json!({})), &nodes, &pods), Ok("a"));
    }

    #[test]
    fn refusals_are_worded_as_kubernetes_does() {
        let not_ready = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]);
        let there = pod(
            json!({"nodeName": "b", "hostNetwork": true, "containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}),
        );
        for (new, nodes, expected) in [
            (pod(json!({})), vec![], "no nodes available to schedule pods"),
            (
                pod(json!({})),
                vec![node("a", not_ready.clone()), node("b", not_ready.clone())],
                "0/2 nodes are available: 2 node(s) had untolerated taint {node.kubernetes.io/not-ready: }. \
                 preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
            ),
            (
                pod(json!({"nodeSelector": {"kubernetes.io/hostname": "c"}})),
                vec![node("a", not_ready), node("b", json!([]))],
                "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, \
                 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }. \
                 preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
            ),
            (
                pod(json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}]})),
                vec![node("b", json!([]))],
                "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. \
                 preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
            ),
        ] {
            assert_eq!(
                choose(&new, &nodes, std::slice::from_ref(&there)),
                Err(expected.to_owned())
            );
        }
    }

    #[test]
    fn pods_that_wait_for_something_else_are_left_alone() {
        for (spec, expected) in [
            (json!({}), true),
            (json!({"schedulerName": "default-scheduler"}), true),
            (json!({"schedulerName": "mine"}), false),
            (json!({"nodeName": "a"}), false),
            (json!({"nodeName": ""}), true),
            (json!({"schedulingGates": [{"name": "g"}]}), false),
        ] {
            assert_eq!(is_ours(&pod(spec.clone())), expected, "{spec}");
        }
    }
}
