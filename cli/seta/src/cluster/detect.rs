//! What `install` finds out by itself, as the cilium CLI does: which kind of cluster, which name, whether kube-proxy
//! runs, and where the API server is as long as no service works.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use super::Cluster;
use crate::values::{at, set_missing};

/// Facts about a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Made by kind, or by our lab, which looks the same.
    pub(crate) kind: bool,
    /// Its name, fit for `cluster.name`.
    pub(crate) name: Option<String>,
    /// Whether kube-proxy makes services work.
    pub(crate) kube_proxy: bool,
    /// Names of the nodes with their pod CIDRs.
    pub(crate) nodes: Vec<(String, Vec<String>)>,
    /// An address and a port of the API server behind the `kubernetes` service.
    pub(crate) api_server: Option<(String, i32)>,
}

/// Asks the cluster.
pub(crate) async fn facts(cluster: &Cluster) -> kube::Result<Facts> {
    let nodes = Api::<Node>::all(cluster.client.clone())
        .list(&ListParams::default())
        .await?;
    let kube_proxy = Api::<DaemonSet>::namespaced(cluster.client.clone(), "kube-system")
        .get_opt("kube-proxy")
        .await?;
    let slices = Api::<EndpointSlice>::namespaced(cluster.client.clone(), "default")
        .list(&ListParams::default().labels("kubernetes.io/service-name=kubernetes"))
        .await?;
    let kind = cluster
        .context
        .as_deref()
        .is_some_and(|context| context.starts_with("kind-"));
    let nodes = nodes
        .into_iter()
        .map(|node| {
            (
                node.metadata.name.unwrap_or_default(),
                node.spec.and_then(|spec| spec.pod_cidrs).unwrap_or_default(),
            )
        })
        .collect();
    Ok(Facts {
        kind,
        name: cluster
            .name
            .as_deref()
            .or(cluster.context.as_deref())
            .and_then(cluster_name),
        kube_proxy: kube_proxy.is_some(),
        nodes,
        api_server: api_server(&slices.items),
    })
}

/// The first address in order, so that the same cluster gives the same answer.
fn api_server(slices: &[EndpointSlice]) -> Option<(String, i32)> {
    let mut found: Vec<(String, i32)> = Vec::new();
    for slice in slices {
        let port = slice.ports.iter().flatten().find_map(|port| port.port);
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint
                .conditions
                .as_ref()
                .and_then(|conditions| conditions.ready)
                .unwrap_or(true);
            if let (true, Some(address), Some(port)) = (ready, endpoint.addresses.first(), port) {
                found.push((address.clone(), port));
            }
        }
    }
    found.into_iter().min()
}

/// A name in the letters that `cluster.name` allows.
fn cluster_name(name: &str) -> Option<String> {
    let name: String = name
        .to_lowercase()
        .chars()
        .map(|character| {
            if character.is_ascii_alphanumeric() {
                character
            } else {
                '-'
            }
        })
        .take(32)
        .collect();
    let name = name.trim_matches('-');
    (!name.is_empty()).then(|| name.to_owned())
}

/// Fills in what the user did not set, and says what was found.
pub(crate) fn autodetect(facts: &Facts, user: &mut Value) -> Vec<String> {
    let mut lines = Vec::new();
    if facts.kind {
        lines.push("🔮 Auto-detected Kubernetes kind: kind".to_owned());
    }
    if let Some(name) = &facts.name {
        if at(user, "cluster.name").is_none() {
            lines.push(format!("🔮 Auto-detected cluster name: {name}"));
        }
        set_missing(user, "cluster.name", json!(name));
    }
    // One operator is enough where there is one node for it, or where everything is on one machine anyway.
    if facts.kind || facts.nodes.len() < 2 {
        set_missing(user, "operator.replicas", json!(1));
    }
    set_missing(user, "ipam.mode", json!("kubernetes"));
    if facts.kube_proxy {
        lines.push("🔮 Auto-detected kube-proxy has been installed".to_owned());
    } else if let Some((host, port)) = &facts.api_server
        && at(user, "k8sServiceHost").is_none()
    {
        lines.push(format!(
            "🔮 Auto-detected kube-proxy has not been installed; agents reach the API server at {}",
            authority(host, *port)
        ));
        set_missing(user, "k8sServiceHost", json!(host));
        set_missing(user, "k8sServicePort", json!(port.to_string()));
    }
    lines
}

