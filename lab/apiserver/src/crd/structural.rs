//! Structural schemas: pruning, defaults, and the checks that OpenAPI can say.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use regex::Regex;
use serde_json::{Map, Value};

use super::nothing;
use crate::object::items;
use crate::schema::{self, TypeMismatch};
use crate::status::Cause;

/// Compiled patterns that are kept.
const PATTERNS: usize = 256;

fn properties(schema: &Value) -> &Map<String, Value> {
    schema["properties"].as_object().unwrap_or_else(|| nothing())
}

fn preserves(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true
}

/// Prunes what the schema does not know and fills in its defaults. Answers the paths of what was pruned.
/// `metadata` is that of every object.
pub(crate) fn decode(schema: &Value, object: &mut Value) -> Result<Vec<String>, TypeMismatch> {
    let mut unknown = Vec::new();
    if let Some(metadata) = object.get_mut("metadata") {
        if metadata.is_null() {
            *metadata = Value::Object(Map::new());
        }
        if let Some(def) = schema::find("ObjectMeta") {
            let paths = schema::decode(def, metadata)?;
            unknown.extend(paths.into_iter().map(|path| format!("metadata.{path}")));
        }
    }
    prune(schema, object, "", &mut unknown, true);
    Ok(unknown)
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn prune(schema: &Value, value: &mut Value, path: &str, unknown: &mut Vec<String>, root: bool) {
    match value {
        Value::Object(map) => {
            let known = properties(schema);
            for (key, property) in known {
                if let Some(default) = property.get("default") {
                    map.entry(key.as_str()).or_insert_with(|| default.clone());
                }
            }
            let embedded = root || schema["x-kubernetes-embedded-resource"] == true;
            let additional = &schema["additionalProperties"];
            map.retain(|key, value| {
                let own = embedded && ["apiVersion", "kind", "metadata"].contains(&key.as_str());
                if own {
                    return true;
                }
                if let Some(property) = known.get(key) {
                    if value.is_null() && property["nullable"] != true {
                        match property.get("default") {
                            Some(default) => *value = default.clone(),
                            None => return false,
                        }
                    }
                    prune(property, value, &join(path, key), unknown, false);
                    return true;
                }
                if additional.is_object() {
                    prune(additional, value, &join(path, key), unknown, false);
                    return true;
                }
                let keep = *additional == true || preserves(schema);
                if !keep {
                    unknown.push(join(path, key));
                }
                keep
            });
        }
        Value::Array(list) => {
            for (index, item) in list.iter_mut().enumerate() {
                prune(
                    &schema["items"],
                    item,
                    &format!("{path}[{index}]"),
                    unknown,
                    false,
                );
            }
        }
        _ => {}
    }
}

/// Checks a value against its schema. Errors go to `causes` in the words of the real server.
pub(crate) fn check(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    let field = if path.is_empty() { "<nil>" } else { path };
    if !has_type(schema, value) {
        let wanted = schema["type"].as_str().unwrap_or_default();
        let got = type_name(value);
        causes.push(Cause {
            reason: "FieldValueTypeInvalid",
            message: format!("Invalid value: {got:?}: {field} in body must be of type {wanted}: {got:?}"),
            field: field.into(),
        });
        return;
    }
    let allowed = items(&schema["enum"]);
    if !allowed.is_empty() && !allowed.contains(value) {
        let names: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        causes.push(Cause::unsupported(field, value, &names));
    }
    match value {
        Value::Object(map) => object(schema, map, path, causes),
        Value::Array(list) => {
            for (index, item) in list.iter().enumerate() {
                check(&schema["items"], item, &format!("{path}[{index}]"), causes);
            }
            bounds(
                schema,
                value,
                field,
                list.len(),
                ("minItems", "maxItems"),
                "items",
                causes,
            );
        }
        Value::String(text) => {
            bounds(
                schema,
                value,
                field,
                text.chars().count(),
                ("minLength", "maxLength"),
                "chars long",
                causes,
            );
            if let Some(pattern) = schema["pattern"]
                .as_str()
                .filter(|pattern| !matches(pattern, text))
            {
                causes.push(Cause::invalid(
                    field,
                    value,
                    &format!("{field} in body should match '{pattern}'"),
                ));
            }
        }
        Value::Number(number) => range(schema, number.as_f64().unwrap_or(0.0), value, field, causes),
        _ => {}
    }
    combined(schema, value, path, field, causes);
}

fn object(schema: &Value, map: &Map<String, Value>, path: &str, causes: &mut Vec<Cause>) {
    for required in items(&schema["required"]).iter().filter_map(Value::as_str) {
        if !map.contains_key(required) {
            causes.push(Cause::required(join(path, required), ""));
        }
    }
    let limit = |name: &str| schema[name].as_u64().and_then(|n| usize::try_from(n).ok());
    let field = if path.is_empty() { "<nil>" } else { path };
    let shown = || Value::Object(map.clone());
    if let Some(least) = limit("minProperties").filter(|least| map.len() < *least) {
        let text = format!("{field} in body should have at least {least} properties");
        causes.push(Cause::invalid(field, &shown(), &text));
    }
    if let Some(most) = limit("maxProperties").filter(|most| map.len() > *most) {
        let text = format!("{field} in body should have at most {most} properties");
        causes.push(Cause::invalid(field, &shown(), &text));
    }
    let known = properties(schema);
    for (key, value) in map {
        if path.is_empty() && ["apiVersion", "kind", "metadata"].contains(&key.as_str()) {
            continue;
        }
        match known.get(key) {
            Some(property) => check(property, value, &join(path, key), causes),
            None if schema["additionalProperties"].is_object() => {
                check(&schema["additionalProperties"], value, &join(path, key), causes);
            }
            None => {}
        }
    }
}

/// Whether a text matches a pattern; one that cannot be read matches everything.
fn matches(pattern: &str, text: &str) -> bool {
    static COMPILED: Mutex<BTreeMap<String, Option<Regex>>> = Mutex::new(BTreeMap::new());
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if compiled.len() > PATTERNS && !compiled.contains_key(pattern) {
        compiled.clear();
    }
    let regex = compiled
        .entry(pattern.to_owned())
        .or_insert_with(|| Regex::new(pattern).ok())
        .clone();
    drop(compiled);
    regex.is_none_or(|regex| regex.is_match(text))
}

fn has_type(schema: &Value, value: &Value) -> bool {
    if schema["x-kubernetes-int-or-string"] == true {
        return value.is_i64() || value.is_u64() || value.is_string();
    }
    match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0)
        }
        Some("number") => value.is_number(),
        _ => true,
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn bounds(
    schema: &Value,
    value: &Value,
    field: &str,
    size: usize,
    (least, most): (&str, &str),
    unit: &str,
    causes: &mut Vec<Cause>,
) {
    let limit = |name: &str| schema[name].as_u64().and_then(|n| usize::try_from(n).ok());
    if let Some(least) = limit(least).filter(|least| size < *least) {
        let text = format!("{field} in body should be at least {least} {unit}");
        causes.push(Cause::invalid(field, value, &text));
    }
    if let Some(most) = limit(most).filter(|most| size > *most) {
        let text = format!("{field} in body should be at most {most} {unit}");
        causes.push(Cause::invalid(field, value, &text));
    }
}

