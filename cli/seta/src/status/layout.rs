//! The report as text, in the layout of `cilium status` (reference §4.2).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::report::{Findings, Report};

/// The logo that people know, one part per line that stands beside it.
const LOGO: [&str; 6] = [
    "    /¯¯\\    ",
    " /¯¯\\__/¯¯\\ ",
    " \\__/¯¯\\__/ ",
    " /¯¯\\__/¯¯\\ ",
    " \\__/¯¯\\__/ ",
    "    \\__/    ",
];
/// Columns between cells.
const GAP: usize = 4;

/// Everything.
pub(crate) fn summary(report: &Report) -> String {
    let components = [
        None,
        Some(("Cilium:", report.verdict("cilium"))),
        Some(("Operator:", report.verdict("cilium-operator"))),
        Some(("Envoy DaemonSet:", report.verdict("cilium-envoy"))),
        Some(("Hubble Relay:", report.verdict("hubble-relay"))),
        Some(("ClusterMesh:", report.verdict("clustermesh-apiserver"))),
    ];
    let mut text = String::new();
    for (logo, component) in LOGO.iter().zip(components) {
        let line = match component {
            Some((name, verdict)) => format!("{logo}   {name:<20}{verdict}"),
            None => (*logo).to_owned(),
        };
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push('\n');
    text.push_str(&align(&rows(report)));
    text
}

type Row = Vec<String>;

fn rows(report: &Report) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (name, workload) in &report.pod_state {
        let counts = format!(
            "Desired: {desired}, Ready: {}/{desired}, Available: {}/{desired}{}",
            workload.ready,
            workload.available,
            if workload.unavailable > 0 {
                format!(", Unavailable: {}/{}", workload.unavailable, workload.desired)
            } else {
                String::new()
            },
            desired = workload.desired,
        );
        rows.push(vec![workload.kind.clone(), name.clone(), counts]);
    }
    let mut section = |title: &str, lines: Vec<Row>| {
        for (index, line) in lines.into_iter().enumerate() {
            let mut row = vec![if index == 0 {
                title.to_owned()
            } else {
                String::new()
            }];
            row.extend(line);
            rows.push(row);
        }
    };
    section(
        "Containers:",
        report
            .phase_count
            .iter()
            .map(|(component, phases)| {
                let phases: Vec<_> = phases
                    .iter()
                    .map(|(phase, count)| format!("{phase}: {count}"))
                    .collect();
                vec![component.clone(), phases.join(", ")]
            })
            .collect(),
    );
    let pods = report.pods_count;
    section(
        "Cluster Pods:",
        vec![vec![format!("{}/{} managed by Cilium", pods.by_cilium, pods.all)]],
    );
    section(
        "Helm chart version:",
        vec![vec![report.helm_chart_version.clone()]],
    );
    let mut images = Vec::new();
    for (component, counts) in &report.image_count {
        for (image, count) in counts {
            images.push(vec![component.clone(), format!("{image}: {count}")]);
        }
    }
    section("Image versions", images);
    let measured = report
        .datapaths()
        .into_iter()
        .map(|(text, count)| vec!["cilium".to_owned(), format!("{text}: {count}")]);
    section("Datapath:", measured.collect());
    section("Errors:", findings(&report.errors, |findings| &findings.errors));
    section(
        "Warnings:",
        findings(&report.errors, |findings| &findings.warnings),
    );
    section(
        "Configuration:",
        report
            .configuration
            .iter()
            .map(|line| vec![line.clone()])
            .collect(),
    );
    rows
}

fn findings(
    errors: &BTreeMap<String, BTreeMap<String, Findings>>,
    of: impl Fn(&Findings) -> &Vec<String>,
) -> Vec<Row> {
    let mut rows = Vec::new();
    for (component, places) in errors {
        for (place, findings) in places {
            for text in of(findings) {
                rows.push(vec![component.clone(), place.clone(), text.clone()]);
            }
        }
    }
    rows
}

