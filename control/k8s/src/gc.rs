//! What the operator's garbage collection reads and deletes. Whether something is garbage is the operator's decision;
//! here a deletion only succeeds if the object is still exactly the one that was judged.

use std::fmt::Debug;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use model::identity::Identity;
use model::inputs;
use serde::de::DeserializeOwned;

use crate::client::Cluster;
use crate::error::{RequestError, request};
use crate::{convert, types};

/// Objects per answer.
const PAGE: u32 = 500;

/// A CiliumIdentity as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredIdentity {
    /// The number.
    pub identity: Identity,
    /// Seconds since the Unix epoch when it was created; 0 when unknown.
    pub created: i64,
    /// Version of the object.
    pub version: ObjectVersion,
}

/// A CiliumEndpoint as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEndpoint {
    /// What it says.
    pub endpoint: inputs::CiliumEndpoint,
    /// Version of the object.
    pub version: ObjectVersion,
}

/// A CiliumNode as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredNode {
    /// Name of it and of its node.
    pub name: String,
    /// Version of the object.
    pub version: ObjectVersion,
}

/// Which object, in which state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectVersion {
    /// Unique id.
    pub uid: String,
    /// `resourceVersion`.
    pub resource_version: String,
}

/// What came of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// The object is gone.
    Gone,
    /// It has changed since it was judged, so it stays.
    Changed,
}

impl Cluster {
    /// All CiliumIdentities.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn identities(&self) -> Result<Vec<StoredIdentity>, RequestError> {
        let objects: Vec<types::CiliumIdentity> = self.list_all("CiliumIdentities").await?;
        let stored = objects.iter().filter_map(|object| {
            let inputs::CiliumIdentity {
                identity, created, ..
            } = convert::cilium_identity(object)?;
            Some(StoredIdentity {
                identity,
                created,
                version: version_of(object),
            })
        });
        Ok(stored.collect())
    }

    /// All CiliumEndpoints.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn endpoints_everywhere(&self) -> Result<Vec<StoredEndpoint>, RequestError> {
        let objects: Vec<types::CiliumEndpoint> = self.list_all("CiliumEndpoints").await?;
        let stored = objects.iter().map(|object| StoredEndpoint {
            endpoint: convert::cilium_endpoint(object),
            version: version_of(object),
        });
        Ok(stored.collect())
    }

    /// All CiliumNodes.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn cilium_nodes(&self) -> Result<Vec<StoredNode>, RequestError> {
        let objects: Vec<types::CiliumNode> = self.list_all("CiliumNodes").await?;
        Ok(objects
            .iter()
            .map(|object| StoredNode {
                name: object.name_any(),
                version: version_of(object),
            })
            .collect())
    }

    /// All nodes.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn nodes_everywhere(&self) -> Result<Vec<inputs::Node>, RequestError> {
        let objects: Vec<Node> = self.list_all("Nodes").await?;
        Ok(objects.iter().map(convert::node).collect())
    }

    /// All pods.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn pods_everywhere(&self) -> Result<Vec<inputs::Pod>, RequestError> {
        let objects: Vec<Pod> = self.list_all("Pods").await?;
        Ok(objects.iter().map(convert::pod).collect())
    }

    /// Deletes a CiliumIdentity unless it has changed.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn delete_identity(&self, stored: &StoredIdentity) -> Result<Deleted, RequestError> {
        let api: Api<types::CiliumIdentity> = Api::all(self.client.clone());
        delete(
            &api,
            "CiliumIdentity",
            &stored.identity.0.to_string(),
            &stored.version,
        )
        .await
    }

    /// Deletes a CiliumEndpoint unless it has changed.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn delete_stored_endpoint(&self, stored: &StoredEndpoint) -> Result<Deleted, RequestError> {
        let name = &stored.endpoint.name;
        let api: Api<types::CiliumEndpoint> = Api::namespaced(self.client.clone(), &name.namespace);
        delete(&api, "CiliumEndpoint", &name.name, &stored.version).await
    }

    /// Deletes a CiliumNode unless it has changed.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn delete_cilium_node(&self, stored: &StoredNode) -> Result<Deleted, RequestError> {
        let api: Api<types::CiliumNode> = Api::all(self.client.clone());
        delete(&api, "CiliumNode", &stored.name, &stored.version).await
    }

    /// Whether a pod of that name exists right now, and its unique id.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn pod(&self, name: &inputs::ObjectName) -> Result<Option<inputs::Pod>, RequestError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &name.namespace);
        let pod = request("get", format!("Pod {name}"), api.get_opt(&name.name)).await?;
        Ok(pod.as_ref().map(convert::pod))
    }

    /// Lists page by page, so that no single answer grows with the cluster.
    async fn list_all<K>(&self, what: &'static str) -> Result<Vec<K>, RequestError>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let mut params = ListParams::default().limit(PAGE);
        let mut objects = Vec::new();
        loop {
            let mut page = request("list", what, api.list(&params)).await?;
            objects.append(&mut page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(objects),
            }
        }
    }
}

async fn delete<K>(
    api: &Api<K>,
    kind: &str,
    name: &str,
    version: &ObjectVersion,
) -> Result<Deleted, RequestError>
where
    K: Clone + Debug + DeserializeOwned,
{
    let exactly = Preconditions {
        uid: Some(version.uid.clone()),
        resource_version: Some(version.resource_version.clone()),
    };
    let params = DeleteParams::default().preconditions(exactly);
    match request("delete", format!("{kind} {name}"), api.delete(name, &params)).await {
        Ok(_) => Ok(Deleted::Gone),
        Err(error) if error.is_not_found() => Ok(Deleted::Gone),
        Err(error) if error.is_conflict() => Ok(Deleted::Changed),
        Err(error) => Err(error),
    }
}

fn version_of(object: &impl ResourceExt) -> ObjectVersion {
    ObjectVersion {
        uid: object.uid().unwrap_or_default(),
        resource_version: object.resource_version().unwrap_or_default(),
    }
}
