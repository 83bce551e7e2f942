//! `cargo xtask bench`: the performance table. Every row is a ratio taken side by side in one run; method and first figures
//! are in docs/performance.md.

mod packets;
mod table;
mod topology;
mod traffic;
mod variant;

use std::{process::ExitCode, time::Duration};

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
    packets::run(args.rounds.max(1), Duration::from_secs_f64(args.seconds.clamp(0.1, 60.0)))
}
