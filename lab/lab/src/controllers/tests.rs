//! The controllers together, against the real API server in this process, with a kubelet that only pretends.

use std::sync::Arc;
use std::time::Duration;

use lab_apiserver::{DeleteOptions, Handle, ListOptions, Patch, Resource, ServerConfig};
use serde_json::{Value, json};

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

struct Cluster {
    server: Handle,
    client: Client,
    stop: CancellationToken,
    _data: tempfile::TempDir,
}

impl Cluster {
    /// With two nodes that are Ready.
    async fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = lab_apiserver::serve(ServerConfig {
            listeners: vec![listener],
            cluster_name: "test".into(),
            service_cidr: "fd00:10:96::/112".parse().unwrap(),
            pod_cidr: "fd00:10:244::/56".parse().unwrap(),
            advertise: "[fd00::1]:6443".parse().unwrap(),
            cert_sans: Vec::new(),
            data_dir: data.path().to_owned(),
            kubelets: Arc::new(|_| None),
            watch_history: ServerConfig::DEFAULT_WATCH_HISTORY,
        })
        .await
        .unwrap();
        let client = server.client();
        let stop = CancellationToken::new();
        let config = Config {
            cluster_cidr: "fd00:10:244::/56".parse().unwrap(),
            nodes: vec!["n0".into(), "n1".into()],
        };
        start(&client, &config, &stop, &TaskTracker::new());
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(pretend_kubelet(client.clone())),
        );
        let cluster = Self {
            server,
            client,
            stop,
            _data: data,
        };
        for name in ["n1", "n0"] {
            cluster
                .create(
                    &Resource::core("nodes"),
                    json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}),
                )
                .await;
            cluster.node_is(name, "True").await;
        }
        cluster
    }

    async fn node_is(&self, name: &str, ready: &str) {
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": ready}]}});
        self.client
            .patch_status(&Resource::core("nodes"), None, name, Patch::Strategic, status)
            .await
            .unwrap();
    }

    /// Creates an object; in `default`, unless it says otherwise or has no namespace.
    async fn create(&self, resource: &Resource, mut object: Value) {
        let served = self.client.resources();
        let kind = served.iter().find(|served| served.resource == *resource).unwrap();
        object["kind"] = kind.kind.as_str().into();
        object["apiVersion"] = match resource.group.as_str() {
            "" => resource.version.clone().into(),
            group => format!("{group}/{}", resource.version).into(),
        };
        let namespace = object["metadata"]["namespace"]
            .as_str()
            .unwrap_or("default")
            .to_owned();
        self.client
            .create(resource, kind.namespaced.then_some(namespace.as_str()), object)
            .await
            .unwrap();
    }

    async fn get(&self, resource: &Resource, name: &str) -> Value {
        let namespaced = self
            .client
            .resources()
            .iter()
            .any(|served| served.resource == *resource && served.namespaced);
        match self
            .client
            .get(resource, namespaced.then_some("default"), name)
            .await
        {
            Ok(object) => (*object).clone(),
            Err(_) => Value::Null,
        }
    }

    async fn list(&self, resource: &Resource, labels: &str) -> Vec<Value> {
        let options = ListOptions {
            labels: labels.to_owned(),
            ..ListOptions::default()
        };
        let list = self.client.list(resource, None, &options).await.unwrap();
        list.items.iter().map(|object| (**object).clone()).collect()
    }

    async fn patch(&self, resource: &Resource, name: &str, patch: Value) {
        self.client
            .patch(resource, Some("default"), name, Patch::Merge, patch)
            .await
            .unwrap();
    }

    async fn delete(&self, resource: &Resource, name: &str, policy: &str) {
        let options = DeleteOptions {
            propagation_policy: Some(policy.into()),
            ..DeleteOptions::default()
        };
        self.client
            .delete(resource, Some("default"), name, &options)
            .await
            .unwrap();
    }

    /// Waits until what `look` answers is as it should be.
    async fn eventually<T: PartialEq + std::fmt::Debug>(&self, expected: T, look: impl AsyncFn() -> T) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let seen = look().await;
            if seen == expected {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "still {seen:?}, not {expected:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.server.shutdown().await;
    }
}

