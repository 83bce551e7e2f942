//! Services. The sentences and the fields that they name are those of `ValidateService` in Kubernetes 1.32.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::network::PROTOCOLS;
use super::pod::port_number;
use super::{address, immutable, labels, listed, text};
use crate::admission::{is_external, needs_health_check};
use crate::object::items;
use crate::status::Cause;

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
/// A day: the longest that a client sticks to an endpoint.
const LONGEST_AFFINITY: i64 = 86_400;
/// Where the kubelet listens; a balancer that took the port would cut the nodes off.
const KUBELET_PORT: i64 = 10250;
const LOCALITIES: &[&str] = &["Cluster", "Local"];
const NOT_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
const NOT_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

pub(crate) fn service(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    let ty = word(&spec["type"]);
    if !TYPES.contains(&ty) {
        causes.push(Cause::unsupported("spec.type", &spec["type"], TYPES));
    }
    ports(spec, causes);
    labels(&spec["selector"], "spec.selector", causes);
    affinity(spec, causes);
    cluster_addresses(spec, old, causes);
    families(spec, old, causes);
    for (index, external) in items(&spec["externalIPs"]).iter().enumerate() {
        address(external, &format!("spec.externalIPs[{index}]"), causes);
    }
    if ty == "ExternalName" {
        external_name(spec, causes);
    } else {
        choice(spec, "internalTrafficPolicy", LOCALITIES, true, causes);
    }
    choice(spec, "trafficDistribution", &["PreferClose"], false, causes);
    outside(object, causes);
    balancer(spec, old, causes);
    if object["status"] != old.map_or(Value::Null, |o| o["status"].clone()) {
        balancer_status(object, causes);
    }
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A field with few possible values.
fn choice(spec: &Value, field: &str, values: &[&str], required: bool, causes: &mut Vec<Cause>) {
    let at = format!("spec.{field}");
    match spec[field].as_str() {
        Some(value) if values.contains(&value) => {}
        Some(_) => causes.push(Cause::unsupported(at, &spec[field], values)),
        None if required => causes.push(Cause::required(at, "")),
        None => {}
    }
}

fn ports(spec: &Value, causes: &mut Vec<Cause>) {
    let ty = word(&spec["type"]);
    let ports = items(&spec["ports"]);
    if ports.is_empty() && spec["clusterIP"] != "None" && ty != "ExternalName" {
        causes.push(Cause::required("spec.ports", ""));
    }
    let (mut names, mut pairs, mut nodes) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        let number = port["port"].as_i64().unwrap_or(0);
        let protocol = word(&port["protocol"]);
        let name = word(&port["name"]);
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
        port_number(number, &format!("{at}.port"), causes);
        if !PROTOCOLS.contains(&protocol) {
            let field = format!("{at}.protocol");
            causes.push(Cause::unsupported(field, &port["protocol"], PROTOCOLS));
        }
        target_port(&port["targetPort"], &format!("{at}.targetPort"), causes);
        if let Some(protocol) = port["appProtocol"].as_str()
            && let Some(rule) = text::qualified_name(protocol)
        {
            let field = format!("{at}.appProtocol");
            causes.push(Cause::invalid(field, &port["appProtocol"], &rule));
        }
        if ty == "LoadBalancer" && number == KUBELET_PORT {
            let detail = "may not expose port 10250 externally since it is used by kubelet";
            causes.push(Cause::invalid(format!("{at}.port"), &port["port"], detail));
        }
        if !pairs.insert((number, protocol)) {
            causes.push(Cause::duplicate(at.clone(), port));
        }
        if let Some(node_port) = port["nodePort"].as_i64().filter(|n| *n != 0) {
            let field = format!("{at}.nodePort");
            if ty == "ClusterIP" {
                let detail = "may not be used when `type` is 'ClusterIP'";
                causes.push(Cause::forbidden(field, detail));
            } else if !nodes.insert((node_port, protocol)) {
                causes.push(Cause::duplicate(field, &node_port.into()));
            }
        }
    }
}

fn target_port(target: &Value, at: &str, causes: &mut Vec<Cause>) {
    match target {
        Value::Number(number) => port_number(number.as_i64().unwrap_or(0), at, causes),
        Value::String(name) => {
            if let Some(rule) = text::port_name(name) {
                causes.push(Cause::invalid(at, target, rule));
            }
        }
        _ => {}
    }
}

