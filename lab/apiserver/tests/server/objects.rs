//! Writing objects: status and spec, grace, finalizers, conflicts, tokens, views.

use std::sync::Arc;

use crate::support::{MAPS, PODS, map, pod, start};
use serde_json::{Value, json};
use seta_lab_apiserver::Resource;

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
