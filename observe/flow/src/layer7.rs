//! Layer 7: what a proxy saw.

use std::sync::Arc;

use crate::flow::numbered;

numbered! {
    /// Question or answer.
    Layer7Kind {
        /// Not said.
        #[default]
        Unknown = 0 "UNKNOWN_L7_TYPE",
        /// Question.
        Request = 1 "REQUEST",
        /// Answer.
        Response = 2 "RESPONSE",
        /// One of many.
        Sample = 3 "SAMPLE",
    }
}

/// What a proxy saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer7 {
    /// Question or answer.
    pub kind: Layer7Kind,
    /// From the question to the answer, nanoseconds; of answers only.
    pub latency_ns: u64,
    /// The protocol's part.
    pub record: Option<Layer7Record>,
}

/// The protocol's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer7Record {
    /// DNS.
    Dns(Dns),
    /// HTTP.
    Http(Http),
    /// Kafka; deprecated.
    Kafka(Kafka),
}

/// A DNS message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// The name that was asked for.
    pub query: Arc<str>,
    /// Addresses of the answer.
    pub ips: Vec<Arc<str>>,
    /// Seconds that the answer is good for.
    pub ttl: u32,
    /// Other names of the answer.
    pub cnames: Vec<Arc<str>>,
    /// Who saw it: `proxy`.
    pub observation_source: Arc<str>,
    /// Result.
    pub rcode: u32,
    /// Types that were asked for.
    pub qtypes: Vec<Arc<str>>,
    /// Types of the answer.
    pub rrtypes: Vec<Arc<str>>,
}

/// An HTTP request or response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http {
    /// Status; 0: request.
    pub code: u32,
    /// Method.
    pub method: Arc<str>,
    /// URL.
    pub url: Arc<str>,
    /// `HTTP/1.1`.
    pub protocol: Arc<str>,
    /// Keys and values.
    pub headers: Vec<(Arc<str>, Arc<str>)>,
}

/// A Kafka message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kafka {
    /// Result.
    pub error_code: i32,
    /// Version.
    pub api_version: i32,
    /// Kind.
    pub api_key: Arc<str>,
    /// Joins question and answer.
    pub correlation_id: i32,
    /// Topic.
    pub topic: Arc<str>,
}

impl Layer7 {
    /// Bytes that it takes, about.
    #[must_use]
    pub fn size(&self) -> usize {
        let texts = |list: &[Arc<str>]| {
            list.iter()
                .map(|text| size_of::<Arc<str>>() + text.len())
                .sum::<usize>()
        };
        size_of::<Self>()
            + match &self.record {
                Some(Layer7Record::Dns(dns)) => {
                    dns.query.len()
                        + texts(&dns.ips)
                        + texts(&dns.cnames)
                        + texts(&dns.qtypes)
                        + texts(&dns.rrtypes)
                }
                Some(Layer7Record::Http(http)) => {
                    let headers = http
                        .headers
                        .iter()
                        .map(|(key, value)| 32 + key.len() + value.len());
                    http.method.len() + http.url.len() + headers.sum::<usize>()
                }
                Some(Layer7Record::Kafka(kafka)) => kafka.topic.len(),
                None => 0,
            }
    }
}
