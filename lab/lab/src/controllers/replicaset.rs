//! ReplicaSets: so many pods of a template.
//!
//! Not done: adoption of pods that somebody else made, and release of pods whose labels were changed.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use lab_apiserver::{Client, Patch, Resource};
use serde_json::{Value, json};

use super::common::{self, Availability};
use super::events::Subject;
use super::owned_pods::OwnedPods;
use super::{Controller, Key, Next, Trigger, template};

/// Its name in events.
const COMPONENT: &str = "replicaset-controller";
/// Most pods that are made or ended in one go; the rest follows when those are seen.
const BURST: usize = 50;

/// The controller.
pub(crate) struct ReplicaSets {
    client: Client,
}

impl ReplicaSets {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }
}

impl Controller for ReplicaSets {
    const NAME: &'static str = "replicaset";

    fn client(&self) -> &Client {
        &self.client
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            Trigger::itself(Resource::apps("replicasets")),
            Trigger::keys(Resource::core("pods"), |pod| common::owner_key(pod, "ReplicaSet")),
        ]
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let (sets, resource) = (Resource::apps("replicasets"), Resource::core("pods"));
        let Some(set) = common::get::<ReplicaSet>(&self.client, &sets, key).await? else {
            return Ok(Next::Wait);
        };
        let uid = set.metadata.uid.clone().unwrap_or_default();
        let mut pods: Vec<Pod> = common::list(&self.client, &resource, key.namespace()).await?;
        pods.retain(|pod| common::is_controlled_by(&pod.metadata, &uid) && common::is_active(pod));
        let wanted = replicas(&set);

        let mut failure = None;
        if set.metadata.deletion_timestamp.is_none() {
            let owned = OwnedPods {
                client: &self.client,
                component: COMPONENT,
                owner: Subject {
                    api_version: "apps/v1",
                    kind: "ReplicaSet",
                    meta: &set.metadata,
                },
            };
            let template = set.spec.template.clone().unwrap_or_default();
            let owner = common::controller_reference("apps/v1", "ReplicaSet", &set.metadata);
            for _ in 0..wanted.saturating_sub(pods.len()).min(BURST) {
                let pod = template::pod(&template, &key.name, &owner, &[]);
                if let Err(status) = owned.create(pod).await {
                    failure = Some(status.to_string());
                    break;
                }
            }
            for pod in surplus(&pods, wanted).into_iter().take(BURST) {
                owned.delete(pod).await?;
            }
        }

        let (status, look_again) = status(&set, &pods, failure.as_deref(), Timestamp::now());
        let current = serde_json::to_value(&set.status)?;
        if differs(&current, &status) {
            let patch = json!({"status": status});
            self.client
                .patch_status(&sets, key.namespace(), &key.name, Patch::Merge, patch)
                .await?;
        }
        match failure {
            Some(failure) => anyhow::bail!("cannot create a pod: {failure}"),
            None => Ok(look_again.map_or(Next::Wait, Next::After)),
        }
    }
}

/// How many pods are asked for.
pub(crate) fn replicas(set: &ReplicaSet) -> usize {
    set.spec
        .replicas
        .map_or(1, |replicas| usize::try_from(replicas).unwrap_or(0))
}

/// The pods that go when there are more than `wanted`: those that have come the least far, then the youngest.
fn surplus(pods: &[Pod], wanted: usize) -> Vec<&Pod> {
    let mut ranked: Vec<&Pod> = pods.iter().collect();
    ranked.sort_by_key(|pod| {
        let age = pod
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| -time.0.as_second());
        (
            common::node_name(pod).is_some(),
            common::phase(pod) == "Running",
            common::is_ready(pod),
            age,
            pod.metadata.name.clone(),
        )
    });
    ranked.truncate(pods.len().saturating_sub(wanted));
    ranked
}

