//! Metrics, under the names that Cilium's operator has where it has them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64};

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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabels {
    pool: String,
}

/// Of IPv6 pools the numbers are beyond integers.
type PoolGauge = Family<PoolLabels, Gauge<f64, AtomicU64>>;

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
    services_matching: Gauge<i64, AtomicI64>,
    services_unsatisfied: Gauge<i64, AtomicI64>,
    conflicting_pools: Gauge<i64, AtomicI64>,
    ips_available: PoolGauge,
    ips_used: PoolGauge,
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

    /// Says how load balancers and the pools of their addresses are: available and used ones of each.
    pub(crate) fn load_balancers(
        &self,
        services: usize,
        unsatisfied: usize,
        conflicting: usize,
        pools: &BTreeMap<&str, (u128, u128)>,
    ) {
        let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.services_matching.set(number(services));
        self.services_unsatisfied.set(number(unsatisfied));
        self.conflicting_pools.set(number(conflicting));
        // A pool that is gone has no numbers.
        self.ips_available.clear();
        self.ips_used.clear();
        for (pool, (available, used)) in pools {
            let labels = PoolLabels {
                pool: (*pool).to_owned(),
            };
            self.ips_available.get_or_create(&labels).set(*available as f64);
            self.ips_used.get_or_create(&labels).set(*used as f64);
        }
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
            services_matching,
            services_unsatisfied,
            conflicting_pools,
            ips_available,
            ips_used,
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
        registry.register(
            "lbipam_services_matching",
            "Services that want addresses from pools",
            services_matching.clone(),
        );
        registry.register(
            "lbipam_services_unsatisfied",
            "Services that did not get all addresses that they want",
            services_unsatisfied.clone(),
        );
        registry.register(
            "lbipam_conflicting_pools",
            "Pools that overlap an older one",
            conflicting_pools.clone(),
        );
        registry.register(
            "lbipam_ips_available",
            "Addresses that a pool can still give",
            ips_available.clone(),
        );
        registry.register(
            "lbipam_ips_used",
            "Addresses of a pool that Services have",
            ips_used.clone(),
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
        metrics.load_balancers(3, 1, 0, &[("gone", (1, 1))].into());
        metrics.load_balancers(3, 1, 0, &[("blue", (1 << 20, 2))].into());
        let text = metrics.encode().unwrap();
        for line in [
            "cilium_operator_leading 1",
            "cilium_operator_gc_runs_total{kind=\"Identity\",outcome=\"Failed\"} 1",
            "cilium_operator_gc_deletions_total{kind=\"Node\"} 1",
            "cilium_operator_lbipam_services_unsatisfied 1",
            "cilium_operator_lbipam_ips_available{pool=\"blue\"} 1048576.0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in:\n{text}");
        }
        assert!(!text.contains("gone"), "{text}");
    }
}
