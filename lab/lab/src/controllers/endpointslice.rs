//! Endpoints of services with a selector: EndpointSlices for those who read them, and the older Endpoints for the rest.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv6Addr;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Node, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lab_apiserver::{Client, Object, Resource};
use serde_json::{Value, json};

use super::common::{self, has_ended, is_ready};
use super::{Controller, Key, Next, Trigger, template};

mod apply;
mod mirroring;

pub(crate) use mirroring::Mirroring;

/// Most endpoints in one slice (`--max-endpoints-per-slice`).
const SLICE_SIZE: usize = 100;
/// Who keeps the slices that are ours.
const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
/// The label of a node that says where it stands.
const ZONE: &str = "topology.kubernetes.io/zone";
/// The annotation of an object that serves to elect a leader.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// The label of what belongs to a service without an address of its own.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// The controller.
pub(crate) struct EndpointSlices {
    client: Client,
}

impl EndpointSlices {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    async fn apply_endpoints(&self, key: &Key, wanted: &Value) -> anyhow::Result<()> {
        let resource = Resource::core("endpoints");
        let known = match self.client.get(&resource, key.namespace(), &key.name).await {
            Err(status) if status.is_not_found() => {
                self.client
                    .create(&resource, key.namespace(), wanted.clone())
                    .await?;
                return Ok(());
            }
            known => known?,
        };
        let labels = &wanted["metadata"]["labels"];
        if nonempty(&known["subsets"]) != nonempty(&wanted["subsets"])
            || known["metadata"]["labels"] != *labels
        {
            let mut next = (*known).clone();
            next["metadata"]["labels"] = labels.clone();
            next["subsets"] = wanted["subsets"].clone();
            self.client.update(&resource, key.namespace(), next).await?;
        }
        Ok(())
    }

    /// The endpoints of a service go with it, also those that were made by hand.
    async fn remove_endpoints(&self, key: &Key) -> anyhow::Result<()> {
        let resource = Resource::core("endpoints");
        match self.client.get(&resource, key.namespace(), &key.name).await {
            Err(status) if status.is_not_found() => Ok(()),
            Err(status) => Err(status.into()),
            // Some programs elect a leader by an object of this kind, without any service.
            Ok(known) if !known["metadata"]["annotations"][LEADER].is_null() => Ok(()),
            Ok(known) => {
                let meta = serde::Deserialize::deserialize(&known["metadata"])?;
                let options = lab_apiserver::DeleteOptions::default();
                Ok(common::delete(&self.client, &resource, &meta, options).await?)
            }
        }
    }
}

impl Controller for EndpointSlices {
    const NAME: &'static str = "endpointslice";

    fn client(&self) -> &Client {
        &self.client
    }

    fn triggers(&self) -> Vec<Trigger> {
        let services = Resource::core("services");
        vec![
            Trigger::itself(services.clone()),
            Trigger::all(Resource::core("pods"), services.clone()),
            // Nodes say in which zone their pods are.
            Trigger::all(Resource::core("nodes"), services),
            Trigger::keys(apply::slices(), service_keys),
        ]
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let services = Resource::core("services");
        let Some(service) = common::get::<Service>(&self.client, &services, key).await? else {
            // The slices are removed by the garbage collector.
            self.remove_endpoints(key).await?;
            return Ok(Next::Wait);
        };
        let Some(selector) = selector(&service) else {
            return Ok(Next::Wait);
        };
        let mut pods: Vec<Pod> = common::list(&self.client, &Resource::core("pods"), key.namespace()).await?;
        pods.retain(|pod| {
            let labels = common::labels(&pod.metadata);
            selector
                .iter()
                .all(|(name, value)| labels.get(name) == Some(value))
        });
        let nodes: Vec<Node> = common::list(&self.client, &Resource::core("nodes"), None).await?;
        let there = apply::existing(&self.client, key, MANAGED_BY).await?;
        let wanted = slices_for(&service, &pods, &zones(&nodes), &there);
        apply::apply(&self.client, key, &there, &wanted)
            .await
            .context("EndpointSlices")?;
        self.apply_endpoints(key, &endpoints_for(&service, &pods))
            .await
            .context("Endpoints")?;
        Ok(Next::Wait)
    }
}

/// The service of a slice that we keep.
fn service_keys(slice: &Value) -> Vec<Key> {
    apply::service_key(slice, MANAGED_BY)
}

/// The selector of a service whose endpoints are ours to find.
fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    let selector = spec.selector.as_ref().filter(|selector| !selector.is_empty())?;
    (spec.type_.as_deref() != Some("ExternalName")).then_some(selector)
}

/// A pod as an endpoint.
struct Endpoint<'a> {
    pod: &'a Pod,
    address: &'a str,
    /// Takes new connections
    ready: bool,
    /// Could take them, if it were not about to end
    serving: bool,
    terminating: bool,
}

