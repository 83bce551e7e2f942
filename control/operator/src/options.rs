//! Command line and configuration of the operator. A flag counts more than the ConfigMap's key of the same name.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, ValueEnum};
use k8s::Responsibility;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Flags of the operator.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Directory with one file per key of the ConfigMap cilium-config.
    #[arg(long, value_name = "DIR", default_value = "/tmp/cilium/config-map")]
    pub config_dir: PathBuf,
    /// Kubeconfig to use instead of the pod's service account.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the Lease.
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "CILIUM_K8S_NAMESPACE",
        default_value = "kube-system"
    )]
    pub namespace: String,
    /// Name under which this replica takes part in the leader election; unique in the cluster.
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub identity: Option<String>,
    /// Log more.
    #[arg(long, action = ArgAction::SetTrue)]
    pub debug: bool,
    /// How log lines look.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Address of the metrics; empty: none [key operator-prometheus-serve-addr, default :9963].
    #[arg(long, value_name = "ADDRESS")]
    pub operator_prometheus_serve_addr: Option<String>,
    /// Address of /healthz [key operator-api-serve-addr, default :9234].
    #[arg(long, value_name = "ADDRESS")]
    pub operator_api_serve_addr: Option<String>,
    /// Time between two looks for unused identities; 0: never [key identity-gc-interval, default 15m].
    #[arg(long, value_name = "DURATION")]
    pub identity_gc_interval: Option<String>,
    /// How long an identity stays unused before it is removed [key identity-heartbeat-timeout, default 30m].
    #[arg(long, value_name = "DURATION")]
    pub identity_heartbeat_timeout: Option<String>,
    /// Time between two looks for CiliumEndpoints without a pod; 0: never [key cilium-endpoint-gc-interval, default 5m].
    #[arg(long, value_name = "DURATION")]
    pub cilium_endpoint_gc_interval: Option<String>,
    /// Time between two looks for CiliumNodes without a node; 0: never [key nodes-gc-interval, default 5m].
    #[arg(long, value_name = "DURATION")]
    pub nodes_gc_interval: Option<String>,
}

/// Times of the garbage collection; an interval of 0 means never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GarbageTimes {
    /// Between two looks for unused identities.
    pub(crate) identities: Duration,
    /// How long an identity stays unused before it is removed.
    pub(crate) identity_grace: Duration,
    /// Between two looks for CiliumEndpoints without a pod.
    pub(crate) endpoints: Duration,
    /// Between two looks for CiliumNodes without a node.
    pub(crate) nodes: Duration,
}

/// Everything parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) namespace: String,
    pub(crate) lease: String,
    pub(crate) identity: String,
    pub(crate) debug: bool,
    pub(crate) json_logs: bool,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) api: Option<SocketAddr>,
    pub(crate) garbage: GarbageTimes,
    /// Which Services get addresses from pools; `None`: none.
    pub(crate) balancers: Option<Responsibility>,
}

/// A flag or key that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}={value:?} cannot be used (allowed: {allowed})")]
pub(crate) struct Problem {
    key: &'static str,
    value: String,
    allowed: &'static str,
}

/// Everything that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

impl std::fmt::Display for Problems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the operator's configuration cannot be used:")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for Problems {}

/// Looks a value up: the flag, then the key.
struct Source<'a> {
    config: &'a BTreeMap<String, String>,
    problems: Vec<Problem>,
}

impl Source<'_> {
    fn value(&self, flag: Option<String>, key: &str) -> Option<String> {
        flag.or_else(|| self.config.get(key).cloned())
    }

    fn duration(&mut self, flag: Option<String>, key: &'static str, default: Duration) -> Duration {
        let Some(value) = self.value(flag, key) else {
            return default;
        };
        model::config::parse_duration(&value).unwrap_or_else(|| {
            self.problems.push(Problem {
                key,
                value,
                allowed: "a duration such as 15m, or 0",
            });
            default
        })
    }

    fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        match self.config.get(key).map(String::as_str) {
            Some("true") => true,
            Some("false") => false,
            None | Some("") => default,
            Some(value) => {
                self.problems.push(Problem {
                    key,
                    value: value.to_owned(),
                    allowed: "true, false",
                });
                default
            }
        }
    }

    /// Whose addresses are from pools, by Cilium's keys. Addresses of nodes instead of pools are not there.
    fn balancers(&mut self) -> Option<Responsibility> {
        const KEY: &str = "default-lb-service-ipam";
        let without_class = match self.config.get(KEY).map(String::as_str) {
            None | Some("" | "lbipam") => true,
            Some("none") => false,
            Some(value) => {
                self.problems.push(Problem {
                    key: KEY,
                    value: value.to_owned(),
                    allowed: "lbipam, none",
                });
                false
            }
        };
        self.boolean("enable-lb-ipam", true)
            .then_some(Responsibility { without_class })
    }

    /// `:9963` means every address; an empty value that nobody listens.
    fn address(&mut self, flag: Option<String>, key: &'static str, default: u16) -> Option<SocketAddr> {
        let any = |port| SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
        let Some(value) = self.value(flag, key) else {
            return Some(any(default));
        };
        if value.is_empty() {
            return None;
        }
        let parsed = match value.strip_prefix(':') {
            Some(port) => port.parse().ok().map(any),
            None => value.parse().ok(),
        };
        if parsed.is_none() {
            self.problems.push(Problem {
                key,
                value,
                allowed: "[address]:port, such as :9963 or [::1]:9963",
            });
        }
        parsed
    }
}

