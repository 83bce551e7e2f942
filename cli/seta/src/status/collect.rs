//! Asks the cluster and every agent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::StatusResponse;
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};

use super::report::{self, Generation, PodsCount, Report, Workload};
use crate::cluster::{Cluster, Told as _, agents, exec};
use crate::release::History;
use crate::settings;

/// One agent has this long to say how it is.
const AGENT_DEADLINE: Duration = Duration::from_secs(10);

/// The components that have pods: name and label.
const COMPONENTS: [(&str, &str); 2] = [
    ("cilium", agents::LABEL),
    ("cilium-operator", "io.cilium/app=operator"),
];

/// Everything, measured now.
pub(crate) async fn report(cluster: &Cluster) -> anyhow::Result<Report> {
    let mut report = Report::default();
    workloads(cluster, &mut report).await?;
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), &cluster.namespace);
    let mut agent_pods = Vec::new();
    for (component, label) in COMPONENTS {
        let found = pods
            .list(&ListParams::default().labels(label))
            .await
            .told("listing pods")?
            .items;
        for pod in &found {
            component_pod(component, pod, &mut report);
        }
        if component == "cilium" {
            ask_agents(&pods, &found, &mut report).await;
            agent_pods = found;
        }
    }
    report.pods_count = managed_pods(cluster, &agent_pods).await?;
    let release = History::of(cluster).last().await;
    // Whether there is a release decides one line, and nothing else.
    report.helm_chart_version = release
        .ok()
        .flatten()
        .map(|release| release.chart_version().to_owned())
        .unwrap_or_default();
    configuration(cluster, &mut report).await?;
    Ok(report)
}

async fn workloads(cluster: &Cluster, report: &mut Report) -> anyhow::Result<()> {
    let daemonsets = Api::<DaemonSet>::namespaced(cluster.client.clone(), &cluster.namespace);
    match daemonsets
        .get_opt("cilium")
        .await
        .told("looking at DaemonSet cilium")?
    {
        Some(found) => {
            let status = found.status.unwrap_or_default();
            let workload = Workload {
                kind: "DaemonSet".to_owned(),
                desired: status.desired_number_scheduled,
                ready: status.number_ready,
                available: status.number_available.unwrap_or_default(),
                unavailable: status.number_unavailable.unwrap_or_default(),
            };
            let generation = Generation {
                wanted: found.metadata.generation.unwrap_or_default(),
                observed: status.observed_generation.unwrap_or_default(),
                updated: status.updated_number_scheduled.unwrap_or_default(),
            };
            report.add_workload("cilium", workload, generation);
        }
        None => report.error(
            "cilium",
            "cilium",
            "DaemonSet cilium does not exist; install it with `seta install`",
        ),
    }
    let deployments = Api::<Deployment>::namespaced(cluster.client.clone(), &cluster.namespace);
    match deployments
        .get_opt("cilium-operator")
        .await
        .told("looking at Deployment cilium-operator")?
    {
        Some(found) => {
            let status = found.status.unwrap_or_default();
            let workload = Workload {
                kind: "Deployment".to_owned(),
                desired: found.spec.replicas.unwrap_or(1),
                ready: status.ready_replicas.unwrap_or_default(),
                available: status.available_replicas.unwrap_or_default(),
                unavailable: status.unavailable_replicas.unwrap_or_default(),
            };
            let generation = Generation {
                wanted: found.metadata.generation.unwrap_or_default(),
                observed: status.observed_generation.unwrap_or_default(),
                updated: status.updated_replicas.unwrap_or_default(),
            };
            report.add_workload("cilium-operator", workload, generation);
        }
        None => report.error(
            "cilium-operator",
            "cilium-operator",
            "Deployment cilium-operator does not exist",
        ),
    }
    Ok(())
}

/// Counts a pod, and tells what its containers wait for.
fn component_pod(component: &str, pod: &Pod, report: &mut Report) {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = pod.status.as_ref();
    let leaving = pod.metadata.deletion_timestamp.is_some();
    let phase = match status.and_then(|status| status.phase.as_deref()) {
        _ if leaving => "Terminating",
        Some(phase) => phase,
        None => "Unknown",
    };
    *report
        .phase_count
        .entry(component.to_owned())
        .or_default()
        .entry(phase.to_owned())
        .or_default() += 1;
    for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
        let image = container.image.clone().unwrap_or_default();
        *report
            .image_count
            .entry(component.to_owned())
            .or_default()
            .entry(image)
            .or_default() += 1;
    }
    if leaving {
        report.warning(component, name, "the pod is being replaced");
        return;
    }
    let containers = status
        .and_then(|status| status.container_statuses.as_deref())
        .unwrap_or_default();
    for container in containers {
        if let Some(text) = report::container(container) {
            report.error(component, name, text);
        }
    }
}

