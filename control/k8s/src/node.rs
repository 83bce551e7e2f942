//! The node itself: reading it, telling the cluster that its network works, and its CiliumNode.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Event, EventSource, Node, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use model::inputs::{self, ObjectName};
use serde_json::{Value, json};

use crate::client::Cluster;
use crate::error::{RequestError, RequestErrorKind, request};
use crate::{convert, types};

/// The taint that keeps pods away until the agent runs (Cilium `agent-not-ready-taint-key`).
const NOT_READY_TAINT: &str = "node.cilium.io/agent-not-ready";
const ATTEMPTS: u32 = 5;
/// Pause between two attempts to watch a node.
const RETRY: Duration = Duration::from_millis(200);

impl Cluster {
    /// Reads a node.
    ///
    /// # Errors
    /// When the API server refuses or does not answer, or there is no such node.
    pub async fn node(&self, name: &str) -> Result<inputs::Node, RequestError> {
        let node = request("get", format!("Node {name}"), self.nodes().get(name)).await?;
        Ok(convert::node(&node))
    }

    /// Waits until a node is as it has to be, for example has its pod CIDRs.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub async fn wait_for_node(
        &self,
        name: &str,
        timeout: Duration,
        is_fit: impl Fn(&inputs::Node) -> bool,
    ) -> Result<inputs::Node, RequestError> {
        let wait = async {
            let mut nodes = std::pin::pin!(watcher::watch_object(self.nodes(), name));
            while let Some(event) = nodes.next().await {
                match event {
                    Ok(Some(node)) => {
                        let node = convert::node(&node);
                        if is_fit(&node) {
                            return Some(node);
                        }
                    }
                    Ok(None) => tracing::debug!(node = name, "does not exist yet"),
                    Err(error) => {
                        tracing::debug!(node = name, error = %crate::watch::chain(&error), "watch failed, trying again");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
            None
        };
        let found = tokio::time::timeout(timeout, wait).await.ok().flatten();
        found.ok_or_else(|| RequestError {
            verb: "wait for",
            object: format!("Node {name}"),
            kind: RequestErrorKind::Timeout(timeout),
        })
    }

    /// Sets annotations of a node; `None` removes one.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn annotate_node(
        &self,
        name: &str,
        annotations: &BTreeMap<String, Option<String>>,
    ) -> Result<(), RequestError> {
        let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
        let object = format!("Node {name}");
        request(
            "annotate",
            object,
            self.nodes().patch(name, &self.patch(), &patch),
        )
        .await
        .map(drop)
    }

    /// Tells the scheduler that the node's network works: the condition NetworkUnavailable becomes false, and the taint
    /// `node.cilium.io/agent-not-ready` goes. Writes only what is not so already.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn mark_network_ready(&self, name: &str) -> Result<(), RequestError> {
        let object = format!("Node {name}");
        let nodes = self.nodes();
        let node = request("get", &object, nodes.get(name)).await?;
        if !has_network_condition(&node) {
            let now = Time(jiff::Timestamp::now());
            let condition = json!({
                "type": "NetworkUnavailable",
                "status": "False",
                "reason": "CiliumIsUp",
                "message": "Cilium is running on this node",
                "lastHeartbeatTime": now,
                "lastTransitionTime": now,
            });
            let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
            request(
                "set the condition of",
                &object,
                nodes.patch_status(name, &self.patch(), &patch),
            )
            .await?;
        }
        for _ in 0..ATTEMPTS {
            let node = request("get", &object, nodes.get(name)).await?;
            let taints = node
                .spec
                .as_ref()
                .and_then(|spec| spec.taints.clone())
                .unwrap_or_default();
            let kept: Vec<_> = taints
                .iter()
                .filter(|taint| taint.key != NOT_READY_TAINT)
                .collect();
            if kept.len() == taints.len() {
                return Ok(());
            }
            // The list is replaced as a whole: the version makes sure that nobody has added one in between.
            let metadata = json!({"resourceVersion": node.metadata.resource_version});
            let patch = Patch::Merge(json!({"metadata": metadata, "spec": {"taints": kept}}));
            match request("untaint", &object, nodes.patch(name, &self.patch(), &patch)).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        Err(RequestError {
            verb: "untaint",
            object,
            kind: RequestErrorKind::Contended { attempts: ATTEMPTS },
        })
    }

    /// Creates or updates the CiliumNode of this node, owned by the Kubernetes node. Fields that we do not know, such
    /// as those that Cilium's operator writes, stay.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn publish_node(&self, node: &inputs::CiliumNode) -> Result<(), RequestError> {
        let api: Api<types::CiliumNode> = Api::all(self.client.clone());
        let object = format!("CiliumNode {}", node.name);
        let wanted = node_object(node);
        for _ in 0..ATTEMPTS {
            let outcome = match request("get", &object, api.get_opt(&node.name)).await? {
                None => request("create", &object, api.create(&self.post(), &wanted)).await,
                Some(current)
                    if ours(&current.spec) == ours(&wanted.spec)
                        && current.owner_references() == wanted.owner_references() =>
                {
                    return Ok(());
                }
                Some(current) => {
                    let patch = Patch::Merge(json!({
                        "metadata": {
                            "resourceVersion": current.metadata.resource_version,
                            "ownerReferences": wanted.metadata.owner_references,
                        },
                        // Lists are replaced as a whole, fields that are missing here stay.
                        "spec": ours(&wanted.spec),
                    }));
                    request("patch", &object, api.patch(&node.name, &self.patch(), &patch)).await
                }
            };
            match outcome {
                Ok(_) => return Ok(()),
                Err(error) if error.is_conflict() || error.is_already_exists() || error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Err(RequestError {
            verb: "publish",
            object,
            kind: RequestErrorKind::Contended { attempts: ATTEMPTS },
        })
    }

    /// Writes a warning event about a pod, which `kubectl describe pod` shows.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn warn_about_pod(
        &self,
        pod: &ObjectName,
        pod_uid: &str,
        node: &str,
        reason: &str,
        message: &str,
    ) -> Result<(), RequestError> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &pod.namespace);
        let now = Some(Time(jiff::Timestamp::now()));
        let event = Event {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}.", pod.name)),
                namespace: Some(pod.namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(pod.name.clone()),
                namespace: Some(pod.namespace.clone()),
                uid: Some(pod_uid.to_owned()).filter(|uid| !uid.is_empty()),
                ..ObjectReference::default()
            },
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            type_: Some("Warning".to_owned()),
            source: Some(EventSource {
                component: Some(self.manager.to_owned()),
                host: Some(node.to_owned()),
            }),
            first_timestamp: now.clone(),
            last_timestamp: now,
            count: Some(1),
            ..Event::default()
        };
        request(
            "create",
            format!("event about {pod}"),
            api.create(&self.post(), &event),
        )
        .await
        .map(drop)
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    pub(crate) fn patch(&self) -> PatchParams {
        PatchParams {
            field_manager: Some(self.manager.to_owned()),
            ..PatchParams::default()
        }
    }
}

fn has_network_condition(node: &Node) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    conditions.iter().any(|c| {
        c.type_ == "NetworkUnavailable" && c.status == "False" && c.reason.as_deref() == Some("CiliumIsUp")
    })
}

/// The fields that we write, as a merge patch: what is empty is taken away, everything else belongs to others.
fn ours(spec: &types::CiliumNodeSpec) -> Value {
    let types::CiliumNodeSpec {
        addresses,
        bootid,
        health,
        ipam,
        encryption: _,
        ingress: _,
    } = spec;
    let or_none = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    json!({
        "addresses": addresses,
        "bootid": or_none(bootid),
        "health": {"ipv4": or_none(&health.ipv4), "ipv6": or_none(&health.ipv6)},
        "ipam": {"podCIDRs": ipam.pod_cidrs},
    })
}

fn node_object(node: &inputs::CiliumNode) -> types::CiliumNode {
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.name.clone(),
        uid: node.node_uid.clone(),
        ..OwnerReference::default()
    };
    types::CiliumNode {
        metadata: ObjectMeta {
            name: Some(node.name.clone()),
            owner_references: (!node.node_uid.is_empty()).then(|| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: convert::to_cilium_node_spec(node),
    }
}

#[cfg(test)]
mod tests;
