//! What is refused, and in which words.

use crate::support::{MAPS, PODS, pod, start};
use serde_json::json;

#[tokio::test]
async fn strangers_see_health_and_version_only() {
    let server = start().await;
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(server.raw(false, "GET", path, &[], "").await.code, 200, "{path}");
    }
    for path in ["/api", "/apis", PODS, "/openapi/v3", "/"] {
        let answer = server.raw(false, "GET", path, &[], "").await;
        assert_eq!(
            (answer.code, answer.message().as_str()),
            (401, "Unauthorized"),
            "{path}"
        );
    }
    let answer = server
        .raw(false, "GET", PODS, &[("authorization", "Bearer nonsense")], "")
        .await;
    assert_eq!(answer.code, 401);
}

#[tokio::test]
async fn refusals_are_those_of_kubernetes() {
    let server = start().await;
    assert_eq!(server.post(PODS, &pod("there", "n")).await.code, 201);
    let json = "application/json";
    let unmarshal = r#"Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container"#;
    let unknown =
        r#"Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.foo""#;
    let rows: Vec<(&str, String, &str, String, u16, &str)> = vec![
        (
            "GET",
            format!("{PODS}/x"),
            "",
            String::new(),
            404,
            r#"pods "x" not found"#,
        ),
        (
            "GET",
            "/apis/apps/v1/namespaces/a/deployments/x".into(),
            "",
            String::new(),
            404,
            r#"deployments.apps "x" not found"#,
        ),
        (
            "GET",
            "/apis/none/v1/things".into(),
            "",
            String::new(),
            404,
            "the server could not find the requested resource",
        ),
        (
            "POST",
            PODS.into(),
            json,
            pod("there", "n").to_string(),
            409,
            r#"pods "there" already exists"#,
        ),
        (
            "POST",
            "/api/v1/namespaces/no/pods".into(),
            json,
            pod("a", "n").to_string(),
            404,
            r#"namespaces "no" not found"#,
        ),
        (
            "POST",
            PODS.into(),
            json,
            "{\"metadata\": {\"name\": \"a\"}}".into(),
            422,
            r#"Pod "a" is invalid: spec.containers: Required value"#,
        ),
        (
            "POST",
            PODS.into(),
            json,
            "{\"spec\": {\"containers\": \"x\"}}".into(),
            400,
            unmarshal,
        ),
        (
            "POST",
            format!("{PODS}?fieldValidation=Strict"),
            json,
            "{\"spec\": {\"foo\": 1}}".into(),
            400,
            unknown,
        ),
        (
            "POST",
            PODS.into(),
            json,
            "{\"kind\": \"Pod\", \"apiVersion\": \"v2\"}".into(),
            400,
            "the API version in the data (v2) does not match the expected API version (v1)",
        ),
        (
            "POST",
            "/api/v1/namespaces/kube-system/pods".into(),
            json,
            {
                let mut other = pod("a", "n");
                other["metadata"]["namespace"] = "default".into();
                other.to_string()
            },
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            "PUT",
            format!("{PODS}/there"),
            json,
            pod("other", "n").to_string(),
            400,
            "the name of the object (other) does not match the name on the URL (there)",
        ),
        (
            "PUT",
            format!("{PODS}/there"),
            json,
            {
                let mut old = pod("there", "n");
                old["metadata"]["resourceVersion"] = "1".into();
                old.to_string()
            },
            409,
            r#"Operation cannot be fulfilled on pods "there": the object has been modified; please apply your changes to the latest version and try again"#,
        ),
        (
            "GET",
            format!("{PODS}?fieldSelector=foo=bar"),
            "",
            String::new(),
            400,
            "field label not supported: foo",
        ),
        (
            "POST",
            format!("{PODS}/there/binding"),
            json,
            "{\"target\": {\"name\": \"m\"}}".into(),
            409,
            r#"Operation cannot be fulfilled on pods/binding "there": pod there is already assigned to node "n""#,
        ),
        (
            "DELETE",
            "/api/v1/namespaces/default".into(),
            "",
            String::new(),
            403,
            r#"namespaces "default" is forbidden: this namespace may not be deleted"#,
        ),
        (
            "DELETE",
            format!("{PODS}/there"),
            json,
            "{\"preconditions\": {\"uid\": \"u\"}}".into(),
            409,
            "",
        ),
        (
            "DELETE",
            "/api/v1/pods".into(),
            "",
            String::new(),
            405,
            "the server does not allow this method on the requested resource",
        ),
        (
            "POST",
            format!("{PODS}/there"),
            json,
            "{}".into(),
            405,
            "the server does not allow this method on the requested resource",
        ),
        ("POST", PODS.into(), json, "{".into(), 400, ""),
        ("POST", PODS.into(), json, "[1]".into(), 400, ""),
        ("POST", PODS.into(), json, "{\"metadata\": 5}".into(), 400, ""),
        ("POST", PODS.into(), "application/yaml", "a: [".into(), 400, ""),
        ("POST", PODS.into(), "text/html", "<p>".into(), 415, ""),
        (
            "POST",
            PODS.into(),
            "application/vnd.kubernetes.protobuf",
            "k8s\0garbage".into(),
            400,
            "",
        ),
        (
            "PATCH",
            format!("{PODS}/there"),
            "text/plain",
            "{}".into(),
            415,
            "",
        ),
        (
            "PATCH",
            format!("{PODS}/there"),
            "application/merge-patch+json",
            "[]".into(),
            400,
            "",
        ),
        (
            "PATCH",
            format!("{PODS}/there"),
            "application/json-patch+json",
            "[{\"op\":\"remove\",\"path\":\"/no\"}]".into(),
            422,
            "",
        ),
        (
            "PATCH",
            format!("{PODS}/there"),
            "application/merge-patch+json",
            "{\"spec\": {\"nodeName\": \"m\"}}".into(),
            422,
            "",
        ),
        (
            "GET",
            format!("{PODS}/%ff"),
            "",
            String::new(),
            400,
            "the path is not UTF-8",
        ),
    ];
    for (method, path, media_type, body, code, message) in rows {
        let headers: Vec<(&str, &str)> = if media_type.is_empty() {
            Vec::new()
        } else {
            vec![("content-type", media_type)]
        };
        let answer = server.raw(true, method, &path, &headers, body.clone()).await;
        let status = answer.json();
        assert_eq!(answer.code, code, "{method} {path} {body}: {status}");
        assert_eq!(
            (&status["kind"], &status["code"]),
            (&json!("Status"), &json!(code)),
            "{method} {path}"
        );
        if !message.is_empty() {
            assert_eq!(status["message"], message, "{method} {path} {body}");
        }
    }
    let big = format!("{{\"data\": {{\"a\": \"{}\"}}}}", "x".repeat(4 << 20));
    let answer = server
        .raw(true, "POST", MAPS, &[("content-type", json)], big)
        .await;
    assert_eq!(answer.code, 413);
    assert_eq!(
        server
            .raw(true, "GET", PODS, &[("accept", "text/html")], "")
            .await
            .code,
        406
    );
    let warned = server
        .post(PODS, &json!({"metadata": {"name": "w"}, "spec": {"foo": 1, "containers": [{"name": "c", "image": "x"}]}}))
        .await;
    assert_eq!(warned.code, 201);
    assert_eq!(warned.headers["warning"], r#"299 - "unknown field \"spec.foo\"""#);
    // After all that it still works.
    assert_eq!(server.get(PODS).await.code, 200);
}
