//! The server as its clients see it: raw HTTP, watches, tokens, and what is passed on to a kubelet.

use std::sync::Arc;

use crate::support::{DEADLINE, Lines, start, start_with};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use seta_lab_apiserver::{Patch, Resource};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "nginx"}]},
    })
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"n": "0"}})
}

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

#[tokio::test]
async fn status_and_spec_do_not_touch_each_other() {
    let server = start().await;
    server.post(PODS, &pod("p", "n")).await;
    let merge = "application/merge-patch+json";
    let both = json!({"metadata": {"labels": {"x": "y"}}, "status": {"phase": "Running"}});
    let through_status = server
        .patch(&format!("{PODS}/p/status"), merge, &both)
        .await
        .json();
    assert_eq!(through_status["status"]["phase"], "Running");
    assert_eq!(through_status["metadata"]["labels"], json!({"app": "p"}));
    let back = json!({"metadata": {"labels": {"x": "y"}}, "status": {"phase": "Failed"}});
    let through_main = server.patch(&format!("{PODS}/p"), merge, &back).await.json();
    assert_eq!(through_main["status"]["phase"], "Running");
    assert_eq!(through_main["metadata"]["labels"], json!({"app": "p", "x": "y"}));
    let version = through_main["metadata"]["resourceVersion"].clone();
    let again = server.patch(&format!("{PODS}/p"), merge, &back).await.json();
    assert_eq!(
        again["metadata"]["resourceVersion"], version,
        "writing the same changes nothing"
    );
}

#[tokio::test]
async fn a_node_registers_with_its_status_and_a_pod_does_not() {
    let server = start().await;
    let node = json!({"metadata": {"name": "n"}, "status": {"nodeInfo": {"kubeletVersion": "v1"}}});
    let made = server.post("/api/v1/nodes", &node).await.json();
    assert_eq!(made["status"]["nodeInfo"]["kubeletVersion"], "v1");
    let mut claims = pod("p", "n");
    claims["status"] = json!({"phase": "Succeeded"});
    assert_eq!(
        server.post(PODS, &claims).await.json()["status"]["phase"],
        "Pending"
    );
}

#[tokio::test]
async fn grace_and_finalizers() {
    let server = start().await;
    server.post(PODS, &pod("p", "n")).await;
    let marked = server
        .raw(true, "DELETE", &format!("{PODS}/p"), &[], "")
        .await
        .json();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(server.get(&format!("{PODS}/p")).await.code, 200);
    let done = server
        .raw(true, "DELETE", &format!("{PODS}/p?gracePeriodSeconds=0"), &[], "")
        .await;
    assert_eq!(done.code, 200);
    assert_eq!(server.get(&format!("{PODS}/p")).await.code, 404);

    let mut held = map("m");
    held["metadata"]["finalizers"] = json!(["x.io/hold"]);
    server.post(MAPS, &held).await;
    let marked = server
        .raw(true, "DELETE", &format!("{MAPS}/m"), &[], "")
        .await
        .json();
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let merge = "application/merge-patch+json";
    let freed = server
        .patch(
            &format!("{MAPS}/m"),
            merge,
            &json!({"metadata": {"finalizers": null}}),
        )
        .await;
    assert_eq!(freed.code, 200);
    assert_eq!(server.get(&format!("{MAPS}/m")).await.code, 404);
}

#[tokio::test]
async fn pages_hold_everything_once() {
    let server = start().await;
    for n in 0..7 {
        server
            .post(
                "/api/v1/namespaces/kube-public/configmaps",
                &map(&format!("m{n}")),
            )
            .await;
    }
    let (mut token, mut names) = (String::new(), Vec::new());
    loop {
        let path = format!("/api/v1/namespaces/kube-public/configmaps?limit=3&continue={token}");
        let page = server.get(&path).await.json();
        names.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|o| o["metadata"]["name"].as_str().unwrap().to_owned()),
        );
        match page["metadata"]["continue"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(
        names,
        ["kube-root-ca.crt", "m0", "m1", "m2", "m3", "m4", "m5", "m6"]
    );
    assert_eq!(
        server
            .get(&format!("{MAPS}?limit=3&continue=nonsense"))
            .await
            .code,
        400
    );
}

