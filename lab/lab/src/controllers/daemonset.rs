//! DaemonSets: one pod on every node that may have it, replaced node by node when the template changes.
//!
//! Not done: `maxSurge` (the old pod always goes first), ControllerRevisions (so no `kubectl rollout undo` of a
//! DaemonSet; a revision is recognised by the hash in the label), adoption of pods that somebody else made.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Toleration};
use lab_apiserver::{Client, Patch, Resource};
use serde_json::{Value, json};

use super::common::{self, Availability};
use super::events::Subject;
use super::fit;
use super::owned_pods::OwnedPods;
use super::{Controller, Key, Next, Trigger, template};

/// The label that says which template a pod was made of.
const HASH_LABEL: &str = "controller-revision-hash";
/// Its name in events.
const COMPONENT: &str = "daemonset-controller";

/// The controller.
pub(crate) struct DaemonSets {
    client: Client,
}

impl DaemonSets {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    async fn carry_out(&self, set: &DaemonSet, hash: &str, plan: &Plan<'_>) -> anyhow::Result<()> {
        let owned = OwnedPods {
            client: &self.client,
            component: COMPONENT,
            owner: Subject {
                api_version: "apps/v1",
                kind: "DaemonSet",
                meta: &set.metadata,
            },
        };
        for pod in &plan.delete {
            owned.delete(pod).await?;
        }
        for node in &plan.create {
            let created = owned.create(pod_for(set, hash, node)).await;
            created.context("cannot create a pod")?;
        }
        Ok(())
    }
}

impl Controller for DaemonSets {
    const NAME: &'static str = "daemonset";

    fn client(&self) -> &Client {
        &self.client
    }

    fn triggers(&self) -> Vec<Trigger> {
        let sets = Resource::apps("daemonsets");
        vec![
            Trigger::itself(sets.clone()),
            Trigger::keys(Resource::core("pods"), |pod| common::owner_key(pod, "DaemonSet")),
            Trigger::all(Resource::core("nodes"), sets),
        ]
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let sets = Resource::apps("daemonsets");
        let Some(set) = common::get::<DaemonSet>(&self.client, &sets, key).await? else {
            return Ok(Next::Wait);
        };
        let hash = template::hash(&set.spec.template);
        let nodes: Vec<Node> = common::list(&self.client, &Resource::core("nodes"), None).await?;
        let uid = set.metadata.uid.clone().unwrap_or_default();
        let mut pods: Vec<Pod> = common::list(&self.client, &Resource::core("pods"), key.namespace()).await?;
        pods.retain(|pod| common::is_controlled_by(&pod.metadata, &uid));
        let plan = Plan::new(&set, &hash, &nodes, &pods, Timestamp::now());
        if set.metadata.deletion_timestamp.is_none() {
            self.carry_out(&set, &hash, &plan).await?;
        }
        let current = serde_json::to_value(&set.status)?;
        if plan
            .status
            .as_object()
            .into_iter()
            .flatten()
            .any(|(name, value)| current[name] != *value)
        {
            let patch = json!({"status": plan.status});
            self.client
                .patch_status(&sets, key.namespace(), &key.name, Patch::Merge, patch)
                .await?;
        }
        Ok(plan.look_again.map_or(Next::Wait, Next::After))
    }
}

/// What is to be done, and how things stand.
#[derive(Debug)]
struct Plan<'a> {
    /// Nodes that need a pod
    create: Vec<String>,
    /// Pods that have to go
    delete: Vec<&'a Pod>,
    status: Value,
    /// When a pod will count as available by time alone
    look_again: Option<Duration>,
}

