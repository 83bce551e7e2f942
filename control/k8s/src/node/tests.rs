use model::inputs::AddressType;

use super::*;
use crate::fake::Fake;

const NODE: &str = "/api/v1/nodes/kind-worker";
const CILIUM_NODE: &str = "/apis/cilium.io/v2/ciliumnodes/kind-worker";

fn cilium_node(router: &str) -> inputs::CiliumNode {
    inputs::CiliumNode {
        name: "kind-worker".into(),
        node_uid: "u1".into(),
        addresses: vec![(AddressType::CiliumInternalIP, router.parse().unwrap())],
        pod_cidrs: vec!["fd00:10:244:1::/64".parse().unwrap()],
        ..inputs::CiliumNode::default()
    }
}

#[tokio::test]
async fn a_node_becomes_ready_once() {
    let fake = Fake::new();
    let taints =
        json!([{"key": NOT_READY_TAINT, "effect": "NoExecute"}, {"key": "mine", "effect": "NoSchedule"}]);
    fake.put(
        NODE,
        json!({"metadata": {"name": "kind-worker"}, "spec": {"taints": taints}}),
    );
    fake.cluster.mark_network_ready("kind-worker").await.unwrap();
    let node = fake.get(NODE).unwrap();
    assert_eq!(
        node["spec"]["taints"],
        json!([{"key": "mine", "effect": "NoSchedule"}]),
        "others' taints stay"
    );
    let condition = &node["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["status"]),
        (&json!("NetworkUnavailable"), &json!("False"))
    );
    fake.requests();
    fake.cluster.mark_network_ready("kind-worker").await.unwrap();
    assert!(
        fake.requests().iter().all(|request| request.starts_with("GET")),
        "nothing to do the second time"
    );
    assert!(
        fake.cluster
            .mark_network_ready("nobody")
            .await
            .unwrap_err()
            .is_not_found()
    );
}

#[tokio::test]
async fn a_taint_that_comes_in_between_is_not_lost() {
    let mut first = true;
    let fake = Fake::with_hook(move |verb, path, store| {
        let untaints = verb == "PATCH" && store.objects[path]["status"]["conditions"].is_array();
        if untaints && std::mem::take(&mut first) {
            let mut node = store.objects[path].clone();
            node["spec"]["taints"]
                .as_array_mut()
                .unwrap()
                .push(json!({"key": "new", "effect": "NoSchedule"}));
            store.put(path, node);
        }
    });
    fake.put(NODE, json!({"metadata": {"name": "kind-worker"}, "spec": {"taints": [{"key": NOT_READY_TAINT, "effect": "NoExecute"}]}}));
    fake.cluster.mark_network_ready("kind-worker").await.unwrap();
    assert_eq!(
        fake.get(NODE).unwrap()["spec"]["taints"],
        json!([{"key": "new", "effect": "NoSchedule"}])
    );
}

#[tokio::test]
async fn annotations_come_and_go() {
    let fake = Fake::new();
    fake.put(
        NODE,
        json!({"metadata": {"name": "kind-worker", "annotations": {"a": "1", "b": "2"}}}),
    );
    let changes = BTreeMap::from([("a".to_owned(), None), ("c".to_owned(), Some("3".to_owned()))]);
    fake.cluster.annotate_node("kind-worker", &changes).await.unwrap();
    assert_eq!(
        fake.get(NODE).unwrap()["metadata"]["annotations"],
        json!({"b": "2", "c": "3"})
    );
    assert_eq!(
        fake.cluster.node("kind-worker").await.unwrap().annotations.len(),
        2
    );
}

#[tokio::test]
async fn a_cilium_node_keeps_what_others_wrote() {
    let fake = Fake::new();
    fake.cluster
        .publish_node(&cilium_node("fd00:10:244:1::1"))
        .await
        .unwrap();
    let mut stored = fake.get(CILIUM_NODE).unwrap();
    assert_eq!(stored["metadata"]["ownerReferences"][0]["kind"], "Node");
    fake.requests();
    fake.cluster
        .publish_node(&cilium_node("fd00:10:244:1::1"))
        .await
        .unwrap();
    assert_eq!(fake.requests().len(), 1, "nothing to write");

    stored["spec"]["instance-id"] = json!("i-1");
    fake.put(CILIUM_NODE, stored);
    fake.cluster
        .publish_node(&cilium_node("fd00:10:244:1::2"))
        .await
        .unwrap();
    let stored = fake.get(CILIUM_NODE).unwrap();
    assert_eq!(stored["spec"]["instance-id"], "i-1");
    assert_eq!(
        stored["spec"]["addresses"],
        json!([{"type": "CiliumInternalIP", "ip": "fd00:10:244:1::2"}])
    );

    fake.remove(CILIUM_NODE);
    fake.cluster
        .publish_node(&cilium_node("fd00:10:244:1::2"))
        .await
        .unwrap();
    assert!(fake.get(CILIUM_NODE).is_some(), "made again");
}

#[tokio::test]
async fn what_a_node_no_longer_has_goes_and_fields_of_others_cause_no_writes() {
    let fake = Fake::new();
    let with_health = inputs::CiliumNode {
        health_ips: vec!["fd00:10:244:1::9".parse().unwrap()],
        boot_id: "b1".into(),
        ..cilium_node("fd00:10:244:1::1")
    };
    fake.cluster.publish_node(&with_health).await.unwrap();
    let mut stored = fake.get(CILIUM_NODE).unwrap();
    assert_eq!(stored["spec"]["health"]["ipv6"], "fd00:10:244:1::9");
    stored["spec"]["encryption"]["key"] = json!(3);
    stored["spec"]["ingress"]["ipv6"] = json!("fd00:10:244:1::8");
    fake.put(CILIUM_NODE, stored);

    let bare = cilium_node("fd00:10:244:1::1");
    fake.cluster.publish_node(&bare).await.unwrap();
    let stored = fake.get(CILIUM_NODE).unwrap();
    assert_eq!(stored["spec"]["health"].get("ipv6"), None);
    assert_eq!(stored["spec"].get("bootid"), None);
    assert_eq!(stored["spec"]["encryption"]["key"], 3);
    assert_eq!(stored["spec"]["ingress"]["ipv6"], "fd00:10:244:1::8");

    fake.requests();
    fake.cluster.publish_node(&bare).await.unwrap();
    assert_eq!(fake.requests().len(), 1, "nothing to write");
}

#[tokio::test]
async fn a_warning_about_a_pod() {
    let fake = Fake::new();
    let pod = ObjectName::new("default", "client");
    fake.cluster
        .warn_about_pod(&pod, "u1", "kind-worker", "FailedAddress", "no address is left")
        .await
        .unwrap();
    let event = fake.get("/api/v1/namespaces/default/events/generated").unwrap();
    assert_eq!(event["involvedObject"]["uid"], "u1");
    assert_eq!(
        (&event["type"], &event["reason"]),
        (&json!("Warning"), &json!("FailedAddress"))
    );
    assert_eq!(event["metadata"]["generateName"], "client.");
}
