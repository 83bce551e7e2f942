//! The verbs of `cilium-dbg`: what one agent knows, asked over its socket and printed as Cilium's users know it.
//!
//! Everything is fetched as JSON; tables are made from it here, `-o json` prints it as it came.

mod bpf;
mod jsonpath;
mod lists;
mod look;
mod monitor;
mod nat;
mod output;
mod question;
mod services;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use api::{Client, ClientError, path};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::progress;
use crate::spool::Spool;
pub(crate) use jsonpath::JsonPath;
pub(crate) use look::Look;
pub(crate) use output::Output;
pub(crate) use question::{Answer, Question};

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
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Format {
    /// `json`, or `jsonpath='{.path}'`.
    #[arg(short, long, value_parser = output::parse)]
    pub(crate) output: Option<Output>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Display status of daemon
    Status(status::Args),
    #[command(flatten)]
    Look(Look<Format>),
    /// Manage cluster nodes
    #[command(subcommand)]
    Node(look::List<Format>),
    /// Cilium configuration options
    Config {
        /// Print only this key.
        key: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Display BPF program events
    Monitor(monitor::Args),
    /// Print version information
    Version {
        #[command(flatten)]
        format: Format,
    },
    /// Print what the agent answers to a GET, as it comes: how `seta` asks the agents of other nodes
    #[command(hide = true)]
    Get {
        /// Path in the agent's API.
        path: String,
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
        Verb::Look(look) => {
            let (question, format) = look.question();
            ask(client, &question, &format).await?;
        }
        Verb::Node(look::List::List(format)) => {
            ask(client, &Question::new(path::NODE, lists::nodes), &format).await?;
        }
        Verb::Config { key, format } => {
            let question = match key {
                None => Question::new(path::CONFIG, lists::configuration),
                Some(key) => Question::shaped(path::CONFIG, move |value| option(&value, &key)),
            };
            ask(client, &question, &format).await?;
        }
        Verb::Version { format } => {
            let answer = version(client).await;
            match &format.output {
                Some(output) => progress::output(&output::rendered(output, &answer.data)?)?,
                None => progress::output(&answer.text)?,
            }
        }
        Verb::Get { path } => {
            let copied = client.copy(&path, &mut std::io::stdout()).await;
            copied.map_err(refused)?;
            println!();
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks, and prints the answer.
async fn ask(client: &Client, question: &Question, format: &Format) -> anyhow::Result<()> {
    let mut answer = Spool::default();
    client.copy(&question.path, &mut answer).await.map_err(refused)?;
    progress::written(|out| match &format.output {
        Some(output) => output::write(output, &question.data(answer)?, out),
        None => question.print(answer, out),
    })
}

/// Whatever the agent does not have is told by the exit code, too.
fn refused(error: ClientError) -> anyhow::Error {
    match error {
        ClientError::Refused { status: 404, error } => Failure::NotFound(error.error).into(),
        error => error.into(),
    }
}

/// One key of the configuration.
fn option(value: &Value, key: &str) -> anyhow::Result<Answer> {
    let found = value["spec"]["options"]
        .get(key)
        .ok_or_else(|| Failure::NotFound(format!("key {key:?} is not set")))?;
    Ok(Answer {
        data: json!({ key: found }),
        text: format!("{}\n", found.as_str().unwrap_or_default()),
    })
}

async fn version(client: &Client) -> Answer {
    let daemon: Result<api::objects::DaemonConfiguration, _> = client.get(path::CONFIG).await;
    let own = env!("CARGO_PKG_VERSION");
    let daemon = daemon.map_or_else(|_| "-".to_owned(), |configuration| configuration.status.version);
    Answer {
        data: json!({ "Client": { "Version": own }, "Daemon": { "Version": daemon } }),
        text: format!("Client: {own}\nDaemon: {daemon}\n"),
    }
}
