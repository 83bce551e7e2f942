//! Nodes.

use jiff::Timestamp;
use serde_json::Value;

use super::{Printer, age};
use crate::object::items;

pub(crate) fn nodes() -> Printer {
    let columns = &[
        "Status",
        "Roles",
        "Age",
        "Version",
        "+Internal-IP",
        "+External-IP",
        "+OS-Image",
        "+Kernel-Version",
        "+Container-Runtime",
    ];
    Printer::new(columns, row)
}

fn row(node: &Value, now: Timestamp) -> Vec<Value> {
    let status = &node["status"];
    let info = &status["nodeInfo"];
    let ready = items(&status["conditions"]).iter().find(|c| c["type"] == "Ready");
    let mut state = match ready.and_then(|c| c["status"].as_str()) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node["spec"]["unschedulable"] == true {
        state.push_str(",SchedulingDisabled");
    }
    let address = |ty: &str| {
        let found = items(&status["addresses"]).iter().find(|a| a["type"] == ty);
        Value::from(found.and_then(|a| a["address"].as_str()).unwrap_or("<none>"))
    };
    let known = |field: &str| {
        Value::from(
            info[field]
                .as_str()
                .filter(|t| !t.is_empty())
                .unwrap_or("<unknown>"),
        )
    };
    vec![
        state.into(),
        roles(node).into(),
        age(node, now),
        info["kubeletVersion"].as_str().unwrap_or_default().into(),
        address("InternalIP"),
        address("ExternalIP"),
        known("osImage"),
        known("kernelVersion"),
        known("containerRuntimeVersion"),
    ]
}

fn roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object();
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.as_str() {
            "kubernetes.io/role" => value.as_str(),
            _ => key.strip_prefix("node-role.kubernetes.io/"),
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() {
        "<none>".into()
    } else {
        roles.join(",")
    }
}