#[tokio::test]
async fn watches() {
    let server = start().await;
    let revision = server.get(PODS).await.json()["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("{PODS}?watch=true&resourceVersion={revision}&labelSelector=app%3Dp");
    let mut watch = Lines::new(server.open(true, "GET", &path, &[], "").await);
    server.post(PODS, &pod("p", "n")).await;
    server.post(PODS, &pod("unrelated", "n")).await;
    let merge = "application/merge-patch+json";
    server
        .patch(
            &format!("{PODS}/p"),
            merge,
            &json!({"metadata": {"labels": {"a": "b"}}}),
        )
        .await;
    // Leaves the selection, comes back, and goes.
    server
        .patch(
            &format!("{PODS}/p"),
            merge,
            &json!({"metadata": {"labels": {"app": "q"}}}),
        )
        .await;
    server
        .patch(
            &format!("{PODS}/p"),
            merge,
            &json!({"metadata": {"labels": {"app": "p"}}}),
        )
        .await;
    server
        .raw(true, "DELETE", &format!("{PODS}/p?gracePeriodSeconds=0"), &[], "")
        .await;
    let mut last = 0;
    for wanted in ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"] {
        let event = watch.next().await.unwrap();
        assert_eq!(event["type"], wanted, "{event}");
        assert_eq!(
            event["object"]["metadata"]["labels"]["app"], "p",
            "a watcher sees only what it selects"
        );
        let version: u64 = event["object"]["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!(version > last);
        last = version;
    }
}

#[tokio::test]
async fn a_watch_list_says_when_it_is_complete() {
    let server = start().await;
    server.post(PODS, &pod("p", "n")).await;
    let path = format!(
        "{PODS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1"
    );
    let mut watch = Lines::new(server.open(true, "GET", &path, &[], "").await);
    assert_eq!(watch.next().await.unwrap()["type"], "ADDED");
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(
        bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    // The last bookmark before the end, then the end.
    assert_eq!(watch.next().await.unwrap()["type"], "BOOKMARK");
    assert!(watch.next().await.is_none());
    let refused = server
        .get(&format!("{PODS}?watch=true&sendInitialEvents=true"))
        .await;
    assert_eq!(refused.code, 400);
}

#[tokio::test]
async fn a_watcher_that_is_too_slow_is_told_so() {
    let server = start_with(4).await;
    let revision = server.get(MAPS).await.json()["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    for n in 0..10 {
        server.post(MAPS, &map(&format!("m{n}"))).await;
    }
    let path = format!("{MAPS}?watch=true&resourceVersion={revision}");
    let mut watch = Lines::new(server.open(true, "GET", &path, &[], "").await);
    let event = watch.next().await.unwrap();
    assert_eq!(
        (
            &event["type"],
            &event["object"]["code"],
            &event["object"]["reason"]
        ),
        (&json!("ERROR"), &json!(410), &json!("Expired"))
    );
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn tables_in_lists_and_watches() {
    let server = start().await;
    server.post(PODS, &pod("p", "n")).await;
    let accept = [(
        "accept",
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    )];
    let table = server.raw(true, "GET", PODS, &accept, "").await.json();
    assert_eq!(
        (&table["kind"], &table["apiVersion"]),
        (&json!("Table"), &json!("meta.k8s.io/v1"))
    );
    assert_eq!(table["rows"][0]["cells"][0], "p");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let path = format!("{PODS}?watch=true&includeObject=Object");
    let mut watch = Lines::new(server.open(true, "GET", &path, &accept, "").await);
    server.post(PODS, &pod("q", "n")).await;
    let (first, second) = (watch.next().await.unwrap(), watch.next().await.unwrap());
    assert!(first["object"]["columnDefinitions"].is_array());
    assert!(second["object"]["columnDefinitions"].is_null());
    assert_eq!(second["object"]["rows"][0]["object"]["kind"], "Pod");
}

#[tokio::test]
async fn service_account_tokens_are_checked() {
    let server = start().await;
    server.post(PODS, &pod("p", "n")).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    server.post(accounts, &json!({"metadata": {"name": "bot"}})).await;
    let request =
        |spec: Value| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let token = |answer: &Value| format!("Bearer {}", answer["status"]["token"].as_str().unwrap());
    let path = format!("{accounts}/bot/token");
    let own = server
        .post(&path, &request(json!({"expirationSeconds": 3600})))
        .await
        .json();
    assert!(own["status"]["expirationTimestamp"].is_string());
    let bound = server
        .post(
            &path,
            &request(json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}})),
        )
        .await
        .json();
    let foreign = server
        .post(&path, &request(json!({"audiences": ["vault"]})))
        .await
        .json();
    assert_eq!(
        server
            .post(&path, &request(json!({"expirationSeconds": 5})))
            .await
            .code,
        422
    );
    let code = async |answer: &Value| {
        server
            .raw(false, "GET", PODS, &[("authorization", &token(answer))], "")
            .await
            .code
    };
    assert_eq!(
        (code(&own).await, code(&bound).await, code(&foreign).await),
        (200, 200, 401)
    );
    let review = json!({"spec": {"token": foreign["status"]["token"], "audiences": ["vault"]}});
    let review = server
        .post("/apis/authentication.k8s.io/v1/tokenreviews", &review)
        .await
        .json();
    assert_eq!(
        review["status"]["user"]["username"],
        "system:serviceaccount:default:bot"
    );
    // A token dies with its pod, and all die with the account.
    server
        .raw(true, "DELETE", &format!("{PODS}/p?gracePeriodSeconds=0"), &[], "")
        .await;
    assert_eq!((code(&own).await, code(&bound).await), (200, 401));
    server
        .raw(true, "DELETE", &format!("{accounts}/bot"), &[], "")
        .await;
    assert_eq!(code(&own).await, 401);
}

