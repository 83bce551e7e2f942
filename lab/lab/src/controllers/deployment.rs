//! Deployments: ReplicaSets, one per template, of which one grows while the others shrink.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use lab_apiserver::{Client, DeleteOptions, Patch, Resource};
use serde_json::{Value, json};

use super::common::{self, is_controlled_by};
use super::events::{self, Kind, Subject};
use super::replicaset::{differs, replicas};
use super::{Controller, Key, Next, Trigger, template};

mod plan;

use plan::{Sizes, Strategy, resize};

/// Its name in events.
const COMPONENT: &str = "deployment-controller";
/// The label that keeps the pods of two templates apart.
const HASH_LABEL: &str = "pod-template-hash";
/// The annotation that counts the templates; `kubectl rollout history` reads it.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// How many ReplicaSets of old templates are kept unless the Deployment says so.
const HISTORY: i32 = 10;
/// How long there may be no progress unless the Deployment says so.
const PROGRESS_DEADLINE: i32 = 600;

/// The controller.
pub(crate) struct Deployments {
    client: Client,
}

impl Deployments {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Makes the ReplicaSet of the present template; it has no pods yet.
    async fn create_set(
        &self,
        deployment: &Deployment,
        key: &Key,
        hash: &str,
        revision: u64,
    ) -> anyhow::Result<ReplicaSet> {
        let spec = &deployment.spec;
        let mut template = serde_json::to_value(&spec.template)?;
        template["metadata"]["labels"][HASH_LABEL] = hash.into();
        let mut selector = serde_json::to_value(&spec.selector)?;
        selector["matchLabels"][HASH_LABEL] = hash.into();
        let name = format!("{}-{hash}", key.name);
        let set = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {
                "name": name, "labels": template["metadata"]["labels"],
                "annotations": {REVISION: revision.to_string()},
                "ownerReferences": [common::controller_reference("apps/v1", "Deployment", &deployment.metadata)],
            },
            "spec": {"replicas": 0, "minReadySeconds": spec.min_ready_seconds, "selector": selector, "template": template},
        });
        let created = self
            .client
            .create(&Resource::apps("replicasets"), key.namespace(), set)
            .await?;
        Ok(serde::Deserialize::deserialize(&*created)?)
    }

    async fn scale(&self, deployment: &Deployment, set: &ReplicaSet, size: usize) -> anyhow::Result<()> {
        let (name, before) = (set.metadata.name.clone().unwrap_or_default(), replicas(set));
        if before == size {
            return Ok(());
        }
        let patch = json!({"spec": {"replicas": size}});
        let sets = Resource::apps("replicasets");
        self.client
            .patch(
                &sets,
                set.metadata.namespace.as_deref(),
                &name,
                Patch::Merge,
                patch,
            )
            .await?;
        let direction = if size > before { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {name} from {before} to {size}");
        let subject = Subject {
            api_version: "apps/v1",
            kind: "Deployment",
            meta: &deployment.metadata,
        };
        events::record(
            &self.client,
            COMPONENT,
            subject,
            Kind::Normal,
            "ScalingReplicaSet",
            &message,
        )
        .await;
        Ok(())
    }

    /// Gives the present template the highest number, and says so on the Deployment.
    async fn number(
        &self,
        deployment: &Deployment,
        key: &Key,
        new: &ReplicaSet,
        revision: u64,
    ) -> anyhow::Result<()> {
        let patch = json!({"metadata": {"annotations": {REVISION: revision.to_string()}}});
        if revision_of(&new.metadata) != revision {
            let name = new.metadata.name.clone().unwrap_or_default();
            let sets = Resource::apps("replicasets");
            self.client
                .patch(&sets, key.namespace(), &name, Patch::Merge, patch.clone())
                .await?;
        }
        if revision_of(&deployment.metadata) != revision {
            let deployments = Resource::apps("deployments");
            self.client
                .patch(&deployments, key.namespace(), &key.name, Patch::Merge, patch)
                .await?;
        }
        Ok(())
    }
}

