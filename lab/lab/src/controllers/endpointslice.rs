//! Endpoints of services with a selector: EndpointSlices for those who read them, and the older Endpoints for the rest.

use std::collections::BTreeMap;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lab_apiserver::{Client, Patch, Resource};
use serde_json::{Value, json};

use super::common::{self, has_ended, is_ready};
use super::{Controller, Key, Next, Trigger, template};

/// Most endpoints in one slice (`--max-endpoints-per-slice`).
const SLICE_SIZE: usize = 100;
/// The label that leads from a slice to its service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// The label, and its value, of slices that are ours.
const MANAGED_BY: (&str, &str) = (
    "endpointslice.kubernetes.io/managed-by",
    "endpointslice-controller.k8s.io",
);
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

    async fn apply_slices(&self, key: &Key, wanted: &[Value]) -> anyhow::Result<()> {
        let resource = slices();
        let options = lab_apiserver::ListOptions {
            labels: format!("{SERVICE_LABEL}={},{}={}", key.name, MANAGED_BY.0, MANAGED_BY.1),
            ..Default::default()
        };
        let there = self
            .client
            .list(&resource, key.namespace(), &options)
            .await?
            .items;
        for slice in wanted {
            match there
                .iter()
                .find(|known| known["metadata"]["name"] == slice["metadata"]["name"])
            {
                None => drop(
                    self.client
                        .create(&resource, key.namespace(), slice.clone())
                        .await?,
                ),
                Some(known) if says_the_same(known, slice) => {}
                Some(known) => {
                    let mut slice = slice.clone();
                    slice["metadata"]["resourceVersion"] = known["metadata"]["resourceVersion"].clone();
                    self.client.update(&resource, key.namespace(), slice).await?;
                }
            }
        }
        for known in &there {
            if !wanted
                .iter()
                .any(|slice| known["metadata"]["name"] == slice["metadata"]["name"])
            {
                let meta = serde::Deserialize::deserialize(&known["metadata"])?;
                common::delete(
                    &self.client,
                    &resource,
                    &meta,
                    lab_apiserver::DeleteOptions::default(),
                )
                .await?;
            }
        }
        Ok(())
    }

    async fn apply_endpoints(&self, key: &Key, wanted: &Value) -> anyhow::Result<()> {
        let resource = Resource::core("endpoints");
        match self.client.get(&resource, key.namespace(), &key.name).await {
            Err(status) if status.is_not_found() => {
                self.client
                    .create(&resource, key.namespace(), wanted.clone())
                    .await?;
            }
            Err(status) => return Err(status.into()),
            Ok(known) if nonempty(&known["subsets"]) == nonempty(&wanted["subsets"]) => {}
            Ok(_) => {
                let patch = json!({"metadata": wanted["metadata"], "subsets": wanted["subsets"]});
                self.client
                    .patch(&resource, key.namespace(), &key.name, Patch::Merge, patch)
                    .await?;
            }
        }
        Ok(())
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
            Trigger::all(Resource::core("pods"), services),
            Trigger::keys(slices(), service_keys),
        ]
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let services = Resource::core("services");
        // What belongs to a service that is gone is removed by the garbage collector.
        let Some(service) = common::get::<Service>(&self.client, &services, key).await? else {
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
        self.apply_slices(key, &slices_for(&service, &pods))
            .await
            .context("EndpointSlices")?;
        self.apply_endpoints(key, &endpoints_for(&service, &pods))
            .await
            .context("Endpoints")?;
        Ok(Next::Wait)
    }
}

fn slices() -> Resource {
    Resource::new("discovery.k8s.io", "v1", "endpointslices")
}

/// The service of a slice that we keep.
fn service_keys(slice: &Value) -> Vec<Key> {
    let labels = &slice["metadata"]["labels"];
    if labels[MANAGED_BY.0] != MANAGED_BY.1 {
        return Vec::new();
    }
    let namespace = common::key_of(slice).namespace;
    labels[SERVICE_LABEL]
        .as_str()
        .map(|name| Key::new(&namespace, name))
        .into_iter()
        .collect()
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
            let address = pod
                .status
                .as_ref()?
                .pod_ip
                .as_deref()
                .filter(|address| !address.is_empty())?;
            let terminating = pod.metadata.deletion_timestamp.is_some();
            let serving = publish || is_ready(pod);
            Some(Endpoint {
                pod,
                address,
                ready: serving && (publish || !terminating),
                serving,
                terminating,
            })
        })
        .collect();
    endpoints.sort_by_key(|endpoint| endpoint.pod.metadata.name.as_deref());
    endpoints
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
            let containers = &pod.spec.as_ref()?.containers;
            let mut ports = containers
                .iter()
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

/// Labels and owner of what belongs to a service.
fn metadata(service: &Service, name: &str) -> Value {
    let mut labels = common::labels(&service.metadata).clone();
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    json!({
        "name": name, "namespace": service.metadata.namespace, "labels": labels,
        "ownerReferences": [common::controller_reference("v1", "Service", &service.metadata)],
    })
}

/// The slices of a service. Their names follow from their ports, so that the same endpoints always give the same slices.
fn slices_for(service: &Service, pods: &[Pod]) -> Vec<Value> {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let slice = |suffix: &str, ports: &[Value], endpoints: &[Endpoint<'_>]| {
        let mut metadata = metadata(service, &format!("{name}-{}", template::short_hash(suffix, 5)));
        metadata["labels"][SERVICE_LABEL] = name.into();
        metadata["labels"][MANAGED_BY.0] = MANAGED_BY.1.into();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
            "addressType": "IPv6", "ports": ports, "endpoints": endpoints.iter().map(|endpoint| json!({
                "addresses": [endpoint.address],
                "conditions": {
                    "ready": endpoint.ready, "serving": endpoint.serving, "terminating": endpoint.terminating,
                },
                "nodeName": common::node_name(endpoint.pod), "targetRef": target(endpoint.pod),
            })).collect::<Vec<_>>(),
        })
    };
    let groups = grouped(service, pods);
    if groups.is_empty() {
        // Says that somebody looked and found nothing.
        return vec![slice(&format!("{name}/none"), &[], &[])];
    }
    groups
        .iter()
        .flat_map(|(text, (ports, endpoints))| {
            endpoints
                .chunks(SLICE_SIZE)
                .enumerate()
                .map(move |(index, chunk)| slice(&format!("{name}/{text}/{index}"), ports, chunk))
        })
        .collect()
}

/// The Endpoints object of a service.
fn endpoints_for(service: &Service, pods: &[Pod]) -> Value {
    let address = |endpoint: &&Endpoint<'_>| json!({"ip": endpoint.address, "nodeName": common::node_name(endpoint.pod), "targetRef": target(endpoint.pod)});
    let subsets: Vec<Value> = grouped(service, pods)
        .into_values()
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
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let mut metadata = metadata(service, name);
    metadata["labels"]["endpoints.kubernetes.io/managed-by"] = "endpoint-controller".into();
    json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets})
}

fn nonempty(list: &Value) -> Option<&Value> {
    Some(list).filter(|list| list.as_array().is_some_and(|list| !list.is_empty()))
}

fn says_the_same(known: &Value, wanted: &Value) -> bool {
    nonempty(&known["endpoints"]) == nonempty(&wanted["endpoints"])
        && nonempty(&known["ports"]) == nonempty(&wanted["ports"])
        && known["metadata"]["labels"] == wanted["metadata"]["labels"]
}

#[cfg(test)]
mod tests;
