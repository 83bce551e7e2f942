//! Columns of `kubectl get`, kind by kind, under the names and in the order that people know.

use jiff::Timestamp;
use serde_json::Value;

use crate::jsonpath::Path;
use crate::object::{self, items};

mod network;
mod node;
mod pod;
#[cfg(test)]
mod tests;
mod workload;

pub(crate) use network::{endpoint_slices, endpoints, network_policies, services};
pub(crate) use node::nodes;
pub(crate) use pod::pods;
pub(crate) use workload::{daemon_sets, deployments, disruption_budgets, replica_sets};

/// One column.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) ty: String,
    pub(crate) format: String,
    pub(crate) description: String,
    /// 0: always; more: only with `-o wide`.
    pub(crate) priority: i64,
}

#[derive(Clone)]
enum Row {
    /// Cells after the name.
    Function(fn(&Value, Timestamp) -> Vec<Value>),
    /// Cells after the name, of a custom resource; dates are shown as ages.
    Paths(Vec<Path>),
}

/// Columns and how to fill them.
#[derive(Clone)]
pub(crate) struct Printer {
    pub(crate) columns: Vec<Column>,
    row: Row,
    /// The first column is the name (of all kinds but events).
    name_first: bool,
}

impl Printer {
    /// `columns`: `Name` or, for `-o wide` only, `+Name`; numbers end in `#`.
    fn new(columns: &[&str], row: fn(&Value, Timestamp) -> Vec<Value>) -> Self {
        let mut out = vec![name_column()];
        out.extend(columns.iter().map(|text| {
            let (priority, text) = text.strip_prefix('+').map_or((0, *text), |rest| (1, rest));
            let (ty, name) = text
                .strip_suffix('#')
                .map_or(("string", text), |rest| ("integer", rest));
            Column {
                name: name.into(),
                ty: ty.into(),
                format: String::new(),
                description: String::new(),
                priority,
            }
        }));
        Self {
            columns: out,
            row: Row::Function(row),
            name_first: true,
        }
    }

    /// The columns of a custom resource.
    pub(crate) fn of_paths(columns: Vec<(Column, Path)>) -> Self {
        let (mut definitions, mut paths) = (vec![name_column()], Vec::new());
        for (column, path) in columns {
            definitions.push(column);
            paths.push(path);
        }
        Self {
            columns: definitions,
            row: Row::Paths(paths),
            name_first: true,
        }
    }

    pub(crate) fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let mut cells = Vec::with_capacity(self.columns.len());
        if self.name_first {
            cells.push(Value::from(object::name(object)));
        }
        match &self.row {
            Row::Function(row) => cells.extend(row(object, now)),
            Row::Paths(paths) => {
                let typed = self.columns.iter().skip(1).zip(paths);
                cells.extend(typed.map(|(column, path)| custom_cell(column, path, object, now)));
            }
        }
        cells
    }
}

fn name_column() -> Column {
    Column {
        name: "Name".into(),
        ty: "string".into(),
        format: "name".into(),
        description: "Name must be unique within a namespace.".into(),
        priority: 0,
    }
}

fn custom_cell(column: &Column, path: &Path, object: &Value, now: Timestamp) -> Value {
    let Some(value) = path.first(object) else {
        return Value::Null;
    };
    match (column.ty.as_str(), value) {
        ("date", Value::String(text)) => since(text, now).into(),
        ("integer", Value::Number(_)) | ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => {
            value.clone()
        }
        (_, Value::String(text)) => text.as_str().into(),
        (_, other) => other.to_string().into(),
    }
}

/// Name and age, for kinds without columns of their own.
pub(crate) fn plain() -> Printer {
    Printer::new(&["Age"], |o, now| vec![age(o, now)])
}

/// A custom resource definition without columns.
pub(crate) fn created_at() -> Printer {
    Printer::new(&["Created At"], |o, _| {
        vec![object::meta(o, "creationTimestamp").into()]
    })
}

pub(crate) fn definitions() -> Printer {
    created_at()
}

pub(crate) fn namespaces() -> Printer {
    Printer::new(&["Status", "Age"], |o, now| {
        vec![text(&o["status"]["phase"]), age(o, now)]
    })
}

pub(crate) fn config_maps() -> Printer {
    Printer::new(&["Data#", "Age"], |o, now| {
        vec![(count(&o["data"]) + count(&o["binaryData"])).into(), age(o, now)]
    })
}

pub(crate) fn secrets() -> Printer {
    Printer::new(&["Type", "Data#", "Age"], |o, now| {
        vec![text(&o["type"]), count(&o["data"]).into(), age(o, now)]
    })
}

pub(crate) fn service_accounts() -> Printer {
    Printer::new(&["Secrets#", "Age"], |o, now| {
        vec![items(&o["secrets"]).len().into(), age(o, now)]
    })
}

pub(crate) fn leases() -> Printer {
    Printer::new(&["Holder", "Age"], |o, now| {
        vec![text(&o["spec"]["holderIdentity"]), age(o, now)]
    })
}

pub(crate) fn priority_classes() -> Printer {
    Printer::new(
        &["Value#", "Global-Default", "Age", "PreemptionPolicy"],
        |o, now| {
            let global = o["globalDefault"].as_bool().unwrap_or(false);
            vec![
                o["value"].clone(),
                global.into(),
                age(o, now),
                text(&o["preemptionPolicy"]),
            ]
        },
    )
}

