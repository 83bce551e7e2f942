//! Label selectors in the syntax of Kubernetes: `a=b`, `a!=b`, `a in (b, c)`, `a notin (b)`, `a`, `!a`, joined by commas.
//!
//! A key may name its source, `k8s:app`; without one, or with `any:`, every source will do. Labels are texts `source:key=value`.

use std::sync::Arc;

/// A selector that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// A requirement without a key.
    #[error("{0:?} has no key")]
    Key(String),
    /// Something that no requirement looks like.
    #[error("{0:?} is no requirement")]
    Requirement(String),
}

/// A compiled selector: all requirements hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    source: Option<String>,
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
}

impl Selector {
    /// Parses.
    ///
    /// # Errors
    /// [`SelectorError`] for the first requirement that is none.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        // An empty selector selects everything, as in Kubernetes.
        if text.trim().is_empty() {
            return Ok(Self(Vec::new()));
        }
        split(text).map(requirement).collect::<Result<_, _>>().map(Self)
    }

    /// Whether these labels are selected.
    #[must_use]
    pub fn matches(&self, labels: &[Arc<str>]) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &[Arc<str>]) -> bool {
        let mut values = labels.iter().filter_map(|label| self.value(label));
        match &self.operator {
            Operator::Exists => values.next().is_some(),
            Operator::Absent => values.next().is_none(),
            Operator::In(set) => values.any(|value| set.iter().any(|one| one == value)),
            Operator::NotIn(set) => !values.any(|value| set.iter().any(|one| one == value)),
        }
    }

    /// The value of the label, if it has the key.
    fn value<'a>(&self, label: &'a str) -> Option<&'a str> {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        let (source, key) = name.split_once(':').unwrap_or(("", name));
        let right = key == self.key && self.source.as_deref().is_none_or(|wanted| wanted == source);
        right.then_some(value)
    }
}

/// Requirements, separated by the commas that are in no parentheses.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0i32;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
}

fn requirement(text: &str) -> Result<Requirement, SelectorError> {
    let text = text.trim();
    let bad = || SelectorError::Requirement(text.to_owned());
    let one = |value: &str| {
        let value = value.trim();
        if value.contains(['=', '!', '(', ')', ' ']) {
            Err(bad())
        } else {
            Ok(vec![value.to_owned()])
        }
    };
    let (name, operator) = if let Some((name, value)) = text.split_once("!=") {
        (name, Operator::NotIn(one(value)?))
    } else if let Some((name, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (name, Operator::In(one(value)?))
    } else if let Some(open) = text.find('(') {
        let values = text[open..]
            .strip_prefix('(')
            .and_then(|rest| rest.strip_suffix(')'))
            .ok_or_else(bad)?;
        if values.contains(['(', ')']) {
            return Err(bad());
        }
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        let head = text[..open].trim_end();
        if let Some(name) = head.strip_suffix(" notin") {
            (name, Operator::NotIn(values))
        } else {
            (head.strip_suffix(" in").ok_or_else(bad)?, Operator::In(values))
        }
    } else if let Some(name) = text.strip_prefix('!') {
        (name, Operator::Absent)
    } else {
        (text, Operator::Exists)
    };
    let name = name.trim();
    let (source, key) = match name.split_once(':') {
        Some(("any", key)) => (None, key),
        Some((source, key)) => (Some(source.to_owned()), key),
        None => (None, name),
    };
    if key.is_empty() {
        return Err(SelectorError::Key(text.to_owned()));
    }
    if key.contains(['!', '(', ')', ' ', ':']) {
        return Err(bad());
    }
    Ok(Requirement {
        source,
        key: key.to_owned(),
        operator,
    })
}
