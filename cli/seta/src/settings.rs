//! Values as the user gives them on the command line: files, then `--set`, then `--set-string`, in Helm's order.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use crate::chart;
use crate::failure::Failure;
use crate::values::assign::{Typing, assign};
use crate::values::schema::{Inactive, Schema};
use crate::values::{self, merge};

/// Flags that set values.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Set values of the chart: a.b=c,d=e (may be repeated; names as in the Helm chart of Cilium)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Set values that are strings, whatever they look like
    #[arg(long, value_name = "KEY=VALUE")]
    set_string: Vec<String>,
    /// Read values from YAML files; `-` is standard input (may be repeated)
    #[arg(short = 'f', long, value_name = "FILE")]
    values: Vec<PathBuf>,
}

impl Settings {
    /// What the user set, and nothing else.
    pub(crate) fn read(&self) -> anyhow::Result<Value> {
        let mut user = json!({});
        for path in &self.values {
            let name = path.display();
            let text = if path.as_os_str() == "-" {
                std::io::read_to_string(std::io::stdin()).context("reading values from standard input")?
            } else {
                std::fs::read_to_string(path)
                    .map_err(|error| Failure::Usage(format!("values file {name}: {error}")))?
            };
            let values =
                values::read(&text).map_err(|error| Failure::Usage(format!("values file {name} {error}")))?;
            values::add(&mut user, values);
        }
        for (flag, texts, typing) in [
            ("--set", &self.set, Typing::Typed),
            ("--set-string", &self.set_string, Typing::Strings),
        ] {
            for text in texts {
                assign(&mut user, text, typing).map_err(|error| Failure::Usage(format!("{flag} {error}")))?;
            }
        }
        Ok(user)
    }
}

/// All values: the defaults of the chart with those of the user over them, checked.
pub(crate) fn complete(user: &Value) -> anyhow::Result<Value> {
    let mut values = chart::default_values()?;
    merge(&mut values, user.clone());
    let problems = Schema::of_chart()?.check(&values);
    if problems.is_empty() {
        return Ok(values);
    }
    let lines: Vec<_> = problems.iter().map(|problem| format!("  {problem}")).collect();
    let count = match lines.len() {
        1 => "a value".to_owned(),
        many => format!("{many} values"),
    };
    Err(Failure::Usage(format!(
        "{count} cannot be used, nothing was changed:\n{}",
        lines.join("\n")
    ))
    .into())
}

/// Those entries of the table of things not yet active that a configuration asks for.
pub(crate) fn not_active(
    config: &std::collections::BTreeMap<String, String>,
) -> anyhow::Result<Vec<Inactive>> {
    let mut entries = Schema::of_chart()?.inactive();
    entries.retain(|entry| config.get(&entry.key) == Some(&entry.when));
    Ok(entries)
}
