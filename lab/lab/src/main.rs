//! `seta-lab`: the lab without the rest of `seta`. `seta-lab up` is `seta lab up`; so is `seta-lab lab up`, since the
//! lab calls its own binary by the longer way.

use std::process::ExitCode;

use clap::Parser;

/// A Kubernetes cluster on one Linux machine.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: seta_lab::Command,
}

fn main() -> ExitCode {
    let arguments = std::env::args_os()
        .enumerate()
        .filter(|(i, argument)| *i != 1 || argument != "lab");
    let cli = Cli::parse_from(arguments.map(|(_, argument)| argument));
    seta_lab::run(cli.command).unwrap_or_else(|error| {
        eprintln!("Error: {error:#}");
        ExitCode::FAILURE
    })
}
