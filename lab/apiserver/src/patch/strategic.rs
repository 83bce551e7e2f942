//! Strategic merge patch: lists merge by key, and directives (`$patch`, `$retainKeys`, `$deleteFromPrimitiveList/…`,
//! `$setElementOrder/…`) say what plain JSON cannot.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::object::{items, map_mut};
use crate::schema::TypeDef;
use crate::status::Status;

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Merges `patch` into `target`, whose fields are those of `def`.
pub(super) fn merge(def: Option<&'static TypeDef>, target: &mut Value, patch: &Value) -> Result<(), Status> {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace") => {
            let mut rest = patch.clone();
            rest.remove(DIRECTIVE);
            *target = without_directives(Value::Object(rest));
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(Status::bad_request(format!("Unknown patch type found: {other}"))),
    }
    let map = map_mut(target);
    if let Some(retained) = patch.get(RETAIN) {
        let retained = items(retained);
        map.retain(|key, _| retained.iter().any(|r| r == key));
    }
    for (key, value) in patch {
        if key == DIRECTIVE || key == RETAIN || key.starts_with(ORDER) {
            continue;
        }
        if let Some(field) = key.strip_prefix(DELETE_FROM) {
            if let Some(Value::Array(list)) = map.get_mut(field) {
                list.retain(|item| !items(value).contains(item));
            }
            continue;
        }
        member(def, map, key, value)?;
    }
    // An order may come without elements to change.
    for (key, order) in patch {
        let Some(field) = key.strip_prefix(ORDER) else {
            continue;
        };
        if let Some(Value::Array(list)) = map.get_mut(field) {
            let merge_key = def.and_then(|d| d.merge_key(field));
            sort(list, merge_key.unwrap_or_default(), items(order));
        }
    }
    Ok(())
}

fn member(
    def: Option<&'static TypeDef>,
    map: &mut Map<String, Value>,
    key: &str,
    value: &Value,
) -> Result<(), Status> {
    let inner = def.and_then(|d| d.member(key));
    match value {
        Value::Null => {
            map.remove(key);
        }
        Value::Object(_) => {
            let place = map.entry(key).or_insert_with(|| Value::Object(Map::new()));
            merge(inner, place, value)?;
        }
        Value::Array(patch) => match def.and_then(|d| d.merge_key(key)) {
            Some(merge_key) => {
                let place = map.entry(key).or_insert_with(|| Value::Array(Vec::new()));
                if !place.is_array() {
                    *place = Value::Array(Vec::new());
                }
                if let Value::Array(list) = place {
                    merge_list(inner, list, patch, merge_key)?;
                }
            }
            None => {
                map.insert(key.to_owned(), without_directives(value.clone()));
            }
        },
        plain => {
            map.insert(key.to_owned(), plain.clone());
        }
    }
    Ok(())
}

fn merge_list(
    def: Option<&'static TypeDef>,
    list: &mut Vec<Value>,
    patch: &[Value],
    merge_key: &str,
) -> Result<(), Status> {
    if merge_key.is_empty() {
        for item in patch {
            if !list.contains(item) {
                list.push(item.clone());
            }
        }
        return Ok(());
    }
    if patch.iter().any(|item| item[DIRECTIVE] == "replace") {
        let kept = patch.iter().filter(|item| item[DIRECTIVE] != "replace");
        *list = kept.map(|item| without_directives(item.clone())).collect();
        return Ok(());
    }
    for item in patch {
        let key = &item[merge_key];
        if key.is_null() {
            return Err(Status::bad_request(format!(
                "map: {item} does not contain declared merge key: {merge_key}"
            )));
        }
        if item[DIRECTIVE] == "delete" {
            list.retain(|old| old[merge_key] != *key);
            continue;
        }
        match list.iter_mut().find(|old| old[merge_key] == *key) {
            Some(old) => merge(def, old, item)?,
            None => {
                let mut fresh = Value::Object(Map::new());
                merge(def, &mut fresh, item)?;
                list.push(fresh);
            }
        }
    }
    Ok(())
}

/// Puts the elements that `order` names into that order; the others stay behind the element that they followed.
fn sort(list: &mut Vec<Value>, merge_key: &str, order: &[Value]) {
    let identity = |item: &Value| {
        if merge_key.is_empty() {
            item.clone()
        } else {
            item[merge_key].clone()
        }
    };
    let mut ranks = HashMap::new();
    for (at, item) in order.iter().enumerate() {
        ranks.entry(identity(item).to_string()).or_insert(at);
    }
    let rank = |item: &Value| ranks.get(&identity(item).to_string()).copied();
    let mut last = None;
    let mut keyed: Vec<(Option<usize>, usize, Value)> = std::mem::take(list)
        .into_iter()
        .enumerate()
        .map(|(at, item)| {
            if let Some(found) = rank(&item) {
                last = Some(found);
                (Some(found), 0, item)
            } else {
                (last, at + 1, item)
            }
        })
        .collect();
    keyed.sort_by_key(|(rank, behind, _)| (*rank, *behind));
    list.extend(keyed.into_iter().map(|(_, _, item)| item));
}

/// What a patch says when nothing is there to be patched.
fn without_directives(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .filter(|(key, _)| !key.starts_with('$'))
                .map(|(key, value)| (key, without_directives(value)))
                .collect(),
        ),
        Value::Array(list) => Value::Array(
            list.into_iter()
                .filter(|item| item[DIRECTIVE] != "delete")
                .map(without_directives)
                .collect(),
        ),
        plain => plain,
    }
}
