use serde_json::json;

use super::*;

fn slice_of(object: serde_json::Value) -> Option<inputs::EndpointSlice> {
    endpoint_slice(&serde_json::from_value(object).unwrap(), &mut Interner::default())
}

fn service_of(object: serde_json::Value) -> inputs::Service {
    service(&serde_json::from_value(object).unwrap(), &mut Interner::default())
}

#[test]
fn a_slice_keeps_what_decides() {
    let slice = slice_of(json!({
        "metadata": {"name": "web-x", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"},
            "managedFields": [{"manager": "kube-controller-manager", "operation": "Update", "fieldsV1": {"f:x": {}}}]},
        "addressType": "IPv6",
        "ports": [{"name": "http", "port": 8080}, {"name": "all"}, {"name": "q", "port": 1, "protocol": "QUIC"}],
        "endpoints": [
            {"addresses": ["fd00::1", "fd00::2"], "nodeName": "n1", "targetRef": {"kind": "Pod", "name": "web-0"}},
            {"addresses": ["fd00::3"], "nodeName": "n1", "conditions": {"ready": false, "serving": true, "terminating": true},
             "hints": {"forZones": [{"name": "z1"}], "forNodes": [{"name": "n1"}]}},
            {"addresses": ["fd00::4"], "conditions": {"ready": false}},
            {"addresses": ["10.0.0.1"]},
            {"addresses": ["nonsense"]},
            {"addresses": []},
        ],
    }))
    .unwrap();
    assert_eq!(slice.name, ObjectName::new("default", "web-x"));
    assert_eq!((&*slice.service, slice.family), ("web", Family::V6));
    let ports: Vec<_> = slice.ports.iter().map(|port| (&*port.name, port.port)).collect();
    assert_eq!(ports, [("http", 8080)]);
    let conditions: Vec<_> = slice
        .endpoints
        .iter()
        .map(|endpoint| {
            let Conditions {
                ready,
                serving,
                terminating,
            } = endpoint.conditions;
            (ready, serving, terminating)
        })
        .collect();
    assert_eq!(
        conditions,
        [(true, true, false), (false, true, true), (false, false, false)]
    );
    let hints = slice.endpoints[1].hints.as_deref().unwrap();
    assert_eq!((&*hints.zones[0], &*hints.nodes[0]), ("z1", "n1"));
    assert_eq!(slice.endpoints[0].hints, None);
    let names = [0, 1].map(|index: usize| slice.endpoints[index].node.clone().unwrap());
    assert!(Arc::ptr_eq(&names[0], &names[1]), "a name is kept once");
}

#[test]
fn slices_without_service_or_addresses_are_left_out() {
    let object = |labels: serde_json::Value, kind: &str| json!({"metadata": {"name": "x", "namespace": "default", "labels": labels}, "addressType": kind, "endpoints": null, "ports": null});
    assert!(slice_of(object(json!({"kubernetes.io/service-name": "web"}), "IPv6")).is_some());
    for (labels, kind) in [
        (json!({}), "IPv6"),
        (json!({"kubernetes.io/service-name": ""}), "IPv6"),
        (json!({"kubernetes.io/service-name": "web"}), "FQDN"),
    ] {
        assert_eq!(slice_of(object(labels, kind)), None);
    }
}

#[test]
fn a_service_with_everything() {
    let service = service_of(json!({
        "metadata": {"name": "web", "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"service.cilium.io/forwarding-mode": "dsr"}},
        "spec": {
            "type": "LoadBalancer", "clusterIP": "fd00:10:96::1", "clusterIPs": ["fd00:10:96::1", "10.96.0.1"],
            "externalIPs": ["2001:db8::1"], "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}},
            "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000,
            "loadBalancerSourceRanges": [" 2001:db8:1::/48 ", "nonsense"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30080, "targetPort": "web"},
                      {"name": "sctp", "port": 81, "protocol": "SCTP"}],
        },
        "status": {"loadBalancer": {"ingress": [
            {"ip": "2001:db8::8", "ipMode": "VIP"}, {"ip": "2001:db8::9"}, {"ip": "2001:db8::a", "ipMode": "Proxy"},
            {"hostname": "lb.example.com"}]}},
    }));
    let texts = |addresses: &[IpAddr]| addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>();
    assert_eq!(service.kind, ServiceType::LoadBalancer);
    assert_eq!(texts(&service.cluster_ips), ["fd00:10:96::1", "10.96.0.1"]);
    assert_eq!(texts(&service.balancer_ips), ["2001:db8::8", "2001:db8::9"]);
    assert_eq!(texts(&service.external_ips), ["2001:db8::1"]);
    assert_eq!(
        (service.affinity, service.health_check_port, service.created),
        (7, 32000, 1_767_225_600)
    );
    assert!(service.internal_local && service.external_local);
    assert_eq!(service.source_ranges.len(), 1);
    assert_eq!(service.forwarding, Some(Forwarding::Dsr));
    let ports: Vec<_> = service
        .ports
        .iter()
        .map(|p| (&*p.name, p.protocol, p.port, p.node_port))
        .collect();
    assert_eq!(
        ports,
        [
            ("http", Protocol::Tcp, 80, 30080),
            ("sctp", Protocol::Sctp, 81, 0)
        ]
    );
}

#[test]
fn headless_and_sticky_by_default() {
    let headless =
        service_of(json!({"metadata": {"name": "a"}, "spec": {"clusterIP": "None", "clusterIPs": ["None"]}}));
    assert!(headless.cluster_ips.is_empty());
    let sticky = service_of(
        json!({"metadata": {"name": "a"}, "spec": {"sessionAffinity": "ClientIP", "clusterIP": "fd00::1"}}),
    );
    assert_eq!((sticky.affinity, sticky.cluster_ips.len()), (10_800, 1));
    let empty = service_of(json!({"metadata": {"name": "a"}}));
    assert!(empty.cluster_ips.is_empty() && empty.ports.is_empty());
}

#[test]
fn host_ports_of_containers() {
    let spec = |object| serde_json::from_value::<PodSpec>(object).unwrap();
    let ports = json!({"containers": [{"name": "a", "ports": [
        {"containerPort": 80, "hostPort": 8080}, {"containerPort": 81},
        {"containerPort": 82, "hostPort": 8082, "hostIP": "::", "protocol": "UDP"},
        {"containerPort": 83, "hostPort": 8083, "hostIP": "fd00::1"},
        {"containerPort": 84, "hostPort": 8084, "hostIP": "nonsense"}]}]});
    let found = host_ports("a", &spec(ports.clone()));
    let found: Vec<_> = found
        .iter()
        .map(|p| (p.host_port, p.port, p.protocol, p.addr))
        .collect();
    let addr = "fd00::1".parse().ok();
    let expected = [
        (8080, 80, Protocol::Tcp, None),
        (8082, 82, Protocol::Udp, None),
        (8083, 83, Protocol::Tcp, addr),
    ];
    assert_eq!(found, expected);
    let mut own = ports;
    own["hostNetwork"] = json!(true);
    assert_eq!(host_ports("a", &spec(own)), []);
}

#[test]
fn the_pool_lets_go_of_what_nobody_holds() {
    let mut pool = Interner::default();
    let held = pool.text("held");
    for number in 0..5000 {
        pool.text(&number.to_string());
    }
    assert!(pool.texts.values.len() <= 1024);
    assert!(Arc::ptr_eq(&held, &pool.text("held")));
}
