//! Small things that every controller needs: reading objects into types, owners, selectors, pod states.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use lab_apiserver::{Client, DeleteOptions, ListOptions, Resource, Status};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Key;

/// The key of an object.
pub(crate) fn key_of(object: &Value) -> Key {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    Key::new(text("namespace"), text("name"))
}

/// Reads one object; `None` if there is none.
///
/// # Errors
/// The API server refuses, or the object is not of type `T`.
pub(crate) async fn get<T: DeserializeOwned>(
    client: &Client,
    resource: &Resource,
    key: &Key,
) -> anyhow::Result<Option<T>> {
    match client.get(resource, key.namespace(), &key.name).await {
        Ok(object) => read(&object).map(Some),
        Err(status) if status.is_not_found() => Ok(None),
        Err(status) => Err(status.into()),
    }
}

/// Reads all objects of a namespace, or of all with `None`.
///
/// # Errors
/// The API server refuses, or an object is not of type `T`.
pub(crate) async fn list<T: DeserializeOwned>(
    client: &Client,
    resource: &Resource,
    namespace: Option<&str>,
) -> anyhow::Result<Vec<T>> {
    let list = client.list(resource, namespace, &ListOptions::default()).await?;
    list.items.iter().map(|object| read(object)).collect()
}

fn read<T: DeserializeOwned>(object: &Value) -> anyhow::Result<T> {
    T::deserialize(object).with_context(|| format!("cannot understand {} {}", object["kind"], key_of(object)))
}

/// Deletes exactly the object with this uid. One that is gone, or was replaced, is no error.
///
/// # Errors
/// The API server refuses.
pub(crate) async fn delete(
    client: &Client,
    resource: &Resource,
    meta: &ObjectMeta,
    options: DeleteOptions,
) -> Result<(), Status> {
    let options = DeleteOptions {
        uid: meta.uid.clone(),
        ..options
    };
    let name = meta.name.as_deref().unwrap_or_default();
    match client
        .delete(resource, meta.namespace.as_deref(), name, &options)
        .await
    {
        Ok(_) => Ok(()),
        Err(status) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(status) => Err(status),
    }
}

/// The owner that is in charge of an object.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
}

/// Whether the object with `uid` is in charge of an object.
pub(crate) fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|owner| owner.uid == uid)
}

/// The key of the owner in charge, if it is of this kind: how changes of pods wake those who made them.
pub(crate) fn owner_key(object: &Value, kind: &str) -> Vec<Key> {
    let owners = object["metadata"]["ownerReferences"].as_array();
    let owner = owners
        .into_iter()
        .flatten()
        .find(|owner| owner["controller"] == true && owner["kind"] == kind);
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    owner
        .and_then(|owner| owner["name"].as_str())
        .map(|name| Key::new(namespace, name))
        .into_iter()
        .collect()
}

/// An owner reference that makes `meta` the one in charge.
pub(crate) fn controller_reference(api_version: &str, kind: &str, meta: &ObjectMeta) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind, "name": meta.name, "uid": meta.uid,
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// Labels of an object, empty if it has none.
pub(crate) fn labels(meta: &ObjectMeta) -> &BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    meta.labels.as_ref().unwrap_or(&NONE)
}

/// Whether labels match a selector. An empty one matches everything, as in Kubernetes.
pub(crate) fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|expression| {
            let values = expression.values.as_deref().unwrap_or_default();
            requirement(
                &expression.operator,
                values,
                labels.get(&expression.key).map(String::as_str),
            )
        })
}

/// One requirement of a label selector or of a node selector. An operator that nobody knows matches nothing.
pub(crate) fn requirement(operator: &str, values: &[String], actual: Option<&str>) -> bool {
    let listed = || actual.is_some_and(|actual| values.iter().any(|value| value == actual));
    let compare = |compare: fn(&i64, &i64) -> bool| {
        let limit = values.first().and_then(|value| value.parse::<i64>().ok());
        let actual = actual.and_then(|actual| actual.parse::<i64>().ok());
        matches!((actual, limit), (Some(actual), Some(limit)) if compare(&actual, &limit))
    };
    match operator {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => actual.is_some(),
        "DoesNotExist" => actual.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

/// The condition of a pod with this type.
pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|condition| condition.type_ == kind)
}

/// Whether a pod says it can serve.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Whether a pod has been ready for `min_ready`; if it still has to be, for how much longer.
pub(crate) fn availability(pod: &Pod, min_ready: Duration, now: Timestamp) -> Availability {
    let Some(ready) = condition(pod, "Ready").filter(|condition| condition.status == "True") else {
        return Availability::No;
    };
    if min_ready.is_zero() {
        return Availability::Yes;
    }
    let since = ready.last_transition_time.as_ref().map_or(now, |time| time.0);
    let ready_for = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    match min_ready.checked_sub(ready_for) {
        None | Some(Duration::ZERO) => Availability::Yes,
        Some(rest) => Availability::In(rest),
    }
}

