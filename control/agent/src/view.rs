//! What the agent has been told of the cluster, and the questions it asks of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::identity::IdentityIndex;
use model::inputs::{CiliumEndpoint, CiliumNode, NamedPort, Namespace, Node, ObjectName, Pod};
use model::{Identity, LabelFilter, Labels};

/// Everything that is known. One writer (the watches), many readers, each for moments.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedView(Arc<Mutex<View>>);

impl SharedView {
    /// Looks at the view, or changes it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, View> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of the cluster.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// The object of this node.
    pub(crate) node: Option<Node>,
    /// All nodes that run an agent.
    pub(crate) nodes: BTreeMap<String, CiliumNode>,
    /// Pods of the whole cluster, as their nodes published them.
    pub(crate) endpoints: BTreeMap<ObjectName, CiliumEndpoint>,
    /// Pods of this node.
    pub(crate) pods: BTreeMap<ObjectName, Pod>,
    /// Namespaces.
    pub(crate) namespaces: BTreeMap<String, Namespace>,
    /// Label sets and their numbers.
    pub(crate) identities: IdentityIndex,
}

/// What a pod's objects say about its endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodFacts {
    /// Unique id of the pod.
    pub(crate) uid: String,
    /// The labels that make its identity.
    pub(crate) labels: Labels,
    /// Its identity, if the label set has one already.
    pub(crate) identity: Option<Identity>,
    /// Named ports of its containers.
    pub(crate) named_ports: Vec<NamedPort>,
    /// Its service account.
    pub(crate) service_account: String,
}

impl View {
    /// What is known of a pod, once the pod and its namespace are. With a unique id given, a pod of the same name
    /// with another id is not it (a StatefulSet makes such).
    #[must_use]
    pub(crate) fn pod(
        &self,
        name: &ObjectName,
        uid: &str,
        cluster: &str,
        filter: &LabelFilter,
    ) -> Option<PodFacts> {
        let pod = self
            .pods
            .get(name)
            .filter(|pod| uid.is_empty() || pod.uid == uid)?;
        Some(self.facts(pod, self.namespaces.get(&name.namespace)?, cluster, filter))
    }

    /// The same of a pod that was asked for by name.
    #[must_use]
    pub(crate) fn facts(
        &self,
        pod: &Pod,
        namespace: &Namespace,
        cluster: &str,
        filter: &LabelFilter,
    ) -> PodFacts {
        let labels = Labels::of_pod(pod, namespace, cluster, filter);
        PodFacts {
            uid: pod.uid.clone(),
            identity: self.identities.lookup(&labels),
            labels,
            named_ports: pod.named_ports.clone(),
            service_account: pod.service_account.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_of_the_same_name_is_another_pod() {
        let name = ObjectName::new("default", "web-0");
        let pod = Pod {
            name: name.clone(),
            uid: "one".into(),
            ..Pod::default()
        };
        let mut view = View::default();
        view.pods.insert(name.clone(), pod);
        let filter = LabelFilter::new("").expect("a filter");
        assert_eq!(
            view.pod(&name, "one", "kind", &filter),
            None,
            "its namespace is not known yet"
        );
        view.namespaces.insert(
            "default".into(),
            Namespace {
                name: "default".into(),
                ..Namespace::default()
            },
        );
        assert!(view.pod(&name, "one", "kind", &filter).is_some());
        assert!(view.pod(&name, "", "kind", &filter).is_some());
        assert_eq!(view.pod(&name, "two", "kind", &filter), None);
    }
}
