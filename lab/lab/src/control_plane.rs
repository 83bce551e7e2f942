//! The control plane inside the supervisor: API server and controllers, and the pods by which they are to be seen.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use lab_apiserver::{Client, Handle, ListOptions, Resource, ServerConfig, WatchEvent};
use netlink::Netns;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::controllers;
use crate::state::{Paths, Spec};
use crate::supervise::{StatusFile, kubelet_image_catalogue, kubelet_kubeconfig};
use crate::topology::{CLUSTER_CIDR, SERVICE_CIDR};

mod dns;
mod mirror;

/// Where the API server listens in the control plane's node.
pub(crate) const API_PORT: u16 = 6443;

/// How long the kubelets may take to register their nodes, and how often somebody looks.
const REGISTRATION: Duration = Duration::from_secs(30);
const REGISTRATION_POLL: Duration = Duration::from_millis(5);
/// Before a broken watch is opened again.
const REWATCH_DELAY: Duration = Duration::from_millis(200);

/// The sockets of the API server: one for this machine, one for the cluster.
pub(crate) struct Listeners {
    machine: TcpListener,
    cluster: TcpListener,
    advertise: SocketAddr,
}

impl Listeners {
    /// Opens them: on a free port of the loopback address, and inside the control plane's network namespace.
    ///
    /// # Errors
    /// An address cannot be bound.
    pub(crate) async fn open(paths: &Paths, spec: &Spec) -> anyhow::Result<Self> {
        let control_plane = spec.control_plane()?;
        let advertise = SocketAddr::new(control_plane.address.into(), API_PORT);
        let netns = Netns::open(paths.namespaces(&control_plane.name).join("net"))?;
        let cluster = netns
            .run(move || TcpListener::bind(advertise))
            .await?
            .with_context(|| format!("cannot listen on {advertise} in {}", control_plane.name))?;
        let machine = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on 127.0.0.1")?;
        Ok(Self {
            machine,
            cluster,
            advertise,
        })
    }
}

/// A running control plane.
pub(crate) struct ControlPlane {
    server: Handle,
}

impl ControlPlane {
    /// Starts everything, and writes the credentials of administrator and kubelets.
    ///
    /// # Errors
    /// The API server does not start, or a file cannot be written.
    pub(crate) async fn start(
        paths: &Paths,
        spec: &Spec,
        listeners: Listeners,
        stop: &CancellationToken,
        tasks: &TaskTracker,
        status: &StatusFile,
    ) -> anyhow::Result<Self> {
        let nodes: HashSet<String> = spec.nodes.iter().map(|node| node.name.clone()).collect();
        let sockets = paths.clone();
        let server = lab_apiserver::serve(ServerConfig {
            listeners: vec![listeners.machine, listeners.cluster],
            cluster_name: spec.cluster.clone(),
            service_cidr: SERVICE_CIDR.parse()?,
            pod_cidr: CLUSTER_CIDR.parse()?,
            advertise: listeners.advertise,
            cert_sans: vec![spec.control_plane()?.name.clone()],
            data_dir: paths.root().join("pki"),
            kubelets: Arc::new(move |node| nodes.contains(node).then(|| sockets.kubelet_socket(node))),
            watch_history: ServerConfig::DEFAULT_WATCH_HISTORY,
        })
        .await
        .context("cannot start the API server")?;

        server.admin_kubeconfig()?.write(&paths.kubeconfig())?;
        server.write_admin_kubeconfig(&spec.user_kubeconfig)?;
        for node in &spec.nodes {
            server
                .kubelet_kubeconfig(&node.name)?
                .write(&kubelet_kubeconfig(paths, &node.name))?;
            if paths.image_catalogue().exists() {
                let copy = kubelet_image_catalogue(paths, &node.name);
                std::fs::copy(paths.image_catalogue(), &copy)
                    .with_context(|| format!("cannot write {}", copy.display()))?;
            }
        }
        status.change(|status| {
            status.server = server
                .addresses()
                .first()
                .map(|address| format!("https://{address}"));
        });

        let client = server.client();
        let config = controllers::Config {
            cluster_cidr: CLUSTER_CIDR.parse()?,
            nodes: spec.nodes.iter().map(|node| node.name.clone()).collect(),
        };
        controllers::start(&client, &config, stop, tasks);
        tasks.spawn(
            stop.clone()
                .run_until_cancelled_owned(report_nodes(client, status.clone())),
        );
        Ok(Self { server })
    }

    /// Waits until every node of the cluster has reported itself, and shows the control plane as pods.
    ///
    /// # Errors
    /// A node is not there in time.
    pub(crate) async fn settle(
        &self,
        paths: &Paths,
        spec: &Spec,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) -> anyhow::Result<()> {
        let client = self.server.client();
        let nodes = Resource::core("nodes");
        let deadline = tokio::time::Instant::now() + REGISTRATION;
        for node in &spec.nodes {
            while !client
                .get(&nodes, None, &node.name)
                .await
                .is_ok_and(|node| readiness(&node).is_some())
            {
                if tokio::time::Instant::now() >= deadline {
                    let log = std::fs::read_to_string(paths.kubelet_log(&node.name)).unwrap_or_default();
                    bail!(
                        "the kubelet of {} did not register it; its last words: {}",
                        node.name,
                        last_line(&log)
                    );
                }
                tokio::time::sleep(REGISTRATION_POLL).await;
            }
        }
        dns::install(&client)
            .await
            .context("cannot install the cluster's DNS")?;
        mirror::ensure(&client, spec)
            .await
            .context("cannot show the control plane as pods")?;
        tasks.spawn(
            stop.clone()
                .run_until_cancelled_owned(mirror::keep(client, spec.clone())),
        );
        Ok(())
    }

    /// Stops the API server.
    pub(crate) async fn shutdown(self) {
        self.server.shutdown().await;
    }
}

/// Keeps the status file's word on which nodes are Ready.
async fn report_nodes(client: Client, status: StatusFile) {
    let nodes = Resource::core("nodes");
    let note = |node: &Value| {
        let ready = readiness(node) == Some(true);
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        status.change_node(name, |kubelet| kubelet.ready = ready);
    };
    loop {
        let everything = ListOptions::default();
        if let Ok(list) = client.list(&nodes, None, &everything).await {
            list.items.iter().for_each(|node| note(node));
            if let Ok(mut changes) = client
                .watch(&nodes, None, &everything, list.resource_version)
                .await
            {
                while let Some(Ok(change)) = changes.next().await {
                    if let WatchEvent::Added(node) | WatchEvent::Modified(node) = change {
                        note(&node);
                    }
                }
            }
        }
        tokio::time::sleep(REWATCH_DELAY).await;
    }
}

/// What a node's condition `Ready` says, if the node has one.
fn readiness(node: &Value) -> Option<bool> {
    let conditions = node["status"]["conditions"].as_array()?;
    conditions
        .iter()
        .find(|condition| condition["type"] == "Ready")
        .map(|condition| condition["status"] == "True")
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or("none")
}
