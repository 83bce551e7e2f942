//! The `cilium.io` objects as they are on the wire (cilium.md §3.7). Nothing outside this crate sees them.
//!
//! Fields that Cilium has and we neither read nor write are left out here, but not forbidden by the schemas: an object
//! written by Cilium is accepted and keeps them (`x-kubernetes-preserve-unknown-fields`, see `crds`).

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `CiliumNode.spec`.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "cilium.io",
    version = "v2",
    kind = "CiliumNode",
    plural = "ciliumnodes",
    shortname = "cn",
    shortname = "ciliumn",
    category = "cilium",
    derive = "PartialEq",
    doc = "What the agent of a node tells the others about it.",
    printcolumn = r#"{"name":"CiliumInternalIP","type":"string","jsonPath":".spec.addresses[?(@.type==\"CiliumInternalIP\")].ip"}"#,
    printcolumn = r#"{"name":"InternalIP","type":"string","jsonPath":".spec.addresses[?(@.type==\"InternalIP\")].ip"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
pub(crate) struct CiliumNodeSpec {
    /// Addresses of the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) addresses: Vec<NodeAddress>,
    /// Identifies the boot of the machine.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) bootid: String,
    /// Encryption key in use; 0 for none.
    #[serde(default)]
    pub(crate) encryption: Encryption,
    /// Addresses of the health endpoint.
    #[serde(default)]
    pub(crate) health: AddressPair,
    /// Addresses of the ingress.
    #[serde(default)]
    pub(crate) ingress: AddressPair,
    /// Address management.
    #[serde(default)]
    pub(crate) ipam: NodeIpam,
}

/// An address of a node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct NodeAddress {
    /// InternalIP, ExternalIP, CiliumInternalIP, Hostname, …
    #[serde(rename = "type", default)]
    pub(crate) kind: String,
    /// The address.
    #[serde(default)]
    pub(crate) ip: String,
}

/// Encryption key.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct Encryption {
    /// Number of the key.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) key: i64,
}

/// One address per family.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct AddressPair {
    /// IPv4 address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) ipv4: String,
    /// IPv6 address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) ipv6: String,
}

/// `CiliumNode.spec.ipam`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct NodeIpam {
    /// Blocks that the node's pods get addresses of.
    #[serde(rename = "podCIDRs", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) pod_cidrs: Vec<String>,
}

/// The fields of a `CiliumIdentity`, which has no spec.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "cilium.io",
    version = "v2",
    kind = "CiliumIdentity",
    plural = "ciliumidentities",
    shortname = "ciliumid",
    category = "cilium",
    no_spec,
    derive = "PartialEq",
    doc = "A set of labels and the number (the object's name) that stands for it in the datapath.",
    printcolumn = r#"{"name":"Namespace","type":"string","jsonPath":".metadata.labels.io\\.kubernetes\\.pod\\.namespace"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
pub(crate) struct CiliumIdentityFields {
    /// The labels, with their source in the key: `k8s:app: client`.
    #[serde(rename = "security-labels")]
    pub(crate) security_labels: BTreeMap<String, String>,
}

/// A `CiliumEndpoint` has a status only.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "cilium.io",
    version = "v2",
    kind = "CiliumEndpoint",
    plural = "ciliumendpoints",
    shortname = "cep",
    shortname = "ciliumep",
    category = "cilium",
    namespaced,
    no_spec,
    status = "EndpointStatus",
    derive = "PartialEq",
    doc = "What the agent of a node tells the others about a pod of the same name.",
    printcolumn = r#"{"name":"Security Identity","type":"integer","jsonPath":".status.identity.id"}"#,
    printcolumn = r#"{"name":"Ingress Enforcement","type":"boolean","jsonPath":".status.policy.ingress.enforcing","priority":1}"#,
    printcolumn = r#"{"name":"Egress Enforcement","type":"boolean","jsonPath":".status.policy.egress.enforcing","priority":1}"#,
    printcolumn = r#"{"name":"Endpoint State","type":"string","jsonPath":".status.state"}"#,
    printcolumn = r#"{"name":"IPv4","type":"string","jsonPath":".status.networking.addressing[0].ipv4"}"#,
    printcolumn = r#"{"name":"IPv6","type":"string","jsonPath":".status.networking.addressing[0].ipv6"}"#
)]
pub(crate) struct CiliumEndpointFields {}

/// `CiliumEndpoint.status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct EndpointStatus {
    /// Number of the endpoint on its node.
    #[serde(default)]
    pub(crate) id: i64,
    /// State.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) state: String,
    /// Identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<EndpointIdentity>,
    /// What others call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) external_identifiers: Option<ExternalIdentifiers>,
    /// Addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) networking: Option<Networking>,
    /// Named ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) named_ports: Vec<Port>,
    /// Encryption key in use.
    #[serde(default)]
    pub(crate) encryption: Encryption,
    /// Whether policies are enforced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<Policy>,
    /// Service account of the pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) service_account: String,
}

/// `CiliumEndpoint.status.identity`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct EndpointIdentity {
    /// The number.
    #[serde(default)]
    pub(crate) id: i64,
    /// `source:key=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) labels: Vec<String>,
}

/// `CiliumEndpoint.status.external-identifiers`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ExternalIdentifiers {
    /// Container and interface.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) cni_attachment_id: String,
    /// Sandbox.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) container_id: String,
    /// Namespace of the pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) k8s_namespace: String,
    /// Name of the pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) k8s_pod_name: String,
    /// Namespace and name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) pod_name: String,
}

/// `CiliumEndpoint.status.networking`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct Networking {
    /// Addresses of the pod.
    #[serde(default)]
    pub(crate) addressing: Vec<AddressPair>,
    /// Address of the node that runs it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) node: String,
}

/// `CiliumEndpoint.status.policy`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct Policy {
    /// What comes in.
    #[serde(default)]
    pub(crate) ingress: Enforcement,
    /// What goes out.
    #[serde(default)]
    pub(crate) egress: Enforcement,
}

/// Whether policies are enforced in one direction.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct Enforcement {
    /// They are.
    #[serde(default)]
    pub(crate) enforcing: bool,
}

/// A named port.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct Port {
    /// Name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    /// Number.
    #[serde(default)]
    pub(crate) port: i64,
    /// TCP, UDP or SCTP.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) protocol: String,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}
