//! `seta upgrade`: other values, or the chart of a newer `seta`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::cli::Global;
use crate::cluster::{self, Told as _, detect};
use crate::failure::EXIT_CODES;
use crate::install::{Plan, deploy, duration, installed, object_to, render};
use crate::progress::{output, step};
use crate::release::History;
use crate::settings::{self, Settings};
use crate::values::merge;
use crate::{chart, status};

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
    settings: Settings,
    /// Keep the values that were set before (the default)
    #[arg(long, visible_alias = "reset-then-reuse-values")]
    reuse_values: bool,
    /// Forget the values that were set before
    #[arg(long, conflicts_with = "reuse_values")]
    reset_values: bool,
    /// Print the objects instead of applying them
    #[arg(long)]
    dry_run: bool,
    /// Print the values instead of applying anything
    #[arg(long, conflicts_with = "dry_run")]
    dry_run_helm_values: bool,
    /// Wait until every agent is ready
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    wait_duration: Duration,
    /// Take over objects that another installation made
    #[arg(long)]
    force: bool,
}

/// Runs `seta upgrade`.
pub(crate) async fn run(global: &Global, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let given = arguments.settings.read()?;
    settings::complete(&given)?;
    let cluster = cluster::connect(global).await?;
    let history = History::of(&cluster);
    let last = installed(history.last().await?)?;
    let mut user = if arguments.reset_values {
        json!({})
    } else {
        last.user_values()
    };
    merge(&mut user, given);
    let facts = detect::facts(&cluster).await.told("looking at the cluster")?;
    for line in detect::autodetect(&facts, &mut user) {
        eprintln!("{line}");
    }
    let values = settings::complete(&user)?;
    object_to(&facts, &values)?;
    if arguments.dry_run_helm_values {
        output(&serde_saphyr::to_string(&user)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let revision = last.revision() + 1;
    let manifests = render(&cluster, &values, revision)?;
    if arguments.dry_run {
        output(&chart::stream(&manifests))?;
        return Ok(ExitCode::SUCCESS);
    }
    let plan = Plan {
        cluster: &cluster,
        history: &history,
        user: &user,
        manifests: &manifests,
        last: Some(&last),
    };
    deploy(plan, revision, arguments.force).await?;
    step(
        "✅",
        format_args!(
            "Seta was upgraded to revision {revision} (chart {})",
            env!("CARGO_PKG_VERSION")
        ),
    );
    if arguments.wait {
        return status::wait(&cluster, arguments.wait_duration).await;
    }
    Ok(ExitCode::SUCCESS)
}
