//! Brings objects to the cluster, and takes them away again.
//!
//! What exists is changed by a three-way merge, as Helm does it: what the previous revision set and the new one does
//! not is removed, what the new one sets is set, and everything else (defaults, other people's additions) stays.

use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::chart::RELEASE;

/// How we sign our changes.
const MANAGER: &str = "seta";
/// Kinds of the chart that belong to no namespace.
const CLUSTER_SCOPED: [&str; 4] = [
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "Namespace",
];

/// Why an object did not reach the cluster.
#[derive(Debug, Error)]
pub(crate) enum ApplyError {
    /// Not an object at all.
    #[error("an object without apiVersion, kind or name: {0}")]
    Shape(String),
    /// The API server refused.
    #[error("{object}: {}", crate::cluster::told(answer))]
    Api {
        /// Kind and name.
        object: String,
        /// Its answer.
        answer: Box<kube::Error>,
    },
    /// It belongs to somebody else.
    #[error(
        "{0} exists already and does not belong to this release; remove it, or take it over with --force"
    )]
    Foreign(String),
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is new.
    Created,
    /// It was another.
    Configured,
    /// It was right already.
    Unchanged,
}

/// Kind and name, as people write them.
pub(crate) fn describe(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

/// The objects of a release in one cluster.
pub(crate) struct Applier {
    client: Client,
    namespace: String,
    force: bool,
}

impl Applier {
    /// `force` takes over objects that belong to somebody else.
    pub(crate) fn new(client: Client, namespace: &str, force: bool) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            force,
        }
    }

    fn api(&self, object: &Value) -> Result<(Api<DynamicObject>, String), ApplyError> {
        let shape = || ApplyError::Shape(object.to_string());
        let version = object["apiVersion"].as_str().ok_or_else(shape)?;
        let kind = object["kind"].as_str().ok_or_else(shape)?;
        let name = object["metadata"]["name"].as_str().ok_or_else(shape)?;
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api = if CLUSTER_SCOPED.contains(&kind) {
            Api::all_with(self.client.clone(), &resource)
        } else {
            let namespace = object["metadata"]["namespace"]
                .as_str()
                .unwrap_or(&self.namespace);
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        };
        Ok((api, name.to_owned()))
    }

    /// Whether the API server would take the object; nothing is changed.
    pub(crate) async fn check(&self, object: &Value, previous: Option<&Value>) -> Result<(), ApplyError> {
        self.write(object, previous, true).await.map(drop)
    }

    /// Creates or changes an object. `previous` is what the revision before had.
    pub(crate) async fn apply(&self, object: &Value, previous: Option<&Value>) -> Result<Change, ApplyError> {
        self.write(object, previous, false).await
    }

    async fn write(
        &self,
        object: &Value,
        previous: Option<&Value>,
        dry_run: bool,
    ) -> Result<Change, ApplyError> {
        let (api, name) = self.api(object)?;
        let refused = |answer| ApplyError::Api {
            object: describe(object),
            answer: Box::new(answer),
        };
        let wanted = self.signed(object)?;
        let Some(live) = api.get_opt(&name).await.map_err(refused)? else {
            let parameters = PostParams {
                dry_run,
                field_manager: Some(MANAGER.to_owned()),
            };
            api.create(&parameters, &wanted).await.map_err(refused)?;
            return Ok(Change::Created);
        };
        if !self.force && !self.belongs_to_release(&live) {
            return Err(ApplyError::Foreign(describe(object)));
        }
        let json = |object: &DynamicObject| {
            serde_json::to_value(object).map_err(|error| ApplyError::Shape(error.to_string()))
        };
        let patch = three_way(previous.unwrap_or(&Value::Null), &json(&wanted)?, &json(&live)?);
        if patch.as_object().is_none_or(Map::is_empty) {
            return Ok(Change::Unchanged);
        }
        let parameters = PatchParams {
            dry_run,
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        api.patch(&name, &parameters, &Patch::Merge(&patch))
            .await
            .map_err(refused)?;
        Ok(Change::Configured)
    }

    /// Removes an object and what it made. Whether there was one.
    pub(crate) async fn delete(&self, object: &Value) -> Result<bool, ApplyError> {
        let (api, name) = self.api(object)?;
        match api.delete(&name, &DeleteParams::background()).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(answer) => Err(ApplyError::Api {
                object: describe(object),
                answer: Box::new(answer),
            }),
        }
    }

    /// The marks by which Helm knows its own objects.
    fn signed(&self, object: &Value) -> Result<DynamicObject, ApplyError> {
        let mut signed: DynamicObject = serde_json::from_value(object.clone())
            .map_err(|error| ApplyError::Shape(format!("{}: {error}", describe(object))))?;
        let annotations = signed.metadata.annotations.get_or_insert_default();
        annotations.insert("meta.helm.sh/release-name".to_owned(), RELEASE.to_owned());
        annotations.insert(
            "meta.helm.sh/release-namespace".to_owned(),
            self.namespace.clone(),
        );
        let labels = signed.metadata.labels.get_or_insert_default();
        labels.insert("app.kubernetes.io/managed-by".to_owned(), "Helm".to_owned());
        Ok(signed)
    }

    fn belongs_to_release(&self, live: &DynamicObject) -> bool {
        let annotation = |key: &str| live.metadata.annotations.as_ref()?.get(key).map(String::as_str);
        annotation("meta.helm.sh/release-name") == Some(RELEASE)
            && annotation("meta.helm.sh/release-namespace") == Some(self.namespace.as_str())
    }
}

