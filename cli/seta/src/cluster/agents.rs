//! The agents of a cluster: where they run, and what they answer.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::Value;

use super::{Cluster, Told as _, exec};

/// Label of the agents' pods.
pub(crate) const LABEL: &str = "k8s-app=cilium";
/// The agent's container in its pod.
pub(crate) const CONTAINER: &str = "cilium-agent";
/// Agents that are asked at the same time.
pub(crate) const AT_ONCE: usize = 16;

/// A whole table of an agent takes no longer.
const DEADLINE: Duration = Duration::from_secs(30);

/// The agent of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Agent {
    /// The node.
    pub(crate) node: String,
    /// Its pod.
    pub(crate) pod: String,
    /// It can be asked.
    pub(crate) is_running: bool,
}

/// The agents, by node. Where one is being replaced, the one that runs.
pub(crate) async fn list(cluster: &Cluster) -> anyhow::Result<Vec<Agent>> {
    let pods = pods(cluster)
        .list(&ListParams::default().labels(LABEL))
        .await
        .told("listing the agents' pods")?
        .items;
    Ok(one_per_node(pods.iter().filter_map(agent).collect()))
}

fn agent(pod: &Pod) -> Option<Agent> {
    Some(Agent {
        node: pod.spec.as_ref()?.node_name.clone()?,
        pod: pod.metadata.name.clone()?,
        is_running: is_running(pod),
    })
}

fn one_per_node(mut agents: Vec<Agent>) -> Vec<Agent> {
    agents.sort_by(|a, b| (&a.node, !a.is_running, &a.pod).cmp(&(&b.node, !b.is_running, &b.pod)));
    agents.dedup_by(|next, kept| next.node == kept.node);
    agents
}

/// Whether the agent's container runs, and so can be asked.
pub(crate) fn is_running(pod: &Pod) -> bool {
    let containers = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_deref())
        .unwrap_or_default();
    let agent = containers.iter().find(|container| container.name == CONTAINER);
    let running = agent
        .and_then(|agent| agent.state.as_ref())
        .is_some_and(|state| state.running.is_some());
    running && pod.metadata.deletion_timestamp.is_none()
}

/// What an agent answers to a GET of this path of its API.
///
/// # Errors
/// A sentence for people: the agent is not there, refuses, or cannot be understood.
pub(crate) async fn get(cluster: &Cluster, agent: &Agent, path: &str) -> Result<Value, String> {
    if !agent.is_running {
        return Err(format!("the agent does not run (pod {})", agent.pod));
    }
    let command = ["cilium-dbg", "get", path];
    let text = exec::output(&pods(cluster), &agent.pod, CONTAINER, &command, DEADLINE)
        .await
        .map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| format!("its answer cannot be read: {error}"))
}

fn pods(cluster: &Cluster) -> Api<Pod> {
    Api::namespaced(cluster.client.clone(), &cluster.namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_runs_stands_for_its_node() {
        let agent = |node: &str, pod: &str, is_running| Agent {
            node: node.into(),
            pod: pod.into(),
            is_running,
        };
        let (old, new, other) = (
            agent("b", "a-leaves", false),
            agent("b", "c", true),
            agent("a", "z", false),
        );
        assert_eq!(one_per_node(vec![old, new.clone(), other.clone()]), [other, new]);
    }
}
