//! Metrics under Cilium's names, measured when they are asked for; as JSON for `metrics list` and in Prometheus' text
//! format for scrapers.

use std::collections::BTreeMap;
use std::fmt;

use api::objects::Metric;
use model::addr::Family;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::agent::{Agent, VERSION};

/// What a metric is, for scrapers.
struct Description {
    name: &'static str,
    kind: MetricType,
    help: &'static str,
}

/// What the text format adds to the name of a counter by itself.
const TOTAL: &str = "_total";

const DESCRIPTIONS: &[Description] = &[
    gauge("cilium_version", "Version of the agent"),
    gauge(
        "cilium_agent_bootstrap_seconds",
        "Time from the start of the agent until it was ready",
    ),
    counter(
        "cilium_forward_count_total",
        "Total forwarded packets, tagged by ingress/egress direction",
    ),
    counter(
        "cilium_forward_bytes_total",
        "Total forwarded bytes, tagged by ingress/egress direction",
    ),
    counter(
        "cilium_drop_count_total",
        "Total dropped packets, tagged by drop reason and ingress/egress direction",
    ),
    counter(
        "cilium_drop_bytes_total",
        "Total dropped bytes, tagged by drop reason and ingress/egress direction",
    ),
    gauge("cilium_bpf_map_pressure", "Fill of a BPF map, from 0 to 1"),
    gauge("cilium_bpf_map_capacity", "Entries that a BPF map can hold"),
    gauge("cilium_endpoint", "Number of endpoints managed by this agent"),
    gauge(
        "cilium_endpoint_state",
        "Count of all endpoints, tagged by different endpoint states",
    ),
    gauge("cilium_ip_addresses", "Number of allocated IP addresses"),
    gauge("cilium_ipam_capacity", "Number of addresses of the node's blocks"),
    gauge(
        "cilium_ipam_resting",
        "Addresses that were given back and are not used again yet",
    ),
    gauge("cilium_identity", "Number of identities currently known"),
    gauge("cilium_nodes_all_num", "Number of nodes known"),
    gauge(
        "cilium_services_num",
        "Number of services known, headless ones left out",
    ),
    counter(
        "cilium_services_writes_total",
        "Writes to the tables of services, tagged by outcome",
    ),
    gauge("cilium_ipcache_entries", "Entries of the identity table"),
    counter(
        "cilium_controllers_runs_total",
        "Number of runs of background work, tagged by status",
    ),
    gauge("cilium_controllers_failing", "Number of failing controllers"),
    counter(
        "cilium_events_total",
        "Events read from the datapath, tagged by kind and observation point or reason",
    ),
    counter(
        "cilium_events_lost_total",
        "Events that were lost, tagged by where",
    ),
    counter(
        "cilium_events_unknown_total",
        "Events of the datapath that could not be decoded",
    ),
    gauge(
        "cilium_process_resident_memory_bytes",
        "Resident memory of the agent",
    ),
];

const fn gauge(name: &'static str, help: &'static str) -> Description {
    Description {
        name,
        kind: MetricType::Gauge,
        help,
    }
}

const fn counter(name: &'static str, help: &'static str) -> Description {
    Description {
        name,
        kind: MetricType::Counter,
        help,
    }
}

/// Samples being collected.
#[derive(Debug, Default)]
struct Samples(Vec<Metric>);

impl Samples {
    fn add(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        self.0.push(Metric {
            name: name.to_owned(),
            labels,
            value,
        });
    }
}

