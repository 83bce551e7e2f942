//! Against the lab's API server, with its schemas, versions, defaults and subresources.

use std::net::TcpListener;

use k8s::Access;
use lab_apiserver::{Client, DeleteOptions, Handle, Patch, Resource, ServerConfig, serve};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);
const SATISFIED: &str = "cilium.io/IPAMRequestSatisfied";

struct World {
    client: Client,
    cluster: Cluster,
    metrics: Arc<Metrics>,
    _server: Handle,
    _directory: tempfile::TempDir,
}

/// An operator that leads; dropping it stops it in the middle of whatever it does.
struct Operator {
    _leading: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn services() -> Resource {
    Resource::core("services")
}

fn pools() -> Resource {
    Resource::new("cilium.io", "v2", "ciliumloadbalancerippools")
}

impl World {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = serve(ServerConfig {
            advertise: listener.local_addr().unwrap(),
            listeners: vec![listener],
            cluster_name: "kind".into(),
            service_cidr: "fd00:10:96::/112".parse().unwrap(),
            pod_cidr: "fd00:10:244::/56".parse().unwrap(),
            cert_sans: Vec::new(),
            data_dir: directory.path().join("pki"),
            kubelets: Arc::new(|_| None),
            watch_history: ServerConfig::DEFAULT_WATCH_HISTORY,
        })
        .await
        .unwrap();
        let path = directory.path().join("kubeconfig");
        server.write_admin_kubeconfig(&path).unwrap();
        let access = Access::Kubeconfig { path, context: None };
        let cluster = Cluster::connect(&access, "cilium-operator").await.unwrap();
        cluster.register_crds(DEADLINE).await.unwrap();
        Self {
            client: server.client(),
            cluster,
            metrics: Arc::default(),
            _server: server,
            _directory: directory,
        }
    }

    fn operator(&self) -> Operator {
        let (leading, told) = watch::channel(true);
        let responsibility = Responsibility { without_class: true };
        let allocator = Allocator::new(self.cluster.clone(), responsibility, Arc::clone(&self.metrics));
        Operator {
            _leading: leading,
            task: tokio::spawn(allocator.run(told)),
        }
    }

    async fn pool(&self, name: &str, spec: Value) {
        let object = json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumLoadBalancerIPPool", "metadata": {"name": name}, "spec": spec,
        });
        self.client.create(&pools(), None, object).await.unwrap();
    }

    async fn service(&self, name: &str, annotations: Value, spec: Value) {
        let mut spec = spec;
        spec["ports"] = json!([{"port": 80}]);
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "annotations": annotations, "labels": {"app": name}}, "spec": spec,
        });
        self.client
            .create(&services(), Some("default"), object)
            .await
            .unwrap();
    }

    async fn balancer(&self, name: &str) {
        self.service(name, json!({}), json!({"type": "LoadBalancer"}))
            .await;
    }

    async fn change(&self, name: &str, patch: Value) {
        let client = &self.client;
        client
            .patch(&services(), Some("default"), name, Patch::Merge, patch)
            .await
            .unwrap();
    }

    async fn delete(&self, resource: &Resource, namespace: Option<&str>, name: &str) {
        let options = DeleteOptions::default();
        self.client
            .delete(resource, namespace, name, &options)
            .await
            .unwrap();
    }

    /// Addresses of a Service and the reason in its condition, as one text.
    async fn told(&self, name: &str) -> String {
        let object = self.client.get(&services(), Some("default"), name).await.unwrap();
        let ingress = object["status"]["loadBalancer"]["ingress"].as_array();
        let ips = ingress
            .into_iter()
            .flatten()
            .filter_map(|ingress| ingress["ip"].as_str());
        let conditions = object["status"]["conditions"].as_array();
        let condition = conditions
            .into_iter()
            .flatten()
            .find(|one| one["type"] == SATISFIED);
        let reason = condition.map_or("-", |one| one["reason"].as_str().unwrap_or_default());
        ips.chain([reason]).collect::<Vec<_>>().join(" ")
    }

    /// What a pool says of itself: conflict, total, available, used.
    async fn counted(&self, name: &str) -> String {
        let object = self.client.get(&pools(), None, name).await.unwrap();
        let conditions = object["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let find = |kind: &str, field: &str| {
            let found = conditions.iter().find(|one| one["type"] == kind);
            found
                .map_or("-", |one| one[field].as_str().unwrap_or_default())
                .to_owned()
        };
        [
            find("cilium.io/PoolConflict", "status"),
            find("cilium.io/IPsTotal", "message"),
            find("cilium.io/IPsAvailable", "message"),
            find("cilium.io/IPsUsed", "message"),
        ]
        .join(" ")
    }

    async fn becomes(&self, service: &str, expected: &str) {
        until(expected, || self.told(service)).await;
    }

    async fn pool_becomes(&self, pool: &str, expected: &str) {
        until(expected, || self.counted(pool)).await;
    }
}

