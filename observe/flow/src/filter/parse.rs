//! From the words of the API to compiled fields.

use std::net::IpAddr;

use regex::Regex;

use super::field::{Block, Field, NamePrefix, Protocol, Side, Status};
use super::selector::Selector;
use super::{FilterError, FlowFilter, MAX_VALUES};

/// The fields of a filter that say something; cheap ones first, so that most flows are refused before an expression is run.
pub(super) fn fields(filter: &FlowFilter) -> Result<Vec<Field>, FilterError> {
    // Exhaustive: a field that is added and forgotten here does not compile.
    let FlowFilter {
        source_ip,
        destination_ip,
        source_ip_xlated,
        source_pod,
        destination_pod,
        source_fqdn,
        destination_fqdn,
        source_label,
        destination_label,
        source_service,
        destination_service,
        source_workload,
        destination_workload,
        source_cluster_name,
        destination_cluster_name,
        source_identity,
        destination_identity,
        source_port,
        destination_port,
        verdict,
        drop_reason_desc,
        interface,
        event_type,
        http_status_code,
        protocol,
        reply,
        dns_query,
        http_method,
        http_path,
        http_url,
        http_header,
        tcp_flags,
        node_name,
        node_labels,
        ip_version,
        trace_id,
        ip_trace_id,
        uuid,
        traffic_direction,
        encrypted,
        cel_expression,
    } = filter;
    if !cel_expression.is_empty() {
        return Err(FilterError::Cel);
    }
    let mut fields = Fields::default();
    fields.plain(verdict, Field::Verdict)?;
    fields.plain(event_type, Field::EventType)?;
    fields.plain(ip_version, Field::IpVersion)?;
    fields.plain(traffic_direction, Field::Direction)?;
    fields.plain(drop_reason_desc, Field::DropReason)?;
    fields.plain(reply, Field::Reply)?;
    fields.plain(encrypted, Field::Encrypted)?;
    fields.plain(tcp_flags, Field::TcpFlags)?;
    fields.plain(interface, Field::Interface)?;
    fields.plain(ip_trace_id, Field::IpTraceId)?;
    fields.add(protocol, |name| known_protocol(name), Field::Protocol)?;
    for (side, identities, ports, addresses, pods, services, clusters) in [
        (
            Side::Source,
            source_identity,
            source_port,
            source_ip,
            source_pod,
            source_service,
            source_cluster_name,
        ),
        (
            Side::Destination,
            destination_identity,
            destination_port,
            destination_ip,
            destination_pod,
            destination_service,
            destination_cluster_name,
        ),
    ] {
        let name = |source, destination| if side == Side::Source { source } else { destination };
        fields.plain(identities, |values| Field::Identity(side, values))?;
        fields.add(
            ports,
            |text| port(name("source_port", "destination_port"), text),
            |values| Field::Port(side, values),
        )?;
        fields.add(
            addresses,
            |text| block(name("source_ip", "destination_ip"), text),
            |values| Field::Ip(side, values),
        )?;
        fields.add(
            pods,
            |text| prefix(name("source_pod", "destination_pod"), text),
            |values| Field::Pod(side, values),
        )?;
        fields.add(
            services,
            |text| prefix(name("source_service", "destination_service"), text),
            |values| Field::Service(side, values),
        )?;
        fields.plain(clusters, |values| Field::Cluster(side, values))?;
    }
    fields.add(
        source_ip_xlated,
        |text| block("source_ip_xlated", text),
        Field::Xlated,
    )?;
    fields.add(uuid, |text| Ok(text.parse().ok()), Field::Uuid)?;
    fields.plain(trace_id, Field::TraceId)?;
    fields.plain(http_method, Field::HttpMethod)?;
    fields.plain(http_header, Field::HttpHeader)?;
    fields.add(http_status_code, |text| status(text), Field::HttpStatus)?;
    for (side, workloads, labels, names) in [
        (Side::Source, source_workload, source_label, source_fqdn),
        (
            Side::Destination,
            destination_workload,
            destination_label,
            destination_fqdn,
        ),
    ] {
        let name = |source, destination| if side == Side::Source { source } else { destination };
        fields.plain(workloads, |values| Field::Workload(side, values))?;
        fields.add(
            labels,
            |text| selector(name("source_label", "destination_label"), text),
            |values| Field::Label(side, values),
        )?;
        fields.add(
            names,
            |text| fqdn(name("source_fqdn", "destination_fqdn"), text),
            |values| Field::Fqdn(side, values),
        )?;
    }
    fields.add(
        node_labels,
        |text| selector("node_labels", text),
        Field::NodeLabels,
    )?;
    fields.add(node_name, |text| node(text), Field::NodeName)?;
    fields.add(dns_query, |text| expression("dns_query", text), Field::DnsQuery)?;
    fields.add(http_path, |text| expression("http_path", text), Field::HttpPath)?;
    fields.add(http_url, |text| expression("http_url", text), Field::HttpUrl)?;
    Ok(fields.list)
}