/// All metrics, measured now. What cannot be measured is left out and shows as a failing controller.
#[must_use]
pub(crate) fn collect(agent: &Agent) -> Vec<Metric> {
    let mut samples = Samples::default();
    samples.add("cilium_version", &[("version", VERSION)], 1.0);
    if let Some(took) = agent.ready() {
        let labels = [("scope", "total"), ("outcome", "success")];
        samples.add("cilium_agent_bootstrap_seconds", &labels, took.as_secs_f64());
    }
    let datapath = datapath(agent, &mut samples);
    agent.controllers.report("collect-metrics", &datapath);
    pods(agent, &mut samples);
    background(agent, &mut samples);
    if let Some(bytes) = resident_memory() {
        samples.add("cilium_process_resident_memory_bytes", &[], bytes);
    }
    samples.0
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus' values are floats; counters stay below 2^53 for years"
)]
fn datapath(agent: &Agent, samples: &mut Samples) -> anyhow::Result<()> {
    for metric in agent.datapath.metrics()? {
        let direction = direction(metric.direction);
        let (packets, bytes) = (metric.counter.packets as f64, metric.counter.bytes as f64);
        if metric.reason == 0 {
            samples.add("cilium_forward_count_total", &[("direction", direction)], packets);
            samples.add("cilium_forward_bytes_total", &[("direction", direction)], bytes);
        } else {
            let reason = reason(metric.reason);
            let labels = [("reason", reason.as_str()), ("direction", direction)];
            samples.add("cilium_drop_count_total", &labels, packets);
            samples.add("cilium_drop_bytes_total", &labels, bytes);
        }
    }
    for map in agent.datapath.map_infos()? {
        let labels = [("map_name", map.name)];
        samples.add("cilium_bpf_map_capacity", &labels, f64::from(map.max_entries));
        if let Some(entries) = map.entries {
            let pressure = f64::from(entries) / f64::from(map.max_entries.max(1));
            samples.add("cilium_bpf_map_pressure", &labels, pressure);
            if map.name == abi::names::IPCACHE {
                samples.add("cilium_ipcache_entries", &[], f64::from(entries));
            }
        }
    }
    // While services are being written the figures are left out rather than waited for.
    if let Some(state) = agent.services.state_now() {
        samples.add("cilium_services_num", &[], state.index.counts().0 as f64);
        for (outcome, number) in [("success", state.steps), ("fail", state.failures)] {
            samples.add(
                "cilium_services_writes_total",
                &[("outcome", outcome)],
                number as f64,
            );
        }
    }
    let counts = agent.events.counts();
    for ((kind, what), number) in &counts.by_kind {
        samples.add(
            "cilium_events_total",
            &[("kind", kind), ("what", what)],
            *number as f64,
        );
    }
    samples.add("cilium_events_unknown_total", &[], counts.unknown as f64);
    let lost: u64 = agent.datapath.lost_events()?.values().sum();
    samples.add("cilium_events_lost_total", &[("source", "ring")], lost as f64);
    samples.add(
        "cilium_events_lost_total",
        &[("source", "listener")],
        counts.missed as f64,
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts of pods and addresses")]
fn pods(agent: &Agent, samples: &mut Samples) {
    let store = agent.endpoints.store();
    let mut states: BTreeMap<&str, f64> = BTreeMap::new();
    for endpoint in store.iter() {
        *states.entry(endpoint.state.as_str()).or_default() += 1.0;
    }
    samples.add("cilium_endpoint", &[], states.values().sum());
    for (state, count) in states {
        samples.add("cilium_endpoint_state", &[("endpoint_state", state)], count);
    }
    for usage in store.ipam.usage(crate::endpoints::now()) {
        let family = if Family::of(usage.block.network()) == Family::V6 {
            "ipv6"
        } else {
            "ipv4"
        };
        samples.add(
            "cilium_ip_addresses",
            &[("family", family)],
            f64::from(usage.used),
        );
        samples.add(
            "cilium_ipam_capacity",
            &[("family", family)],
            f64::from(usage.capacity),
        );
        samples.add(
            "cilium_ipam_resting",
            &[("family", family)],
            f64::from(usage.resting),
        );
    }
    drop(store);
    let view = agent.view.lock();
    samples.add(
        "cilium_identity",
        &[("type", "cluster_local")],
        view.identities.len() as f64,
    );
    samples.add("cilium_nodes_all_num", &[], view.nodes.len() as f64);
}

#[expect(clippy::cast_precision_loss, reason = "counts of runs")]
fn background(agent: &Agent, samples: &mut Samples) {
    let all = agent.controllers.snapshot();
    let sum = |count: fn(&api::status::ControllerCounts) -> u64| {
        all.iter().map(|c| count(&c.status)).sum::<u64>() as f64
    };
    samples.add(
        "cilium_controllers_runs_total",
        &[("status", "success")],
        sum(|counts| counts.success_count),
    );
    samples.add(
        "cilium_controllers_runs_total",
        &[("status", "failure")],
        sum(|counts| counts.failure_count),
    );
    let failing = all
        .iter()
        .filter(|controller| controller.status.consecutive_failure_count > 0)
        .count();
    samples.add("cilium_controllers_failing", &[], failing as f64);
}

/// The content type of [`text`].
pub(crate) const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text format that Prometheus reads.
///
/// # Errors
/// When a sample cannot be written as text.
pub(crate) fn text(samples: Vec<Metric>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Samples(samples)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Description { name, kind, help } in DESCRIPTIONS {
            let mut of_name = self.0.iter().filter(|sample| sample.name == *name).peekable();
            if of_name.peek().is_none() {
                continue;
            }
            let base = name.strip_suffix(TOTAL).unwrap_or(name);
            let mut metric = encoder.encode_descriptor(base, help, None, *kind)?;
            for sample in of_name {
                if sample.labels.is_empty() {
                    value(&mut metric, *kind, sample.value)?;
                } else {
                    let labels: Vec<(&str, &str)> = sample
                        .labels
                        .iter()
                        .map(|(key, value)| (key.as_str(), value.as_str()))
                        .collect();
                    value(&mut metric.encode_family(&labels)?, *kind, sample.value)?;
                }
            }
        }
        Ok(())
    }
}

fn value(metric: &mut MetricEncoder<'_>, kind: MetricType, value: f64) -> fmt::Result {
    match kind {
        MetricType::Counter => metric.encode_counter::<NoLabelSet, _, f64>(&value, None),
        _ => metric.encode_gauge(&value),
    }
}

/// As Cilium spells it in metrics and tables.
#[must_use]
pub(crate) fn direction(direction: abi::Direction) -> &'static str {
    match direction {
        abi::Direction::Ingress => "INGRESS",
        abi::Direction::Egress => "EGRESS",
    }
}

