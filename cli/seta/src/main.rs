//! `seta`: the one binary. What people type, and behind other names the agent, the operator, the CNI plugin and the
//! tool inside the agent's pod.
//!
//! Which of them it is is decided before anything else happens, as the CNI plugin runs for every pod and must not
//! wait for a command line parser or a runtime. Everything here is thin: the work is done by the crates.
#![forbid(unsafe_code)]

mod apply;
mod cli;
mod cluster;
mod config;
mod dbg;
mod failure;
mod install;
mod nodes;
mod progress;
mod release;
mod settings;
mod spool;
mod status;
mod uninstall;
mod upgrade;
mod version;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use cli::{Cli, Command};
use seta::{chart, values};

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let name = arguments
        .first()
        .map(Path::new)
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    // The names under which Kubernetes and Cilium's users call us: each is one of our own subcommands.
    let subcommand = match name.unwrap_or_default() {
        "cilium-cni" => return cni::run(),
        "cilium-agent" => Some("agent"),
        "cilium-operator" | "cilium-operator-generic" => Some("operator"),
        "cilium" | "cilium-dbg" => Some("dbg"),
        _ => None,
    };
    if let Some(subcommand) = subcommand {
        arguments.splice(..1, ["seta".into(), subcommand.into()]);
    }
    match run(Cli::parse_from(arguments)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\nError: {error:#}");
            failure::code(&error)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    cli.check()?;
    let before = cli.global;
    match cli.command {
        Command::Lab(command) => lab::run(command),
        Command::Agent(arguments) => agent::run(arguments),
        Command::Operator(arguments) => operator::run(arguments),
        Command::Dbg(arguments) => dbg::run(arguments),
        Command::Cni => Ok(cni::run()),
        Command::NodeCleanup(arguments) => block_on(agent::cleanup(arguments)),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "seta", &mut script);
            progress::output(&String::from_utf8_lossy(&script))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Install(arguments) => block_on(install::run(&arguments.global.or(&before), arguments)),
        Command::Upgrade(arguments) => block_on(upgrade::run(&arguments.global.or(&before), arguments)),
        Command::Uninstall(arguments) => block_on(uninstall::run(&arguments.global.or(&before), arguments)),
        Command::Status(arguments) => block_on(status::run(&arguments.global.or(&before), arguments)),
        Command::Config(arguments) => block_on(config::run(&arguments.global.or(&before), arguments.command)),
        Command::Look(look) => block_on(nodes::run(&before, look)),
        Command::Version(arguments) => block_on(version::run(&arguments.global.or(&before), arguments)),
    }
}

/// A command that talks to a cluster waits more than it computes: one thread is enough.
fn block_on(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(work);
    // Whatever still blocks in a resolver thread does not keep the user.
    runtime.shutdown_background();
    outcome
}