fn affinity(spec: &Value, causes: &mut Vec<Cause>) {
    choice(spec, "sessionAffinity", &["ClientIP", "None"], true, causes);
    let config = &spec["sessionAffinityConfig"];
    if spec["sessionAffinity"] == "None" && !config.is_null() {
        let detail = "must not be set when session affinity is None";
        causes.push(Cause::forbidden("spec.sessionAffinityConfig", detail));
    }
    if spec["sessionAffinity"] == "ClientIP" {
        let seconds = &config["clientIP"]["timeoutSeconds"];
        if !seconds
            .as_i64()
            .is_some_and(|s| (1..=LONGEST_AFFINITY).contains(&s))
        {
            causes.push(Cause::invalid(
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                seconds,
                "must be greater than 0 and less than 86400",
            ));
        }
    }
}

fn cluster_addresses(spec: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let ty = word(&spec["type"]);
    let list = items(&spec["clusterIPs"]);
    let single = word(&spec["clusterIP"]);
    let all: Vec<&str> = list.iter().map(word).collect();
    if ty == "ExternalName" {
        if !single.is_empty() || !list.is_empty() {
            let detail = "may not be set for ExternalName services";
            causes.push(Cause::forbidden("spec.clusterIPs", detail));
        }
        return;
    }
    if single == "None" && ty != "ClusterIP" {
        let detail = format!("may not be set to 'None' for {ty} services");
        causes.push(Cause::invalid("spec.clusterIPs[0]", &single.into(), &detail));
    }
    if all.first().is_some_and(|first| *first != single) {
        causes.push(listed(
            "spec.clusterIPs",
            &all,
            "first value must match `clusterIP`",
        ));
    }
    let mut seen = BTreeSet::new();
    for (index, text) in all.iter().enumerate() {
        let at = format!("spec.clusterIPs[{index}]");
        match text.parse::<IpAddr>() {
            _ if *text == "None" && all.len() == 1 => {}
            _ if *text == "None" => {
                let detail = "'None' must be the first and only value";
                causes.push(Cause::invalid(at, &(*text).into(), detail));
            }
            Err(_) => causes.push(Cause::invalid(at, &(*text).into(), NOT_ADDRESS)),
            Ok(address) => {
                let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
                if !seen.insert(family) {
                    let detail = "may specify no more than one IP for each IP family";
                    causes.push(listed("spec.clusterIPs", &all, detail));
                }
                let claimed = word(&spec["ipFamilies"][index]);
                if !claimed.is_empty() && claimed != family {
                    let detail = format!("expected an {claimed} value as indicated by `ipFamilies[{index}]`");
                    causes.push(Cause::invalid(at, &(*text).into(), &detail));
                }
            }
        }
    }
    let had = old
        .filter(|o| o["spec"]["type"] != "ExternalName")
        .map(|o| word(&o["spec"]["clusterIP"]))
        .filter(|had| !had.is_empty());
    if had.is_some_and(|had| had != single) {
        causes.push(listed("spec.clusterIPs[0]", &all, "may not change once set"));
    }
}

