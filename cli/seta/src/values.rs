//! Values of the chart: merged as Helm merges them, read from `--set` as Helm reads them, and checked against the
//! schema of the chart. Pure: no file is opened here.

pub(crate) mod assign;
pub(crate) mod schema;

use serde_json::Value;

/// Lays `over` over `base`: objects are merged, `null` removes a key, everything else replaces.
pub(crate) fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    base.remove(&key);
                    continue;
                }
                match base.get_mut(&key) {
                    Some(existing) if existing.is_object() && value.is_object() => merge(existing, value),
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
pub(crate) fn at<'a>(values: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(values, |value, key| value.get(key))
}

/// Sets the value at a dotted path, unless there is one.
pub(crate) fn set_missing(values: &mut Value, path: &str, value: Value) {
    if at(values, path).is_some() {
        return;
    }
    let nested = path
        .rsplit('.')
        .fold(value, |inner, key| serde_json::json!({ key: inner }));
    merge(values, nested);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
