//! Small readers and writers for objects, which are plain JSON values here.
//!
//! Everything that reaches these functions went through [`crate::schema`], so `metadata` is an object.

use jiff::Timestamp;
use serde_json::{Map, Value};

/// Name of a string field of `metadata`, empty when absent.
pub(crate) fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

pub(crate) fn name(object: &Value) -> &str {
    meta(object, "name")
}

pub(crate) fn namespace(object: &Value) -> &str {
    meta(object, "namespace")
}

/// The `metadata` map, made when absent.
pub(crate) fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    map_mut(&mut object["metadata"])
}

/// The value as a map; anything else is replaced by an empty map.
pub(crate) fn map_mut(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

/// Sets a field when it is absent.
pub(crate) fn default_to(object: &mut Value, field: &str, value: impl Into<Value>) {
    map_mut(object).entry(field).or_insert_with(|| value.into());
}

/// The elements of a list, none when absent.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The elements of a list, none when absent.
pub(crate) fn items_mut(value: &mut Value) -> &mut [Value] {
    value.as_array_mut().map(Vec::as_mut_slice).unwrap_or_default()
}

/// A number or flag as text, to compare with what a user wrote.
pub(crate) fn plain_text(value: &Value) -> String {
    value.to_string()
}

/// Whether deletion was asked for.
pub(crate) fn is_terminating(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

pub(crate) fn has_finalizers(object: &Value) -> bool {
    !items(&object["metadata"]["finalizers"]).is_empty() || !items(&object["spec"]["finalizers"]).is_empty()
}

/// Now, as `metav1.Time` writes it (whole seconds).
pub(crate) fn now() -> String {
    time(Timestamp::now())
}

/// A time as `metav1.Time` writes it.
pub(crate) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The end of a generated name: letters and digits that cannot spell words, as Kubernetes chooses them.
pub(crate) fn random_suffix(length: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let bytes = uuid::Uuid::new_v4().into_bytes();
    bytes
        .iter()
        .take(length)
        .map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()]))
        .collect()
}
