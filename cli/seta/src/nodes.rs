//! The verbs that look at a node's agent, asked of all nodes of a cluster: `seta service list`, `seta bpf ct list` …

use std::process::ExitCode;

use clap::Args;
use futures::StreamExt as _;
use serde_json::{Map, Value};

use crate::cli::Global;
use crate::cluster::{self, Cluster, agents};
use crate::dbg::{Answer, Format, Look, Question, rendered};
use crate::failure::{EXIT_CODES, Failure};
use crate::progress;

/// Which nodes of which cluster, and how their answers are printed.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = EXIT_CODES)]
pub(crate) struct OnNodes {
    #[command(flatten)]
    pub(crate) global: Global,
    /// Only this node; may be given several times [default: every node]
    #[arg(long = "node", value_name = "NODE")]
    nodes: Vec<String>,
    #[command(flatten)]
    format: Format,
}

/// What the agent of a node answered, or why it did not.
type Told = (String, Result<Answer, String>);

/// Asks, and prints every answer under the name of its node; as JSON: one object with a member per node. Answers that
/// there are get printed also when others are missing; then the exit code is 1.
pub(crate) async fn run(before: &Global, look: Look<OnNodes>) -> anyhow::Result<ExitCode> {
    let (question, flags) = look.question();
    let cluster = cluster::connect(&flags.global.or(before)).await?;
    let agents = chosen(agents::list(&cluster).await?, &flags.nodes)?;
    let told = ask(&cluster, &agents, &question).await;
    progress::output(&match &flags.format.output {
        Some(output) => rendered(output, &by_node(&told))?,
        None => sections(&told),
    })?;
    let failed: Vec<String> = told
        .iter()
        .filter_map(|(node, answer)| Some(format!("{node}: {}", answer.as_ref().err()?)))
        .collect();
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    anyhow::bail!(
        "{} of {} nodes did not answer:\n  {}",
        failed.len(),
        told.len(),
        failed.join("\n  ")
    )
}

/// The agents of these nodes; of all when none is named.
fn chosen(agents: Vec<agents::Agent>, nodes: &[String]) -> anyhow::Result<Vec<agents::Agent>> {
    let known: Vec<&str> = agents.iter().map(|agent| agent.node.as_str()).collect();
    if known.is_empty() {
        anyhow::bail!("no agent runs in this cluster; install Seta with `seta install`");
    }
    if let Some(unknown) = nodes.iter().find(|node| !known.contains(&node.as_str())) {
        return Err(Failure::Usage(format!(
            "no agent runs on a node {unknown:?}; those with one are {}",
            known.join(", ")
        ))
        .into());
    }
    Ok(agents
        .into_iter()
        .filter(|agent| nodes.is_empty() || nodes.contains(&agent.node))
        .collect())
}

async fn ask(cluster: &Cluster, agents: &[agents::Agent], question: &Question) -> Vec<Told> {
    futures::stream::iter(agents)
        .map(|agent| async move {
            let answer = agents::get(cluster, agent, &question.path).await;
            let answer = answer.and_then(|data| question.answer(data).map_err(|error| format!("{error:#}")));
            (agent.node.clone(), answer)
        })
        .buffered(agents::AT_ONCE)
        .collect()
        .await
}

fn by_node(told: &[Told]) -> Value {
    let answers = told
        .iter()
        .filter_map(|(node, answer)| Some((node.clone(), answer.as_ref().ok()?.data.clone())));
    Value::Object(answers.collect::<Map<_, _>>())
}

/// One node needs no heading.
fn sections(told: &[Told]) -> String {
    let answers: Vec<(&str, &str)> = told
        .iter()
        .filter_map(|(node, answer)| Some((node.as_str(), answer.as_ref().ok()?.text.as_str())))
        .collect();
    match (told.len(), answers.as_slice()) {
        (1, [(_, text)]) => (*text).to_owned(),
        _ => {
            let sections = answers.iter().map(|(node, text)| format!("==== {node}\n{text}"));
            sections.collect::<Vec<_>>().join("\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(node: &str, answer: Result<&str, &str>) -> Told {
        let answer = answer.map(|text| Answer {
            data: json!([text]),
            text: format!("{text}\n"),
        });
        (node.to_owned(), answer.map_err(str::to_owned))
    }

    fn agent(node: &str) -> agents::Agent {
        agents::Agent {
            node: node.into(),
            pod: format!("cilium-{node}"),
            is_running: true,
        }
    }

    #[test]
    fn answers_stand_under_their_nodes_and_failures_do_not_hide_them() {
        let all = [told("a", Ok("1")), told("b", Err("away")), told("c", Ok("2"))];
        assert_eq!(sections(&all), "==== a\n1\n\n==== c\n2\n");
        assert_eq!(by_node(&all), json!({"a": ["1"], "c": ["2"]}));
        assert_eq!(sections(&all[..1]), "1\n");
    }

    #[test]
    fn a_node_without_agent_is_named_with_those_that_have_one() {
        let all = vec![agent("a"), agent("b")];
        assert_eq!(chosen(all.clone(), &[]).unwrap().len(), 2);
        assert_eq!(chosen(all.clone(), &["b".to_owned()]).unwrap(), [agent("b")]);
        let error = chosen(all, &["x".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("\"x\"") && error.contains("a, b"), "{error}");
        assert!(chosen(Vec::new(), &[]).is_err());
    }
}
