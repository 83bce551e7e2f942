//! `seta upgrade`: other values, or the chart of a newer `seta`.

use std::process::ExitCode;

use clap::Args;

use crate::cli::Global;
use crate::cluster;
use crate::failure::EXIT_CODES;
use crate::install::{Rollout, deploy, installed};
use crate::progress::step;
use crate::release::History;
use crate::settings;
use crate::values::merge;

const EXAMPLES: &str = "\
Examples:
  seta upgrade --set debug.enabled=false --wait
  seta upgrade --reset-values -f values.yaml
  seta upgrade --dry-run | kubectl diff -f -

Values that were set before stay, unless --reset-values is given. Agents restart one after the \
other; connections of pods go on meanwhile, as the programs stay in the kernel.";

/// Flags of `seta upgrade`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(flatten)]
    rollout: Rollout,
    /// Keep the values that were set before (the default)
    #[arg(long, visible_alias = "reset-then-reuse-values")]
    reuse_values: bool,
    /// Forget the values that were set before
    #[arg(long, conflicts_with = "reuse_values")]
    reset_values: bool,
}

/// Runs `seta upgrade`.
pub(crate) async fn run(global: &Global, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let rollout = arguments.rollout;
    let given = rollout.settings.read()?;
    // A mistake in the values is told before the cluster is asked anything.
    settings::complete(&given)?;
    let cluster = cluster::connect(global).await?;
    let history = History::of(&cluster);
    let last = installed(history.last().await?)?;
    let user = if arguments.reset_values {
        given
    } else {
        // As Helm does: a `null` takes back what was given before, the chart's default holds again.
        let mut user = last.user_values();
        merge(&mut user, given);
        user
    };
    let Some(plan) = rollout.plan(&cluster, user, Some(&last)).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    deploy(&cluster, &history, &plan, rollout.force).await?;
    step(
        "✅",
        format_args!(
            "Seta was upgraded to revision {} (chart {})",
            plan.revision,
            env!("CARGO_PKG_VERSION")
        ),
    );
    rollout.settle(&cluster).await
}