/// Asks every agent that runs.
async fn ask_agents(api: &Api<Pod>, pods: &[Pod], report: &mut Report) {
    let running: Vec<String> = pods
        .iter()
        .filter(|pod| agents::is_running(pod))
        .filter_map(|pod| pod.metadata.name.clone())
        .collect();
    let answers: Vec<_> = futures::stream::iter(running)
        .map(|pod| async move {
            let command = ["cilium", "status", "-o", "json"];
            let answer = exec::output(api, &pod, agents::CONTAINER, &command, AGENT_DEADLINE).await;
            (pod, answer)
        })
        .buffer_unordered(agents::AT_ONCE)
        .collect()
        .await;
    for (pod, answer) in answers {
        match answer {
            Ok(text) => match serde_json::from_str::<StatusResponse>(&text) {
                Ok(status) => report.add_agent(&pod, status),
                Err(error) => report.error(
                    "cilium",
                    &pod,
                    format!("`cilium status -o json` is not readable: {error}"),
                ),
            },
            Err(error) => report.error("cilium", &pod, format!("`cilium status -o json`: {error}")),
        }
    }
}

/// Pods with a network of their own, and how many of them are managed: they have a CiliumEndpoint that is theirs, not
/// one left by a pod of the same name, and their node has an agent.
async fn managed_pods(cluster: &Cluster, agents: &[Pod]) -> anyhow::Result<PodsCount> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("cilium.io", "v2", "CiliumEndpoint"));
    let endpoints = Api::<DynamicObject>::all_with(cluster.client.clone(), &resource);
    let owners: BTreeSet<String> = match endpoints.list(&ListParams::default()).await {
        Ok(list) => list
            .into_iter()
            .flat_map(|endpoint| endpoint.metadata.owner_references.unwrap_or_default())
            .filter(|owner| owner.kind == "Pod")
            .map(|owner| owner.uid)
            .collect(),
        // The operator has not registered the type yet.
        Err(kube::Error::Api(status)) if status.code == 404 => BTreeSet::new(),
        Err(error) => return Err(error).told("listing CiliumEndpoints"),
    };
    let pods = Api::<Pod>::all(cluster.client.clone())
        .list(&ListParams::default())
        .await
        .told("listing pods")?
        .items;
    Ok(count_pods(&pods, &owners, agents))
}

fn count_pods(pods: &[Pod], owners: &BTreeSet<String>, agents: &[Pod]) -> PodsCount {
    let nodes: BTreeSet<&str> = agents.iter().filter_map(node).collect();
    let mut count = PodsCount::default();
    for pod in pods {
        let own_network = pod
            .spec
            .as_ref()
            .is_some_and(|spec| !spec.host_network.unwrap_or(false));
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if !own_network || matches!(phase, Some("Succeeded" | "Failed")) {
            continue;
        }
        count.all += 1;
        let is_managed = pod.metadata.uid.as_ref().is_some_and(|uid| owners.contains(uid))
            && node(pod).is_some_and(|node| nodes.contains(node));
        count.by_cilium += usize::from(is_managed);
    }
    count
}

fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// What the configuration asks for and does not get.
async fn configuration(cluster: &Cluster, report: &mut Report) -> anyhow::Result<()> {
    let maps = Api::<ConfigMap>::namespaced(cluster.client.clone(), &cluster.namespace);
    let config = maps
        .get_opt("cilium-config")
        .await
        .told("looking at ConfigMap cilium-config")?;
    let config: BTreeMap<String, String> = config.and_then(|map| map.data).unwrap_or_default();
    for entry in settings::not_active(&config)? {
        report.configuration.push(format!(
            "{}={} is not active yet: {}",
            entry.key, entry.when, entry.text
        ));
    }
    let policies = Api::<NetworkPolicy>::all(cluster.client.clone())
        .list(&ListParams::default())
        .await;
    match policies {
        Ok(list) if !list.items.is_empty() => report.configuration.push(format!(
            "{} NetworkPolicies exist and are not enforced yet: network policy comes with issue 5",
            list.items.len()
        )),
        // A user who may not list them, or a server without the type, is no reason to fail.
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, node: &str, host_network: bool, phase: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": uid, "uid": uid},
            "spec": {"nodeName": node, "hostNetwork": host_network, "containers": []},
            "status": {"phase": phase},
        }))
        .expect("it is a pod")
    }

    #[test]
    fn pods_are_managed_by_their_own_endpoint_and_an_agent_that_is_there() {
        let pods = [
            pod("managed", "a", false, "Running"),
            pod("no-endpoint", "a", false, "Running"),
            pod("no-agent", "b", false, "Running"),
            pod("host", "a", true, "Running"),
            pod("done", "a", false, "Succeeded"),
        ];
        let owners = ["managed", "no-agent", "host", "done", "gone"]
            .map(str::to_owned)
            .into();
        let count = count_pods(&pods, &owners, &[pod("agent", "a", true, "Running")]);
        assert_eq!(count, PodsCount { all: 3, by_cilium: 1 });
        assert_eq!(count_pods(&pods, &owners, &[]).by_cilium, 0);
    }
}
