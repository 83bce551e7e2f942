//! What Kubernetes fills in where the user said nothing.

use serde_json::{Map, Value, json};

use crate::object::{default_to, items, items_mut, map_mut, meta_mut};

mod event;
mod pod;
mod service;

pub(crate) use event::{event, from_core as event_from_core, to_core as event_to_core};
pub(crate) use pod::pod;
pub(crate) use service::service;

pub(crate) fn namespace(object: &mut Value) {
    let name = crate::object::name(object).to_owned();
    let fresh = object["status"]["phase"].is_null();
    let labels = meta_mut(object)
        .entry("labels")
        .or_insert_with(|| Value::Object(Map::new()));
    map_mut(labels).insert("kubernetes.io/metadata.name".into(), name.into());
    if fresh {
        default_to(&mut object["spec"], "finalizers", json!(["kubernetes"]));
        default_to(&mut object["status"], "phase", "Active");
    }
}

pub(crate) fn node(object: &mut Value) {
    let name = crate::object::name(object).to_owned();
    let labels = meta_mut(object)
        .entry("labels")
        .or_insert_with(|| Value::Object(Map::new()));
    map_mut(labels)
        .entry("kubernetes.io/hostname")
        .or_insert_with(|| name.into());
    map_mut(&mut object["spec"]);
    map_mut(&mut object["status"]);
}

pub(crate) fn secret(object: &mut Value) {
    default_to(object, "type", "Opaque");
    // `stringData` is write-only: it ends in `data`.
    let Some(Value::Object(plain)) = map_mut(object).remove("stringData") else {
        return;
    };
    let data = map_mut(&mut object["data"]);
    for (key, value) in plain {
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
        data.insert(key, encoded.into());
    }
}

pub(crate) fn endpoints(object: &mut Value) {
    for subset in items_mut(&mut object["subsets"]) {
        for port in items_mut(&mut subset["ports"]) {
            default_to(port, "protocol", "TCP");
        }
    }
    if object["subsets"].is_null() {
        map_mut(object).remove("subsets");
    }
}

pub(crate) fn endpoint_slice(object: &mut Value) {
    if let Some(Value::Array(ports)) = map_mut(object).get_mut("ports") {
        for port in ports {
            default_to(port, "name", "");
            default_to(port, "protocol", "TCP");
        }
    }
}

pub(crate) fn priority_class(object: &mut Value) {
    default_to(object, "preemptionPolicy", "PreemptLowerPriority");
}

pub(crate) fn network_policy(object: &mut Value) {
    let spec = &mut object["spec"];
    map_mut(spec).entry("podSelector").or_insert_with(|| json!({}));
    if spec["policyTypes"].is_null() {
        let mut types = vec!["Ingress"];
        if !items(&spec["egress"]).is_empty() {
            types.push("Egress");
        }
        map_mut(spec).insert("policyTypes".into(), json!(types));
    }
    for direction in ["ingress", "egress"] {
        let Some(rules) = map_mut(spec).get_mut(direction) else {
            continue;
        };
        for rule in items_mut(rules) {
            let Some(ports) = map_mut(rule).get_mut("ports") else {
                continue;
            };
            for port in items_mut(ports) {
                default_to(port, "protocol", "TCP");
            }
        }
    }
}

pub(crate) fn deployment(object: &mut Value) {
    let spec = &mut object["spec"];
    default_to(spec, "replicas", 1);
    default_to(spec, "revisionHistoryLimit", 10);
    default_to(spec, "progressDeadlineSeconds", 600);
    let strategy = map_mut(spec).entry("strategy").or_insert(Value::Null);
    default_to(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = map_mut(strategy).entry("rollingUpdate").or_insert(Value::Null);
        default_to(rolling, "maxUnavailable", "25%");
        default_to(rolling, "maxSurge", "25%");
    }
    template(spec);
}

pub(crate) fn replica_set(object: &mut Value) {
    let spec = &mut object["spec"];
    default_to(spec, "replicas", 1);
    template(spec);
}

pub(crate) fn daemon_set(object: &mut Value) {
    let spec = &mut object["spec"];
    default_to(spec, "revisionHistoryLimit", 10);
    let strategy = map_mut(spec).entry("updateStrategy").or_insert(Value::Null);
    default_to(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = map_mut(strategy).entry("rollingUpdate").or_insert(Value::Null);
        default_to(rolling, "maxUnavailable", 1);
        default_to(rolling, "maxSurge", 0);
    }
    template(spec);
}

/// The pod template of a workload.
fn template(spec: &mut Value) {
    let template = map_mut(spec).entry("template").or_insert(Value::Null);
    let meta = map_mut(template).entry("metadata").or_insert(Value::Null);
    default_to(meta, "creationTimestamp", Value::Null);
    if meta["creationTimestamp"].is_null() {
        map_mut(meta).remove("creationTimestamp");
    }
    pod::spec(map_mut(template).entry("spec").or_insert(Value::Null));
}
