//! Watches over the nodes: one whose lease is old is not known to be alive, and one that is not ready is tainted, so that
//! no pod is put on it.

use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Taint};
use lab_apiserver::{Client, Patch, Resource};
use serde_json::{Value, json};

use super::common;
use super::{Controller, Key, NODE_GRACE, Next, Trigger};

/// Where kubelets keep their leases.
const LEASES: &str = "kube-node-lease";
/// Taint of a node that says that it is not ready.
pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of a node that says nothing any more.
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Taint of a node that was cordoned.
pub(crate) const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// The controller.
pub(crate) struct NodeLifecycle {
    client: Client,
}

impl NodeLifecycle {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    async fn declare_unknown(&self, node: &Node, name: &str, now: Timestamp) -> anyhow::Result<()> {
        let conditions = node
            .status
            .as_ref()
            .and_then(|status| status.conditions.clone())
            .unwrap_or_default();
        let conditions: Vec<Value> = conditions
            .iter()
            .filter(|condition| condition.type_ != "NetworkUnavailable" && condition.status != "Unknown")
            .map(|condition| {
                json!({
                    "type": condition.type_, "status": "Unknown", "reason": "NodeStatusUnknown",
                    "message": "Kubelet stopped posting node status.", "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                })
            })
            .collect();
        if conditions.is_empty() {
            return Ok(());
        }
        tracing::warn!(node = name, "the kubelet does not renew its lease");
        let patch = json!({"status": {"conditions": conditions}});
        self.client
            .patch_status(&Resource::core("nodes"), None, name, Patch::Strategic, patch)
            .await?;
        Ok(())
    }
}

impl Controller for NodeLifecycle {
    const NAME: &'static str = "node-lifecycle";

    fn client(&self) -> &Client {
        &self.client
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            Trigger::itself(Resource::core("nodes")),
            Trigger::keys(leases(), lease_keys),
        ]
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let nodes = Resource::core("nodes");
        let Some(node) = common::get::<Node>(&self.client, &nodes, key).await? else {
            return Ok(Next::Wait);
        };
        let lease: Option<Lease> = common::get(&self.client, &leases(), &Key::new(LEASES, &key.name)).await?;
        let now = Timestamp::now();
        let silent_for = silence(&node, lease.as_ref(), now);
        let ready = if silent_for >= NODE_GRACE {
            self.declare_unknown(&node, &key.name, now).await?;
            Readiness::Unknown
        } else {
            readiness(&node)
        };
        let spec = node.spec.clone().unwrap_or_default();
        let current = spec.taints.unwrap_or_default();
        let wanted = taints(&current, ready, spec.unschedulable == Some(true));
        if wanted != current {
            // With the version that was read, so that a taint that somebody adds meanwhile is not lost.
            let patch = json!({
                "metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": wanted},
            });
            self.client
                .patch(&nodes, None, &key.name, Patch::Merge, patch)
                .await
                .context("cannot set the taints")?;
            tracing::info!(node = key.name, ?ready, "changed the node's taints");
        }
        Ok(match NODE_GRACE.checked_sub(silent_for) {
            Some(rest) if !rest.is_zero() => Next::After(rest),
            // A renewed lease wakes us.
            _ => Next::Wait,
        })
    }
}

fn leases() -> Resource {
    Resource::new("coordination.k8s.io", "v1", "leases")
}

/// A lease concerns the node it is named after, if it is a node's.
fn lease_keys(lease: &Value) -> Vec<Key> {
    let key = common::key_of(lease);
    if key.namespace == LEASES {
        vec![Key::new("", &key.name)]
    } else {
        Vec::new()
    }
}

/// How long nothing was heard from a node: since its last lease, or since it registered.
fn silence(node: &Node, lease: Option<&Lease>, now: Timestamp) -> Duration {
    let renewed = lease
        .and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref())
        .map(|time| time.0);
    let registered = node.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let heard = renewed.into_iter().chain(registered).max().unwrap_or(now);
    Duration::try_from(now.duration_since(heard)).unwrap_or_default()
}

/// What a node's condition `Ready` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readiness {
    Ready,
    NotReady,
    Unknown,
}

fn readiness(node: &Node) -> Readiness {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    match conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")
        .map(|condition| condition.status.as_str())
    {
        Some("True") => Readiness::Ready,
        Some("Unknown") => Readiness::Unknown,
        _ => Readiness::NotReady,
    }
}

