//! What a Service gets from the cluster: addresses, node ports, and a port for health checks.
//!
//! Nothing is remembered beside the Services themselves: what is taken is what the others hold. So a type that needs
//! an address no longer gives it back by dropping the field, and a Service that is deleted needs no clean-up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;

use serde_json::{Value, json};

use crate::api::Api;
use crate::client::Object;
use crate::object::{self, items, items_mut, map_mut};
use crate::status::{Cause, Status};
use crate::validate::{self, listed};

/// Ports that NodePort Services get (`--service-node-port-range`).
const NODE_PORTS: RangeInclusive<i64> = 30000..=32767;
/// The ports that nobody gets without asking, as long as others are free (KEP-3668: a 32nd of the range, 16 to 128).
const STATIC_NODE_PORTS: i64 = 86;
/// Addresses of a large range that nobody gets without asking, as long as others are free (KEP-3070).
const STATIC_ADDRESSES: u128 = 256;

/// Gives a Service what its type needs, and takes away what its former type needed.
pub(crate) fn service(api: &Api, service: &mut Value, old: Option<&Value>) -> Result<(), Status> {
    if let Some(old) = old {
        keep(service, old);
    }
    normalize(service, old);
    if let Some(old) = old {
        release(service, old);
    }
    let mut causes = Vec::new();
    validate::service(service, old, &mut causes);
    if !causes.is_empty() {
        // Nothing is given to a Service that the checks refuse right after this.
        return Ok(());
    }
    let uid = object::meta(service, "uid").to_owned();
    let (services, _) = api.store.list("services", None);
    let others: Vec<Object> = services
        .into_iter()
        .filter(|o| object::meta(o, "uid") != uid)
        .collect();
    families(service)
        .and_then(|()| addresses(service, api.cluster.service_cidr, &others))
        .and_then(|()| ports(service, &others))
        .map_err(|cause| Status::invalid("", "Service", object::name(service), vec![cause]))
}

fn needs_address(service: &Value) -> bool {
    service["spec"]["type"] != "ExternalName"
}

fn needs_node_ports(service: &Value) -> bool {
    matches!(
        service["spec"]["type"].as_str(),
        Some("NodePort" | "LoadBalancer")
    )
}

/// Whether a balancer asks a port of each node which of them have endpoints.
pub(crate) fn needs_health_check(service: &Value) -> bool {
    service["spec"]["type"] == "LoadBalancer" && service["spec"]["externalTrafficPolicy"] == "Local"
}

/// Whether traffic from outside the cluster can be meant for a Service.
pub(crate) fn is_external(service: &Value) -> bool {
    needs_node_ports(service)
        || service["spec"]["type"] == "ClusterIP" && !items(&service["spec"]["externalIPs"]).is_empty()
}

fn number(value: &Value) -> Option<i64> {
    value.as_i64().filter(|n| *n != 0)
}

/// The ports; a Service may have none.
fn ports_mut(service: &mut Value) -> &mut [Value] {
    map_mut(&mut service["spec"])
        .get_mut("ports")
        .map(items_mut)
        .unwrap_or_default()
}

