use model::addr::Family;
use model::endpoint::{EndpointId, EndpointState};
use serde_json::{Value, json};

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_node() {
    let kube = object(json!({
        "metadata": {"name": "kind-worker", "uid": "u1", "labels": {"a": "b"}, "annotations": {"c": "d"}},
        "spec": {
            "podCIDR": "fd00:10:244:1::/64",
            "podCIDRs": ["fd00:10:244:1::/64", "not-a-cidr"],
            "taints": [{"key": "node.cilium.io/agent-not-ready", "effect": "NoExecute"}],
        },
        "status": {"addresses": [
            {"type": "InternalIP", "address": "fc00:f853:ccd:e793::3"},
            {"type": "Hostname", "address": "kind-worker"},
            {"type": "ExternalIP", "address": "2001:db8::3"},
        ]},
    }));
    let node = node(&kube);
    assert_eq!((node.name.as_str(), node.uid.as_str()), ("kind-worker", "u1"));
    assert_eq!(
        node.pod_cidrs,
        ["fd00:10:244:1::/64".parse().unwrap()],
        "what cannot be parsed is left out"
    );
    assert_eq!(
        (node.internal_ips, node.external_ips),
        (vec![ip("fc00:f853:ccd:e793::3")], vec![ip("2001:db8::3")])
    );
    assert_eq!(node.taints, ["node.cilium.io/agent-not-ready"]);

    let old: Node = object(json!({"metadata": {"name": "x"}, "spec": {"podCIDR": "fd00::/64"}}));
    assert_eq!(super::node(&old).pod_cidrs.len(), 1, "podCIDR alone counts, too");
    assert_eq!(
        super::node(&object(json!({"metadata": {}}))),
        inputs::Node::default()
    );
}

