//! `cargo xtask bench`: the performance table. Every row is a ratio taken side by side in one run; method and first figures
//! are in docs/performance.md.

mod connects;
mod first_packet;
mod kube_proxy;
mod node;
mod one_node;
mod packets;
mod service_sync;
mod services;
mod table;
mod topology;
mod traffic;
mod variant;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
#[command(about = "Measure Seta's datapath against plain kernel routing and against redirects only")]
struct Args {
    /// Rounds; variants alternate within each. Medians are reported.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Length of one sample, seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// How many pods the CNI row adds and removes.
    #[arg(long, default_value_t = 100)]
    adds: usize,
    /// The binary whose agent is measured.
    #[arg(long, default_value = "target/release/seta")]
    seta: PathBuf,
    /// Sizes of the tables of services; the largest 100000.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1_000, 10_000, 100_000])]
    sizes: Vec<u32>,
    /// Connections of one sample.
    #[arg(long, default_value_t = 6_000)]
    connections: usize,
    /// Only one part.
    #[arg(long, value_enum)]
    only: Option<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Pod to pod: rates, and the programs' own cost.
    Packets,
    /// CNI, start of the agent, memory.
    Node,
    /// Connections through services.
    Services,
    /// The agent with many services.
    Sync,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let wanted = |part| args.only.is_none_or(|only| only == part);
    if wanted(Part::Packets) {
        packets::run(
            args.rounds.max(1),
            Duration::from_secs_f64(args.seconds.clamp(0.1, 60.0)),
        )?;
    }
    if wanted(Part::Services) {
        services::run(&args.sizes, args.rounds.max(1), args.connections.max(1))?;
    }
    // Minutes of making services first: only when asked for.
    if args.only == Some(Part::Sync) {
        service_sync::run(&args.seta)?;
    }
    if wanted(Part::Node) {
        node::run(&args.seta, args.adds.max(1))?;
    }
    Ok(())
}