/// What was given out stays with clients that send the object without it.
fn keep(service: &mut Value, old: &Value) {
    if needs_address(old) && needs_address(service) {
        if text(&service["spec"]["clusterIP"]).is_empty() && items(&service["spec"]["clusterIPs"]).is_empty()
        {
            for field in ["clusterIP", "clusterIPs"] {
                copy(service, old, field);
            }
        } else if text(&service["spec"]["clusterIP"]).is_empty() {
            let first = service["spec"]["clusterIPs"][0].clone();
            map_mut(&mut service["spec"]).insert("clusterIP".into(), first);
        } else if items(&service["spec"]["clusterIPs"]).is_empty()
            && service["spec"]["clusterIP"] == old["spec"]["clusterIP"]
        {
            copy(service, old, "clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if service["spec"][field].is_null() {
                copy(service, old, field);
            }
        }
    }
    if needs_node_ports(old) && needs_node_ports(service) {
        let key = |p: &Value| (p["protocol"].as_str().map(str::to_owned), p["port"].as_i64());
        let had: BTreeMap<_, i64> = items(&old["spec"]["ports"])
            .iter()
            .filter_map(|p| Some((key(p), number(&p["nodePort"])?)))
            .collect();
        let named: BTreeSet<i64> = items(&service["spec"]["ports"])
            .iter()
            .filter_map(|p| number(&p["nodePort"]))
            .collect();
        for port in ports_mut(service) {
            let before = had.get(&key(port)).filter(|n| !named.contains(n));
            if let (None, Some(before)) = (number(&port["nodePort"]), before) {
                map_mut(port).insert("nodePort".into(), (*before).into());
            }
        }
    }
    if needs_health_check(old)
        && needs_health_check(service)
        && number(&service["spec"]["healthCheckNodePort"]).is_none()
    {
        copy(service, old, "healthCheckNodePort");
    }
}

