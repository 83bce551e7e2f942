#![expect(clippy::needless_pass_by_value, reason = "`json!` as an argument reads best")]

use super::*;

fn service(spec: Value) -> Service {
    let mut all = json!({"selector": {"app": "web"}, "ports": [{"port": 80}]});
    all.as_object_mut()
        .unwrap()
        .extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "s", "labels": {"team": "a"}}, "spec": all,
    }))
    .unwrap()
}

fn pod(name: &str, address: &str, ready: bool, port: i32) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
        "status": {
            "phase": "Running", "podIP": address,
            "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}],
        },
    }))
    .unwrap()
}

fn fresh(service: &Service, pods: &[Pod]) -> Vec<Value> {
    slices_for(service, pods, &BTreeMap::new(), &[])
}

fn conditions(slice: &Value) -> Vec<(&str, bool, bool, bool)> {
    slice["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|endpoint| {
            let holds = |name: &str| endpoint["conditions"][name] == true;
            (
                endpoint["targetRef"]["name"].as_str().unwrap(),
                holds("ready"),
                holds("serving"),
                holds("terminating"),
            )
        })
        .collect()
}

#[test]
fn states_of_pods() {
    let mut ending = pod("ending", "fd00::3", true, 80);
    ending.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    let mut ended = pod("ended", "fd00::4", false, 80);
    ended.status.as_mut().unwrap().phase = Some("Failed".into());
    let pods = [
        pod("b", "fd00::2", false, 80),
        pod("a", "fd00::1", true, 80),
        ending,
        ended,
        pod("homeless", "", true, 80),
    ];
    let plain = service(json!({}));
    let slices = fresh(&plain, &pods);
    assert_eq!(slices.len(), 1);
    assert_eq!(
        conditions(&slices[0]),
        [
            ("a", true, true, false),
            ("b", false, false, false),
            ("ending", false, true, true)
        ]
    );
    assert_eq!(
        slices[0]["ports"],
        json!([{"name": "", "port": 80, "protocol": "TCP"}])
    );
    assert_eq!(
        slices[0]["metadata"]["labels"]["kubernetes.io/service-name"],
        "web"
    );
    assert_eq!(slices[0]["metadata"]["labels"]["team"], "a");

    let endpoints = endpoints_for(&plain, &pods);
    assert_eq!(endpoints["subsets"].as_array().unwrap().len(), 1);
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "fd00::1");
    assert_eq!(
        endpoints["subsets"][0]["notReadyAddresses"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        endpoints["subsets"][0]["ports"],
        json!([{"port": 80, "protocol": "TCP"}])
    );

    let eager = fresh(&service(json!({"publishNotReadyAddresses": true})), &pods);
    // All are said to be ready; whether they serve is still told as it is.
    assert_eq!(
        conditions(&eager[0]),
        [
            ("a", true, true, false),
            ("b", true, false, false),
            ("ending", true, true, true)
        ]
    );
}

#[test]
fn named_ports_may_differ_and_may_be_missing() {
    let named = service(
        json!({"ports": [{"name": "w", "port": 80, "targetPort": "http"}, {"name": "x", "port": 81, "targetPort": "nope"}]}),
    );
    let slices = fresh(
        &named,
        &[pod("a", "fd00::1", true, 8080), pod("b", "fd00::2", true, 9090)],
    );
    let mut ports: Vec<_> = slices.iter().map(|slice| slice["ports"].clone()).collect();
    ports.sort_by_key(ToString::to_string);
    assert_eq!(
        ports,
        [
            json!([{"name": "w", "port": 8080, "protocol": "TCP"}]),
            json!([{"name": "w", "port": 9090, "protocol": "TCP"}])
        ]
    );
    assert_ne!(slices[0]["metadata"]["name"], slices[1]["metadata"]["name"]);
}

#[test]
fn slices_are_bounded_and_stable() {
    let pods: Vec<Pod> = (0..250)
        .map(|n| pod(&format!("p{n:03}"), &format!("fd00::{n:x}"), true, 80))
        .collect();
    let slices = fresh(&service(json!({})), &pods);
    let sizes: Vec<_> = slices
        .iter()
        .map(|slice| slice["endpoints"].as_array().unwrap().len())
        .collect();
    assert_eq!(sizes, [100, 100, 50]);
    let reversed: Vec<Pod> = pods.into_iter().rev().collect();
    assert_eq!(fresh(&service(json!({})), &reversed), slices);
    let nobody = fresh(&service(json!({})), &[]);
    assert_eq!((nobody.len(), nonempty(&nobody[0]["endpoints"])), (1, None));
}

#[test]
fn services_without_a_selector_are_not_ours() {
    assert!(selector(&service(json!({}))).is_some());
    for spec in [
        json!({"selector": {}}),
        json!({"selector": null}),
        json!({"type": "ExternalName"}),
    ] {
        assert!(selector(&service(spec.clone())).is_none(), "{spec}");
    }
    let foreign =
        json!({"metadata": {"namespace": "default", "labels": {"kubernetes.io/service-name": "web"}}});
    assert_eq!(service_keys(&foreign), []);
}

