//! Server-side apply and `managedFields`: who set which field, and whether somebody else may change it.
//!
//! As in Kubernetes, writers are recorded from the first apply on; what was there before belongs to
//! `before-first-apply`. A field may have several owners as long as they agree about its value; who applies another
//! value is refused (409) or, with `force`, becomes the only one. Other writers take the fields that they change.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::fields::FieldSet;
use super::shape::{Elements, Shape};
use crate::kinds::Kind;
use crate::object::{self, items};
use crate::status::{Cause, Status};

#[cfg(test)]
mod tests;

/// The owner of what an object had when it was first applied.
const BEFORE: &str = "before-first-apply";
/// The owner of what the oldest of too many writers set.
const ANCIENT: &str = "ancient-changes";
/// Entries of writers that do not apply; the oldest are joined when there are more.
const UPDATERS: usize = 10;
const APPLY: &str = "Apply";
const UPDATE: &str = "Update";

/// Fields that nobody owns.
const SYSTEM: &[&[&str]] = &[
    &["f:apiVersion"],
    &["f:kind"],
    &["f:metadata", "f:name"],
    &["f:metadata", "f:namespace"],
    &["f:metadata", "f:uid"],
    &["f:metadata", "f:resourceVersion"],
    &["f:metadata", "f:creationTimestamp"],
    &["f:metadata", "f:generation"],
    &["f:metadata", "f:selfLink"],
    &["f:metadata", "f:managedFields"],
];

/// Who writes, and to which part of the object.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'a> {
    pub(crate) manager: &'a str,
    /// Empty for the object itself.
    pub(crate) subresource: &'a str,
}

/// `managedFields`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Managers(Vec<Entry>);

#[derive(Clone, Debug)]
struct Entry {
    manager: String,
    operation: &'static str,
    subresource: String,
    api_version: String,
    time: String,
    fields: FieldSet,
}

impl Entry {
    fn new(writer: Writer<'_>, operation: &'static str, api_version: String, fields: FieldSet) -> Self {
        Self {
            manager: writer.manager.to_owned(),
            operation,
            subresource: writer.subresource.to_owned(),
            api_version,
            time: object::now(),
            fields,
        }
    }

    fn is(&self, writer: Writer<'_>, operation: &str) -> bool {
        self.manager == writer.manager
            && self.subresource == writer.subresource
            && self.operation == operation
    }

    /// As the real server names a manager in a conflict.
    fn text(&self) -> String {
        let mut out = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == UPDATE {
            out.push_str(&format!(" using {}", self.api_version));
        }
        out
    }
}

