//! Admission: what new objects get from the objects around them.

use serde_json::{Value, json};

use crate::api::Api;
use crate::object::{self, default_to, items, items_mut, map_mut};
use crate::status::Status;

mod service;

pub(crate) use service::{is_external, needs_health_check, service};

/// Where a token is mounted in a container.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Service account and its token, default tolerations, priority.
pub(crate) fn pod(api: &Api, pod: &mut Value, old: Option<&Value>) -> Result<(), Status> {
    if old.is_some() {
        return Ok(());
    }
    service_account(api, pod)?;
    tolerations(pod);
    priority(api, pod)
}

fn service_account(api: &Api, pod: &mut Value) -> Result<(), Status> {
    // Static pods that a kubelet mirrors have no account.
    if !pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null() {
        return Ok(());
    }
    let (namespace, name) = (object::namespace(pod).to_owned(), object::name(pod).to_owned());
    default_to(&mut pod["spec"], "serviceAccountName", "default");
    let account = pod["spec"]["serviceAccountName"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    map_mut(&mut pod["spec"]).insert("serviceAccount".into(), account.as_str().into());
    let Some(found) = api.peek("serviceaccounts", &namespace, &account) else {
        let why = format!(
            "error looking up service account {namespace}/{account}: serviceaccount {account:?} not found"
        );
        return Err(Status::forbidden("", "pods", &name, &why));
    };
    let wanted = pod["spec"]["automountServiceAccountToken"]
        .as_bool()
        .or_else(|| found["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if !wanted {
        return Ok(());
    }
    let volumes = items(&pod["spec"]["volumes"]);
    let present = volumes
        .iter()
        .filter_map(|v| v["name"].as_str())
        .find(|n| n.starts_with("kube-api-access-"));
    let volume = present.map_or_else(
        || format!("kube-api-access-{}", object::random_suffix(5)),
        str::to_owned,
    );
    let mut used = false;
    for list in ["initContainers", "containers"] {
        let Some(list) = map_mut(&mut pod["spec"]).get_mut(list) else {
            continue;
        };
        for container in items_mut(list) {
            let mounts = map_mut(container)
                .entry("volumeMounts")
                .or_insert_with(|| json!([]));
            let Value::Array(mounts) = mounts else { continue };
            if !mounts.iter().any(|m| m["mountPath"] == TOKEN_PATH) {
                mounts.push(json!({"name": volume, "readOnly": true, "mountPath": TOKEN_PATH}));
                used = true;
            }
        }
    }
    if used && !items(&pod["spec"]["volumes"]).iter().any(|v| v["name"] == volume) {
        let volumes = map_mut(&mut pod["spec"])
            .entry("volumes")
            .or_insert_with(|| json!([]));
        if let Value::Array(volumes) = volumes {
            volumes.push(token_volume(&volume));
        }
    }
    Ok(())
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
        ]}},
    ]}})
}

/// Five minutes on a node that is gone or not ready, unless the pod says otherwise.
fn tolerations(pod: &mut Value) {
    let list = map_mut(&mut pod["spec"])
        .entry("tolerations")
        .or_insert_with(|| json!([]));
    let Value::Array(list) = list else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covers = |t: &Value| {
            let effect = t["effect"].as_str().unwrap_or_default();
            let all = t["key"].as_str().unwrap_or_default().is_empty() && t["operator"] == "Exists";
            (t["key"] == key || all) && (effect.is_empty() || effect == "NoExecute")
        };
        if !list.iter().any(covers) {
            list.push(
                json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}),
            );
        }
    }
}

fn priority(api: &Api, pod: &mut Value) -> Result<(), Status> {
    default_to(&mut pod["spec"], "preemptionPolicy", "PreemptLowerPriority");
    let class = pod["spec"]["priorityClassName"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let value = match class.as_str() {
        "" => 0,
        "system-cluster-critical" => 2_000_000_000,
        "system-node-critical" => 2_000_001_000,
        name => match api.peek("priorityclasses.scheduling.k8s.io", "", name) {
            Some(found) => found["value"].as_i64().unwrap_or(0),
            None => {
                let why = format!("no PriorityClass with name {name} was found");
                return Err(Status::forbidden("", "pods", object::name(pod), &why));
            }
        },
    };
    map_mut(&mut pod["spec"]).insert("priority".into(), value.into());
    Ok(())
}
