//! The verbs that look at something and change nothing. Whoever runs them asks one agent or many.

use api::path;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::question::{Answer, Question};
use super::{bpf, lists, output, services};
use crate::failure::Failure;

/// What to look at. `F`: the flags that every verb has.
#[derive(Debug, Subcommand)]
pub(crate) enum Look<F: Args> {
    /// Manage endpoints
    #[command(subcommand)]
    Endpoint(Endpoint<F>),
    /// Manage IP addresses and associated information
    #[command(subcommand)]
    Ip(Ip<F>),
    /// Manage security identities
    #[command(subcommand)]
    Identity(Identity<F>),
    /// Manage services & loadbalancers
    #[command(subcommand)]
    Service(List<F>),
    /// Direct access to local BPF maps
    #[command(subcommand)]
    Bpf(bpf::Verb<F>),
    /// Access userspace cached content of BPF maps
    #[command(subcommand)]
    Map(List<F>),
    /// Access metric status
    #[command(subcommand)]
    Metrics(Metrics<F>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Endpoint<F: Args> {
    /// List all endpoints
    List(F),
    /// Display endpoint information
    Get {
        /// Number of the endpoint.
        id: u32,
        #[command(flatten)]
        flags: F,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Ip<F: Args> {
    /// List IP addresses in the userspace IPcache
    List(F),
    /// Display IP Information
    Get {
        /// Address or prefix.
        address: String,
        #[command(flatten)]
        flags: F,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Identity<F: Args> {
    /// List identities
    List(F),
    /// Retrieve information about an identity
    Get {
        /// Number of the identity.
        id: u32,
        #[command(flatten)]
        flags: F,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum List<F: Args> {
    /// List all of them
    List(F),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Metrics<F: Args> {
    /// List all metrics for this agent
    List {
        /// Only metrics whose name contains this.
        #[arg(short = 'p', long = "match-pattern", default_value = "")]
        pattern: String,
        #[command(flatten)]
        flags: F,
    },
}

impl<F: Args> Look<F> {
    /// What is asked, and the flags it is asked with.
    pub(crate) fn question(self) -> (Question, F) {
        match self {
            Self::Endpoint(Endpoint::List(flags)) => (Question::new(path::ENDPOINT, lists::endpoints), flags),
            Self::Endpoint(Endpoint::Get { id, flags }) => {
                // Cilium answers a list of one here.
                let one = |endpoint| Answer::json(Value::Array(vec![endpoint]));
                (Question::shaped(format!("{}/{id}", path::ENDPOINT), one), flags)
            }
            Self::Ip(Ip::List(flags)) => (Question::new(path::IP, lists::addresses), flags),
            Self::Ip(Ip::Get { address, flags }) => {
                let entry = move |all| find_address(all, &address);
                (Question::shaped(path::IP, entry), flags)
            }
            Self::Identity(Identity::List(flags)) => {
                (Question::new(path::IDENTITY, lists::identities), flags)
            }
            Self::Identity(Identity::Get { id, flags }) => {
                let table = |identity| lists::identities(vec![identity]);
                (Question::new(format!("{}/{id}", path::IDENTITY), table), flags)
            }
            Self::Service(List::List(flags)) => (Question::new(path::SERVICE, services::services), flags),
            Self::Bpf(verb) => verb.question(),
            Self::Map(List::List(flags)) => (Question::new(path::MAP, lists::maps), flags),
            Self::Metrics(Metrics::List { pattern, flags }) => {
                let matching = move |all| matching_metrics(all, &pattern);
                (Question::shaped(path::METRICS, matching), flags)
            }
        }
    }
}

fn find_address(all: Value, address: &str) -> anyhow::Result<Answer> {
    let all: Vec<api::objects::IpEntry> = output::typed(all)?;
    let bare = |text: &str| text.split('/').next().unwrap_or_default().to_owned();
    let found = all
        .into_iter()
        .find(|entry| entry.cidr == address || bare(&entry.cidr) == address);
    let entry = found.ok_or_else(|| Failure::NotFound(format!("address {address} is not known")))?;
    Ok(Answer {
        data: serde_json::to_value(&entry)?,
        text: output::columns(&lists::address(entry)),
    })
}

fn matching_metrics(all: Value, pattern: &str) -> anyhow::Result<Answer> {
    let mut metrics: Vec<api::objects::Metric> = output::typed(all)?;
    metrics.retain(|metric| metric.name.contains(pattern));
    Ok(Answer {
        data: serde_json::to_value(&metrics)?,
        text: output::columns(&lists::metrics(metrics)),
    })
}