impl Managers {
    /// Reads the `managedFields` of an object.
    pub(crate) fn of(object: &Value) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let entries = items(&object["metadata"]["managedFields"])
            .iter()
            .map(|entry| Entry {
                manager: text(&entry["manager"]),
                operation: if entry["operation"] == APPLY {
                    APPLY
                } else {
                    UPDATE
                },
                subresource: text(&entry["subresource"]),
                api_version: text(&entry["apiVersion"]),
                time: text(&entry["time"]),
                fields: FieldSet::read(&entry["fieldsV1"]),
            });
        Self(entries.filter(|entry| !entry.fields.is_empty()).collect())
    }

    /// Writes the `managedFields` of an object.
    pub(crate) fn write(&self, object: &mut Value) {
        let entries = self.0.iter().map(|entry| {
            let mut out = json!({
                "manager": entry.manager, "operation": entry.operation, "apiVersion": entry.api_version,
                "time": entry.time, "fieldsType": "FieldsV1", "fieldsV1": entry.fields.to_json(),
            });
            if !entry.subresource.is_empty() {
                out["subresource"] = entry.subresource.as_str().into();
            }
            out
        });
        let entries: Vec<Value> = entries.collect();
        let meta = object::meta_mut(object);
        if entries.is_empty() {
            meta.remove("managedFields");
        } else {
            meta.insert("managedFields".into(), entries.into());
        }
    }

    /// Whether anything was applied or recorded.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Records what `writer` changed without applying. Nothing happens before the first apply.
    pub(crate) fn update(&mut self, kind: &Kind, before: &Value, after: &Value, writer: Writer<'_>) {
        if self.is_empty() {
            return;
        }
        let shape = Shape::of(kind);
        let mut changed = FieldSet::changed(shape, before, after);
        changed.forget(SYSTEM);
        let there = FieldSet::of(shape, after).with_parents();
        let own = self.0.iter().position(|entry| entry.is(writer, UPDATE));
        for (index, entry) in self.0.iter_mut().enumerate() {
            entry.fields.keep(&there);
            if Some(index) == own && !changed.is_empty() {
                entry.fields.add(&changed);
                entry.api_version = kind.api_version();
                entry.time = object::now();
            } else {
                entry.fields.remove(&changed);
            }
        }
        if own.is_none() && !changed.is_empty() {
            self.0
                .push(Entry::new(writer, UPDATE, kind.api_version(), changed));
        }
        self.0.retain(|entry| !entry.fields.is_empty());
        self.join_oldest();
    }

    /// Joins the oldest entries of writers that do not apply, when there are too many.
    fn join_oldest(&mut self) {
        let mut updaters: Vec<usize> = (0..self.0.len())
            .filter(|at| self.0[*at].operation == UPDATE)
            .collect();
        if updaters.len() <= UPDATERS {
            return;
        }
        // RFC 3339 in UTC sorts by time.
        updaters.sort_by(|a, b| self.0[*a].time.cmp(&self.0[*b].time));
        updaters.truncate(updaters.len() - UPDATERS + 1);
        let mut joined = Entry {
            manager: ANCIENT.to_owned(),
            subresource: String::new(),
            ..self.0[updaters[updaters.len() - 1]].clone()
        };
        for at in &updaters {
            joined.fields.add(&self.0[*at].fields);
        }
        let mut at = 0;
        self.0.retain(|_| {
            at += 1;
            !updaters.contains(&(at - 1))
        });
        // In front: among entries of one second it stays the oldest.
        self.0.insert(0, joined);
    }
}

/// The object after `config` was applied to it, and who owns what then: fields of `config` are set; fields that the
/// same manager applied before, that `config` no longer names and that nobody else owns are removed. `live` is null
/// for a new object. Errors: 409 when `config` changes a field of another manager and `force` is not given, 400 when
/// a list names an element twice.
pub(crate) fn apply(
    kind: &Kind,
    live: &Value,
    config: &Value,
    writer: Writer<'_>,
    force: bool,
) -> Result<(Value, Managers), Status> {
    let shape = Shape::of(kind);
    let mut config = config.clone();
    only_part(kind, &mut config, writer.subresource);
    unique(shape, &config, "")?;
    let mut now = FieldSet::of(shape, &config);
    now.forget(SYSTEM);
    let mut managers = Managers::of(live);
    if managers.is_empty() && live.is_object() {
        let mut before = FieldSet::of(shape, live);
        before.forget(SYSTEM);
        let writer = Writer {
            manager: BEFORE,
            subresource: "",
        };
        managers
            .0
            .push(Entry::new(writer, UPDATE, kind.api_version(), before));
    }
    let mut dropped = FieldSet::default();
    let mut needed = now.clone();
    for entry in &managers.0 {
        if entry.is(writer, APPLY) {
            dropped.add(&entry.fields);
        } else {
            needed.add(&entry.fields);
        }
    }
    dropped.remove(&needed.with_parents());
    let mut object = live.clone();
    dropped.remove_from(shape, &mut object);
    overlay(shape, &mut object, &config);

    let changed = FieldSet::changed(shape, live, &object);
    let others = || managers.0.iter().filter(|entry| !entry.is(writer, APPLY));
    let conflicts: Vec<(String, String)> = others()
        .flat_map(|entry| {
            let fields = entry.fields.intersection(&changed).texts();
            fields.into_iter().map(|field| (entry.text(), field))
        })
        .collect();
    if !conflicts.is_empty() && !force {
        return Err(conflict(conflicts));
    }
    for entry in &mut managers.0 {
        if entry.is(writer, APPLY) {
            if entry.fields != now {
                entry.time = object::now();
            }
            entry.fields = now.clone();
            entry.api_version = kind.api_version();
        } else {
            entry.fields.remove(&changed);
        }
    }
    if !managers.0.iter().any(|entry| entry.is(writer, APPLY)) {
        managers
            .0
            .push(Entry::new(writer, APPLY, kind.api_version(), now));
    }
    managers.0.retain(|entry| !entry.fields.is_empty());
    Ok((object, managers))
}

