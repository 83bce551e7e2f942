//! The `cilium-config` keys, parsed once into one typed value before anything is opened.
//!
//! Keys, defaults and spellings are Cilium's (cilium.md §4.1); where a default names something that is not built yet
//! (IPv4, tunnels, cluster-pool), the default here is what is built. A value that asks for something that is not built
//! is refused by name, never ignored; all problems are found at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::Ipv6Net;

use crate::addr::Family;
use crate::labels::LabelFilter;

mod known;
mod reader;
mod services;
mod values;

pub use reader::{Problem, Problems, Warning};
pub use services::{Acceleration, ServiceConfig};
pub use values::{DevicePattern, parse_duration};

use reader::Reader;

/// How much of the traffic is reported (`monitor-aggregation`); the numbers are those of [`abi::Config`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Aggregation {
    /// Every packet, at every point.
    None = 0,
    /// Not at the points of receipt.
    Lowest = 1,
    /// The same.
    Low = 2,
    /// Connections: new flags, and once per interval.
    Medium = 3,
    /// The same.
    Maximum = 4,
}

impl Aggregation {
    /// As it is spelt in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lowest => "lowest",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::Maximum => "maximum",
        }
    }
}

/// Lifetimes of conntrack entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CtTimeouts {
    /// `bpf-ct-timeout-regular-tcp`: an established TCP connection.
    pub tcp: Duration,
    /// `bpf-ct-timeout-regular-tcp-syn`: TCP before it is established.
    pub syn: Duration,
    /// `bpf-ct-timeout-regular-tcp-fin`: TCP after FIN or RST.
    pub close: Duration,
    /// `bpf-ct-timeout-regular-any`: everything else.
    pub any: Duration,
}

/// Sizes of the tables that grow with traffic, entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// [`abi::names::CT_TCP`].
    pub ct_tcp: u32,
    /// [`abi::names::CT_ANY`].
    pub ct_any: u32,
    /// [`abi::names::NAT`]; a translated connection has two.
    pub nat: u32,
}

/// The agent's configuration.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// `debug`: log more.
    pub debug: bool,
    /// `enable-ipv4`.
    pub enable_ipv4: bool,
    /// `enable-ipv6`.
    pub enable_ipv6: bool,
    /// `auto-direct-node-routes`: routes to the pods of nodes on the same L2 segment.
    pub auto_direct_node_routes: bool,
    /// `direct-routing-skip-unreachable`: a node on another segment is no problem, just without a direct route.
    pub skip_unreachable: bool,
    /// `ipv6-native-routing-cidr`: what is reached without masquerading.
    pub ipv6_native_routing_cidr: Option<Ipv6Net>,
    /// `enable-bpf-masquerade`.
    pub bpf_masquerade: bool,
    /// `enable-ip-masq-agent`: a file names destinations that are not masqueraded.
    pub ip_masq_agent: bool,
    /// `ip-masq-agent-config-path`: the file that names them.
    pub ip_masq_agent_config_path: String,
    /// `enable-ipv6-masquerade`.
    pub ipv6_masquerade: bool,
    /// `kube-proxy-replacement`.
    pub kube_proxy_replacement: bool,
    /// Keys that say how services are translated.
    pub services: ServiceConfig,
    /// `enable-host-legacy-routing`: forward by the stack instead of by redirects.
    pub host_legacy_routing: bool,
    /// `cluster-name`.
    pub cluster_name: String,
    /// `cluster-id`.
    pub cluster_id: u8,
    /// `k8s-require-ipv6-pod-cidr`: wait until the node has an IPv6 pod CIDR.
    pub require_ipv6_pod_cidr: bool,
    /// `monitor-aggregation`.
    pub monitor_aggregation: Aggregation,
    /// `monitor-aggregation-interval`.
    pub monitor_interval: Duration,
    /// `monitor-aggregation-flags`: TCP flags whose first appearance is reported (wire bits, FIN = 1).
    pub monitor_flags: u8,
    /// `bpf-map-dynamic-size-ratio`: share of the memory that tables without a size of their own may take; 0: off.
    pub map_dynamic_size_ratio: f64,
    /// `bpf-ct-global-tcp-max`, entries; `None`: by the ratio.
    pub ct_tcp_max: Option<u32>,
    /// `bpf-ct-global-any-max`, entries; `None`: by the ratio.
    pub ct_any_max: Option<u32>,
    /// `bpf-nat-global-max`, entries; `None`: by the ratio.
    pub nat_max: Option<u32>,
    /// Conntrack lifetimes.
    pub ct_timeouts: CtTimeouts,
    /// `devices`: native devices; empty: found by themselves.
    pub devices: Vec<DevicePattern>,
    /// `mtu`; `None`: that of the native device.
    pub mtu: Option<u32>,
    /// `labels`: which labels make an identity.
    pub labels: LabelFilter,
    /// `agent-health-port`: TCP port of `/healthz` on the loopback addresses.
    pub health_port: u16,
    /// `prometheus-serve-addr`; `None`: no metrics.
    pub prometheus: Option<SocketAddr>,
    /// `crd-wait-timeout`: how long the agent waits for its CRDs.
    pub crd_wait_timeout: Duration,
    /// `write-cni-conf-when-ready`: path of the CNI configuration on the host; `None`: not written.
    pub cni_conf: Option<String>,
    /// `cni-exclusive`: set other plugins' configuration aside.
    pub cni_exclusive: bool,
    /// `cni-uninstall`: remove the CNI configuration on the way out.
    pub cni_uninstall: bool,
    /// `cni-log-file`: where the plugin logs to, as seen from the host.
    pub cni_log_file: String,
    /// What was read as text, by key: `GET /v1/config` shows it.
    pub raw: BTreeMap<String, String>,
}

