//! Services, endpoints, network policies.

use serde_json::Value;

use super::{Printer, age, labels, text};
use crate::api::selector_text;
use crate::object::items;

pub(crate) fn services() -> Printer {
    let columns = &["Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "+Selector"];
    Printer::new(columns, |o, now| {
        let spec = &o["spec"];
        let or_none = |t: &str| {
            if t.is_empty() {
                "<none>".to_owned()
            } else {
                t.to_owned()
            }
        };
        vec![
            text(&spec["type"]),
            or_none(spec["clusterIP"].as_str().unwrap_or_default()).into(),
            external(o).into(),
            ports(spec).into(),
            age(o, now),
            labels(&spec["selector"]).into(),
        ]
    })
}

fn external(service: &Value) -> String {
    let spec = &service["spec"];
    let listed: Vec<&str> = items(&spec["externalIPs"])
        .iter()
        .filter_map(Value::as_str)
        .collect();
    match spec["type"].as_str() {
        Some("ExternalName") => spec["externalName"].as_str().unwrap_or_default().to_owned(),
        Some("LoadBalancer") => {
            let mut addresses: Vec<&str> = items(&service["status"]["loadBalancer"]["ingress"])
                .iter()
                .filter_map(|i| i["ip"].as_str().or_else(|| i["hostname"].as_str()))
                .collect();
            addresses.extend(listed);
            if addresses.is_empty() {
                "<pending>".into()
            } else {
                addresses.join(",")
            }
        }
        _ if listed.is_empty() => "<none>".into(),
        _ => listed.join(","),
    }
}

fn ports(spec: &Value) -> String {
    let ports: Vec<String> = items(&spec["ports"])
        .iter()
        .map(|p| {
            let (port, protocol) = (
                p["port"].as_i64().unwrap_or(0),
                p["protocol"].as_str().unwrap_or("TCP"),
            );
            match p["nodePort"].as_i64().filter(|n| *n > 0) {
                Some(node_port) => format!("{port}:{node_port}/{protocol}"),
                None => format!("{port}/{protocol}"),
            }
        })
        .collect();
    if ports.is_empty() {
        "<none>".into()
    } else {
        ports.join(",")
    }
}

/// Up to three, then `+ n more...`.
fn shorten(list: &[String]) -> String {
    match list {
        [] => "<none>".into(),
        [a, b, c, rest @ ..] if !rest.is_empty() => format!("{a},{b},{c} + {} more...", rest.len()),
        few => few.join(","),
    }
}

fn address_and_port(address: &str, port: i64) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

pub(crate) fn endpoints() -> Printer {
    Printer::new(&["Endpoints", "Age"], |o, now| {
        let mut all = Vec::new();
        for subset in items(&o["subsets"]) {
            let addresses = items(&subset["addresses"])
                .iter()
                .filter_map(|a| a["ip"].as_str());
            for address in addresses {
                if items(&subset["ports"]).is_empty() {
                    all.push(address.to_owned());
                }
                for port in items(&subset["ports"]) {
                    all.push(address_and_port(address, port["port"].as_i64().unwrap_or(0)));
                }
            }
        }
        vec![shorten(&all).into(), age(o, now)]
    })
}

pub(crate) fn endpoint_slices() -> Printer {
    Printer::new(&["AddressType", "Ports", "Endpoints", "Age"], |o, now| {
        let ports: Vec<String> = items(&o["ports"])
            .iter()
            .map(|p| p["port"].as_i64().map_or_else(|| "*".into(), |n| n.to_string()))
            .collect();
        let ports = if ports.is_empty() {
            "<unset>".into()
        } else {
            shorten(&ports)
        };
        let addresses: Vec<String> = items(&o["endpoints"])
            .iter()
            .flat_map(|e| items(&e["addresses"]))
            .filter_map(|a| a.as_str().map(str::to_owned))
            .collect();
        let addresses = if addresses.is_empty() {
            "<unset>".into()
        } else {
            shorten(&addresses)
        };
        vec![
            text(&o["addressType"]),
            ports.into(),
            addresses.into(),
            age(o, now),
        ]
    })
}

pub(crate) fn network_policies() -> Printer {
    Printer::new(&["Pod-Selector", "Age"], |o, now| {
        let selector = selector_text(&o["spec"]["podSelector"]).filter(|t| !t.is_empty());
        vec![selector.unwrap_or_else(|| "<none>".into()).into(), age(o, now)]
    })
}
