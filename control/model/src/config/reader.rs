//! Reads keys one by one and remembers what was wrong and what was never asked for.

use std::fmt;
use std::str::FromStr;

use super::{BTreeMap, BTreeSet, LabelFilter, known, values};

/// A key whose value cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}={value:?}: {reason} (allowed: {allowed})")]
pub struct Problem {
    /// The key.
    pub key: String,
    /// Its value; empty when the key is missing.
    pub value: String,
    /// What would be accepted.
    pub allowed: String,
    /// Why this is not.
    pub reason: String,
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of the cilium-config keys cannot be used:", self.0.len())?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for Problems {}

/// A key that has no effect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Warning {
    /// Nobody knows the key.
    Unknown {
        /// The key.
        key: String,
        /// A known key that is spelt nearly the same.
        nearest: Option<&'static str>,
    },
    /// The key is Cilium's, but nothing here depends on it yet.
    NotInEffect {
        /// The key.
        key: String,
        /// What follows from that.
        consequence: &'static str,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown {
                key,
                nearest: Some(nearest),
            } => write!(f, "unknown key {key} (did you mean {nearest}?)"),
            Self::Unknown { key, nearest: None } => write!(f, "unknown key {key}"),
            Self::NotInEffect { key, consequence } => write!(f, "{key} is not in effect: {consequence}"),
        }
    }
}

/// A value parser's complaint: what is allowed, and what is wrong.
pub(super) struct Refusal {
    pub(super) allowed: &'static str,
    pub(super) reason: String,
}

pub(super) struct Reader<'a> {
    map: &'a BTreeMap<String, String>,
    asked: BTreeSet<&'static str>,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(map: &'a BTreeMap<String, String>) -> Self {
        Self {
            map,
            asked: BTreeSet::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The trimmed value of a key; an empty one is as good as none.
    pub(super) fn value(&mut self, key: &'static str) -> Option<&'a str> {
        self.asked.insert(key);
        self.map
            .get(key)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.value(key).map(str::to_owned)
    }

    pub(super) fn bool(&mut self, key: &'static str, default: bool) -> bool {
        self.with(key, values::boolean, default)
    }

    pub(super) fn parsed<T: FromStr<Err: fmt::Display>>(
        &mut self,
        key: &'static str,
        allowed: &'static str,
        default: T,
    ) -> T {
        self.optional(key, allowed).unwrap_or(default)
    }

    pub(super) fn optional<T: FromStr<Err: fmt::Display>>(
        &mut self,
        key: &'static str,
        allowed: &'static str,
    ) -> Option<T> {
        let parse = |text: &str| {
            text.parse().map(Some).map_err(|error: T::Err| Refusal {
                allowed,
                reason: error.to_string(),
            })
        };
        self.with(key, parse, None)
    }

    /// Parses the value with `parse`; a missing or bad one gives `default`, and a bad one a problem as well.
    pub(super) fn with<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Refusal>,
        default: T,
    ) -> T {
        let Some(value) = self.value(key) else {
            return default;
        };
        match parse(value) {
            Ok(parsed) => parsed,
            Err(Refusal { allowed, reason }) => {
                self.refuse(key, allowed, &reason);
                default
            }
        }
    }

    pub(super) fn labels(&mut self, key: &'static str) -> Option<LabelFilter> {
        let custom = self.value(key).unwrap_or_default();
        match LabelFilter::new(custom) {
            Ok(filter) => Some(filter),
            Err(error) => {
                self.refuse(
                    key,
                    "white-space separated [source:][!]pattern",
                    &error.to_string(),
                );
                // The problem is noted: the default filter only stands in until all problems are reported.
                LabelFilter::new("").ok()
            }
        }
    }

    pub(super) fn refuse(&mut self, key: &str, allowed: &str, reason: &str) {
        let value = self.map.get(key).cloned().unwrap_or_default();
        self.problems.push(Problem {
            key: key.to_owned(),
            value,
            allowed: allowed.to_owned(),
            reason: reason.to_owned(),
        });
    }

    pub(super) fn no_effect(&mut self, key: &str, consequence: &'static str) {
        self.warnings.push(Warning::NotInEffect {
            key: key.to_owned(),
            consequence,
        });
    }

    pub(super) fn raw(&self) -> BTreeMap<String, String> {
        self.map.clone()
    }

    /// The configuration, unless there was a problem.
    pub(super) fn finish<T>(mut self, config: Option<T>) -> Result<(T, Vec<Warning>), Problems> {
        for key in self.map.keys() {
            if !self.asked.contains(key.as_str()) && !known::is_known(key) {
                let candidates = self.asked.iter().copied().chain(known::names());
                self.warnings.push(Warning::Unknown {
                    key: key.clone(),
                    nearest: known::nearest(key, candidates),
                });
            }
        }
        self.warnings.sort();
        match config {
            Some(config) if self.problems.is_empty() => Ok((config, self.warnings)),
            _ => Err(Problems(self.problems)),
        }
    }
}
