use serde_json::json;

use super::*;
use crate::fake::{Fake, Store};

const BASE: &str = "/apis/cilium.io/v2/ciliumidentities";

fn labels() -> Labels {
    Labels::parse(["k8s:app=client", "k8s:io.kubernetes.pod.namespace=default"])
}

fn rival(store: &mut Store, number: u32, labels: &Labels, created: &str) {
    let object = json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumIdentity",
        "metadata": {
            "name": number.to_string(), "creationTimestamp": created,
            "labels": {"io.kubernetes.pod.namespace": "default"},
        },
        "security-labels": labels.to_security_map(),
    });
    store.put(&format!("{BASE}/{number}"), object);
}

#[tokio::test]
async fn a_known_label_set_needs_no_request() {
    let fake = Fake::new();
    let mut index = IdentityIndex::new();
    index.upsert(CiliumIdentity {
        identity: Identity(400),
        labels: labels(),
        created: 1,
    });
    let resolved = fake
        .cluster
        .resolve_identity(&index, &labels(), || 0)
        .await
        .unwrap();
    assert_eq!(resolved.identity, Identity(400));
    assert!(fake.requests().is_empty());
}

#[tokio::test]
async fn a_new_label_set_gets_an_object() {
    let fake = Fake::new();
    let resolved = fake
        .cluster
        .resolve_identity(&IdentityIndex::new(), &labels(), || 44)
        .await
        .unwrap();
    assert_eq!(resolved.identity, Identity(300));
    assert_eq!(resolved.learned.len(), 1);
    let stored = fake.get(&format!("{BASE}/300")).unwrap();
    assert_eq!(stored["security-labels"]["k8s:app"], "client");
    assert_eq!(
        stored["metadata"]["labels"]["io.kubernetes.pod.namespace"],
        "default"
    );
}

#[tokio::test]
async fn a_taken_number_is_learned_and_another_chosen() {
    let mut first = true;
    let fake = Fake::with_hook(move |verb, _, store| {
        if verb == "POST" && std::mem::take(&mut first) {
            rival(
                store,
                300,
                &Labels::parse(["k8s:app=other"]),
                "2026-01-01T00:00:00Z",
            );
        }
    });
    let mut randoms = [44, 44, 45].into_iter().cycle();
    let resolved = fake
        .cluster
        .resolve_identity(&IdentityIndex::new(), &labels(), || randoms.next().unwrap())
        .await
        .unwrap();
    assert_eq!(resolved.identity, Identity(301));
    let learned: Vec<u32> = resolved.learned.iter().map(|object| object.identity.0).collect();
    assert_eq!(learned, [300, 301]);
}

#[tokio::test]
async fn losing_the_race_for_the_very_same_labels_takes_the_winners() {
    // Under the same number …
    let fake = Fake::with_hook(|verb, _, store| {
        if verb == "POST" {
            rival(store, 300, &labels(), "2026-01-01T00:00:00Z");
        }
    });
    let resolved = fake
        .cluster
        .resolve_identity(&IdentityIndex::new(), &labels(), || 44)
        .await
        .unwrap();
    assert_eq!(resolved.identity, Identity(300));
    // … and under another one, created a moment earlier.
    let fake = Fake::with_hook(|verb, _, store| {
        if verb == "POST" {
            rival(store, 999, &labels(), "2025-12-31T23:59:59Z");
        }
    });
    let resolved = fake
        .cluster
        .resolve_identity(&IdentityIndex::new(), &labels(), || 44)
        .await
        .unwrap();
    assert_eq!(resolved.identity, Identity(999));
}

#[tokio::test]
async fn nothing_free_or_nothing_to_name_is_an_error() {
    let fake = Fake::new();
    let error = fake
        .cluster
        .resolve_identity(&IdentityIndex::new(), &Labels::default(), || 0)
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        ResolveError::Allocation(AllocationError::NoLabels)
    ));
    // Whatever number is tried, somebody takes it first.
    let fake = Fake::with_hook(|verb, _, store| {
        if verb == "POST" {
            for number in 256..300 {
                rival(
                    store,
                    number,
                    &Labels::parse([format!("k8s:n={number}")]),
                    "2026-01-01T00:00:00Z",
                );
            }
        }
    });
    let mut next = 0..;
    let error = fake
        .cluster
        .resolve_identity(&IdentityIndex::new(), &labels(), || next.next().unwrap())
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            ResolveError::Request(RequestError {
                kind: RequestErrorKind::Contended { .. },
                ..
            })
        ),
        "{error}"
    );
}
