//! What is said on the agent's REST socket: serde types shaped like the JSON of Cilium's `api/v1/models`, the CNI
//! requests of our own plugin, and the one client that everybody uses.
//!
//! Imports nothing of ours; imported by `agent` (server), `cni` and `seta` (clients). The types carry no behaviour
//! beyond small constructors: what they contain is decided where it is measured.
#![forbid(unsafe_code)]

pub mod client;
pub mod cni;
pub mod endpoint;
pub mod monitor;
pub mod objects;
pub mod services;
pub mod status;
pub mod tables;

pub use client::{Client, ClientError};
pub use endpoint::Endpoint;
pub use status::StatusResponse;

use serde::{Deserialize, Serialize};

/// Where the agent listens, unless it was told otherwise.
pub const SOCKET: &str = "/var/run/cilium/cilium.sock";

/// Where the CNI plugin leaves deletes that the agent must catch up on (Cilium `pkg/defaults`, `DeleteQueueDir`).
pub const DELETE_QUEUE: &str = "/var/run/cilium/deleteQueue";

/// Most files in the delete queue; further deletes are left to garbage collection.
pub const DELETE_QUEUE_MAX: usize = 256;

/// Paths of the REST interface, so that server and clients cannot disagree.
pub mod path {
    /// GET: [`crate::StatusResponse`].
    pub const HEALTHZ: &str = "/v1/healthz";
    /// GET: list of [`crate::Endpoint`]; below it `/{id}`.
    pub const ENDPOINT: &str = "/v1/endpoint";
    /// GET: list of [`crate::objects::IpEntry`].
    pub const IP: &str = "/v1/ip";
    /// GET: list of [`crate::objects::Identity`]; below it `/{id}`.
    pub const IDENTITY: &str = "/v1/identity";
    /// GET: [`crate::status::IpamStatus`].
    pub const IPAM: &str = "/v1/ipam";
    /// GET: list of [`crate::tables::MapInfo`].
    pub const MAP: &str = "/v1/map";
    /// GET: list of [`crate::objects::Node`].
    pub const NODE: &str = "/v1/node";
    /// GET: [`crate::objects::DaemonConfiguration`].
    pub const CONFIG: &str = "/v1/config";
    /// GET: list of [`crate::objects::Metric`].
    pub const METRICS: &str = "/v1/metrics";
    /// GET: list of [`crate::tables::Connection`].
    pub const BPF_CT: &str = "/v1/bpf/ct";
    /// GET: list of [`crate::tables::DatapathMetric`].
    pub const BPF_METRICS: &str = "/v1/bpf/metrics";
    /// GET: list of [`crate::tables::CacheEntry`].
    pub const BPF_IPCACHE: &str = "/v1/bpf/ipcache";
    /// GET: [`crate::services::LoadBalancer`].
    pub const BPF_LB: &str = "/v1/bpf/lb";
    /// GET: list of [`crate::tables::Translation`]; the query is [`crate::tables::TranslationsOf`].
    pub const BPF_NAT: &str = "/v1/bpf/nat";
    /// Destinations that pods reach with their own address.
    pub const BPF_IPMASQ: &str = "/v1/bpf/ipmasq";
    /// GET: list of [`crate::services::Service`].
    pub const SERVICE: &str = "/v1/service";
    /// GET: list of [`crate::tables::LocalEndpoint`].
    pub const BPF_ENDPOINT: &str = "/v1/bpf/endpoint";
    /// GET: lines of JSON, one [`crate::monitor::Event`] each, without end.
    pub const MONITOR: &str = "/v1/monitor";
    /// PUT [`crate::cni::AddRequest`]: [`crate::cni::AddResponse`].
    pub const CNI_ADD: &str = "/v1/cni/add";
    /// PUT [`crate::cni::Attachment`].
    pub const CNI_DEL: &str = "/v1/cni/del";
    /// PUT [`crate::cni::CheckRequest`].
    pub const CNI_CHECK: &str = "/v1/cni/check";
    /// PUT [`crate::cni::GcRequest`].
    pub const CNI_GC: &str = "/v1/cni/gc";
    /// GET: 200 when the agent can serve ADD.
    pub const CNI_STATUS: &str = "/v1/cni/status";
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// What went wrong, for people; names the object.
    pub error: String,
    /// The CNI error code the plugin answers with; 0: not a CNI request.
    #[serde(default, rename = "cniCode", skip_serializing_if = "is_zero")]
    pub cni_code: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}
