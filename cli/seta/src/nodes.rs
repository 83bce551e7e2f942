//! The verbs that look at a node's agent, asked of all nodes of a cluster: `seta service list`, `seta bpf ct list` …

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::anyhow;
use clap::Args;
use futures::StreamExt as _;
use serde::Serializer as _;
use serde::ser::SerializeMap as _;
use serde_json::Map;
use tokio::sync::mpsc;

use crate::cli::Global;
use crate::cluster;
use crate::cluster::agents::{self, Refusal};
use crate::dbg::{Format, JsonPath, Look, Output, Question};
use crate::failure::{EXIT_CODES, Failure};
use crate::progress;
use crate::spool::Spool;

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
struct Told {
    node: String,
    answer: Result<Spool, Refusal>,
}

/// Asks, and prints every answer under the name of its node; as JSON: one object with a member per node. Answers that
/// there are get printed also when others are missing; then the exit code is 1.
pub(crate) async fn run(before: &Global, look: Look<OnNodes>) -> anyhow::Result<ExitCode> {
    let (question, flags) = look.question();
    let cluster = cluster::connect(&flags.global.or(before)).await?;
    let agents = agents::list(&cluster).await?;
    if flags.nodes.is_empty() && !agents.is_empty() {
        let missing = agents::missing(&cluster, &agents).await;
        if !missing.is_empty() {
            progress::step("⚠️ ", format!("no agent runs on {}", missing.join(", ")));
        }
    }
    let agents = chosen(agents, &flags.nodes)?;
    let (output, is_one, path) = (flags.format.output, agents.len() == 1, question.path.clone());
    // Whoever reads what is printed may be slow; no agent is kept waiting for that.
    let (sender, mut told) = mpsc::channel(1);
    let printer = tokio::task::spawn_blocking(move || {
        let told = std::iter::from_fn(move || told.blocking_recv());
        let mut outcome = Outcome::default();
        let printed = progress::written(|out| match &output {
            None => outcome.sections(told, &question, is_one, out),
            Some(Output::Json) => outcome.object(told, &question, out),
            Some(Output::Path(path)) => outcome.found(told, &question, path, out),
        });
        outcome.result(printed)
    });
    let mut answers = futures::stream::iter(&agents)
        .map(async |agent| Told {
            node: agent.node.clone(),
            answer: agents::get(&cluster, agent, &path).await,
        })
        .buffered(agents::AT_ONCE);
    while let Some(told) = answers.next().await {
        if sender.send(told).await.is_err() {
            // Nobody reads any more.
            break;
        }
    }
    drop(sender);
    printer.await??;
    Ok(ExitCode::SUCCESS)
}

/// How the nodes answered.
#[derive(Debug, Default)]
struct Outcome {
    answered: usize,
    /// Nodes that do not have what was asked for, and what they say about it.
    not_found: Vec<(String, String)>,
    /// Nodes without an answer, and why.
    failed: Vec<(String, String)>,
}

impl Outcome {
    /// Writes each answer under the name of its node; one node needs no heading.
    fn sections(
        &mut self,
        all: impl Iterator<Item = Told>,
        question: &Question,
        is_one: bool,
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        for told in all {
            let gap = if self.answered == 0 { "" } else { "\n" };
            let mut section = Section {
                heading: (!is_one).then(|| format!("{gap}==== {}\n", told.node)),
                out: &mut *out,
            };
            if self
                .shaped(told, |answer| question.print(answer, &mut section))?
                .is_some()
            {
                section.begin()?;
            }
        }
        Ok(())
    }

    /// Writes one object with a member per node.
    fn object(
        &mut self,
        all: impl Iterator<Item = Told>,
        question: &Question,
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        let mut json = serde_json::Serializer::pretty(&mut *out);
        let mut object = json.serialize_map(None)?;
        for told in all {
            if let Some((node, data)) = self.shaped(told, |answer| question.data(answer))? {
                object.serialize_entry(&node, &data)?;
            }
        }
        object.end()?;
        Ok(writeln!(out)?)
    }

    /// Writes what a path finds in that object.
    fn found(
        &mut self,
        all: impl Iterator<Item = Told>,
        question: &Question,
        path: &JsonPath,
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        let mut object = Map::new();
        for told in all {
            let value = |answer| Ok(serde_json::to_value(question.data(answer)?)?);
            object.extend(self.shaped(told, value)?);
        }
        Ok(writeln!(out, "{}", path.apply(&object.into())?)?)
    }

    /// What is made of an answer, with its node; without one, why is remembered.
    ///
    /// # Errors
    /// Nobody reads any more.
    fn shaped<T>(
        &mut self,
        Told { node, answer }: Told,
        shape: impl FnOnce(Spool) -> anyhow::Result<T>,
    ) -> anyhow::Result<Option<(String, T)>> {
        let refusal = match answer.map(shape) {
            Ok(Ok(shaped)) => {
                self.answered += 1;
                return Ok(Some((node, shaped)));
            }
            Ok(Err(error)) if progress::is_closed(&error) => return Err(error),
            Ok(Err(error)) => match error.downcast_ref() {
                Some(Failure::NotFound(text)) => Refusal::NotFound(text.clone()),
                _ => Refusal::Failed(format!("{error:#}")),
            },
            Err(refusal) => refusal,
        };
        match refusal {
            Refusal::NotFound(text) => self.not_found.push((node, text)),
            Refusal::Failed(text) => self.failed.push((node, text)),
        }
        Ok(None)
    }