fn copy(service: &mut Value, from: &Value, field: &str) {
    let spec = map_mut(&mut service["spec"]);
    match from["spec"].get(field) {
        Some(value) => spec.insert(field.into(), value.clone()),
        None => spec.remove(field),
    };
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Makes `clusterIP` and `clusterIPs` agree where the client changed only the first, which is all that old clients know.
fn normalize(service: &mut Value, old: Option<&Value>) {
    let spec = map_mut(&mut service["spec"]);
    let single = spec.get("clusterIP").map(text).unwrap_or_default().to_owned();
    let list = spec.get("clusterIPs").cloned().unwrap_or(Value::Null);
    let untouched = match old {
        None => items(&list).is_empty(),
        Some(old) => old["spec"]["clusterIP"] != single && items(&old["spec"]["clusterIPs"]) == items(&list),
    };
    if single.is_empty() {
        spec.remove("clusterIP");
        if untouched {
            spec.remove("clusterIPs");
        }
    } else if untouched {
        spec.insert("clusterIPs".into(), json!([single]));
    }
}

/// Takes away what the former type needed and the new one does not, unless the client changed it in the same breath
/// (then it is for the checks to refuse).
fn release(service: &mut Value, old: &Value) {
    let mut gone: Vec<&str> = Vec::new();
    if needs_address(old) && !needs_address(service) {
        gone.extend(["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]);
    }
    if needs_health_check(old) && !needs_health_check(service) {
        gone.push("healthCheckNodePort");
    }
    if is_external(old) && !is_external(service) {
        gone.push("externalTrafficPolicy");
    }
    if old["spec"]["type"] == "LoadBalancer" && service["spec"]["type"] != "LoadBalancer" {
        gone.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    let node_ports = |o: &Value| -> Vec<Value> {
        items(&o["spec"]["ports"])
            .iter()
            .map(|p| p["nodePort"].clone())
            .collect()
    };
    if needs_node_ports(old) && !needs_node_ports(service) && node_ports(old) == node_ports(service) {
        for port in ports_mut(service) {
            map_mut(port).remove("nodePort");
        }
    }
    let spec = map_mut(&mut service["spec"]);
    for field in gone {
        if spec.get(field) == old["spec"].get(field) {
            spec.remove(field);
        }
    }
}

fn family(address: &Value) -> Option<&'static str> {
    match text(address).parse().ok()? {
        IpAddr::V4(_) => Some("IPv4"),
        IpAddr::V6(_) => Some("IPv6"),
    }
}

/// Families that the client did not name follow from its addresses, and else from the cluster, which has IPv6 only.
fn families(service: &mut Value) -> Result<(), Cause> {
    if !needs_address(service) {
        return Ok(());
    }
    let selects = service["spec"]["selector"]
        .as_object()
        .is_some_and(|s| !s.is_empty());
    let spec = map_mut(&mut service["spec"]);
    let mut list = spec.get("ipFamilies").map(items).unwrap_or_default().to_vec();
    let addresses = spec.get("clusterIPs").map(items).unwrap_or_default();
    for address in addresses.iter().skip(list.len()) {
        list.extend(family(address).map(Value::from));
    }
    let headless = spec.get("clusterIP").is_some_and(|a| a == "None");
    if headless && !selects {
        // Its endpoints are made by hand, in whichever family: nothing that the cluster would have to have.
        let policy = spec
            .entry("ipFamilyPolicy")
            .or_insert_with(|| "RequireDualStack".into());
        if list.is_empty() {
            list.push("IPv6".into());
        }
        if *policy != "SingleStack" && list.len() == 1 {
            list.push(if list[0] == "IPv6" { "IPv4" } else { "IPv6" }.into());
        }
        spec.insert("ipFamilies".into(), list.into());
        return Ok(());
    }
    if let Some((index, foreign)) = list.iter().enumerate().find(|(_, f)| **f != "IPv6") {
        return Err(Cause::invalid(
            format!("spec.ipFamilies[{index}]"),
            foreign,
            "not configured on this cluster",
        ));
    }
    let policy = spec
        .entry("ipFamilyPolicy")
        .or_insert_with(|| "SingleStack".into());
    if *policy == "RequireDualStack" {
        return Err(Cause::invalid(
            "spec.ipFamilyPolicy",
            policy,
            "this cluster is not configured for dual-stack services",
        ));
    }
    spec.insert("ipFamilies".into(), json!(["IPv6"]));
    Ok(())
}

fn addresses(service: &mut Value, range: ipnet::Ipv6Net, others: &[Object]) -> Result<(), Cause> {
    if !needs_address(service) || service["spec"]["clusterIP"] == "None" {
        return Ok(());
    }
    let used: BTreeSet<Ipv6Addr> = others
        .iter()
        .flat_map(|o| items(&o["spec"]["clusterIPs"]))
        .filter_map(|a| a.as_str()?.parse().ok())
        .collect();
    let asked = text(&service["spec"]["clusterIP"]).to_owned();
    let refuse = |why: &str| {
        let detail = format!("failed to allocate IP {asked}: {why}");
        Err(listed("spec.clusterIPs", &[&asked], &detail))
    };
    let address = if asked.is_empty() {
        match free_address(range, &used) {
            Some(address) => address.to_string(),
            None => {
                let detail = "failed to allocate a serviceIP: range is full";
                return Err(listed("spec.clusterIPs", &[""; 0], detail));
            }
        }
    } else {
        match asked.parse::<Ipv6Addr>() {
            Ok(address) if used.contains(&address) => return refuse("provided IP is already allocated"),
            Ok(address) if range.contains(&address) => asked,
            _ => {
                let why = format!(
                    "the provided IP ({asked}) is not in the valid range. The range of valid IPs is {range}"
                );
                return refuse(&why);
            }
        }
    };
    let spec = map_mut(&mut service["spec"]);
    spec.insert("clusterIP".into(), address.as_str().into());
    spec.insert("clusterIPs".into(), json!([address]));
    Ok(())
}

/// Node ports, and the port for health checks, which is of the same range.
fn ports(service: &mut Value, others: &[Object]) -> Result<(), Cause> {
    let mut used: BTreeSet<i64> = others
        .iter()
        .flat_map(|o| {
            let ports = items(&o["spec"]["ports"]).iter().map(|p| &p["nodePort"]);
            ports.chain([&o["spec"]["healthCheckNodePort"]])
        })
        .filter_map(number)
        .collect();
    if needs_node_ports(service) {
        node_ports(service, &mut used)?;
    }
    if needs_health_check(service) {
        let field = "spec.healthCheckNodePort";
        let port = match number(&service["spec"]["healthCheckNodePort"]) {
            Some(asked) => take(asked, field, &used)?,
            None => free_port(field, &used)?,
        };
        map_mut(&mut service["spec"]).insert("healthCheckNodePort".into(), port.into());
    }
    Ok(())
}

/// One port of the Service has one node port, whatever the protocols: port 53 of TCP and of UDP share theirs.
fn node_ports(service: &mut Value, used: &mut BTreeSet<i64>) -> Result<(), Cause> {
    let without_asking = service["spec"]["allocateLoadBalancerNodePorts"] != false;
    let mut given: BTreeMap<i64, i64> = BTreeMap::new();
    let ports = items(&service["spec"]["ports"]);
    for (index, port) in ports.iter().enumerate() {
        if let Some(asked) = number(&port["nodePort"]) {
            take(asked, &format!("spec.ports[{index}].nodePort"), used)?;
            given.entry(port["port"].as_i64().unwrap_or(0)).or_insert(asked);
        }
    }
    used.extend(ports.iter().filter_map(|p| number(&p["nodePort"])));
    for (index, port) in ports_mut(service).iter_mut().enumerate() {
        if number(&port["nodePort"]).is_some() || !without_asking {
            continue;
        }
        let own = port["port"].as_i64().unwrap_or(0);
        let free = match given.get(&own) {
            Some(shared) => *shared,
            None => free_port(&format!("spec.ports[{index}].nodePort"), used)?,
        };
        used.insert(free);
        given.insert(own, free);
        map_mut(port).insert("nodePort".into(), free.into());
    }
    Ok(())
}

fn take(asked: i64, field: &str, used: &BTreeSet<i64>) -> Result<i64, Cause> {
    let refuse = |detail| Err(Cause::invalid(field, &asked.into(), detail));
    if !NODE_PORTS.contains(&asked) {
        refuse("provided port is not in the valid range. The range of valid ports is 30000-32767")
    } else if used.contains(&asked) {
        refuse("provided port is already allocated")
    } else {
        Ok(asked)
    }
}

/// A free port at a random place of the range, so that a new Service does not get the port of one just deleted.
fn free_port(field: &str, used: &BTreeSet<i64>) -> Result<i64, Cause> {
    let (first, last) = (NODE_PORTS.start() + STATIC_NODE_PORTS, *NODE_PORTS.end());
    let start = i64::from(u16::try_from(random() % 0x1_0000).unwrap_or(0)) % (last - first + 1) + first;
    (start..=last)
        .chain(first..start)
        .chain(*NODE_PORTS.start()..first)
        .find(|n| !used.contains(n))
        .ok_or_else(|| Cause::invalid(field, &0.into(), "failed to allocate a nodePort: range is full"))
}

fn random() -> u128 {
    uuid::Uuid::new_v4().as_u128()
}

/// A free address at a random place of the range, found by looking onward from there. The first addresses are left to
/// those who ask for them until there are no others.
fn free_address(range: ipnet::Ipv6Net, used: &BTreeSet<Ipv6Addr>) -> Option<Ipv6Addr> {
    let base = u128::from(range.network());
    let bits = u32::from(128 - range.prefix_len()).min(64);
    // The first address of a range is the routers' anycast address.
    let usable = (1_u128 << bits).checked_sub(1).filter(|n| *n > 0)?;
    let first = if usable > 2 * STATIC_ADDRESSES {
        STATIC_ADDRESSES
    } else {
        1
    };
    let start = first + random() % (usable + 1 - first);
    // With so many tries one of them is not in use.
    let tries = usable.min(u128::try_from(used.len()).unwrap_or(u128::MAX).saturating_add(1));
    (start..=usable)
        .chain(first..start)
        .chain(1..first)
        .take(usize::try_from(tries).unwrap_or(usize::MAX))
        .map(|offset| Ipv6Addr::from(base + offset))
        .find(|address| !used.contains(address))
}

#[cfg(test)]
mod tests;