#[test]
fn an_endpoint_stays_in_its_slice() {
    let pods: Vec<Pod> = (0..250)
        .map(|n| pod(&format!("p{n:03}"), &format!("fd00::{n:x}"), true, 80))
        .collect();
    let web = service(json!({}));
    let before: Vec<Object> = fresh(&web, &pods).into_iter().map(Into::into).collect();
    // One goes from the first slice and one comes that sorts before all others.
    let mut after = pods;
    after.remove(7);
    after.insert(0, pod("a", "fd00::ffff", true, 80));
    let slices = slices_for(&web, &after, &BTreeMap::new(), &before);
    assert_eq!(slices.len(), 3);
    for (slice, known) in slices.iter().zip(&before).skip(1) {
        assert_eq!(slice, &**known);
    }
    assert_eq!(slices[0]["endpoints"].as_array().unwrap().len(), 100);
    // What no longer has endpoints goes.
    let few = slices_for(&web, &after[..50], &BTreeMap::new(), &before);
    assert_eq!(few.len(), 1);
    assert_eq!(few[0]["metadata"]["name"], before[0]["metadata"]["name"]);
}

#[test]
fn zones_hints_and_names() {
    let node = |name: &str, zone: Option<&str>| -> Node {
        let labels = zone.map(|zone| json!({ZONE: zone}));
        serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
    };
    let nodes = [node("n1", Some("a")), node("n2", None)];
    let zones = zones(&nodes);
    let mut near = pod("near", "fd00::1", true, 80);
    near.spec.as_mut().unwrap().hostname = Some("h".into());
    near.spec.as_mut().unwrap().subdomain = Some("web".into());
    let mut down = pod("down", "fd00::2", false, 80);
    down.spec.as_mut().unwrap().subdomain = Some("web".into());
    let mut far = pod("far", "fd00::3", true, 80);
    far.spec.as_mut().unwrap().node_name = Some("n2".into());
    far.spec.as_mut().unwrap().hostname = Some("f".into());
    let pods = [near, down, far];
    let close = json!({"trafficDistribution": "PreferClose"});
    let slices = slices_for(&service(close), &pods, &zones, &[]);
    let rows: Vec<(&str, &Value, &Value, &Value)> = slices[0]["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| {
            (
                e["targetRef"]["name"].as_str().unwrap(),
                &e["zone"],
                &e["hints"],
                &e["hostname"],
            )
        })
        .collect();
    let (none, zone, hint) = (json!(null), json!("a"), json!({"forZones": [{"name": "a"}]}));
    assert_eq!(
        rows,
        [
            ("down", &zone, &none, &none),
            ("far", &none, &none, &none),
            ("near", &zone, &hint, &json!("h")),
        ]
    );
    let plain = slices_for(&service(json!({})), &pods, &zones, &[]);
    assert!(
        plain[0]["endpoints"]
            .as_array()
            .unwrap()
            .iter()
            .all(|e| e["hints"].is_null())
    );
}

#[test]
fn headless_services_and_several_ports() {
    let pods = [pod("a", "fd00::1", true, 8080)];
    let bare = service(json!({"clusterIP": "None", "ports": []}));
    let slices = fresh(&bare, &pods);
    assert_eq!(slices[0]["ports"], json!([]));
    assert_eq!(slices[0]["metadata"]["labels"][HEADLESS], "");
    assert_eq!(
        endpoints_for(&bare, &pods)["subsets"],
        json!([{"addresses": [{"ip": "fd00::1", "nodeName": "n1", "targetRef": target(&pods[0])}]}])
    );
    let unknown = service(json!({"ports": [{"port": 80, "targetPort": "nope"}]}));
    assert_eq!(endpoints_for(&unknown, &pods)["subsets"], json!([]));
    let several = service(json!({"ports": [
        {"name": "w", "port": 80, "targetPort": "http"},
        {"name": "s", "port": 9, "protocol": "SCTP"},
        {"name": "u", "port": 53, "targetPort": 5353, "protocol": "UDP"},
    ]}));
    assert_eq!(
        fresh(&several, &pods)[0]["ports"],
        json!([
            {"name": "w", "port": 8080, "protocol": "TCP"},
            {"name": "s", "port": 9, "protocol": "SCTP"},
            {"name": "u", "port": 5353, "protocol": "UDP"},
        ])
    );
}

#[test]
fn only_addresses_of_the_family() {
    let mut dual = pod("dual", "10.0.0.1", true, 80);
    dual.status.as_mut().unwrap().pod_ips =
        serde_json::from_value(json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}])).unwrap();
    let slices = fresh(&service(json!({})), &[dual, pod("old", "10.0.0.2", true, 80)]);
    assert_eq!(slices[0]["endpoints"].as_array().unwrap().len(), 1);
    assert_eq!(slices[0]["endpoints"][0]["addresses"], json!(["fd00::1"]));
}