/// The taints of a node in this state; those that are not ours stay as they are. The order of what stays is kept.
fn taints(current: &[Taint], ready: Readiness, cordoned: bool) -> Vec<Taint> {
    let key = match ready {
        Readiness::Ready => None,
        Readiness::NotReady => Some(NOT_READY),
        Readiness::Unknown => Some(UNREACHABLE),
    };
    let condition = key
        .into_iter()
        .flat_map(|key| [(key, "NoSchedule"), (key, "NoExecute")]);
    let wanted: Vec<(&str, &str)> = condition
        .chain(cordoned.then_some((UNSCHEDULABLE, "NoSchedule")))
        .collect();
    let ours = |taint: &Taint| [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&taint.key.as_str());
    let is = |taint: &Taint, (key, effect): &(&str, &str)| taint.key == *key && taint.effect == *effect;
    let mut taints: Vec<Taint> = current
        .iter()
        .filter(|taint| !ours(taint) || wanted.iter().any(|want| is(taint, want)))
        .cloned()
        .collect();
    for want in wanted {
        if !taints.iter().any(|taint| is(taint, &want)) {
            let (key, effect) = want;
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                ..Taint::default()
            });
        }
    }
    taints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, effect: &str) -> Taint {
        Taint {
            key: key.to_owned(),
            effect: effect.to_owned(),
            ..Taint::default()
        }
    }

    #[test]
    fn taints_follow_the_condition_and_leave_others_alone() {
        let foreign = taint("example.com/gpu", "NoSchedule");
        let not_ready = [taint(NOT_READY, "NoSchedule"), taint(NOT_READY, "NoExecute")];
        let unreachable = [taint(UNREACHABLE, "NoSchedule"), taint(UNREACHABLE, "NoExecute")];
        let all = |lists: &[&[Taint]]| lists.concat();
        let own = std::slice::from_ref(&foreign);
        let cordon = [taint(UNSCHEDULABLE, "NoSchedule")];
        for (current, ready, cordoned, expected) in [
            (all(&[own]), Readiness::Ready, false, all(&[own])),
            (all(&[own]), Readiness::NotReady, false, all(&[own, &not_ready])),
            (
                all(&[&not_ready, own]),
                Readiness::NotReady,
                false,
                all(&[&not_ready, own]),
            ),
            (all(&[&not_ready, own]), Readiness::Ready, false, all(&[own])),
            (
                all(&[&not_ready]),
                Readiness::Unknown,
                false,
                all(&[&unreachable]),
            ),
            (all(&[&unreachable]), Readiness::Ready, true, all(&[&cordon])),
            (all(&[&cordon]), Readiness::Ready, false, Vec::new()),
        ] {
            assert_eq!(
                taints(&current, ready, cordoned),
                expected,
                "{ready:?} {cordoned}"
            );
        }
    }

    #[test]
    fn a_node_without_a_condition_is_not_ready() {
        let node = |status: Value| -> Node { serde_json::from_value(json!({"status": status})).unwrap() };
        let ready = |value: &str| node(json!({"conditions": [{"type": "Ready", "status": value}]}));
        for (node, expected) in [
            (Node::default(), Readiness::NotReady),
            (ready("True"), Readiness::Ready),
            (ready("False"), Readiness::NotReady),
            (ready("Unknown"), Readiness::Unknown),
        ] {
            assert_eq!(readiness(&node), expected);
        }
    }

    #[test]
    fn silence_counts_from_the_last_sign_of_life() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let node: Node =
            serde_json::from_value(json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}}))
                .unwrap();
        let lease =
            |time: &str| -> Lease { serde_json::from_value(json!({"spec": {"renewTime": time}})).unwrap() };
        assert_eq!(silence(&node, None, now), Duration::from_secs(60));
        assert_eq!(
            silence(&node, Some(&lease("2026-01-01T00:00:50.000000Z")), now),
            Duration::from_secs(10)
        );
        assert_eq!(
            silence(&node, Some(&lease("2026-01-01T00:02:00.000000Z")), now),
            Duration::ZERO
        );
        assert_eq!(silence(&Node::default(), None, now), Duration::ZERO);
    }

    #[test]
    fn only_leases_of_nodes_wake() {
        let lease = |namespace: &str| json!({"metadata": {"namespace": namespace, "name": "n1"}});
        assert_eq!(lease_keys(&lease(LEASES)), [Key::new("", "n1")]);
        assert_eq!(lease_keys(&lease("default")), []);
    }
}
