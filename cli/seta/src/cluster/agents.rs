//! The agents of a cluster: where they run, and what they answer.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::ListParams;

use super::exec::{self, ExecError};
use super::{Cluster, Told as _};
use crate::failure::{NOT_FOUND, USAGE};
use crate::spool::Spool;

/// Label of the agents' pods.
pub(crate) const LABEL: &str = "k8s-app=cilium";
/// The agent's container in its pod.
pub(crate) const CONTAINER: &str = "cilium-agent";
/// Agents that are asked at the same time.
pub(crate) const AT_ONCE: usize = 16;

/// An agent of which nothing is heard for so long does not answer. A long table may take longer as a whole.
const SILENCE: Duration = Duration::from_secs(30);

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

/// Nodes without an agent; none when nodes may not be listed.
pub(crate) async fn missing(cluster: &Cluster, agents: &[Agent]) -> Vec<String> {
    let nodes = Api::<Node>::all(cluster.client.clone());
    let nodes = nodes.list(&ListParams::default()).await.map(|list| list.items);
    let names = nodes
        .unwrap_or_default()
        .into_iter()
        .filter_map(|node| node.metadata.name);
    names
        .filter(|name| !agents.iter().any(|agent| agent.node == *name))
        .collect()
}

/// Why an agent gave no answer: a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It does not have what was asked for.
    NotFound(String),
    /// It is not there, or cannot answer.
    Failed(String),
}

/// What an agent answers to a GET of this path of its API.
pub(crate) async fn get(cluster: &Cluster, agent: &Agent, path: &str) -> Result<Spool, Refusal> {
    if !agent.is_running {
        return Err(Refusal::Failed(format!(
            "the agent does not run (pod {})",
            agent.pod
        )));
    }
    let command = ["cilium-dbg", "get", path];
    let mut answer = Spool::default();
    match exec::copy(
        &pods(cluster),
        &agent.pod,
        CONTAINER,
        &command,
        SILENCE,
        &mut answer,
    )
    .await
    {
        Ok(()) => Ok(answer),
        Err(error) => Err(refusal(error)),
    }
}

fn refusal(error: ExecError) -> Refusal {
    match error {
        ExecError::Failed { text, code } => match code {
            Some(NOT_FOUND) => Refusal::NotFound(text),
            Some(USAGE) => {
                Refusal::Failed("it is older than this program and cannot be asked by it".to_owned())
            }
            _ => Refusal::Failed(text),
        },
        error => Refusal::Failed(error.to_string()),
    }
}

fn pods(cluster: &Cluster) -> Api<Pod> {
    Api::namespaced(cluster.client.clone(), &cluster.namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_does_not_have_is_told_from_what_it_cannot_do() {
        let refusal = |code| {
            refusal(ExecError::Failed {
                text: "no".to_owned(),
                code,
            })
        };
        assert_eq!(refusal(Some(4)), Refusal::NotFound("no".to_owned()));
        for code in [None, Some(1)] {
            assert_eq!(refusal(code), Refusal::Failed("no".to_owned()));
        }
        assert!(matches!(refusal(Some(2)), Refusal::Failed(text) if text.contains("older")));
    }

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
