//! Where the agent publishes what others have to know. The trait exists because an agent can run without Kubernetes
//! (tests, trials on one machine): [`Alone`] then gives numbers to label sets by itself.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use futures::future::BoxFuture;
use k8s::Cluster;
use model::endpoint::EndpointStatus;
use model::inputs::{CiliumNode, ObjectName};
use model::{Identity, Labels};

use crate::view::SharedView;

type Answer<'a, T> = BoxFuture<'a, anyhow::Result<T>>;

/// What the agent asks of, and tells to, the rest of the cluster. Every call ends within a deadline.
pub(crate) trait Registry: Send + Sync + 'static {
    /// The number of a label set; the same on all nodes.
    fn identity<'a>(&'a self, labels: &'a Labels) -> Answer<'a, Identity>;
    /// Publishes an endpoint of this node.
    fn publish<'a>(&'a self, status: &'a EndpointStatus, pod_uid: &'a str) -> Answer<'a, ()>;
    /// Takes one back.
    fn withdraw<'a>(&'a self, pod: &'a ObjectName, pod_uid: &'a str) -> Answer<'a, ()>;
    /// Publishes this node.
    fn publish_node<'a>(&'a self, node: &'a CiliumNode) -> Answer<'a, ()>;
    /// Says that the network of this node works: condition set, taint taken off.
    fn mark_ready<'a>(&'a self, node: &'a str) -> Answer<'a, ()>;
    /// Version of the API server, asked now.
    fn version(&self) -> Answer<'_, String>;
}

/// The Kubernetes API server.
pub(crate) struct Kubernetes {
    /// Connection.
    pub(crate) cluster: Cluster,
    /// Identities that the watches have shown.
    pub(crate) view: SharedView,
}

impl Registry for Kubernetes {
    fn identity<'a>(&'a self, labels: &'a Labels) -> Answer<'a, Identity> {
        Box::pin(async move {
            let known = self.view.lock().identities.clone();
            let resolved = self
                .cluster
                .resolve_identity(&known, labels, rand::random)
                .await?;
            // Known at once, so that the next pod of these labels need not ask again.
            let mut view = self.view.lock();
            for object in resolved.learned {
                view.identities.upsert(object);
            }
            Ok(resolved.identity)
        })
    }

    fn publish<'a>(&'a self, status: &'a EndpointStatus, pod_uid: &'a str) -> Answer<'a, ()> {
        Box::pin(async move { Ok(self.cluster.publish_endpoint(pod_uid, status).await?) })
    }

    fn withdraw<'a>(&'a self, pod: &'a ObjectName, pod_uid: &'a str) -> Answer<'a, ()> {
        Box::pin(async move { Ok(self.cluster.delete_endpoint(pod, pod_uid).await?) })
    }

    fn publish_node<'a>(&'a self, node: &'a CiliumNode) -> Answer<'a, ()> {
        Box::pin(async move { Ok(self.cluster.publish_node(node).await?) })
    }

    fn mark_ready<'a>(&'a self, node: &'a str) -> Answer<'a, ()> {
        Box::pin(async move { Ok(self.cluster.mark_network_ready(node).await?) })
    }

    fn version(&self) -> Answer<'_, String> {
        Box::pin(async move { Ok(self.cluster.version().await?) })
    }
}

/// A cluster of one node, in memory.
#[derive(Debug, Default)]
pub(crate) struct Alone(Mutex<BTreeMap<Labels, Identity>>);

impl Registry for Alone {
    fn identity<'a>(&'a self, labels: &'a Labels) -> Answer<'a, Identity> {
        Box::pin(async move {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(identity) = known.get(labels) {
                return Ok(*identity);
            }
            let next = u32::try_from(known.len())
                .ok()
                .and_then(|count| Identity::MIN.0.checked_add(count));
            let next = next
                .map(Identity)
                .filter(|identity| identity.is_cluster())
                .context("no identity is left")?;
            known.insert(labels.clone(), next);
            Ok(next)
        })
    }

    fn publish<'a>(&'a self, _status: &'a EndpointStatus, _pod_uid: &'a str) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn withdraw<'a>(&'a self, _pod: &'a ObjectName, _pod_uid: &'a str) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn publish_node<'a>(&'a self, _node: &'a CiliumNode) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn mark_ready<'a>(&'a self, _node: &'a str) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn version(&self) -> Answer<'_, String> {
        Box::pin(async { Ok("none, this agent is alone".to_owned()) })
    }
}
