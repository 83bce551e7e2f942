//! Services: what the agent wants (`service list`), and what the kernel's tables hold (`bpf lb list`).

use serde::{Deserialize, Serialize};

/// A frontend with its backends, in the shape of Cilium's `models.Service`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// What is wanted.
    pub spec: ServiceSpec,
    /// What is there.
    pub status: ServiceStatus,
}

/// What is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceStatus {
    /// As it stands in the tables.
    pub realized: ServiceSpec,
}

/// A frontend with its backends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct ServiceSpec {
    /// Number of the frontend on this node.
    pub id: u32,
    /// Where it is reached.
    pub frontend_address: FrontendAddress,
    /// Where its packets go: those for clients of the cluster, then others.
    pub backend_addresses: Vec<BackendAddress>,
    /// What kind of service it is.
    pub flags: ServiceFlags,
}

/// Where a service is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FrontendAddress {
    /// Address; `::` or `0.0.0.0`: every address of a node.
    pub ip: String,
    /// Port.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// Where a service's packets go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackendAddress {
    /// Address.
    pub ip: String,
    /// Port.
    pub port: u16,
    /// `active`, or `terminating` when only such are left.
    pub state: String,
    /// For whom it is there: `inside`, `outside`, or empty for both.
    pub scope: String,
    /// Number of the backend on this node.
    pub id: u32,
}

/// What kind of service it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceFlags {
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalIPs` or `HostPort`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `Cluster` or `Local`, for outside clients.
    pub ext_traffic_policy: String,
    /// `Cluster` or `Local`, for clients of the cluster.
    pub int_traffic_policy: String,
    /// Name of the Kubernetes service, or of the pod with the host port.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
}

/// The tables of services, read from the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadBalancer {
    /// Frontends.
    pub frontends: Vec<LbFrontend>,
    /// Every backend that is in a set, once.
    pub backends: Vec<LbBackend>,
    /// Who may use services from outside.
    pub source_ranges: Vec<LbRange>,
}

/// An entry of the table of frontends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LbFrontend {
    /// Address and port with the protocol, such as `[fd00::1]:80/TCP`.
    pub address: String,
    /// Its number.
    pub id: u32,
    /// Names of its flags.
    pub flags: Vec<String>,
    /// Seconds that a client keeps its backend.
    pub affinity: u32,
    /// Backends for clients of the cluster, by slot.
    pub inside: Vec<LbBackend>,
    /// Backends for everybody else; none in the list when they are the same set.
    pub outside: Vec<LbBackend>,
}

/// A slot of a set of backends.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct LbBackend {
    /// Its number.
    pub id: u32,
    /// Address and port.
    pub address: String,
    /// Chosen since nothing better is there.
    pub terminating: bool,
}

/// A range of addresses that may use a service from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LbRange {
    /// Number of the frontend.
    pub id: u32,
    /// Its address.
    pub address: String,
    /// The range.
    pub cidr: String,
}
