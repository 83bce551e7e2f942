use serde_json::json;

use super::*;

fn causes_of(kind: &str, object: &Value) -> Vec<String> {
    let kind = crate::kinds::builtin()
        .into_iter()
        .find(|k| k.kind == kind)
        .unwrap();
    let mut object = object.clone();
    (kind.hooks.defaults)(&mut object);
    let mut causes = Vec::new();
    metadata(&object, None, &mut causes);
    (kind.hooks.validate)(&object, None, &mut causes);
    causes
        .iter()
        .map(|c| format!("{}: {}", c.field, c.message))
        .collect()
}

#[test]
fn rows() {
    let pod = |spec: Value| json!({"metadata": {"name": "p"}, "spec": spec});
    let rows = [
        (
            "Pod",
            pod(json!({"containers": [{"name": "a", "image": "x"}]})),
            "",
        ),
        ("Pod", pod(json!({})), "spec.containers: Required value"),
        (
            "Pod",
            pod(json!({"containers": [{"name": "a"}]})),
            "spec.containers[0].image: Required value",
        ),
        (
            "Pod",
            pod(json!({"containers": [{"name": "a", "image": "x"}, {"name": "a", "image": "x"}]})),
            "spec.containers[1].name: Duplicate value: \"a\"",
        ),
        (
            "Pod",
            pod(json!({"restartPolicy": "Maybe", "containers": [{"name": "a", "image": "x"}]})),
            "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"Never\", \"OnFailure\"",
        ),
        (
            "Pod",
            pod(
                json!({"containers": [{"name": "a", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}),
            ),
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            "Pod",
            pod(json!({"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 70000}]}]})),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            "Deployment",
            json!({"metadata": {"name": "d"}, "spec": {
                "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "c"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}},
            }}),
            "spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`",
        ),
        (
            "Service",
            json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}, {"port": 2}]}}),
            "spec.ports[0].name: Required value|spec.ports[1].name: Required value",
        ),
        (
            "NetworkPolicy",
            json!({"metadata": {"name": "n"}, "spec": {"ingress": [{"ports": [{"port": 80, "endPort": 70}]}]}}),
            "spec.ingress[0].ports[0].endPort: Invalid value: 70: must be greater than or equal to `port`",
        ),
        (
            "ConfigMap",
            json!({"metadata": {"name": "c"}, "data": {"a/b": ""}}),
            "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        ),
    ];
    for (kind, object, wanted) in rows {
        assert_eq!(causes_of(kind, &object).join("|"), wanted, "{kind} {object}");
    }
}

#[test]
fn names() {
    for good in ["a", "a-b", "a.b", "1", &"a".repeat(253)] {
        assert_eq!(text::subdomain(good), None, "{good}");
    }
    for bad in ["", "A", "a_b", "-a", "a-", "a..b", ".a", "a.", &"a".repeat(254)] {
        assert!(text::subdomain(bad).is_some(), "{bad}");
    }
    for bad in ["1a", "a.b", ""] {
        assert!(text::label1035(bad).is_some(), "{bad}");
    }
    for good in ["a", "x.io/a", "A_b.c", "cilium.io/no-schedule"] {
        assert_eq!(text::qualified_name(good), None, "{good}");
    }
    for bad in ["", "/a", "a/", "a/b/c", "X.io/a", "-a"] {
        assert!(text::qualified_name(bad).is_some(), "{bad}");
    }
}