impl AgentConfig {
    /// Parses the keys of the ConfigMap. Warnings are about keys that have no effect.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first.
    pub fn parse(map: &BTreeMap<String, String>) -> Result<(Self, Vec<Warning>), Problems> {
        let mut reader = Reader::new(map);
        let config = read(&mut reader);
        reader.finish(config)
    }

    /// Families that are on.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        let v6 = self.enable_ipv6.then_some(Family::V6);
        v6.into_iter().chain(self.enable_ipv4.then_some(Family::V4))
    }

    /// Sizes of the tables that grow with traffic on a machine with `memory` bytes. Tables without a size of their own share
    /// `memory` × `bpf-map-dynamic-size-ratio` as their default sizes would, within the bounds that Cilium has
    /// (`pkg/option/config.go`).
    #[must_use]
    pub fn map_sizes(&self, memory: u64) -> MapSizes {
        const TCP: MapSize = MapSize {
            default: 524_288,
            auto_min: 131_072,
        };
        const ANY: MapSize = MapSize {
            default: 262_144,
            auto_min: 65_536,
        };
        const NAT: MapSize = MapSize {
            default: 524_288,
            auto_min: 131_072,
        };
        let connection = (size_of::<abi::CtKey>() + size_of::<abi::CtEntry>()) as f64;
        let translation = (size_of::<abi::NatKey>() + size_of::<abi::NatEntry>()) as f64;
        let default_bytes =
            f64::from(TCP.default + ANY.default) * connection + f64::from(NAT.default) * translation;
        let scale = memory as f64 * self.map_dynamic_size_ratio / default_bytes;
        let size = |explicit: Option<u32>, map: MapSize| {
            explicit.unwrap_or_else(|| {
                if self.map_dynamic_size_ratio == 0.0 {
                    return map.default;
                }
                // A float cast saturates, so that a huge machine ends at the upper bound.
                ((f64::from(map.default) * scale) as u32).clamp(map.auto_min, values::MAX_ENTRIES)
            })
        };
        MapSizes {
            ct_tcp: size(self.ct_tcp_max, TCP),
            ct_any: size(self.ct_any_max, ANY),
            nat: size(self.nat_max, NAT),
        }
    }

    /// Load-time constants of the datapath, once the router's addresses, `cilium_host` and the cookie of the node's
    /// network namespace are known.
    #[must_use]
    pub fn datapath(&self, routers: &[IpAddr], host_ifindex: u32, node_namespace: u64) -> abi::Config {
        let router = |family| {
            let found = routers.iter().copied().find(|addr| Family::of(*addr) == family);
            found.map_or(abi::Addr::UNSPECIFIED, crate::addr::to_abi)
        };
        abi::Config {
            router_v6: router(Family::V6),
            router_v4: router(Family::V4),
            monitor_interval: nanos(self.monitor_interval),
            ct_tcp: nanos(self.ct_timeouts.tcp),
            ct_syn: nanos(self.ct_timeouts.syn),
            ct_close: nanos(self.ct_timeouts.close),
            ct_any: nanos(self.ct_timeouts.any),
            node_namespace: if self.services.bind_protection {
                node_namespace
            } else {
                0
            },
            nat_ports: [self.services.node_ports.1.saturating_add(1), u16::MAX],
            native_v6: self
                .ipv6_native_routing_cidr
                .map_or(abi::Addr::UNSPECIFIED, |cidr| {
                    crate::addr::to_abi(cidr.network().into())
                }),
            native_v6_bits: self.ipv6_native_routing_cidr.map_or(0, |cidr| cidr.prefix_len()),
            services: u8::from(self.kube_proxy_replacement),
            masquerade_v6: u8::from(
                self.bpf_masquerade
                    && self.ipv6_masquerade
                    // Of ::/0 everything is reached with the pod's own address.
                    && self.ipv6_native_routing_cidr.is_some_and(|cidr| cidr.prefix_len() > 0),
            ),
            host_ifindex,
            host_routing: u8::from(!self.host_legacy_routing),
            monitor_aggregation: self.monitor_aggregation as u8,
            monitor_flags: self.monitor_flags,
            enable_ipv6: u8::from(self.enable_ipv6),
            enable_ipv4: u8::from(self.enable_ipv4),
        }
    }
}

