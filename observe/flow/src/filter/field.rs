//! One field of a compiled filter, and whether a flow matches it.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use regex::Regex;

use super::EventTypeFilter;
use super::selector::Selector;
use crate::flow::{
    DropCode, Endpoint, Flow, FlowKind, IpVersion, Service, TrafficDirection, Uuid, Verdict, Workload,
};
use crate::layer4::{Layer4, TcpFlags};
use crate::layer7::{Http, Layer7Record};

/// The side that a field is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The sender.
    Source,
    /// The receiver.
    Destination,
}

/// An address or a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// One.
    Address(IpAddr),
    /// Many.
    Prefix(IpNet),
}

impl Block {
    fn contains(&self, address: IpAddr) -> bool {
        match self {
            Self::Address(one) => *one == address,
            Self::Prefix(prefix) => prefix.contains(&address),
        }
    }
}

/// Namespace (none: any) and beginning of the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePrefix {
    /// Namespace; none: any.
    pub namespace: Option<String>,
    /// Beginning of the name.
    pub prefix: String,
}

impl NamePrefix {
    fn matches(&self, namespace: &str, name: &str) -> bool {
        let right = self.namespace.as_deref().is_none_or(|wanted| wanted == namespace);
        // `ns/` is the whole namespace; something without a name is in none.
        right && name.starts_with(&self.prefix) && !(namespace.is_empty() && name.is_empty())
    }
}

/// What `protocol` may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Both families.
    Icmp,
    /// ICMP for IPv4.
    Icmp4,
    /// ICMP for IPv6.
    Icmp6,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// VRRP.
    Vrrp,
    /// IGMP.
    Igmp,
    /// DNS.
    Dns,
    /// HTTP.
    Http,
    /// Kafka.
    Kafka,
}

/// A status or the beginning of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// `404`.
    Exact(u32),
    /// `4+`: the digits before the plus.
    Prefix(String),
}

/// One field with its alternatives.
#[derive(Clone, Debug)]
pub enum Field {
    /// `source_ip`, `destination_ip`.
    Ip(Side, Vec<Block>),
    /// `source_ip_xlated`.
    Xlated(Vec<Block>),
    /// `source_pod`, `destination_pod`.
    Pod(Side, Vec<NamePrefix>),
    /// `source_service`, `destination_service`.
    Service(Side, Vec<NamePrefix>),
    /// `source_fqdn`, `destination_fqdn`.
    Fqdn(Side, Vec<Regex>),
    /// `source_label`, `destination_label`.
    Label(Side, Vec<Selector>),
    /// `source_workload`, `destination_workload`.
    Workload(Side, Vec<Workload>),
    /// `source_cluster_name`, `destination_cluster_name`.
    Cluster(Side, Vec<String>),
    /// `source_identity`, `destination_identity`.
    Identity(Side, Vec<u32>),
    /// `source_port`, `destination_port`.
    Port(Side, Vec<u16>),
    /// `verdict`.
    Verdict(Vec<Verdict>),
    /// `drop_reason_desc`.
    DropReason(Vec<DropCode>),
    /// `interface`.
    Interface(Vec<(u32, String)>),
    /// `event_type`.
    EventType(Vec<EventTypeFilter>),
    /// `http_status_code`.
    HttpStatus(Vec<Status>),
    /// `protocol`.
    Protocol(Vec<Protocol>),
    /// `reply`.
    Reply(Vec<bool>),
    /// `dns_query`.
    DnsQuery(Vec<Regex>),
    /// `http_method`.
    HttpMethod(Vec<String>),
    /// `http_path`.
    HttpPath(Vec<Regex>),
    /// `http_url`.
    HttpUrl(Vec<Regex>),
    /// `http_header`.
    HttpHeader(Vec<(String, String)>),
    /// `tcp_flags`.
    TcpFlags(Vec<TcpFlags>),
    /// `node_name`.
    NodeName(Vec<Regex>),
    /// `node_labels`.
    NodeLabels(Vec<Selector>),
    /// `ip_version`.
    IpVersion(Vec<IpVersion>),
    /// `trace_id`.
    TraceId(Vec<String>),
    /// `ip_trace_id`.
    IpTraceId(Vec<u64>),
    /// `uuid`; none: no UUID, matches nothing.
    Uuid(Vec<Option<Uuid>>),
    /// `traffic_direction`.
    Direction(Vec<TrafficDirection>),
    /// `encrypted`.
    Encrypted(Vec<bool>),
}

