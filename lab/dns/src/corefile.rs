//! The configuration: the part of CoreDNS's Corefile that this server understands. Pure.
//!
//! One server block for the root zone, with the directives `kubernetes`, `forward`, `health`, `ready`, `prometheus`,
//! `loadbalance` and `errors`. Directives of CoreDNS that only tune it (`cache`, `loop`, `reload`, `log`) are accepted and
//! reported as without effect; everything else is refused with its line.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hickory_proto::rr::Name;

use crate::zone::Pods;

mod text;

use text::{Directive, parse_text};

/// The port of DNS.
const DNS_PORT: u16 = 53;
/// What CoreDNS takes where the file does not say.
const TTL: u32 = 5;
const MAX_TTL: u32 = 3600;
const HEALTH: u16 = 8080;
const READY: u16 = 8181;
const PROMETHEUS: u16 = 9153;
/// Forwarded questions at a time, where the file gives no bound.
const MAX_CONCURRENT: usize = 1000;
/// Most upstream servers (as many as CoreDNS takes).
const MAX_UPSTREAMS: usize = 15;

/// What a Corefile says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Port of the server
    pub port: u16,
    /// `kubernetes`
    pub kubernetes: Kubernetes,
    /// `forward`
    pub forward: Option<Forward>,
    /// `health`: where, and how long the server goes on after it was told to end
    pub health: Option<(SocketAddr, Duration)>,
    /// `ready`
    pub ready: Option<SocketAddr>,
    /// `prometheus`
    pub prometheus: Option<SocketAddr>,
    /// `loadbalance`
    pub rotate: bool,
    /// Words that were accepted and have no effect
    pub without_effect: Vec<String>,
}

/// The directive `kubernetes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubernetes {
    /// The cluster's domain
    pub domain: Name,
    /// The zones below `arpa`
    pub reverse: Vec<Name>,
    /// Zones in which what is not found is forwarded
    pub fallthrough: Vec<Name>,
    /// Time to live, seconds
    pub ttl: u32,
    /// Which pods have records
    pub pods: Pods,
    /// Credentials, if not those of the pod
    pub kubeconfig: Option<PathBuf>,
}

/// The directive `forward`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Whom to ask, in this order
    pub to: Vec<Upstream>,
    /// Questions at a time
    pub max_concurrent: usize,
}

/// Somebody to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// A server
    Server(SocketAddr),
    /// The servers in a file in the form of `resolv.conf`
    File(PathBuf),
}

/// Why a Corefile cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CorefileError {
    /// A line is wrong
    #[error("line {line}: {problem}")]
    Line {
        /// Number of the line, from 1
        line: usize,
        /// What is wrong
        problem: String,
    },
    /// A part is missing
    #[error("{0}")]
    Missing(&'static str),
}

impl Config {
    /// Reads a Corefile.
    ///
    /// # Errors
    /// It is not a Corefile, or says what this server cannot do.
    pub fn parse(text: &str) -> Result<Self, CorefileError> {
        let mut blocks = parse_text(text)?.into_iter();
        let block = blocks
            .next()
            .ok_or(CorefileError::Missing("there is no server block"))?;
        if let Some(second) = blocks.next() {
            return Err(second.error("only one server block is understood"));
        }
        let port = server_port(&block)?;
        let mut kubernetes = None;
        let mut config = Parts::default();
        for directive in block.block.iter().flatten() {
            match directive.name.as_str() {
                "kubernetes" => kubernetes = Some(config.kubernetes(directive)?),
                "forward" => config.forward = Some(config.forward(directive)?),
                "health" => config.health = Some(health(directive)?),
                "ready" => config.ready = Some(listen(directive, READY)?),
                "prometheus" => config.prometheus = Some(listen(directive, PROMETHEUS)?),
                "loadbalance" => config.rotate = true,
                "errors" => {}
                "cache" | "loop" | "reload" | "log" => config.without_effect.push(directive.name.clone()),
                other => return Err(directive.error(format!("unknown directive {other:?}"))),
            }
        }
        let kubernetes = kubernetes.ok_or(CorefileError::Missing("the directive `kubernetes` is missing"))?;
        Ok(Self {
            port,
            kubernetes,
            forward: config.forward,
            health: config.health,
            ready: config.ready,
            prometheus: config.prometheus,
            rotate: config.rotate,
            without_effect: config.without_effect,
        })
    }
}

/// What has been read so far.
#[derive(Default)]
struct Parts {
    forward: Option<Forward>,
    health: Option<(SocketAddr, Duration)>,
    ready: Option<SocketAddr>,
    prometheus: Option<SocketAddr>,
    rotate: bool,
    without_effect: Vec<String>,
}

impl Parts {
    fn kubernetes(&mut self, directive: &Directive) -> Result<Kubernetes, CorefileError> {
        let (mut domain, mut reverse) = (None, Vec::new());
        for argument in &directive.arguments {
            let zone = zone(directive, argument)?;
            if is_reverse(&zone) {
                reverse.push(zone);
            } else if domain.replace(zone).is_some() {
                return Err(directive.error("only one domain is understood, beside reverse zones"));
            }
        }
        let Some(domain) = domain.filter(|domain| !domain.is_root()) else {
            return Err(directive.error("the cluster's domain is missing"));
        };
        let mut kubernetes = Kubernetes {
            domain,
            reverse,
            fallthrough: Vec::new(),
            ttl: TTL,
            pods: Pods::Disabled,
            kubeconfig: None,
        };
        for option in directive.block.iter().flatten() {
            match option.name.as_str() {
                "ttl" => {
                    kubernetes.ttl = option.number(0, u64::from(MAX_TTL))? as u32;
                }
                "pods" => {
                    kubernetes.pods = match option.argument()? {
                        "disabled" => Pods::Disabled,
                        "insecure" => Pods::Insecure,
                        "verified" => Pods::Verified,
                        other => return Err(option.error(format!("unknown mode {other:?} of pods"))),
                    };
                }
                "fallthrough" if option.arguments.is_empty() => kubernetes.fallthrough = vec![Name::root()],
                "fallthrough" => {
                    let zones = option.arguments.iter().map(|argument| zone(option, argument));
                    kubernetes.fallthrough = zones.collect::<Result<_, _>>()?;
                }
                "kubeconfig" => kubernetes.kubeconfig = Some(option.argument()?.into()),
                other => return Err(option.error(format!("unknown option {other:?} of kubernetes"))),
            }
        }
        Ok(kubernetes)
    }