struct MapSize {
    /// Entries when the ratio is off.
    default: u32,
    /// Entries that the ratio does not go below.
    auto_min: u32,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn read(r: &mut Reader<'_>) -> Option<AgentConfig> {
    known::check_unsupported(r);
    let kube_proxy_replacement = r.bool("kube-proxy-replacement", false);
    let config = AgentConfig {
        debug: r.bool("debug", false),
        enable_ipv4: r.bool("enable-ipv4", false),
        enable_ipv6: r.bool("enable-ipv6", true),
        auto_direct_node_routes: r.bool("auto-direct-node-routes", false),
        skip_unreachable: r.bool("direct-routing-skip-unreachable", false),
        ipv6_native_routing_cidr: r
            .optional("ipv6-native-routing-cidr", "an IPv6 prefix such as fd00:10::/32"),
        bpf_masquerade: r.bool("enable-bpf-masquerade", false),
        ip_masq_agent: r.bool("enable-ip-masq-agent", false),
        ip_masq_agent_config_path: r
            .text("ip-masq-agent-config-path")
            .unwrap_or_else(|| "/etc/config/ip-masq-agent".to_owned()),
        ipv6_masquerade: r.bool("enable-ipv6-masquerade", true),
        kube_proxy_replacement,
        services: services::read(r, kube_proxy_replacement),
        host_legacy_routing: r.bool("enable-host-legacy-routing", false),
        cluster_name: r.with("cluster-name", values::cluster_name, "default".to_owned()),
        cluster_id: r.with("cluster-id", values::cluster_id, 0),
        require_ipv6_pod_cidr: r.bool("k8s-require-ipv6-pod-cidr", true),
        monitor_aggregation: r.with("monitor-aggregation", values::aggregation, Aggregation::Medium),
        monitor_interval: r.with(
            "monitor-aggregation-interval",
            values::positive_duration,
            Duration::from_secs(5),
        ),
        monitor_flags: r.with(
            "monitor-aggregation-flags",
            values::tcp_flags,
            values::ALL_TCP_FLAGS,
        ),
        map_dynamic_size_ratio: r.with("bpf-map-dynamic-size-ratio", values::ratio, 0.0025),
        ct_tcp_max: r.with("bpf-ct-global-tcp-max", values::entries, None),
        ct_any_max: r.with("bpf-ct-global-any-max", values::entries, None),
        nat_max: r.with("bpf-nat-global-max", values::entries, None),
        ct_timeouts: CtTimeouts {
            tcp: r.with(
                "bpf-ct-timeout-regular-tcp",
                values::positive_duration,
                Duration::from_secs(8000),
            ),
            syn: r.with(
                "bpf-ct-timeout-regular-tcp-syn",
                values::positive_duration,
                Duration::from_secs(60),
            ),
            close: r.with(
                "bpf-ct-timeout-regular-tcp-fin",
                values::positive_duration,
                Duration::from_secs(10),
            ),
            any: r.with(
                "bpf-ct-timeout-regular-any",
                values::positive_duration,
                Duration::from_secs(60),
            ),
        },
        devices: r.with("devices", values::devices, Vec::new()),
        mtu: r.with("mtu", values::mtu, None),
        labels: r.labels("labels")?,
        health_port: r.parsed("agent-health-port", "a port number (1 to 65535)", 9879),
        prometheus: r.with("prometheus-serve-addr", values::listen_address, None),
        crd_wait_timeout: r.with(
            "crd-wait-timeout",
            values::positive_duration,
            Duration::from_secs(300),
        ),
        cni_conf: r.text("write-cni-conf-when-ready"),
        cni_exclusive: r.bool("cni-exclusive", true),
        cni_uninstall: r.bool("cni-uninstall", false),
        cni_log_file: r
            .text("cni-log-file")
            .unwrap_or_else(|| "/var/run/cilium/cilium-cni.log".to_owned()),
        raw: r.raw(),
    };
    if config.enable_ipv4 {
        r.refuse("enable-ipv4", "false", "IPv4 is not implemented yet");
    }
    if !config.enable_ipv6 && !config.enable_ipv4 {
        r.refuse("enable-ipv6", "true", "at least one address family is needed");
    }
    if config.health_port == 0 {
        r.refuse(
            "agent-health-port",
            "a port number (1 to 65535)",
            "the kubelet has to know the port",
        );
    }
    if config.ip_masq_agent && !(config.bpf_masquerade && config.ipv6_masquerade) {
        r.no_effect(
            "enable-ip-masq-agent",
            "it needs enable-bpf-masquerade and enable-ipv6-masquerade",
        );
    }
    if config.bpf_masquerade
        && config.ipv6_masquerade
        && config
            .ipv6_native_routing_cidr
            .is_some_and(|cidr| cidr.prefix_len() == 0)
    {
        r.no_effect(
            "enable-bpf-masquerade",
            "ipv6-native-routing-cidr is ::/0, so that pods reach everything with their own address",
        );
    }
    // Cilium would leave it to iptables. Only whoever writes the key is told: the chart always does.
    if config.ipv6_masquerade && !config.bpf_masquerade && r.value("enable-ipv6-masquerade").is_some() {
        r.no_effect(
            "enable-ipv6-masquerade",
            "it needs enable-bpf-masquerade: pods reach everything with their own address",
        );
    }
    // Without the prefix, packets between pods would be masqueraded, too.
    if config.bpf_masquerade && config.ipv6_masquerade && config.ipv6_native_routing_cidr.is_none() {
        r.no_effect(
            "enable-bpf-masquerade",
            "it needs ipv6-native-routing-cidr, the prefix that pods reach with their own address",
        );
    }
    Some(config)
}

#[cfg(test)]
mod tests;
