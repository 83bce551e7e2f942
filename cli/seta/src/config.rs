//! `seta config`: the ConfigMap `cilium-config` that every agent reads.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::anyhow;
use clap::{ArgAction, Args, Subcommand};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use model::config::{AgentConfig, Warning};
use serde_json::{Value, json};

use crate::cli::Global;
use crate::cluster::{self, Cluster, Told as _};
use crate::failure::{EXIT_CODES, Failure};
use crate::progress::{output, step};
use crate::values::schema::{self, Schema};

/// The ConfigMap.
const CONFIG: &str = "cilium-config";

const EXAMPLES: &str = "\
Examples:
  seta config view | grep big
  seta config set debug true
  seta config set monitor-aggregation none --restart=false
  seta config delete debug

A key or a value that the agent would not take is refused before anything is changed. The change \
lasts until the next `seta upgrade`, which writes what the values say; set a value with `seta \
upgrade --set` to keep it.";

/// Flags of `seta config`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do with the configuration.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Show every key
    View,
    /// Set a key and restart the agents
    Set {
        /// The key, such as debug
        key: String,
        /// Its value
        value: String,
        #[command(flatten)]
        restart: Restart,
    },
    /// Remove a key and restart the agents
    #[command(visible_alias = "unset")]
    Delete {
        /// The key
        key: String,
        #[command(flatten)]
        restart: Restart,
    },
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Restart {
    /// Restart the pods of agent and operator, so that they read the change
    #[arg(short, long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    restart: bool,
}

