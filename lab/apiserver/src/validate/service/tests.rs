use serde_json::json;

use super::*;

/// What the checks say about a Service of this `spec` after its defaults, and after an update from `old`.
fn causes(spec: Value, old: Option<Value>) -> String {
    let whole = |spec: Value| {
        let mut object = json!({"metadata": {"name": "s"}, "spec": spec});
        crate::defaults::service(&mut object);
        object
    };
    let mut causes = Vec::new();
    service(&whole(spec), old.map(whole).as_ref(), &mut causes);
    let lines: Vec<String> = causes
        .iter()
        .map(|c| format!("{}: {}", c.field, c.message))
        .collect();
    lines.join("|")
}

fn with(mut spec: Value) -> Value {
    if spec["ports"].is_null() {
        spec["ports"] = json!([{"port": 80}]);
    }
    spec
}

#[test]
fn new_services() {
    let rows = [
        (json!({}), ""),
        (
            json!({"type": "Balancer"}),
            r#"spec.type: Unsupported value: "Balancer": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#,
        ),
        (json!({"ports": []}), "spec.ports: Required value"),
        (json!({"ports": [], "clusterIP": "None"}), ""),
        (
            json!({"ports": [{"port": 0, "targetPort": 1}]}),
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"ports": [{"port": 80, "targetPort": 70000}]}),
            "spec.ports[0].targetPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"ports": [{"port": 80, "targetPort": "way-too-long-a-name"}]}),
            r#"spec.ports[0].targetPort: Invalid value: "way-too-long-a-name": must be no more than 15 characters"#,
        ),
        (
            json!({"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 81}]}),
            r#"spec.ports[1].name: Duplicate value: "a""#,
        ),
        (
            json!({"ports": [{"name": "a", "port": 53, "protocol": "UDP"}, {"name": "b", "port": 53}]}),
            "",
        ),
        (json!({"ports": [{"port": 9, "protocol": "SCTP"}]}), ""),
        (
            json!({"ports": [{"port": 9, "protocol": "ICMP"}]}),
            r#"spec.ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP""#,
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 30080}]}),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            json!({"type": "NodePort", "ports": [{"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 81, "nodePort": 30080}]}),
            "spec.ports[1].nodePort: Duplicate value: 30080",
        ),
        (
            json!({"type": "NodePort", "clusterIP": "None"}),
            r#"spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services"#,
        ),
        (
            json!({"type": "LoadBalancer", "ports": [{"port": 10250}]}),
            "spec.ports[0].port: Invalid value: 10250: may not expose port 10250 externally since it is used by kubelet",
        ),
        (
            json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::2"]}),
            r#"spec.clusterIPs: Invalid value: []string{"fd00::2"}: first value must match `clusterIP`"#,
        ),
        (
            json!({"clusterIP": "::x", "clusterIPs": ["::x"]}),
            r#"spec.clusterIPs[0]: Invalid value: "::x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#,
        ),
        (
            json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "fd00::2"]}),
            r#"spec.clusterIPs: Invalid value: []string{"fd00::1", "fd00::2"}: may specify no more than one IP for each IP family"#,
        ),
        (
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv6"]}),
            r#"spec.clusterIPs[0]: Invalid value: "10.0.0.1": expected an IPv6 value as indicated by `ipFamilies[0]`"#,
        ),
        (
            json!({"ipFamilies": ["IPv6", "IPv6"]}),
            r#"spec.ipFamilies[1]: Duplicate value: "IPv6""#,
        ),
        (
            json!({"ipFamilyPolicy": "Any"}),
            r#"spec.ipFamilyPolicy: Unsupported value: "Any": supported values: "PreferDualStack", "RequireDualStack", "SingleStack""#,
        ),
        (
            json!({"sessionAffinity": "Cookie"}),
            r#"spec.sessionAffinity: Unsupported value: "Cookie": supported values: "ClientIP", "None""#,
        ),
        (
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400",
        ),
        (json!({"externalIPs": ["2001:db8::1"]}), ""),
        (
            json!({"externalIPs": ["::1"]}),
            r#"spec.externalIPs[0]: Invalid value: "::1": may not be in the loopback range (127.0.0.0/8, ::1/128)"#,
        ),
        (
            json!({"externalIPs": ["fe80::1"]}),
            r#"spec.externalIPs[0]: Invalid value: "fe80::1": may not be in the link-local range (169.254.0.0/16, fe80::/10)"#,
        ),
        (
            json!({"internalTrafficPolicy": "Near"}),
            r#"spec.internalTrafficPolicy: Unsupported value: "Near": supported values: "Cluster", "Local""#,
        ),
        (json!({"trafficDistribution": "PreferClose"}), ""),
        (
            json!({"trafficDistribution": "Far"}),
            r#"spec.trafficDistribution: Unsupported value: "Far": supported values: "PreferClose""#,
        ),
        (
            json!({"externalTrafficPolicy": "Local"}),
            r#"spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services"#,
        ),
        (
            json!({"externalTrafficPolicy": "Local", "externalIPs": ["2001:db8::1"]}),
            "",
        ),
        (
            json!({"type": "NodePort", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30001}),
            "spec.healthCheckNodePort: Invalid value: 30001: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ),
        (
            json!({"loadBalancerSourceRanges": ["2001:db8::/32"]}),
            "spec.loadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
        (
            json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["2001:db8::/32", "x"]}),
            r#"spec.loadBalancerSourceRanges[1]: Invalid value: "x": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"#,
        ),
        (
            json!({"allocateLoadBalancerNodePorts": false}),
            "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
        (
            json!({"type": "ExternalName", "ports": []}),
            "spec.externalName: Required value",
        ),
        (
            json!({"type": "ExternalName", "externalName": "example.org."}),
            "",
        ),
        (
            json!({"type": "ExternalName", "externalName": "example.org", "clusterIP": "fd00::1"}),
            "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
        ),
    ];
    for (spec, wanted) in rows {
        assert_eq!(causes(with(spec.clone()), None), wanted, "{spec}");
    }
}

