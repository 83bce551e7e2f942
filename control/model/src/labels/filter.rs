//! Which labels make an identity (Cilium `pkg/labelsfilter`, `identity-relevant-labels.rst`).
//!
//! A rule is `[source:][!]pattern`; the pattern is a regular expression that has to match at the start of the key. Of
//! the including rules the longest match counts, of the excluding ones the shortest; the label stays when the former
//! is longer. A label that no rule matches stays, unless the user gave an including rule of his own: then only what is
//! included stays.

use regex::Regex;

use super::{Label, Labels};

/// The rules that always hold.
const DEFAULT_RULES: [&str; 21] = [
    r"reserved:.*",
    r"io\.kubernetes\.pod\.namespace",
    r"io\.cilium\.k8s\.namespace\.labels",
    r"app\.kubernetes\.io",
    r"io\.cilium\.k8s\.policy\.cluster",
    r"io\.cilium\.k8s\.policy\.serviceaccount",
    r"!io\.kubernetes",
    r"!kubernetes\.io",
    r"!statefulset\.kubernetes\.io/pod-name",
    r"!apps\.kubernetes\.io/pod-index",
    r"!batch\.kubernetes\.io/job-completion-index",
    r"!batch\.kubernetes\.io/controller-uid",
    r"!.*beta\.kubernetes\.io",
    r"!k8s\.io",
    r"!pod-template-generation",
    r"!pod-template-hash",
    r"!controller-revision-hash",
    r"!controller-uid",
    r"!annotation.*",
    r"!etcd_node",
    r"!topology\.kubernetes\.io",
];

/// The value of the `labels` key cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FilterError {
    /// A rule without a pattern.
    #[error("{rule:?} has no pattern")]
    Empty {
        /// The rule.
        rule: String,
    },
    /// A pattern that is no regular expression.
    #[error("{rule:?} is not a regular expression")]
    Pattern {
        /// The rule.
        rule: String,
        /// What is wrong with it.
        #[source]
        source: regex::Error,
    },
}

#[derive(Clone, Debug)]
struct Rule {
    exclude: bool,
    source: Option<String>,
    pattern: Regex,
}

impl Rule {
    fn parse(text: &str) -> Result<Self, FilterError> {
        let (source, pattern) = match text.split_once(':') {
            Some((source, pattern)) => (Some(source).filter(|source| !source.is_empty()), pattern),
            None => (None, text),
        };
        let (exclude, pattern) = match pattern.strip_prefix('!') {
            Some(pattern) => (true, pattern),
            None => (false, pattern),
        };
        if pattern.is_empty() {
            return Err(FilterError::Empty {
                rule: text.to_owned(),
            });
        }
        let pattern = Regex::new(pattern).map_err(|source| FilterError::Pattern {
            rule: text.to_owned(),
            source,
        })?;
        Ok(Self {
            exclude,
            source: source.map(str::to_owned),
            pattern,
        })
    }

    /// Length of the match at the start of the key.
    fn matches(&self, source: &str, key: &str) -> Option<usize> {
        if self.source.as_deref().is_some_and(|wanted| wanted != source) {
            return None;
        }
        self.pattern
            .find(key)
            .filter(|found| found.start() == 0)
            .map(|found| found.end())
    }
}

/// Decides which labels make an identity.
#[derive(Clone, Debug)]
pub struct LabelFilter {
    rules: Vec<Rule>,
    only_included: bool,
}

impl LabelFilter {
    /// The default rules and those of the `labels` key, which are separated by white space.
    ///
    /// # Errors
    /// When a rule has no pattern or one that is no regular expression.
    pub fn new(custom: &str) -> Result<Self, FilterError> {
        let mut rules = DEFAULT_RULES
            .iter()
            .map(|rule| Rule::parse(rule))
            .collect::<Result<Vec<_>, _>>()?;
        let custom = custom
            .split_whitespace()
            .map(Rule::parse)
            .collect::<Result<Vec<_>, _>>()?;
        let only_included = custom.iter().any(|rule| !rule.exclude);
        rules.extend(custom);
        Ok(Self { rules, only_included })
    }

    /// Whether a label is part of the identity.
    #[must_use]
    pub fn admits(&self, label: &Label) -> bool {
        self.admits_key(&label.source, &label.key)
    }

    /// Removes what is not part of the identity.
    #[must_use]
    pub fn apply(&self, mut labels: Labels) -> Labels {
        labels.retain(|source, key| self.admits_key(source, key));
        labels
    }

    fn admits_key(&self, source: &str, key: &str) -> bool {
        let lengths = |exclude| {
            self.rules
                .iter()
                .filter(move |rule| rule.exclude == exclude)
                .filter_map(|rule| rule.matches(source, key))
        };
        let included = lengths(false).max();
        let excluded = lengths(true).min();
        match (included, excluded) {
            (Some(included), Some(excluded)) => included > excluded,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => !self.only_included,
        }
    }
}
