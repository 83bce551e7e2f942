//! The four ways to change a part of an object.
//!
//! Server-side apply is a way of its own ([`managed`]): it knows who set which field.

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
            json_patch::patch(&mut object, &operations).map_err(|e| {
                let mut status = Status::bad_request(format!(
                    "the server rejected our request due to an error in our request: {e}"
                ));
                status.code = 422;
                status.reason = "Invalid";
                status
            })?;
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