/// Text of a reason; the number where it has none.
#[must_use]
pub(crate) fn reason(number: u8) -> String {
    match abi::DropReason::from_number(number) {
        _ if number == 0 => "Success".to_owned(),
        Some(reason) => reason.text().to_owned(),
        None => number.to_string(),
    }
}

/// Resident memory of this process, bytes (`/proc/self/statm`, second field, in pages).
fn resident_memory() -> Option<f64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: f64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    #[expect(clippy::cast_precision_loss, reason = "a page has some kilobytes")]
    Some(pages * page as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_names_labels_and_values() {
        let mut samples = Samples::default();
        samples.add("cilium_forward_count_total", &[("direction", "EGRESS")], 2.0);
        samples.add("cilium_version", &[("version", "a\"b\\c")], 1.0);
        samples.add("cilium_identity", &[], 3.0);
        let text = text(samples.0).expect("text");
        for line in [
            "# TYPE cilium_version gauge",
            "cilium_version{version=\"a\\\"b\\\\c\"} 1.0",
            "# TYPE cilium_forward_count counter",
            "cilium_forward_count_total{direction=\"EGRESS\"} 2.0",
            "cilium_identity 3.0",
            "# EOF",
        ] {
            assert!(text.lines().any(|written| written == line), "{line} in:\n{text}");
        }
    }

    #[test]
    fn a_counter_ends_in_total() {
        for Description { name, kind, .. } in DESCRIPTIONS {
            let counter = matches!(kind, MetricType::Counter);
            assert_eq!(name.ends_with(TOTAL), counter, "{name}");
        }
    }
}
