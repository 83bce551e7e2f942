//! Values against `values.schema.json` of the chart: what they may be, what is not possible yet, what changes
//! nothing yet.
//!
//! The schema is JSON Schema as far as Helm needs it, and this reads as much of it as the chart's schema uses; a test
//! holds the file to that. Helm enforces the same rules with its own validator.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::Value;
use thiserror::Error;

use crate::chart::VALUES_SCHEMA;

/// Words of JSON Schema, and our own, that [`Schema::check`] understands.
#[cfg(test)]
pub const WORDS: [&str; 18] = [
    "$schema",
    "$comment",
    "title",
    "type",
    "properties",
    "additionalProperties",
    "items",
    "enum",
    "anyOf",
    "not",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "x-seta-refusal",
    "x-seta-key",
    "x-seta-inactive",
];

/// Why a value cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Problem {
    /// Nobody knows this name.
    #[error("{path}: there is no such value{}", suggestion.as_ref().map_or(String::new(), |name| format!("; did you mean {name}?")))]
    Unknown {
        /// The path that was given.
        path: String,
        /// The nearest one that exists.
        suggestion: Option<String>,
    },
    /// It has a meaning in Cilium that we do not have (yet).
    #[error("{path}={value} is not possible: {why}")]
    Refused {
        /// Its path.
        path: String,
        /// What was given.
        value: String,
        /// Why not, and what to use instead.
        why: String,
    },
    /// It is of the wrong kind.
    #[error("{path}={value} is not possible: {expected}")]
    Invalid {
        /// Its path.
        path: String,
        /// What was given.
        value: String,
        /// What it may be.
        expected: String,
    },
}

/// A value that is accepted, and written to `cilium-config`, but changes nothing yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inactive {
    /// Path of the value.
    pub path: String,
    /// The key of `cilium-config` it becomes.
    pub key: String,
    /// What the key contains when the feature is asked for.
    pub when: String,
    /// What that means for the user.
    pub text: String,
}

/// The schema of the chart.
#[derive(Clone, Debug)]
pub struct Schema(Value);

impl Schema {
    /// Reads the embedded schema.
    pub fn of_chart() -> Result<Self, serde_json::Error> {
        serde_json::from_str(VALUES_SCHEMA).map(Self)
    }

    /// Everything that is wrong with the values, in the order of their paths.
    pub fn check(&self, values: &Value) -> Vec<Problem> {
        let mut problems = Vec::new();
        check(&self.0, values, "", None, &mut problems);
        for problem in &mut problems {
            if let Problem::Unknown { path, suggestion } = problem {
                *suggestion = nearest(path, &self.paths());
            }
        }
        problems
    }

    /// What is accepted but not active yet: all of the table.
    pub fn inactive(&self) -> Vec<Inactive> {
        let mut found = Vec::new();
        walk(&self.0, "", &mut |path, schema| {
            let mark = &schema["x-seta-inactive"];
            if let (Some(key), Some(text)) = (mark["key"].as_str(), mark["text"].as_str()) {
                found.push(Inactive {
                    path: path.to_owned(),
                    key: key.to_owned(),
                    when: plain(&mark["when"]),
                    text: text.to_owned(),
                });
            }
        });
        found
    }

    /// Why a key of `cilium-config` cannot have a value, where the value that becomes this key could not either.
    pub fn refusal_of_key(&self, key: &str, text: &str) -> Option<String> {
        let mut refusal = None;
        walk(&self.0, "", &mut |_, schema| {
            if schema["x-seta-key"] == key
                && let Some(allowed) = schema["enum"].as_array()
                && !allowed.iter().any(|value| plain(value) == text)
            {
                refusal = schema["x-seta-refusal"].as_str().map(str::to_owned);
            }
        });
        refusal
    }

    /// All paths that have a name.
    pub fn paths(&self) -> BTreeSet<String> {
        let mut paths = BTreeSet::new();
        walk(&self.0, "", &mut |path, _| {
            if !path.is_empty() {
                paths.insert(path.to_owned());
            }
        });
        paths
    }
}

