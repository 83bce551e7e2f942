//! Services and EndpointSlices to their small forms in the model.
//!
//! Slices have a type of their own here, with only what is used: a cluster has a hundred thousand endpoints, and each
//! page of a list is held in memory while it is read. What repeats in every endpoint (names of nodes and zones) is
//! kept once.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PodSpec, Service, ServiceSpec};
use kube::ResourceExt;
use kube::api::ObjectMeta;
use model::addr::{Family, to_abi};
use model::inputs::{
    self, Conditions, Forwarding, Hints, HostPort, ObjectName, Protocol, ServiceType, SliceEndpoint,
};
use serde::Deserialize;

/// Label of a slice with the name of its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The service's own wish of how its packets are forwarded.
const FORWARDING: &str = "service.cilium.io/forwarding-mode";
/// How long a client keeps its backend when the service does not say (`DefaultClientIPServiceAffinitySeconds`).
const AFFINITY_SECONDS: u32 = 10_800;
/// Services and slices that are none of our business, by the rules of kube-proxy: those without an address of their
/// own, and those that another proxy looks after.
pub(crate) const SELECTOR: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

/// `discovery.k8s.io/v1`, `EndpointSlice`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EndpointSlice {
    metadata: ObjectMeta,
    address_type: String,
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<Port>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Endpoint {
    addresses: Vec<String>,
    node_name: Option<String>,
    conditions: Option<EndpointConditions>,
    hints: Option<EndpointHints>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct EndpointConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EndpointHints {
    for_zones: Option<Vec<Named>>,
    for_nodes: Option<Vec<Named>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Named {
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Port {
    name: Option<String>,
    port: Option<i32>,
    protocol: Option<String>,
}

impl kube::Resource for EndpointSlice {
    type DynamicType = ();
    type Scope = k8s_openapi::NamespaceResourceScope;

    fn kind((): &()) -> std::borrow::Cow<'_, str> {
        "EndpointSlice".into()
    }

    fn group((): &()) -> std::borrow::Cow<'_, str> {
        "discovery.k8s.io".into()
    }

    fn version((): &()) -> std::borrow::Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> std::borrow::Cow<'_, str> {
        "endpointslices".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Values that are alike are kept once.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    texts: Pool<str>,
    hints: Pool<Hints>,
}

impl Interner {
    fn text(&mut self, text: &str) -> Arc<str> {
        self.texts.get(text, || Arc::from(text))
    }

    fn hints(&mut self, hints: Option<&EndpointHints>) -> Option<Arc<Hints>> {
        let mut texts = |named: &Option<Vec<Named>>| {
            let named = named.iter().flatten();
            named
                .map(|one| self.texts.get(&one.name, || Arc::from(one.name.as_str())))
                .collect()
        };
        let hints = Hints {
            zones: texts(&hints?.for_zones),
            nodes: texts(&hints?.for_nodes),
        };
        if hints == Hints::default() {
            return None;
        }
        Some(self.hints.get(&hints, || Arc::new(hints.clone())))
    }
}

#[derive(Debug)]
struct Pool<T: ?Sized> {
    values: HashSet<Arc<T>>,
    /// At this many values those that nobody else holds are let go.
    sweep_at: usize,
}

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self {
            values: HashSet::new(),
            sweep_at: 1024,
        }
    }
}

impl<T: ?Sized + Eq + Hash> Pool<T> {
    fn get(&mut self, value: &T, make: impl FnOnce() -> Arc<T>) -> Arc<T> {
        if let Some(known) = self.values.get(value) {
            return Arc::clone(known);
        }
        if self.values.len() >= self.sweep_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.sweep_at = (self.values.len() * 2).max(1024);
        }
        let made = make();
        self.values.insert(Arc::clone(&made));
        made
    }
}

/// `None` when the slice belongs to no service, or holds names instead of addresses.
pub(crate) fn endpoint_slice(
    slice: &EndpointSlice,
    interner: &mut Interner,
) -> Option<inputs::EndpointSlice> {
    let name = ObjectName::new(slice.namespace().unwrap_or_default(), slice.name_any());
    let service = slice.labels().get(SERVICE_NAME).filter(|name| !name.is_empty())?;
    let family = match slice.address_type.as_str() {
        "IPv6" => Family::V6,
        "IPv4" => Family::V4,
        _ => return None,
    };
    // A port without a number stands for all ports, which no service can have.
    let ports = slice.ports.iter().flatten().filter_map(|port| {
        Some(inputs::SlicePort {
            name: interner.text(port.name.as_deref().unwrap_or_default()),
            protocol: protocol(port.protocol.as_deref())?,
            port: port_number(port.port?)?,
        })
    });
    let ports = ports.collect();
    let mut endpoints = Vec::with_capacity(slice.endpoints.as_ref().map_or(0, Vec::len));
    for endpoint in slice.endpoints.iter().flatten() {
        let address = endpoint
            .addresses
            .first()
            .and_then(|text| text.parse::<IpAddr>().ok());
        let Some(address) = address.filter(|address| Family::of(*address) == family) else {
            tracing::warn!(slice = %name, addresses = ?endpoint.addresses, "endpoint left out: not an address of the slice's type");
            continue;
        };
        let said = endpoint.conditions.unwrap_or_default();
        let ready = said.ready.unwrap_or(true);
        endpoints.push(SliceEndpoint {
            addr: to_abi(address),
            node: endpoint.node_name.as_deref().map(|node| interner.text(node)),
            hints: interner.hints(endpoint.hints.as_ref()),
            conditions: Conditions {
                ready,
                serving: said.serving.unwrap_or(ready),
                terminating: said.terminating.unwrap_or(false),
            },
        });
    }
    Some(inputs::EndpointSlice {
        service: interner.text(service),
        family,
        ports,
        endpoints: endpoints.into_boxed_slice(),
        name,
    })
}