fn authority(host: &str, port: i32) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Why these values cannot work on this cluster.
pub(crate) fn objections(facts: &Facts, values: &Value) -> Vec<String> {
    let wants_v6 = at(values, "ipv6.enabled").and_then(Value::as_bool) == Some(true);
    let mut objections = Vec::new();
    if facts.nodes.is_empty() {
        objections.push("the cluster has no nodes".to_owned());
    }
    for (node, cidrs) in &facts.nodes {
        // A node without any gets them from its controller yet; the agent waits for that.
        let has_v6 = cidrs.iter().any(|cidr| cidr.contains(':'));
        if wants_v6 && !cidrs.is_empty() && !has_v6 {
            objections.push(format!(
                "ipv6.enabled=true, but node {node} has only IPv4 pod CIDRs ({}); the cluster has to be made with IPv6 (seta lab up --ip-family ipv6)",
                cidrs.join(", ")
            ));
        }
    }
    if !facts.kube_proxy
        && facts.api_server.is_none()
        && at(values, "k8sServiceHost")
            .and_then(Value::as_str)
            .is_none_or(str::is_empty)
    {
        objections.push(
            "there is no kube-proxy, and the address of the API server is not in the endpoints of the service `kubernetes`; set k8sServiceHost and k8sServicePort"
                .to_owned(),
        );
    }
    objections
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind() -> Facts {
        Facts {
            kind: true,
            name: Some("kind-kind".into()),
            kube_proxy: false,
            nodes: vec![("kind-control-plane".into(), vec!["fd00:10:244::/64".into()])],
            api_server: Some(("fc00:f853:ccd:e793::2".into(), 6443)),
        }
    }

    #[test]
    fn kind_is_filled_in_like_the_cilium_cli_does() {
        let mut user = json!({});
        let lines = autodetect(&kind(), &mut user);
        assert_eq!(
            user,
            json!({
                "cluster": {"name": "kind-kind"}, "ipam": {"mode": "kubernetes"}, "operator": {"replicas": 1},
                "k8sServiceHost": "fc00:f853:ccd:e793::2", "k8sServicePort": "6443",
            })
        );
        assert!(
            lines
                .iter()
                .any(|line| line.contains("[fc00:f853:ccd:e793::2]:6443")),
            "{lines:?}"
        );
    }

    #[test]
    fn what_the_user_set_stays() {
        let mut user =
            json!({"cluster": {"name": "mine"}, "k8sServiceHost": "api", "operator": {"replicas": 3}});
        autodetect(&kind(), &mut user);
        assert_eq!(user["cluster"]["name"], "mine");
        assert_eq!(user["k8sServiceHost"], "api");
        assert_eq!(user["operator"]["replicas"], 3);
        assert_eq!(user.get("k8sServicePort"), None);
    }

    #[test]
    fn nonsense_is_objected_to() {
        let values = json!({"ipv6": {"enabled": true}, "k8sServiceHost": ""});
        assert_eq!(objections(&kind(), &values), Vec::<String>::new());
        let v4 = Facts {
            nodes: vec![("a".into(), vec!["10.244.0.0/24".into()])],
            ..kind()
        };
        assert!(
            objections(&v4, &values)
                .concat()
                .contains("node a has only IPv4 pod CIDRs (10.244.0.0/24)")
        );
        let lost = Facts {
            api_server: None,
            ..kind()
        };
        assert!(objections(&lost, &values).concat().contains("set k8sServiceHost"));
        assert!(objections(&lost, &json!({"k8sServiceHost": "x"})).is_empty());
        assert!(
            objections(
                &Facts {
                    kube_proxy: true,
                    ..lost
                },
                &values
            )
            .is_empty()
        );
        assert!(
            objections(
                &Facts {
                    nodes: Vec::new(),
                    ..kind()
                },
                &values
            )
            .concat()
            .contains("no nodes")
        );
    }

    #[test]
    fn cluster_names_are_made_fit() {
        for (name, fit) in [
            ("kind-kind", "kind-kind"),
            ("arn:aws:eks/My_Cluster", "arn-aws-eks-my-cluster"),
            ("-a-", "a"),
        ] {
            assert_eq!(cluster_name(name).as_deref(), Some(fit));
        }
        assert_eq!(cluster_name("___"), None);
    }
}
