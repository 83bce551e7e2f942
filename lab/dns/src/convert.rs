//! From objects of the API to what the index holds. What has no name yet, or never will, becomes `None`.

use std::net::IpAddr;

use hickory_proto::rr::Name;
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{EndpointPort, EndpointSlice};

use crate::index::{self, Backing, Endpoint, Key, Port, Slice};

/// The label that leads from a slice to its service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// A service, once it has an address or is of a kind that needs none.
pub(crate) fn service(key: Key, service: Service) -> Option<index::Service> {
    let spec = service.spec?;
    let backing = if spec.type_.as_deref() == Some("ExternalName") {
        let mut name = Name::from_ascii(spec.external_name.as_deref()?).ok()?;
        name.set_fqdn(true);
        Backing::External(name)
    } else if spec.cluster_ip.as_deref() == Some("None") {
        Backing::Headless
    } else {
        let all = spec
            .cluster_ips
            .unwrap_or_else(|| Vec::from_iter(spec.cluster_ip));
        let addresses: Vec<IpAddr> = all.iter().filter_map(|text| text.parse().ok()).collect();
        if addresses.is_empty() {
            return None;
        }
        Backing::Cluster(addresses)
    };
    let ports = spec.ports.unwrap_or_default();
    Some(index::Service {
        key,
        backing,
        ports: ports.into_iter().filter_map(service_port).collect(),
    })
}

fn service_port(port: ServicePort) -> Option<Port> {
    named(port.name, port.protocol, port.port)
}

fn endpoint_port(port: EndpointPort) -> Option<Port> {
    named(port.name, port.protocol, port.port?)
}

fn named(name: Option<String>, protocol: Option<String>, number: i32) -> Option<Port> {
    Some(Port {
        name: name.filter(|name| !name.is_empty())?.to_ascii_lowercase(),
        protocol: protocol.unwrap_or_else(|| "TCP".to_owned()).to_ascii_lowercase(),
        number: u16::try_from(number).ok()?,
    })
}

/// A slice with those of its endpoints that are ready. Who writes slices says so of every endpoint of a service with
/// `publishNotReadyAddresses`, so that nothing else has to be looked at.
pub(crate) fn slice(key: Key, slice: EndpointSlice) -> Option<Slice> {
    let service = slice.metadata.labels?.remove(SERVICE_LABEL)?;
    let ready = slice.endpoints.into_iter().flatten().filter(|endpoint| {
        // Who does not say is ready.
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|conditions| conditions.ready) != Some(false)
    });
    let endpoints = ready
        .flat_map(|endpoint| {
            let hostname = endpoint.hostname.map(|name| name.to_ascii_lowercase());
            let addresses = endpoint
                .addresses
                .into_iter()
                .filter_map(|text| text.parse().ok());
            addresses
                .map(|address| Endpoint {
                    address,
                    hostname: hostname.clone(),
                })
                .collect::<Vec<_>>()
        })
        .collect();
    Some(Slice {
        key,
        service,
        ports: slice
            .ports
            .unwrap_or_default()
            .into_iter()
            .filter_map(endpoint_port)
            .collect(),
        endpoints,
    })
}

/// The addresses of a pod that runs. A pod of the host's network has the node's, which is not a pod's.
pub(crate) fn pod_addresses(pod: &Pod) -> Vec<IpAddr> {
    let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    if host_network || matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let addresses = status.pod_ips.iter().flatten();
    addresses.filter_map(|address| address.ip.parse().ok()).collect()
}

#[cfg(test)]
mod tests;
