//! `seta uninstall`: the objects of the release, and what the agents left on the nodes.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

use crate::apply::{Applier, describe};
use crate::cli::Global;
use crate::cluster::{self, Cluster, Told as _};
use crate::failure::EXIT_CODES;
use crate::install::duration;
use crate::progress::{Waiting, step};
use crate::release::History;

/// Name of the DaemonSet that cleans the nodes.
const CLEANUP: &str = "cilium-node-cleanup";
/// The file whose existence means that a node is clean.
const CLEAN: &str = "/tmp/node-is-clean";
/// Between two looks while waiting.
const INTERVAL: Duration = Duration::from_millis(500);

const EXAMPLES: &str = "\
Examples:
  seta uninstall
  seta uninstall --crds              the types of cilium.io and their objects, too

On every node a short-lived pod removes programs, maps, devices, routes and the CNI configuration. \
Pods that run keep running without a network, and the nodes are not ready until a CNI plugin is \
installed again.";

/// Flags of `seta uninstall`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    /// Remove the types of cilium.io as well, with all their objects
    #[arg(long)]
    crds: bool,
    /// Leave programs, devices and routes on the nodes: running pods stay connected, as they are
    #[arg(long)]
    keep_nodes: bool,
    /// How long to wait for each step
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration)]
    timeout: Duration,
}

/// Runs `seta uninstall`.
pub(crate) async fn run(global: &Global, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let cluster = cluster::connect(global).await?;
    let history = History::of(&cluster);
    let Some(last) = history.last().await? else {
        step(
            "ℹ️ ",
            format_args!(
                "Seta is not installed in namespace {}: there is no release to remove",
                cluster.namespace
            ),
        );
        return Ok(ExitCode::SUCCESS);
    };
    if !last.is_ours() {
        bail!(
            "the Helm release `cilium` is Cilium {}, not Seta; use `helm uninstall cilium`",
            last.chart_version()
        );
    }
    let applier = Applier::new(cluster.client.clone(), &cluster.namespace, false);
    let objects = history.objects().await?;
    let (workloads, others): (Vec<_>, Vec<_>) = objects
        .iter()
        .partition(|object| object["kind"] == "DaemonSet" || object["kind"] == "Deployment");
    for object in &workloads {
        remove(&applier, object).await?;
    }
    wait_for_pods(&cluster, arguments.timeout).await?;
    if !arguments.keep_nodes {
        clean_nodes(&cluster, &objects, arguments.timeout).await?;
    }
    for object in others.iter().rev() {
        remove(&applier, object).await?;
    }
    if arguments.crds {
        remove_types(&cluster).await?;
    }
    history.delete().await?;
    step("✅", "Seta was removed");
    Ok(ExitCode::SUCCESS)
}

async fn remove(applier: &Applier, object: &Value) -> anyhow::Result<()> {
    if applier.delete(object).await? {
        step("🔥", format_args!("Deleted {}", describe(object)));
    }
    Ok(())
}

/// Until no agent runs: one that still did would put everything back.
async fn wait_for_pods(cluster: &Cluster, limit: Duration) -> anyhow::Result<()> {
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), &cluster.namespace);
    let deadline = Instant::now() + limit;
    let mut waiting = Waiting::default();
    loop {
        let left = pods
            .list(&ListParams::default().labels("k8s-app=cilium"))
            .await
            .told("listing the agents")?
            .items;
        if left.is_empty() {
            waiting.done();
            return Ok(());
        }
        let nodes = nodes(&left);
        if Instant::now() >= deadline {
            waiting.done();
            bail!(
                "the agent did not end within {} s on: {nodes}. {SILENT}",
                limit.as_secs()
            );
        }
        waiting.say(&format!("Waiting for the agent to end on: {nodes}"));
        tokio::time::sleep(INTERVAL).await;
    }
}

/// What to do about nodes that do nothing.
const SILENT: &str = "Does its kubelet run (`kubectl get nodes`)? Start it, or delete the node, and run `seta uninstall` \
again: it goes on where this one stopped";

/// The nodes of some pods, as a list for people.
fn nodes(pods: &[Pod]) -> String {
    let mut names: Vec<_> = pods
        .iter()
        .map(|pod| {
            pod.spec
                .as_ref()
                .and_then(|spec| spec.node_name.as_deref())
                .unwrap_or("no node")
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

/// Whether a pod has the condition Ready.
fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref());
    conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Runs `seta node-cleanup` on every node on which an agent ran.
async fn clean_nodes(cluster: &Cluster, objects: &[Value], limit: Duration) -> anyhow::Result<()> {
    let Some(agent) = objects.iter().find(|object| object["kind"] == "DaemonSet") else {
        return Ok(());
    };
    let cleanup: DaemonSet =
        serde_json::from_value(cleanup(agent)).context("making the DaemonSet that cleans the nodes")?;
    let daemonsets = Api::<DaemonSet>::namespaced(cluster.client.clone(), &cluster.namespace);
    step("🧹", "Cleaning the nodes");
    match daemonsets.create(&PostParams::default(), &cleanup).await {
        Ok(_) => {}
        // Left by an uninstall that was interrupted: it does the same.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error).told("starting the pods that clean the nodes"),
    }
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), &cluster.namespace);
    let outcome = wait_for_cleanup(&daemonsets, &pods, limit).await;
    let removed = daemonsets.delete(CLEANUP, &DeleteParams::background()).await;
    outcome?;
    removed.told("removing the pods that cleaned the nodes")?;
    Ok(())
}

