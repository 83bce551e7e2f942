//! The part of kubectl's JSONPath that scripts around Cilium use: `{.a.b}`, `{$.a['b-c']}`, `{.list[0]}`,
//! `{.list[*].x}`, and text around the braces.

use std::str::FromStr;

use anyhow::{Context, bail};
use serde_json::Value;

/// A template: text and paths in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JsonPath(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Path(Vec<Step>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
    All,
}

impl FromStr for JsonPath {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (path, behind) = after.split_once('}').context("a brace is not closed")?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(parse_path(path.trim())?);
            rest = behind;
        }
        if !rest.is_empty() {
            // As kubectl does: a path without braces is a path.
            parts.push(if parts.is_empty() {
                parse_path(rest)?
            } else {
                Part::Text(rest.to_owned())
            });
        }
        Ok(Self(parts))
    }
}

fn parse_path(text: &str) -> anyhow::Result<Part> {
    if let Some(quoted) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        return Ok(Part::Text(quoted.replace("\\n", "\n").replace("\\t", "\t")));
    }
    let mut rest = text.strip_prefix('$').unwrap_or(text);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let (index, behind) = inside.split_once(']').context("a bracket is not closed")?;
            let key = index
                .strip_prefix('\'')
                .and_then(|index| index.strip_suffix('\''));
            steps.push(match (key, index) {
                (Some(key), _) => Step::Key(key.to_owned()),
                (None, "*") => Step::All,
                (None, index) => Step::Index(index.parse().with_context(|| format!("index {index:?}"))?),
            });
            rest = behind;
        } else {
            let path = rest.strip_prefix('.').unwrap_or(rest);
            let end = path.find(['.', '[']).unwrap_or(path.len());
            let (key, behind) = path.split_at(end);
            match key {
                "" if behind.is_empty() && steps.is_empty() => {}
                "" if behind.starts_with('[') => {}
                "" => bail!("{text:?} has an empty name"),
                "*" => steps.push(Step::All),
                key if key.contains([' ', '(', '?', '@']) => {
                    bail!("{text:?} is more JSONPath than is spoken here")
                }
                key => steps.push(Step::Key(key.to_owned())),
            }
            rest = behind;
        }
    }
    Ok(Part::Path(steps))
}

impl JsonPath {
    /// The text that the template makes of `value`. A name that does not exist adds nothing, as in kubectl and
    /// cilium-dbg; an element that does not exist is an error.
    pub(crate) fn apply(&self, value: &Value) -> anyhow::Result<String> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Path(steps) => {
                    let found = steps
                        .iter()
                        .try_fold(vec![value], |values, step| walk(values, step))?;
                    text.push_str(&found.into_iter().map(render).collect::<Vec<_>>().join(" "));
                }
            }
        }
        Ok(text)
    }
}

fn walk<'a>(values: Vec<&'a Value>, step: &Step) -> anyhow::Result<Vec<&'a Value>> {
    let mut found = Vec::new();
    for value in values {
        match step {
            Step::Key(key) => found.extend(value.get(key)),
            Step::Index(index) => found.push(
                value
                    .get(index)
                    .with_context(|| format!("there is no element {index}"))?,
            ),
            Step::All => match value {
                Value::Array(elements) => found.extend(elements),
                Value::Object(members) => found.extend(members.values()),
                _ => bail!("[*] of something that is neither list nor object"),
            },
        }
    }
    Ok(found)
}

fn render(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_find_what_kubectl_finds() {
        let value = json!({
            "Daemon": { "Version": "1.2" }, "a-b": 7, "list": [ { "id": 1 }, { "id": 2 } ], "empty": [],
        });
        for (path, expected) in [
            ("{$.Daemon.Version}", "1.2"),
            ("{.Daemon.Version}", "1.2"),
            (".Daemon.Version", "1.2"),
            ("{.a-b}", "7"),
            ("{['a-b']}", "7"),
            ("{.list[1].id}", "2"),
            ("{.list[*].id}", "1 2"),
            ("v{.Daemon.Version}!{\"\\n\"}", "v1.2!\n"),
            ("{.Daemon}", r#"{"Version":"1.2"}"#),
            ("{.empty[*].id}", ""),
            ("{.nobody}", ""),
            ("{.nobody.at.home}", ""),
            ("{.list[*].nobody}", ""),
        ] {
            let template: JsonPath = path.parse().expect(path);
            assert_eq!(template.apply(&value).expect(path), expected, "{path}");
        }
        for missing in ["{.list[7]}", "{.a-b[*]}"] {
            let template: JsonPath = missing.parse().expect(missing);
            assert!(template.apply(&value).is_err(), "{missing}");
        }
        for bad in ["{", "{.a..b}", "{.a[x]}", "{.a[?(@.b)]}", "{range .a}"] {
            assert!(bad.parse::<JsonPath>().is_err(), "{bad}");
        }
    }
}