#[tokio::test]
async fn logs_and_upgrades_reach_the_kubelet() {
    let server = start().await;
    server.post(PODS, &pod("p", "node-a")).await;
    server.post(PODS, &pod("lost", "node-b")).await;
    let socket = tokio::net::UnixListener::bind(server.directory.path().join("node-a.sock")).unwrap();
    // A kubelet that says what it was asked; an upgraded connection is an echo.
    let kubelet = tokio::spawn(async move {
        loop {
            let (mut stream, _) = socket.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let line = head.lines().next().unwrap().to_owned();
                if head.to_lowercase().contains("upgrade: echo") {
                    let answer =
                        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                } else {
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{line}",
                        line.len()
                    );
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    let log = server.get(&format!("{PODS}/p/log?follow=true&tailLines=5")).await;
    assert_eq!(
        log.text,
        "GET /containerLogs/default/p/c?follow=true&tailLines=5 HTTP/1.1"
    );
    let plain = server
        .raw(
            true,
            "POST",
            &format!("{PODS}/p/exec?command=ls&command=-l&container=c&stdout=true"),
            &[],
            "",
        )
        .await;
    assert_eq!(
        plain.text,
        "POST /exec/default/p/c?command=ls&command=-l&stdout=true HTTP/1.1"
    );

    let headers = [("connection", "Upgrade"), ("upgrade", "echo")];
    let response = server
        .open(
            true,
            "GET",
            &format!("{PODS}/p/exec?command=cat&stdin=true"),
            &headers,
            "",
        )
        .await;
    assert_eq!(response.status(), 101);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let sent: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let mut got = vec![0; sent.len()];
    let both = async { tokio::try_join!(write.write_all(&sent), read.read_exact(&mut got)) };
    tokio::time::timeout(DEADLINE, both).await.unwrap().unwrap();
    assert_eq!(got, sent);

    assert_eq!(
        server
            .get(&format!("{PODS}/p/log?container=nope"))
            .await
            .message(),
        "container nope is not valid for pod p"
    );
    assert_eq!(
        server.get(&format!("{PODS}/lost/log")).await.code,
        500,
        "a kubelet that is not there"
    );
    kubelet.abort();
}

#[tokio::test]
async fn retries_on_conflict_lose_no_update() {
    let server = start().await;
    let maps = Resource::core("configmaps");
    server
        .client()
        .create(&maps, Some("default"), map("counter"))
        .await
        .unwrap();
    let client = Arc::new(server.client());
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (client, maps) = (client.clone(), maps.clone());
            tokio::spawn(async move {
                for _ in 0..10 {
                    loop {
                        let mut object =
                            (*client.get(&maps, Some("default"), "counter").await.unwrap()).clone();
                        let n: u32 = object["data"]["n"].as_str().unwrap().parse().unwrap();
                        object["data"]["n"] = (n + 1).to_string().into();
                        tokio::task::yield_now().await;
                        match client.update(&maps, Some("default"), object).await {
                            Ok(_) => break,
                            Err(status) => assert!(status.is_conflict(), "{status}"),
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(
        client.get(&maps, Some("default"), "counter").await.unwrap()["data"]["n"],
        "80"
    );
}

#[tokio::test]
async fn services_get_addresses_of_their_range() {
    let server = start().await;
    let services = Resource::core("services");
    let service = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let ports = json!([{"port": 80}]);
    let client = server.client();
    let made = client
        .create(&services, Some("default"), service("a", json!({"ports": ports})))
        .await
        .unwrap();
    let spec = &made["spec"];
    let range: ipnet::Ipv6Net = "fd00:10:96::/112".parse().unwrap();
    let address: std::net::Ipv6Addr = spec["clusterIP"].as_str().unwrap().parse().unwrap();
    assert!(range.contains(&address));
    assert_eq!(spec["clusterIPs"], json!([address.to_string()]));
    assert_eq!(
        (&spec["ipFamilies"], &spec["ipFamilyPolicy"]),
        (&json!(["IPv6"]), &json!("SingleStack"))
    );
    assert_eq!(
        spec["ports"][0],
        json!({"port": 80, "protocol": "TCP", "targetPort": 80})
    );
    for (spec, wanted) in [
        (
            json!({"ports": ports, "clusterIP": address.to_string()}),
            "provided IP is already allocated",
        ),
        (
            json!({"ports": ports, "clusterIP": "fd01::1"}),
            "is not in the valid range",
        ),
        (
            json!({"ports": ports, "ipFamilies": ["IPv4"]}),
            "this cluster has IPv6 only",
        ),
    ] {
        let error = client
            .create(&services, Some("default"), service("b", spec))
            .await
            .unwrap_err();
        assert!(error.message.contains(wanted), "{error}");
    }
    let headless = service("h", json!({"ports": ports, "clusterIP": "None"}));
    assert_eq!(
        client.create(&services, Some("default"), headless).await.unwrap()["spec"]["clusterIP"],
        "None"
    );
    let error = client
        .patch(
            &services,
            Some("default"),
            "a",
            Patch::Merge,
            json!({"spec": {"clusterIP": "fd00:10:96::77"}}),
        )
        .await
        .unwrap_err();
    assert!(error.message.contains("field is immutable"), "{error}");
}

#[tokio::test]
async fn events_are_seen_through_both_groups() {
    let server = start().await;
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "action": "Doing", "reason": "Done", "note": "it went well",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}, "reportingController": "me",
        "reportingInstance": "me-1", "type": "Normal",
    });
    assert_eq!(
        server
            .post("/apis/events.k8s.io/v1/namespaces/default/events", &event)
            .await
            .code,
        201
    );
    let path = "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp";
    let seen = server.get(path).await.json();
    assert_eq!(seen["items"][0]["message"], "it went well");
    assert_eq!(seen["items"][0]["reportingComponent"], "me");
    let back = server
        .get("/apis/events.k8s.io/v1/namespaces/default/events/e")
        .await
        .json();
    assert_eq!(
        (&back["note"], &back["apiVersion"]),
        (&json!("it went well"), &json!("events.k8s.io/v1"))
    );
}
