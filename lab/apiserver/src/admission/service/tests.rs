#![expect(clippy::needless_pass_by_value, reason = "`json!` as an argument reads best")]

use proptest::prelude::*;

use super::*;

fn service(spec: Value) -> Value {
    json!({"metadata": {"name": "s"}, "spec": spec})
}

fn other(spec: Value) -> Object {
    service(spec).into()
}

fn node_ports_of(service: &Value) -> Vec<Option<i64>> {
    items(&service["spec"]["ports"])
        .iter()
        .map(|p| p["nodePort"].as_i64())
        .collect()
}

#[test]
fn ports_are_taken_once() {
    let taken = [
        other(json!({"ports": [{"port": 80, "nodePort": 30080}]})),
        other(json!({"healthCheckNodePort": 30081})),
    ];
    let already = |at: &str, n: i64| format!("{at}: Invalid value: {n}: provided port is already allocated");
    let balancer = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    let mut checked = balancer.clone();
    checked["healthCheckNodePort"] = 30081.into();
    let rows = [
        (
            json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30080}]}),
            already("spec.ports[0].nodePort", 30080),
        ),
        (
            json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30081}]}),
            already("spec.ports[0].nodePort", 30081),
        ),
        (checked, already("spec.healthCheckNodePort", 30081)),
        (
            json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]}),
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767".into(),
        ),
    ];
    for (spec, wanted) in rows {
        let refused = ports(&mut service(spec.clone()), &taken).unwrap_err();
        assert_eq!(
            format!("{}: {}", refused.field, refused.message),
            wanted,
            "{spec}"
        );
    }
    let mut fresh = service(balancer);
    ports(&mut fresh, &taken).unwrap();
    let (node, health) = (
        node_ports_of(&fresh)[0].unwrap(),
        fresh["spec"]["healthCheckNodePort"].as_i64().unwrap(),
    );
    assert!(node != health && NODE_PORTS.contains(&node) && NODE_PORTS.contains(&health));
}

#[test]
fn one_number_for_all_protocols_of_a_port() {
    let mut dns = service(json!({"type": "NodePort", "ports": [
        {"name": "udp", "port": 53, "protocol": "UDP"},
        {"name": "tcp", "port": 53, "protocol": "TCP"},
        {"name": "metrics", "port": 9153, "protocol": "TCP"},
    ]}));
    ports(&mut dns, &[]).unwrap();
    let given = node_ports_of(&dns);
    assert_eq!(given[0], given[1]);
    assert_ne!(given[0], given[2]);
    assert!(given[2].is_some_and(|n| n >= NODE_PORTS.start() + STATIC_NODE_PORTS));
}

#[test]
fn balancers_may_do_without_node_ports() {
    let mut bare = service(
        json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}, {"port": 81, "nodePort": 30005}]}),
    );
    ports(&mut bare, &[]).unwrap();
    assert_eq!(node_ports_of(&bare), [None, Some(30005)]);
}

#[test]
fn ranges_end() {
    let all: Vec<Value> = NODE_PORTS.map(|n| json!({"port": 1, "nodePort": n})).collect();
    let full = [other(json!({"ports": all}))];
    let mut late = service(json!({"type": "NodePort", "ports": [{"port": 80}]}));
    assert!(ports(&mut late, &full).is_err());
    let range: ipnet::Ipv6Net = "fd00::/126".parse().unwrap();
    let used = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect();
    assert_eq!(
        free_address(range, &used(&["fd00::1", "fd00::2", "fd00::3"])),
        None
    );
    assert_eq!(
        free_address(range, &used(&["fd00::1", "fd00::3"])),
        "fd00::2".parse().ok()
    );
}

#[test]
fn families_follow() {
    let single = json!({"ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack"});
    let rows = [
        (json!({"clusterIP": null}), Ok(single.clone())),
        (
            json!({"ipFamilyPolicy": "PreferDualStack"}),
            Ok(json!({"ipFamilies": ["IPv6"], "ipFamilyPolicy": "PreferDualStack"})),
        ),
        (
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            Err("spec.ipFamilyPolicy"),
        ),
        (json!({"ipFamilies": ["IPv4"]}), Err("spec.ipFamilies[0]")),
        (json!({"ipFamilies": ["IPv6", "IPv4"]}), Err("spec.ipFamilies[1]")),
        (
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}),
            Err("spec.ipFamilies[0]"),
        ),
        (
            json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": {"a": "b"}}),
            Ok(single),
        ),
        (
            json!({"clusterIP": "None", "clusterIPs": ["None"]}),
            Ok(json!({"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "RequireDualStack"})),
        ),
        (
            json!({"type": "ExternalName"}),
            Ok(json!({"ipFamilies": null, "ipFamilyPolicy": null})),
        ),
    ];
    for (spec, wanted) in rows {
        let mut object = service(spec.clone());
        let said = families(&mut object).map_err(|cause| cause.field);
        let shown = json!({"ipFamilies": object["spec"]["ipFamilies"], "ipFamilyPolicy": object["spec"]["ipFamilyPolicy"]});
        assert_eq!(said.map(|()| shown), wanted.map_err(str::to_owned), "{spec}");
    }
}

#[test]
fn addresses_of_old_and_new_clients_agree() {
    let old = service(json!({"type": "ClusterIP", "clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}));
    let rows = [
        (json!({}), json!("fd00::1")),
        (json!({"clusterIP": "fd00::1"}), json!("fd00::1")),
        (json!({"clusterIPs": ["fd00::1"]}), json!("fd00::1")),
        // What a client changed is left for the checks, in both fields.
        (
            json!({"clusterIP": "fd00::2", "clusterIPs": ["fd00::1"]}),
            json!("fd00::2"),
        ),
    ];
    for (spec, wanted) in rows {
        let mut new = service(spec.clone());
        new["spec"]["type"] = "ClusterIP".into();
        keep(&mut new, &old);
        normalize(&mut new, Some(&old));
        assert_eq!(new["spec"]["clusterIP"], wanted, "{spec}");
        assert_eq!(new["spec"]["clusterIPs"], json!([wanted]), "{spec}");
    }
}

proptest! {
    /// Whatever is asked for: nobody gets what another has, and who asked for something free gets just that.
    #[test]
    fn no_two_have_the_same(asked in proptest::collection::vec(proptest::option::of(30_000..30_020_i64), 1..12)) {
        let mut taken: BTreeSet<i64> = BTreeSet::new();
        let mut others: Vec<Object> = Vec::new();
        for wish in asked {
            let mut one = service(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": wish}]}));
            match ports(&mut one, &others) {
                Ok(()) => {
                    let got = node_ports_of(&one)[0].unwrap();
                    prop_assert!(wish.is_none_or(|wish| wish == got));
                    prop_assert!(taken.insert(got));
                    others.push(one.into());
                }
                Err(_) => prop_assert!(wish.is_some_and(|wish| taken.contains(&wish))),
            }
        }
    }
}