pub(crate) fn runtime_classes() -> Printer {
    Printer::new(&["Handler", "Age"], |o, now| {
        vec![text(&o["handler"]), age(o, now)]
    })
}

pub(crate) fn role_bindings() -> Printer {
    let columns = &["Role", "Age", "+Users", "+Groups", "+ServiceAccounts"];
    Printer::new(columns, |o, now| {
        let subjects = |kind: &str| {
            let names = items(&o["subjects"])
                .iter()
                .filter(|s| s["kind"] == kind)
                .map(|s| match kind {
                    "ServiceAccount" => {
                        format!(
                            "{}/{}",
                            s["namespace"].as_str().unwrap_or_default(),
                            s["name"].as_str().unwrap_or_default()
                        )
                    }
                    _ => s["name"].as_str().unwrap_or_default().to_owned(),
                });
            Value::from(names.collect::<Vec<_>>().join(", "))
        };
        let role = format!(
            "{}/{}",
            o["roleRef"]["kind"].as_str().unwrap_or_default(),
            o["roleRef"]["name"].as_str().unwrap_or_default()
        );
        vec![
            role.into(),
            age(o, now),
            subjects("User"),
            subjects("Group"),
            subjects("ServiceAccount"),
        ]
    })
}

pub(crate) fn events() -> Printer {
    let columns = &[
        "Last Seen",
        "Type",
        "Reason",
        "Object",
        "+Subobject",
        "+Source",
        "Message",
        "+First Seen",
        "+Count#",
        "+Name",
    ];
    let mut printer = Printer::new(columns, |o, now| {
        // Either view of an event.
        let about = if o["involvedObject"].is_object() {
            &o["involvedObject"]
        } else {
            &o["regarding"]
        };
        let word = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let first_of = |fields: &[&str]| {
            fields
                .iter()
                .map(|f| word(&o[*f]))
                .find(|t| !t.is_empty())
                .unwrap_or_default()
        };
        let created = object::meta(o, "creationTimestamp");
        let series = word(&o["series"]["lastObservedTime"]);
        let last = if series.is_empty() {
            first_of(&["lastTimestamp", "deprecatedLastTimestamp", "eventTime"])
        } else {
            series
        };
        let first = first_of(&["firstTimestamp", "deprecatedFirstTimestamp", "eventTime"]);
        let ago = |t: String| since(if t.is_empty() { created } else { &t }, now);
        let source = if o["source"].is_object() {
            &o["source"]
        } else {
            &o["deprecatedSource"]
        };
        let component = word(&source["component"]);
        let host = word(&source["host"]);
        let reporter = first_of(&["reportingComponent", "reportingController"]);
        let source = match (component.is_empty(), host.is_empty()) {
            (true, _) => reporter,
            (false, true) => component,
            (false, false) => format!("{component}, {host}"),
        };
        let count = [&o["series"]["count"], &o["count"], &o["deprecatedCount"]];
        let count = count.iter().find_map(|v| v.as_i64()).unwrap_or(1);
        let about_text = format!("{}/{}", word(&about["kind"]).to_lowercase(), word(&about["name"]));
        vec![
            ago(last).into(),
            text(&o["type"]),
            text(&o["reason"]),
            about_text.into(),
            text(&about["fieldPath"]),
            source.into(),
            first_of(&["message", "note"]).trim().into(),
            ago(first).into(),
            count.into(),
            object::name(o).into(),
        ]
    });
    // The name is the last column here, and only a wide one.
    printer.columns.remove(0);
    if let Some(last) = printer.columns.last_mut() {
        last.format = "name".into();
    }
    printer.name_first = false;
    printer
}

/// A string cell.
pub(crate) fn text(value: &Value) -> Value {
    value.as_str().unwrap_or_default().into()
}

fn count(value: &Value) -> usize {
    value.as_object().map_or(0, serde_json::Map::len)
}

/// Age of an object.
pub(crate) fn age(object: &Value, now: Timestamp) -> Value {
    since(object::meta(object, "creationTimestamp"), now).into()
}

/// Time since, in the short form of kubectl.
pub(crate) fn since(text: &str, now: Timestamp) -> String {
    match text.parse::<Timestamp>() {
        Ok(then) => duration(now.as_second() - then.as_second()),
        Err(_) => "<unknown>".into(),
    }
}

/// A number of seconds in at most two units, as kubectl shows ages.
pub(crate) fn duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let two = |a: i64, unit: char, b: i64, small: char| {
        if b == 0 {
            format!("{a}{unit}")
        } else {
            format!("{a}{unit}{b}{small}")
        }
    };
    match seconds {
        ..-1 => "<invalid>".into(),
        -1 => "0s".into(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(hours / 24, 'd', hours % 24, 'h'),
        _ if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        _ if hours < 24 * 365 * 8 => two(hours / 24 / 365, 'y', hours / 24 % 365, 'd'),
        _ => format!("{}y", hours / 24 / 365),
    }
}

/// A map of labels as `a=b,c=d`, or `<none>`.
pub(crate) fn labels(value: &Value) -> String {
    let Some(map) = value.as_object().filter(|m| !m.is_empty()) else {
        return "<none>".into();
    };
    map.iter()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect::<Vec<_>>()
        .join(",")
}
