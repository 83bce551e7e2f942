use serde_json::json;

use super::*;

fn definition(versions: &Value) -> Value {
    json!({"metadata": {"name": "demos.demo.io"}, "spec": {
        "group": "demo.io", "scope": "Namespaced", "names": {"kind": "Demo", "plural": "demos"}, "versions": versions,
    }})
}

fn version(name: &str, storage: bool, subresources: &Value) -> Value {
    json!({
        "name": name, "served": true, "storage": storage, "subresources": subresources,
        "schema": {"openAPIV3Schema": {"type": "object"}},
    })
}

#[test]
fn what_a_version_may_say() {
    let path = |spec: &str| json!({"scale": {"specReplicasPath": spec, "statusReplicasPath": ".status.n"}});
    let scale = "spec.versions[0].subresources.scale.specReplicasPath";
    let rows = [
        (json!([version("v1", true, &path(".spec.n"))]), vec![]),
        // Whatever lies there would be replaced by a number: the metadata, or the object.
        (json!([version("v1", true, &path(".metadata"))]), vec![scale]),
        (json!([version("v1", true, &path("."))]), vec![scale]),
        (json!([version("v1", true, &path(".spec."))]), vec![scale]),
        (
            json!([version("v1", true, &json!({"scale": {}}))]),
            vec![scale, "spec.versions[0].subresources.scale.statusReplicasPath"],
        ),
        (
            json!([version("v1", true, &json!({})), version("v1", false, &json!({}))]),
            vec!["spec.versions[1].name"],
        ),
    ];
    for (versions, wanted) in rows {
        let mut causes = Vec::new();
        validate(&definition(&versions), None, &mut causes);
        let fields: Vec<String> = causes.into_iter().map(|cause| cause.field).collect();
        assert_eq!(fields, wanted, "{versions}");
    }
}

#[test]
fn values_against_a_schema() {
    let rows = [
        (json!({"type": "string", "pattern": "^a+$"}), json!("aa"), true),
        (json!({"type": "string", "pattern": "^a+$"}), json!("ab"), false),
        (
            json!({"type": "string", "pattern": "("}),
            json!("a pattern that cannot be read"),
            true,
        ),
        (
            json!({"type": "object", "maxProperties": 1}),
            json!({"a": 1, "b": 1}),
            false,
        ),
        (json!({"type": "object", "minProperties": 1}), json!({}), false),
        (
            json!({"type": "object", "minProperties": 1}),
            json!({"a": 1}),
            true,
        ),
    ];
    for (schema, value, good) in rows {
        let mut causes = Vec::new();
        check(&schema, &value, "spec.x", &mut causes);
        assert_eq!(causes.is_empty(), good, "{schema} {value}: {causes:?}");
    }
}