/// Makes pods that have a node Ready, and ends those that are to end.
async fn pretend_kubelet(client: Client) {
    let pods = Resource::core("pods");
    for turn in 1u32.. {
        for pod in client
            .list(&pods, None, &ListOptions::default())
            .await
            .unwrap()
            .items
        {
            let (namespace, name) = (
                pod["metadata"]["namespace"].as_str(),
                pod["metadata"]["name"].as_str().unwrap(),
            );
            if pod["spec"]["nodeName"].is_null() {
                continue;
            }
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                let now = DeleteOptions {
                    grace_period_seconds: Some(0),
                    ..DeleteOptions::default()
                };
                let _ = client.delete(&pods, namespace, name, &now).await;
            } else if pod["status"]["podIP"].is_null() {
                let status = json!({"status": {
                    "phase": "Running", "podIP": format!("fd00:10:244::{turn:x}"),
                    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                }});
                let _ = client
                    .patch_status(&pods, namespace, name, Patch::Strategic, status)
                    .await;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn deployment(replicas: u32) -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template("one")},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_get_blocks_and_taints_and_pods_get_nodes() {
    let cluster = Cluster::new().await;
    let nodes = Resource::core("nodes");
    for (name, block) in [("n0", "fd00:10:244::/64"), ("n1", "fd00:10:244:1::/64")] {
        cluster
            .eventually(json!([block]), async || {
                cluster.get(&nodes, name).await["spec"]["podCIDRs"].clone()
            })
            .await;
    }
    let taints = async |name: &str| {
        cluster.get(&nodes, name).await["spec"]["taints"]
            .as_array()
            .map_or(0, Vec::len)
    };
    for (ready, count) in [("False", 2), ("True", 0), ("Unknown", 2)] {
        for name in ["n0", "n1"] {
            cluster.node_is(name, ready).await;
            cluster.eventually(count, async || taints(name).await).await;
        }
    }
    let pods = Resource::core("pods");
    cluster
        .create(
            &pods,
            json!({"metadata": {"name": "p"}, "spec": {
        "containers": [{"name": "c", "image": "i"}], "nodeSelector": {"kubernetes.io/hostname": "n1"}}}),
        )
        .await;
    let reason = async || {
        let conditions = cluster.get(&pods, "p").await["status"]["conditions"].clone();
        let found = conditions
            .as_array()
            .into_iter()
            .flatten()
            .find(|found| found["type"] == "PodScheduled")
            .cloned();
        found.map_or(Value::Null, |found| found["reason"].clone())
    };
    cluster.eventually(json!("Unschedulable"), reason).await;
    cluster.node_is("n1", "True").await;
    cluster
        .eventually(json!("n1"), async || {
            cluster.get(&pods, "p").await["spec"]["nodeName"].clone()
        })
        .await;
    let told = async |reason: &str| {
        cluster
            .list(&Resource::core("events"), "")
            .await
            .iter()
            .filter(|event| event["reason"] == reason)
            .count()
    };
    cluster.eventually(1, async || told("Scheduled").await).await;
    assert_eq!(told("FailedScheduling").await, 1);

    cluster
        .client
        .delete(&nodes, None, "n1", &DeleteOptions::default())
        .await
        .unwrap();
    cluster
        .eventually(Value::Null, async || cluster.get(&pods, "p").await)
        .await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls_out_scales_and_goes() {
    let cluster = Cluster::new().await;
    let (deployments, sets, pods) = (
        Resource::apps("deployments"),
        Resource::apps("replicasets"),
        Resource::core("pods"),
    );
    cluster.create(&deployments, deployment(3)).await;
    let settled = async || {
        let found = cluster.get(&deployments, "web").await;
        let number = |name: &str| found["status"][name].as_u64().unwrap_or(0);
        let seen = found["status"]["observedGeneration"] == found["metadata"]["generation"];
        (
            seen,
            number("replicas"),
            number("updatedReplicas"),
            number("availableReplicas"),
        )
    };
    cluster.eventually((true, 3, 3, 3), settled).await;
    let nodes = async || {
        let mut nodes: Vec<_> = cluster
            .list(&pods, "app=web")
            .await
            .iter()
            .map(|pod| pod["spec"]["nodeName"].to_string())
            .collect();
        nodes.sort();
        nodes.dedup();
        nodes.len()
    };
    assert_eq!(nodes().await, 2, "replicas spread");

    cluster
        .patch(
            &deployments,
            "web",
            json!({"spec": {"template": template("two")}}),
        )
        .await;
    cluster.eventually((true, 3, 3, 3), settled).await;
    let images = async || {
        let pods = cluster.list(&pods, "app=web").await;
        pods.iter()
            .map(|pod| pod["spec"]["containers"][0]["image"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    cluster.eventually(vec!["two".to_owned(); 3], images).await;
    assert_eq!(
        cluster.list(&sets, "app=web").await.len(),
        2,
        "the old one is kept for a way back"
    );
    let revision = cluster.get(&deployments, "web").await["metadata"]["annotations"]["deployment.kubernetes.io/revision"].clone();
    assert_eq!(revision, "2");

    // The way back: the old template is the newest revision again.
    cluster
        .patch(
            &deployments,
            "web",
            json!({"spec": {"template": template("one")}}),
        )
        .await;
    cluster.eventually(vec!["one".to_owned(); 3], images).await;
    let revision = async || {
        cluster.get(&deployments, "web").await["metadata"]["annotations"]["deployment.kubernetes.io/revision"]
            .clone()
    };
    cluster.eventually(json!("3"), revision).await;
    assert_eq!(cluster.list(&sets, "app=web").await.len(), 2);

    cluster
        .patch(&deployments, "web", json!({"spec": {"replicas": 1}}))
        .await;
    cluster.eventually((true, 1, 1, 1), settled).await;
    cluster.delete(&deployments, "web", "Background").await;
    cluster
        .eventually((0, 0), async || {
            (
                cluster.list(&sets, "").await.len(),
                cluster.list(&pods, "").await.len(),
            )
        })
        .await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_wait_for_their_dependents_or_leave_them() {
    let cluster = Cluster::new().await;
    let (deployments, sets, pods) = (
        Resource::apps("deployments"),
        Resource::apps("replicasets"),
        Resource::core("pods"),
    );
    let counts = async || {
        (
            cluster.list(&deployments, "").await.len(),
            cluster.list(&sets, "").await.len(),
            cluster.list(&pods, "").await.len(),
        )
    };
    cluster.create(&deployments, deployment(2)).await;
    cluster.eventually((1, 1, 2), counts).await;
    cluster.delete(&deployments, "web", "Foreground").await;
    cluster.eventually((0, 0, 0), counts).await;

    cluster.create(&deployments, deployment(2)).await;
    cluster.eventually((1, 1, 2), counts).await;
    cluster.delete(&deployments, "web", "Orphan").await;
    cluster.eventually((0, 1, 2), counts).await;
    let set = cluster.list(&sets, "").await.remove(0);
    assert!(
        set["metadata"]["ownerReferences"]
            .as_array()
            .is_none_or(Vec::is_empty)
    );
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemonset_is_everywhere_and_follows_its_template() {
    let cluster = Cluster::new().await;
    let (sets, pods) = (Resource::apps("daemonsets"), Resource::core("pods"));
    cluster
        .create(
            &sets,
            json!({
                "metadata": {"name": "agent"},
                "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template("one")},
            }),
        )
        .await;
    let settled = async || {
        let found = cluster.get(&sets, "agent").await;
        let number = |name: &str| found["status"][name].as_u64().unwrap_or(0);
        (
            number("desiredNumberScheduled"),
            number("updatedNumberScheduled"),
            number("numberAvailable"),
            number("observedGeneration"),
        )
    };
    cluster.eventually((2, 2, 2, 1), settled).await;
    cluster
        .patch(&sets, "agent", json!({"spec": {"template": template("two")}}))
        .await;
    cluster.eventually((2, 2, 2, 2), settled).await;
    let images = async || {
        let pods = cluster.list(&pods, "app=web").await;
        pods.iter()
            .map(|pod| pod["spec"]["containers"][0]["image"].to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(images().await, ["\"two\"", "\"two\""]);
    cluster
        .create(&Resource::core("nodes"), json!({"metadata": {"name": "n2"}}))
        .await;
    cluster.node_is("n2", "True").await;
    cluster.eventually((3, 3, 3, 2), settled).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_know_their_pods_and_namespaces_empty_themselves() {
    let cluster = Cluster::new().await;
    let slices = Resource::new("discovery.k8s.io", "v1", "endpointslices");
    cluster
        .create(
            &Resource::core("namespaces"),
            json!({"metadata": {"name": "away"}}),
        )
        .await;
    for namespace in ["default", "away"] {
        let mut service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
        let mut web = deployment(2);
        service["metadata"]["namespace"] = namespace.into();
        web["metadata"]["namespace"] = namespace.into();
        cluster.create(&Resource::core("services"), service).await;
        cluster.create(&Resource::apps("deployments"), web).await;
    }
    let ready = async || {
        let slices = cluster.list(&slices, "kubernetes.io/service-name=web").await;
        let endpoints = slices
            .iter()
            .flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default());
        endpoints
            .filter(|endpoint| endpoint["conditions"]["ready"] == true)
            .count()
    };
    cluster.eventually(4, ready).await;
    let subsets = async || {
        cluster.get(&Resource::core("endpoints"), "web").await["subsets"][0]["addresses"]
            .as_array()
            .map_or(0, Vec::len)
    };
    cluster.eventually(2, subsets).await;

    cluster
        .client
        .delete(
            &Resource::core("namespaces"),
            None,
            "away",
            &DeleteOptions::default(),
        )
        .await
        .unwrap();
    cluster
        .eventually(Value::Null, async || {
            cluster.get(&Resource::core("namespaces"), "away").await
        })
        .await;
    cluster.eventually(2, ready).await;
    cluster
        .delete(&Resource::core("services"), "web", "Background")
        .await;
    cluster
        .eventually(0, async || {
            cluster
                .list(&slices, "kubernetes.io/service-name=web")
                .await
                .len()
        })
        .await;
    cluster
        .eventually(Value::Null, async || {
            cluster.get(&Resource::core("endpoints"), "web").await
        })
        .await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_made_by_hand_are_mirrored_and_go_with_their_service() {
    let cluster = Cluster::new().await;
    let slices = Resource::new("discovery.k8s.io", "v1", "endpointslices");
    let (services, endpoints) = (Resource::core("services"), Resource::core("endpoints"));
    cluster
        .create(
            &services,
            json!({"metadata": {"name": "db"}, "spec": {"ports": [{"port": 80}]}}),
        )
        .await;
    cluster
        .create(
            &endpoints,
            json!({"metadata": {"name": "db"}, "subsets": [{"addresses": [{"ip": "2001:db8::1"}], "ports": [{"port": 81}]}]}),
        )
        .await;
    let addresses = async || {
        let slices = cluster.list(&slices, "kubernetes.io/service-name=db").await;
        slices
            .iter()
            .flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default())
            .map(|endpoint| endpoint["addresses"][0].clone())
            .collect::<Vec<_>>()
    };
    cluster.eventually(vec![json!("2001:db8::1")], addresses).await;
    // A service that selects has its endpoints found; those by hand are no longer repeated.
    let patch = json!({"spec": {"selector": {"app": "db"}}});
    cluster
        .client
        .patch(&services, Some("default"), "db", Patch::Merge, patch)
        .await
        .unwrap();
    cluster.eventually(Vec::new(), addresses).await;
    cluster.delete(&services, "db", "Background").await;
    cluster
        .eventually(Value::Null, async || cluster.get(&endpoints, "db").await)
        .await;
    cluster.end().await;
}