impl Controller for Deployments {
    const NAME: &'static str = "deployment";

    fn client(&self) -> &Client {
        &self.client
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            Trigger::itself(Resource::apps("deployments")),
            Trigger::keys(Resource::apps("replicasets"), |set| {
                common::owner_key(set, "Deployment")
            }),
        ]
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let resource = Resource::apps("deployments");
        let Some(deployment) = common::get::<Deployment>(&self.client, &resource, key).await? else {
            return Ok(Next::Wait);
        };
        let spec = &deployment.spec;
        let uid = deployment.metadata.uid.clone().unwrap_or_default();
        let mut sets: Vec<ReplicaSet> =
            common::list(&self.client, &Resource::apps("replicasets"), key.namespace()).await?;
        sets.retain(|set| is_controlled_by(&set.metadata, &uid));
        // The oldest first.
        sets.sort_by_key(|set| (revision_of(&set.metadata), set.metadata.name.clone()));

        let hash = template::hash(&spec.template);
        let is_new = |set: &ReplicaSet| common::labels(&set.metadata).get(HASH_LABEL) == Some(&hash);
        if deployment.metadata.deletion_timestamp.is_none() && spec.paused != Some(true) {
            let others = sets
                .iter()
                .filter(|set| !is_new(set))
                .map(|set| revision_of(&set.metadata))
                .max();
            let revision = others.unwrap_or(0) + 1;
            if !sets.iter().any(is_new) {
                sets.push(self.create_set(&deployment, key, &hash, revision).await?);
            }
            if let Some(new) = sets.iter().find(|set| is_new(set)) {
                self.number(&deployment, key, new, revision.max(revision_of(&new.metadata)))
                    .await?;
            }
        }
        // A paused Deployment still scales, but goes on with what it has.
        let (new, old): (Vec<&ReplicaSet>, Vec<&ReplicaSet>) = sets.iter().partition(|set| is_new(set));
        let strategy = Strategy::of(spec);
        if deployment.metadata.deletion_timestamp.is_none() {
            if let Some(new) = new.first() {
                let plan = resize(
                    strategy,
                    Sizes::of(new),
                    &old.iter().map(|set| Sizes::of(set)).collect::<Vec<_>>(),
                );
                // Those that shrink first: that makes room.
                for (set, size) in old.iter().zip(&plan.old) {
                    self.scale(&deployment, set, *size).await?;
                }
                self.scale(&deployment, new, plan.new).await?;
            }
            for set in outdated(&old, spec.revision_history_limit.unwrap_or(HISTORY)) {
                let options = DeleteOptions {
                    propagation_policy: Some("Background".into()),
                    ..DeleteOptions::default()
                };
                common::delete(
                    &self.client,
                    &Resource::apps("replicasets"),
                    &set.metadata,
                    options,
                )
                .await?;
            }
        }

        let (status, look_again) = status(&deployment, &new, &old, strategy, Timestamp::now());
        let current = serde_json::to_value(&deployment.status)?;
        if differs(&current, &status) {
            let patch = json!({"status": status});
            self.client
                .patch_status(&resource, key.namespace(), &key.name, Patch::Merge, patch)
                .await?;
        }
        Ok(look_again.map_or(Next::Wait, Next::After))
    }
}

fn revision_of(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> u64 {
    meta.annotations
        .as_ref()
        .and_then(|all| all.get(REVISION)?.parse().ok())
        .unwrap_or(0)
}

/// The empty old ReplicaSets beyond the history that is kept; `old` has the oldest first.
fn outdated<'a>(old: &[&'a ReplicaSet], limit: i32) -> Vec<&'a ReplicaSet> {
    let limit = usize::try_from(limit).unwrap_or(0);
    let empty = old
        .iter()
        .filter(|set| Sizes::of(set).is_empty() && set.metadata.deletion_timestamp.is_none());
    empty.take(old.len().saturating_sub(limit)).copied().collect()
}