impl Field {
    /// Whether one of the alternatives matches.
    #[must_use]
    pub fn matches(&self, flow: &Flow) -> bool {
        match self {
            Self::Ip(side, blocks) => any(ip(flow, *side), blocks, |block, address| block.contains(*address)),
            Self::Xlated(blocks) => any(
                flow.ip.and_then(|ip| ip.source_xlated),
                blocks,
                |block, address| block.contains(*address),
            ),
            Self::Pod(side, names) => any(endpoint(flow, *side), names, |name, it| {
                name.matches(&it.namespace, &it.pod_name)
            }),
            Self::Service(side, names) => any(service(flow, *side), names, |name, it| {
                name.matches(&it.namespace, &it.name)
            }),
            Self::Fqdn(side, patterns) => {
                let names = match side {
                    Side::Source => &flow.source_names,
                    Side::Destination => &flow.destination_names,
                };
                names.iter().any(|name| {
                    let name = name.trim_end_matches('.');
                    patterns.iter().any(|pattern| pattern.is_match(name))
                })
            }
            Self::Label(side, selectors) => {
                let labels = endpoint(flow, *side).map_or(&[][..], |it| &it.labels);
                selectors.iter().any(|selector| selector.matches(labels))
            }
            Self::Workload(side, wanted) => any(endpoint(flow, *side), wanted, |wanted, it| {
                it.workloads.iter().any(|has| {
                    (wanted.name.is_empty() || wanted.name == has.name)
                        && (wanted.kind.is_empty() || wanted.kind == has.kind)
                })
            }),
            Self::Cluster(side, names) => any(endpoint(flow, *side), names, |name, it| {
                **name == *it.cluster_name
            }),
            Self::Identity(side, numbers) => any(endpoint(flow, *side), numbers, |number, it| {
                *number == it.identity
            }),
            Self::Port(side, ports) => any(
                flow.l4.and_then(|l4| l4.ports()),
                ports,
                |port, (source, target)| {
                    port == match side {
                        Side::Source => source,
                        Side::Destination => target,
                    }
                },
            ),
            Self::Verdict(verdicts) => verdicts.contains(&flow.verdict),
            Self::DropReason(codes) => {
                flow.verdict == Verdict::Dropped && any(flow.drop_reason, codes, |code, is| code == is)
            }
            Self::Interface(wanted) => any(flow.interface.as_ref(), wanted, |(index, name), (is, called)| {
                (*index == 0 || index == is) && (name.is_empty() || **name == **called)
            }),
            Self::EventType(types) => types.iter().any(|wanted| {
                wanted.kind == 0
                    || wanted.kind == flow.event_type.kind
                        && wanted
                            .subtype
                            .is_none_or(|subtype| subtype == flow.event_type.subtype)
            }),
            Self::HttpStatus(wanted) => any(
                http(flow).filter(|http| http.code != 0),
                wanted,
                |wanted, http| match wanted {
                    Status::Exact(code) => *code == http.code,
                    Status::Prefix(prefix) => http.code.to_string().starts_with(prefix),
                },
            ),
            Self::Protocol(wanted) => wanted.iter().any(|wanted| protocol(flow, *wanted)),
            Self::Reply(wanted) => {
                // A dropped packet opened a connection as far as anybody knows.
                let reply = flow
                    .is_reply
                    .or((flow.verdict == Verdict::Dropped).then_some(false));
                any(reply, wanted, |wanted, is| wanted == is)
            }
            Self::DnsQuery(patterns) => any(dns_query(flow), patterns, |pattern, query| {
                pattern.is_match(query)
            }),
            Self::HttpMethod(methods) => any(http(flow), methods, |method, http| {
                method.eq_ignore_ascii_case(&http.method)
            }),
            Self::HttpPath(patterns) => any(http(flow), patterns, |pattern, http| {
                pattern.is_match(path(&http.url))
            }),
            Self::HttpUrl(patterns) => any(http(flow), patterns, |pattern, http| pattern.is_match(&http.url)),
            Self::HttpHeader(wanted) => any(http(flow), wanted, |(key, value), http| {
                http.headers
                    .iter()
                    .any(|(has, is)| **key == **has && **value == **is)
            }),
            Self::TcpFlags(wanted) => match flow.l4 {
                Some(Layer4::Tcp {
                    flags: Some(flags), ..
                }) => wanted.iter().any(|wanted| flags.contains(*wanted)),
                _ => false,
            },
            Self::NodeName(patterns) => {
                let name = &*flow.node_name;
                // Without a cluster the node is one of the cluster `default`.
                if name.contains('/') {
                    patterns.iter().any(|pattern| pattern.is_match(name))
                } else {
                    let name = format!("default/{name}");
                    patterns.iter().any(|pattern| pattern.is_match(&name))
                }
            }
            Self::NodeLabels(selectors) => selectors
                .iter()
                .any(|selector| selector.matches(&flow.node_labels)),
            Self::IpVersion(wanted) => wanted.contains(&flow.ip.map(|ip| ip.version).unwrap_or_default()),
            Self::TraceId(wanted) => any(flow.rare.as_ref(), wanted, |id, rare| **id == *rare.trace_id),
            Self::IpTraceId(wanted) => any(
                flow.rare.as_ref().and_then(|rare| rare.ip_trace_id),
                wanted,
                |id, (is, _)| id == is,
            ),
            Self::Uuid(wanted) => any(flow.uuid, wanted, |wanted, is| *wanted == Some(*is)),
            Self::Direction(wanted) => wanted.contains(&flow.direction),
            Self::Encrypted(wanted) => any(flow.ip, wanted, |wanted, ip| *wanted == ip.encrypted),
        }
    }
}

