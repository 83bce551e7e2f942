use model::lbpool::Refusal;
use serde_json::Value;

use super::*;
use crate::fake::Fake;

const PATH: &str = "/api/v1/namespaces/default/services/s";
const POOL_PATH: &str = "/apis/cilium.io/v2/ciliumloadbalancerippools/p";
const ALL: Responsibility = Responsibility { without_class: true };

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[expect(clippy::needless_pass_by_value, reason = "literals read better at the calls")]
fn service(annotations: Value, spec: Value) -> Value {
    json!({
        "metadata": {
            "name": "s", "namespace": "default", "creationTimestamp": "1970-01-01T00:01:00Z",
            "annotations": annotations, "labels": {"app": "web"},
        },
        "spec": spec,
        "status": {"loadBalancer": {"ingress": [{"ip": "2001:db8::1", "ipMode": "VIP"}]}},
    })
}

fn granted(text: &str) -> Grant {
    Grant {
        addresses: vec![ip(text)],
        refusal: None,
    }
}

#[test]
fn what_a_service_asks_for() {
    let stored = balancer(
        &object(service(
            json!({
                "lbipam.cilium.io/ips": " 2001:db8::7, x,2001:db8::7 ",
                "io.cilium/lb-ipam-ips": "2001:db8::9",
                "lbipam.cilium.io/sharing-key": "k",
                "lbipam.cilium.io/sharing-cross-namespace": "a, b",
            }),
            json!({
                "type": "LoadBalancer", "loadBalancerIP": "10.0.0.1", "externalTrafficPolicy": "Local",
                "ipFamilies": ["IPv6", "IPv4"], "selector": {"app": "x"},
                "ports": [{"port": 53, "protocol": "UDP"}, {"port": 80}],
            }),
        )),
        ALL,
    );
    let request = stored.request.unwrap();
    assert_eq!(request.created, 60);
    assert_eq!(request.labels["app"], "web");
    assert_eq!(request.labels[NAMESPACE_LABEL], "default");
    assert_eq!(request.labels[NAME_LABEL], "s");
    assert_eq!(request.families, [Family::V6, Family::V4]);
    assert_eq!(request.wanted, [ip("10.0.0.1"), ip("2001:db8::7")]);
    assert_eq!(request.unreadable, ["x"]);
    let sharing = request.sharing.unwrap();
    assert_eq!(sharing.key, "k");
    assert_eq!(sharing.namespaces.into_iter().collect::<Vec<_>>(), ["a", "b"]);
    assert!(request.external_local);
    assert_eq!(request.ports.len(), 2);
    assert_eq!(request.current, [ip("2001:db8::1")]);

    let plain = json!({"type": "LoadBalancer", "clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]});
    let stored = balancer(
        &object(service(json!({"io.cilium/lb-ipam-ips": "2001:db8::9"}), plain)),
        ALL,
    );
    let request = stored.request.unwrap();
    assert_eq!(request.families, [Family::V6], "told by its own address");
    assert_eq!(request.wanted, [ip("2001:db8::9")], "the older annotation");
    assert!(request.sharing.is_none());
}

#[test]
fn whose_services_are_ours() {
    let classed = |class: &str| json!({"type": "LoadBalancer", "loadBalancerClass": class});
    let rows = [
        (json!({"type": "LoadBalancer"}), true, false),
        (classed("io.cilium/l2-announcer"), true, true),
        (classed("io.cilium/bgp-control-plane"), true, true),
        (classed("io.cilium/node"), false, false),
        (classed("example.com/x"), false, false),
        (json!({"type": "ClusterIP"}), false, false),
        (json!({}), false, false),
    ];
    for (spec, by_default, only_with_class) in rows {
        let service: Service = object(service(json!({}), spec.clone()));
        let ours = |without_class| {
            let stored = balancer(&service, Responsibility { without_class });
            stored.request.is_some()
        };
        assert_eq!((ours(true), ours(false)), (by_default, only_with_class), "{spec}");
    }
}

#[test]
fn what_a_pool_says() {
    let stored = pool(&object(json!({
        "metadata": {"name": "p", "creationTimestamp": "1970-01-01T00:01:00Z"},
        "spec": {
            "blocks": [{"cidr": "2001:db8::/126"}, {"start": "10.0.0.1"}, {"cidr": "x"}, {}],
            "disabled": true,
            "allowFirstLastIPs": "No",
            "serviceSelector": {
                "matchLabels": {"a": "1"},
                "matchExpressions": [
                    {"key": "b", "operator": "In", "values": ["2"]},
                    {"key": "c", "operator": "NotIn", "values": ["3"]},
                    {"key": "d", "operator": "Exists"},
                    {"key": "e", "operator": "DoesNotExist"},
                ],
            },
        },
    })));
    let pool = stored.pool;
    assert_eq!((pool.name.as_str(), pool.created, pool.disabled), ("p", 60, true));
    let sizes: Vec<u128> = pool.ranges.iter().map(Range::size).collect();
    assert_eq!(sizes, [2, 1]);
    assert_eq!(pool.broken.len(), 2);
    assert_eq!(
        pool.selector.unwrap(),
        [
            Requirement::In("a".into(), ["1".to_owned()].into()),
            Requirement::In("b".into(), ["2".to_owned()].into()),
            Requirement::NotIn("c".into(), ["3".to_owned()].into()),
            Requirement::Exists("d".into()),
            Requirement::DoesNotExist("e".into()),
        ]
    );
    let unknown = LabelSelector {
        match_expressions: Some(vec![object(json!({"key": "a", "operator": "Near"}))]),
        ..LabelSelector::default()
    };
    assert_eq!(requirements(Some(&unknown)), None, "admits nobody");
    assert_eq!(requirements(None), Some(Vec::new()), "admits everybody");
}

#[tokio::test]
async fn a_grant_is_written_once_and_taken_back() {
    let fake = Fake::new();
    let mut object_ = service(json!({}), json!({"type": "LoadBalancer", "ipFamilies": ["IPv6"]}));
    object_["status"]["conditions"] = json!([{
        "type": "other", "status": "True", "reason": "r", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]);
    fake.put(PATH, object_);
    let stored = balancer(&object(fake.get(PATH).unwrap()), ALL);
    assert!(!stored.was_served() && !stored.differs(None), "nothing of ours");
    let grant = granted("2001:db8::5");
    assert!(stored.differs(Some(&grant)) && stored.gives_back(Some(&grant)));
    let write = fake.cluster.publish_balancer(&stored, Some(&grant), ALL);
    let written = write.await.unwrap().unwrap();
    assert!(written.was_served() && !written.differs(Some(&grant)));
    let there = fake.get(PATH).unwrap();
    assert_eq!(
        there["status"]["loadBalancer"]["ingress"],
        json!([{"ip": "2001:db8::5"}])
    );
    assert_eq!(
        there["status"]["conditions"][0]["type"], "other",
        "others keep theirs"
    );
    assert_eq!(there["status"]["conditions"][1]["reason"], "satisfied");

    let refused = Grant {
        refusal: Some(Refusal::Exhausted(Family::V4)),
        ..grant.clone()
    };
    assert!(written.differs(Some(&refused)) && !written.gives_back(Some(&refused)));

    // Judged by what was there before: nothing is written.
    let late = fake.cluster.publish_balancer(&stored, Some(&refused), ALL);
    assert_eq!(late.await.unwrap(), None);
    assert_eq!(fake.get(PATH).unwrap(), there);

    let taken = fake.cluster.publish_balancer(&written, None, ALL).await.unwrap();
    assert!(!taken.unwrap().was_served());
    let there = fake.get(PATH).unwrap();
    assert_eq!(there["status"]["loadBalancer"]["ingress"], json!([]));
    assert_eq!(there["status"]["conditions"].as_array().unwrap().len(), 1);
    fake.remove(PATH);
    let gone = fake.cluster.publish_balancer(&written, None, ALL);
    assert_eq!(gone.await.unwrap(), None);
}

#[tokio::test]
async fn a_pool_says_how_it_is() {
    let fake = Fake::new();
    fake.put(
        POOL_PATH,
        json!({"metadata": {"name": "p"}, "spec": {"blocks": [{"cidr": "x"}]}}),
    );
    let stored = pool(&object(fake.get(POOL_PATH).unwrap()));
    let report = PoolReport {
        total: 1 << 64,
        used: 1,
        available: (1 << 64) - 1,
        conflict: None,
    };
    let kind = PoolKind::of_version("v2");
    let written = fake
        .cluster
        .publish_pool(&kind, &stored, &report)
        .await
        .unwrap()
        .unwrap();
    assert!(stored.differs(&report) && !written.differs(&report));
    let times = |object: &Value| object["status"]["conditions"][0]["lastTransitionTime"].clone();
    let before = fake.get(POOL_PATH).unwrap();
    let conditions = before["status"]["conditions"].as_array().unwrap();
    let texts: Vec<String> = conditions
        .iter()
        .map(|one| format!("{}={} {}", one["type"], one["status"], one["message"]).replace('"', ""))
        .collect();
    assert_eq!(
        texts,
        [
            "cilium.io/PoolConflict=False ",
            "cilium.io/IPsTotal=Unknown 18446744073709551616",
            "cilium.io/IPsAvailable=Unknown 18446744073709551615",
            "cilium.io/IPsUsed=Unknown 1",
            "cilium.io/PoolBlocksInvalid=True cidr: \\x\\ cannot be parsed",
        ]
    );
    let more = PoolReport { used: 2, ..report };
    let again = fake.cluster.publish_pool(&kind, &written, &more).await.unwrap();
    assert!(again.is_some());
    let after = fake.get(POOL_PATH).unwrap();
    assert_eq!(
        times(&before),
        times(&after),
        "the time changes with the status only"
    );
    assert_eq!(after["status"]["conditions"][3]["message"], "2");
    let late = fake.cluster.publish_pool(&kind, &stored, &more);
    assert_eq!(late.await.unwrap(), None, "it has changed in between");
}