fn range(schema: &Value, number: f64, value: &Value, field: &str, causes: &mut Vec<Cause>) {
    if let Some(least) = schema["minimum"].as_f64() {
        let exclusive = schema["exclusiveMinimum"] == true;
        if number < least || exclusive && number <= least {
            let word = if exclusive {
                "greater than"
            } else {
                "greater than or equal to"
            };
            causes.push(Cause::invalid(
                field,
                value,
                &format!("{field} in body should be {word} {least}"),
            ));
        }
    }
    if let Some(most) = schema["maximum"].as_f64() {
        let exclusive = schema["exclusiveMaximum"] == true;
        if number > most || exclusive && number >= most {
            let word = if exclusive {
                "less than"
            } else {
                "less than or equal to"
            };
            causes.push(Cause::invalid(
                field,
                value,
                &format!("{field} in body should be {word} {most}"),
            ));
        }
    }
}

fn combined(schema: &Value, value: &Value, path: &str, field: &str, causes: &mut Vec<Cause>) {
    let holds = |schema: &Value| {
        let mut own = Vec::new();
        check(schema, value, path, &mut own);
        own.is_empty()
    };
    for part in items(&schema["allOf"]) {
        check(part, value, path, causes);
    }
    let any = items(&schema["anyOf"]);
    if !any.is_empty() && !any.iter().any(holds) {
        let text = format!("{field} in body must validate at least one schema (anyOf)");
        causes.push(Cause::invalid(field, value, &text));
    }
    let one = items(&schema["oneOf"]);
    if !one.is_empty() && one.iter().filter(|s| holds(s)).count() != 1 {
        let text = format!("{field} in body must validate one and only one schema (oneOf)");
        causes.push(Cause::invalid(field, value, &text));
    }
    if schema["not"].is_object() && holds(&schema["not"]) {
        let text = format!("{field} in body must not validate the schema (not)");
        causes.push(Cause::invalid(field, value, &text));
    }
}
