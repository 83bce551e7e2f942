//! Deployments, ReplicaSets, DaemonSets, disruption budgets.

use jiff::Timestamp;
use serde_json::Value;

use super::{Printer, age, labels};
use crate::api::selector_text;
use crate::object::items;

fn number(value: &Value) -> Value {
    value.as_i64().unwrap_or(0).into()
}

/// Names, images and selector: the wide columns of all workloads.
fn wide(object: &Value) -> [Value; 3] {
    let containers = items(&object["spec"]["template"]["spec"]["containers"]);
    let join = |field: &str| {
        containers
            .iter()
            .filter_map(|c| c[field].as_str())
            .collect::<Vec<_>>()
            .join(",")
            .into()
    };
    let selector = selector_text(&object["spec"]["selector"]).filter(|t| !t.is_empty());
    [
        join("name"),
        join("image"),
        selector.unwrap_or_else(|| "<none>".into()).into(),
    ]
}

pub(crate) fn deployments() -> Printer {
    let columns = &[
        "Ready",
        "Up-to-date#",
        "Available#",
        "Age",
        "+Containers",
        "+Images",
        "+Selector",
    ];
    Printer::new(columns, |o, now| {
        let status = &o["status"];
        let ready = format!(
            "{}/{}",
            number(&status["readyReplicas"]),
            number(&o["spec"]["replicas"])
        );
        let mut row = vec![
            ready.into(),
            number(&status["updatedReplicas"]),
            number(&status["availableReplicas"]),
            age(o, now),
        ];
        row.extend(wide(o));
        row
    })
}

pub(crate) fn replica_sets() -> Printer {
    let columns = &[
        "Desired#",
        "Current#",
        "Ready#",
        "Age",
        "+Containers",
        "+Images",
        "+Selector",
    ];
    Printer::new(columns, |o, now| {
        let status = &o["status"];
        let mut row = vec![
            number(&o["spec"]["replicas"]),
            number(&status["replicas"]),
            number(&status["readyReplicas"]),
            age(o, now),
        ];
        row.extend(wide(o));
        row
    })
}

pub(crate) fn daemon_sets() -> Printer {
    let columns = &[
        "Desired#",
        "Current#",
        "Ready#",
        "Up-to-date#",
        "Available#",
        "Node Selector",
        "Age",
        "+Containers",
        "+Images",
        "+Selector",
    ];
    Printer::new(columns, daemon_set)
}

fn daemon_set(o: &Value, now: Timestamp) -> Vec<Value> {
    let status = &o["status"];
    let mut row: Vec<Value> = [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    ]
    .iter()
    .map(|field| number(&status[*field]))
    .collect();
    row.push(labels(&o["spec"]["template"]["spec"]["nodeSelector"]).into());
    row.push(age(o, now));
    row.extend(wide(o));
    row
}

pub(crate) fn disruption_budgets() -> Printer {
    let columns = &["Min Available", "Max Unavailable", "Allowed Disruptions#", "Age"];
    Printer::new(columns, |o, now| {
        let bound = |v: &Value| match v {
            Value::String(text) => text.as_str().into(),
            Value::Number(n) => n.to_string().into(),
            _ => Value::from("N/A"),
        };
        vec![
            bound(&o["spec"]["minAvailable"]),
            bound(&o["spec"]["maxUnavailable"]),
            number(&o["status"]["disruptionsAllowed"]),
            age(o, now),
        ]
    })
}
