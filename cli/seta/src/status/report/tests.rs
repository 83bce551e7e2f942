//! What counts as an error, row by row.

use serde_json::json;

use super::*;

fn agent(value: serde_json::Value) -> Report {
    let mut report = Report::default();
    report.add_agent(
        "cilium-x",
        serde_json::from_value(value).expect("it is a StatusResponse"),
    );
    report
}

#[test]
fn agents() {
    let ok = json!({"state": "Ok", "msg": ""});
    let rows = [
        (json!({"cilium": ok}), vec![], vec![]),
        (json!({}), vec!["the agent does not say how it is"], vec![]),
        (
            json!({"cilium": {"state": "Failure", "msg": "no API"}}),
            vec!["Cilium: no API"],
            vec![],
        ),
        (
            json!({"cilium": ok, "kubernetes": {"state": "Warning", "msg": "slow"}}),
            vec![],
            vec!["Kubernetes: slow"],
        ),
        (
            json!({"cilium": ok, "kvstore": {"state": "Disabled"}}),
            vec![],
            vec![],
        ),
        (
            json!({"cilium": ok, "cni-file": {"state": "Failure", "msg": "gone"}}),
            vec!["CNI Config file: gone"],
            vec![],
        ),
        (
            json!({"cilium": ok, "controllers": [
                {"name": "sync", "status": {"consecutive-failure-count": 3, "last-failure-msg": "refused"}},
                {"name": "gc", "status": {"failure-count": 9}},
            ]}),
            vec!["controller sync failed 3 times in a row: refused"],
            vec![],
        ),
        (
            json!({"cilium": ok, "stale": {"ipam": "2026-01-01T00:00:00Z"}}),
            vec![],
            vec!["status of ipam is stale since 2026-01-01T00:00:00Z"],
        ),
    ];
    for (status, errors, warnings) in rows {
        let report = agent(status.clone());
        let findings = report
            .errors
            .get("cilium")
            .and_then(|places| places.get("cilium-x"))
            .cloned()
            .unwrap_or_default();
        assert_eq!(findings.errors, errors, "{status}");
        assert_eq!(findings.warnings, warnings, "{status}");
    }
}

#[test]
fn workloads() {
    let workload = |desired, ready, available| Workload {
        kind: "DaemonSet".into(),
        desired,
        ready,
        available,
        unavailable: desired - available,
    };
    let seen = |updated| Generation {
        wanted: 2,
        observed: 2,
        updated,
    };
    let rows = [
        (workload(2, 2, 2), seen(2), "OK", None),
        (
            workload(2, 1, 1),
            seen(2),
            "1 error",
            Some("cilium: 1 pods of DaemonSet cilium are not ready"),
        ),
        (
            workload(2, 2, 1),
            seen(2),
            "1 error",
            Some("cilium: 1 pods of DaemonSet cilium are not available"),
        ),
        (
            workload(0, 0, 0),
            seen(0),
            "1 error",
            Some("cilium: DaemonSet cilium wants no pods: there is no node for it"),
        ),
        (
            workload(2, 2, 2),
            seen(1),
            "1 warning",
            Some("cilium: 1 pods of DaemonSet cilium still have to be replaced by updated ones"),
        ),
        (
            workload(2, 1, 1),
            seen(1),
            "1 error, 1 warning",
            Some("cilium: 1 pods of DaemonSet cilium are not ready"),
        ),
        (
            workload(2, 2, 2),
            Generation {
                wanted: 2,
                observed: 1,
                updated: 0,
            },
            "1 error",
            Some("cilium: DaemonSet cilium was changed a moment ago, and its controller has not seen it yet"),
        ),
    ];
    for (workload, generation, verdict, waits) in rows {
        let mut report = Report::default();
        report.add_workload("cilium", workload.clone(), generation);
        assert_eq!(report.verdict("cilium"), verdict, "{workload:?} {generation:?}");
        assert_eq!(
            report.unsettled(false).as_deref(),
            waits,
            "{workload:?} {generation:?}"
        );
    }
}

#[test]
fn warnings_can_be_ignored() {
    let mut report = Report::default();
    report.warning("cilium", "cilium-x", "look");
    assert!(report.unsettled(false).is_some());
    assert_eq!(report.unsettled(true), None);
    assert!(!report.has_errors());
}

#[test]
fn containers() {
    let rows = [
        (json!({"ready": true, "state": {"running": {}}}), None),
        (
            json!({"state": {"waiting": {"reason": "ContainerCreating"}}}),
            None,
        ),
        (
            json!({"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}),
            Some("container cilium-agent waits: ErrImagePull no such image"),
        ),
        (
            json!({
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
                "lastState": {"terminated": {"exitCode": 1, "message": "one\nError: no API\n"}},
            }),
            Some("container cilium-agent ended with 1: Error: no API"),
        ),
        (
            json!({"ready": true, "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 137}}}),
            None,
        ),
        (
            json!({"state": {"terminated": {"exitCode": 64}}}),
            Some("container cilium-agent ended with 64: it said nothing"),
        ),
    ];
    for (mut status, expected) in rows {
        for (key, value) in [
            ("name", json!("cilium-agent")),
            ("image", json!("")),
            ("imageID", json!("")),
            ("restartCount", json!(0)),
        ] {
            status[key] = value;
        }
        if status.get("ready").is_none() {
            status["ready"] = json!(false);
        }
        let status: ContainerStatus = serde_json::from_value(status).expect("it is a ContainerStatus");
        assert_eq!(container(&status).as_deref(), expected);
    }
}