#[test]
fn a_pod() {
    let kube = object(json!({
        "metadata": {"name": "server", "namespace": "default", "uid": "u2", "labels": {"app": "server"}},
        "spec": {
            "nodeName": "kind-worker",
            "serviceAccountName": "default",
            "containers": [{"name": "c", "ports": [
                {"name": "http", "containerPort": 80},
                {"containerPort": 81, "protocol": "UDP"},
                {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            ]}],
            "initContainers": [{"name": "sidecar", "ports": [{"name": "metrics", "containerPort": 9000}]}],
        },
        "status": {"phase": "Running", "podIP": "fd00:10:244:1::7", "podIPs": [{"ip": "fd00:10:244:1::7"}]},
    }));
    let found = pod(&kube);
    assert_eq!(found.name.to_string(), "default/server");
    assert_eq!(found.ips, [ip("fd00:10:244:1::7")]);
    let ports: Vec<_> = found
        .named_ports
        .iter()
        .map(|p| (p.name.as_str(), p.port, p.protocol.as_str()))
        .collect();
    assert_eq!(
        ports,
        [("http", 80, "TCP"), ("dns", 53, "UDP"), ("metrics", 9000, "TCP")]
    );
    assert!(!found.host_network && !found.finished && !found.terminating);

    for (phase, finished) in [("Succeeded", true), ("Failed", true), ("Pending", false)] {
        let kube = object(
            json!({"metadata": {"name": "x", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": phase}}),
        );
        assert_eq!(
            (pod(&kube).finished, pod(&kube).terminating),
            (finished, true),
            "{phase}"
        );
    }
}

#[test]
fn a_cilium_node_there_and_back() {
    let node = inputs::CiliumNode {
        name: "kind-worker".into(),
        node_uid: String::new(),
        addresses: vec![
            (AddressType::InternalIP, ip("fc00:f853:ccd:e793::3")),
            (AddressType::CiliumInternalIP, ip("fd00:10:244:1::99")),
        ],
        pod_cidrs: vec!["fd00:10:244:1::/64".parse().unwrap()],
        health_ips: vec![ip("fd00:10:244:1::4")],
        boot_id: "b".into(),
    };
    let spec = to_cilium_node_spec(&node);
    let json = serde_json::to_value(&spec).unwrap();
    assert_eq!(json["ipam"]["podCIDRs"], json!(["fd00:10:244:1::/64"]));
    assert_eq!(
        json["addresses"][1],
        json!({"type": "CiliumInternalIP", "ip": "fd00:10:244:1::99"})
    );
    assert_eq!(cilium_node(&types::CiliumNode::new("kind-worker", spec)), node);
    assert_eq!(node.router_ip(Family::V6), Some(ip("fd00:10:244:1::99")));
}

#[test]
fn an_endpoint_there_and_back() {
    let labels = Labels::parse(["k8s:app=client", "k8s:io.kubernetes.pod.namespace=default"]);
    let status = EndpointStatus {
        id: EndpointId(7),
        state: EndpointState::Ready,
        identity: Some((Identity(300), labels.clone())),
        container_id: "c1".into(),
        attachment_id: "c1:eth0".into(),
        pod: ObjectName::new("default", "client"),
        addresses: vec![ip("fd00:10:244::6321")],
        node_ip: Some(ip("fc00:f853:ccd:e793::2")),
        named_ports: vec![NamedPort {
            name: "http".into(),
            port: 80,
            protocol: "TCP".into(),
        }],
        service_account: "default".into(),
    };
    let wire = to_endpoint_status(&status);
    assert_eq!(
        serde_json::to_value(&wire).unwrap(),
        json!({
            "id": 7,
            "state": "ready",
            "identity": {"id": 300, "labels": ["k8s:app=client", "k8s:io.kubernetes.pod.namespace=default"]},
            "external-identifiers": {
                "cni-attachment-id": "c1:eth0", "container-id": "c1",
                "k8s-namespace": "default", "k8s-pod-name": "client", "pod-name": "default/client",
            },
            "networking": {"addressing": [{"ipv6": "fd00:10:244::6321"}], "node": "fc00:f853:ccd:e793::2"},
            "named-ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            "encryption": {},
            "policy": {"ingress": {"enforcing": false}, "egress": {"enforcing": false}},
            "service-account": "default",
        })
    );
    let mut object = types::CiliumEndpoint::new("client", types::CiliumEndpointFields {});
    object.metadata.namespace = Some("default".into());
    object.status = Some(wire);
    let read = cilium_endpoint(&object);
    assert_eq!(
        (read.id, read.identity, read.labels),
        (7, Some(Identity(300)), labels)
    );
    assert_eq!((read.addresses, read.node_ip), (status.addresses, status.node_ip));
    assert_eq!(read.named_ports, status.named_ports);
}

#[test]
fn endpoints_written_by_others() {
    // As Cilium writes it: fields that we do not know, `null` lists, and an identity of a newer kind.
    let object = object(json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumEndpoint",
        "metadata": {
            "name": "x", "namespace": "default",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "p1"}],
        },
        "status": {
            "id": 70000, "identity": {"id": 16777217, "labels": ["cidr:fd00::/8"]}, "health": {"bpf": "OK"},
            "networking": {"addressing": [{"ipv4": "10.0.0.1", "ipv6": "garbage"}]},
            "policy": {"ingress": {"enforcing": true, "state": "<status disabled>"}},
            "state": "some-day",
        },
    }));
    let read = cilium_endpoint(&object);
    assert_eq!(
        (read.id, read.identity, read.pod_uid.as_str()),
        (0, Some(Identity(16_777_217)), "p1")
    );
    assert_eq!(
        (read.addresses, read.node_ip, read.state.as_str()),
        (vec![ip("10.0.0.1")], None, "some-day")
    );
}

#[test]
fn only_canonical_numbers_are_identities() {
    let rows = [
        ("300", Some(300)),
        ("256", Some(256)),
        ("65535", Some(65535)),
        ("255", None),
        ("65536", None),
        ("0300", None),
        ("+300", None),
        ("-1", None),
        ("kube-dns", None),
        ("", None),
    ];
    for (name, expected) in rows {
        assert_eq!(identity_of_name(name), expected.map(Identity), "{name:?}");
    }
    let kube = object(json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumIdentity",
        "metadata": {"name": "300", "creationTimestamp": "1970-01-01T00:01:00Z"},
        "security-labels": {"k8s:app": "client"},
    }));
    let read = cilium_identity(&kube).unwrap();
    assert_eq!((read.identity, read.created), (Identity(300), 60));
    assert_eq!(read.labels, Labels::parse(["k8s:app=client"]));
}