impl<'a> Plan<'a> {
    fn new(set: &DaemonSet, hash: &str, nodes: &[Node], pods: &'a [Pod], now: Timestamp) -> Self {
        let spec = &set.spec;
        let min_ready = Duration::from_secs(spec.min_ready_seconds.unwrap_or(0).max(0).unsigned_abs().into());
        let pod_spec = tolerant(spec.template.spec.clone().unwrap_or_default());
        let mut by_node: BTreeMap<&str, Vec<&'a Pod>> = BTreeMap::new();
        for pod in pods {
            by_node
                .entry(target_node(pod).unwrap_or_default())
                .or_default()
                .push(pod);
        }

        let mut plan = Plan {
            create: Vec::new(),
            delete: Vec::new(),
            status: Value::Null,
            look_again: None,
        };
        let (mut current, mut desired, mut ready, mut updated, mut available, mut misplaced) =
            (0, 0, 0, 0, 0, 0);
        let mut outdated = Vec::new();
        for node in nodes {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let mut here = by_node.remove(name).unwrap_or_default();
            // The oldest first: that is the one that stays.
            here.sort_by_key(|pod| {
                (
                    pod.metadata.creation_timestamp.clone().map(|time| time.0),
                    pod.metadata.name.clone(),
                )
            });
            let should_run = fit::check_node(&pod_spec, node).is_ok();
            if !should_run {
                misplaced += here.len();
                if !may_stay(&pod_spec, node) {
                    plan.delete.extend(
                        here.iter()
                            .filter(|pod| pod.metadata.deletion_timestamp.is_none()),
                    );
                }
                continue;
            }
            desired += 1;
            current += usize::from(!here.is_empty());
            plan.delete.extend(
                here.iter()
                    .filter(|pod| common::has_ended(pod) && pod.metadata.deletion_timestamp.is_none()),
            );
            let live: Vec<&Pod> = here
                .iter()
                .copied()
                .filter(|pod| common::is_active(pod))
                .collect();
            let Some((pod, surplus)) = live.split_first() else {
                // A pod that is ending still has the node's ports; its successor waits.
                if here.is_empty() {
                    plan.create.push(name.to_owned());
                }
                continue;
            };
            plan.delete.extend(surplus);
            let is_updated = common::labels(&pod.metadata)
                .get(HASH_LABEL)
                .is_some_and(|label| label == hash);
            let is_available = match common::availability(pod, min_ready, now) {
                Availability::Yes => true,
                Availability::No => false,
                Availability::In(rest) => {
                    plan.look_again = Some(plan.look_again.map_or(rest, |known| known.min(rest)));
                    false
                }
            };
            ready += usize::from(common::is_ready(pod));
            available += usize::from(is_available);
            updated += usize::from(is_updated);
            if !is_updated {
                outdated.push((is_available, *pod));
            }
        }
        // Pods of nodes that do not exist; pods without a node cannot be ours.
        misplaced += by_node.values().map(Vec::len).sum::<usize>();
        if rolls(spec) {
            let allowed = max_unavailable(spec, desired);
            plan.delete
                .extend(to_replace(&outdated, allowed.saturating_sub(desired - available)));
        }
        plan.status = json!({
            "currentNumberScheduled": current, "desiredNumberScheduled": desired, "numberMisscheduled": misplaced,
            "numberReady": ready, "updatedNumberScheduled": updated, "numberAvailable": available,
            "numberUnavailable": desired - available, "observedGeneration": set.metadata.generation,
        });
        plan
    }
}

/// Whether pods of an old template are replaced by themselves.
fn rolls(spec: &k8s_openapi::api::apps::v1::DaemonSetSpec) -> bool {
    spec.update_strategy
        .as_ref()
        .and_then(|strategy| strategy.type_.as_deref())
        != Some("OnDelete")
}

/// How many nodes may be without an available pod: at least one, or no update could ever begin.
fn max_unavailable(spec: &k8s_openapi::api::apps::v1::DaemonSetSpec, desired: usize) -> usize {
    let rolling = spec
        .update_strategy
        .as_ref()
        .and_then(|strategy| strategy.rolling_update.as_ref());
    let total = i32::try_from(desired).unwrap_or(i32::MAX);
    let allowed = rolling
        .and_then(|rolling| rolling.max_unavailable.as_ref())
        .map_or(1, |value| common::int_or_percent(value, total, true));
    usize::try_from(allowed.max(1)).unwrap_or(1)
}

/// The outdated pods that go now: those that serve nobody anyway, and of the others so many as may be missed.
fn to_replace<'a>(outdated: &[(bool, &'a Pod)], may_be_missed: usize) -> Vec<&'a Pod> {
    let idle = outdated.iter().filter(|(available, _)| !available);
    let serving = outdated
        .iter()
        .filter(|(available, _)| *available)
        .take(may_be_missed);
    idle.chain(serving).map(|(_, pod)| *pod).collect()
}

/// The node that a pod is on or is meant for.
fn target_node(pod: &Pod) -> Option<&str> {
    common::node_name(pod).or_else(|| {
        let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
        let terms = &affinity
            .required_during_scheduling_ignored_during_execution
            .as_ref()?
            .node_selector_terms;
        let fields = terms
            .iter()
            .flat_map(|term| term.match_fields.as_deref().unwrap_or_default());
        fields
            .filter(|field| field.key == "metadata.name")
            .find_map(|field| field.values.as_deref()?.first())
            .map(String::as_str)
    })
}

/// Whether a pod that is on a node already is left there.
fn may_stay(pod: &PodSpec, node: &Node) -> bool {
    let tolerations = pod.tolerations.as_deref().unwrap_or_default();
    let evicted = fit::untolerated(node, tolerations, &["NoExecute"]).is_some();
    !evicted && fit::wants(pod, node)
}

/// A pod's specification with the tolerations that every pod of a DaemonSet gets.
fn tolerant(mut spec: PodSpec) -> PodSpec {
    let mut added: Vec<(&str, &str)> = vec![
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ];
    if spec.host_network == Some(true) {
        added.push(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    }
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in added {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    spec
}

/// The pod for one node. The scheduler puts it there: the node's name is a required affinity, in place of whatever
/// node affinity the template has (which was looked at when the node was chosen).
fn pod_for(set: &DaemonSet, hash: &str, node: &str) -> Value {
    let mut template = set.spec.template.clone();
    template.spec = template.spec.map(tolerant);
    let owner = common::controller_reference("apps/v1", "DaemonSet", &set.metadata);
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let mut pod = template::pod(&template, name, &owner, &[(HASH_LABEL, hash)]);
    pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!({
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}],
    });
    pod
}

#[cfg(test)]
mod tests;
