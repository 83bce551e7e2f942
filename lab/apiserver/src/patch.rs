//! The four ways to change a part of an object.
//!
//! Server-side apply is a way of its own ([`managed`]): it knows who set which field.

use json_patch::PatchOperation;
use json_patch::jsonptr::Pointer;
use serde_json::Value;

use crate::api::PatchKind;
use crate::schema::TypeDef;
use crate::status::Status;

mod fields;
pub(crate) mod managed;
mod shape;
mod strategic;
#[cfg(test)]
mod tests;

/// Most operations of a JSON patch, as in Kubernetes.
const OPERATIONS: usize = 10_000;
/// Most values that the operations of a JSON patch copy and move. Kubernetes bounds the bytes that are copied: without
/// a bound, a few lines double an object until memory is full.
const COPIED: usize = 200_000;
/// Deepest nesting that operations may build: that of the JSON parser.
const DEPTH: usize = 128;

/// Applies a patch to an object. `types` says how lists merge; without it strategic means merge.
/// Errors: 400 for a patch of the wrong form, 422 for one that does not fit the object.
pub(crate) fn apply(
    kind: PatchKind,
    types: Option<&'static TypeDef>,
    mut object: Value,
    patch: &Value,
) -> Result<Value, Status> {
    match kind {
        PatchKind::Json => {
            let operations: json_patch::Patch = serde_json::from_value(patch.clone())
                .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
            json(&mut object, &operations)?;
        }
        _ if !patch.is_object() => {
            return Err(Status::bad_request(
                "error decoding patch: the patch is not an object",
            ));
        }
        PatchKind::Merge | PatchKind::Apply { .. } => merge(&mut object, patch),
        PatchKind::Strategic => strategic::merge(types, &mut object, patch)?,
    }
    if object.is_object() {
        Ok(object)
    } else {
        Err(Status::bad_request("the patch does not leave an object"))
    }
}

/// RFC 6902.
fn json(object: &mut Value, operations: &[PatchOperation]) -> Result<(), Status> {
    let refused = |why: String| {
        let mut status = Status::bad_request(format!(
            "the server rejected our request due to an error in our request: {why}"
        ));
        status.code = 422;
        status.reason = "Invalid";
        status
    };
    if operations.len() > OPERATIONS {
        let mut status = Status::too_large(OPERATIONS);
        status.message = format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS}, got {}",
            operations.len()
        );
        return Err(status);
    }
    let mut budget = COPIED;
    for operation in operations {
        let added = match operation {
            PatchOperation::Add(add) => Some((&add.path, &add.value)),
            PatchOperation::Replace(replace) => Some((&replace.path, &replace.value)),
            PatchOperation::Copy(copy) => value_at(object, &copy.from).map(|value| (&copy.path, value)),
            PatchOperation::Move(moved) => value_at(object, &moved.from).map(|value| (&moved.path, value)),
            PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
        };
        if let Some((path, value)) = added {
            let shared = matches!(operation, PatchOperation::Copy(_) | PatchOperation::Move(_));
            let mut free = usize::MAX;
            let room = DEPTH.saturating_sub(path.count());
            if !fits(value, room, if shared { &mut budget } else { &mut free }) {
                return Err(refused("the patch makes the object too large".to_owned()));
            }
        }
        // One by one: what an operation copies is known when the ones before it are done.
        json_patch::patch(object, std::slice::from_ref(operation)).map_err(|e| refused(e.to_string()))?;
    }
    Ok(())
}

fn value_at<'a>(object: &'a Value, path: &Pointer) -> Option<&'a Value> {
    object.pointer(path.as_str())
}

/// Whether a value is nested no deeper than `room` and has no more parts than `budget`, which they use up.
fn fits(value: &Value, room: usize, budget: &mut usize) -> bool {
    let (Some(room), Some(left)) = (room.checked_sub(1), budget.checked_sub(1)) else {
        return false;
    };
    *budget = left;
    match value {
        Value::Array(list) => list.iter().all(|item| fits(item, room, budget)),
        Value::Object(map) => map.values().all(|item| fits(item, room, budget)),
        _ => true,
    }
}

/// RFC 7386.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    let map = crate::object::map_mut(target);
    for (key, value) in patch {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.as_str()).or_insert(Value::Null), value);
        }
    }
}
