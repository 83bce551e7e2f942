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

/// The rows of RFC 7386, appendix A, whose patch and target are objects.
#[test]
fn merge_patch_rows() {
    let rows = [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (
            json!({"a": {"b": "c"}}),
            json!({"a": {"b": "d", "c": null}}),
            json!({"a": {"b": "d"}}),
        ),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (
            json!({}),
            json!({"a": {"bb": {"ccc": null}}}),
            json!({"a": {"bb": {}}}),
        ),
    ];
    for (object, patch, wanted) in rows {
        assert_eq!(
            apply(PatchKind::Merge, None, object, &patch),
            Ok(wanted),
            "{patch}"
        );
    }
}

/// Rows of RFC 6902, appendix A.
#[test]
fn json_patch_rows_of_the_rfc() {
    let one = |op: Value| json!([op]);
    let rows = [
        (
            json!({"foo": ["bar", "baz"]}),
            one(json!({"op": "add", "path": "/foo/1", "value": "q"})),
            Some(json!({"foo": ["bar", "q", "baz"]})),
        ),
        (
            json!({"foo": ["bar"]}),
            one(json!({"op": "add", "path": "/foo/-", "value": ["a"]})),
            Some(json!({"foo": ["bar", ["a"]]})),
        ),
        (
            json!({"foo": ["a", "b", "c"]}),
            one(json!({"op": "remove", "path": "/foo/1"})),
            Some(json!({"foo": ["a", "c"]})),
        ),
        (
            json!({"foo": ["a", "b", "c"]}),
            one(json!({"op": "move", "from": "/foo/1", "path": "/foo/2"})),
            Some(json!({"foo": ["a", "c", "b"]})),
        ),
        (
            json!({"foo": {"bar": 1}}),
            one(json!({"op": "copy", "from": "/foo", "path": "/foo/again"})),
            Some(json!({"foo": {"bar": 1, "again": {"bar": 1}}})),
        ),
        (
            json!({"/": 9, "~1": 10}),
            one(json!({"op": "test", "path": "/~01", "value": 10})),
            Some(json!({"/": 9, "~1": 10})),
        ),
        (
            json!({"foo": null}),
            one(json!({"op": "test", "path": "/foo", "value": null, "xyz": 1})),
            Some(json!({"foo": null})),
        ),
        (
            json!({"/": 9, "~1": 10}),
            one(json!({"op": "test", "path": "/~01", "value": "10"})),
            None,
        ),
        (
            json!({"foo": "bar"}),
            one(json!({"op": "add", "path": "/baz/bat", "value": "q"})),
            None,
        ),
        (
            json!({"foo": ["bar"]}),
            one(json!({"op": "add", "path": "/foo/8", "value": "q"})),
            None,
        ),
        (
            json!({"foo": {"bar": 1}}),
            one(json!({"op": "move", "from": "/foo", "path": "/foo/bar/x"})),
            None,
        ),
        // All or nothing.
        (
            json!({"foo": 1}),
            json!([{"op": "remove", "path": "/foo"}, {"op": "test", "path": "/foo", "value": 1}]),
            None,
        ),
    ];
    for (object, patch, wanted) in rows {
        let got = apply(PatchKind::Json, None, object, &patch);
        assert_eq!(got.map_err(|s| s.code), wanted.ok_or(422), "{patch}");
    }
}

#[test]
fn a_json_patch_cannot_grow_an_object_without_bounds() {
    let copy = json!({"op": "copy", "from": "/a", "path": "/a/-"});
    let doubled: Vec<Value> = std::iter::repeat_n(copy, 60).collect();
    let deeper = json!({"op": "copy", "from": "/a", "path": "/a/0"});
    let nested: Vec<Value> = std::iter::repeat_n(deeper, 60).collect();
    // Each step puts what is there into the innermost of a new nest.
    let mut moved = Vec::new();
    for _ in 0..20 {
        moved.push(json!({"op": "move", "from": "/a", "path": "/b"}));
        moved.push(json!({"op": "add", "path": "/a", "value": [[[[[[[[[]]]]]]]]]}));
        moved.push(json!({"op": "move", "from": "/b", "path": "/a/0/0/0/0/0/0/0/0/-"}));
    }
    for patch in [doubled, nested, moved] {
        let refused = apply(PatchKind::Json, None, json!({"a": [1]}), &patch.into()).unwrap_err();
        assert_eq!(refused.code, 422);
        assert!(refused.message.contains("too large"), "{refused}");
    }
    let test = json!({"op": "test", "path": "/a", "value": [1]});
    let many: Vec<Value> = std::iter::repeat_n(test, OPERATIONS + 1).collect();
    let refused = apply(PatchKind::Json, None, json!({"a": [1]}), &many.into()).unwrap_err();
    assert_eq!(refused.code, 413);
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
