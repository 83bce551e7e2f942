//! Server-side apply and `managedFields`.
//!
//! Only what was applied is recorded field by field (`Apply` entries). Other writers leave no entry: computing theirs
//! is what conflict detection will need, together with refusing.

use serde_json::{Map, Value, json};

use crate::kinds::{Fields, Kind};
use crate::object::{self, items};
use crate::schema::TypeDef;

/// A configuration and who applies it.
pub(crate) struct Applied<'a> {
    pub(crate) manager: &'a str,
    pub(crate) config: Value,
}

/// The object after `applied`: its fields are set, and fields that the same manager applied before but no longer
/// names are removed.
pub(crate) fn merge(kind: &Kind, mut object: Value, applied: &Applied<'_>) -> Value {
    let types = match &kind.fields {
        Fields::Builtin(def) => Some(*def),
        Fields::Structural(_) => None,
    };
    let mut config = applied.config.clone();
    object::meta_mut(&mut config).remove("managedFields");
    let entries = items(&object["metadata"]["managedFields"]);
    let before = entries
        .iter()
        .find(|e| e["manager"] == applied.manager && e["operation"] == "Apply");
    if let Some(before) = before.map(|e| e["fieldsV1"].clone()) {
        let now = fields(types, &config);
        remove_dropped(types, &mut object, &before, &now);
    }
    overlay(types, &mut object, &config);
    object
}

/// Writes the entry of an applied configuration, and keeps those of others.
pub(crate) fn record(
    kind: &Kind,
    object: &mut Value,
    current: Option<&Value>,
    _writer: &str,
    applied: Option<&Applied<'_>>,
) {
    let mut entries = current
        .map(|c| items(&c["metadata"]["managedFields"]).to_vec())
        .unwrap_or_default();
    if let Some(applied) = applied {
        let types = match &kind.fields {
            Fields::Builtin(def) => Some(*def),
            Fields::Structural(_) => None,
        };
        let own = |e: &Value| e["manager"] == applied.manager && e["operation"] == "Apply";
        let fields = fields(types, &applied.config);
        let same = entries
            .iter()
            .find(|e| own(e))
            .is_some_and(|e| e["fieldsV1"] == fields);
        if !same {
            entries.retain(|e| !own(e));
            entries.push(json!({
                "manager": applied.manager, "operation": "Apply", "apiVersion": kind.api_version(),
                "time": object::now(), "fieldsType": "FieldsV1", "fieldsV1": fields,
            }));
        }
    }
    let meta = object::meta_mut(object);
    if entries.is_empty() {
        meta.remove("managedFields");
    } else {
        meta.insert("managedFields".into(), entries.into());
    }
}

/// The fields that a configuration names, as FieldsV1.
fn fields(types: Option<&'static TypeDef>, config: &Value) -> Value {
    let mut out = field_set(types, config);
    let map = object::map_mut(&mut out);
    for system in ["f:apiVersion", "f:kind"] {
        map.remove(system);
    }
    if let Some(Value::Object(meta)) = map.get_mut("f:metadata") {
        for system in [
            "f:name",
            "f:namespace",
            "f:uid",
            "f:resourceVersion",
            "f:creationTimestamp",
            "f:generation",
        ] {
            meta.remove(system);
        }
        if meta.is_empty() {
            map.remove("f:metadata");
        }
    }
    out
}

fn field_set(types: Option<&'static TypeDef>, value: &Value) -> Value {
    let Value::Object(map) = value else {
        return json!({});
    };
    let mut out = Map::new();
    for (key, value) in map {
        let inner = types.and_then(|t| t.member(key));
        let set = match (value, types.and_then(|t| t.merge_key(key))) {
            (Value::Object(_), _) => field_set(inner, value),
            (Value::Array(list), Some(merge_key)) => {
                let elements = list.iter().map(|item| {
                    if merge_key.is_empty() {
                        return (format!("v:{item}"), json!({}));
                    }
                    let mut set = field_set(inner, item);
                    object::map_mut(&mut set).insert(".".into(), json!({}));
                    (element_key(merge_key, item), set)
                });
                Value::Object(elements.collect())
            }
            _ => json!({}),
        };
        out.insert(format!("f:{key}"), set);
    }
    Value::Object(out)
}

fn element_key(merge_key: &str, item: &Value) -> String {
    format!("k:{}", json!({merge_key: item[merge_key]}))
}

/// Removes what `before` names and `now` does not.
fn remove_dropped(types: Option<&'static TypeDef>, object: &mut Value, before: &Value, now: &Value) {
    let (Some(before), Value::Object(map)) = (before.as_object(), object) else {
        return;
    };
    for (key, set) in before {
        let Some(field) = key.strip_prefix("f:") else {
            continue;
        };
        let inner = types.and_then(|t| t.member(field));
        match now.get(key) {
            None if set.as_object().is_none_or(Map::is_empty) => {
                map.remove(field);
            }
            kept => {
                let nothing = json!({});
                let kept = kept.unwrap_or(&nothing);
                match (map.get_mut(field), types.and_then(|t| t.merge_key(field))) {
                    (Some(Value::Array(list)), Some(merge_key)) => {
                        drop_elements(inner, list, merge_key, set, kept);
                        if list.is_empty() {
                            map.remove(field);
                        }
                    }
                    (Some(place @ Value::Object(_)), _) => {
                        remove_dropped(inner, place, set, kept);
                        if place.as_object().is_some_and(Map::is_empty) {
                            map.remove(field);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

fn drop_elements(
    inner: Option<&'static TypeDef>,
    list: &mut Vec<Value>,
    merge_key: &str,
    set: &Value,
    kept: &Value,
) {
    let name = |item: &Value| {
        if merge_key.is_empty() {
            format!("v:{item}")
        } else {
            element_key(merge_key, item)
        }
    };
    list.retain(|item| set.get(name(item)).is_none() || kept.get(name(item)).is_some());
    for item in list {
        if let (Some(set), Some(kept)) = (set.get(name(item)), kept.get(name(item))) {
            remove_dropped(inner, item, set, kept);
        }
    }
}

/// Sets what the configuration names; lists with a merge key are merged, others replaced.
fn overlay(types: Option<&'static TypeDef>, object: &mut Value, config: &Value) {
    let Value::Object(config) = config else {
        *object = config.clone();
        return;
    };
    let map = object::map_mut(object);
    for (key, value) in config {
        let inner = types.and_then(|t| t.member(key));
        match (value, types.and_then(|t| t.merge_key(key))) {
            (Value::Null, _) => {
                map.remove(key);
            }
            (Value::Object(_), _) => overlay(inner, map.entry(key.as_str()).or_insert(Value::Null), value),
            (Value::Array(elements), Some(merge_key)) => {
                let place = map
                    .entry(key.as_str())
                    .or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(list) = place else { continue };
                for element in elements {
                    let same = |old: &&mut Value| {
                        if merge_key.is_empty() {
                            **old == *element
                        } else {
                            old[merge_key] == element[merge_key]
                        }
                    };
                    match list.iter_mut().find(same) {
                        Some(old) => overlay(inner, old, element),
                        None => list.push(element.clone()),
                    }
                }
            }
            _ => {
                map.insert(key.clone(), value.clone());
            }
        }
    }
}
