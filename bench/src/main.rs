//! `cargo xtask bench`: the performance table. Every row is a ratio taken side by side in one run; method and first figures
//! are in docs/performance.md.

mod node;
mod packets;
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
    /// Only packets, or only the node.
    #[arg(long, value_enum)]
    only: Option<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Pod to pod: rates, and the programs' own cost.
    Packets,
    /// CNI, start of the agent, memory.
    Node,
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
    if args.only != Some(Part::Node) {
        packets::run(
            args.rounds.max(1),
            Duration::from_secs_f64(args.seconds.clamp(0.1, 60.0)),
        )?;
    }
    if args.only != Some(Part::Packets) {
        node::run(&args.seta, args.adds.max(1))?;
    }
    Ok(())
}
