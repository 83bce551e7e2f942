//! `seta lab status`

use std::process::ExitCode;

use serde::Serialize;

use crate::cli::{Output, Status as Args};
use crate::kubeconfig;
use crate::state::{NodeSpec, Paths, Phase, Process, Status};

/// What `status -o json` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    cluster: String,
    /// `Running`, `Starting`, `Stopping`, `Failed`, `Crashed` (there are leftovers, but no supervisor) or `Absent`
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    supervisor: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ready_after_ms: Option<u64>,
    nodes: Vec<Node>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    name: String,
    address: String,
    /// The kubelet's process, if it is alive now
    kubelet: Option<u32>,
    restarts: u32,
}

/// Prints the state; exit code 0 when the cluster runs with all its kubelets, 1 otherwise.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let report = look(&Paths::of(&args.cluster.name))?;
    match args.output {
        Output::Json => super::print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?,
        Output::Text => super::print(&text(&report))?,
    }
    let healthy = report.state == "Running" && report.nodes.iter().all(|node| node.kubelet.is_some());
    Ok(if healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn look(paths: &Paths) -> anyhow::Result<Report> {
    let spec = paths.read_spec()?;
    let status = paths.read_status()?.unwrap_or_default();
    let supervisor = paths.live_supervisor().map(|process| process.pid);
    let processes = paths.recorded_processes();
    let kubelet = |node: &NodeSpec| {
        let record = format!("kubelet-{}", node.name);
        processes
            .iter()
            .find(|(name, process): &&(String, Process)| *name == record && process.is_alive())
    };
    let nodes = spec.iter().flat_map(|spec| &spec.nodes).map(|node| Node {
        name: node.name.clone(),
        address: node.address.to_string(),
        kubelet: kubelet(node).map(|(_, process)| process.pid),
        restarts: restarts(&status, &node.name),
    });
    Ok(Report {
        cluster: paths.cluster().to_owned(),
        state: state(spec.is_some(), supervisor.is_some(), status.phase),
        nodes: nodes.collect(),
        context: spec
            .as_ref()
            .map(|spec| (kubeconfig::context(&spec.cluster), &spec.user_kubeconfig))
            .filter(|(context, file)| kubeconfig::is_ours(file, &paths.kubeconfig(), context))
            .map(|(context, file)| format!("{context} in {}", file.display())),
        error: status.error,
        server: status.server,
        supervisor,
        ready_after_ms: status.ready_after_ms,
    })
}

fn restarts(status: &Status, node: &str) -> u32 {
    status
        .kubelets
        .iter()
        .find(|kubelet| kubelet.node == node)
        .map_or(0, |kubelet| kubelet.restarts)
}

/// What is there, from what was written down and what is alive.
fn state(exists: bool, supervised: bool, phase: Phase) -> &'static str {
    match (exists, supervised, phase) {
        (false, _, _) => "Absent",
        (true, _, Phase::Failed) => "Failed",
        (true, false, _) => "Crashed",
        (true, true, Phase::Starting) => "Starting",
        (true, true, Phase::Running) => "Running",
        (true, true, Phase::Stopping) => "Stopping",
    }
}

fn text(report: &Report) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<12} {value}");
    };
    line("Cluster:", &report.cluster);
    line("State:", report.state);
    for (name, value) in [
        ("Error:", report.error.clone()),
        ("API server:", report.server.clone()),
        ("Context:", report.context.clone()),
        ("Supervisor:", report.supervisor.map(|pid| format!("pid {pid}"))),
        ("Ready after:", report.ready_after_ms.map(|ms| format!("{ms} ms"))),
    ] {
        if let Some(value) = value {
            line(name, &value);
        }
    }
    for node in &report.nodes {
        let kubelet = node.kubelet.map_or("kubelet is not running".to_owned(), |pid| {
            format!("kubelet pid {pid}")
        });
        let _ = writeln!(
            out,
            "Node:        {} {}  {kubelet}, {} restarts",
            node.name, node.address, node.restarts
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states() {
        for (exists, supervised, phase, expected) in [
            (false, false, Phase::Starting, "Absent"),
            (true, false, Phase::Running, "Crashed"),
            (true, false, Phase::Starting, "Crashed"),
            (true, true, Phase::Starting, "Starting"),
            (true, true, Phase::Running, "Running"),
            (true, false, Phase::Failed, "Failed"),
            (true, true, Phase::Stopping, "Stopping"),
        ] {
            assert_eq!(state(exists, supervised, phase), expected);
        }
    }
}
