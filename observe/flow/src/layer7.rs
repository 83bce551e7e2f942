//! Layer 7: what a proxy saw.

use std::sync::Arc;

use crate::flow::numbered;
use crate::layer4::Summary;

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
    /// What people read at the end of the line.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let response = self.kind == Layer7Kind::Response;
        let text = match &self.record {
            Some(Layer7Record::Http(http)) => {
                let Http {
                    code,
                    method,
                    url,
                    protocol,
                    ..
                } = http;
                let milliseconds = self.latency_ns / 1_000_000;
                if response {
                    format!("{protocol} {code} {milliseconds}ms ({method} {url})")
                } else {
                    format!("{protocol} {method} {url}")
                }
            }
            Some(Layer7Record::Dns(dns)) => {
                let types = dns.qtypes.join(",");
                if response {
                    format!(
                        "DNS Answer {} TTL: {} (Proxy {} {types})",
                        dns.answer(),
                        dns.ttl,
                        dns.query
                    )
                } else {
                    format!("DNS Query {} {types}", dns.query)
                }
            }
            Some(Layer7Record::Kafka(_)) | None => return Summary::None,
        };
        Summary::Text(text.into())
    }

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

impl Dns {
    /// Addresses and names of an answer, or why there are none.
    fn answer(&self) -> String {
        if self.rcode != 0 {
            return match rcode(self.rcode) {
                Some(name) => format!("RCode: {name}"),
                None => format!("RCode: {}", self.rcode),
            };
        }
        let mut parts = Vec::new();
        if !self.ips.is_empty() {
            parts.push(format!("\"{}\"", self.ips.join(",")));
        }
        if !self.cnames.is_empty() {
            parts.push(format!("CNAMEs: \"{}\"", self.cnames.join(",")));
        }
        parts.join(" ")
    }
}

/// Results as gopacket prints them (`layers/dns.go`).
const fn rcode(number: u32) -> Option<&'static str> {
    Some(match number {
        1 => "Format Error",
        2 => "Server Failure",
        3 => "Non-Existent Domain",
        4 => "Not Implemented",
        5 => "Query Refused",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries() {
        let texts = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| Arc::from(*text))
                .collect::<Vec<Arc<str>>>()
        };
        let http = |code| {
            let (method, url, protocol) = ("GET".into(), "http://web/a".into(), "HTTP/1.1".into());
            Layer7Record::Http(Http {
                code,
                method,
                url,
                protocol,
                headers: Vec::new(),
            })
        };
        let dns = |rcode, ips: &[&str], cnames: &[&str]| {
            let (query, qtypes) = ("web.".into(), texts(&["A", "AAAA"]));
            let (ips, cnames) = (texts(ips), texts(cnames));
            Layer7Record::Dns(Dns {
                query,
                qtypes,
                rcode,
                ips,
                cnames,
                ttl: 30,
                ..Dns::default()
            })
        };
        use Layer7Kind::{Request, Response};
        for (kind, record, expected) in [
            (Request, http(0), "HTTP/1.1 GET http://web/a"),
            (Response, http(200), "HTTP/1.1 200 3ms (GET http://web/a)"),
            (Request, dns(0, &[], &[]), "DNS Query web. A,AAAA"),
            (
                Response,
                dns(0, &["::1", "::2"], &[]),
                "DNS Answer \"::1,::2\" TTL: 30 (Proxy web. A,AAAA)",
            ),
            (
                Response,
                dns(0, &["::1"], &["b."]),
                "DNS Answer \"::1\" CNAMEs: \"b.\" TTL: 30 (Proxy web. A,AAAA)",
            ),
            (
                Response,
                dns(3, &[], &[]),
                "DNS Answer RCode: Non-Existent Domain TTL: 30 (Proxy web. A,AAAA)",
            ),
        ] {
            let layer = Layer7 {
                kind,
                latency_ns: 3_999_999,
                record: Some(record),
            };
            assert_eq!(layer.summary().to_string(), expected);
        }
    }
}
