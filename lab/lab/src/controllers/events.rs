//! Events: what controllers tell people about objects, as `kubectl describe` and `kubectl get events` show it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use lab_apiserver::{Client, Patch, Resource, Status};
use serde_json::json;

/// An object that an event is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// Such as `apps/v1`.
    pub(crate) api_version: &'a str,
    /// Such as `DaemonSet`.
    pub(crate) kind: &'a str,
    /// Its name, namespace and uid.
    pub(crate) meta: &'a ObjectMeta,
}

/// Whether an event is good news.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// What was to be expected.
    Normal,
    /// Somebody should have a look.
    Warning,
}

/// Records an event in the name of `component`. The same news about the same object is counted up, not repeated.
/// A failure is logged only: no work must fail because nobody could be told.
pub(crate) async fn record(
    client: &Client,
    component: &str,
    subject: Subject<'_>,
    kind: Kind,
    reason: &str,
    message: &str,
) {
    if let Err(error) = try_record(client, component, subject, kind, reason, message).await {
        tracing::debug!(%error, reason, "event not recorded");
    }
}

async fn try_record(
    client: &Client,
    component: &str,
    subject: Subject<'_>,
    kind: Kind,
    reason: &str,
    message: &str,
) -> Result<(), Status> {
    let events = Resource::core("events");
    let Subject {
        api_version,
        kind: of,
        meta,
    } = subject;
    let object = meta.name.as_deref().unwrap_or_default();
    // Events about objects without a namespace live in `default`.
    let namespace = meta.namespace.as_deref().unwrap_or("default");
    let mut hasher = DefaultHasher::new();
    (component, of, &meta.uid, reason, message).hash(&mut hasher);
    // Always the same for the same news, and early in the order of names, by which kubectl lists events of one second.
    let since = meta
        .creation_timestamp
        .as_ref()
        .map_or(0, |time| time.0.as_nanosecond());
    let name = format!(
        "{object}.{:016x}",
        since + i128::from(hasher.finish() & 0xff_ffff)
    );
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let kind = match kind {
        Kind::Normal => "Normal",
        Kind::Warning => "Warning",
    };
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": {
            "apiVersion": api_version, "kind": of, "name": object, "namespace": meta.namespace, "uid": meta.uid,
            "resourceVersion": meta.resource_version,
        },
        "reason": reason, "message": message, "type": kind, "count": 1,
        "firstTimestamp": now, "lastTimestamp": now,
        "source": {"component": component}, "reportingComponent": component, "reportingInstance": "",
    });
    match client.create(&events, Some(namespace), event).await {
        Err(status) if status.is_already_exists() => {}
        other => return other.map(drop),
    }
    let known = client.get(&events, Some(namespace), &name).await?;
    let count = known["count"].as_i64().unwrap_or(1).saturating_add(1);
    let patch = json!({"count": count, "lastTimestamp": now});
    client
        .patch(&events, Some(namespace), &name, Patch::Merge, patch)
        .await
        .map(drop)
}
