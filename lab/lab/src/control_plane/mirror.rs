//! Pods in `kube-system` that stand for the parts of the control plane, as static pods do in a real cluster. They run
//! inside the supervisor, which their annotation says; their arguments are the ones in effect.
//!
//! There is no etcd (the API server keeps its objects in memory), so there is no pod for it.

use std::time::Duration;

use lab_apiserver::{Client, Resource, Status};
use serde_json::{Value, json};

use super::API_PORT;
use crate::controllers::NODE_GRACE;
use crate::state::Spec;
use crate::topology::{CLUSTER_CIDR, SERVICE_CIDR};

/// Says that the container is a part of the supervisor's process.
const IN_PROCESS: &str = "seta.io/in-process";
/// How often somebody looks whether they are still there.
const INTERVAL: Duration = Duration::from_secs(5);

/// Keeps the pods there: makes them once their node is there, and again when somebody deletes them, as a kubelet does
/// with static pods. Their status is reported by the node's kubelet.
pub(super) async fn keep(client: Client, spec: Spec) {
    loop {
        if let Err(error) = ensure(&client, &spec).await {
            tracing::warn!(%error, "cannot show the control plane as pods");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Makes the pods that are missing.
///
/// # Errors
/// The API server refuses; the node must exist, or pods on it are abandoned.
pub(super) async fn ensure(client: &Client, spec: &Spec) -> Result<(), Status> {
    for pod in pods(spec) {
        match client
            .create(&Resource::core("pods"), Some("kube-system"), pod)
            .await
        {
            Err(status) if !status.is_already_exists() => return Err(status),
            _ => {}
        }
    }
    Ok(())
}

/// The pods.
fn pods(spec: &Spec) -> Vec<Value> {
    let Some(node) = spec.nodes.first() else {
        return Vec::new();
    };
    components(spec)
        .into_iter()
        .map(|(component, command)| {
            let name = format!("{component}-{}", node.name);
            let image = format!("seta/{component}:in-process");
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": name, "namespace": "kube-system",
                    "labels": {"component": component, "tier": "control-plane"},
                    "annotations": {
                        IN_PROCESS: "true",
                        "kubernetes.io/config.source": "file",
                        "kubernetes.io/config.mirror": component,
                    },
                },
                "spec": {
                    "nodeName": node.name, "hostNetwork": true, "priorityClassName": "system-node-critical",
                    "enableServiceLinks": false, "automountServiceAccountToken": false,
                    "tolerations": [{"operator": "Exists", "effect": "NoExecute"}],
                    "containers": [{"name": component, "image": image, "command": command}],
                },
            })
        })
        .collect()
}

/// The parts of the control plane with the arguments that describe what they do.
fn components(spec: &Spec) -> Vec<(&'static str, Vec<String>)> {
    let advertise = spec
        .nodes
        .first()
        .map(|node| node.address.to_string())
        .unwrap_or_default();
    let server = vec![
        "kube-apiserver".to_owned(),
        format!("--advertise-address={advertise}"),
        format!("--secure-port={API_PORT}"),
        format!("--service-cluster-ip-range={SERVICE_CIDR}"),
    ];
    let manager = vec![
        "kube-controller-manager".to_owned(),
        "--allocate-node-cidrs=true".to_owned(),
        format!("--cluster-cidr={CLUSTER_CIDR}"),
        format!("--cluster-name={}", spec.cluster),
        "--node-cidr-mask-size-ipv6=64".to_owned(),
        format!("--node-monitor-grace-period={}s", NODE_GRACE.as_secs()),
        format!("--service-cluster-ip-range={SERVICE_CIDR}"),
    ];
    vec![
        ("kube-apiserver", server),
        ("kube-controller-manager", manager),
        ("kube-scheduler", vec!["kube-scheduler".to_owned()]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::plan_nodes;

    #[test]
    fn the_controller_manager_tells_its_ranges() {
        let spec = Spec {
            version: 1,
            cluster: "kind".into(),
            nodes: plan_nodes("kind", 2),
            user_kubeconfig: "/x".into(),
        };
        let pods = pods(&spec);
        let names: Vec<_> = pods
            .iter()
            .map(|pod| pod["metadata"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "kube-apiserver-kind-control-plane",
                "kube-controller-manager-kind-control-plane",
                "kube-scheduler-kind-control-plane"
            ]
        );
        let command = pods[1]["spec"]["containers"][0]["command"].as_array().unwrap();
        assert!(command.contains(&json!("--cluster-cidr=fd00:10:244::/56")));
        assert!(command.contains(&json!("--service-cluster-ip-range=fd00:10:96::/112")));
        for pod in pods {
            let typed: k8s_openapi::api::core::v1::Pod = serde_json::from_value(pod).unwrap();
            assert_eq!(typed.metadata.annotations.unwrap()[IN_PROCESS], "true");
        }
    }
}