fn walk(schema: &Value, path: &str, visit: &mut dyn FnMut(&str, &Value)) {
    visit(path, schema);
    for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
        walk(inner, &join(path, key), visit);
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// `why` is the refusal of the nearest enclosing object that has one.
fn check(schema: &Value, value: &Value, path: &str, why: Option<&str>, problems: &mut Vec<Problem>) {
    let why = schema["x-seta-refusal"].as_str().or(why);
    let refuse = |expected: String| match schema["x-seta-refusal"].as_str() {
        Some(why) => Problem::Refused {
            path: path.to_owned(),
            value: plain(value),
            why: why.to_owned(),
        },
        None => Problem::Invalid {
            path: path.to_owned(),
            value: plain(value),
            expected,
        },
    };
    let types = types(schema);
    if !types.is_empty() && !types.iter().any(|name| is_type(name, value)) {
        problems.push(Problem::Invalid {
            path: path.to_owned(),
            value: plain(value),
            expected: format!(
                "it must be {}",
                types
                    .iter()
                    .map(|name| article(name))
                    .collect::<Vec<_>>()
                    .join(" or ")
            ),
        });
        return;
    }
    if schema.get("not").is_some() {
        problems.push(refuse("it has no value that is possible".to_owned()));
        return;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let allowed: Vec<_> = allowed.iter().map(plain).collect();
        problems.push(refuse(format!("it must be one of: {}", allowed.join(", "))));
        return;
    }
    match value {
        Value::Object(object) => check_object(schema, object, path, why, problems),
        Value::Array(list) => {
            for (index, item) in list.iter().enumerate() {
                check(&schema["items"], item, &format!("{path}[{index}]"), why, problems);
            }
        }
        Value::String(text) => {
            if let Some(expected) = wrong_text(schema, text) {
                problems.push(refuse(expected));
            }
        }
        Value::Number(number) => {
            if let Some(expected) = wrong_number(schema, number.as_f64().unwrap_or(f64::NAN)) {
                problems.push(refuse(format!("it must be {expected}")));
            }
        }
        Value::Bool(_) | Value::Null => {}
    }
}

fn check_object(
    schema: &Value,
    object: &serde_json::Map<String, Value>,
    path: &str,
    why: Option<&str>,
    problems: &mut Vec<Problem>,
) {
    for (key, inner) in object {
        let inner_path = join(path, key);
        match (schema["properties"].get(key), schema.get("additionalProperties")) {
            (Some(inner_schema), _) => check(inner_schema, inner, &inner_path, why, problems),
            // Without the word, and with `true`, everything is allowed.
            (None, None | Some(Value::Bool(true))) => {}
            (None, Some(Value::Bool(false))) => problems.push(match why {
                // The whole section is not there: its name is known, whatever stands in it.
                Some(why) => Problem::Refused {
                    path: inner_path,
                    value: plain(inner),
                    why: why.to_owned(),
                },
                None => Problem::Unknown {
                    path: inner_path,
                    suggestion: None,
                },
            }),
            (None, Some(any)) => check(any, inner, &inner_path, why, problems),
        }
    }
}

/// What a number must be and is not. Of `anyOf`, one schema has to be met.
fn wrong_number(schema: &Value, number: f64) -> Option<String> {
    if let Some(choices) = schema["anyOf"].as_array() {
        let wrong: Option<Vec<String>> = choices
            .iter()
            .map(|choice| wrong_number(choice, number))
            .collect();
        return Some(wrong?.join(" or "));
    }
    if let Some(allowed) = schema["enum"].as_array() {
        let is_one = allowed.iter().any(|value| value.as_f64() == Some(number));
        return (!is_one).then(|| allowed.iter().map(plain).collect::<Vec<_>>().join(", "));
    }
    let low = schema["minimum"].as_f64().unwrap_or(f64::MIN);
    let high = schema["maximum"].as_f64().unwrap_or(f64::MAX);
    (number < low || number > high).then(|| {
        format!(
            "from {} to {}",
            plain(&schema["minimum"]),
            plain(&schema["maximum"])
        )
    })
}

fn wrong_text(schema: &Value, text: &str) -> Option<String> {
    let length = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
    if schema["minLength"].as_u64().is_some_and(|least| length < least) {
        return Some("it must not be empty".to_owned());
    }
    if let Some(most) = schema["maxLength"].as_u64().filter(|most| length > *most) {
        return Some(format!("it must not be longer than {most} characters"));
    }
    let pattern = schema["pattern"].as_str()?;
    // A pattern that is no regular expression cannot refuse; a test holds the chart's schema to valid ones.
    let matches = Regex::new(pattern).map_or(true, |pattern| pattern.is_match(text));
    (!matches).then(|| format!("it must match {pattern}"))
}

fn types(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn is_type(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
        }
        "number" => value.is_number(),
        "null" => value.is_null(),
        _ => false,
    }
}

fn article(name: &str) -> String {
    match name {
        "boolean" => "true or false".to_owned(),
        "integer" | "object" | "array" => format!("an {name}"),
        other => format!("a {other}"),
    }
}

/// A value as the user wrote it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The path nearest to one that does not exist, if any is near enough to be meant.
pub fn nearest(path: &str, known: &BTreeSet<String>) -> Option<String> {
    let lower = path.to_lowercase();
    let (parent, _) = lower.rsplit_once('.').unwrap_or_default();
    known
        .iter()
        .map(|candidate| {
            let other = candidate.to_lowercase();
            // Siblings are likelier than strangers, and a name that contains the other is likelier than chance.
            let stranger = usize::from(other.rsplit_once('.').unwrap_or_default().0 != parent);
            (
                strsim::damerau_levenshtein(&lower, &other) * 2 + stranger,
                candidate,
            )
        })
        .min()
        .filter(|(distance, candidate)| distance / 2 <= (candidate.len().max(path.len()) / 3).clamp(1, 6))
        .map(|(_, candidate)| candidate.clone())
}

#[cfg(test)]
mod tests;
