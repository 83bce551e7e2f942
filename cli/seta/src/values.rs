//! Values of the chart: merged as Helm merges them, read from `--set` as Helm reads them, and checked against the
//! schema of the chart. Pure: no file is opened here.

pub mod assign;
pub mod schema;

use serde_json::{Value, json};
use thiserror::Error;

/// Why a values file cannot be used. The texts go on after the name of the file.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It is not YAML.
    #[error("is not YAML: {0}")]
    NotYaml(#[source] Box<serde_saphyr::Error>),
    /// It is a list, or a single word.
    #[error("is not a mapping of names to values")]
    NotAMapping,
}

/// The values in the text of a values file; none in an empty one.
///
/// # Errors
/// See [`ReadError`].
pub fn read(text: &str) -> Result<Value, ReadError> {
    if text.trim().is_empty() {
        return Ok(json!({}));
    }
    match serde_saphyr::from_str(text).map_err(|error| ReadError::NotYaml(Box::new(error)))? {
        Value::Null => Ok(json!({})),
        values @ Value::Object(_) => Ok(values),
        _ => Err(ReadError::NotAMapping),
    }
}

/// Lays `over` over `base`: objects are merged, `null` removes a key, everything else replaces.
pub fn merge(base: &mut Value, over: Value) {
    lay(base, over, true);
}

/// Lays values that the user gave over those that the user gave before: as [`merge`], but a `null` is kept, as it is
/// there to remove what the chart sets.
pub fn add(base: &mut Value, over: Value) {
    lay(base, over, false);
}

fn lay(base: &mut Value, over: Value, removes: bool) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                if removes && value.is_null() {
                    base.remove(&key);
                    continue;
                }
                match base.get_mut(&key) {
                    Some(existing) if existing.is_object() && value.is_object() => {
                        lay(existing, value, removes);
                    }
                    _ => {
                        base.insert(key, value);
                    }
                }
            }
        }
        (base, over) => *base = over,
    }
}

/// The value at a dotted path.
pub fn at<'a>(values: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(values, |value, key| value.get(key))
}

/// Sets the value at a dotted path, unless there is one.
pub fn set_missing(values: &mut Value, path: &str, value: Value) {
    if at(values, path).is_some() {
        return;
    }
    let nested = path.rsplit('.').fold(value, |inner, key| json!({ key: inner }));
    merge(values, nested);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_mappings() {
        let rows = [
            ("", Some(json!({}))),
            ("# nothing\n", Some(json!({}))),
            ("a: {b: 1}\n", Some(json!({"a": {"b": 1}}))),
            ("- a\n", None),
            ("word", None),
            ("a: [", None),
        ];
        for (text, expected) in rows {
            assert_eq!(read(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn merges_as_helm_does() {
        let rows = [
            (json!({"a": 1}), json!({"a": 2}), json!({"a": 2})),
            (
                json!({"a": {"b": 1, "c": 2}}),
                json!({"a": {"b": 3}}),
                json!({"a": {"b": 3, "c": 2}}),
            ),
            (json!({"a": {"b": 1}}), json!({"a": null}), json!({})),
            (json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]})),
            (json!({"a": {"b": 1}}), json!({"a": "x"}), json!({"a": "x"})),
            (json!({}), json!({"a": {"b": 1}}), json!({"a": {"b": 1}})),
        ];
        for (mut base, over, expected) in rows {
            merge(&mut base, over.clone());
            assert_eq!(base, expected, "after merging {over}");
        }
    }

    #[test]
    fn null_of_a_file_removes_a_default() {
        let rows = [
            (json!({}), json!({"a": null}), json!({"b": {"c": 2}})),
            (json!({"a": 3}), json!({"a": null}), json!({"b": {"c": 2}})),
            (
                json!({"a": null}),
                json!({"a": 4}),
                json!({"a": 4, "b": {"c": 2}}),
            ),
            (
                json!({"b": {"d": 3}}),
                json!({"b": {"c": null}}),
                json!({"a": 1, "b": {"d": 3}}),
            ),
        ];
        for (mut user, over, expected) in rows {
            let mut values = json!({"a": 1, "b": {"c": 2}});
            add(&mut user, over.clone());
            merge(&mut values, user);
            assert_eq!(values, expected, "with {over}");
        }
    }

    #[test]
    fn missing_values_are_set_and_given_ones_stay() {
        let mut values = json!({"cluster": {"name": "mine"}});
        set_missing(&mut values, "cluster.name", json!("kind-kind"));
        set_missing(&mut values, "ipam.mode", json!("kubernetes"));
        assert_eq!(
            values,
            json!({"cluster": {"name": "mine"}, "ipam": {"mode": "kubernetes"}})
        );
    }
}
