//! API objects to `model` types and back. What cannot be understood is left out and logged, never guessed.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::ResourceExt;
use model::addr::Family;
use model::endpoint::EndpointStatus;
use model::identity::Identity;
use model::inputs::{self, AddressType, NamedPort, ObjectName};
use model::labels::Labels;

use crate::{service, types};

/// Parses texts; a bad one is logged with the object it is from and left out.
fn parse_all<'a, T: std::str::FromStr>(
    object: &str,
    field: &'static str,
    texts: impl IntoIterator<Item = &'a str>,
) -> Vec<T> {
    let parse = |text: &str| {
        text.parse()
            .inspect_err(|_| tracing::warn!(object, field, text, "left out: cannot be parsed"))
            .ok()
    };
    texts
        .into_iter()
        .filter(|text| !text.is_empty())
        .filter_map(parse)
        .collect()
}

pub(crate) fn node(node: &Node) -> inputs::Node {
    let name = node.name_any();
    let spec = node.spec.clone().unwrap_or_default();
    let addresses = node
        .status
        .as_ref()
        .and_then(|status| status.addresses.as_deref())
        .unwrap_or_default();
    let addresses_of = |kind: &str| {
        parse_all(
            &name,
            "status.addresses",
            addresses
                .iter()
                .filter(|a| a.type_ == kind)
                .map(|a| a.address.as_str()),
        )
    };
    let cidrs = spec
        .pod_cidrs
        .filter(|cidrs| !cidrs.is_empty())
        .unwrap_or_else(|| spec.pod_cidr.into_iter().collect());
    inputs::Node {
        uid: node.uid().unwrap_or_default(),
        pod_cidrs: parse_all(&name, "spec.podCIDRs", cidrs.iter().map(String::as_str)),
        internal_ips: addresses_of("InternalIP"),
        external_ips: addresses_of("ExternalIP"),
        labels: node.labels().clone(),
        annotations: node.annotations().clone(),
        taints: spec
            .taints
            .unwrap_or_default()
            .into_iter()
            .map(|taint| taint.key)
            .collect(),
        name,
    }
}

pub(crate) fn pod(pod: &Pod) -> inputs::Pod {
    let name = ObjectName::new(pod.namespace().unwrap_or_default(), pod.name_any());
    let spec = pod.spec.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    // A sidecar (an init container that restarts) serves ports like any other container.
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let named_ports = containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            Some(NamedPort {
                name: port.name.clone()?,
                port: u16::try_from(port.container_port).ok()?,
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            })
        });
    let ips: Vec<&str> = match status.pod_ips.as_deref() {
        Some(ips) if !ips.is_empty() => ips.iter().map(|ip| ip.ip.as_str()).collect(),
        _ => status.pod_ip.as_deref().into_iter().collect(),
    };
    inputs::Pod {
        uid: pod.uid().unwrap_or_default(),
        node: spec.node_name.clone().unwrap_or_default(),
        host_network: spec.host_network.unwrap_or_default(),
        ips: parse_all(&name.to_string(), "status.podIPs", ips),
        labels: pod.labels().clone(),
        annotations: pod.annotations().clone(),
        service_account: spec.service_account_name.clone().unwrap_or_default(),
        named_ports: named_ports.collect(),
        host_ports: service::host_ports(&name.to_string(), &spec),
        finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        name,
    }
}

pub(crate) fn namespace(namespace: &Namespace) -> inputs::Namespace {
    inputs::Namespace {
        name: namespace.name_any(),
        labels: namespace.labels().clone(),
    }
}

pub(crate) fn cilium_node(node: &types::CiliumNode) -> inputs::CiliumNode {
    let name = node.name_any();
    let types::CiliumNodeSpec {
        addresses,
        bootid,
        health,
        ipam,
        ..
    } = &node.spec;
    let addresses = addresses.iter().filter_map(|address| {
        let kind = match address.kind.as_str() {
            "InternalIP" => AddressType::InternalIP,
            "ExternalIP" => AddressType::ExternalIP,
            "CiliumInternalIP" => AddressType::CiliumInternalIP,
            // Names are no addresses, and types of other versions are not for us.
            _ => return None,
        };
        let ip = parse_all(&name, "spec.addresses", [address.ip.as_str()])
            .into_iter()
            .next()?;
        Some((kind, ip))
    });
    inputs::CiliumNode {
        node_uid: owner_uid(node, "Node"),
        addresses: addresses.collect(),
        pod_cidrs: parse_all(
            &name,
            "spec.ipam.podCIDRs",
            ipam.pod_cidrs.iter().map(String::as_str),
        ),
        health_ips: parse_all(&name, "spec.health", [health.ipv6.as_str(), health.ipv4.as_str()]),
        boot_id: bootid.clone(),
        name,
    }
}

