//! Labels with their source (`source:key=value`), and the filter that decides which of them make an identity.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::inputs::{Namespace, Pod};

mod filter;

pub use filter::{FilterError, LabelFilter};

/// Source of labels that come from Kubernetes objects.
pub const K8S: &str = "k8s";
/// Source of labels with a fixed meaning, such as `reserved:host`.
pub const RESERVED: &str = "reserved";
/// Source of a label for which none is given.
pub const UNSPEC: &str = "unspec";

/// Key of the pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Prefix of the labels of the pod's namespace.
pub const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels";
/// Key of the cluster's name.
pub const POLICY_CLUSTER: &str = "io.cilium.k8s.policy.cluster";
/// Key of the pod's service account.
pub const POLICY_SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";

/// One label. Ordered by source, then key, then value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// Where it comes from: `k8s`, `reserved`, `cidr`, …
    pub source: String,
    /// Key, without the source.
    pub key: String,
    /// Value; may be empty.
    pub value: String,
}

impl Label {
    /// A label of the given source.
    pub fn new(source: impl Into<String>, key: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            key: key.into(),
            value: value.into(),
        }
    }

    /// A label of a Kubernetes object.
    pub fn k8s(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self::new(K8S, key, value)
    }

    /// A reserved label, such as `reserved:host`.
    pub fn reserved(name: impl Into<String>) -> Self {
        Self::new(RESERVED, name, "")
    }

    /// Parses `source:key=value`. Without a source it is `unspec`, without `=` the value is empty; a colon behind the
    /// first `=` belongs to the value. Every text is a label.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        match name.split_once(':') {
            Some((source, key)) if !source.is_empty() => Self::new(source, key, value),
            Some((_, key)) => Self::new(UNSPEC, key, value),
            None => Self::new(UNSPEC, name, value),
        }
    }
}

impl FromStr for Label {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::parse(text))
    }
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { source, key, value } = self;
        if value.is_empty() {
            write!(f, "{source}:{key}")
        } else {
            write!(f, "{source}:{key}={value}")
        }
    }
}

/// A set of labels with one value per source and key, in canonical (sorted) order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "Vec<String>", from = "Vec<String>")]
pub struct Labels(BTreeMap<(String, String), String>);

impl Labels {
    /// Parses `source:key=value` texts; of several with the same source and key the last one counts.
    pub fn parse<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Self {
        texts
            .into_iter()
            .map(|text| Label::parse(text.as_ref()))
            .collect()
    }

    /// The labels that make a pod's identity: those of the pod, of its namespace (with the prefix
    /// [`NAMESPACE_LABELS`]), its namespace's name, its service account and the cluster, as far as the filter admits.
    #[must_use]
    pub fn of_pod(pod: &Pod, namespace: &Namespace, cluster: &str, filter: &LabelFilter) -> Self {
        // A pod cannot claim another namespace, service account or cluster by labelling itself so.
        let own = pod
            .labels
            .iter()
            .filter(|(key, _)| !is_claim(key))
            .map(|(key, value)| Label::k8s(key, value));
        let of_namespace = namespace
            .labels
            .iter()
            .map(|(key, value)| Label::k8s(format!("{NAMESPACE_LABELS}.{key}"), value));
        let mut all: Self = own.chain(of_namespace).collect();
        all.insert(Label::k8s(POD_NAMESPACE, &pod.name.namespace));
        all.insert(Label::k8s(POLICY_CLUSTER, cluster));
        if !pod.service_account.is_empty() {
            all.insert(Label::k8s(POLICY_SERVICE_ACCOUNT, &pod.service_account));
        }
        filter.apply(all)
    }

    /// Adds a label; returns the value it replaces.
    pub fn insert(&mut self, label: Label) -> Option<String> {
        self.0.insert((label.source, label.key), label.value)
    }

    /// The value of a label.
    #[must_use]
    pub fn get(&self, source: &str, key: &str) -> Option<&str> {
        self.0
            .get(&(source.to_owned(), key.to_owned()))
            .map(String::as_str)
    }

    /// Labels in canonical order.
    pub fn iter(&self) -> impl Iterator<Item = Label> + '_ {
        self.0
            .iter()
            .map(|((source, key), value)| Label::new(source, key, value))
    }

    /// How many labels there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `source:key=value`, sorted.
    #[must_use]
    pub fn to_strings(&self) -> Vec<String> {
        self.iter().map(|label| label.to_string()).collect()
    }

    /// The form of `CiliumIdentity.security-labels`: `source:key` to value.
    #[must_use]
    pub fn to_security_map(&self) -> BTreeMap<String, String> {
        self.0
            .iter()
            .map(|((source, key), value)| (format!("{source}:{key}"), value.clone()))
            .collect()
    }

    /// The inverse of [`Labels::to_security_map`].
    #[must_use]
    pub fn from_security_map(map: &BTreeMap<String, String>) -> Self {
        map.iter()
            .map(|(name, value)| {
                let (source, key) = name.split_once(':').unwrap_or((UNSPEC, name));
                Label::new(source, key, value)
            })
            .collect()
    }

    /// The pod namespace named by the labels, if there is one.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.get(K8S, POD_NAMESPACE)
    }

    fn retain(&mut self, mut keep: impl FnMut(&str, &str) -> bool) {
        self.0.retain(|(source, key), _| keep(source, key));
    }
}

/// Whether a label with this key says something about a pod that only the control plane may say.
fn is_claim(key: &str) -> bool {
    key == POD_NAMESPACE
        || key == POLICY_CLUSTER
        || key == POLICY_SERVICE_ACCOUNT
        || key.starts_with(NAMESPACE_LABELS)
}

impl FromIterator<Label> for Labels {
    fn from_iter<I: IntoIterator<Item = Label>>(labels: I) -> Self {
        Self(
            labels
                .into_iter()
                .map(|label| ((label.source, label.key), label.value))
                .collect(),
        )
    }
}

impl From<Labels> for Vec<String> {
    fn from(labels: Labels) -> Self {
        labels.to_strings()
    }
}

impl From<Vec<String>> for Labels {
    fn from(texts: Vec<String>) -> Self {
        Self::parse(texts)
    }
}

impl std::fmt::Display for Labels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.to_strings().join(","))
    }
}

#[cfg(test)]
mod tests;
