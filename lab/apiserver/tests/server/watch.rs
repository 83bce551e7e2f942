//! Lists in pages, tables, and watches.

use crate::support::{Lines, MAPS, PODS, map, pod, start, start_with};
use serde_json::json;

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