impl Options {
    /// Parses flags and keys; all problems at once.
    pub(crate) fn parse(
        args: Args,
        config: &BTreeMap<String, String>,
        default_identity: String,
    ) -> Result<Self, Problems> {
        const MINUTE: Duration = Duration::from_secs(60);
        let Args {
            config_dir: _,
            kubeconfig,
            namespace,
            identity,
            debug,
            log_format,
            operator_prometheus_serve_addr,
            operator_api_serve_addr,
            identity_gc_interval,
            identity_heartbeat_timeout,
            cilium_endpoint_gc_interval,
            nodes_gc_interval,
        } = args;
        let mut source = Source {
            config,
            problems: Vec::new(),
        };
        let options = Self {
            kubeconfig,
            namespace,
            lease: "cilium-operator-resource-lock".to_owned(),
            identity: identity.unwrap_or(default_identity),
            debug: source.boolean("debug", false) || debug,
            json_logs: log_format == LogFormat::Json,
            metrics: source.address(
                operator_prometheus_serve_addr,
                "operator-prometheus-serve-addr",
                9963,
            ),
            api: source.address(operator_api_serve_addr, "operator-api-serve-addr", 9234),
            garbage: GarbageTimes {
                identities: source.duration(identity_gc_interval, "identity-gc-interval", 15 * MINUTE),
                identity_grace: source.duration(
                    identity_heartbeat_timeout,
                    "identity-heartbeat-timeout",
                    30 * MINUTE,
                ),
                endpoints: source.duration(
                    cilium_endpoint_gc_interval,
                    "cilium-endpoint-gc-interval",
                    5 * MINUTE,
                ),
                nodes: source.duration(nodes_gc_interval, "nodes-gc-interval", 5 * MINUTE),
            },
            balancers: source.balancers(),
        };
        if source.problems.is_empty() {
            Ok(options)
        } else {
            Err(Problems(source.problems))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(flags: &[&str], config: &[(&str, &str)]) -> Result<Options, Problems> {
        let config = config
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let all = ["operator", "--identity", "me", "--namespace", "kube-system"]
            .iter()
            .chain(flags);
        Options::parse(Cli::parse_from(all).args, &config, "unused".to_owned())
    }

    #[test]
    fn defaults_are_those_of_cilium() {
        let options = parse(&[], &[]).unwrap();
        assert_eq!(options.metrics, Some("[::]:9963".parse().unwrap()));
        assert_eq!(options.api, Some("[::]:9234".parse().unwrap()));
        assert_eq!(
            options.garbage,
            GarbageTimes {
                identities: Duration::from_secs(900),
                identity_grace: Duration::from_secs(1800),
                endpoints: Duration::from_secs(300),
                nodes: Duration::from_secs(300),
            }
        );
        assert!(!options.debug);
        assert_eq!(options.balancers, Some(Responsibility { without_class: true }));
    }

    #[test]
    fn whose_addresses_are_from_pools() {
        let rows = [
            ("enable-lb-ipam", "false", None),
            ("enable-lb-ipam", "true", Some(true)),
            ("default-lb-service-ipam", "none", Some(false)),
            ("default-lb-service-ipam", "lbipam", Some(true)),
        ];
        for (key, value, expected) in rows {
            let balancers = parse(&[], &[(key, value)]).unwrap().balancers;
            assert_eq!(
                balancers.map(|balancers| balancers.without_class),
                expected,
                "{key}={value}"
            );
        }
    }

    #[test]
    fn flags_count_more_than_keys() {
        let keys = [
            ("identity-gc-interval", "1m"),
            ("nodes-gc-interval", "0s"),
            ("debug", "true"),
        ];
        let options = parse(&["--identity-gc-interval", "2m"], &keys).unwrap();
        assert_eq!(options.garbage.identities, Duration::from_secs(120));
        assert_eq!(options.garbage.nodes, Duration::ZERO);
        assert!(options.debug);
        let options = parse(
            &["--operator-prometheus-serve-addr", ""],
            &[("operator-api-serve-addr", "[::1]:1")],
        )
        .unwrap();
        assert_eq!(
            (options.metrics, options.api),
            (None, Some("[::1]:1".parse().unwrap()))
        );
    }

    #[test]
    fn all_problems_are_reported() {
        let keys = [
            ("identity-gc-interval", "soon"),
            ("operator-api-serve-addr", "9234"),
            ("debug", "yes"),
            ("default-lb-service-ipam", "nodeipam"),
        ];
        let text = parse(&[], &keys).unwrap_err().to_string();
        for part in [
            "identity-gc-interval=\"soon\"",
            "operator-api-serve-addr=\"9234\"",
            "debug=\"yes\"",
            "default-lb-service-ipam=\"nodeipam\"",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
