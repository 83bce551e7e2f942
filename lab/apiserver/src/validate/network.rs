//! Services, endpoint slices and network policies.

use std::collections::BTreeSet;

use serde_json::Value;

use super::pod::port_number;
use super::{immutable, labels, text};
use crate::object::items;
use crate::status::Cause;

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

pub(crate) fn service(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    let ty = spec["type"].as_str().unwrap_or_default();
    if !TYPES.contains(&ty) {
        causes.push(Cause::unsupported("spec.type", &spec["type"], TYPES));
    }
    let headless = spec["clusterIP"] == "None";
    let ports = items(&spec["ports"]);
    if ports.is_empty() && !headless && ty != "ExternalName" {
        causes.push(Cause::required("spec.ports", ""));
    }
    if ty == "ExternalName" && spec["externalName"].as_str().unwrap_or_default().is_empty() {
        causes.push(Cause::required("spec.externalName", ""));
    }
    let (mut names, mut pairs) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        port_number(port["port"].as_i64().unwrap_or(0), &format!("{at}.port"), causes);
        let name = port["name"].as_str().unwrap_or_default();
        if name.is_empty() && ports.len() > 1 {
            causes.push(Cause::required(format!("{at}.name"), ""));
        } else if !name.is_empty() {
            if let Some(rule) = text::label(name) {
                causes.push(Cause::invalid(format!("{at}.name"), &name.into(), rule));
            }
            if !names.insert(name) {
                causes.push(Cause::duplicate(format!("{at}.name"), &name.into()));
            }
        }
        let protocol = port["protocol"].as_str().unwrap_or_default();
        if !PROTOCOLS.contains(&protocol) {
            causes.push(Cause::unsupported(
                format!("{at}.protocol"),
                &port["protocol"],
                PROTOCOLS,
            ));
        }
        if !pairs.insert((port["port"].as_i64(), protocol)) {
            causes.push(Cause::duplicate(at.clone(), port));
        }
        match &port["targetPort"] {
            Value::Number(number) => {
                port_number(number.as_i64().unwrap_or(0), &format!("{at}.targetPort"), causes);
            }
            Value::String(name) => {
                if let Some(rule) = text::port_name(name) {
                    causes.push(Cause::invalid(
                        format!("{at}.targetPort"),
                        &name.as_str().into(),
                        rule,
                    ));
                }
            }
            _ => {}
        }
    }
    labels(&spec["selector"], "spec.selector", causes);
    let affinities = ["ClientIP", "None"];
    if !spec["sessionAffinity"]
        .as_str()
        .is_some_and(|a| affinities.contains(&a))
    {
        causes.push(Cause::unsupported(
            "spec.sessionAffinity",
            &spec["sessionAffinity"],
            &affinities,
        ));
    }
    if old.is_some_and(|o| o["spec"]["type"] != "ExternalName") && ty != "ExternalName" {
        immutable(object, old, "/spec/clusterIP", causes);
    }
}

pub(crate) fn endpoint_slice(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let types = ["FQDN", "IPv4", "IPv6"];
    let ty = object["addressType"].as_str().unwrap_or_default();
    if ty.is_empty() {
        causes.push(Cause::required("addressType", ""));
    } else if !types.contains(&ty) {
        causes.push(Cause::unsupported("addressType", &object["addressType"], &types));
    }
    immutable(object, old, "/addressType", causes);
    for (index, endpoint) in items(&object["endpoints"]).iter().enumerate() {
        if items(&endpoint["addresses"]).is_empty() {
            causes.push(Cause::required(
                format!("endpoints[{index}].addresses"),
                "must contain at least 1 address",
            ));
        }
        for (nth, address) in items(&endpoint["addresses"]).iter().enumerate() {
            let at = format!("endpoints[{index}].addresses[{nth}]");
            let text = address.as_str().unwrap_or_default();
            if ty == "IPv6" && text.parse::<std::net::Ipv6Addr>().is_err() {
                causes.push(Cause::invalid(at, address, "must be a valid IPv6 address"));
            } else if ty == "IPv4" && text.parse::<std::net::Ipv4Addr>().is_err() {
                causes.push(Cause::invalid(at, address, "must be a valid IPv4 address"));
            }
        }
    }
}

