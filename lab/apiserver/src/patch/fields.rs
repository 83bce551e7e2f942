//! Sets of fields of an object, as `managedFields` keep them (`FieldsV1`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::shape::Shape;

/// The way to a field: `f:name` for a member, `k:{…}` or `v:…` for an element of a list.
type Path = Vec<String>;

/// Fields, each by its path. Values that merge piece by piece are not fields themselves, except elements of lists and
/// what is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldSet(BTreeSet<Path>);

impl FieldSet {
    /// All fields of a value.
    pub(super) fn of(shape: Shape<'_>, value: &Value) -> Self {
        let mut out = BTreeSet::new();
        collect(shape, value, &mut Vec::new(), &mut out);
        Self(out)
    }

    /// The fields of `after` that `before` does not have, or with another value.
    pub(super) fn changed(shape: Shape<'_>, before: &Value, after: &Value) -> Self {
        let mut out = BTreeSet::new();
        compare(shape, before, after, &mut Vec::new(), &mut out);
        Self(out)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0.extend(other.0.iter().cloned());
    }

    pub(super) fn remove(&mut self, other: &Self) {
        self.0.retain(|path| !other.0.contains(path));
    }

    pub(super) fn keep(&mut self, other: &Self) {
        self.0.retain(|path| other.0.contains(path));
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).cloned().collect())
    }

    /// The same with everything that lies on the ways.
    pub(super) fn with_parents(&self) -> Self {
        let prefixes = |path: &Path| {
            (1..=path.len())
                .map(|end| path[..end].to_vec())
                .collect::<Vec<_>>()
        };
        Self(self.0.iter().flat_map(prefixes).collect())
    }

    /// Takes out the fields whose path starts like one of `roots`.
    pub(super) fn forget(&mut self, roots: &[&[&str]]) {
        self.0.retain(|path| {
            !roots
                .iter()
                .any(|root| path.iter().zip(*root).filter(|(a, b)| a == *b).count() == root.len())
        });
    }

    /// The paths as Kubernetes shows them to people: `.spec.ports[port=53,protocol="UDP"].name`.
    pub(super) fn texts(&self) -> Vec<String> {
        self.0
            .iter()
            .map(|path| path.iter().map(|step| text(step)).collect())
            .collect()
    }

    /// Removes these fields from an object, and what becomes empty by that.
    pub(super) fn remove_from(&self, shape: Shape<'_>, object: &mut Value) {
        for path in &self.0 {
            remove(shape, object, path);
        }
    }

    /// Reads `fieldsV1`. What is none is left out.
    pub(super) fn read(fields: &Value) -> Self {
        fn walk(node: &Value, path: &mut Path, out: &mut BTreeSet<Path>) {
            let Some(map) = node.as_object() else { return };
            if !path.is_empty() && (map.is_empty() || map.contains_key(".")) {
                out.insert(path.clone());
            }
            for (step, inner) in map {
                if ["f:", "k:", "v:"].iter().any(|prefix| step.starts_with(prefix)) {
                    path.push(step.clone());
                    walk(inner, path, out);
                    path.pop();
                }
            }
        }
        let mut out = BTreeSet::new();
        walk(fields, &mut Vec::new(), &mut out);
        Self(out)
    }

    /// Writes `fieldsV1`.
    pub(super) fn to_json(&self) -> Value {
        #[derive(Default)]
        struct Node(bool, BTreeMap<String, Node>);
        fn show(node: &Node) -> Value {
            let mut map: Map<String, Value> = node
                .1
                .iter()
                .map(|(step, inner)| (step.clone(), show(inner)))
                .collect();
            if node.0 && !map.is_empty() {
                map.insert(".".into(), json!({}));
            }
            Value::Object(map)
        }
        let mut root = Node::default();
        for path in &self.0 {
            let mut node = &mut root;
            for step in path {
                node = node.1.entry(step.clone()).or_default();
            }
            node.0 = true;
        }
        show(&root)
    }
}

fn collect(shape: Shape<'_>, value: &Value, path: &mut Path, out: &mut BTreeSet<Path>) {
    match value {
        Value::Object(map) if !map.is_empty() && !shape.is_atomic() => {
            for (name, value) in map {
                path.push(format!("f:{name}"));
                collect(shape.member(name), value, path, out);
                path.pop();
            }
        }
        Value::Array(list) if !list.is_empty() => {
            let elements = shape.elements();
            for item in list {
                let Some(step) = elements.step(item) else {
                    out.insert(path.clone());
                    return;
                };
                path.push(step);
                out.insert(path.clone());
                if item.is_object() {
                    collect(shape.element(), item, path, out);
                }
                path.pop();
            }
        }
        _ if path.is_empty() => {}
        _ => {
            out.insert(path.clone());
        }
    }
}

fn compare(shape: Shape<'_>, before: &Value, after: &Value, path: &mut Path, out: &mut BTreeSet<Path>) {
    if before == after {
        return;
    }
    match (before, after) {
        (Value::Object(old), Value::Object(new)) if !shape.is_atomic() => {
            for (name, value) in new {
                path.push(format!("f:{name}"));
                compare(
                    shape.member(name),
                    old.get(name).unwrap_or(&Value::Null),
                    value,
                    path,
                    out,
                );
                path.pop();
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            let elements = shape.elements();
            let old: BTreeMap<String, &Value> = old
                .iter()
                .filter_map(|item| Some((elements.step(item)?, item)))
                .collect();
            for item in new {
                let Some(step) = elements.step(item) else { break };
                let known = old.get(&step).copied();
                path.push(step);
                match known {
                    Some(known) => compare(shape.element(), known, item, path, out),
                    None => {
                        out.insert(path.clone());
                        if item.is_object() {
                            collect(shape.element(), item, path, out);
                        }
                    }
                }
                path.pop();
            }
            if matches!(elements, super::shape::Elements::Whole) {
                out.insert(path.clone());
            }
        }
        (Value::Null, _) => collect(shape, after, path, out),
        _ => {
            out.insert(path.clone());
        }
    }
}

/// Removes one field; answers whether it was there.
fn remove(shape: Shape<'_>, value: &mut Value, path: &[String]) -> bool {
    let Some((step, rest)) = path.split_first() else {
        return false;
    };
    match value {
        Value::Object(map) => {
            let Some(name) = step.strip_prefix("f:") else {
                return false;
            };
            if rest.is_empty() {
                return map.remove(name).is_some();
            }
            let Some(inner) = map.get_mut(name) else {
                return false;
            };
            let removed = remove(shape.member(name), inner, rest);
            let empty =
                inner.as_object().is_some_and(Map::is_empty) || inner.as_array().is_some_and(Vec::is_empty);
            if removed && empty {
                map.remove(name);
            }
            removed
        }
        Value::Array(list) => {
            let elements = shape.elements();
            let Some(at) = list
                .iter()
                .position(|item| elements.step(item).as_ref() == Some(step))
            else {
                return false;
            };
            match rest {
                [] => {
                    list.remove(at);
                    true
                }
                // An element that stays keeps what it is known by.
                [field] if elements.is_key(field) => false,
                _ => remove(shape.element(), &mut list[at], rest),
            }
        }
        _ => false,
    }
}

pub(super) fn text(step: &str) -> String {
    if let Some(name) = step.strip_prefix("f:") {
        return format!(".{name}");
    }
    if let Some(value) = step.strip_prefix("v:") {
        return format!("[={value}]");
    }
    let keys: Map<String, Value> = serde_json::from_str(step.trim_start_matches("k:")).unwrap_or_default();
    let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
    format!("[{}]", keys.join(","))
}
