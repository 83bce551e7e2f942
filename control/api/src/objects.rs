//! The smaller objects: identities, addresses, nodes, configuration, metrics.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A label set and its number (`models.IdentityEndpoints` and `models.Identity` together).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// The number.
    pub id: u32,
    /// `source:key=value`, sorted.
    pub labels: Vec<String>,
    /// Endpoints of this node that have it.
    #[serde(rename = "refCount")]
    pub ref_count: u32,
}

/// An address of the cluster (`models.IPListEntry`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IpEntry {
    /// Prefix, for example `fd00:10:244::1/128`.
    pub cidr: String,
    /// Identity behind it.
    pub identity: u32,
    /// Node that hosts it.
    #[serde(rename = "hostIP", skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
    /// Where it comes from.
    pub metadata: IpMetadata,
}

/// Where an address comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpMetadata {
    /// `k8s`, `custom-resource`, `local`, `agent-local`.
    pub source: String,
    /// Pod name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Pod namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
}

/// A node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// `cluster/node`; plain node when the cluster is `default`.
    pub name: String,
    /// Address and pod block per family.
    #[serde(rename = "primary-address")]
    pub primary_address: NodeAddressing,
    /// `local`, `custom-resource`, `k8s`.
    pub source: String,
}

/// Address and pod block per family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeAddressing {
    /// IPv4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<NodeAddress>,
    /// IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<NodeAddress>,
}

/// Address and pod block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct NodeAddress {
    /// The node's address.
    pub ip: String,
    /// Pods of the node are in here.
    pub alloc_range: String,
}

/// Configuration in effect (`models.DaemonConfiguration`, the part clients read).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DaemonConfiguration {
    /// What was asked for.
    pub spec: ConfigurationSpec,
    /// What is the case.
    pub status: ConfigurationStatus,
}

/// Every key of the config map as the agent read it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigurationSpec {
    /// Key and value.
    pub options: BTreeMap<String, String>,
    /// Keys the agent knows nothing of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
}

/// What is the case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigurationStatus {
    /// `veth`.
    #[serde(rename = "datapathMode")]
    pub datapath_mode: String,
    /// MTU of devices, bytes.
    #[serde(rename = "deviceMTU")]
    pub device_mtu: u32,
    /// Largest IPv6 packet that GRO makes on the devices of pods, or on that of the router where there is no pod, bytes.
    #[serde(rename = "GROMaxSize")]
    pub gro_max_size: u64,
    /// Like that for GSO.
    #[serde(rename = "GSOMaxSize")]
    pub gso_max_size: u64,
    /// Sizes of each native device, of the router's and of those of pods. Not in Cilium's model.
    #[serde(rename = "deviceSizes")]
    pub device_sizes: Vec<DeviceSizes>,
    /// Name of this node.
    #[serde(rename = "nodeName")]
    pub node_name: String,
    /// Version of the agent.
    pub version: String,
}

/// Largest packets that the stack puts together on a device, bytes; 0: the kernel does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceSizes {
    /// Name of the device.
    pub name: String,
    /// GRO, IPv6.
    #[serde(rename = "GROMaxSize")]
    pub gro: u64,
    /// GSO, IPv6.
    #[serde(rename = "GSOMaxSize")]
    pub gso: u64,
    /// GRO, IPv4.
    #[serde(rename = "GROIPv4MaxSize")]
    pub gro_ipv4: u64,
    /// GSO, IPv4.
    #[serde(rename = "GSOIPv4MaxSize")]
    pub gso_ipv4: u64,
}

/// One sample of a Prometheus metric.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metric {
    /// Name with its prefix.
    pub name: String,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: f64,
}