/// The status of a set with these active pods, and when it changes by time alone.
fn status(
    set: &ReplicaSet,
    pods: &[Pod],
    failure: Option<&str>,
    now: Timestamp,
) -> (Value, Option<Duration>) {
    let spec = &set.spec;
    let min_ready = Duration::from_secs(spec.min_ready_seconds.unwrap_or(0).max(0).unsigned_abs().into());
    let template_labels = spec
        .template
        .clone()
        .and_then(|template| template.metadata?.labels)
        .unwrap_or_default();
    let mut available = 0;
    let mut look_again: Option<Duration> = None;
    for pod in pods {
        match common::availability(pod, min_ready, now) {
            Availability::Yes => available += 1,
            Availability::No => {}
            Availability::In(rest) => look_again = Some(look_again.map_or(rest, |known| known.min(rest))),
        }
    }
    let labelled = pods.iter().filter(|pod| {
        let labels = common::labels(&pod.metadata);
        template_labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    });
    let conditions = match failure {
        None => json!([]),
        Some(message) => {
            let known = set
                .status
                .as_ref()
                .and_then(|status| status.conditions.as_ref()?.first());
            let since = known
                .and_then(|known| known.last_transition_time.as_ref())
                .map_or(now, |time| time.0);
            json!([{
                "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message,
                "lastTransitionTime": since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            }])
        }
    };
    let status = json!({
        "replicas": pods.len(), "fullyLabeledReplicas": labelled.count(),
        "readyReplicas": pods.iter().filter(|pod| common::is_ready(pod)).count(),
        "availableReplicas": available, "observedGeneration": set.metadata.generation, "conditions": conditions,
    });
    (status, look_again)
}

/// Whether a status says something else; what is absent there counts as nothing.
pub(crate) fn differs(current: &Value, wanted: &Value) -> bool {
    wanted.as_object().into_iter().flatten().any(|(name, value)| {
        let nothing =
            value.as_i64() == Some(0) || value.as_array().is_some_and(Vec::is_empty) || value.is_null();
        current[name] != *value && !(nothing && current[name].is_null())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: Option<&str>, phase: &str, ready: bool, born: i64) -> Pod {
        let born = Timestamp::from_second(born).unwrap();
        serde_json::from_value(json!({
            "metadata": {"name": name, "creationTimestamp": born, "labels": {"app": "web"}},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase, "conditions": [{
                "type": "Ready", "status": if ready {"True"} else {"False"}, "lastTransitionTime": born}]},
        }))
        .unwrap()
    }

    #[test]
    fn the_least_useful_go_first() {
        let pods = [
            pod("old", Some("a"), "Running", true, 1),
            pod("young", Some("a"), "Running", true, 9),
            pod("unready", Some("a"), "Running", false, 1),
            pod("starting", Some("a"), "Pending", false, 1),
            pod("homeless", None, "Pending", false, 1),
        ];
        let names = |wanted| -> Vec<_> {
            surplus(&pods, wanted)
                .iter()
                .map(|pod| pod.metadata.name.clone().unwrap())
                .collect()
        };
        assert_eq!(names(0), ["homeless", "starting", "unready", "young", "old"]);
        assert_eq!(names(4), ["homeless"]);
        assert_eq!(names(5), [""; 0]);
        assert_eq!(names(9), [""; 0]);
    }

    #[test]
    fn status_counts() {
        let set: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"generation": 7},
            "spec": {"minReadySeconds": 10, "selector": {}, "template": {"metadata": {"labels": {"app": "web"}}}},
        }))
        .unwrap();
        let mut relabelled = pod("c", Some("a"), "Running", false, 1);
        relabelled.metadata.labels = None;
        let pods = [
            pod("a", Some("a"), "Running", true, 5),
            pod("b", Some("a"), "Running", true, 95),
            relabelled,
        ];
        let (status, look_again) = status(&set, &pods, None, Timestamp::from_second(100).unwrap());
        let expected = json!({
            "replicas": 3, "fullyLabeledReplicas": 2, "readyReplicas": 2, "availableReplicas": 1,
            "observedGeneration": 7, "conditions": [],
        });
        assert_eq!(status, expected);
        assert_eq!(look_again, Some(Duration::from_secs(5)));
        assert!(!differs(&expected, &status));
        assert!(differs(&json!({"replicas": 2}), &status));
        assert!(!differs(&json!({}), &json!({"replicas": 0, "conditions": []})));
    }
}
