//! Services; addresses and node ports are given out by admission.

use serde_json::{Value, json};

use crate::admission::is_external;
use crate::object::{default_to, items_mut, map_mut};

/// How long a client stays with its endpoint, in seconds: three hours.
const AFFINITY_SECONDS: i64 = 10_800;

pub(crate) fn service(object: &mut Value) {
    let spec = &mut object["spec"];
    default_to(spec, "type", "ClusterIP");
    default_to(spec, "sessionAffinity", "None");
    match spec["sessionAffinity"].as_str() {
        // A client that turns affinity off need not know of its settings.
        Some("None") => drop(map_mut(spec).remove("sessionAffinityConfig")),
        Some("ClientIP") => {
            let config = map_mut(spec)
                .entry("sessionAffinityConfig")
                .or_insert_with(|| json!({}));
            let client = map_mut(config).entry("clientIP").or_insert_with(|| json!({}));
            default_to(client, "timeoutSeconds", AFFINITY_SECONDS);
        }
        _ => {}
    }
    if spec["type"] != "ExternalName" {
        default_to(spec, "internalTrafficPolicy", "Cluster");
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
    if is_external(object) {
        default_to(&mut object["spec"], "externalTrafficPolicy", "Cluster");
    }
    default_to(&mut object["status"], "loadBalancer", json!({}));
    if let Some(ingress) = map_mut(&mut object["status"]["loadBalancer"]).get_mut("ingress") {
        for point in items_mut(ingress) {
            if point["ip"].is_string() {
                default_to(point, "ipMode", "VIP");
            }
        }
    }
}