fn families(spec: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let list = items(&spec["ipFamilies"]);
    if spec["type"] == "ExternalName" {
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if !spec[field].is_null() {
                let detail = "may not be set for ExternalName services";
                causes.push(Cause::forbidden(format!("spec.{field}"), detail));
            }
        }
        return;
    }
    for (index, family) in list.iter().enumerate() {
        let at = format!("spec.ipFamilies[{index}]");
        if !["IPv4", "IPv6"].contains(&word(family)) {
            causes.push(Cause::unsupported(at, family, &["IPv4", "IPv6"]));
        } else if list[..index].contains(family) {
            causes.push(Cause::duplicate(at, family));
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    choice(spec, "ipFamilyPolicy", &policies, false, causes);
    let had = old
        .filter(|o| o["spec"]["type"] != "ExternalName")
        .map(|o| &o["spec"]["ipFamilies"][0]);
    if had.is_some_and(|had| !had.is_null() && *had != spec["ipFamilies"][0]) {
        let all: Vec<&str> = list.iter().map(word).collect();
        causes.push(listed("spec.ipFamilies[0]", &all, "may not change once set"));
    }
}

fn external_name(spec: &Value, causes: &mut Vec<Cause>) {
    let name = word(&spec["externalName"]);
    if name.is_empty() {
        causes.push(Cause::required("spec.externalName", ""));
    } else if let Some(rule) = text::subdomain(name.strip_suffix('.').unwrap_or(name)) {
        causes.push(Cause::invalid("spec.externalName", &name.into(), rule));
    }
}

/// What only Services that can be reached from outside may say.
fn outside(object: &Value, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    if is_external(object) {
        choice(spec, "externalTrafficPolicy", LOCALITIES, true, causes);
    } else if !word(&spec["externalTrafficPolicy"]).is_empty() {
        causes.push(Cause::invalid(
            "spec.externalTrafficPolicy",
            &spec["externalTrafficPolicy"],
            "may only be set for externally-accessible services",
        ));
    }
    if let Some(port) = spec["healthCheckNodePort"].as_i64().filter(|n| *n != 0)
        && !needs_health_check(object)
    {
        causes.push(Cause::invalid(
            "spec.healthCheckNodePort",
            &port.into(),
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ));
    }
}

/// What only Services of type LoadBalancer may say.
fn balancer(spec: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let is_balancer = spec["type"] == "LoadBalancer";
    let was_balancer = old.is_some_and(|o| o["spec"]["type"] == "LoadBalancer");
    let fields = [
        "loadBalancerSourceRanges",
        "allocateLoadBalancerNodePorts",
        "loadBalancerClass",
    ];
    for field in fields {
        let value = &spec[field];
        if !is_balancer && !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty()) {
            let detail = "may only be used when `type` is 'LoadBalancer'";
            causes.push(Cause::forbidden(format!("spec.{field}"), detail));
        }
    }
    if !is_balancer {
        return;
    }
    for (index, range) in items(&spec["loadBalancerSourceRanges"]).iter().enumerate() {
        if word(range).trim().parse::<ipnet::IpNet>().is_err() {
            let at = format!("spec.loadBalancerSourceRanges[{index}]");
            causes.push(Cause::invalid(at, range, NOT_CIDR));
        }
    }
    let class = &spec["loadBalancerClass"];
    if let Some(rule) = class.as_str().and_then(text::qualified_name) {
        causes.push(Cause::invalid("spec.loadBalancerClass", class, &rule));
    }
    if let Some(old) = old.filter(|_| was_balancer)
        && old["spec"]["loadBalancerClass"] != *class
    {
        let detail = "may not change once set";
        causes.push(Cause::invalid("spec.loadBalancerClass", class, detail));
    }
    if let Some(old) = old
        && needs_health_check(old)
        && spec["externalTrafficPolicy"] == "Local"
    {
        let whole = serde_json::json!({"spec": spec});
        immutable(&whole, Some(old), "/spec/healthCheckNodePort", causes);
    }
}

/// What a balancer reports.
fn balancer_status(object: &Value, causes: &mut Vec<Cause>) {
    let at = "status.loadBalancer.ingress";
    let ingress = items(&object["status"]["loadBalancer"]["ingress"]);
    if !ingress.is_empty() && object["spec"]["type"] != "LoadBalancer" {
        let detail = "may only be used when `spec.type` is 'LoadBalancer'";
        causes.push(Cause::forbidden(at, detail));
    }
    for (index, point) in ingress.iter().enumerate() {
        let at = format!("{at}[{index}]");
        let (ip, mode) = (word(&point["ip"]), word(&point["ipMode"]));
        if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
            causes.push(Cause::invalid(format!("{at}.ip"), &ip.into(), NOT_ADDRESS));
        }
        if ip.is_empty() && !mode.is_empty() {
            let detail = "may not be specified when `ip` is not set";
            causes.push(Cause::forbidden(format!("{at}.ipMode"), detail));
        } else if !["", "Proxy", "VIP"].contains(&mode) {
            let field = format!("{at}.ipMode");
            causes.push(Cause::unsupported(field, &mode.into(), &["Proxy", "VIP"]));
        }
        let host = word(&point["hostname"]);
        if host.parse::<IpAddr>().is_ok() {
            let detail = "must be a DNS name, not an IP address";
            causes.push(Cause::invalid(format!("{at}.hostname"), &host.into(), detail));
        } else if let Some(rule) = text::subdomain(host).filter(|_| !host.is_empty()) {
            causes.push(Cause::invalid(format!("{at}.hostname"), &host.into(), rule));
        }
    }
}

#[cfg(test)]
mod tests;
