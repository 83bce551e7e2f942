//! Services; addresses are given out by admission.

use serde_json::{Value, json};

use crate::object::{default_to, items_mut, map_mut};

pub(crate) fn service(object: &mut Value) {
    let spec = &mut object["spec"];
    default_to(spec, "type", "ClusterIP");
    default_to(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "ClientIP" && spec["sessionAffinityConfig"].is_null() {
        map_mut(spec).insert(
            "sessionAffinityConfig".into(),
            json!({"clientIP": {"timeoutSeconds": 10800}}),
        );
    }
    if spec["type"] != "ExternalName" {
        default_to(spec, "internalTrafficPolicy", "Cluster");
    }
    if matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer")) {
        default_to(spec, "externalTrafficPolicy", "Cluster");
    }
    if spec["type"] == "LoadBalancer" {
        default_to(spec, "allocateLoadBalancerNodePorts", true);
    }
    if let Some(ports) = map_mut(spec).get_mut("ports") {
        for port in items_mut(ports) {
            default_to(port, "protocol", "TCP");
            let number = port["port"].clone();
            let target = map_mut(port)
                .entry("targetPort")
                .or_insert_with(|| number.clone());
            if *target == json!(0) || *target == json!("") {
                *target = number;
            }
        }
    }
    default_to(&mut object["status"], "loadBalancer", json!({}));
}
