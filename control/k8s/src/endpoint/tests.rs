use model::endpoint::{EndpointId, EndpointState};
use model::identity::Identity;
use model::labels::Labels;
use serde_json::json;

use super::*;
use crate::fake::Fake;

const PATH: &str = "/apis/cilium.io/v2/namespaces/default/ciliumendpoints/client";

fn status(state: EndpointState, identity: Option<u32>) -> EndpointStatus {
    EndpointStatus {
        id: EndpointId(7),
        state,
        identity: identity.map(|number| (Identity(number), Labels::parse(["k8s:app=client"]))),
        container_id: "c1".into(),
        attachment_id: "c1:eth0".into(),
        pod: ObjectName::new("default", "client"),
        addresses: vec!["fd00:10:244::6321".parse().unwrap()],
        node_ip: Some("fc00:f853:ccd:e793::2".parse().unwrap()),
        named_ports: Vec::new(),
        service_account: String::new(),
    }
}

#[tokio::test]
async fn a_new_pod_takes_one_request_and_no_change_none() {
    let fake = Fake::new();
    let waiting = status(EndpointState::WaitingForIdentity, None);
    fake.cluster.publish_endpoint("u1", &waiting).await.unwrap();
    assert_eq!(
        fake.requests(),
        ["POST /apis/cilium.io/v2/namespaces/default/ciliumendpoints"]
    );
    let stored = fake.get(PATH).unwrap();
    assert_eq!(
        stored["metadata"]["ownerReferences"],
        json!([{"apiVersion": "v1", "kind": "Pod", "name": "client", "uid": "u1"}])
    );
    assert_eq!(stored["status"]["state"], "waiting-for-identity");

    fake.cluster.publish_endpoint("u1", &waiting).await.unwrap();
    assert_eq!(fake.get(PATH).unwrap(), stored, "nothing to write");

    fake.cluster
        .publish_endpoint("u1", &status(EndpointState::Ready, Some(300)))
        .await
        .unwrap();
    assert_eq!(fake.get(PATH).unwrap()["status"]["identity"]["id"], 300);
    assert_eq!(
        fake.get(PATH).unwrap()["metadata"]["uid"],
        stored["metadata"]["uid"],
        "the same object"
    );
}

#[tokio::test]
async fn one_of_an_earlier_pod_is_replaced() {
    let fake = Fake::new();
    fake.cluster
        .publish_endpoint("old", &status(EndpointState::Ready, Some(300)))
        .await
        .unwrap();
    let old = fake.get(PATH).unwrap();
    fake.cluster
        .publish_endpoint("new", &status(EndpointState::Ready, Some(300)))
        .await
        .unwrap();
    let new = fake.get(PATH).unwrap();
    assert_eq!(new["metadata"]["ownerReferences"][0]["uid"], "new");
    assert_ne!(
        new["metadata"]["uid"], old["metadata"]["uid"],
        "another object, so that watchers see one go and one come"
    );
}

#[tokio::test]
async fn deleting_spares_the_next_pods_object() {
    let fake = Fake::new();
    let pod = ObjectName::new("default", "client");
    fake.cluster.delete_endpoint(&pod, "u1").await.unwrap();
    fake.cluster
        .publish_endpoint("u2", &status(EndpointState::Ready, Some(300)))
        .await
        .unwrap();
    fake.cluster.delete_endpoint(&pod, "u1").await.unwrap();
    assert!(fake.get(PATH).is_some());
    fake.cluster.delete_endpoint(&pod, "u2").await.unwrap();
    assert!(fake.get(PATH).is_none());
    fake.cluster
        .publish_endpoint("u3", &status(EndpointState::Ready, Some(300)))
        .await
        .unwrap();
    fake.cluster.delete_endpoint(&pod, "").await.unwrap();
    assert!(fake.get(PATH).is_none(), "without a uid the name counts");
}

#[tokio::test]
async fn endless_contention_ends() {
    // Somebody changes the object between every look and every write.
    let fake = Fake::with_hook(|verb, path, store| {
        if verb == "PUT" {
            let object = store.objects[path].clone();
            store.put(path, object);
        }
    });
    fake.cluster
        .publish_endpoint("u1", &status(EndpointState::Ready, Some(300)))
        .await
        .unwrap();
    let error = fake
        .cluster
        .publish_endpoint("u1", &status(EndpointState::Ready, Some(301)))
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind, RequestErrorKind::Contended { attempts: 5 }),
        "{error}"
    );
}
