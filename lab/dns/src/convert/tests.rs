use serde_json::{Value, json};

use super::*;

fn of(spec: &Value) -> Option<index::Service> {
    let object = serde_json::from_value(json!({"spec": spec})).unwrap();
    service(Key::new("ns", "web"), object)
}

#[test]
fn kinds_of_services() {
    let name = |text| Name::from_ascii(text).unwrap();
    let rows = [
        (json!({"clusterIP": "None"}), Some(Backing::Headless)),
        (
            json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.0.0.1"]}),
            Some(Backing::Cluster(vec![
                "fd00::1".parse().unwrap(),
                "10.0.0.1".parse().unwrap(),
            ])),
        ),
        (
            json!({"clusterIP": "fd00::1"}),
            Some(Backing::Cluster(vec!["fd00::1".parse().unwrap()])),
        ),
        (json!({}), None),
        (json!({"clusterIP": "", "clusterIPs": [""]}), None),
        (
            json!({"type": "ExternalName", "externalName": "www.example.com"}),
            Some(Backing::External(name("www.example.com."))),
        ),
        (json!({"type": "ExternalName", "externalName": "bad..name"}), None),
    ];
    for (spec, expected) in rows {
        assert_eq!(of(&spec).map(|service| service.backing), expected, "{spec}");
    }
}

#[test]
fn only_named_ports_count() {
    let service = of(&json!({"clusterIP": "None", "ports": [
        {"port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "bad", "port": 70000},
    ]}))
    .unwrap();
    let dns = Port {
        name: "dns".into(),
        protocol: "udp".into(),
        number: 53,
    };
    assert_eq!(service.ports, [dns]);
}

#[test]
fn only_ready_endpoints_count() {
    let object = serde_json::from_value(json!({
        "metadata": {"labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv6",
        "endpoints": [
            {"addresses": ["fd00::1"], "hostname": "Rex"},
            {"addresses": ["fd00::2"], "conditions": {"ready": false}},
            // Of a service that publishes them all.
            {"addresses": ["fd00::3"], "conditions": {"ready": true, "serving": true, "terminating": true}},
            {"addresses": ["not an address"]},
        ],
        "ports": [{"name": "http", "port": 80}, {"name": "any"}],
    }))
    .unwrap();
    let slice = slice(Key::new("ns", "web-1"), object).unwrap();
    let labels: Vec<String> = slice.endpoints.iter().map(Endpoint::label).collect();
    assert_eq!(labels, ["rex", "fd00--3"]);
    assert_eq!((slice.service.as_str(), slice.ports.len()), ("web", 1));
}

#[test]
fn pods_that_have_an_address_of_their_own() {
    let rows = [
        (
            json!({"spec": {"containers": []}, "status": {"phase": "Running", "podIPs": [{"ip": "fd00::1"}]}}),
            1,
        ),
        (
            json!({"spec": {"containers": []}, "status": {"phase": "Failed", "podIPs": [{"ip": "fd00::1"}]}}),
            0,
        ),
        (
            json!({"spec": {"containers": [], "hostNetwork": true}, "status": {"podIPs": [{"ip": "fd00::1"}]}}),
            0,
        ),
        (json!({}), 0),
    ];
    for (pod, expected) in rows {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        assert_eq!(pod_addresses(&pod).len(), expected);
    }
}