#[derive(Default)]
struct Fields {
    list: Vec<Field>,
    values: usize,
}

impl Fields {
    /// A field whose values are already what they mean.
    fn plain<T: Clone>(
        &mut self,
        values: &[T],
        field: impl FnOnce(Vec<T>) -> Field,
    ) -> Result<(), FilterError> {
        self.add(values, |value| Ok(value.clone()), field)
    }

    fn add<T, V>(
        &mut self,
        values: &[T],
        parse: impl FnMut(&T) -> Result<V, FilterError>,
        field: impl FnOnce(Vec<V>) -> Field,
    ) -> Result<(), FilterError> {
        self.values += values.len();
        if self.values > MAX_VALUES {
            return Err(FilterError::Large);
        }
        if !values.is_empty() {
            self.list
                .push(field(values.iter().map(parse).collect::<Result<_, _>>()?));
        }
        Ok(())
    }
}

fn known_protocol(name: &str) -> Result<Protocol, FilterError> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "icmp" => Protocol::Icmp,
        "icmpv4" => Protocol::Icmp4,
        "icmpv6" => Protocol::Icmp6,
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        "vrrp" => Protocol::Vrrp,
        "igmp" => Protocol::Igmp,
        "dns" => Protocol::Dns,
        "http" => Protocol::Http,
        "kafka" => Protocol::Kafka,
        _ => return Err(FilterError::Protocol(name.to_owned())),
    })
}

fn port(field: &'static str, text: &str) -> Result<u16, FilterError> {
    let bad = || FilterError::Port {
        field,
        value: text.to_owned(),
    };
    // `parse` would take `+80`.
    if text.starts_with('+') {
        Err(bad())
    } else {
        text.parse().map_err(|_| bad())
    }
}

fn block(field: &'static str, text: &str) -> Result<Block, FilterError> {
    let bad = || FilterError::Address {
        field,
        value: text.to_owned(),
    };
    if text.contains('/') {
        text.parse().map(Block::Prefix).map_err(|_| bad())
    } else {
        text.parse::<IpAddr>().map(Block::Address).map_err(|_| bad())
    }
}

fn prefix(field: &'static str, text: &str) -> Result<NamePrefix, FilterError> {
    let (namespace, prefix) = match text.split_once('/') {
        // `/name`: the name in any namespace, the wish behind `--all-namespaces`.
        Some(("", prefix)) => (None, prefix),
        Some((namespace, prefix)) => (Some(namespace), prefix),
        None => (Some("default"), text),
    };
    if prefix.contains('/') || text.is_empty() {
        return Err(FilterError::Name {
            field,
            value: text.to_owned(),
        });
    }
    Ok(NamePrefix {
        namespace: namespace.map(str::to_owned),
        prefix: prefix.to_owned(),
    })
}

fn status(text: &str) -> Result<Status, FilterError> {
    let bad = || FilterError::Status(text.to_owned());
    let digits = text.strip_suffix('+').unwrap_or(text);
    let right = (1..=3).contains(&digits.len())
        && digits.bytes().all(|digit| digit.is_ascii_digit())
        && (b'1'..=b'5').contains(&digits.as_bytes()[0]);
    match (right, digits.len() < text.len()) {
        (true, true) if digits.len() < 3 => Ok(Status::Prefix(digits.to_owned())),
        (true, false) if digits.len() == 3 => digits.parse().map(Status::Exact).map_err(|_| bad()),
        _ => Err(bad()),
    }
}

fn selector(field: &'static str, text: &str) -> Result<Selector, FilterError> {
    Selector::parse(text).map_err(|source| FilterError::Selector { field, source })
}

fn expression(field: &'static str, text: &str) -> Result<Regex, FilterError> {
    Regex::new(text).map_err(|source| FilterError::Expression { field, source })
}

/// `*` is any number of the characters that names are made of.
fn glob(field: &'static str, text: &str, star: &str) -> Result<Regex, FilterError> {
    let pattern: Vec<String> = text.split('*').map(regex::escape).collect();
    expression(field, &format!("(?i)^(?:{})$", pattern.join(star)))
}

fn fqdn(field: &'static str, text: &str) -> Result<Regex, FilterError> {
    let name = text.trim().trim_end_matches('.');
    if name.is_empty() {
        return Err(FilterError::Name {
            field,
            value: text.to_owned(),
        });
    }
    glob(field, name, "[-a-z0-9_.]*")
}

/// `node` is that of the cluster `default`; `cluster/` all nodes of a cluster; `/node` the node of any cluster.
fn node(text: &str) -> Result<Regex, FilterError> {
    let field = "node_name";
    let (cluster, node) = match text.split_once('/') {
        Some((cluster, node)) => (
            if cluster.is_empty() { "*" } else { cluster },
            if node.is_empty() { "*" } else { node },
        ),
        None => ("default", text),
    };
    if node.is_empty() || node.contains('/') {
        return Err(FilterError::Name {
            field,
            value: text.to_owned(),
        });
    }
    glob(field, &format!("{cluster}/{node}"), "[^/]*")
}