/// Leaves of a configuration what a write to this part of the object can set.
fn only_part(kind: &Kind, config: &mut Value, subresource: &str) {
    let of_status = subresource == "status";
    let Value::Object(map) = config else { return };
    if of_status {
        map.retain(|key, _| matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
    } else if kind.status {
        map.remove("status");
    }
    if let Some(Value::Object(meta)) = map.get_mut("metadata") {
        // With a status, the metadata only says which object it is, and of which revision.
        let names = |key: &str| SYSTEM.iter().any(|path| path[1..] == [format!("f:{key}")]);
        meta.retain(|key, _| key != "managedFields" && (!of_status || names(key)));
    }
}

fn conflict(conflicts: Vec<(String, String)>) -> Status {
    let message = match conflicts.as_slice() {
        [(manager, field)] => format!("Apply failed with 1 conflict: conflict with {manager}: {field}"),
        many => {
            let mut text = format!("Apply failed with {} conflicts: ", many.len());
            for (index, of_one) in many.chunk_by(|a, b| a.0 == b.0).enumerate() {
                let newline = if index > 0 { "\n" } else { "" };
                text.push_str(&format!("{newline}conflicts with {}:", of_one[0].0));
                for (_, field) in of_one {
                    text.push_str(&format!("\n- {field}"));
                }
            }
            text
        }
    };
    let causes = conflicts.into_iter().map(|(manager, field)| Cause {
        reason: "FieldManagerConflict",
        message: format!("conflict with {manager}"),
        field,
    });
    Status::apply_conflict(message, causes.collect())
}

/// Refuses lists that name an element twice.
fn unique(shape: Shape<'_>, value: &Value, path: &str) -> Result<(), Status> {
    match value {
        Value::Object(map) => map
            .iter()
            .try_for_each(|(name, value)| unique(shape.member(name), value, &format!("{path}.{name}"))),
        Value::Array(list) => {
            let elements = shape.elements();
            let mut seen = BTreeSet::new();
            for item in list {
                let Some(step) = elements.step(item) else {
                    return Ok(());
                };
                unique(shape.element(), item, path)?;
                if let Some(step) = seen.replace(step) {
                    return Err(Status::bad_request(format!(
                        "failed to create typed patch object: {path}: duplicate entries for key {}",
                        super::fields::text(&step)
                    )));
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Sets what the configuration names.
fn overlay(shape: Shape<'_>, object: &mut Value, config: &Value) {
    match (config, shape.elements()) {
        (Value::Object(config), _) if !shape.is_atomic() => {
            let map = object::map_mut(object);
            for (name, value) in config {
                if value.is_null() {
                    map.remove(name);
                } else {
                    overlay(
                        shape.member(name),
                        map.entry(name.as_str()).or_insert(Value::Null),
                        value,
                    );
                }
            }
        }
        (Value::Array(config), elements @ (Elements::Set | Elements::Keyed(_))) => {
            if !object.is_array() {
                *object = Value::Array(Vec::new());
            }
            let Value::Array(list) = object else { return };
            let known: BTreeMap<Option<String>, usize> =
                (0..list.len()).map(|at| (elements.step(&list[at]), at)).collect();
            for item in config {
                match known.get(&elements.step(item)).and_then(|at| list.get_mut(*at)) {
                    Some(old) => overlay(shape.element(), old, item),
                    None => list.push(item.clone()),
                }
            }
        }
        _ => *object = config.clone(),
    }
}
