//! Metrics, under the names that Cilium's operator has where it has them.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What is collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Kind {
    /// CiliumIdentity.
    Identity,
    /// CiliumEndpoint.
    Endpoint,
    /// CiliumNode.
    Node,
}

/// What came of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Outcome {
    /// It was done.
    Done,
    /// It failed.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RunLabels {
    kind: Kind,
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: Kind,
}

/// All metrics.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// 1 when this replica is the leader.
    pub(crate) leading: Gauge<i64, AtomicI64>,
    /// 1 when the definitions are registered.
    pub(crate) crds_registered: Gauge<i64, AtomicI64>,
    /// CiliumIdentities at the last look.
    pub(crate) identities: Gauge<i64, AtomicI64>,
    runs: Family<RunLabels, Counter>,
    deletions: Family<KindLabels, Counter>,
}

impl Metrics {
    /// Counts a look.
    pub(crate) fn run(&self, kind: Kind, outcome: Outcome) {
        self.runs.get_or_create(&RunLabels { kind, outcome }).inc();
    }

    /// Counts a removed object.
    pub(crate) fn deleted(&self, kind: Kind) {
        self.deletions.get_or_create(&KindLabels { kind }).inc();
    }

    /// The metrics as text for Prometheus.
    ///
    /// # Errors
    /// When one cannot be written as text.
    pub(crate) fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("cilium_operator");
        let Self {
            leading,
            crds_registered,
            identities,
            runs,
            deletions,
        } = self;
        registry.register("leading", "Whether this replica is the leader", leading.clone());
        registry.register(
            "crds_registered",
            "Whether the definitions are registered",
            crds_registered.clone(),
        );
        registry.register(
            "identities",
            "CiliumIdentities at the last look",
            identities.clone(),
        );
        registry.register("gc_runs", "Looks for objects that nobody uses", runs.clone());
        registry.register(
            "gc_deletions",
            "Objects removed because nobody used them",
            deletions.clone(),
        );
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_print_as_prometheus_reads_them() {
        let metrics = Metrics::default();
        metrics.leading.set(1);
        metrics.run(Kind::Identity, Outcome::Failed);
        metrics.deleted(Kind::Node);
        let text = metrics.encode().unwrap();
        for line in [
            "cilium_operator_leading 1",
            "cilium_operator_gc_runs_total{kind=\"Identity\",outcome=\"Failed\"} 1",
            "cilium_operator_gc_deletions_total{kind=\"Node\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in:\n{text}");
        }
    }
}
