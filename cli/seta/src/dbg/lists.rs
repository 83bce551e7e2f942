//! Tables of endpoints, addresses, identities, nodes, maps, configuration and metrics, with Cilium's columns.

use std::net::IpAddr;

use api::Endpoint;
use api::objects::{DaemonConfiguration, Identity, IpEntry, Metric, Node, NodeAddress};
use api::tables::MapInfo;

use super::output::row;

type Table = Vec<Vec<String>>;

pub(super) fn endpoints(mut list: Vec<Endpoint>) -> Table {
    list.sort_by_key(|endpoint| endpoint.id);
    let mut table = vec![
        row([
            "ENDPOINT",
            "POLICY (ingress)",
            "POLICY (egress)",
            "IDENTITY",
            "LABELS (source:key[=value])",
            "IPv6",
            "IPv4",
            "STATUS",
        ]),
        row(["", "ENFORCEMENT", "ENFORCEMENT", "", "", "", "", ""]),
    ];
    for Endpoint { id, status } in list {
        let enforced = |direction: &str| {
            let policy = status.policy.realized.policy_enabled.as_str();
            if policy == "both" || policy == direction {
                "Enabled"
            } else {
                "Disabled"
            }
        };
        let address = status.networking.addressing.first().cloned().unwrap_or_default();
        let mut labels = status.identity.labels.iter();
        let identity = if status.identity.id == 0 {
            "<no label id>".to_owned()
        } else {
            status.identity.id.to_string()
        };
        table.push(vec![
            id.to_string(),
            enforced("ingress").to_owned(),
            enforced("egress").to_owned(),
            identity,
            labels.next().cloned().unwrap_or_else(|| "no labels".to_owned()),
            address.ipv6.unwrap_or_default(),
            address.ipv4.unwrap_or_default(),
            status.state.clone(),
        ]);
        table.extend(labels.map(|label| row(["", "", "", "", label, "", "", ""])));
    }
    table
}

pub(super) fn addresses(mut list: Vec<IpEntry>) -> Table {
    list.sort_by(|a, b| a.cidr.cmp(&b.cidr));
    let mut table = vec![row(["IP", "IDENTITY", "SOURCE"])];
    table.extend(
        list.into_iter()
            .map(|entry| vec![entry.cidr, identity_name(entry.identity), entry.metadata.source]),
    );
    table
}

pub(super) fn address(entry: IpEntry) -> Table {
    let IpEntry {
        cidr,
        identity,
        host_ip,
        metadata,
    } = entry;
    vec![
        row(["IP", "HOST", "IDENTITY", "POD", "NAMESPACE"]),
        vec![
            cidr,
            host_ip,
            identity_name(identity),
            metadata.name,
            metadata.namespace,
        ],
    ]
}

/// Reserved identities are printed with their label.
fn identity_name(number: u32) -> String {
    let identity = model::identity::Identity(number);
    identity
        .reserved_name()
        .map_or_else(|| number.to_string(), |name| format!("reserved:{name}"))
}

pub(super) fn identities(mut list: Vec<Identity>) -> Table {
    list.sort_by_key(|identity| identity.id);
    let mut table = vec![row(["ID", "LABELS", "REFCOUNT"])];
    for Identity {
        id,
        labels,
        ref_count,
    } in list
    {
        let mut labels = labels.into_iter();
        table.push(vec![
            id.to_string(),
            labels.next().unwrap_or_default(),
            ref_count.to_string(),
        ]);
        table.extend(labels.map(|label| vec![String::new(), label, String::new()]));
    }
    table
}

pub(super) fn nodes(mut list: Vec<Node>) -> Table {
    list.sort_by(|a, b| a.name.cmp(&b.name));
    let mut table = vec![row([
        "Name",
        "IPv4 Address",
        "Endpoint CIDR",
        "IPv6 Address",
        "Endpoint CIDR",
        "Source",
    ])];
    for Node {
        name,
        primary_address,
        source,
    } in list
    {
        let NodeAddress {
            ip: v4,
            alloc_range: v4_range,
        } = primary_address.ipv4.unwrap_or_default();
        let NodeAddress {
            ip: v6,
            alloc_range: v6_range,
        } = primary_address.ipv6.unwrap_or_default();
        table.push(vec![name, v4, v4_range, v6, v6_range, source]);
    }
    table
}

pub(super) fn maps(list: Vec<MapInfo>) -> Table {
    let mut table = vec![row(["Name", "Num entries", "Num errors", "Cache enabled"])];
    table.extend(list.into_iter().map(|map| {
        vec![
            map.name,
            map.entries
                .map_or_else(|| "-".to_owned(), |entries| entries.to_string()),
            map.errors.to_string(),
            map.cache_enabled.to_string(),
        ]
    }));
    table
}

pub(super) fn configuration(configuration: DaemonConfiguration) -> Table {
    let DaemonConfiguration { spec, status } = configuration;
    let mut table = vec![row(["##### Read-write configurations #####"])];
    table.extend(
        spec.options
            .into_iter()
            .map(|(key, value)| vec![key, ":".to_owned(), value]),
    );
    if !spec.unknown.is_empty() {
        table.push(row(["##### Keys that this agent does not know #####"]));
        table.extend(spec.unknown.into_iter().map(|key| vec![key]));
    }
    table.push(row(["##### Measured #####"]));
    table.extend([
        vec!["node-name".to_owned(), ":".to_owned(), status.node_name],
        vec![
            "device-mtu".to_owned(),
            ":".to_owned(),
            status.device_mtu.to_string(),
        ],
        vec!["datapath-mode".to_owned(), ":".to_owned(), status.datapath_mode],
        vec!["version".to_owned(), ":".to_owned(), status.version],
    ]);
    table
}

pub(super) fn metrics(list: Vec<Metric>) -> Table {
    let mut table = vec![row(["Metric", "Labels", "Value"])];
    for Metric { name, labels, value } in list {
        let labels = labels
            .iter()
            .map(|(key, value)| format!("{key}=\"{value}\""))
            .collect::<Vec<_>>()
            .join(" ");
        table.push(vec![name, labels, format!("{value:.6}")]);
    }
    table
}

/// `[fd00::1]:80` or `10.0.0.1:80`.
pub(super) fn socket(address: &str, port: u16) -> String {
    match address.parse() {
        Ok(IpAddr::V4(v4)) => format!("{v4}:{port}"),
        _ => format!("[{address}]:{port}"),
    }
}
