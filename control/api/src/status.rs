//! `GET /v1/healthz`: Cilium's `models.StatusResponse`. Every value is measured when it is asked for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How a subsystem is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It works.
    Ok,
    /// It works, somebody should look.
    Warning,
    /// It does not work.
    Failure,
    /// It is not there.
    #[default]
    Disabled,
}

impl State {
    /// The word in JSON and in text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "Ok",
            Self::Warning => "Warning",
            Self::Failure => "Failure",
            Self::Disabled => "Disabled",
        }
    }

    /// Somebody should look.
    #[must_use]
    pub const fn is_bad(self) -> bool {
        matches!(self, Self::Warning | Self::Failure)
    }
}

/// State and message of a subsystem.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// How it is.
    pub state: State,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub msg: String,
}

impl Status {
    /// A status with its message.
    #[must_use]
    pub fn new(state: State, msg: impl Into<String>) -> Self {
        Self {
            state,
            msg: msg.into(),
        }
    }
}

/// Everything `cilium-dbg status` prints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct StatusResponse {
    /// The agent itself; the message is its version.
    pub cilium: Status,
    /// The key-value store: there is none, identities live in CRDs.
    pub kvstore: Status,
    /// The API server.
    pub kubernetes: K8sStatus,
    /// Service load balancing.
    pub kube_proxy_replacement: KubeProxyReplacement,
    /// Host firewall.
    pub host_firewall: Mode,
    /// Segment routing.
    pub srv6: Enabled,
    /// CNI chaining.
    pub cni_chaining: Mode,
    /// The CNI configuration file that was written.
    pub cni_file: Status,
    /// Event ring.
    #[serde(rename = "nodeMonitor")]
    pub node_monitor: MonitorStatus,
    /// Health of the mesh; nodes known.
    pub cluster: ClusterStatus,
    /// Addresses.
    pub ipam: IpamStatus,
    /// BIG TCP for IPv4.
    pub ipv4_big_tcp: BigTcp,
    /// BIG TCP for IPv6.
    pub ipv6_big_tcp: BigTcp,
    /// Bandwidth manager.
    pub bandwidth_manager: Enabled,
    /// How packets travel.
    pub routing: Routing,
    /// How programs are attached: `TCX` or `Legacy TC`, read back from the kernel.
    pub attach_mode: String,
    /// Device type of pods: `veth`.
    pub datapath_mode: String,
    /// Source translation towards the world.
    pub masquerading: Masquerading,
    /// Clock of the datapath.
    pub clock_source: ClockSource,
    /// Background work.
    pub controllers: Vec<ControllerStatus>,
    /// Layer 7 proxy.
    pub proxy: ProxyStatus,
    /// Numbers that may be given to label sets.
    pub identity_range: IdentityRange,
    /// Flow server.
    pub hubble: HubbleStatus,
    /// Sizes and fill of the maps.
    pub bpf_maps: BpfMapStatus,
    /// Transparent encryption.
    pub encryption: Mode,
    /// Programs found on devices, read back from the kernel. Not in Cilium's model.
    pub attachments: Vec<Attachment>,
    /// Probes that did not answer in time, with the time they began.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stale: BTreeMap<String, String>,
}

/// The API server as the agent sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct K8sStatus {
    /// How it is.
    pub state: State,
    /// Version and platform when it works; the error when not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub msg: String,
    /// Kinds that are watched.
    #[serde(rename = "k8s-api-versions")]
    pub k8s_api_versions: Vec<String>,
}

/// A feature that has only a mode, such as `Disabled`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mode {
    /// The word.
    pub mode: String,
}

impl Default for Mode {
    fn default() -> Self {
        Self {
            mode: "Disabled".to_owned(),
        }
    }
}

/// A feature that is on or off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enabled {
    /// Whether it is on.
    #[serde(default)]
    pub enabled: bool,
}

/// Service load balancing in the datapath.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeProxyReplacement {
    /// `True` or `False`.
    pub mode: String,
    /// Native devices.
    pub devices: Vec<String>,
    /// Native devices and their addresses.
    pub device_list: Vec<Device>,
    /// The device with the default route.
    pub direct_routing_device: String,
    /// How services are balanced.
    pub features: LbFeatures,
}

/// How services are balanced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LbFeatures {
    /// For clients outside the cluster.
    pub node_port: NodePortFeature,
}

/// How clients outside the cluster are balanced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodePortFeature {
    /// `Native`: in the drivers of all native devices; `Best-Effort`: of some; `Disabled`.
    pub acceleration: String,
}

