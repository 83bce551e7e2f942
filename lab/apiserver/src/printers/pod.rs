//! Pods. The STATUS column is not a field: it is worked out from phase, reasons and container states.

use jiff::Timestamp;
use serde_json::Value;

use super::{Printer, age, since};
use crate::object::{self, items};

pub(crate) fn pods() -> Printer {
    let columns = &[
        "Ready",
        "Status",
        "Restarts",
        "Age",
        "+IP",
        "+Node",
        "+Nominated Node",
        "+Readiness Gates",
    ];
    Printer::new(columns, row)
}

fn row(pod: &Value, now: Timestamp) -> Vec<Value> {
    let or_none = |v: &Value| Value::from(v.as_str().filter(|t| !t.is_empty()).unwrap_or("<none>"));
    let statuses = items(&pod["status"]["containerStatuses"]);
    let ready = statuses
        .iter()
        .filter(|s| s["ready"] == true && s["state"]["running"].is_object())
        .count();
    let ip = items(&pod["status"]["podIPs"])
        .first()
        .map_or(&pod["status"]["podIP"], |ip| &ip["ip"]);
    vec![
        format!("{ready}/{}", items(&pod["spec"]["containers"]).len()).into(),
        status(pod).into(),
        restarts(pod, now).into(),
        age(pod, now),
        or_none(ip),
        or_none(&pod["spec"]["nodeName"]),
        or_none(&pod["status"]["nominatedNodeName"]),
        gates(pod).into(),
    ]
}

fn gates(pod: &Value) -> String {
    let gates = items(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return "<none>".into();
    }
    let met = |gate: &&Value| condition(pod, gate["conditionType"].as_str().unwrap_or_default());
    format!("{}/{}", gates.iter().filter(met).count(), gates.len())
}

fn condition(pod: &Value, ty: &str) -> bool {
    items(&pod["status"]["conditions"])
        .iter()
        .any(|c| c["type"] == ty && c["status"] == "True")
}

/// `3 (5m ago)`, or only the number.
fn restarts(pod: &Value, now: Timestamp) -> String {
    let statuses = items(&pod["status"]["containerStatuses"]);
    let count: i64 = statuses.iter().filter_map(|s| s["restartCount"].as_i64()).sum();
    let last = statuses
        .iter()
        .filter_map(|s| s["lastState"]["terminated"]["finishedAt"].as_str())
        .max();
    match last {
        Some(at) if count > 0 => format!("{count} ({} ago)", since(at, now)),
        _ => count.to_string(),
    }
}

fn terminated_text(terminated: &Value) -> String {
    if let Some(reason) = terminated["reason"].as_str().filter(|r| !r.is_empty()) {
        return reason.to_owned();
    }
    match terminated["signal"].as_i64().filter(|s| *s != 0) {
        Some(signal) => format!("Signal:{signal}"),
        None => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
    }
}

/// The word in the STATUS column.
pub(super) fn status(pod: &Value) -> String {
    let status = &pod["status"];
    let word = |v: &Value| v.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
    let mut out = word(&status["reason"])
        .or_else(|| word(&status["phase"]))
        .unwrap_or_default();
    if items(&status["conditions"])
        .iter()
        .any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated")
    {
        out = "SchedulingGated".into();
    }
    let mut initializing = false;
    let init_statuses = items(&status["initContainerStatuses"]);
    let init = items(&pod["spec"]["initContainers"]);
    for (index, one) in init_statuses.iter().enumerate() {
        let state = &one["state"];
        let sidecar = init
            .iter()
            .any(|c| c["name"] == one["name"] && c["restartPolicy"] == "Always");
        if state["terminated"]["exitCode"] == 0 || sidecar && one["started"] == true {
            continue;
        }
        let waiting = word(&state["waiting"]["reason"]).filter(|r| r != "PodInitializing");
        out = if state["terminated"].is_object() {
            format!("Init:{}", terminated_text(&state["terminated"]))
        } else if let Some(reason) = waiting {
            format!("Init:{reason}")
        } else {
            format!("Init:{index}/{}", init.len())
        };
        initializing = true;
        break;
    }
    if !initializing || condition(pod, "Initialized") {
        let mut running = false;
        for one in items(&status["containerStatuses"]).iter().rev() {
            let state = &one["state"];
            if let Some(reason) = word(&state["waiting"]["reason"]) {
                out = reason;
            } else if state["terminated"].is_object() {
                out = terminated_text(&state["terminated"]);
            } else if one["ready"] == true && state["running"].is_object() {
                running = true;
            }
        }
        if out == "Completed" && running {
            out = if condition(pod, "Ready") {
                "Running".into()
            } else {
                "NotReady".into()
            };
        }
    }
    if object::is_terminating(pod) {
        let lost = status["reason"] == "NodeLost";
        let finished = matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"));
        if lost {
            out = "Unknown".into();
        } else if !finished {
            out = "Terminating".into();
        }
    }
    out
}