/// The status of a Deployment with these ReplicaSets, and when it changes by time alone.
fn status(
    deployment: &Deployment,
    new: &[&ReplicaSet],
    old: &[&ReplicaSet],
    strategy: Strategy,
    now: Timestamp,
) -> (Value, Option<Duration>) {
    let sum = |sets: &[&ReplicaSet], count: fn(&Sizes) -> usize| -> usize {
        sets.iter().map(|set| count(&Sizes::of(set))).sum()
    };
    let both = |count: fn(&Sizes) -> usize| sum(new, count) + sum(old, count);
    let (total, updated) = (both(|sizes| sizes.pods), sum(new, |sizes| sizes.pods));
    let (ready, available) = (both(|sizes| sizes.ready), both(|sizes| sizes.available));
    let complete = updated == strategy.replicas && total == updated && available >= strategy.replicas;

    let deadline = deployment
        .spec
        .progress_deadline_seconds
        .unwrap_or(PROGRESS_DEADLINE);
    let name = new
        .first()
        .and_then(|set| set.metadata.name.clone())
        .unwrap_or_default();
    let before = deployment.status.as_ref();
    let known = |kind: &str| {
        before.and_then(|status| {
            status
                .conditions
                .as_ref()?
                .iter()
                .find(|known| known.type_.as_deref() == Some(kind))
        })
    };
    let count = |value: Option<i32>| usize::try_from(value.unwrap_or(0)).unwrap_or(0);
    let progressed = before.is_none_or(|before| {
        count(before.updated_replicas) < updated
            || count(before.ready_replicas) < ready
            || count(before.available_replicas) < available
            || before.observed_generation != deployment.metadata.generation
    });
    let moved = known("Progressing")
        .and_then(|known| known.last_update_time.as_ref())
        .map(|time| time.0);
    let last_progress = if progressed { now } else { moved.unwrap_or(now) };
    let idle = Duration::try_from(now.duration_since(last_progress)).unwrap_or_default();
    let patience = Duration::from_secs(deadline.max(0).unsigned_abs().into());

    let (state, reason, message) = if complete {
        (
            "True",
            "NewReplicaSetAvailable",
            format!("ReplicaSet \"{name}\" has successfully progressed."),
        )
    } else if idle >= patience {
        (
            "False",
            "ProgressDeadlineExceeded",
            format!("ReplicaSet \"{name}\" has timed out progressing."),
        )
    } else {
        (
            "True",
            "ReplicaSetUpdated",
            format!("ReplicaSet \"{name}\" is progressing."),
        )
    };
    let progressing = condition(
        known("Progressing"),
        "Progressing",
        state,
        reason,
        &message,
        last_progress,
        now,
    );
    let enough = available >= strategy.replicas.saturating_sub(strategy.max_unavailable);
    let (state, reason, message) = if enough {
        (
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        )
    } else {
        (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    };
    let availability = condition(known("Available"), "Available", state, reason, message, now, now);

    let status = json!({
        "observedGeneration": deployment.metadata.generation,
        "replicas": total, "updatedReplicas": updated, "readyReplicas": ready, "availableReplicas": available,
        "unavailableReplicas": total.max(strategy.replicas).saturating_sub(available),
        "conditions": [availability, progressing],
    });
    (status, (!complete && idle < patience).then(|| patience - idle))
}

/// A condition, with the times of the one known before where nothing changed.
fn condition(
    known: Option<&k8s_openapi::api::apps::v1::DeploymentCondition>,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    updated: Timestamp,
    now: Timestamp,
) -> Value {
    let text = |time: Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let time =
        |time: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| time.map_or(now, |time| time.0);
    let same = known.filter(|known| known.status.as_deref() == Some(status));
    let transition = same.map_or(now, |known| time(known.last_transition_time.as_ref()));
    let unchanged = same
        .filter(|known| known.reason.as_deref() == Some(reason) && known.message.as_deref() == Some(message));
    let updated = match (kind, unchanged) {
        ("Available", Some(known)) => time(known.last_update_time.as_ref()),
        _ => updated,
    };
    json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": text(transition), "lastUpdateTime": text(updated),
    })
}

#[cfg(test)]
mod tests;