/// Runs `seta config`.
pub(crate) async fn run(global: &Global, command: Command) -> anyhow::Result<ExitCode> {
    let cluster = cluster::connect(global).await?;
    let maps = Api::<ConfigMap>::namespaced(cluster.client.clone(), &cluster.namespace);
    let config = maps.get_opt(CONFIG).await.told("reading the configuration")?;
    let config = config
        .ok_or_else(|| {
            anyhow!(
                "there is no ConfigMap {CONFIG} in namespace {}; is Seta installed? (`seta install`)",
                cluster.namespace
            )
        })?
        .data
        .unwrap_or_default();
    let (key, value, restart) = match command {
        Command::View => {
            output(&table(&config))?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Set { key, value, restart } => {
            check(&config, &key, Some(&value))?;
            step(
                "✨",
                format_args!("Patching ConfigMap {CONFIG} with {key}={value}..."),
            );
            (key, Value::String(value), restart)
        }
        Command::Delete { key, restart } => {
            if !config.contains_key(&key) {
                return Err(Failure::Usage(format!("the configuration has no key {key}")).into());
            }
            check(&config, &key, None)?;
            step(
                "✨",
                format_args!("Removing key {key} from ConfigMap {CONFIG}..."),
            );
            (key, Value::Null, restart)
        }
    };
    let patch = json!({ "data": { key: value } });
    maps.patch(CONFIG, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .told("changing the configuration")?;
    if restart.restart {
        restart_pods(&cluster).await?;
        step("♻️ ", "Restarted Cilium pods");
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses what the agent would refuse, and what it would not know.
fn check(config: &BTreeMap<String, String>, key: &str, value: Option<&str>) -> Result<(), Failure> {
    let mut changed = config.clone();
    match value {
        Some(value) => changed.insert(key.to_owned(), value.to_owned()),
        None => changed.remove(key),
    };
    let (_, warnings) = AgentConfig::parse(&changed)
        .map_err(|problems| Failure::Usage(format!("nothing was changed: {problems}")))?;
    let Some(value) = value else { return Ok(()) };
    let refusals = Schema::of_chart().map_err(|error| Failure::Usage(error.to_string()))?;
    if let Some(why) = refusals.refusal_of_key(key, value) {
        return Err(Failure::Usage(format!(
            "nothing was changed: {key}={value} is not possible: {why}"
        )));
    }
    for warning in warnings {
        match warning {
            Warning::Unknown {
                key: unknown,
                nearest,
            } if unknown == key => {
                let known = config.keys().cloned().collect();
                let nearest = nearest
                    .map(str::to_owned)
                    .or_else(|| schema::nearest(key, &known));
                let suggestion = nearest
                    .map(|nearest| format!("; did you mean {nearest}?"))
                    .unwrap_or_default();
                return Err(Failure::Usage(format!(
                    "nothing was changed: there is no key {key}{suggestion}"
                )));
            }
            Warning::NotInEffect {
                key: idle,
                consequence,
            } if idle == key => {
                step(
                    "⚠️ ",
                    format_args!("{key} is accepted and not active yet: {consequence}"),
                );
            }
            Warning::Unknown { .. } | Warning::NotInEffect { .. } => {}
        }
    }
    Ok(())
}

/// Deletes the pods of agents and operators; their controllers make new ones, which read the change. A restart of an
/// agent interrupts no connection.
pub(crate) async fn restart_pods(cluster: &Cluster) -> anyhow::Result<()> {
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), &cluster.namespace);
    for label in ["k8s-app=cilium", "io.cilium/app=operator"] {
        for pod in pods
            .list(&ListParams::default().labels(label))
            .await
            .told("listing the pods to restart")?
        {
            let name = pod.metadata.name.unwrap_or_default();
            match pods.delete(&name, &DeleteParams::default()).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    return Err(error).told(&format!(
                        "the configuration was changed, but pod {name} could not be restarted"
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Keys and values in two columns, as the cilium CLI prints them.
fn table(config: &BTreeMap<String, String>) -> String {
    let width = config
        .keys()
        .map(|key| key.chars().count())
        .max()
        .unwrap_or_default()
        + 4;
    config
        .iter()
        .map(|(key, value)| format!("{key:<width$}{value}").trim_end().to_owned() + "\n")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart;

    fn config() -> BTreeMap<String, String> {
        let values = chart::default_values().expect("values.yaml is YAML");
        let release = chart::Release {
            namespace: "kube-system",
            revision: 1,
        };
        chart::config(&chart::render(&values, release).expect("the chart renders"))
    }

    #[test]
    fn keys_stand_in_columns() {
        let config = BTreeMap::from([
            ("debug".into(), "true".into()),
            ("enable-ipv6-big-tcp".into(), "false".into()),
        ]);
        assert_eq!(
            table(&config),
            "debug                  true\nenable-ipv6-big-tcp    false\n"
        );
        assert_eq!(table(&BTreeMap::new()), "");
    }

    #[test]
    fn the_agent_takes_what_the_chart_writes() {
        let (_, warnings) = AgentConfig::parse(&config()).expect("it is accepted");
        let unknown: Vec<_> = warnings
            .iter()
            .filter(|warning| matches!(warning, Warning::Unknown { .. }))
            .collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn changes_are_checked_before_they_are_made() {
        let rows = [
            ("debug", "true", None),
            ("monitor-aggregation", "none", None),
            ("kube-proxy-replacement", "true", None),
            ("debug", "perhaps", Some("debug=\"perhaps\"")),
            ("enable-ipv4", "true", Some("IPv4 is not implemented yet")),
            ("enable-ipv6-big-tcp", "true", Some("BIG TCP comes with issue 6")),
            ("enable-hubble", "true", Some("issue 4")),
            (
                "debgu",
                "true",
                Some("there is no key debgu; did you mean debug?"),
            ),
            ("qqqqqqqq", "1", Some("there is no key qqqqqqqq")),
        ];
        for (key, value, expected) in rows {
            let outcome = check(&config(), key, Some(value)).map_err(|failure| failure.to_string());
            match (outcome, expected) {
                (Ok(()), None) => {}
                (Err(message), Some(expected)) => {
                    assert!(message.contains(expected), "{key}={value}: {message}");
                }
                (outcome, expected) => panic!("{key}={value}: {outcome:?}, not {expected:?}"),
            }
        }
    }
}
