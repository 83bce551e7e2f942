use serde_json::json;

use super::*;

#[test]
fn every_named_type_exists() {
    for def in all().values() {
        for (name, field) in &def.fields {
            let mut ty = &field.ty;
            while let Type::List(inner) | Type::Map(inner) = ty {
                ty = inner;
            }
            if let Type::Named(named) = ty {
                assert!(find(named).is_some(), "{}.{name}: {named}", def.name);
            }
        }
    }
}

#[test]
fn every_merge_key_is_a_field() {
    for (ty, field, key) in MERGE_KEYS {
        let def = find(ty).unwrap_or_else(|| panic!("{ty}"));
        assert!(
            matches!(def.fields.get(field).map(|f| &f.ty), Some(Type::List(_))),
            "{ty}.{field}"
        );
        if !key.is_empty() {
            assert!(
                def.member(field).is_some_and(|m| m.fields.contains_key(key)),
                "{ty}.{field}: {key}"
            );
        }
    }
    for (ty, field, list) in LIST_TYPES {
        let def = find(ty).unwrap_or_else(|| panic!("{ty}"));
        assert!(def.fields.contains_key(field), "{ty}.{field}");
        if let ListType::Map(keys) = list {
            let element = def.member(field).unwrap();
            assert!(
                keys.iter().all(|key| element.fields.contains_key(key)),
                "{ty}.{field}"
            );
            assert!(keys.is_sorted(), "{ty}.{field}");
        }
    }
    for ty in ATOMIC_TYPES {
        assert!(find(ty).is_some(), "{ty}");
    }
    for (ty, field) in RETAIN_KEYS.iter().chain(ATOMIC_MAPS) {
        assert!(
            find(ty).is_some_and(|d| d.fields.contains_key(field)),
            "{ty}.{field}"
        );
    }
}

#[test]
fn unknown_fields_are_named_and_removed() {
    let def = find("Pod").unwrap();
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": null, "creationTimestamp": null},
        "spec": {"foo": 1, "containers": [{"name": "a", "bar": {}}, {"name": "b"}], "nodeSelector": {"any": "key"}},
        "extra": true,
    });
    let mut unknown = decode(def, &mut pod).unwrap();
    unknown.sort();
    assert_eq!(unknown, ["extra", "spec.containers[0].bar", "spec.foo"]);
    assert_eq!(
        pod,
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {"any": "key"}},
        })
    );
}

#[test]
fn wrong_types_are_said_as_go_says_them() {
    let rows = [
        (
            "Deployment",
            json!({"spec": {"replicas": "x"}}),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "Pod",
            json!({"metadata": {"labels": {"a": 1}}}),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels.a of type string",
        ),
        (
            "Pod",
            json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 4_294_967_296_i64}]}]}}),
            "json: cannot unmarshal number into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
    ];
    for (kind, mut object, wanted) in rows {
        let error = decode(find(kind).unwrap(), &mut object).unwrap_err();
        assert_eq!(error.to_string(), wanted);
    }
}
