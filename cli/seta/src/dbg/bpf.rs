//! `bpf …`: the datapath's maps as they are in the kernel now.

use api::path;
use api::tables::{CacheEntry, Connection, DatapathMetric, LocalEndpoint};
use clap::{Args, Subcommand, ValueEnum};

use super::lists::socket;
use super::look::List;
use super::nat::{self, Nat};
use super::output::row;
use super::question::Question;
use super::services::{self, Lb};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb<F: Args> {
    /// Connection tracking tables
    #[command(subcommand)]
    Ct(Ct<F>),
    /// NAT mapping tables
    #[command(subcommand)]
    Nat(Nat<F>),
    /// ip-masq-agent CIDRs
    #[command(subcommand)]
    Ipmasq(List<F>),
    /// BPF datapath traffic metrics
    #[command(subcommand)]
    Metrics(List<F>),
    /// Manage the IPCache mappings for IP/CIDR <-> Identity
    #[command(subcommand)]
    Ipcache(List<F>),
    /// Local endpoint map
    #[command(subcommand)]
    Endpoint(List<F>),
    /// Load-balancing configuration
    #[command(subcommand)]
    Lb(Lb<F>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Ct<F: Args> {
    /// List connection tracking entries
    List {
        /// Which table; there is one for the whole node.
        #[arg(value_enum, default_value = "global")]
        table: CtTable,
        #[command(flatten)]
        flags: F,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum CtTable {
    /// The node's table.
    Global,
}

impl<F: Args> Verb<F> {
    /// What is asked, and the flags it is asked with.
    pub(super) fn question(self) -> (Question, F) {
        match self {
            Self::Ct(Ct::List {
                table: CtTable::Global,
                flags,
            }) => (Question::lines(path::BPF_CT, connection), flags),
            Self::Nat(Nat::List { protocol, flags }) => (nat::translations(protocol), flags),
            Self::Ipmasq(List::List(flags)) => (Question::new(path::BPF_IPMASQ, nat::plain), flags),
            Self::Metrics(List::List(flags)) => (Question::new(path::BPF_METRICS, metrics), flags),
            Self::Ipcache(List::List(flags)) => (Question::new(path::BPF_IPCACHE, ipcache), flags),
            Self::Endpoint(List::List(flags)) => (Question::new(path::BPF_ENDPOINT, endpoints), flags),
            Self::Lb(Lb::List { part, flags }) => (services::load_balancer(part), flags),
        }
    }
}

fn connection(connection: &Connection) -> String {
    let protocol = protocol(connection.protocol);
    // Bits as in `abi::CtEntry`, named as Cilium names them.
    let mut names: Vec<&str> = [(1, "TxClosing"), (2, "RxClosing"), (16, "SeenNonSyn")]
        .iter()
        .filter(|(bit, _)| connection.flags & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    names.insert(0, "[");
    names.push("]");
    format!(
        "{protocol} {} {} -> {} expires={} (remaining: {} sec(s)) Packets={} Bytes={} RxFlagsSeen={:#04x} \
         LastRxReport={} TxFlagsSeen={:#04x} LastTxReport={} Flags={:#06x} {} RevNAT={} SourceSecurityID={} \
         BackendID=0 NatPort=0",
        connection.direction,
        socket(&connection.source, connection.source_port),
        socket(&connection.destination, connection.destination_port),
        connection.expires,
        connection.remaining,
        connection.packets,
        connection.bytes,
        connection.rx_flags,
        connection.last_rx_report,
        connection.tx_flags,
        connection.last_tx_report,
        connection.flags,
        names.join(" "),
        connection.rev_nat,
        connection.source_identity,
    )
}

/// Name of an IP protocol.
pub(super) fn protocol(number: u8) -> String {
    match number {
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        58 => "ICMPv6".to_owned(),
        1 => "ICMP".to_owned(),
        132 => "SCTP".to_owned(),
        other => other.to_string(),
    }
}

fn metrics(list: Vec<DatapathMetric>) -> Vec<Vec<String>> {
    let mut table = vec![row(["REASON", "DIRECTION", "PACKETS", "BYTES"])];
    table.extend(list.into_iter().map(|metric| {
        vec![
            metric.reason,
            metric.direction,
            metric.packets.to_string(),
            metric.bytes.to_string(),
        ]
    }));
    table
}

fn ipcache(mut list: Vec<CacheEntry>) -> Vec<Vec<String>> {
    list.sort_by(|a, b| a.prefix.cmp(&b.prefix));
    let mut table = vec![row(["IP PREFIX/ADDRESS", "IDENTITY"])];
    table.extend(list.into_iter().map(|entry| {
        let flags = if entry.flags == 0 {
            "<none>".to_owned()
        } else {
            format!("{:#x}", entry.flags)
        };
        let info = format!(
            "identity={} encryptkey=0 tunnelendpoint={} flags={flags}",
            entry.identity,
            // We have no tunnels; the column names the node that hosts the address.
            entry.node,
        );
        vec![entry.prefix, info]
    }));
    table
}

fn endpoints(mut list: Vec<LocalEndpoint>) -> Vec<Vec<String>> {
    list.sort_by(|a, b| a.address.cmp(&b.address));
    let mut table = vec![row(["IP ADDRESS", "LOCAL ENDPOINT INFO"])];
    table.extend(list.into_iter().map(|entry| {
        let info = if entry.flags & 1 != 0 {
            "(localhost)".to_owned()
        } else {
            format!(
                "id={} sec_id={} flags={:#06x} ifindex={} mac={} nodemac={}",
                entry.id, entry.identity, entry.flags, entry.ifindex, entry.mac, entry.node_mac
            )
        };
        vec![entry.address, info]
    }));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_one_line_in_ciliums_words() {
        let connection = Connection {
            protocol: 6,
            direction: "OUT".into(),
            source: "fd00::1".into(),
            source_port: 37446,
            destination: "fd00::2".into(),
            destination_port: 80,
            expires: 100,
            remaining: 60,
            packets: 5,
            bytes: 500,
            tx_flags: 0x1a,
            rx_flags: 0x12,
            flags: 0x0010,
            source_identity: 30324,
            ..Connection::default()
        };
        assert_eq!(
            super::connection(&connection),
            "TCP OUT [fd00::1]:37446 -> [fd00::2]:80 expires=100 (remaining: 60 sec(s)) Packets=5 Bytes=500 \
             RxFlagsSeen=0x12 LastRxReport=0 TxFlagsSeen=0x1a LastTxReport=0 Flags=0x0010 [ SeenNonSyn ] RevNAT=0 \
             SourceSecurityID=30324 BackendID=0 NatPort=0"
        );
    }
}