    /// What the command ends with: nodes without an answer are named, whatever else went wrong.
    fn result(self, printed: anyhow::Result<()>) -> anyhow::Result<()> {
        let all = self.answered + self.not_found.len() + self.failed.len();
        if !self.failed.is_empty() {
            let failed = self.failed.iter().map(|(node, why)| format!("\n  {node}: {why}"));
            let failed = format!(
                "{} of {all} nodes did not answer:{}",
                self.failed.len(),
                failed.collect::<String>()
            );
            return Err(match printed {
                Ok(()) => anyhow!(failed),
                Err(error) => anyhow!("{error:#}\n{failed}"),
            });
        }
        match self.not_found.as_slice() {
            [(_, text)] if self.answered == 0 => Err(Failure::NotFound(text.clone()).into()),
            [(_, text), ..] if self.answered == 0 => {
                Err(Failure::NotFound(format!("{text}, on none of {all} nodes")).into())
            }
            _ => printed,
        }
    }
}

/// A part of the output whose heading is written when there is something to write below it.
struct Section<'a> {
    heading: Option<String>,
    out: &'a mut dyn Write,
}

impl Section<'_> {
    fn begin(&mut self) -> io::Result<()> {
        match self.heading.take() {
            Some(heading) => self.out.write_all(heading.as_bytes()),
            None => Ok(()),
        }
    }
}

impl Write for Section<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begin()?;
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::dbg::Answer;

    fn all() -> Vec<Told> {
        let failed = |text: &str| Err(Refusal::Failed(text.to_owned()));
        let none = Err(Refusal::NotFound("none".to_owned()));
        [
            ("a", Ok("[1]")),
            ("b", failed("away")),
            ("c", Ok("[2, 3]")),
            ("d", none),
            ("e", Ok("[]")),
        ]
        .into_iter()
        .map(|(node, answer)| Told {
            node: node.to_owned(),
            answer: answer.map(Spool::from),
        })
        .collect()
    }

    fn lines() -> Question {
        Question::lines("/", |entry: &u8| entry.to_string())
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
        let (mut outcome, mut text) = (Outcome::default(), Vec::new());
        outcome
            .sections(all().into_iter(), &lines(), false, &mut text)
            .unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "==== a\n1\n\n==== c\n2\n3\n\n==== e\n"
        );
        let error = outcome.result(Ok(())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "1 of 5 nodes did not answer:\n  b: away",
            "whoever does not have it has answered"
        );
        let mut text = Vec::new();
        let one = all().into_iter().take(1);
        Outcome::default()
            .sections(one, &lines(), true, &mut text)
            .unwrap();
        assert_eq!(text, b"1\n");
    }

    #[test]
    fn programs_get_one_object() {
        let mut text = Vec::new();
        Outcome::default()
            .object(all().into_iter(), &lines(), &mut text)
            .unwrap();
        let object: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(object, json!({"a": [1], "c": [2, 3], "e": []}));
        let mut text = Vec::new();
        let path = "{.c[1]}".parse().unwrap();
        Outcome::default()
            .found(all().into_iter(), &lines(), &path, &mut text)
            .unwrap();
        assert_eq!(text, b"3\n");
    }

    #[test]
    fn nodes_that_failed_are_named_also_when_the_path_finds_nothing() {
        let (mut outcome, path) = (Outcome::default(), "{.a[5]}".parse().unwrap());
        let printed = outcome.found(all().into_iter(), &lines(), &path, &mut Vec::new());
        let path_error = printed.as_ref().unwrap_err().to_string();
        let error = outcome.result(printed).unwrap_err().to_string();
        assert!(
            error.contains(&path_error) && error.contains("b: away"),
            "{error}"
        );
    }

    #[test]
    fn one_node_that_has_it_is_enough_and_none_is_an_error_of_its_own() {
        let look = |have: u8| {
            let question = Question::shaped("/", move |data: Value| match data[0] == have {
                true => Ok(Answer {
                    text: "here\n".to_owned(),
                    data,
                }),
                false => Err(Failure::NotFound("there is none".to_owned()).into()),
            });
            let mut outcome = Outcome::default();
            let all = all().into_iter().filter(|told| told.node != "b");
            let mut text = Vec::new();
            let printed = outcome.sections(all, &question, false, &mut text);
            (String::from_utf8(text).unwrap(), outcome.result(printed))
        };
        let (text, result) = look(2);
        assert_eq!(text, "==== c\nhere\n");
        result.unwrap();
        let (text, result) = look(9);
        assert!(text.is_empty(), "{text}");
        let error = result.unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(Failure::NotFound(_))));
        assert_eq!(error.to_string(), "there is none, on none of 4 nodes");
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
