//! Keys that decide nothing here: those of other components, those that only have one supported value, and those of
//! Cilium that nothing depends on yet.

use super::reader::Reader;

/// Keys with the values that are supported; everything else is refused with the reason.
const ONLY: [(&str, &[&str], &str); 25] = [
    (
        "bpf-lb-dsr-dispatch",
        &["opt"],
        "other ways to tell the backend's node of the service are not implemented",
    ),
    ("routing-mode", &["native"], "tunnels are not implemented yet"),
    ("tunnel", &["disabled"], "tunnels are not implemented yet"),
    (
        "ipam",
        &["kubernetes"],
        "other address management than the node's own pod CIDRs is not implemented yet",
    ),
    (
        "identity-allocation-mode",
        &["crd"],
        "identities live in CiliumIdentity objects; a key-value store is not supported",
    ),
    (
        "datapath-mode",
        &["veth", "auto"],
        "other devices than veth are not implemented yet",
    ),
    (
        "enable-policy",
        &["default", "never"],
        "network policies are not enforced yet",
    ),
    ("cni-chaining-mode", &["none"], "CNI chaining is not implemented"),
    (
        "enable-endpoint-routes",
        OFF,
        "routes per endpoint are not implemented",
    ),
    ("enable-wireguard", OFF, "encryption is not implemented yet"),
    ("enable-ipsec", OFF, "encryption is not implemented yet"),
    ("encrypt-node", OFF, "encryption is not implemented yet"),
    (
        "enable-host-firewall",
        OFF,
        "the host firewall is not implemented yet",
    ),
    (
        "enable-bandwidth-manager",
        OFF,
        "the bandwidth manager is not implemented yet",
    ),
    ("enable-bbr", OFF, "the bandwidth manager is not implemented yet"),
    (
        "enable-cilium-endpoint-slice",
        OFF,
        "CiliumEndpointSlices are not implemented yet",
    ),
    ("enable-bgp-control-plane", OFF, "BGP is not implemented yet"),
    (
        "enable-l2-announcements",
        OFF,
        "L2 announcements are not implemented yet",
    ),
    (
        "enable-egress-gateway",
        OFF,
        "the egress gateway is not implemented yet",
    ),
    (
        "enable-gateway-api",
        OFF,
        "the Gateway API is not implemented yet",
    ),
    (
        "enable-ingress-controller",
        OFF,
        "the ingress controller is not implemented yet",
    ),
    (
        "enable-local-redirect-policy",
        OFF,
        "local redirect policies are not implemented yet",
    ),
    ("enable-nat46x64-gateway", OFF, "NAT46/64 is not implemented yet"),
    ("enable-srv6", OFF, "SRv6 is not implemented yet"),
    ("policy-audit-mode", OFF, "network policies are not enforced yet"),
];

const OFF: &[&str] = &["false"];

/// Keys with the values that mean "not used"; another value is accepted, as it stands in many configurations, and what
/// follows is told.
const NOT_IN_EFFECT: [(&str, &[&str], &str); 7] = [
    ("enable-hubble", OFF, "flows are not served yet"),
    ("enable-ipv4-big-tcp", OFF, BIG_TCP),
    ("enable-ipv6-big-tcp", OFF, BIG_TCP),
    ("enable-ipv4-masquerade", OFF, "IPv4 is not implemented yet"),
    ("enable-l7-proxy", OFF, "there is no layer 7 proxy yet"),
    (
        "bpf-lb-sock-hostns-only",
        OFF,
        "services are translated at the sockets of pods as well",
    ),
    (
        "bpf-lb-maglev-hash-seed",
        &["JLfvgnHc2kaSUFaI"],
        "the seed is the same in every cluster",
    ),
];

const BIG_TCP: &str = "packets stay within the default limits of the devices";

/// Keys that are accepted with any value: they belong to the operator, to features that come later, or have been
/// removed from Cilium and are still found in configurations (cilium.md §4.1).
const OTHERS: [&str; 42] = [
    "agent-not-ready-taint-key",
    "bpf-lb-sock",
    "bpf-neigh-global-max",
    "bpf-policy-map-max",
    "bpf-root",
    "cilium-endpoint-gc-interval",
    "cluster-pool-ipv4-cidr",
    "cluster-pool-ipv4-mask-size",
    "cluster-pool-ipv6-cidr",
    "cluster-pool-ipv6-mask-size",
    "custom-cni-conf",
    "debug-verbose",
    "default-lb-service-ipam",
    "enable-bpf-clock-probe",
    "enable-endpoint-health-checking",
    "enable-health-check-nodeport",
    "enable-health-checking",
    "enable-k8s-endpoint-slice",
    "enable-lb-ipam",
    "enable-remote-node-identity",
    "enable-sctp",
    "enable-well-known-identities",
    "endpoint-status",
    "hubble-disable-tls",
    "hubble-event-buffer-capacity",
    "hubble-event-queue-size",
    "hubble-listen-address",
    "hubble-metrics",
    "hubble-metrics-server",
    "hubble-socket-path",
    "identity-gc-interval",
    "identity-heartbeat-timeout",
    "ipv4-native-routing-cidr",
    "kube-proxy-replacement-healthz-bind-address",
    "nodes-gc-interval",
    "operator-api-serve-addr",
    "operator-prometheus-serve-addr",
    "preallocate-bpf-maps",
    "remove-cilium-node-taints",
    "set-cilium-is-up-condition",
    "tunnel-port",
    "tunnel-protocol",
];

/// Starts of keys that are accepted with any value.
const OTHER_PREFIXES: [&str; 7] = [
    "hubble-",
    "tofqdns-",
    "ipam-",
    "envoy-",
    "proxy-",
    "external-envoy-",
    "clustermesh-",
];

/// Notes every key that asks for something that is not built.
pub(super) fn check_unsupported(reader: &mut Reader<'_>) {
    for (key, supported, reason) in ONLY {
        if let Some(value) = reader.value(key)
            && !supported.contains(&value)
        {
            reader.refuse(key, &supported.join(", "), reason);
        }
    }
    for (key, unused, consequence) in NOT_IN_EFFECT {
        if let Some(value) = reader.value(key)
            && !unused.contains(&value)
        {
            reader.no_effect(key, consequence);
        }
    }
}

pub(super) fn is_known(key: &str) -> bool {
    OTHERS.contains(&key)
        || NOT_IN_EFFECT.iter().any(|(name, ..)| *name == key)
        || OTHER_PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    OTHERS
        .into_iter()
        .chain(NOT_IN_EFFECT.into_iter().map(|(name, ..)| name))
}

/// The candidate that is spelt most like `key`, if it is close enough to be a typing error.
pub(super) fn nearest(key: &str, candidates: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let near = candidates
        .map(|candidate| (distance(key, candidate), candidate))
        .min()?;
    (near.0 <= key.len() / 4).then_some(near.1)
}

/// Levenshtein distance in bytes. Keys are short and ASCII.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let cost = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = cost.min(left + 1).min(*cell + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}
