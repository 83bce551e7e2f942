//! Endpoint slices and network policies.

use std::collections::BTreeSet;

use serde_json::Value;

use super::pod::port_number;
use super::{address, immutable, labels, text};
use crate::object::items;
use crate::status::Cause;

pub(super) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// Most endpoints, and most ports, of a slice.
const SLICE_ENDPOINTS: usize = 1000;
const SLICE_PORTS: usize = 20_000;

pub(crate) fn endpoint_slice(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let types = ["FQDN", "IPv4", "IPv6"];
    let ty = object["addressType"].as_str().unwrap_or_default();
    if ty.is_empty() {
        causes.push(Cause::required("addressType", ""));
    } else if !types.contains(&ty) {
        causes.push(Cause::unsupported("addressType", &object["addressType"], &types));
    }
    immutable(object, old, "/addressType", causes);
    let endpoints = items(&object["endpoints"]);
    for (field, count, most) in [
        ("endpoints", endpoints.len(), SLICE_ENDPOINTS),
        ("ports", items(&object["ports"]).len(), SLICE_PORTS),
    ] {
        if count > most {
            causes.push(Cause {
                reason: "FieldValueTooMany",
                message: format!("Too many: {count}: must have at most {most} items"),
                field: field.into(),
            });
        }
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        if items(&endpoint["addresses"]).is_empty() {
            causes.push(Cause::required(
                format!("endpoints[{index}].addresses"),
                "must contain at least 1 address",
            ));
        }
        for (nth, value) in items(&endpoint["addresses"]).iter().enumerate() {
            let at = format!("endpoints[{index}].addresses[{nth}]");
            let text = value.as_str().unwrap_or_default();
            match ty {
                "IPv6" if text.parse::<std::net::Ipv6Addr>().is_err() => {
                    causes.push(Cause::invalid(at, value, "must be a valid IPv6 address"));
                }
                "IPv4" if text.parse::<std::net::Ipv4Addr>().is_err() => {
                    causes.push(Cause::invalid(at, value, "must be a valid IPv4 address"));
                }
                "IPv4" | "IPv6" => address(value, &at, causes),
                "FQDN" => {
                    if let Some(rule) = text::subdomain(text.strip_suffix('.').unwrap_or(text)) {
                        causes.push(Cause::invalid(at, value, rule));
                    }
                }
                _ => {}
            }
        }
        if let Some(host) = endpoint["hostname"].as_str()
            && let Some(rule) = text::label(host)
        {
            let at = format!("endpoints[{index}].hostname");
            causes.push(Cause::invalid(at, &endpoint["hostname"], rule));
        }
    }
    let mut names = BTreeSet::new();
    for (index, port) in items(&object["ports"]).iter().enumerate() {
        let at = format!("ports[{index}]");
        let name = port["name"].as_str().unwrap_or_default();
        if let Some(rule) = text::label(name).filter(|_| !name.is_empty()) {
            causes.push(Cause::invalid(format!("{at}.name"), &name.into(), rule));
        }
        if !names.insert(name) {
            causes.push(Cause::duplicate(format!("{at}.name"), &name.into()));
        }
        protocol(port, &at, causes);
        if let Some(number) = port["port"].as_i64() {
            port_number(number, &format!("{at}.port"), causes);
        }
    }
}

fn protocol(port: &Value, at: &str, causes: &mut Vec<Cause>) {
    if !port["protocol"].as_str().is_none_or(|p| PROTOCOLS.contains(&p)) {
        let field = format!("{at}.protocol");
        causes.push(Cause::unsupported(field, &port["protocol"], PROTOCOLS));
    }
}

pub(crate) fn endpoints(object: &Value, _old: Option<&Value>, causes: &mut Vec<Cause>) {
    for (index, subset) in items(&object["subsets"]).iter().enumerate() {
        let at = format!("subsets[{index}]");
        let lists = ["addresses", "notReadyAddresses"];
        if lists.iter().all(|list| items(&subset[*list]).is_empty()) {
            let detail = "must specify `addresses` or `notReadyAddresses`";
            causes.push(Cause::required(at.clone(), detail));
        }
        for list in lists {
            for (nth, one) in items(&subset[list]).iter().enumerate() {
                address(&one["ip"], &format!("{at}.{list}[{nth}].ip"), causes);
            }
        }
        let ports = items(&subset["ports"]);
        for (nth, port) in ports.iter().enumerate() {
            let at = format!("{at}.ports[{nth}]");
            let name = port["name"].as_str().unwrap_or_default();
            if name.is_empty() && ports.len() > 1 {
                causes.push(Cause::required(format!("{at}.name"), ""));
            } else if let Some(rule) = text::label(name).filter(|_| !name.is_empty()) {
                causes.push(Cause::invalid(format!("{at}.name"), &name.into(), rule));
            }
            port_number(port["port"].as_i64().unwrap_or(0), &format!("{at}.port"), causes);
            protocol(port, &at, causes);
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
    protocol(port, at, causes);
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