pub(crate) fn service(service: &Service, interner: &mut Interner) -> inputs::Service {
    let name = ObjectName::new(service.namespace().unwrap_or_default(), service.name_any());
    let empty = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty);
    let text = name.to_string();
    let addresses = |field, texts: &[String]| parse_all(&text, field, texts);
    let mut cluster_ips = spec.cluster_ips.clone().unwrap_or_default();
    if cluster_ips.is_empty() {
        cluster_ips.extend(spec.cluster_ip.clone());
    }
    cluster_ips.retain(|ip| ip != "None");
    let balanced = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let ingress = balanced.iter().flat_map(|status| status.ingress.iter().flatten());
    let virtual_ips: Vec<String> = ingress
        .filter(|ingress| ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"))
        .filter_map(|ingress| ingress.ip.clone())
        .collect();
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(inputs::ServicePort {
            name: interner.text(port.name.as_deref().unwrap_or_default()),
            protocol: protocol(port.protocol.as_deref())?,
            port: port_number(port.port)?,
            node_port: port.node_port.and_then(port_number).unwrap_or_default(),
        })
    });
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref();
        let seconds = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
        seconds
            .and_then(|seconds| u32::try_from(seconds).ok())
            .unwrap_or(AFFINITY_SECONDS)
    });
    let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    inputs::Service {
        created: service.creation_timestamp().map_or(0, |time| time.0.as_second()),
        kind: match spec.type_.as_deref() {
            Some("NodePort") => ServiceType::NodePort,
            Some("LoadBalancer") => ServiceType::LoadBalancer,
            Some("ExternalName") => ServiceType::ExternalName,
            _ => ServiceType::ClusterIp,
        },
        cluster_ips: addresses("spec.clusterIPs", &cluster_ips),
        external_ips: addresses(
            "spec.externalIPs",
            spec.external_ips.as_deref().unwrap_or_default(),
        ),
        balancer_ips: addresses("status.loadBalancer", &virtual_ips),
        ports: ports.collect(),
        affinity: affinity.unwrap_or_default(),
        internal_local: is_local(&spec.internal_traffic_policy),
        external_local: is_local(&spec.external_traffic_policy),
        health_check_port: spec
            .health_check_node_port
            .and_then(port_number)
            .unwrap_or_default(),
        source_ranges: parse_all(
            &text,
            "spec.loadBalancerSourceRanges",
            spec.load_balancer_source_ranges.as_deref().unwrap_or_default(),
        ),
        forwarding: match service.annotations().get(FORWARDING).map(String::as_str) {
            Some("dsr") => Some(Forwarding::Dsr),
            Some("snat") => Some(Forwarding::Snat),
            _ => None,
        },
        name,
    }
}

/// Ports of the pod's containers that its node offers under its own address.
pub(crate) fn host_ports(pod: &str, spec: &PodSpec) -> Vec<HostPort> {
    if spec.host_network == Some(true) {
        return Vec::new();
    }
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let addresses: Vec<String> = port.host_ip.iter().filter(|ip| !ip.is_empty()).cloned().collect();
            let addr: Option<IpAddr> = parse_all(pod, "hostIP", &addresses).into_iter().next();
            if addr.is_none() && !addresses.is_empty() {
                return None;
            }
            Some(HostPort {
                addr: addr.filter(|addr| !addr.is_unspecified()),
                host_port: port_number(port.host_port?)?,
                port: port_number(port.container_port)?,
                protocol: protocol(port.protocol.as_deref())?,
            })
        })
        .collect()
}

fn protocol(text: Option<&str>) -> Option<Protocol> {
    text.unwrap_or("TCP").parse().ok()
}

fn port_number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// Parses texts; a bad one is logged with the object it is from and left out. Blanks around a prefix are allowed by
/// the API.
fn parse_all<T: std::str::FromStr>(object: &str, field: &'static str, texts: &[String]) -> Vec<T> {
    let parse = |text: &String| {
        let parsed = text.trim().parse();
        parsed
            .inspect_err(|_| tracing::warn!(object, field, text, "left out: cannot be parsed"))
            .ok()
    };
    texts
        .iter()
        .filter(|text| !text.is_empty())
        .filter_map(parse)
        .collect()
}

#[cfg(test)]
mod tests;
