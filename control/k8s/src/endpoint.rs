//! Writing CiliumEndpoints: one per pod of this node, under the pod's name and owned by the pod, so that the API
//! server's garbage collection removes it with the pod even if we do not.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use model::endpoint::EndpointStatus;
use model::inputs::ObjectName;

use crate::client::Cluster;
use crate::convert;
use crate::error::{RequestError, RequestErrorKind, request};
use crate::types::{CiliumEndpoint, CiliumEndpointFields};

const ATTEMPTS: u32 = 5;

impl Cluster {
    /// Creates or updates the CiliumEndpoint of a pod. One that belongs to an earlier pod of the same name is
    /// replaced. Writes nothing when it is already as it should be.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn publish_endpoint(&self, pod_uid: &str, status: &EndpointStatus) -> Result<(), RequestError> {
        let api = self.endpoints(&status.pod);
        let object = format!("CiliumEndpoint {}", status.pod);
        let params = self.post();
        let wanted = endpoint_object(pod_uid, status);
        for _ in 0..ATTEMPTS {
            // Most often the pod is new.
            match request("create", &object, api.create(&params, &wanted)).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_already_exists() => {}
                Err(error) => return Err(error),
            }
            let Some(current) = request("get", &object, api.get_opt(&status.pod.name)).await? else {
                continue;
            };
            if current.owner_references() == wanted.owner_references() && current.status == wanted.status {
                return Ok(());
            }
            let outcome = if convert::cilium_endpoint(&current).pod_uid == pod_uid {
                let mut updated = current;
                updated.status.clone_from(&wanted.status);
                request(
                    "replace",
                    &object,
                    api.replace(&status.pod.name, &params, &updated),
                )
                .await
                .map(|_| true)
            } else {
                delete_exactly(&api, &object, &current).await.map(|()| false)
            };
            match outcome {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Err(RequestError {
            verb: "publish",
            object,
            kind: RequestErrorKind::Contended { attempts: ATTEMPTS },
        })
    }

    /// Deletes the CiliumEndpoint of a pod, unless it belongs to a later pod of the same name. It is no error if there
    /// is none. `pod_uid` may be empty when it is not known: then only the name counts.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn delete_endpoint(&self, pod: &ObjectName, pod_uid: &str) -> Result<(), RequestError> {
        let api = self.endpoints(pod);
        let object = format!("CiliumEndpoint {pod}");
        for _ in 0..ATTEMPTS {
            let Some(current) = request("get", &object, api.get_opt(&pod.name)).await? else {
                return Ok(());
            };
            if !pod_uid.is_empty() && convert::cilium_endpoint(&current).pod_uid != pod_uid {
                return Ok(());
            }
            match delete_exactly(&api, &object, &current).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        Err(RequestError {
            verb: "delete",
            object,
            kind: RequestErrorKind::Contended { attempts: ATTEMPTS },
        })
    }

    fn endpoints(&self, pod: &ObjectName) -> Api<CiliumEndpoint> {
        Api::namespaced(self.client.clone(), &pod.namespace)
    }

    pub(crate) fn post(&self) -> PostParams {
        PostParams {
            field_manager: Some(self.manager.to_owned()),
            ..PostParams::default()
        }
    }
}

/// Deletes the object that was read, not another one of its name.
async fn delete_exactly(
    api: &Api<CiliumEndpoint>,
    object: &str,
    current: &CiliumEndpoint,
) -> Result<(), RequestError> {
    let same = Preconditions {
        uid: current.uid(),
        resource_version: None,
    };
    let params = DeleteParams::default().preconditions(same);
    match request("delete", object, api.delete(&current.name_any(), &params)).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

fn endpoint_object(pod_uid: &str, status: &EndpointStatus) -> CiliumEndpoint {
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: status.pod.name.clone(),
        uid: pod_uid.to_owned(),
        ..OwnerReference::default()
    };
    CiliumEndpoint {
        metadata: ObjectMeta {
            name: Some(status.pod.name.clone()),
            namespace: Some(status.pod.namespace.clone()),
            // Without a uid the API server would take the reference for one to a pod that is gone.
            owner_references: (!pod_uid.is_empty()).then(|| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: CiliumEndpointFields {},
        status: Some(convert::to_endpoint_status(status)),
    }
}

#[cfg(test)]
mod tests;
