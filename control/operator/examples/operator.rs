//! The operator alone, without building the datapath: `cargo run -p seta-operator --example operator -- --kubeconfig FILE`.

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    operator: seta_operator::Args,
}

fn main() -> anyhow::Result<ExitCode> {
    seta_operator::run(Cli::parse().operator)
}