#[test]
fn changed_services() {
    let addressed = |address: &str| json!({"clusterIP": address, "clusterIPs": [address]});
    let rows = [
        (addressed("fd00::1"), addressed("fd00::1"), ""),
        (
            addressed("fd00::1"),
            addressed("fd00::2"),
            r#"spec.clusterIPs[0]: Invalid value: []string{"fd00::2"}: may not change once set"#,
        ),
        (
            addressed("None"),
            addressed("fd00::2"),
            r#"spec.clusterIPs[0]: Invalid value: []string{"fd00::2"}: may not change once set"#,
        ),
        (
            json!({"type": "ExternalName", "externalName": "a.b"}),
            addressed("fd00::2"),
            "",
        ),
        (
            json!({"ipFamilies": ["IPv6"]}),
            json!({"ipFamilies": ["IPv4"]}),
            r#"spec.ipFamilies[0]: Invalid value: []string{"IPv4"}: may not change once set"#,
        ),
        (
            json!({"type": "LoadBalancer", "loadBalancerClass": "a"}),
            json!({"type": "LoadBalancer", "loadBalancerClass": "b"}),
            r#"spec.loadBalancerClass: Invalid value: "b": may not change once set"#,
        ),
        (
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30001}),
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30002}),
            "spec.healthCheckNodePort: Invalid value: 30002: field is immutable",
        ),
    ];
    for (old, new, wanted) in rows {
        assert_eq!(causes(with(new.clone()), Some(with(old))), wanted, "{new}");
    }
}

#[test]
fn what_a_balancer_reports() {
    let rows = [
        ("LoadBalancer", json!([{"ip": "2001:db8::1"}]), ""),
        (
            "LoadBalancer",
            json!([{"ip": "2001:db8::x"}]),
            "status.loadBalancer.ingress[0].ip: Invalid value: \"2001:db8::x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            "LoadBalancer",
            json!([{"hostname": "a.b", "ipMode": "VIP"}]),
            "status.loadBalancer.ingress[0].ipMode: Forbidden: may not be specified when `ip` is not set",
        ),
        (
            "LoadBalancer",
            json!([{"hostname": "::1"}]),
            "status.loadBalancer.ingress[0].hostname: Invalid value: \"::1\": must be a DNS name, not an IP address",
        ),
        (
            "ClusterIP",
            json!([{"ip": "2001:db8::1"}]),
            "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'",
        ),
    ];
    for (ty, ingress, wanted) in rows {
        let object = json!({"spec": {"type": ty}, "status": {"loadBalancer": {"ingress": ingress}}});
        let mut causes = Vec::new();
        balancer_status(&object, &mut causes);
        let said: Vec<String> = causes
            .iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect();
        assert_eq!(said.join("|"), wanted, "{object}");
    }
}
