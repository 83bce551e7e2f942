use serde_json::json;

use super::*;

#[test]
fn durations() {
    let rows = [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (150, "2m30s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (7 * 3600 + 120, "7h2m"),
        (47 * 3600, "47h"),
        (49 * 3600, "2d1h"),
        (8 * 86400, "8d"),
        (729 * 86400, "729d"),
        (3 * 365 * 86400, "3y"),
        (3 * 365 * 86400 + 86400, "3y1d"),
        (9 * 365 * 86400, "9y"),
    ];
    for (seconds, wanted) in rows {
        assert_eq!(duration(seconds), wanted, "{seconds}");
    }
}

fn status(pod: &serde_json::Value) -> String {
    let cells = pods().cells(pod, Timestamp::now());
    cells[2].as_str().unwrap().to_owned()
}

#[test]
fn the_status_of_a_pod() {
    let waiting =
        |reason: &str| json!({"name": "c", "ready": false, "state": {"waiting": {"reason": reason}}});
    let ended = |terminated: serde_json::Value| json!({"name": "c", "state": {"terminated": terminated}});
    let running = json!({"name": "c", "ready": true, "state": {"running": {}}});
    let rows = [
        (json!({"phase": "Pending"}), "Pending"),
        (
            json!({"phase": "Pending", "containerStatuses": [waiting("ErrImagePull")]}),
            "ErrImagePull",
        ),
        (
            json!({"phase": "Running", "containerStatuses": [running]}),
            "Running",
        ),
        (json!({"phase": "Failed", "reason": "Evicted"}), "Evicted"),
        (
            json!({"phase": "Failed", "containerStatuses": [ended(json!({"exitCode": 2, "reason": "Error"}))]}),
            "Error",
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [ended(json!({"exitCode": 3}))]}),
            "ExitCode:3",
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [ended(json!({"signal": 9}))]}),
            "Signal:9",
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}),
            "Init:0/1",
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": [waiting("CrashLoopBackOff")]}),
            "Init:CrashLoopBackOff",
        ),
    ];
    for (status_field, wanted) in rows {
        let spec = json!({"containers": [{"name": "c"}], "initContainers": [{"name": "i"}]});
        let pod = json!({"metadata": {"name": "p"}, "spec": spec, "status": status_field});
        assert_eq!(status(&pod), wanted, "{pod}");
    }
    let going = json!({
        "metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"},
    });
    assert_eq!(status(&going), "Terminating");
}

#[test]
fn every_row_has_a_cell_for_every_column() {
    let empty = json!({"metadata": {"name": "x"}});
    for kind in crate::kinds::builtin() {
        let cells = kind.printer.cells(&empty, Timestamp::now());
        assert_eq!(cells.len(), kind.printer.columns.len(), "{}", kind.kind);
    }
}

#[test]
fn columns_that_people_know() {
    let names = |printer: &Printer, wide: bool| {
        let shown = printer.columns.iter().filter(|c| wide || c.priority == 0);
        shown.map(|c| c.name.to_uppercase()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&pods(), false), "NAME READY STATUS RESTARTS AGE");
    assert_eq!(
        names(&pods(), true),
        "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES"
    );
    assert_eq!(names(&nodes(), false), "NAME STATUS ROLES AGE VERSION");
    assert_eq!(
        names(&services(), false),
        "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE"
    );
    assert_eq!(names(&events(), false), "LAST SEEN TYPE REASON OBJECT MESSAGE");
}

#[test]
fn nodes_and_services() {
    let node = json!({
        "metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": ""}},
        "spec": {"unschedulable": true},
        "status": {
            "conditions": [{"type": "Ready", "status": "False"}], "nodeInfo": {"kubeletVersion": "v1.32.0"},
            "addresses": [{"type": "InternalIP", "address": "fc00::1"}],
        },
    });
    let cells = nodes().cells(&node, Timestamp::now());
    assert_eq!(cells[1], "NotReady,SchedulingDisabled");
    assert_eq!(cells[2], "control-plane");
    assert_eq!(cells[5], "fc00::1");
    assert_eq!(cells[6], "<none>");
    let service = json!({
        "metadata": {"name": "s"},
        "spec": {"type": "NodePort", "clusterIP": "fd00::1", "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP"}]},
    });
    assert_eq!(services().cells(&service, Timestamp::now())[4], "80:30000/TCP");
}
