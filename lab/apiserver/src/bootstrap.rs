//! The objects that every cluster has before anybody asks.

use serde_json::{Value, json};

use crate::api::{Api, WriteOptions};
use crate::auth::User;
use crate::object;
use crate::status::Status;

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Creates the first namespaces and the `kubernetes` Service.
pub(crate) fn create(api: &Api) -> Result<(), Status> {
    for name in NAMESPACES {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        put(api, "", "v1", "namespaces", None, namespace)?;
    }
    let address = std::net::Ipv6Addr::from(u128::from(api.cluster.service_cidr.network()) + 1).to_string();
    let server = api.cluster.advertise;
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let port = json!({"name": "https", "port": server.port(), "protocol": "TCP"});
    let meta = |labels: &Value| json!({"name": "kubernetes", "namespace": "default", "labels": labels});
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": meta(&labels),
        "spec": {
            "clusterIP": address,
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": server.port()}],
        },
    });
    put(api, "", "v1", "services", Some("default"), service)?;
    if server.ip().is_loopback() {
        // Nobody else could use it, and endpoints with such an address are refused.
        return Ok(());
    }
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": meta(&json!({"endpointslice.kubernetes.io/skip-mirror": "true"})),
        "subsets": [{"addresses": [{"ip": server.ip().to_string()}], "ports": [port]}],
    });
    put(api, "", "v1", "endpoints", Some("default"), endpoints)?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": meta(&json!({"kubernetes.io/service-name": "kubernetes"})),
        "addressType": if server.is_ipv6() { "IPv6" } else { "IPv4" },
        "endpoints": [{"addresses": [server.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [port],
    });
    put(
        api,
        "discovery.k8s.io",
        "v1",
        "endpointslices",
        Some("default"),
        slice,
    )
}

fn put(
    api: &Api,
    group: &str,
    version: &str,
    plural: &str,
    namespace: Option<&str>,
    object: Value,
) -> Result<(), Status> {
    let target = api.target(group, version, plural, namespace, None)?;
    api.create(&User::system_admin(), &target, object, &WriteOptions::default())
        .map(drop)
}

/// A namespace comes with its default service account and the certificate of the cluster. (In a real cluster two
/// controllers do this a moment later; here nobody has to wait.) Runs under the writer lock.
pub(crate) fn namespace_stored(api: &Api, namespace: &Value, present: bool) -> Result<(), Status> {
    if !present || object::is_terminating(namespace) {
        return Ok(());
    }
    let name = object::name(namespace);
    let meta = |own: &str| {
        json!({
            "name": own, "namespace": name, "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": object::now(),
        })
    };
    if api.peek("serviceaccounts", name, "default").is_none() {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta("default")});
        api.store.put("serviceaccounts", account);
    }
    if api.peek("configmaps", name, "kube-root-ca.crt").is_none() {
        let mut map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("kube-root-ca.crt"),
            "data": {"ca.crt": api.cluster.ca_certificate},
        });
        map["metadata"]["annotations"] = json!({
            "kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.",
        });
        api.store.put("configmaps", map);
    }
    Ok(())
}
