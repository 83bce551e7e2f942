//! Pods, alone and in templates.

use serde_json::{Map, Value, json};

use crate::object::{default_to, items, items_mut, map_mut};

pub(crate) fn pod(object: &mut Value) {
    spec(&mut object["spec"]);
    default_to(&mut object["spec"], "enableServiceLinks", true);
    let status = &mut object["status"];
    default_to(status, "phase", "Pending");
    if status["qosClass"].is_null() {
        let class = quality(&object["spec"]);
        map_mut(&mut object["status"]).insert("qosClass".into(), class.into());
    }
}

/// The part that pods and templates share.
pub(super) fn spec(spec: &mut Value) {
    default_to(spec, "restartPolicy", "Always");
    default_to(spec, "dnsPolicy", "ClusterFirst");
    default_to(spec, "schedulerName", "default-scheduler");
    default_to(spec, "terminationGracePeriodSeconds", 30);
    default_to(spec, "securityContext", Value::Object(Map::new()));
    // The old name is still shown beside the new one.
    let name = spec["serviceAccountName"]
        .as_str()
        .or_else(|| spec["serviceAccount"].as_str())
        .map(str::to_owned);
    if let Some(name) = name {
        default_to(spec, "serviceAccountName", name.as_str());
        let name = spec["serviceAccountName"].clone();
        map_mut(spec).insert("serviceAccount".into(), name);
    }
    let host_network = spec["hostNetwork"] == true;
    for field in ["initContainers", "containers"] {
        if let Some(list) = map_mut(spec).get_mut(field) {
            for one in items_mut(list) {
                container(one, host_network);
            }
        }
    }
    if let Some(list) = map_mut(spec).get_mut("volumes") {
        for volume in items_mut(list) {
            self::volume(volume);
        }
    }
}

fn container(one: &mut Value, host_network: bool) {
    if one["imagePullPolicy"].is_null() {
        let image = one["image"].as_str().unwrap_or_default();
        let policy = if is_latest(image) {
            "Always"
        } else {
            "IfNotPresent"
        };
        map_mut(one).insert("imagePullPolicy".into(), policy.into());
    }
    default_to(one, "terminationMessagePath", "/dev/termination-log");
    default_to(one, "terminationMessagePolicy", "File");
    default_to(one, "resources", Value::Object(Map::new()));
    if let Some(ports) = map_mut(one).get_mut("ports") {
        for port in items_mut(ports) {
            default_to(port, "protocol", "TCP");
            if host_network && port["hostPort"].is_null() {
                let number = port["containerPort"].clone();
                map_mut(port).insert("hostPort".into(), number);
            }
        }
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = map_mut(one).get_mut(field) {
            self::probe(probe);
        }
    }
    if let Some(env) = map_mut(one).get_mut("env") {
        for variable in items_mut(env) {
            if variable["valueFrom"]["fieldRef"].is_object() {
                default_to(&mut variable["valueFrom"]["fieldRef"], "apiVersion", "v1");
            }
        }
    }
    // What is limited and not requested is requested.
    let limits = one["resources"]["limits"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    if !limits.is_empty() {
        let requests = map_mut(&mut one["resources"]["requests"]);
        for (name, value) in limits {
            requests.entry(name).or_insert(value);
        }
    }
}

/// No tag and no digest, or the tag `latest`.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn probe(probe: &mut Value) {
    default_to(probe, "timeoutSeconds", 1);
    default_to(probe, "periodSeconds", 10);
    default_to(probe, "successThreshold", 1);
    default_to(probe, "failureThreshold", 3);
    if probe["httpGet"].is_object() {
        default_to(&mut probe["httpGet"], "path", "/");
        default_to(&mut probe["httpGet"], "scheme", "HTTP");
    }
    if probe["grpc"].is_object() {
        default_to(&mut probe["grpc"], "service", "");
    }
}

fn volume(volume: &mut Value) {
    let sources = ["configMap", "secret", "projected", "downwardAPI"];
    for source in sources {
        if volume[source].is_object() {
            default_to(&mut volume[source], "defaultMode", 0o644);
        }
    }
    if volume["hostPath"].is_object() {
        default_to(&mut volume["hostPath"], "type", "");
    }
    for source in items_mut(&mut volume["projected"]["sources"]) {
        if source["serviceAccountToken"].is_object() {
            default_to(&mut source["serviceAccountToken"], "expirationSeconds", 3600);
        }
        for item in items_mut(&mut source["downwardAPI"]["items"]) {
            if item["fieldRef"].is_object() {
                default_to(&mut item["fieldRef"], "apiVersion", "v1");
            }
        }
        tidy(source, "downwardAPI");
    }
    tidy(volume, "projected");
    let map = map_mut(volume);
    // A volume without a source is an empty directory.
    if map.len() == 1 && map.contains_key("name") {
        map.insert("emptyDir".into(), json!({}));
    }
}

/// Looking into an absent map leaves empty traces; this removes them.
fn tidy(object: &mut Value, field: &str) {
    let trace = match &object[field] {
        Value::Null => true,
        Value::Object(map) => map.values().all(Value::is_null),
        _ => false,
    };
    if trace {
        map_mut(object).remove(field);
    }
}

/// Guaranteed, Burstable or BestEffort, from requests and limits of processor and memory.
fn quality(spec: &Value) -> &'static str {
    let containers = || {
        items(&spec["containers"])
            .iter()
            .chain(items(&spec["initContainers"]))
    };
    let counted = ["cpu", "memory"];
    let has = |one: &Value, part: &str| counted.iter().any(|r| !one["resources"][part][*r].is_null());
    if !containers().any(|c| has(c, "requests") || has(c, "limits")) {
        return "BestEffort";
    }
    let equal = |one: &Value| {
        counted.iter().all(|r| {
            let (limit, request) = (&one["resources"]["limits"][*r], &one["resources"]["requests"][*r]);
            let value = |v: &Value| v.as_str().and_then(crate::quantity::parse);
            value(limit).is_some() && (request.is_null() || value(limit) == value(request))
        })
    };
    if containers().all(equal) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}