/// The pods that are endpoints: those that have an address and may still serve, by name.
fn endpoints<'a>(service: &Service, pods: &'a [Pod]) -> Vec<Endpoint<'a>> {
    let publish = service
        .spec
        .as_ref()
        .and_then(|spec| spec.publish_not_ready_addresses)
        == Some(true);
    let mut endpoints: Vec<Endpoint<'a>> = pods
        .iter()
        .filter(|pod| !has_ended(pod))
        .filter_map(|pod| {
            let address = address(pod)?;
            let terminating = pod.metadata.deletion_timestamp.is_some();
            let serving = is_ready(pod);
            Some(Endpoint {
                pod,
                address,
                ready: publish || serving && !terminating,
                serving,
                terminating,
            })
        })
        .collect();
    endpoints.sort_by_key(|endpoint| endpoint.pod.metadata.name.as_deref());
    endpoints
}

/// The IPv6 address of a pod, which need not be its first.
fn address(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|address| address.ip.as_str());
    status
        .pod_ip
        .as_deref()
        .into_iter()
        .chain(all)
        .find(|address| address.parse::<Ipv6Addr>().is_ok())
}

/// The name of a pod inside the domain of a headless service, if it asked for one there.
fn hostname<'a>(service: &Service, pod: &'a Pod) -> Option<&'a str> {
    let spec = pod.spec.as_ref()?;
    let name = spec.hostname.as_deref().filter(|name| !name.is_empty())?;
    (spec.subdomain.is_some() && spec.subdomain == service.metadata.name).then_some(name)
}

/// The zones of the nodes that have one.
fn zones(nodes: &[Node]) -> BTreeMap<&str, &str> {
    nodes
        .iter()
        .filter_map(|node| {
            let zone = common::labels(&node.metadata).get(ZONE)?;
            Some((node.metadata.name.as_deref()?, zone.as_str()))
        })
        .collect()
}

/// The ports of a service as they are on one pod; named ones may differ from pod to pod. A name that the pod does not
/// know is left out.
fn ports_on(service: &Service, pod: &Pod) -> Vec<Value> {
    let ports = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ports.as_deref())
        .unwrap_or_default();
    ports
        .iter()
        .filter_map(|port| {
            let number = target_port(port, pod)?;
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let mut entry =
                json!({"name": port.name.as_deref().unwrap_or(""), "port": number, "protocol": protocol});
            if let Some(protocol) = &port.app_protocol {
                entry["appProtocol"] = protocol.as_str().into();
            }
            Some(entry)
        })
        .collect()
}

fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|container| container.restart_policy.as_deref() == Some("Always"));
            let mut ports = spec
                .containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| container.ports.as_deref().unwrap_or_default());
            ports
                .find(|known| {
                    known.name.as_ref() == Some(name)
                        && known.protocol.as_deref().unwrap_or("TCP") == protocol
                })
                .map(|known| known.container_port)
        }
    }
}

/// The endpoints, grouped by what their ports are.
fn grouped<'a>(service: &Service, pods: &'a [Pod]) -> BTreeMap<String, (Vec<Value>, Vec<Endpoint<'a>>)> {
    let mut groups: BTreeMap<String, (Vec<Value>, Vec<Endpoint<'a>>)> = BTreeMap::new();
    for endpoint in endpoints(service, pods) {
        let ports = ports_on(service, endpoint.pod);
        let group = groups.entry(Value::from(ports.clone()).to_string());
        group.or_insert_with(|| (ports, Vec::new())).1.push(endpoint);
    }
    groups
}

fn target(pod: &Pod) -> Value {
    let meta = &pod.metadata;
    json!({"kind": "Pod", "name": meta.name, "namespace": meta.namespace, "uid": meta.uid})
}

/// Labels of what belongs to a service.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = common::labels(&service.metadata).clone();
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

/// Whether clients should be sent to endpoints of their own zone.
fn prefers_close(service: &Service) -> bool {
    let distribution = service
        .spec
        .as_ref()
        .and_then(|spec| spec.traffic_distribution.as_deref());
    distribution == Some("PreferClose")
}

/// The slices of a service. Endpoints stay in the slice they are in, so that one that comes or goes changes one slice
/// and none is missing from all for a moment while others are moved.
fn slices_for(service: &Service, pods: &[Pod], zones: &BTreeMap<&str, &str>, there: &[Object]) -> Vec<Value> {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let entry = |endpoint: &Endpoint<'_>| {
        let mut entry = json!({
            "addresses": [endpoint.address],
            "conditions": {
                "ready": endpoint.ready, "serving": endpoint.serving, "terminating": endpoint.terminating,
            },
            "nodeName": common::node_name(endpoint.pod), "targetRef": target(endpoint.pod),
        });
        if let Some(hostname) = hostname(service, endpoint.pod) {
            entry["hostname"] = hostname.into();
        }
        if let Some(zone) = common::node_name(endpoint.pod).and_then(|node| zones.get(node)) {
            entry["zone"] = (*zone).into();
            if endpoint.ready && prefers_close(service) {
                entry["hints"] = json!({"forZones": [{"name": zone}]});
            }
        }
        entry
    };
    let slice = |slice_name: &str, ports: &[Value], endpoints: &[Endpoint<'_>]| {
        let owner = common::controller_reference("v1", "Service", &service.metadata);
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": apply::metadata(slice_name, name, MANAGED_BY, labels(service), &service.metadata, &owner),
            "addressType": "IPv6", "ports": ports, "endpoints": endpoints.iter().map(entry).collect::<Vec<_>>(),
        })
    };
    let named = |what: &str| format!("{name}-{}", template::short_hash(&format!("{name}/{what}"), 5));
    let groups = grouped(service, pods);
    if groups.is_empty() {
        // Says that somebody looked and found nothing.
        return vec![slice(&named("none"), &[], &[])];
    }
    let mut slices = Vec::new();
    for (text, (ports, endpoints)) in groups {
        for (slice_name, endpoints) in distribute(endpoints, &ports, there, |n| named(&format!("{text}/{n}")))
        {
            slices.push(slice(&slice_name, &ports, &endpoints));
        }
    }
    slices
}