pub(crate) fn network_policy(object: &Value, _old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    for (index, ty) in items(&spec["policyTypes"]).iter().enumerate() {
        if ty != "Ingress" && ty != "Egress" {
            causes.push(Cause::unsupported(
                format!("spec.policyTypes[{index}]"),
                ty,
                &["Egress", "Ingress"],
            ));
        }
    }
    labels(
        &spec["podSelector"]["matchLabels"],
        "spec.podSelector.matchLabels",
        causes,
    );
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in items(&spec[direction]).iter().enumerate() {
            let at = format!("spec.{direction}[{index}]");
            for (nth, port) in items(&rule["ports"]).iter().enumerate() {
                policy_port(port, &format!("{at}.ports[{nth}]"), causes);
            }
            for (nth, peer) in items(&rule[peers]).iter().enumerate() {
                policy_peer(peer, &format!("{at}.{peers}[{nth}]"), causes);
            }
        }
    }
}

fn policy_port(port: &Value, at: &str, causes: &mut Vec<Cause>) {
    if !port["protocol"].as_str().is_none_or(|p| PROTOCOLS.contains(&p)) {
        causes.push(Cause::unsupported(
            format!("{at}.protocol"),
            &port["protocol"],
            PROTOCOLS,
        ));
    }
    match &port["port"] {
        Value::Number(number) => port_number(number.as_i64().unwrap_or(0), &format!("{at}.port"), causes),
        Value::String(name) => {
            if let Some(rule) = text::port_name(name) {
                causes.push(Cause::invalid(format!("{at}.port"), &port["port"], rule));
            }
        }
        _ => {}
    }
    let Some(end) = port["endPort"].as_i64() else {
        return;
    };
    port_number(end, &format!("{at}.endPort"), causes);
    match port["port"].as_i64() {
        Some(start) if end < start => {
            causes.push(Cause::invalid(
                format!("{at}.endPort"),
                &end.into(),
                "must be greater than or equal to `port`",
            ));
        }
        Some(_) => {}
        None if port["port"].is_null() => {
            causes.push(Cause::required(
                format!("{at}.port"),
                "must be specified when endPort is specified",
            ));
        }
        None => {
            let detail = "may not be specified when `port` is non-numeric";
            causes.push(Cause::invalid(format!("{at}.endPort"), &end.into(), detail));
        }
    }
}

fn policy_peer(peer: &Value, at: &str, causes: &mut Vec<Cause>) {
    let block = &peer["ipBlock"];
    let selects = peer["podSelector"].is_object() || peer["namespaceSelector"].is_object();
    if block.is_null() && !selects {
        causes.push(Cause::required(at, "must specify a peer"));
    }
    if block.is_null() {
        return;
    }
    if selects {
        causes.push(Cause::forbidden(
            at,
            "may not specify both ipBlock and another peer",
        ));
    }
    let parse = |v: &Value| v.as_str().and_then(|t| t.parse::<ipnet::IpNet>().ok());
    let Some(cidr) = parse(&block["cidr"]) else {
        causes.push(Cause::invalid(
            format!("{at}.ipBlock.cidr"),
            &block["cidr"],
            "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        ));
        return;
    };
    for (index, except) in items(&block["except"]).iter().enumerate() {
        let field = format!("{at}.ipBlock.except[{index}]");
        match parse(except) {
            Some(inner) if cidr.contains(&inner) && inner != cidr => {}
            Some(_) => {
                let detail = format!("must be a strict subset of `cidr`: {cidr}");
                causes.push(Cause::invalid(field, except, &detail));
            }
            None => causes.push(Cause::invalid(
                field,
                except,
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            )),
        }
    }
}
