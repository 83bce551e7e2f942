//! The names of the cluster's zone, as the Kubernetes DNS specification 1.1.0 lays them out, and which of them a question
//! is about. Pure.

use hickory_proto::rr::Name;

/// Which pods have records below `pod.<domain>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pods {
    /// None
    #[default]
    Disabled,
    /// Any address in a namespace that exists, without looking whether there is such a pod
    Insecure,
    /// Only addresses of pods of that namespace
    Verified,
}

/// What this server has the say about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// The cluster's domain, in lower case
    pub domain: Name,
    /// Zones below `in-addr.arpa` and `ip6.arpa` that are answered for
    pub reverse: Vec<Name>,
    /// Zones in which what is not found is asked elsewhere
    pub fallthrough: Vec<Name>,
    /// Time to live of every record, seconds
    pub ttl: u32,
    /// Records of pods
    pub pods: Pods,
    /// Whether the order of addresses changes from answer to answer
    pub rotate: bool,
    /// Serial number in the SOA records
    pub serial: u32,
    /// Whether there is somebody to ask about other names
    pub recursion: bool,
}

impl Zone {
    /// The zone of ours that a name is in.
    pub(crate) fn zone_of(&self, name: &Name) -> Option<&Name> {
        std::iter::once(&self.domain)
            .chain(&self.reverse)
            .filter(|zone| zone.zone_of(name))
            .max_by_key(|zone| zone.num_labels())
    }

    pub(crate) fn falls_through(&self, name: &Name) -> bool {
        self.fallthrough.iter().any(|zone| zone.zone_of(name))
    }
}

/// A place in the tree of names below the cluster's domain. All labels are in lower case; ports and protocols are
/// without their underscores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// The domain itself
    Apex,
    /// `dns-version`
    Version,
    /// `ns.dns`: this server, as SOA and NS records call it
    Server,
    /// A name without records that has names below it: `svc`, `pod`, `dns`
    Branch,
    /// `<namespace>.svc` or `<namespace>.pod`
    Namespace(String),
    /// `<service>.<namespace>.svc`
    Service { namespace: String, service: String },
    /// `_<protocol>.<service>.<namespace>.svc`
    Protocol {
        namespace: String,
        service: String,
        protocol: String,
    },
    /// `_<port>._<protocol>.<service>.<namespace>.svc`
    Port {
        namespace: String,
        service: String,
        protocol: String,
        port: String,
    },
    /// `<hostname>.<service>.<namespace>.svc`
    Endpoint {
        namespace: String,
        service: String,
        hostname: String,
    },
    /// `<address with dashes>.<namespace>.pod`
    Pod { namespace: String, address: String },
    /// A name that nothing can have
    Nowhere,
}

/// Finds the place of a name that is below `domain`.
pub(crate) fn place(domain: &Name, name: &Name) -> Place {
    let below = usize::from(name.num_labels().saturating_sub(domain.num_labels()));
    // From the domain downwards.
    let labels: Option<Vec<String>> = name
        .iter()
        .take(below)
        .map(|label| Some(std::str::from_utf8(label).ok()?.to_ascii_lowercase()))
        .collect();
    let Some(mut labels) = labels else {
        return Place::Nowhere;
    };
    labels.reverse();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    match labels.as_slice() {
        [] => Place::Apex,
        ["dns-version"] => Place::Version,
        ["dns", "ns"] => Place::Server,
        ["svc" | "pod" | "dns"] => Place::Branch,
        ["svc" | "pod", namespace] => Place::Namespace((*namespace).to_owned()),
        ["svc", namespace, rest @ ..] => below_namespace(namespace, rest),
        ["pod", namespace, address] => Place::Pod {
            namespace: (*namespace).to_owned(),
            address: (*address).to_owned(),
        },
        _ => Place::Nowhere,
    }
}

fn below_namespace(namespace: &str, rest: &[&str]) -> Place {
    let namespace = namespace.to_owned();
    match rest {
        [service] => Place::Service {
            namespace,
            service: (*service).to_owned(),
        },
        [service, label] => match label.strip_prefix('_') {
            Some(protocol) => Place::Protocol {
                namespace,
                service: (*service).to_owned(),
                protocol: protocol.to_owned(),
            },
            None => Place::Endpoint {
                namespace,
                service: (*service).to_owned(),
                hostname: (*label).to_owned(),
            },
        },
        [service, protocol, port] => match (protocol.strip_prefix('_'), port.strip_prefix('_')) {
            (Some(protocol), Some(port)) => Place::Port {
                namespace,
                service: (*service).to_owned(),
                protocol: protocol.to_owned(),
                port: port.to_owned(),
            },
            _ => Place::Nowhere,
        },
        _ => Place::Nowhere,
    }
}
