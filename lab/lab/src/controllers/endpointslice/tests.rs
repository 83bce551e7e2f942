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
    let slices = slices_for(&plain, &pods);
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
    assert_eq!(slices[0]["metadata"]["labels"][SERVICE_LABEL], "web");
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

    let eager = slices_for(&service(json!({"publishNotReadyAddresses": true})), &pods);
    assert!(conditions(&eager[0]).iter().all(|(_, ready, ..)| *ready));
}

#[test]
fn named_ports_may_differ_and_may_be_missing() {
    let named = service(
        json!({"ports": [{"name": "w", "port": 80, "targetPort": "http"}, {"name": "x", "port": 81, "targetPort": "nope"}]}),
    );
    let slices = slices_for(
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
    let slices = slices_for(&service(json!({})), &pods);
    let sizes: Vec<_> = slices
        .iter()
        .map(|slice| slice["endpoints"].as_array().unwrap().len())
        .collect();
    assert_eq!(sizes, [100, 100, 50]);
    let reversed: Vec<Pod> = pods.into_iter().rev().collect();
    assert_eq!(slices_for(&service(json!({})), &reversed), slices);
    let nobody = slices_for(&service(json!({})), &[]);
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
    let foreign = json!({"metadata": {"namespace": "default", "labels": {SERVICE_LABEL: "web"}}});
    assert_eq!(service_keys(&foreign), []);
}