/// The merge patch that takes `live` to `wanted`. Lists are replaced as a whole, and only when they differ in what is
/// wanted.
fn three_way(previous: &Value, wanted: &Value, live: &Value) -> Value {
    let mut patch = Map::new();
    if let Some(previous) = previous.as_object() {
        for key in previous.keys() {
            if wanted.get(key).is_none() && live.get(key).is_some_and(|value| !value.is_null()) {
                patch.insert(key.clone(), Value::Null);
            }
        }
    }
    for (key, value) in wanted.as_object().into_iter().flatten() {
        let now = live.get(key).unwrap_or(&Value::Null);
        if value.is_object() && now.is_object() {
            let inner = three_way(previous.get(key).unwrap_or(&Value::Null), value, now);
            if inner.as_object().is_some_and(|inner| !inner.is_empty()) {
                patch.insert(key.clone(), inner);
            }
        } else if !contains(now, value)
            || previous
                .get(key)
                .is_some_and(|previous| previous.is_array() && previous != value)
        {
            patch.insert(key.clone(), value.clone());
        }
    }
    Value::Object(patch)
}

/// Whether `live` has everything that is wanted; defaults that the server added do not matter.
fn contains(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, value)| contains(live.get(key).unwrap_or(&Value::Null), value)),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len()
                && live
                    .iter()
                    .zip(wanted)
                    .all(|(live, wanted)| contains(live, wanted))
        }
        (live, wanted) => live == wanted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn three_way_rows() {
        let rows = [
            // previous, wanted, live, patch
            (json!({}), json!({"a": 1}), json!({"a": 1}), json!({})),
            (
                json!({}),
                json!({"a": 2}),
                json!({"a": 1, "b": 1}),
                json!({"a": 2}),
            ),
            (
                json!({"a": 1}),
                json!({}),
                json!({"a": 1, "b": 1}),
                json!({"a": null}),
            ),
            (json!({"a": 1}), json!({}), json!({"b": 1}), json!({})),
            (
                json!({"data": {"x": "1", "y": "2"}}),
                json!({"data": {"x": "1"}}),
                json!({"data": {"x": "1", "y": "2", "z": "3"}}),
                json!({"data": {"y": null}}),
            ),
            // Defaults of the server are no difference, a shorter list is one.
            (
                json!({}),
                json!({"l": [{"a": 1}]}),
                json!({"l": [{"a": 1, "default": true}]}),
                json!({}),
            ),
            (
                json!({}),
                json!({"l": [{"a": 1}]}),
                json!({"l": [{"a": 1}, {"a": 2}]}),
                json!({"l": [{"a": 1}]}),
            ),
            // A field that an item of a list lost is removed with the list.
            (
                json!({"l": [{"a": 1, "b": 2}]}),
                json!({"l": [{"a": 1}]}),
                json!({"l": [{"a": 1, "b": 2}]}),
                json!({"l": [{"a": 1}]}),
            ),
        ];
        for (previous, wanted, live, expected) in rows {
            assert_eq!(
                three_way(&previous, &wanted, &live),
                expected,
                "{previous} {wanted} {live}"
            );
        }
    }

    #[test]
    fn objects_are_named_for_people() {
        assert_eq!(
            describe(&json!({"kind": "DaemonSet", "metadata": {"name": "cilium"}})),
            "DaemonSet cilium"
        );
        assert_eq!(describe(&json!({})), "? ?");
    }
}
