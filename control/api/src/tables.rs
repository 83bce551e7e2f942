//! Dumps of the datapath's maps, read from the kernel when asked for.

use serde::{Deserialize, Serialize};

/// A map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MapInfo {
    /// Its name.
    pub name: String,
    /// Where it is pinned.
    pub path: String,
    /// Entries it holds now; `None`: those of an array, a ring or a map per CPU are not counted.
    pub entries: Option<u64>,
    /// Entries it can hold.
    pub max_entries: u64,
    /// Writes of the agent that failed since it started.
    pub errors: u64,
    /// The agent keeps the desired entries beside the map and restores them.
    pub cache_enabled: bool,
}

/// A conntrack entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connection {
    /// IP protocol number.
    pub protocol: u8,
    /// `OUT` or `IN`.
    pub direction: String,
    /// Who sent the first packet.
    pub source: String,
    /// Source port; for ICMP echo the identifier.
    pub source_port: u16,
    /// Who it was sent to.
    pub destination: String,
    /// Destination port.
    pub destination_port: u16,
    /// When it may be reused: seconds of the monotonic clock since boot.
    pub expires: u64,
    /// Seconds left; negative: it may be reused now.
    pub remaining: i64,
    /// Packets, both directions.
    pub packets: u64,
    /// Bytes, both directions.
    pub bytes: u64,
    /// TCP flags seen from the initiator, wire bits.
    pub tx_flags: u8,
    /// TCP flags seen from the responder.
    pub rx_flags: u8,
    /// Last trace event for the initiator's direction, seconds since boot.
    pub last_tx_report: u64,
    /// Last trace event for the replies.
    pub last_rx_report: u64,
    /// State bits (`abi::CtEntry`).
    pub flags: u16,
    /// Reverse translation; 0: none.
    pub rev_nat: u16,
    /// Identity of the initiator.
    pub source_identity: u32,
    /// Identity of the responder.
    pub destination_identity: u32,
}

/// A counter of the datapath.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DatapathMetric {
    /// Text of the reason; `Success` for forwarded packets.
    pub reason: String,
    /// Number of the reason; 0: forwarded.
    pub code: u8,
    /// `INGRESS` or `EGRESS`.
    pub direction: String,
    /// Packets, all processors.
    pub packets: u64,
    /// Bytes, all processors.
    pub bytes: u64,
}

/// An entry of the identity table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheEntry {
    /// Prefix, for example `fd00::1/128`.
    pub prefix: String,
    /// Identity behind it.
    pub identity: u32,
    /// Node that hosts it; `::` when local or a node.
    pub node: String,
    /// Reserved flags.
    pub flags: u32,
}

/// An entry of the endpoint table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LocalEndpoint {
    /// Address.
    pub address: String,
    /// Endpoint number; 0: an address of the node.
    pub id: u16,
    /// Identity.
    pub identity: u32,
    /// Flag bits (`abi::Endpoint`).
    pub flags: u16,
    /// Host-side device.
    pub ifindex: u32,
    /// MAC inside the pod.
    pub mac: String,
    /// MAC of the host-side device.
    pub node_mac: String,
}

/// Address and port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Place {
    /// Address.
    pub address: String,
    /// Port; for ICMP echo the identifier.
    pub port: u16,
}

/// An entry of the NAT table: how packets of one direction of a connection leave. Each connection has two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Translation {
    /// IP protocol number.
    pub protocol: u8,
    /// `OUT`: from who sent the first packet; `IN`: the answers.
    pub direction: String,
    /// Source before.
    pub source: Place,
    /// Destination before.
    pub destination: Place,
    /// Source afterwards.
    pub new_source: Place,
    /// Destination afterwards.
    pub new_destination: Place,
    /// Made for a service; otherwise for masquerade.
    pub service: bool,
    /// The client is a process of the node.
    pub host: bool,
    /// Answers go from the backend's node straight to the client.
    pub dsr: bool,
    /// Age, seconds.
    pub age: u64,
    /// Seconds left; negative: it may be reused now.
    pub remaining: i64,
}

/// The query of [`crate::path::BPF_NAT`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TranslationsOf {
    /// Only those of this IP protocol.
    pub protocol: Option<u8>,
}