/// Answer of [`availability`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Availability {
    /// Not ready.
    No,
    /// Ready, and it will count as available after this time.
    In(Duration),
    /// Ready for long enough.
    Yes,
}

/// `Pending`, `Running`, `Succeeded`, `Failed`; a pod without status is pending.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending")
}

/// Whether a pod is on its way out or has ended.
pub(crate) fn is_active(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && !has_ended(pod)
}

/// Whether all containers of a pod have ended for good.
pub(crate) fn has_ended(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// The node a pod was given.
pub(crate) fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec
        .as_ref()?
        .node_name
        .as_deref()
        .filter(|name| !name.is_empty())
}

/// The number behind an `IntOrString`: itself, or so many percent of `total`.
pub(crate) fn int_or_percent(
    value: &k8s_openapi::apimachinery::pkg::util::intstr::IntOrString,
    total: i32,
    round_up: bool,
) -> i32 {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent = text
                .strip_suffix('%')
                .and_then(|number| number.parse::<i64>().ok())
                .unwrap_or(0);
            let hundredths = percent.saturating_mul(i64::from(total));
            let rounded = if round_up {
                hundredths.saturating_add(99) / 100
            } else {
                hundredths / 100
            };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

    use super::*;

    #[test]
    fn requirements() {
        let values = |list: &[&str]| list.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
        for (operator, list, actual, expected) in [
            ("In", &["a", "b"][..], Some("b"), true),
            ("In", &["a"], Some("b"), false),
            ("In", &["a"], None, false),
            ("NotIn", &["a"], None, true),
            ("NotIn", &["a"], Some("a"), false),
            ("Exists", &[], Some(""), true),
            ("Exists", &[], None, false),
            ("DoesNotExist", &[], None, true),
            ("DoesNotExist", &[], Some("x"), false),
            ("Gt", &["5"], Some("6"), true),
            ("Gt", &["5"], Some("5"), false),
            ("Lt", &["5"], Some("4"), true),
            ("Lt", &["five"], Some("4"), false),
            ("Gt", &[], Some("4"), false),
            ("Near", &["a"], Some("a"), false),
        ] {
            assert_eq!(
                requirement(operator, &values(list), actual),
                expected,
                "{operator} {list:?} {actual:?}"
            );
        }
    }

    #[test]
    fn percentages() {
        let percent = |text: &str| IntOrString::String(text.to_owned());
        for (value, total, up, expected) in [
            (IntOrString::Int(3), 10, false, 3),
            (percent("25%"), 10, true, 3),
            (percent("25%"), 10, false, 2),
            (percent("100%"), 7, true, 7),
            (percent("0%"), 7, true, 0),
            (percent("junk"), 7, true, 0),
            (percent("9223372036854775807%"), i32::MAX, true, i32::MAX),
        ] {
            assert_eq!(
                int_or_percent(&value, total, up),
                expected,
                "{value:?} of {total}"
            );
        }
    }

    #[test]
    fn available_after_having_been_ready_for_long_enough() {
        let now = Timestamp::from_second(1000).unwrap();
        let pod = |status: &str| -> Pod {
            serde_json::from_value(json!({"status": {"conditions": [
                {"type": "Ready", "status": status, "lastTransitionTime": "1970-01-01T00:16:30Z"}]}}))
            .unwrap()
        };
        let seconds = Duration::from_secs;
        assert_eq!(availability(&pod("False"), seconds(0), now), Availability::No);
        assert_eq!(availability(&pod("True"), seconds(0), now), Availability::Yes);
        assert_eq!(availability(&pod("True"), seconds(10), now), Availability::Yes);
        assert_eq!(
            availability(&pod("True"), seconds(15), now),
            Availability::In(seconds(5))
        );
        assert_eq!(availability(&Pod::default(), seconds(0), now), Availability::No);
    }

    #[test]
    fn owners_in_charge() {
        let object = json!({"metadata": {"namespace": "n", "ownerReferences": [
            {"kind": "ReplicaSet", "name": "other"},
            {"kind": "ReplicaSet", "name": "mine", "controller": true}]}});
        assert_eq!(owner_key(&object, "ReplicaSet"), [Key::new("n", "mine")]);
        assert_eq!(owner_key(&object, "DaemonSet"), []);
        assert_eq!(owner_key(&json!({}), "DaemonSet"), []);
    }
}