    fn forward(&mut self, directive: &Directive) -> Result<Forward, CorefileError> {
        let Some((".", to)) = directive
            .arguments
            .split_first()
            .map(|(from, to)| (from.as_str(), to))
        else {
            return Err(directive.error("only `forward . SERVER…` is understood"));
        };
        if to.is_empty() || to.len() > MAX_UPSTREAMS {
            return Err(directive.error(format!("1 to {MAX_UPSTREAMS} servers or files can be named")));
        }
        let to = to.iter().map(|text| upstream(directive, text));
        let mut forward = Forward {
            to: to.collect::<Result<_, _>>()?,
            max_concurrent: MAX_CONCURRENT,
        };
        for option in directive.block.iter().flatten() {
            match option.name.as_str() {
                "max_concurrent" => {
                    forward.max_concurrent = option.number(1, 1 << 20)? as usize;
                }
                "prefer_udp" | "policy" | "expire" | "max_fails" | "health_check" => {
                    self.without_effect.push(format!("forward {}", option.name));
                }
                other => return Err(option.error(format!("unknown option {other:?} of forward"))),
            }
        }
        Ok(forward)
    }
}

/// The port in the key of a server block, such as `.:53`.
fn server_port(block: &Directive) -> Result<u16, CorefileError> {
    let key = block.name.strip_prefix("dns://").unwrap_or(&block.name);
    if !block.arguments.is_empty() || block.block.is_none() {
        return Err(block.error("a server block is `.:PORT { … }`"));
    }
    match key.split_once(':') {
        None if key == "." => Ok(DNS_PORT),
        Some((".", port)) => port
            .parse()
            .map_err(|_| block.error(format!("{port:?} is not a port"))),
        _ => Err(block.error("only the root zone can be served, as `.` or `.:PORT`")),
    }
}

fn zone(directive: &Directive, text: &str) -> Result<Name, CorefileError> {
    let mut name = Name::from_ascii(text.to_ascii_lowercase())
        .map_err(|error| directive.error(format!("{text:?} is not a zone: {error}")))?;
    name.set_fqdn(true);
    Ok(name)
}

/// Whether a zone is one of addresses: `in-addr.arpa`, `ip6.arpa` or below.
fn is_reverse(zone: &Name) -> bool {
    let mut labels = zone.iter().rev();
    labels.next() == Some(b"arpa") && matches!(labels.next(), Some(b"in-addr" | b"ip6"))
}

fn health(directive: &Directive) -> Result<(SocketAddr, Duration), CorefileError> {
    let mut lameduck = Duration::ZERO;
    for option in directive.block.iter().flatten() {
        match option.name.as_str() {
            "lameduck" => {
                let text = option.argument()?;
                lameduck = duration(text)
                    .ok_or_else(|| option.error(format!("{text:?} is not a time such as 5s")))?;
            }
            other => return Err(option.error(format!("unknown option {other:?} of health"))),
        }
    }
    Ok((listen(directive, HEALTH)?, lameduck))
}

/// The address in a directive's only argument, such as `:9153`; without one, the usual port.
fn listen(directive: &Directive, port: u16) -> Result<SocketAddr, CorefileError> {
    let Some(text) = directive.arguments.first() else {
        return Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
    };
    match text.strip_prefix(':') {
        Some(port) => port
            .parse()
            .ok()
            .map(|port| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)),
        None => text.parse().ok(),
    }
    .ok_or_else(|| directive.error(format!("{text:?} is not an address to listen at")))
}

fn upstream(directive: &Directive, text: &str) -> Result<Upstream, CorefileError> {
    if text.starts_with('/') {
        return Ok(Upstream::File(text.into()));
    }
    let plain = text.strip_prefix("dns://").unwrap_or(text);
    plain
        .parse::<SocketAddr>()
        .or_else(|_| {
            plain
                .parse::<IpAddr>()
                .map(|address| SocketAddr::new(address, DNS_PORT))
        })
        .map(Upstream::Server)
        .map_err(|_| directive.error(format!("{text:?} is neither the address of a server nor a file")))
}

/// A time as Go writes it: `5s`, `1m`, `500ms`.
fn duration(text: &str) -> Option<Duration> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().ok()?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return None,
    };
    number.checked_mul(milliseconds).map(Duration::from_millis)
}

/// The name servers in the text of a `resolv.conf`. Those of the machine itself (loopback) are left out: a pod that asked
/// them would ask itself, for ever.
#[must_use]
pub fn resolv_servers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "nameserver").then_some(words.next()?)
        })
        .filter_map(|address| address.parse::<IpAddr>().ok())
        .map(|address| address.to_canonical())
        .filter(|address| !address.is_loopback() && !address.is_unspecified())
        .map(|address| SocketAddr::new(address, DNS_PORT))
        .take(MAX_UPSTREAMS)
        .collect()
}

#[cfg(test)]
mod tests;
