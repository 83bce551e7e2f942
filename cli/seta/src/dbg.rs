//! The verbs of `cilium-dbg`: what one agent knows, asked over its socket and printed as Cilium's users know it.
//!
//! Everything is fetched as JSON; tables are made from it here, `-o json` prints it as it came.

mod bpf;
mod jsonpath;
mod lists;
mod monitor;
mod output;
mod services;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use api::{Client, path};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};

use output::Output;

/// Look into the agent of this node.
#[derive(Debug, Parser)]
#[command(name = "cilium-dbg", disable_version_flag = true)]
pub(crate) struct Args {
    /// Socket of the agent.
    #[arg(short = 'H', long = "host", env = "CILIUM_SOCK", default_value = api::SOCKET, global = true)]
    host: PathBuf,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 30, global = true)]
    timeout: u64,
    #[command(subcommand)]
    verb: Verb,
}

/// `-o` of every command that prints data.
#[derive(Debug, clap::Args)]
struct Format {
    /// `json`, or `jsonpath='{.path}'`.
    #[arg(short, long, value_parser = output::parse)]
    output: Option<Output>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Display status of daemon
    Status(status::Args),
    /// Manage endpoints
    #[command(subcommand)]
    Endpoint(Endpoint),
    /// Manage IP addresses and associated information
    #[command(subcommand)]
    Ip(Ip),
    /// Manage security identities
    #[command(subcommand)]
    Identity(Identity),
    /// Manage services & loadbalancers
    #[command(subcommand)]
    Service(List),
    /// Direct access to local BPF maps
    #[command(subcommand)]
    Bpf(bpf::Verb),
    /// Access userspace cached content of BPF maps
    #[command(subcommand)]
    Map(List),
    /// Manage cluster nodes
    #[command(subcommand)]
    Node(List),
    /// Cilium configuration options
    Config {
        /// Print only this key.
        key: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Access metric status
    #[command(subcommand)]
    Metrics(Metrics),
    /// Display BPF program events
    Monitor(monitor::Args),
    /// Print version information
    Version {
        #[command(flatten)]
        format: Format,
    },
}

#[derive(Debug, Subcommand)]
enum Endpoint {
    /// List all endpoints
    List(Format),
    /// Display endpoint information
    Get {
        /// Number of the endpoint.
        id: u32,
        #[command(flatten)]
        format: Format,
    },
}

#[derive(Debug, Subcommand)]
enum Ip {
    /// List IP addresses in the userspace IPcache
    List(Format),
    /// Display IP Information
    Get {
        /// Address or prefix.
        address: String,
        #[command(flatten)]
        format: Format,
    },
}

#[derive(Debug, Subcommand)]
enum Identity {
    /// List identities
    List(Format),
    /// Retrieve information about an identity
    Get {
        /// Number of the identity.
        id: u32,
        #[command(flatten)]
        format: Format,
    },
}

#[derive(Debug, Subcommand)]
enum List {
    /// List all of them
    List(Format),
}

#[derive(Debug, Subcommand)]
enum Metrics {
    /// List all metrics for this agent
    List {
        /// Only metrics whose name contains this.
        #[arg(short = 'p', long = "match-pattern", default_value = "")]
        pattern: String,
        #[command(flatten)]
        format: Format,
    },
}

/// Runs a verb. The exit code is 1 when the agent cannot be asked, or says that something is wrong.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { host, timeout, verb } = args;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let client = Client::new(host, Duration::from_secs(timeout));
    runtime.block_on(dispatch(&client, verb))
}

async fn dispatch(client: &Client, verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Status(args) => return status::run(client, args).await,
        Verb::Monitor(args) => monitor::run(client, args).await?,
        Verb::Bpf(verb) => bpf::run(client, verb).await?,
        Verb::Endpoint(Endpoint::List(format)) => {
            print(client, path::ENDPOINT, format, lists::endpoints).await?;
        }
        Verb::Endpoint(Endpoint::Get { id, format }) => {
            // Cilium answers a list of one here.
            let endpoint: Value = client.get(&format!("{}/{id}", path::ENDPOINT)).await?;
            output::or_json(format.output, &Value::Array(vec![endpoint]))?;
        }
        Verb::Ip(Ip::List(format)) => print(client, path::IP, format, lists::addresses).await?,
        Verb::Ip(Ip::Get { address, format }) => get_address(client, &address, format).await?,
        Verb::Identity(Identity::List(format)) => {
            print(client, path::IDENTITY, format, lists::identities).await?;
        }
        Verb::Identity(Identity::Get { id, format }) => {
            let identity: Value = client.get(&format!("{}/{id}", path::IDENTITY)).await?;
            output::data(format.output, identity, |identity| {
                lists::identities(vec![identity])
            })?;
        }
        Verb::Service(List::List(format)) => print(client, path::SERVICE, format, services::services).await?,
        Verb::Map(List::List(format)) => print(client, path::MAP, format, lists::maps).await?,
        Verb::Node(List::List(format)) => print(client, path::NODE, format, lists::nodes).await?,
        Verb::Config { key, format } => config(client, key, format).await?,
        Verb::Metrics(Metrics::List { pattern, format }) => {
            let mut metrics: Vec<api::objects::Metric> = client.get(path::METRICS).await?;
            metrics.retain(|metric| metric.name.contains(&pattern));
            output::data(format.output, serde_json::to_value(metrics)?, lists::metrics)?;
        }
        Verb::Version { format } => version(client, format).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Fetches a list and prints it.
async fn print<T: serde::de::DeserializeOwned>(
    client: &Client,
    path: &str,
    format: Format,
    table: fn(T) -> Vec<Vec<String>>,
) -> anyhow::Result<()> {
    let value: Value = client.get(path).await?;
    output::data(format.output, value, table)
}

async fn get_address(client: &Client, address: &str, format: Format) -> anyhow::Result<()> {
    let all: Vec<api::objects::IpEntry> = client.get(path::IP).await?;
    let bare = |text: &str| text.split('/').next().unwrap_or_default().to_owned();
    let found = all
        .into_iter()
        .find(|entry| entry.cidr == address || bare(&entry.cidr) == address);
    let entry = found.with_context(|| format!("address {address} is not known"))?;
    output::data(format.output, serde_json::to_value(entry)?, lists::address)
}

async fn config(client: &Client, key: Option<String>, format: Format) -> anyhow::Result<()> {
    let value: Value = client.get(path::CONFIG).await?;
    let Some(key) = key else {
        return output::data(format.output, value, lists::configuration);
    };
    let found = value["spec"]["options"]
        .get(&key)
        .with_context(|| format!("key {key:?} is not set"))?;
    output::or_text(
        format.output,
        &json!({ key: found }),
        found.as_str().unwrap_or_default(),
    )
}

async fn version(client: &Client, format: Format) -> anyhow::Result<()> {
    let daemon: Result<api::objects::DaemonConfiguration, _> = client.get(path::CONFIG).await;
    let own = env!("CARGO_PKG_VERSION");
    let daemon = daemon.map_or_else(|_| "-".to_owned(), |configuration| configuration.status.version);
    let value = json!({ "Client": { "Version": own }, "Daemon": { "Version": daemon } });
    output::or_text(format.output, &value, &format!("Client: {own}\nDaemon: {daemon}"))
}
