use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema;

fn strategic(kind: &str, object: Value, patch: &Value) -> Result<Value, Status> {
    apply(PatchKind::Strategic, schema::find(kind), object, patch)
}

#[test]
fn strategic_rows() {
    let rows = [
        (
            "containers merge by name",
            json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}}),
            json!({"spec": {"containers": [{"name": "b", "image": "2"}, {"name": "c"}]}}),
            json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c"}]}}),
        ),
        (
            "an element is deleted",
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"containers": [{"$patch": "delete", "name": "a"}]}}),
            json!({"spec": {"containers": [{"name": "b"}]}}),
        ),
        (
            "a list is replaced",
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "c"}]}}),
            json!({"spec": {"containers": [{"name": "c"}]}}),
        ),
        (
            "a map is replaced",
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}}),
            json!({"metadata": {"labels": {"c": "3"}}}),
        ),
        (
            "null removes",
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"a": null}}}),
            json!({"metadata": {"labels": {"b": "2"}}}),
        ),
        (
            "sets of plain values are merged and cut",
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]}}),
            json!({"metadata": {"finalizers": ["b", "c"]}}),
        ),
        (
            "elements are put in order",
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {
                "$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}],
                "containers": [{"name": "c"}],
            }}),
            json!({"spec": {"containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}]}}),
        ),
        (
            "the source of a volume changes",
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}}),
        ),
        (
            "lists without a key are replaced",
            json!({"spec": {"tolerations": [{"key": "a"}]}}),
            json!({"spec": {"tolerations": [{"key": "b"}]}}),
            json!({"spec": {"tolerations": [{"key": "b"}]}}),
        ),
        (
            "lists of lists: ports of containers",
            json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}}),
            json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "web"}]}]}}),
            json!({"spec": {"containers": [
                {"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP", "name": "web"}]}
            ]}}),
        ),
    ];
    for (what, object, patch, wanted) in rows {
        assert_eq!(strategic("Pod", object, &patch), Ok(wanted), "{what}");
    }
}

#[test]
fn broken_strategic_patches_are_refused() {
    let object = json!({"spec": {"containers": [{"name": "a"}]}});
    for patch in [
        json!({"spec": {"containers": [{"image": "x"}]}}),
        json!({"$patch": "explode"}),
        json!([1]),
    ] {
        assert_eq!(
            strategic("Pod", object.clone(), &patch).map_err(|s| s.code),
            Err(400),
            "{patch}"
        );
    }
}

#[test]
fn json_patch_rows() {
    let object = json!({"a": {"b": 1}});
    let patch =
        json!([{"op": "replace", "path": "/a/b", "value": 2}, {"op": "add", "path": "/c", "value": []}]);
    assert_eq!(
        apply(PatchKind::Json, None, object.clone(), &patch),
        Ok(json!({"a": {"b": 2}, "c": []}))
    );
    let rows = [
        (json!([{"op": "remove", "path": "/nothing"}]), 422),
        (json!([{"op": "test", "path": "/a/b", "value": 9}]), 422),
        (json!({"op": "remove"}), 400),
        (json!([{"op": "explode", "path": "/a"}]), 400),
    ];
    for (patch, code) in rows {
        assert_eq!(
            apply(PatchKind::Json, None, object.clone(), &patch).map_err(|s| s.code),
            Err(code),
            "{patch}"
        );
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        "[a-c]{0,2}".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let key = prop_oneof![
            Just("spec"),
            Just("containers"),
            Just("name"),
            Just("$patch"),
            Just("metadata"),
            Just("labels"),
            Just("$setElementOrder/containers"),
            Just("$retainKeys"),
            Just("env"),
            Just("finalizers"),
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key, inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_patch_is_applied_or_refused(object in json_value(), patch in json_value()) {
        for kind in [PatchKind::Merge, PatchKind::Strategic, PatchKind::Json] {
            let _ = apply(kind, schema::find("Pod"), object.clone(), &patch);
        }
    }

    /// RFC 7386: merging twice is merging once.
    #[test]
    fn a_merge_patch_is_idempotent(mut object in json_value(), patch in json_value()) {
        merge(&mut object, &patch);
        let once = object.clone();
        merge(&mut object, &patch);
        prop_assert_eq!(object, once);
    }
}