pub(crate) fn to_cilium_node_spec(node: &inputs::CiliumNode) -> types::CiliumNodeSpec {
    let kind = |kind: AddressType| match kind {
        AddressType::Hostname => "Hostname",
        AddressType::InternalIP => "InternalIP",
        AddressType::ExternalIP => "ExternalIP",
        AddressType::CiliumInternalIP => "CiliumInternalIP",
    };
    let addresses = node.addresses.iter();
    types::CiliumNodeSpec {
        addresses: addresses
            .map(|(k, ip)| types::NodeAddress {
                kind: kind(*k).to_owned(),
                ip: ip.to_string(),
            })
            .collect(),
        bootid: node.boot_id.clone(),
        health: pair(&node.health_ips),
        ipam: types::NodeIpam {
            pod_cidrs: node.pod_cidrs.iter().map(IpNet::to_string).collect(),
        },
        ..types::CiliumNodeSpec::default()
    }
}

pub(crate) fn cilium_endpoint(endpoint: &types::CiliumEndpoint) -> inputs::CiliumEndpoint {
    let name = ObjectName::new(endpoint.namespace().unwrap_or_default(), endpoint.name_any());
    let status = endpoint.status.clone().unwrap_or_default();
    let networking = status.networking.unwrap_or_default();
    let text = name.to_string();
    let addressing = networking
        .addressing
        .iter()
        .flat_map(|pair| [pair.ipv6.as_str(), pair.ipv4.as_str()]);
    let identity = status.identity.unwrap_or_default();
    inputs::CiliumEndpoint {
        pod_uid: owner_uid(endpoint, "Pod"),
        id: u16::try_from(status.id).unwrap_or_default(),
        identity: u32::try_from(identity.id)
            .ok()
            .filter(|id| *id != 0)
            .map(Identity),
        labels: Labels::parse(&identity.labels),
        addresses: parse_all(&text, "status.networking.addressing", addressing),
        node_ip: parse_all(&text, "status.networking.node", [networking.node.as_str()])
            .into_iter()
            .next(),
        state: status.state,
        named_ports: status
            .named_ports
            .into_iter()
            .filter_map(|port| {
                Some(NamedPort {
                    name: port.name,
                    port: u16::try_from(port.port).ok()?,
                    protocol: port.protocol,
                })
            })
            .collect(),
        name,
    }
}

pub(crate) fn to_endpoint_status(status: &EndpointStatus) -> types::EndpointStatus {
    let EndpointStatus {
        id,
        state,
        identity,
        container_id,
        attachment_id,
        pod,
        addresses,
        node_ip,
        named_ports,
        service_account,
    } = status;
    types::EndpointStatus {
        id: i64::from(id.0),
        state: state.as_str().to_owned(),
        identity: identity
            .as_ref()
            .map(|(identity, labels)| types::EndpointIdentity {
                id: i64::from(identity.0),
                labels: labels.to_strings(),
            }),
        external_identifiers: Some(types::ExternalIdentifiers {
            cni_attachment_id: attachment_id.clone(),
            container_id: container_id.clone(),
            k8s_namespace: pod.namespace.clone(),
            k8s_pod_name: pod.name.clone(),
            pod_name: pod.to_string(),
        }),
        networking: Some(types::Networking {
            addressing: vec![pair(addresses)],
            node: node_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        }),
        named_ports: named_ports
            .iter()
            .map(|port| types::Port {
                name: port.name.clone(),
                port: i64::from(port.port),
                protocol: port.protocol.clone(),
            })
            .collect(),
        encryption: types::Encryption::default(),
        // Nothing enforces policies yet, and that is what the default says.
        policy: Some(types::Policy::default()),
        service_account: service_account.clone(),
    }
}

/// `None` when the name is not the number of a label set: such an object can never be used.
pub(crate) fn cilium_identity(object: &types::CiliumIdentity) -> Option<inputs::CiliumIdentity> {
    let identity = identity_of_name(&object.name_any())?;
    let created = object.creation_timestamp().map_or(0, |time| time.0.as_second());
    let labels = Labels::from_security_map(&object.spec.security_labels);
    Some(inputs::CiliumIdentity {
        identity,
        labels,
        created,
    })
}

/// The number that the object of that name stands for.
pub(crate) fn identity_of_name(name: &str) -> Option<Identity> {
    let identity = name
        .parse()
        .ok()
        .map(Identity)
        .filter(|identity| identity.is_cluster())?;
    // Another spelling of the number (`+300`, `0300`) would be a second object for it.
    (identity.0.to_string() == name).then_some(identity)
}

/// Unique id of the owner of that kind; empty when there is none.
fn owner_uid(object: &impl ResourceExt, kind: &str) -> String {
    let owner = object.owner_references().iter().find(|owner| owner.kind == kind);
    owner.map(|owner| owner.uid.clone()).unwrap_or_default()
}

fn pair(addresses: &[IpAddr]) -> types::AddressPair {
    let of = |family| {
        let found = addresses.iter().find(|addr| Family::of(**addr) == family);
        found.map(IpAddr::to_string).unwrap_or_default()
    };
    types::AddressPair {
        ipv4: of(Family::V4),
        ipv6: of(Family::V6),
    }
}

#[cfg(test)]
mod tests;
