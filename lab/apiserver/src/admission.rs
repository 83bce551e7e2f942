//! Admission: what new objects get from the objects around them.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use serde_json::{Value, json};

use crate::api::Api;
use crate::object::{self, default_to, items, items_mut, map_mut};
use crate::status::{Cause, Status};

/// Where a token is mounted in a container.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Ports that NodePort Services get.
const NODE_PORTS: std::ops::RangeInclusive<i64> = 30000..=32767;

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

/// Cluster addresses and node ports.
pub(crate) fn service(api: &Api, service: &mut Value, old: Option<&Value>) -> Result<(), Status> {
    let name = object::name(service).to_owned();
    if service["spec"]["type"] == "ExternalName" {
        let spec = map_mut(&mut service["spec"]);
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.remove(field);
        }
        return Ok(());
    }
    if let Some(old) = old {
        // What was given out stays, also when a client sends the object without it.
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if service["spec"][field].is_null() && !old["spec"][field].is_null() {
                service["spec"][field] = old["spec"][field].clone();
            }
        }
    }
    let (services, _) = api.store.list("services", None);
    let others = || {
        services
            .iter()
            .filter(|o| object::meta(o, "uid") != object::meta(service, "uid"))
    };
    let asked = service["spec"]["clusterIP"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let refuse = |causes| Err(Status::invalid("", "Service", &name, causes));
    if let Some(family) = items(&service["spec"]["ipFamilies"])
        .iter()
        .find(|f| **f != "IPv6")
    {
        return refuse(vec![Cause::invalid(
            "spec.ipFamilies[0]",
            family,
            "this cluster has IPv6 only",
        )]);
    }
    if service["spec"]["ipFamilyPolicy"] == "RequireDualStack" {
        let detail = "this cluster is not configured for dual-stack services";
        return refuse(vec![Cause::invalid(
            "spec.ipFamilyPolicy",
            &service["spec"]["ipFamilyPolicy"],
            detail,
        )]);
    }
    let address = if asked == "None" {
        asked
    } else {
        let used: BTreeSet<Ipv6Addr> = others()
            .filter_map(|o| o["spec"]["clusterIP"].as_str()?.parse().ok())
            .collect();
        match asked.as_str() {
            "" => match free_address(api.cluster.service_cidr, &used) {
                Some(address) => address.to_string(),
                None => return Err(Status::internal("failed to allocate a serviceIP: range is full")),
            },
            text => {
                let bad =
                    |detail: &str| refuse(vec![Cause::invalid("spec.clusterIPs", &json!([text]), detail)]);
                match text.parse::<Ipv6Addr>() {
                    Err(_) => return bad("must be a valid IPv6 address"),
                    Ok(address) if !api.cluster.service_cidr.contains(&address) => {
                        return bad(&format!(
                            "failed to allocate IP {text}: the provided IP ({text}) is not in the valid range. The range of valid IPs is {}",
                            api.cluster.service_cidr
                        ));
                    }
                    Ok(address) if used.contains(&address) => {
                        return bad(&format!(
                            "failed to allocate IP {text}: provided IP is already allocated"
                        ));
                    }
                    Ok(address) => address.to_string(),
                }
            }
        }
    };
    let used_ports: BTreeSet<i64> = others()
        .flat_map(|o| items(&o["spec"]["ports"]))
        .filter_map(|p| p["nodePort"].as_i64())
        .collect();
    let spec = map_mut(&mut service["spec"]);
    spec.insert("clusterIP".into(), address.as_str().into());
    spec.insert("clusterIPs".into(), json!([address]));
    spec.entry("ipFamilies").or_insert_with(|| json!(["IPv6"]));
    spec.entry("ipFamilyPolicy")
        .or_insert_with(|| "SingleStack".into());
    let wants_ports = matches!(
        service["spec"]["type"].as_str(),
        Some("NodePort" | "LoadBalancer")
    );
    node_ports(service, wants_ports, used_ports)
        .map_err(|cause| Status::invalid("", "Service", &name, vec![cause]))
}

fn node_ports(service: &mut Value, wanted: bool, mut used: BTreeSet<i64>) -> Result<(), Cause> {
    let Some(ports) = map_mut(&mut service["spec"]).get_mut("ports") else {
        return Ok(());
    };
    for (index, port) in items_mut(ports).iter_mut().enumerate() {
        let number = port["nodePort"].as_i64().filter(|n| *n != 0);
        if !wanted {
            map_mut(port).remove("nodePort");
            continue;
        }
        let field = format!("spec.ports[{index}].nodePort");
        let number = match number {
            Some(n) if !NODE_PORTS.contains(&n) => {
                let detail =
                    "provided port is not in the valid range. The range of valid ports is 30000-32767";
                return Err(Cause::invalid(field, &n.into(), detail));
            }
            Some(n) if used.contains(&n) => {
                return Err(Cause::invalid(
                    field,
                    &n.into(),
                    "provided port is already allocated",
                ));
            }
            Some(n) => n,
            None => NODE_PORTS
                .clone()
                .find(|n| !used.contains(n))
                .ok_or_else(|| Cause::required(field, "no node port is free"))?,
        };
        used.insert(number);
        map_mut(port).insert("nodePort".into(), number.into());
    }
    Ok(())
}

/// A free address at a random place of the range (so that a new Service does not get the address of one just
/// deleted), found by looking onward from there. The first addresses are left to those who ask for them.
fn free_address(range: ipnet::Ipv6Net, used: &BTreeSet<Ipv6Addr>) -> Option<Ipv6Addr> {
    let base = u128::from(range.network());
    let bits = u32::from(128 - range.prefix_len()).min(64);
    let size = 1_u128 << bits;
    let reserved = if size > 256 { 16 } else { 2 };
    let usable = size.checked_sub(reserved).filter(|n| *n > 0)?;
    let start = uuid::Uuid::new_v4().as_u128() % usable;
    let tries = usable.min(u128::try_from(used.len()).unwrap_or(u128::MAX).saturating_add(1));
    (0..tries)
        .map(|step| Ipv6Addr::from(base + reserved + (start + step) % usable))
        .find(|address| !used.contains(address))
}
