//! `seta status`: how Seta is on every node, measured just now, in the layout of `cilium status`.

mod collect;
mod layout;
mod report;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use crate::cli::Global;
use crate::cluster::{self, Cluster};
use crate::failure::EXIT_CODES;
use crate::install::duration;
use crate::progress::{Waiting, output};
use report::Report;

/// Between two looks while waiting.
const INTERVAL: Duration = Duration::from_secs(1);
/// How much longer than the time to wait the last look may take.
const LAST_LOOK: Duration = Duration::from_secs(15);

const EXAMPLES: &str = "\
Examples:
  seta status
  seta status --wait --wait-duration 2m
  seta status -o json | jq .errors

Every agent is asked by running `cilium status -o json` in its pod; nothing is read from the \
configuration but the lines under \"Configuration\". The exit code is 1 when there are errors, or \
when --wait ran out of time.";

/// Flags of `seta status`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    /// Wait until there are no errors and no warnings
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    wait_duration: Duration,
    /// Do not wait for warnings to go away
    #[arg(long)]
    ignore_warnings: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Summary)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Summary,
    /// For programs
    Json,
}

/// Runs `seta status`.
pub(crate) async fn run(global: &Global, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let cluster = cluster::connect(global).await?;
    let report = if arguments.wait {
        settle(&cluster, arguments.wait_duration, arguments.ignore_warnings).await?
    } else {
        collect::report(&cluster).await?
    };
    match arguments.output {
        Output::Summary => output(&layout::summary(&report))?,
        Output::Json => output(&(serde_json::to_string_pretty(&report)? + "\n"))?,
    }
    Ok(verdict(
        &report,
        arguments.wait.then_some(arguments.wait_duration),
        arguments.ignore_warnings,
    ))
}

/// Waits until everything is well, and prints what it came to: the end of `install --wait`.
pub(crate) async fn wait(cluster: &Cluster, limit: Duration) -> anyhow::Result<ExitCode> {
    let report = settle(cluster, limit, false).await?;
    output(&layout::summary(&report))?;
    Ok(verdict(&report, Some(limit), false))
}

/// The exit code, and for one who waited in vain, why.
fn verdict(report: &Report, waited: Option<Duration>, ignore_warnings: bool) -> ExitCode {
    if let Some(limit) = waited
        && let Some(reason) = report.unsettled(ignore_warnings)
    {
        eprintln!("\nError: not ready after {} s: {reason}", limit.as_secs());
        return ExitCode::FAILURE;
    }
    if report.has_errors() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Looks until everything is well or the time is over; the last report either way.
async fn settle(cluster: &Cluster, limit: Duration, ignore_warnings: bool) -> anyhow::Result<Report> {
    let deadline = Instant::now() + limit;
    let mut waiting = Waiting::default();
    loop {
        // The last look may take as long as an agent may, and no longer: the cluster may have stopped to answer.
        let look = deadline.saturating_duration_since(Instant::now()) + LAST_LOOK;
        let outcome = tokio::time::timeout(look, collect::report(cluster))
            .await
            .unwrap_or_else(|_| Err(anyhow::anyhow!("the cluster stopped to answer")));
        let over = Instant::now() >= deadline;
        match outcome {
            Ok(report) => match report.unsettled(ignore_warnings) {
                Some(reason) if !over => waiting.say(&format!("Waiting for {reason}")),
                _ => {
                    waiting.done();
                    return Ok(report);
                }
            },
            // The API server may restart while an agent does; the deadline bounds how long that is believed.
            Err(error) if !over => waiting.say(&format!("{error:#}")),
            Err(error) => {
                waiting.done();
                return Err(error);
            }
        }
        tokio::time::sleep(INTERVAL.min(deadline.saturating_duration_since(Instant::now()))).await;
    }
}
