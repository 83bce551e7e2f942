//! Making and ending the pods of a workload, with the events that say so.

use k8s_openapi::api::core::v1::Pod;
use lab_apiserver::{Client, DeleteOptions, Resource, Status};
use serde_json::Value;

use super::common;
use super::events::{self, Kind, Subject};

/// The pods of one workload.
pub(super) struct OwnedPods<'a> {
    pub(super) client: &'a Client,
    /// Who acts, in events.
    pub(super) component: &'static str,
    pub(super) owner: Subject<'a>,
}

impl OwnedPods<'_> {
    /// Makes a pod. Errors: what the API server says.
    pub(super) async fn create(&self, pod: Value) -> Result<(), Status> {
        let namespace = self.owner.meta.namespace.as_deref();
        match self.client.create(&Resource::core("pods"), namespace, pod).await {
            Ok(pod) => {
                let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                self.say(Kind::Normal, "SuccessfulCreate", &format!("Created pod: {name}"))
                    .await;
                Ok(())
            }
            Err(status) => {
                self.say(
                    Kind::Warning,
                    "FailedCreate",
                    &format!("Error creating: {status}"),
                )
                .await;
                Err(status)
            }
        }
    }

    /// Ends a pod, if it is still there.
    pub(super) async fn delete(&self, pod: &Pod) -> Result<(), Status> {
        common::delete(
            self.client,
            &Resource::core("pods"),
            &pod.metadata,
            DeleteOptions::default(),
        )
        .await?;
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        self.say(Kind::Normal, "SuccessfulDelete", &format!("Deleted pod: {name}"))
            .await;
        Ok(())
    }

    async fn say(&self, kind: Kind, reason: &str, message: &str) {
        events::record(self.client, self.component, self.owner, kind, reason, message).await;
    }
}
