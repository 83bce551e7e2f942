//! What is counted, under the names that CoreDNS uses.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::upstream::question_end;
use crate::wire::Transport;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    proto: &'static str,
    r#type: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResponseLabels {
    rcode: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

/// The counters.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    responses: Family<ResponseLabels, Counter>,
    durations: Histogram,
    forwarded: Counter,
    forward_failures: Counter,
    forward_rejects: Counter,
    objects: Family<KindLabels, Gauge>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("coredns"),
            requests: Family::default(),
            responses: Family::default(),
            // From 250 µs to about 8 s, as CoreDNS.
            durations: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
            forwarded: Counter::default(),
            forward_failures: Counter::default(),
            forward_rejects: Counter::default(),
            objects: Family::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("dns_requests", "DNS requests", metrics.requests.clone());
        registry.register("dns_responses", "DNS responses", metrics.responses.clone());
        registry.register(
            "dns_request_duration_seconds",
            "Time from request to response",
            metrics.durations.clone(),
        );
        registry.register(
            "forward_requests",
            "Questions asked upstream",
            metrics.forwarded.clone(),
        );
        registry.register(
            "forward_failures",
            "Questions that nobody upstream answered",
            metrics.forward_failures.clone(),
        );
        registry.register(
            "forward_max_concurrent_rejects",
            "Questions not asked because too many were being asked",
            metrics.forward_rejects.clone(),
        );
        registry.register(
            "kubernetes_objects",
            "Objects that are known",
            metrics.objects.clone(),
        );
        metrics
    }

    /// A request was answered, or not: `None`.
    pub(crate) fn answered(
        &self,
        request: &[u8],
        transport: Transport,
        answer: Option<&[u8]>,
        took: Duration,
    ) {
        let labels = RequestLabels {
            proto: match transport {
                Transport::Udp => "udp",
                Transport::Tcp => "tcp",
            },
            r#type: record_type(request),
        };
        self.requests.get_or_create(&labels).inc();
        if let Some(code) = answer.and_then(|answer| answer.get(3)) {
            let rcode = format!("{:?}", ResponseCode::from_low(code & 0x0f)).to_uppercase();
            self.responses.get_or_create(&ResponseLabels { rcode }).inc();
            self.durations.observe(took.as_secs_f64());
        }
    }

    /// A question was asked upstream.
    pub(crate) fn forwarded(&self, answered: bool) {
        self.forwarded.inc();
        if !answered {
            self.forward_failures.inc();
        }
    }

    /// A question was not asked upstream, as too many are.
    pub(crate) fn rejected(&self) {
        self.forward_rejects.inc();
    }

    /// Everything in the text format, with the number of objects of each kind as it is now.
    pub(crate) fn text(&self, objects: impl IntoIterator<Item = (&'static str, usize)>) -> String {
        for (kind, count) in objects {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.objects.get_or_create(&KindLabels { kind }).set(count);
        }
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

/// The type that a request asks for; of the many that there are, those that are common.
fn record_type(request: &[u8]) -> String {
    use RecordType::{A, AAAA, ANY, CNAME, HTTPS, NS, PTR, SOA, SRV, TXT};
    let code = question_end(request).and_then(|end| request.get(end - 4..end - 2));
    let kind = code.and_then(|code| Some(RecordType::from(u16::from_be_bytes(code.try_into().ok()?))));
    match kind {
        Some(kind @ (A | AAAA | ANY | CNAME | HTTPS | NS | PTR | SOA | SRV | TXT)) => kind.to_string(),
        _ => "other".to_owned(),
    }
}
