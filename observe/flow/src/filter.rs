//! Which flows somebody wants to see.
//!
//! [`FlowFilter`] is what the API says, in its own words. [`Filter`] is the same, compiled once: expressions, prefixes and selectors
//! are checked and parsed before the first flow. Within a field the values are alternatives; all fields must match.

mod field;
mod parse;
mod selector;

use crate::event::Event;
use crate::flow::{DropCode, Flow, IpVersion, TrafficDirection, Verdict, Workload};
use crate::layer4::TcpFlags;

pub use field::Field;
pub use selector::{Selector, SelectorError};

/// `event_type`: kind 0 is any; the subtype only counts if it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventTypeFilter {
    /// Type of the monitor message.
    pub kind: i32,
    /// Its subtype.
    pub subtype: Option<i32>,
}

/// A filter as the API has it (`reference/cilium.md` §1.3); every list that is empty matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// Addresses or prefixes.
    pub source_ip: Vec<String>,
    /// Addresses or prefixes.
    pub destination_ip: Vec<String>,
    /// Addresses or prefixes behind source NAT.
    pub source_ip_xlated: Vec<String>,
    /// `[namespace/]prefix of the name`.
    pub source_pod: Vec<String>,
    /// `[namespace/]prefix of the name`.
    pub destination_pod: Vec<String>,
    /// DNS names, `*` stands for anything.
    pub source_fqdn: Vec<String>,
    /// DNS names, `*` stands for anything.
    pub destination_fqdn: Vec<String>,
    /// Selectors.
    pub source_label: Vec<String>,
    /// Selectors.
    pub destination_label: Vec<String>,
    /// `[namespace/]prefix of the name`.
    pub source_service: Vec<String>,
    /// `[namespace/]prefix of the name`.
    pub destination_service: Vec<String>,
    /// Owners of the pod; an empty name or kind is any.
    pub source_workload: Vec<Workload>,
    /// Owners of the pod; an empty name or kind is any.
    pub destination_workload: Vec<Workload>,
    /// Clusters.
    pub source_cluster_name: Vec<String>,
    /// Clusters.
    pub destination_cluster_name: Vec<String>,
    /// Identities.
    pub source_identity: Vec<u32>,
    /// Identities.
    pub destination_identity: Vec<u32>,
    /// Ports in decimal.
    pub source_port: Vec<String>,
    /// Ports in decimal.
    pub destination_port: Vec<String>,
    /// Verdicts.
    pub verdict: Vec<Verdict>,
    /// Drop reasons.
    pub drop_reason_desc: Vec<DropCode>,
    /// Devices: index (0: any) and name (empty: any).
    pub interface: Vec<(u32, String)>,
    /// Monitor messages.
    pub event_type: Vec<EventTypeFilter>,
    /// `404`, `4+`.
    pub http_status_code: Vec<String>,
    /// `tcp`, `dns` …
    pub protocol: Vec<String>,
    /// Whether it answers.
    pub reply: Vec<bool>,
    /// Expressions on the name that was asked for.
    pub dns_query: Vec<String>,
    /// Methods.
    pub http_method: Vec<String>,
    /// Expressions on the path.
    pub http_path: Vec<String>,
    /// Expressions on the URL.
    pub http_url: Vec<String>,
    /// Keys and values.
    pub http_header: Vec<(String, String)>,
    /// All of these flags are set.
    pub tcp_flags: Vec<TcpFlags>,
    /// `node`, `cluster/node`, `*` stands for anything but `/`.
    pub node_name: Vec<String>,
    /// Selectors on the node's labels.
    pub node_labels: Vec<String>,
    /// Families.
    pub ip_version: Vec<IpVersion>,
    /// Traces.
    pub trace_id: Vec<String>,
    /// Trace numbers in packets.
    pub ip_trace_id: Vec<u64>,
    /// Unique names.
    pub uuid: Vec<String>,
    /// Directions.
    pub traffic_direction: Vec<TrafficDirection>,
    /// Whether it travels encrypted.
    pub encrypted: Vec<bool>,
    /// Expressions in CEL: refused, we have no CEL.
    pub cel_expression: Vec<String>,
}

/// A filter that cannot be.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FilterError {
    /// No address and no prefix.
    #[error("{field}: {value:?} is neither an address nor a prefix")]
    Address {
        /// Name in the API.
        field: &'static str,
        /// What was said.
        value: String,
    },
    /// No port.
    #[error("{field}: {value:?} is no port")]
    Port {
        /// Name in the API.
        field: &'static str,
        /// What was said.
        value: String,
    },
    /// No protocol that we know.
    #[error("protocol: {0:?} is unknown")]
    Protocol(String),
    /// No status.
    #[error("http_status_code: {0:?} is neither a status nor the beginning of one with a plus")]
    Status(String),
    /// No name.
    #[error("{field}: {value:?} names nothing")]
    Name {
        /// Name in the API.
        field: &'static str,
        /// What was said.
        value: String,
    },
    /// No expression.
    #[error("{field}: bad expression")]
    Expression {
        /// Name in the API.
        field: &'static str,
        /// Why.
        #[source]
        source: regex::Error,
    },
    /// No selector.
    #[error("{field}: bad selector")]
    Selector {
        /// Name in the API.
        field: &'static str,
        /// Why.
        #[source]
        source: SelectorError,
    },
    /// CEL.
    #[error("experimental.cel_expression is not supported")]
    Cel,
    /// More values than anybody needs.
    #[error("a filter of more than {MAX_VALUES} values")]
    Large,
}

/// Values of one filter: beyond it, a request is an attack.
pub const MAX_VALUES: usize = 10_000;

/// A compiled [`FlowFilter`].
#[derive(Clone, Debug, Default)]
pub struct Filter {
    fields: Vec<Field>,
}

impl Filter {
    /// Checks and compiles.
    ///
    /// # Errors
    /// [`FilterError`] for the first value that means nothing.
    pub fn new(filter: &FlowFilter) -> Result<Self, FilterError> {
        Ok(Self {
            fields: parse::fields(filter)?,
        })
    }

    /// Whether all fields match.
    #[must_use]
    pub fn matches(&self, flow: &Flow) -> bool {
        self.fields.iter().all(|field| field.matches(flow))
    }
}

/// Allow list and deny list: any of the first, if there are any, and none of the second.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    allow: Vec<Filter>,
    deny: Vec<Filter>,
}

impl Filters {
    /// Checks and compiles both lists.
    ///
    /// # Errors
    /// [`FilterError`] for the first value that means nothing.
    pub fn new(allow: &[FlowFilter], deny: &[FlowFilter]) -> Result<Self, FilterError> {
        let compile = |list: &[FlowFilter]| list.iter().map(Filter::new).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            allow: compile(allow)?,
            deny: compile(deny)?,
        })
    }

    /// Whether the flow is wanted.
    #[must_use]
    pub fn matches(&self, flow: &Flow) -> bool {
        (self.allow.is_empty() || self.allow.iter().any(|filter| filter.matches(flow)))
            && !self.deny.iter().any(|filter| filter.matches(flow))
    }

    /// Whether the item is wanted by somebody who asks for flows: losses always are, the agent's events never.
    #[must_use]
    pub fn admits(&self, event: &Event) -> bool {
        match event {
            Event::Flow(flow) => self.matches(flow),
            Event::Lost(_) => true,
            Event::Agent(..) | Event::Debug(..) => false,
        }
    }
}
