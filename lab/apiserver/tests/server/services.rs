//! Services: addresses, ports, types, and what each type may say.

use crate::support::start;
use serde_json::{Value, json};
use seta_lab_apiserver::{Patch, Resource};

#[tokio::test]
async fn services_get_addresses_of_their_range() {
    let server = start().await;
    let services = Resource::core("services");
    let service = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let ports = json!([{"port": 80}]);
    let client = server.client();
    let made = client
        .create(&services, Some("default"), service("a", json!({"ports": ports})))
        .await
        .unwrap();
    let spec = &made["spec"];
    let range: ipnet::Ipv6Net = "fd00:10:96::/112".parse().unwrap();
    let address: std::net::Ipv6Addr = spec["clusterIP"].as_str().unwrap().parse().unwrap();
    assert!(range.contains(&address));
    assert_eq!(spec["clusterIPs"], json!([address.to_string()]));
    assert_eq!(
        (&spec["ipFamilies"], &spec["ipFamilyPolicy"]),
        (&json!(["IPv6"]), &json!("SingleStack"))
    );
    assert_eq!(
        spec["ports"][0],
        json!({"port": 80, "protocol": "TCP", "targetPort": 80})
    );
    for (spec, wanted) in [
        (
            json!({"ports": ports, "clusterIP": address.to_string()}),
            "provided IP is already allocated",
        ),
        (
            json!({"ports": ports, "clusterIP": "fd01::1"}),
            "is not in the valid range",
        ),
        (
            json!({"ports": ports, "ipFamilies": ["IPv4"]}),
            "not configured on this cluster",
        ),
    ] {
        let error = client
            .create(&services, Some("default"), service("b", spec))
            .await
            .unwrap_err();
        assert!(error.message.contains(wanted), "{error}");
    }
    let headless = service("h", json!({"ports": ports, "clusterIP": "None"}));
    assert_eq!(
        client.create(&services, Some("default"), headless).await.unwrap()["spec"]["clusterIP"],
        "None"
    );
    let error = client
        .patch(
            &services,
            Some("default"),
            "a",
            Patch::Merge,
            json!({"spec": {"clusterIP": "fd00:10:96::77"}}),
        )
        .await
        .unwrap_err();
    assert!(error.message.contains("may not change once set"), "{error}");
}

/// A Service through its life: each row patches what the rows before left, and says what is then there.
#[tokio::test]
async fn types_change_and_give_back() {
    let server = start().await;
    let services = Resource::core("services");
    let client = server.client();
    let first =
        json!({"metadata": {"name": "s"}, "spec": {"selector": {"app": "s"}, "ports": [{"port": 80}]}});
    let mut before = client.create(&services, Some("default"), first).await.unwrap();
    let address = before["spec"]["clusterIP"].clone();
    let rows = [
        (
            json!({"type": "NodePort"}),
            vec!["nodePort", "externalTrafficPolicy"],
        ),
        (
            json!({"type": "LoadBalancer"}),
            vec![
                "nodePort",
                "externalTrafficPolicy",
                "allocateLoadBalancerNodePorts",
            ],
        ),
        (
            json!({"externalTrafficPolicy": "Local"}),
            vec![
                "nodePort",
                "externalTrafficPolicy",
                "allocateLoadBalancerNodePorts",
                "healthCheckNodePort",
            ],
        ),
        (
            json!({"sessionAffinity": "ClientIP"}),
            vec![
                "nodePort",
                "externalTrafficPolicy",
                "allocateLoadBalancerNodePorts",
                "healthCheckNodePort",
                "sessionAffinityConfig",
            ],
        ),
        (json!({"type": "ClusterIP"}), vec!["sessionAffinityConfig"]),
        (json!({"sessionAffinity": "None"}), vec![]),
    ];
    let optional = [
        "nodePort",
        "externalTrafficPolicy",
        "allocateLoadBalancerNodePorts",
        "healthCheckNodePort",
        "sessionAffinityConfig",
    ];
    for (patch, wanted) in rows {
        let after = client
            .patch(
                &services,
                Some("default"),
                "s",
                Patch::Merge,
                json!({"spec": patch}),
            )
            .await
            .unwrap();
        let spec = &after["spec"];
        let there: Vec<&str> = optional
            .into_iter()
            .filter(|field| !spec[*field].is_null() || !spec["ports"][0][*field].is_null())
            .collect();
        assert_eq!(there, wanted, "{patch}");
        assert_eq!(spec["clusterIP"], address, "{patch}");
        let (was, is) = (
            &before["spec"]["ports"][0]["nodePort"],
            &spec["ports"][0]["nodePort"],
        );
        assert!(was.is_null() || is.is_null() || was == is, "{patch}: {was} {is}");
        before = after;
    }
    let away = json!({"spec": {"type": "ExternalName", "externalName": "example.org"}});
    let named = client
        .patch(&services, Some("default"), "s", Patch::Merge, away)
        .await
        .unwrap();
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        assert!(named["spec"][field].is_null(), "{field}");
    }
    // The address went back: another may have it.
    let heir = json!({"metadata": {"name": "heir"}, "spec": {"clusterIP": address, "ports": [{"port": 80}]}});
    client.create(&services, Some("default"), heir).await.unwrap();
    let home = json!({"spec": {"type": "ClusterIP", "externalName": null}});
    let home = client
        .patch(&services, Some("default"), "s", Patch::Merge, home)
        .await
        .unwrap();
    assert!(home["spec"]["clusterIP"].is_string() && home["spec"]["clusterIP"] != address);
}

#[tokio::test]
async fn a_replaced_service_keeps_what_it_was_given() {
    let server = start().await;
    let path = "/api/v1/namespaces/default/services";
    let whole = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    let made = server.post(path, &whole).await.json();
    let headers = [("content-type", "application/json")];
    let put = server
        .raw(true, "PUT", &format!("{path}/s"), &headers, whole.to_string())
        .await;
    assert_eq!(put.code, 200, "{}", put.text);
    assert_eq!(put.json()["spec"], made["spec"]);

    let clash = json!({"metadata": {"name": "t"}, "spec": {
        "type": "NodePort", "ports": [{"port": 80, "nodePort": made["spec"]["ports"][0]["nodePort"]}],
    }});
    let refused = server.post(path, &clash).await;
    assert_eq!(refused.code, 422);
    assert!(
        refused.message().ends_with("provided port is already allocated"),
        "{}",
        refused.text
    );
}

#[tokio::test]
async fn the_status_is_for_balancers() {
    let server = start().await;
    let path = "/api/v1/namespaces/default/services";
    for (name, ty) in [("plain", "ClusterIP"), ("balanced", "LoadBalancer")] {
        let whole = json!({"metadata": {"name": name}, "spec": {"type": ty, "ports": [{"port": 80}]}});
        assert_eq!(server.post(path, &whole).await.code, 201);
    }
    let report = json!({"spec": {"type": "NodePort"}, "status": {"loadBalancer": {"ingress": [{"ip": "2001:db8::5"}]}}});
    let merge = "application/merge-patch+json";
    let refused = server
        .patch(&format!("{path}/plain/status"), merge, &report)
        .await;
    assert_eq!(refused.code, 422, "{}", refused.text);
    let shown = server
        .patch(&format!("{path}/balanced/status"), merge, &report)
        .await
        .json();
    assert_eq!(shown["spec"]["type"], "LoadBalancer");
    assert_eq!(
        shown["status"]["loadBalancer"]["ingress"],
        json!([{"ip": "2001:db8::5", "ipMode": "VIP"}])
    );
}
