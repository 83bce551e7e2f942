//! `seta version`: this binary, and the agents of the cluster.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;
use serde_json::json;

use crate::chart;
use crate::cli::Global;
use crate::cluster;
use crate::failure::EXIT_CODES;
use crate::progress::output;

/// A version is asked for in passing: nobody wants to wait for a cluster that is not there.
const DEADLINE: Duration = Duration::from_secs(3);

/// Flags of `seta version`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    /// Do not ask the cluster
    #[arg(long)]
    client: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Runs `seta version`.
pub(crate) async fn run(global: &Global, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let version = env!("CARGO_PKG_VERSION");
    let commit = env!("SETA_COMMIT");
    let chart = chart::metadata()?;
    let running = if arguments.client {
        None
    } else {
        Some(running(global).await)
    };
    if arguments.output == Output::Json {
        let mut out = json!({
            "client": {"version": format!("v{version}"), "commit": commit},
            "chart": {"name": chart.name, "version": chart.version},
        });
        match &running {
            Some(Ok(images)) => out["cluster"] = json!(images),
            Some(Err(error)) => out["error"] = json!(error),
            None => {}
        }
        output(&(serde_json::to_string_pretty(&out)? + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = format!(
        "seta: v{version} (commit {commit})\nchart: {} {}\n",
        chart.name, chart.version
    );
    match running {
        Some(Ok(images)) if images.is_empty() => text.push_str("cluster: not installed\n"),
        Some(Ok(images)) => {
            text.extend(
                images
                    .iter()
                    .map(|(container, image)| format!("cluster: {container} {image}\n")),
            );
        }
        Some(Err(error)) => text.push_str(&format!("cluster: unknown ({error})\n")),
        None => {}
    }
    output(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Images of the agents' containers; an error is for people only.
async fn running(global: &Global) -> Result<BTreeMap<String, String>, String> {
    let ask = async {
        let cluster = cluster::connect(global)
            .await
            .map_err(|error| format!("{error:#}"))?;
        let daemonsets = Api::<DaemonSet>::namespaced(cluster.client.clone(), &cluster.namespace);
        let found = daemonsets
            .get_opt("cilium")
            .await
            .map_err(|error| cluster::told(&error))?;
        let containers = found
            .and_then(|found| found.spec.template.spec)
            .map(|pod| pod.containers)
            .unwrap_or_default();
        Ok(containers
            .into_iter()
            .map(|container| (container.name, container.image.unwrap_or_default()))
            .collect())
    };
    tokio::time::timeout(DEADLINE, ask).await.unwrap_or_else(|_| {
        Err(format!(
            "the cluster did not answer within {} seconds",
            DEADLINE.as_secs()
        ))
    })
}