/// Deals endpoints out to the slices that have these ports, each to the one it is in already; then to those with room,
/// then to new ones, whose names follow from their number.
fn distribute<'a>(
    endpoints: Vec<Endpoint<'a>>,
    ports: &[Value],
    there: &[Object],
    name: impl Fn(usize) -> String,
) -> Vec<(String, Vec<Endpoint<'a>>)> {
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let mut homes: HashMap<String, usize> = HashMap::new();
    let mut slices: Vec<(String, Vec<Endpoint<'a>>)> = Vec::new();
    for slice in there.iter().filter(|slice| list(&slice["ports"]) == ports) {
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            if let Some(uid) = endpoint["targetRef"]["uid"].as_str() {
                homes.insert(uid.to_owned(), slices.len());
            }
        }
        slices.push((common::key_of(slice).name, Vec::new()));
    }
    let mut homeless = Vec::new();
    for endpoint in endpoints {
        let uid = endpoint.pod.metadata.uid.as_deref().unwrap_or_default();
        match homes.get(uid).and_then(|home| slices.get_mut(*home)) {
            Some((_, slice)) if slice.len() < SLICE_SIZE => slice.push(endpoint),
            _ => homeless.push(endpoint),
        }
    }
    let mut homeless = homeless.into_iter().peekable();
    for (_, slice) in slices.iter_mut().filter(|(_, slice)| !slice.is_empty()) {
        slice.extend(homeless.by_ref().take(SLICE_SIZE - slice.len()));
    }
    slices.retain(|(_, slice)| !slice.is_empty());
    let mut number = 0;
    while homeless.peek().is_some() {
        let fresh = name(number);
        number += 1;
        if slices.iter().all(|(taken, _)| *taken != fresh) {
            slices.push((fresh, homeless.by_ref().take(SLICE_SIZE).collect()));
        }
    }
    slices
}

/// The Endpoints object of a service.
fn endpoints_for(service: &Service, pods: &[Pod]) -> Value {
    let address = |endpoint: &&Endpoint<'_>| {
        let mut entry = json!({
            "ip": endpoint.address, "nodeName": common::node_name(endpoint.pod), "targetRef": target(endpoint.pod),
        });
        if let Some(hostname) = hostname(service, endpoint.pod) {
            entry["hostname"] = hostname.into();
        }
        entry
    };
    let has_ports = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ports.as_ref())
        .is_some_and(|ports| !ports.is_empty());
    let subsets: Vec<Value> = grouped(service, pods)
        .into_values()
        // A pod that knows none of the ports is no endpoint; a headless service may have no ports at all.
        .filter(|(ports, _)| !ports.is_empty() || !has_ports)
        .filter_map(|(ports, endpoints)| {
            let ports: Vec<Value> = ports
                .into_iter()
                .map(|mut port| {
                    // The older kind leaves out what is empty.
                    if port["name"] == ""
                        && let Some(port) = port.as_object_mut()
                    {
                        port.remove("name");
                    }
                    port
                })
                .collect();
            let live = || {
                endpoints
                    .iter()
                    .filter(|endpoint| !endpoint.terminating || endpoint.ready)
            };
            let ready: Vec<Value> = live()
                .filter(|endpoint| endpoint.ready)
                .map(|e| address(&e))
                .collect();
            let not_ready: Vec<Value> = live()
                .filter(|endpoint| !endpoint.ready)
                .map(|e| address(&e))
                .collect();
            let mut subset = json!({});
            for (name, list) in [
                ("addresses", ready),
                ("notReadyAddresses", not_ready),
                ("ports", ports),
            ] {
                if !list.is_empty() {
                    subset[name] = list.into();
                }
            }
            (subset.get("addresses").is_some() || subset.get("notReadyAddresses").is_some()).then_some(subset)
        })
        .collect();
    let mut labels = labels(service);
    labels.insert(
        "endpoints.kubernetes.io/managed-by".to_owned(),
        "endpoint-controller".to_owned(),
    );
    json!({
        "apiVersion": "v1", "kind": "Endpoints", "subsets": subsets,
        "metadata": {"name": service.metadata.name, "namespace": service.metadata.namespace, "labels": labels},
    })
}

fn nonempty(list: &Value) -> Option<&Value> {
    Some(list).filter(|list| list.as_array().is_some_and(|list| !list.is_empty()))
}

#[cfg(test)]
mod tests;
