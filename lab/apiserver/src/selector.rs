//! Label and field selectors in their text form.

use serde_json::Value;

use crate::status::Status;

#[cfg(test)]
mod tests;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    NotExists,
    Greater,
    Less,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

/// Conditions on `metadata.labels`; all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LabelSelector(Vec<Requirement>);

impl LabelSelector {
    /// Reads `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.
    pub(crate) fn parse(text: &str) -> Result<Self, Status> {
        split(text)
            .map(|part| requirement(part.trim()))
            .collect::<Option<Vec<_>>>()
            .map(Self)
            .ok_or_else(|| {
                Status::bad_request(format!(
                    "unable to parse requirement: invalid label selector {text:?}"
                ))
            })
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.matches_labels(&object["metadata"]["labels"])
    }

    pub(crate) fn matches_labels(&self, labels: &Value) -> bool {
        self.0.iter().all(|r| r.holds(labels[r.key.as_str()].as_str()))
    }
}

/// Splits at commas outside of parentheses, without empty parts.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .filter(|part| !part.trim().is_empty())
}

fn requirement(part: &str) -> Option<Requirement> {
    let make = |key: &str, operator, values: Vec<String>| {
        let key = key.trim();
        let good = !key.is_empty()
            && key
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
        good.then(|| Requirement {
            key: key.into(),
            operator,
            values,
        })
    };
    if let Some((head, list)) = part.split_once('(') {
        let list = list.trim().strip_suffix(')')?;
        let values = list.split(',').map(|v| v.trim().to_owned()).collect();
        let mut words = head.split_whitespace();
        let (key, operator) = (words.next()?, words.next()?);
        return match (operator, words.next()) {
            ("in", None) => make(key, Operator::In, values),
            ("notin", None) => make(key, Operator::NotIn, values),
            _ => None,
        };
    }
    let value = |v: &str| vec![v.trim().to_owned()];
    if let Some((key, v)) = part.split_once("!=") {
        return make(key, Operator::NotIn, value(v));
    }
    if let Some((key, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return make(key, Operator::In, value(v));
    }
    if let Some((key, v)) = part.split_once('>') {
        return make(key, Operator::Greater, value(v));
    }
    if let Some((key, v)) = part.split_once('<') {
        return make(key, Operator::Less, value(v));
    }
    match part.strip_prefix('!') {
        Some(key) => make(key, Operator::NotExists, Vec::new()),
        None => make(part, Operator::Exists, Vec::new()),
    }
}

impl Requirement {
    fn holds(&self, label: Option<&str>) -> bool {
        let number = |text: &str| text.parse::<i64>().ok();
        let bound = self.values.first().and_then(|v| number(v));
        match self.operator {
            Operator::In => label.is_some_and(|l| self.values.iter().any(|v| v == l)),
            Operator::NotIn => label.is_none_or(|l| self.values.iter().all(|v| v != l)),
            Operator::Exists => label.is_some(),
            Operator::NotExists => label.is_none(),
            Operator::Greater => label.and_then(number).zip(bound).is_some_and(|(l, b)| l > b),
            Operator::Less => label.and_then(number).zip(bound).is_some_and(|(l, b)| l < b),
        }
    }
}

/// Conditions on fields; which fields can be asked for depends on the kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSelector(Vec<(Vec<String>, bool, String)>);

impl FieldSelector {
    /// Reads `spec.nodeName=a,status.phase!=b`. `supported` are the kind's own fields; every kind has
    /// `metadata.name` and `metadata.namespace`.
    pub(crate) fn parse(text: &str, supported: &[&str]) -> Result<Self, Status> {
        let mut out = Vec::new();
        for part in text.split(',').filter(|p| !p.trim().is_empty()) {
            let (key, equal, value) = if let Some((key, value)) = part.split_once("!=") {
                (key, false, value)
            } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (key, true, value)
            } else {
                return Err(Status::bad_request(format!(
                    "invalid field selector: {part:?}; can't understand it"
                )));
            };
            let key = key.trim();
            if !["metadata.name", "metadata.namespace"].contains(&key) && !supported.contains(&key) {
                return Err(Status::bad_request(format!("field label not supported: {key}")));
            }
            out.push((
                key.split('.').map(str::to_owned).collect(),
                equal,
                value.trim().to_owned(),
            ));
        }
        Ok(Self(out))
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(path, equal, wanted)| {
            let value = path.iter().fold(object, |v, step| &v[step.as_str()]);
            let is = match value {
                Value::Null => {
                    wanted.is_empty()
                        || wanted == "false" && path.last().is_some_and(|p| p == "unschedulable")
                }
                Value::String(text) => text == wanted,
                other => crate::object::plain_text(other) == *wanted,
            };
            is == *equal
        })
    }
}