async fn until<F: Future<Output = String>>(expected: &str, look: impl Fn() -> F) {
    let mut last = String::new();
    let search = async {
        loop {
            last = look().await;
            if last == expected {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    if tokio::time::timeout(DEADLINE, search).await.is_err() {
        panic!("{expected:?} is waited for, {last:?} is there");
    }
}

#[tokio::test]
async fn from_the_first_address_to_the_last() {
    let world = World::start().await;
    world.balancer("early").await;
    let operator = world.operator();
    world
        .pool("blue", json!({"blocks": [{"cidr": "2001:db8:f::/126"}]}))
        .await;
    world.becomes("early", "2001:db8:f:: satisfied").await;
    world.pool_becomes("blue", "False 4 3 1").await;

    world.balancer("second").await;
    world.becomes("second", "2001:db8:f::1 satisfied").await;
    let asks = json!({"lbipam.cilium.io/ips": "2001:db8:f::3"});
    world.service("asks", asks, json!({"type": "LoadBalancer"})).await;
    world.becomes("asks", "2001:db8:f::3 satisfied").await;
    let taken = json!({"io.cilium/lb-ipam-ips": "2001:db8:f::3"});
    world
        .service("taken", taken, json!({"type": "LoadBalancer"}))
        .await;
    world.becomes("taken", "already_allocated").await;
    let class = "io.cilium/l2-announcer";
    world
        .service(
            "class",
            json!({}),
            json!({"type": "LoadBalancer", "loadBalancerClass": class}),
        )
        .await;
    world.becomes("class", "2001:db8:f::2 satisfied").await;
    world.balancer("late").await;
    world.becomes("late", "out_of_ips").await;
    world.pool_becomes("blue", "False 4 0 4").await;

    // What is given back goes to those who wait.
    world.delete(&services(), Some("default"), "asks").await;
    world.becomes("taken", "2001:db8:f::3 satisfied").await;
    world
        .change("second", json!({"spec": {"type": "ClusterIP"}}))
        .await;
    world.becomes("second", "-").await;
    world.becomes("late", "2001:db8:f::1 satisfied").await;
    world
        .change(
            "late",
            json!({"metadata": {"annotations": {"lbipam.cilium.io/ips": "2001:db8:e::1"}}}),
        )
        .await;
    world.becomes("late", "no_pool").await;
    world.pool_becomes("blue", "False 4 1 3").await;

    // Without pools nobody has an address.
    world.delete(&pools(), None, "blue").await;
    for name in ["early", "taken", "class"] {
        world.becomes(name, "no_pool").await;
    }
    let metrics = world.metrics.encode().unwrap();
    assert!(metrics.contains("lbipam_services_unsatisfied 4"), "{metrics}");
    drop(operator);
}

#[tokio::test]
async fn the_next_operator_goes_on_where_the_last_one_was() {
    let world = World::start().await;
    world
        .pool(
            "a",
            json!({"blocks": [{"start": "2001:db8:f::1", "stop": "2001:db8:f::9"}]}),
        )
        .await;
    let operator = world.operator();
    for name in ["one", "two", "three"] {
        world.balancer(name).await;
    }
    world.pool_becomes("a", "False 9 6 3").await;
    let mut before = Vec::new();
    for name in ["one", "two", "three"] {
        before.push((name, world.told(name).await));
    }
    drop(operator);

    // While nobody looks: one goes, one comes, the pool grows at its beginning and is drained.
    world.delete(&services(), Some("default"), "one").await;
    world.balancer("four").await;
    let spec = json!({"spec": {"disabled": true, "blocks": [{"cidr": "2001:db8:f::/64"}]}});
    world
        .client
        .patch(&pools(), None, "a", Patch::Merge, spec)
        .await
        .unwrap();
    let _operator = world.operator();
    world
        .pool_becomes("a", "False 18446744073709551616 18446744073709551614 2")
        .await;
    world.becomes("four", "no_pool").await;
    for (name, told) in before.iter().skip(1) {
        assert_eq!(world.told(name).await, *told, "{name}");
    }

    // A pool made with the older version of the kind, over the same addresses: it is out of use.
    let older = Resource::new("cilium.io", "v2alpha1", "ciliumloadbalancerippools");
    let pool = json!({
        "apiVersion": "cilium.io/v2alpha1", "kind": "CiliumLoadBalancerIPPool", "metadata": {"name": "b"},
        "spec": {"blocks": [{"cidr": "2001:db8:f::/80"}]},
    });
    world.client.create(&older, None, pool).await.unwrap();
    world
        .pool_becomes("b", "True 281474976710656 281474976710656 0")
        .await;
    world.becomes("four", "no_pool").await;
}

#[tokio::test]
async fn what_is_not_ours_is_left_alone() {
    let world = World::start().await;
    world.balancer("cloud").await;
    let foreign = json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/other"});
    world.service("foreign", json!({}), foreign).await;
    let given = json!({"status": {"loadBalancer": {"ingress": [{"ip": "2001:db8::1"}]}}});
    for name in ["cloud", "foreign"] {
        let client = &world.client;
        client
            .patch_status(&services(), Some("default"), name, Patch::Merge, given.clone())
            .await
            .unwrap();
    }
    let _operator = world.operator();
    // With a pool the operator has certainly looked at everything.
    let gold = json!({"matchLabels": {"io.kubernetes.service.name": "ours"}});
    world
        .pool(
            "gold",
            json!({"blocks": [{"cidr": "2001:db8:f::/127"}], "serviceSelector": gold}),
        )
        .await;
    world.balancer("ours").await;
    world.becomes("ours", "2001:db8:f:: satisfied").await;
    assert_eq!(world.told("foreign").await, "2001:db8::1 -");
    world.becomes("cloud", "no_pool").await;
}
