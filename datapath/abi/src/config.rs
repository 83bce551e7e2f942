//! Load-time constants. They sit in the object's read-only data, which is frozen before the verifier runs, so that
//! whatever they switch off is removed from the program.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Addr;

/// Everything that is fixed while a set of programs is loaded.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Config {
    /// IPv6 address of the router, as pods know it (the address of `cilium_host`).
    pub router_v6: Addr,
    /// IPv4-mapped address of the router; unspecified when IPv4 is off.
    pub router_v4: Addr,
    /// Cookie of the node's network namespace (`SO_NETNS_COOKIE`); 0: no process is kept from node ports.
    pub node_namespace: u64,
    /// How often an aggregated connection is reported per direction, nanoseconds.
    pub monitor_interval: u64,
    /// Lifetimes of conntrack entries, nanoseconds.
    pub ct_tcp: u64,
    /// TCP before it is established.
    pub ct_syn: u64,
    /// TCP after FIN or RST.
    pub ct_close: u64,
    /// Everything but TCP.
    pub ct_any: u64,
    /// First address of the prefix whose addresses are reached without masquerade (`ipv6-native-routing-cidr`).
    pub native_v6: Addr,
    /// Interface index of `cilium_host`.
    pub host_ifindex: u32,
    /// 1: packets are forwarded with the kernel's FIB and redirects; 0: by the stack.
    pub host_routing: u8,
    /// 0 none, 1 lowest, 2 low, 3 medium, 4 maximum (Cilium `pkg/option/monitor.go`).
    pub monitor_aggregation: u8,
    /// TCP flags whose first appearance is reported (wire bits).
    pub monitor_flags: u8,
    /// 1: IPv6 is on.
    pub enable_ipv6: u8,
    /// 1: IPv4 is on.
    pub enable_ipv4: u8,
    /// 1: services are translated packet by packet where no socket hook did it.
    pub services: u8,
    /// 1: IPv6 packets of pods leave with the address of the node.
    pub masquerade_v6: u8,
    /// Length of the prefix at `native_v6`, bits; 0 with masquerade: every destination but nodes is masqueraded.
    pub native_v6_bits: u8,
    /// First and last port that masquerade and service translation may use, native order.
    pub nat_ports: [u16; 2],
}

const SECOND: u64 = 1_000_000_000;

impl Config {
    /// Cilium's defaults, for IPv6 with host routing.
    pub const DEFAULT: Self = Self {
        router_v6: Addr::UNSPECIFIED,
        router_v4: Addr::UNSPECIFIED,
        node_namespace: 0,
        monitor_interval: 5 * SECOND,
        ct_tcp: 8000 * SECOND,
        ct_syn: 60 * SECOND,
        ct_close: 10 * SECOND,
        ct_any: 60 * SECOND,
        native_v6: Addr::UNSPECIFIED,
        host_ifindex: 0,
        host_routing: 1,
        monitor_aggregation: 3,
        monitor_flags: 0xff,
        enable_ipv6: 1,
        enable_ipv4: 0,
        services: 0,
        masquerade_v6: 0,
        native_v6_bits: 0,
        nat_ports: [32_768, 65_535],
    };
}

impl Default for Config {
    fn default() -> Self {
        Self::DEFAULT
    }
}
