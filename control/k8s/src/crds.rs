//! The CustomResourceDefinitions of `cilium.io`: what they are, creating or updating them, waiting for them.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::PostParams;
use kube::{Api, CustomResourceExt, ResourceExt};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::Cluster;
use crate::error::{RequestError, request};
use crate::{lbipam, policy_crds, types};

/// Version of our schemas, on the scale of Cilium: that of v1.15.1. A cluster that has newer ones of Cilium keeps
/// them; they admit everything that we write.
pub const SCHEMA_VERSION: &str = "1.28.1";

const VERSION_LABEL: &str = "io.cilium.k8s.crd.schema.version";
/// Kinds without which the agent cannot work.
const NEEDED_BY_AGENT: [&str; 3] = [
    "ciliumendpoints.cilium.io",
    "ciliumidentities.cilium.io",
    "ciliumnodes.cilium.io",
];
/// How often a definition is read while waiting for it.
const POLL: Duration = Duration::from_millis(200);

/// The definitions are not in place.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// A definition of ours has no JSON form.
    #[error("a definition is malformed")]
    Definition(#[source] serde_json::Error),
    /// The API server refused.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// They did not come in time.
    #[error("{} did not become available within {waited:?}", missing.join(", "))]
    Missing {
        /// Names of the definitions.
        missing: Vec<String>,
        /// How long was waited.
        waited: Duration,
        /// The last failure to look, if there was one.
        #[source]
        last: Option<RequestError>,
    },
}

/// Every definition that we register.
///
/// # Errors
/// When one has no JSON form.
pub fn definitions() -> Result<Vec<CustomResourceDefinition>, serde_json::Error> {
    let derived = [
        // The status of a CiliumEndpoint is written together with the object: it is no subresource.
        (types::CiliumEndpoint::crd(), None),
        (types::CiliumIdentity::crd(), None),
        (types::CiliumNode::crd(), Some(json!({"status": {}}))),
    ];
    let derived = derived
        .into_iter()
        .map(|(crd, subresources)| complete(&crd, subresources.as_ref()));
    let written = policy_crds::definitions().into_iter();
    let written = written
        .chain([lbipam::crd::definition()])
        .map(serde_json::from_value);
    derived
        .chain(written)
        .map(|crd| {
            crd.map(|mut crd: CustomResourceDefinition| {
                crd.labels_mut()
                    .insert(VERSION_LABEL.to_owned(), SCHEMA_VERSION.to_owned());
                crd
            })
        })
        .collect()
}

/// What the derive macro does not know: subresources, and that fields of Cilium that we do not have are kept.
fn complete(
    crd: &CustomResourceDefinition,
    subresources: Option<&Value>,
) -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut crd = serde_json::to_value(crd)?;
    for version in crd
        .pointer_mut("/spec/versions")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        match subresources {
            Some(subresources) => version["subresources"] = subresources.clone(),
            None => {
                if let Some(version) = version.as_object_mut() {
                    version.remove("subresources");
                }
            }
        }
        if let Some(properties) = version.pointer_mut("/schema/openAPIV3Schema/properties") {
            if subresources.is_some() && properties.get("status").is_none() {
                properties["status"] =
                    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
            }
            for property in properties
                .as_object_mut()
                .into_iter()
                .flat_map(|map| map.values_mut())
            {
                keep_unknown_fields(property);
            }
        }
    }
    serde_json::from_value(crd)
}

/// Marks every object with named fields in a schema.
fn keep_unknown_fields(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(keep_unknown_fields);
        map.insert(
            "x-kubernetes-preserve-unknown-fields".to_owned(),
            Value::Bool(true),
        );
    }
    if let Some(items) = map.get_mut("items") {
        keep_unknown_fields(items);
    }
}

/// Whether an installed definition has to be overwritten: its version is missing, unreadable or older.
fn is_older(labels: &BTreeMap<String, String>) -> bool {
    let parse = |text: &str| -> Option<Vec<u64>> { text.split('.').map(|part| part.parse().ok()).collect() };
    let installed = labels.get(VERSION_LABEL).and_then(|text| parse(text));
    installed.is_none_or(|installed| parse(SCHEMA_VERSION).is_some_and(|ours| installed < ours))
}

fn is_established(crd: &CustomResourceDefinition) -> bool {
    let conditions = crd
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition.type_ == "Established" && condition.status == "True")
}

impl Cluster {
    /// Creates the definitions, overwrites older ones, and waits until they are served.
    ///
    /// # Errors
    /// When the API server refuses or they are not served in time.
    pub async fn register_crds(&self, timeout: Duration) -> Result<(), CrdError> {
        let definitions = definitions().map_err(CrdError::Definition)?;
        for definition in &definitions {
            self.register_crd(definition).await?;
        }
        let names: Vec<String> = definitions.iter().map(ResourceExt::name_any).collect();
        self.wait_for(names, timeout).await
    }

    /// Waits until the definitions that the agent needs are served; the operator registers them.
    ///
    /// # Errors
    /// When they are not served in time.
    pub async fn wait_for_crds(&self, timeout: Duration) -> Result<(), CrdError> {
        self.wait_for(NEEDED_BY_AGENT.map(str::to_owned).to_vec(), timeout)
            .await
    }

    async fn register_crd(&self, definition: &CustomResourceDefinition) -> Result<(), CrdError> {
        const ATTEMPTS: u32 = 5;
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let name = definition.name_any();
        let params = PostParams {
            field_manager: Some(self.manager.to_owned()),
            ..PostParams::default()
        };
        for _ in 0..ATTEMPTS {
            let outcome = match request("get", &name, api.get_opt(&name)).await? {
                None => request("create", &name, api.create(&params, definition)).await,
                Some(installed) if is_older(installed.labels()) => {
                    let mut updated = definition.clone();
                    updated.metadata.resource_version = installed.metadata.resource_version.clone();
                    // Versions that Cilium has and we do not stay: objects may be stored in them.
                    let kept = installed.spec.versions.iter().filter(|installed| {
                        !definition
                            .spec
                            .versions
                            .iter()
                            .any(|version| version.name == installed.name)
                    });
                    updated.spec.versions.extend(kept.cloned().map(|mut version| {
                        version.storage = false;
                        version
                    }));
                    request("replace", &name, api.replace(&name, &params, &updated)).await
                }
                Some(_) => {
                    tracing::debug!(crd = name, "already registered");
                    return Ok(());
                }
            };
            match outcome {
                Ok(_) => {
                    tracing::info!(crd = name, version = SCHEMA_VERSION, "registered");
                    return Ok(());
                }
                // Somebody else was faster: look again.
                Err(error) if error.is_conflict() || error.is_already_exists() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let kind = crate::RequestErrorKind::Contended { attempts: ATTEMPTS };
        Err(RequestError {
            verb: "register",
            object: name,
            kind,
        }
        .into())
    }

    async fn wait_for(&self, mut missing: Vec<String>, timeout: Duration) -> Result<(), CrdError> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let deadline = Instant::now() + timeout;
        let mut last = None;
        loop {
            let mut still_missing = Vec::new();
            for name in missing {
                match request("get", &name, api.get_opt(&name)).await {
                    Ok(Some(crd)) if is_established(&crd) => {}
                    Ok(_) => still_missing.push(name),
                    Err(error) => {
                        tracing::debug!(crd = name, %error, "not found out, trying again");
                        last = Some(error);
                        still_missing.push(name);
                    }
                }
            }
            missing = still_missing;
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() + POLL > deadline {
                return Err(CrdError::Missing {
                    missing,
                    waited: timeout,
                    last,
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

#[cfg(test)]
mod tests;