/// A native device and its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub ip: Vec<String>,
}

/// The event ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MonitorStatus {
    /// Processors that write into it.
    pub cpus: u64,
    /// Its size in pages.
    pub npages: u64,
    /// Size of a page, bytes.
    pub pagesize: u64,
    /// Events that found no room.
    pub lost: u64,
    /// Events of a kind that the agent does not know.
    pub unknown: u64,
}

/// What is known of the other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ClusterStatus {
    /// The health mesh.
    pub cilium_health: Status,
    /// `cluster/node` of this node.
    #[serde(rename = "self")]
    pub this: String,
    /// Number of nodes known, this one included.
    pub num_nodes: usize,
}

/// Addresses that were given out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpamStatus {
    /// Address to owner.
    pub allocations: BTreeMap<String, String>,
    /// IPv4 addresses given out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ipv4: Vec<String>,
    /// IPv6 addresses given out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ipv6: Vec<String>,
    /// The line people read.
    pub status: String,
}

/// BIG TCP, the smallest value found on the native devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BigTcp {
    /// More than 65536 on every native device.
    #[serde(default)]
    pub enabled: bool,
    /// Largest received super-packet, bytes.
    #[serde(default, rename = "maxGRO")]
    pub max_gro: u64,
    /// Largest sent super-packet, bytes.
    #[serde(default, rename = "maxGSO")]
    pub max_gso: u64,
}

/// How packets travel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Routing {
    /// Between nodes: `Native` or `Tunnel`.
    pub inter_host_routing_mode: String,
    /// Inside the node: `BPF` or `Legacy`.
    pub intra_host_routing_mode: String,
    /// `vxlan`, `geneve` or empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tunnel_protocol: String,
    /// Direct routes to other nodes found in the kernel's table. Not in Cilium's model.
    pub direct_routes: Vec<String>,
}

/// Source translation towards the world.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Masquerading {
    /// Whether it is on.
    pub enabled: bool,
    /// `BPF` or `iptables`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mode: String,
    /// Destinations of the file of ip-masq-agent are not translated.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ip_masq_agent: bool,
    /// Families.
    #[serde(rename = "enabledProtocols")]
    pub enabled_protocols: Protocols,
    /// Destinations in this block are not translated.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub snat_exclusion_cidr_v6: String,
}

/// A switch per address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Protocols {
    /// IPv4.
    pub ipv4: bool,
    /// IPv6.
    pub ipv6: bool,
}

/// Clock of the datapath.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockSource {
    /// `ktime` or `jiffies`.
    pub mode: String,
}

impl Default for ClockSource {
    fn default() -> Self {
        Self {
            mode: "ktime".to_owned(),
        }
    }
}

/// One piece of background work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControllerStatus {
    /// Its name.
    pub name: String,
    /// How it went.
    pub status: ControllerCounts,
}

/// How a piece of background work went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ControllerCounts {
    /// Runs that succeeded.
    pub success_count: u64,
    /// Runs that failed.
    pub failure_count: u64,
    /// Failures since the last success.
    pub consecutive_failure_count: u64,
    /// The last error, while it persists.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_failure_msg: String,
    /// RFC 3339.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_failure_timestamp: String,
    /// RFC 3339.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_success_timestamp: String,
}

/// Layer 7 proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ProxyStatus {
    /// Whether one runs.
    pub state: State,
    /// Number of redirects.
    pub total_redirects: u64,
}

/// Numbers that may be given to label sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IdentityRange {
    /// First.
    pub min_identity: u32,
    /// Last.
    pub max_identity: u32,
}

impl Default for IdentityRange {
    fn default() -> Self {
        Self {
            min_identity: 256,
            max_identity: 65535,
        }
    }
}

/// Flow server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HubbleStatus {
    /// Whether it runs.
    pub state: State,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub msg: String,
}

/// Sizes and fill of the maps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BpfMapStatus {
    /// One per map.
    pub maps: Vec<BpfMapProperties>,
}

/// Size and fill of a map.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BpfMapProperties {
    /// Its name.
    pub name: String,
    /// Entries it can hold.
    pub size: u64,
    /// Entries it holds; `None`: they are not counted. Not in Cilium's model.
    pub entries: Option<u64>,
}

/// A program on a device, read back from the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// Name of the device.
    pub device: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// Name of the program.
    pub program: String,
    /// Kernel number of the program.
    pub program_id: u32,
    /// What it runs under: `tcx`, `xdp`, or `clsact` on a pod that is new.
    pub holder: String,
}
