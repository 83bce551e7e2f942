//! Removes pods that nobody else will: those of nodes that are gone, and those that ended before they had a node.

use k8s_openapi::api::core::v1::{Node, Pod};
use lab_apiserver::{Client, DeleteOptions, Resource};

use super::common::{self, has_ended, node_name};
use super::{Controller, Key, Next, Trigger};

/// The controller.
pub(crate) struct PodGc {
    client: Client,
}

impl PodGc {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }
}

impl Controller for PodGc {
    const NAME: &'static str = "pod-gc";

    fn client(&self) -> &Client {
        &self.client
    }

    fn triggers(&self) -> Vec<Trigger> {
        let pods = Resource::core("pods");
        vec![
            Trigger::itself(pods.clone()),
            Trigger::all(Resource::core("nodes"), pods),
        ]
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let pods = Resource::core("pods");
        let Some(pod) = common::get::<Pod>(&self.client, &pods, key).await? else {
            return Ok(Next::Wait);
        };
        let node_exists = match node_name(&pod) {
            None => true,
            Some(node) => common::get::<Node>(&self.client, &Resource::core("nodes"), &Key::new("", node))
                .await?
                .is_some(),
        };
        if is_abandoned(&pod, node_exists) {
            tracing::info!(pod = %key, "removing a pod that nobody cares for");
            // Without grace: there is no kubelet that could grant it.
            let options = DeleteOptions {
                grace_period_seconds: Some(0),
                ..DeleteOptions::default()
            };
            common::delete(&self.client, &pods, &pod.metadata, options).await?;
        }
        Ok(Next::Wait)
    }
}

/// Whether no kubelet will ever report the end of a pod.
fn is_abandoned(pod: &Pod, node_exists: bool) -> bool {
    match node_name(pod) {
        Some(_) => !node_exists,
        None => pod.metadata.deletion_timestamp.is_some() && !has_ended(pod),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn abandoned_pods() {
        let pod = |meta: Value, node: Option<&str>| -> Pod {
            serde_json::from_value(json!({"metadata": meta, "spec": {"nodeName": node, "containers": []}}))
                .unwrap()
        };
        let ending = || json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        for (pod, node_exists, expected) in [
            (pod(json!({}), None), true, false),
            (pod(ending(), None), true, true),
            (pod(ending(), Some("a")), true, false),
            (pod(json!({}), Some("a")), true, false),
            (pod(json!({}), Some("a")), false, true),
        ] {
            assert_eq!(is_abandoned(&pod, node_exists), expected, "{pod:?}");
        }
    }
}
