//! Whether a pod may run on a node: selectors, affinity, taints, ports. Pure; shared by scheduler and DaemonSets.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodAffinityTerm, PodSpec, Taint,
    Toleration,
};

use super::common::{self, is_active, labels, node_name, requirement, selects};

/// Why a pod cannot run on a node, in the order in which Kubernetes checks it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Misfit {
    /// The node was cordoned.
    Unschedulable,
    /// The node has a taint that the pod does not tolerate.
    Taint {
        /// Key of the taint
        key: String,
        /// Its value
        value: String,
    },
    /// The pod wants other nodes.
    Affinity,
    /// Another pod there has one of the ports.
    Ports,
    /// The node has as many pods as it takes.
    TooManyPods,
    /// The pod wants to be where certain pods are, and they are not there.
    PodAffinity,
    /// The pod wants not to be where certain pods are, and one is there.
    PodAntiAffinity,
    /// A pod there does not want this one.
    ExistingAntiAffinity,
}

impl Misfit {
    /// Whether it would help if pods on the node were ended.
    pub(crate) fn goes_with_pods(&self) -> bool {
        matches!(
            self,
            Self::Ports | Self::TooManyPods | Self::PodAntiAffinity | Self::ExistingAntiAffinity
        )
    }
}

impl std::fmt::Display for Misfit {
    /// The words of Kubernetes' scheduler plugins.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unschedulable => f.write_str("node(s) were unschedulable"),
            Self::Taint { key, value } => write!(f, "node(s) had untolerated taint {{{key}: {value}}}"),
            Self::Affinity => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Self::Ports => f.write_str("node(s) didn't have free ports for the requested pod ports"),
            Self::TooManyPods => f.write_str("Too many pods"),
            Self::PodAffinity => f.write_str("node(s) didn't match pod affinity rules"),
            Self::PodAntiAffinity => f.write_str("node(s) didn't match pod anti-affinity rules"),
            Self::ExistingAntiAffinity => {
                f.write_str("node(s) didn't satisfy existing pods anti-affinity rules")
            }
        }
    }
}

/// Checks what concerns pod and node alone: all but the other pods.
///
/// # Errors
/// The first reason against it.
pub(crate) fn check_node(pod: &PodSpec, node: &Node) -> Result<(), Misfit> {
    let tolerations = pod.tolerations.as_deref().unwrap_or_default();
    let spec = node.spec.as_ref();
    let cordon = Taint {
        key: super::node_lifecycle::UNSCHEDULABLE.to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    if spec.and_then(|spec| spec.unschedulable) == Some(true) && !tolerated(&cordon, tolerations) {
        return Err(Misfit::Unschedulable);
    }
    if let Some(taint) = untolerated(node, tolerations, &["NoSchedule", "NoExecute"]) {
        let value = taint.value.clone().unwrap_or_default();
        return Err(Misfit::Taint {
            key: taint.key.clone(),
            value,
        });
    }
    if !wants(pod, node) {
        return Err(Misfit::Affinity);
    }
    Ok(())
}

/// Checks what concerns the pods of the cluster. `nodes` are all nodes by name.
///
/// # Errors
/// The first reason against it.
pub(crate) fn check_pods(
    pod: &Pod,
    node: &Node,
    pods: &[Pod],
    nodes: &BTreeMap<&str, &Node>,
) -> Result<(), Misfit> {
    let name = node.metadata.name.as_deref();
    let there: Vec<&Pod> = pods
        .iter()
        .filter(|other| node_name(other) == name && !common::has_ended(other))
        .collect();
    let wanted = ports(pod);
    if there
        .iter()
        .flat_map(|other| ports(other))
        .any(|taken| wanted.iter().any(|port| clash(*port, taken)))
    {
        return Err(Misfit::Ports);
    }
    if there.len() >= capacity(node) {
        return Err(Misfit::TooManyPods);
    }
    let topology = Topology { node, nodes };
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let with = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
    for term in with
        .and_then(|with| with.required_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .flatten()
    {
        let mut others = pods
            .iter()
            .filter(|other| is_active(other) && concerns(term, pod, other));
        // The first of a group that wants to be together may go anywhere.
        let first = concerns(term, pod, pod) && others.clone().all(|other| node_name(other).is_none());
        if !first && !others.any(|other| topology.shares(&term.topology_key, other)) {
            return Err(Misfit::PodAffinity);
        }
    }
    if anti_terms(pod).any(|term| {
        pods.iter().any(|other| {
            is_active(other) && concerns(term, pod, other) && topology.shares(&term.topology_key, other)
        })
    }) {
        return Err(Misfit::PodAntiAffinity);
    }
    let unwelcome = pods.iter().filter(|other| is_active(other)).any(|other| {
        anti_terms(other).any(|term| concerns(term, other, pod) && topology.shares(&term.topology_key, other))
    });
    if unwelcome {
        Err(Misfit::ExistingAntiAffinity)
    } else {
        Ok(())
    }
}

/// The first taint of a node, with one of these effects, that no toleration covers.
pub(crate) fn untolerated<'a>(
    node: &'a Node,
    tolerations: &[Toleration],
    effects: &[&str],
) -> Option<&'a Taint> {
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    taints
        .iter()
        .find(|taint| effects.contains(&taint.effect.as_str()) && !tolerated(taint, tolerations))
}

fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let exists = toleration.operator.as_deref() == Some("Exists");
        let effect = given(&toleration.effect).is_none_or(|effect| effect == taint.effect);
        let key = given(&toleration.key).map_or(exists, |key| key == taint.key);
        let value = exists || given(&toleration.value) == given(&taint.value);
        effect && key && value
    })
}

/// Whether node selector and required node affinity of a pod match a node.
pub(crate) fn wants(pod: &PodSpec, node: &Node) -> bool {
    let node_labels = labels(&node.metadata);
    let selected = pod
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| node_labels.get(key) == Some(value));
    let affinity = pod
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| {
        affinity
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    selected && required.is_none_or(|selector| node_selector_matches(selector, node))
}

/// One of the terms must match; a term without requirements matches nothing.
fn node_selector_matches(selector: &NodeSelector, node: &Node) -> bool {
    selector
        .node_selector_terms
        .iter()
        .any(|term| node_term_matches(term, node))
}

fn node_term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let holds = |wanted: &NodeSelectorRequirement, actual: Option<&str>| {
        requirement(
            &wanted.operator,
            wanted.values.as_deref().unwrap_or_default(),
            actual,
        )
    };
    let node_labels = labels(&node.metadata);
    // `metadata.name` is the only field that Kubernetes knows here.
    let field = |name: &str| {
        (name == "metadata.name")
            .then_some(node.metadata.name.as_deref())
            .flatten()
    };
    !(expressions.is_empty() && fields.is_empty())
        && expressions
            .iter()
            .all(|wanted| holds(wanted, node_labels.get(&wanted.key).map(String::as_str)))
        && fields.iter().all(|wanted| holds(wanted, field(&wanted.key)))
}

/// A port that a pod takes on its node: protocol, address (empty: all), number.
type HostPort<'a> = (&'a str, &'a str, i32);

fn ports(pod: &Pod) -> Vec<HostPort<'_>> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let host_network = spec.host_network == Some(true);
    let ports = spec
        .containers
        .iter()
        .flat_map(|container| container.ports.as_deref().unwrap_or_default());
    ports
        .filter_map(|port| {
            let number = port
                .host_port
                .or(host_network.then_some(port.container_port))
                .filter(|number| *number > 0)?;
            let address = port
                .host_ip
                .as_deref()
                .filter(|ip| !matches!(*ip, "0.0.0.0" | "::"))
                .unwrap_or_default();
            Some((port.protocol.as_deref().unwrap_or("TCP"), address, number))
        })
        .collect()
}

fn clash(one: HostPort<'_>, other: HostPort<'_>) -> bool {
    one.0 == other.0 && one.2 == other.2 && (one.1.is_empty() || other.1.is_empty() || one.1 == other.1)
}

/// How many pods a node takes; a node that does not say takes any number.
fn capacity(node: &Node) -> usize {
    let allocatable = node
        .status
        .as_ref()
        .and_then(|status| status.allocatable.as_ref());
    allocatable
        .and_then(|resources| resources.get("pods")?.0.parse().ok())
        .unwrap_or(usize::MAX)
}

/// The required anti-affinity terms of a pod.
fn anti_terms(pod: &Pod) -> impl Iterator<Item = &PodAffinityTerm> {
    let affinity = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.affinity.as_ref()?.pod_anti_affinity.as_ref());
    affinity
        .and_then(|anti| anti.required_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .flatten()
}

/// Whether a term of `pod` is about `other`. Without a list of namespaces, it is about the pod's own; a namespace
/// selector is taken for all namespaces, since labels of namespaces are not looked at.
fn concerns(term: &PodAffinityTerm, pod: &Pod, other: &Pod) -> bool {
    let namespace = other.metadata.namespace.as_ref();
    let named = term.namespaces.as_deref().unwrap_or_default();
    let in_scope = match named {
        [] => term.namespace_selector.is_some() || namespace == pod.metadata.namespace.as_ref(),
        names => namespace.is_some_and(|namespace| names.contains(namespace)),
    };
    in_scope
        && term
            .label_selector
            .as_ref()
            .is_some_and(|selector| selects(selector, labels(&other.metadata)))
}

/// A node among the nodes.
struct Topology<'a> {
    node: &'a Node,
    nodes: &'a BTreeMap<&'a str, &'a Node>,
}

impl Topology<'_> {
    /// Whether a pod is in the same part of the cluster, as labels with this key divide it.
    fn shares(&self, key: &str, pod: &Pod) -> bool {
        let theirs = node_name(pod)
            .and_then(|name| self.nodes.get(name))
            .and_then(|node| labels(&node.metadata).get(key));
        theirs.is_some() && theirs == labels(&self.node.metadata).get(key)
    }
}

#[cfg(test)]
mod tests;