async fn wait_for_cleanup(
    daemonsets: &Api<DaemonSet>,
    pods: &Api<Pod>,
    limit: Duration,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    let mut waiting = Waiting::default();
    loop {
        let found = daemonsets
            .get(CLEANUP)
            .await
            .told("looking at the pods that clean the nodes")?;
        let status = found.status.unwrap_or_default();
        let seen =
            status.observed_generation.unwrap_or_default() >= found.metadata.generation.unwrap_or_default();
        let (ready, desired) = (status.number_ready, status.desired_number_scheduled);
        if seen && ready >= desired && desired > 0 {
            waiting.done();
            return Ok(());
        }
        if Instant::now() >= deadline {
            waiting.done();
            let label = format!("k8s-app={CLEANUP}");
            let mut left = pods
                .list(&ListParams::default().labels(&label))
                .await
                .told("looking at the pods that clean the nodes")?
                .items;
            left.retain(|pod| !is_ready(pod));
            bail!(
                "{ready} of {desired} nodes were cleaned within {} s, missing: {}. {SILENT}; with --keep-nodes it leaves them as they are",
                limit.as_secs(),
                nodes(&left),
            );
        }
        waiting.say(&if desired == 0 {
            "Waiting for the pods that clean the nodes".to_owned()
        } else {
            format!("Cleaned {ready} of {desired} nodes")
        });
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The agent's own DaemonSet with another command: the same image and directories, and every node, as an agent may
/// have run where the values of today would not let it.
fn cleanup(agent: &Value) -> Value {
    let pod = &agent["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let labels = json!({ "k8s-app": CLEANUP });
    // The configuration is not needed, and may be gone already.
    let without_config = |list: &Value| -> Vec<Value> {
        list.as_array()
            .into_iter()
            .flatten()
            .filter(|item| item["name"] != "cilium-config-path")
            .cloned()
            .collect()
    };
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "name": CLEANUP, "labels": labels },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "hostNetwork": true,
                    "automountServiceAccountToken": false,
                    "terminationGracePeriodSeconds": 1,
                    "priorityClassName": pod["priorityClassName"],
                    "nodeSelector": { "kubernetes.io/os": "linux" },
                    "tolerations": [{ "operator": "Exists" }],
                    "imagePullSecrets": pod["imagePullSecrets"],
                    "volumes": without_config(&pod["volumes"]),
                    "containers": [{
                        "name": "cleanup",
                        "image": container["image"],
                        "imagePullPolicy": container["imagePullPolicy"],
                        "command": ["seta", "node-cleanup", "--hold", CLEAN],
                        "readinessProbe": { "exec": { "command": ["test", "-e", CLEAN] }, "periodSeconds": 1 },
                        "securityContext": container["securityContext"],
                        "terminationMessagePolicy": "FallbackToLogsOnError",
                        "volumeMounts": without_config(&container["volumeMounts"]),
                    }],
                },
            },
        },
    })
}

async fn remove_types(cluster: &Cluster) -> anyhow::Result<()> {
    let types = Api::<CustomResourceDefinition>::all(cluster.client.clone());
    for found in types
        .list(&ListParams::default())
        .await
        .told("listing the types of cilium.io")?
    {
        if found.spec.group != "cilium.io" {
            continue;
        }
        let name = found.metadata.name.unwrap_or_default();
        match types.delete(&name, &DeleteParams::default()).await {
            Ok(_) => step("🔥", format_args!("Deleted CustomResourceDefinition {name}")),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error).told(&format!("deleting CustomResourceDefinition {name}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart;

    #[test]
    fn the_cleanup_is_the_agent_with_another_command() {
        let values = chart::default_values().expect("values.yaml is YAML");
        let release = chart::Release {
            namespace: "kube-system",
            revision: 1,
        };
        let manifests = chart::render(&values, release).expect("the chart renders");
        let agent = manifests
            .iter()
            .find(|manifest| manifest.kind() == "DaemonSet")
            .expect("there is an agent");
        let made: DaemonSet = serde_json::from_value(cleanup(&agent.object)).expect("it is a DaemonSet");
        let pod = made.spec.template.spec.expect("it has pods");
        let mounts: Vec<_> = pod
            .containers
            .iter()
            .flat_map(|container| container.volume_mounts.iter().flatten())
            .collect();
        assert!(mounts.iter().any(|mount| mount.mount_path == "/sys/fs/bpf"));
        assert!(mounts.iter().all(|mount| {
            pod.volumes
                .iter()
                .flatten()
                .any(|volume| volume.name == mount.name)
        }));
        assert!(
            pod.volumes
                .iter()
                .flatten()
                .all(|volume| volume.config_map.is_none())
        );
        assert_eq!(pod.host_network, Some(true));
        assert!(pod.tolerations.is_some_and(|tolerations| !tolerations.is_empty()));
    }
}