/// Cells in columns as wide as their widest cell; the last cell of a row takes what it needs.
pub(crate) fn align(rows: &[Row]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        let inner = row.len().saturating_sub(1);
        for (column, cell) in row.iter().take(inner).enumerate() {
            if widths.len() <= column {
                widths.push(0);
            }
            if let Some(width) = widths.get_mut(column) {
                *width = (*width).max(cell.chars().count());
            }
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == row.len() {
                line.push_str(cell);
            } else {
                let width = widths.get(column).copied().unwrap_or_default() + GAP;
                // Writing to a String cannot fail.
                let _ = write!(line, "{cell:<width$}");
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::report::{Generation, PodsCount, Workload};
    use super::*;

    fn workload(kind: &str, desired: i32, ready: i32) -> Workload {
        Workload {
            kind: kind.into(),
            desired,
            ready,
            available: ready,
            unavailable: desired - ready,
        }
    }

    fn healthy() -> Report {
        let mut report = Report {
            pods_count: PodsCount { all: 5, by_cilium: 5 },
            helm_chart_version: "0.1.0".into(),
            ..Report::default()
        };
        let seen = |updated| Generation {
            wanted: 1,
            observed: 1,
            updated,
        };
        report.add_workload("cilium", workload("DaemonSet", 2, 2), seen(2));
        report.add_workload("cilium-operator", workload("Deployment", 1, 1), seen(1));
        for (component, count) in [("cilium", 2), ("cilium-operator", 1)] {
            report
                .phase_count
                .insert(component.into(), BTreeMap::from([("Running".into(), count)]));
            report.image_count.insert(
                component.into(),
                BTreeMap::from([("ghcr.io/seta/seta:v0.1.0".into(), count)]),
            );
        }
        for pod in ["cilium-a", "cilium-b"] {
            let status = serde_json::json!({
                "cilium": {"state": "Ok", "msg": "v0.1.0"}, "attach-mode": "TCX", "datapath-mode": "veth",
                "routing": {"inter-host-routing-mode": "Native", "intra-host-routing-mode": "BPF"},
            });
            report.add_agent(
                pod,
                serde_json::from_value(status).expect("it is a StatusResponse"),
            );
        }
        report
    }

    #[test]
    fn a_healthy_cluster() {
        let expected = "    /¯¯\\
 /¯¯\\__/¯¯\\    Cilium:             OK
 \\__/¯¯\\__/    Operator:           OK
 /¯¯\\__/¯¯\\    Envoy DaemonSet:    disabled
 \\__/¯¯\\__/    Hubble Relay:       disabled
    \\__/       ClusterMesh:        disabled

DaemonSet              cilium             Desired: 2, Ready: 2/2, Available: 2/2
Deployment             cilium-operator    Desired: 1, Ready: 1/1, Available: 1/1
Containers:            cilium             Running: 2
                       cilium-operator    Running: 1
Cluster Pods:          5/5 managed by Cilium
Helm chart version:    0.1.0
Image versions         cilium             ghcr.io/seta/seta:v0.1.0: 2
                       cilium-operator    ghcr.io/seta/seta:v0.1.0: 1
Datapath:              cilium             Network Native, Host BPF, Attach TCX, Device veth: 2
";
        assert_eq!(summary(&healthy()), expected);
    }

    #[test]
    fn errors_and_warnings_come_last() {
        let mut report = healthy();
        report.add_workload(
            "cilium",
            workload("DaemonSet", 2, 1),
            Generation {
                wanted: 1,
                observed: 1,
                updated: 2,
            },
        );
        report.warning("cilium", "cilium-a", "Kubernetes: slow");
        report
            .configuration
            .push("kube-proxy-replacement=true is not active yet: services come later".into());
        let text = summary(&report);
        for line in [
            "Cilium:             1 error, 1 warning",
            "DaemonSet              cilium             Desired: 2, Ready: 1/2, Available: 1/2, Unavailable: 1/2",
            "Errors:                cilium             cilium      1 pods of DaemonSet cilium are not ready",
            "Warnings:              cilium             cilium-a    Kubernetes: slow",
            "Configuration:         kube-proxy-replacement=true is not active yet: services come later",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
