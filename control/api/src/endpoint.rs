//! `GET /v1/endpoint`: Cilium's `models.Endpoint`.

use serde::{Deserialize, Serialize};

/// A pod of this node, or the node itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// Number, unique on the node.
    pub id: u32,
    /// What is the case.
    pub status: EndpointStatus,
}

/// State of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct EndpointStatus {
    /// `ready`, `waiting-for-identity`, `disconnected` …
    pub state: String,
    /// Identity and its labels.
    pub identity: EndpointIdentity,
    /// Labels by their role.
    pub labels: EndpointLabels,
    /// Addresses and devices.
    pub networking: EndpointNetworking,
    /// Names elsewhere.
    pub external_identifiers: ExternalIdentifiers,
    /// Policy.
    pub policy: EndpointPolicy,
    /// Health.
    pub health: EndpointHealth,
}

/// Identity and its labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointIdentity {
    /// The number.
    pub id: u32,
    /// `source:key=value`, sorted.
    pub labels: Vec<String>,
}

/// Labels by their role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct EndpointLabels {
    /// Those that make the identity.
    pub security_relevant: Vec<String>,
    /// The others.
    pub derived: Vec<String>,
}

/// Addresses and devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct EndpointNetworking {
    /// One entry per pair of addresses.
    pub addressing: Vec<AddressPair>,
    /// Name of the host-side device.
    pub interface_name: String,
    /// Index of the host-side device.
    pub interface_index: u32,
    /// MAC inside the pod.
    pub mac: String,
    /// MAC of the host-side device.
    pub host_mac: String,
}

/// Addresses of an endpoint; a family that it does not have is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddressPair {
    /// IPv4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<String>,
    /// IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<String>,
}

/// Names of an endpoint in other systems.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ExternalIdentifiers {
    /// `container id:interface`.
    pub cni_attachment_id: String,
    /// Sandbox of the runtime.
    pub container_id: String,
    /// `namespace/name`.
    pub pod_name: String,
    /// Name of the pod.
    pub k8s_pod_name: String,
    /// Namespace of the pod.
    pub k8s_namespace: String,
}

/// Policy of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointPolicy {
    /// What is in the datapath.
    pub realized: EndpointPolicyRealized,
}

/// Policy in the datapath.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct EndpointPolicyRealized {
    /// `none`, `ingress`, `egress`, `both`.
    pub policy_enabled: String,
    /// Revision of the rules it was made from.
    pub policy_revision: u64,
}

/// Health of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointHealth {
    /// Programs attached and table entries present, read back from the kernel: `OK`, `Failure`.
    pub bpf: String,
    /// The same for policy.
    pub policy: String,
    /// Its link is there.
    pub connected: bool,
    /// All of it.
    pub overall_health: String,
}