/// Whether there is a fact, and one of the alternatives matches it.
fn any<T, A>(fact: Option<T>, alternatives: &[A], matches: impl Fn(&A, &T) -> bool) -> bool {
    fact.is_some_and(|fact| alternatives.iter().any(|alternative| matches(alternative, &fact)))
}

fn ip(flow: &Flow, side: Side) -> Option<IpAddr> {
    let ip = flow.ip?;
    match side {
        Side::Source => ip.source,
        Side::Destination => ip.destination,
    }
}

fn endpoint(flow: &Flow, side: Side) -> Option<&Endpoint> {
    match side {
        Side::Source => flow.source.as_deref(),
        Side::Destination => flow.destination.as_deref(),
    }
}

fn service(flow: &Flow, side: Side) -> Option<&Arc<Service>> {
    match side {
        Side::Source => flow.source_service.as_ref(),
        Side::Destination => flow.destination_service.as_ref(),
    }
}

fn record(flow: &Flow) -> Option<&Layer7Record> {
    flow.l7.as_ref()?.record.as_ref()
}

fn http(flow: &Flow) -> Option<&Http> {
    match record(flow)? {
        Layer7Record::Http(http) if flow.kind == FlowKind::L7 || flow.kind == FlowKind::Unknown => Some(http),
        _ => None,
    }
}

fn dns_query(flow: &Flow) -> Option<&str> {
    match record(flow)? {
        Layer7Record::Dns(dns) => Some(&dns.query),
        _ => None,
    }
}

/// The path of a URL, without scheme, host, query and fragment.
fn path(url: &str) -> &str {
    let rest = match url.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("", |slash| &rest[slash..]),
        None => url,
    };
    rest.find(['?', '#']).map_or(rest, |end| &rest[..end])
}

fn protocol(flow: &Flow, wanted: Protocol) -> bool {
    match wanted {
        Protocol::Icmp => matches!(flow.l4, Some(Layer4::Icmp4 { .. } | Layer4::Icmp6 { .. })),
        Protocol::Icmp4 => matches!(flow.l4, Some(Layer4::Icmp4 { .. })),
        Protocol::Icmp6 => matches!(flow.l4, Some(Layer4::Icmp6 { .. })),
        Protocol::Tcp => matches!(flow.l4, Some(Layer4::Tcp { .. })),
        Protocol::Udp => matches!(flow.l4, Some(Layer4::Udp { .. })),
        Protocol::Sctp => matches!(flow.l4, Some(Layer4::Sctp { .. })),
        Protocol::Vrrp => matches!(flow.l4, Some(Layer4::Vrrp { .. })),
        Protocol::Igmp => matches!(flow.l4, Some(Layer4::Igmp { .. })),
        Protocol::Dns => matches!(record(flow), Some(Layer7Record::Dns(_))),
        Protocol::Http => matches!(record(flow), Some(Layer7Record::Http(_))),
        Protocol::Kafka => matches!(record(flow), Some(Layer7Record::Kafka(_))),
    }
}
