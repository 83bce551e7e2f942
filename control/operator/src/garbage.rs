//! What is garbage: decisions on data alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s::{StoredEndpoint, StoredIdentity, StoredNode};
use model::identity::Identity;
use model::inputs::{Node, ObjectName, Pod};

/// Since when things have been found unused, looked at again and again. Times are since the Unix epoch.
#[derive(Clone, Debug)]
pub(crate) struct Unused<K> {
    since: BTreeMap<K, Duration>,
}

impl<K: Ord + Clone> Unused<K> {
    pub(crate) fn new() -> Self {
        Self {
            since: BTreeMap::new(),
        }
    }

    /// Notes what is unused now, and returns what has been so for `grace`. What is used in between begins anew.
    pub(crate) fn observe(&mut self, unused: &BTreeSet<K>, now: Duration, grace: Duration) -> BTreeSet<K> {
        self.since.retain(|key, _| unused.contains(key));
        for key in unused {
            let since = self.since.entry(key.clone()).or_insert(now);
            // A clock that was set back must not prolong the wait for ever.
            *since = (*since).min(now);
        }
        self.since
            .iter()
            .filter(|(_, since)| now.saturating_sub(**since) >= grace)
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Forgets everything, so that every waiting time begins anew.
    pub(crate) fn clear(&mut self) {
        self.since.clear();
    }
}

/// Identities that no CiliumEndpoint has. An object that was made again under its number is another one, hence the uid.
pub(crate) fn unused_identities(
    identities: &[StoredIdentity],
    endpoints: &[StoredEndpoint],
) -> BTreeSet<(Identity, String)> {
    let used: BTreeSet<Identity> = endpoints
        .iter()
        .filter_map(|stored| stored.endpoint.identity)
        .collect();
    identities
        .iter()
        .filter(|stored| !used.contains(&stored.identity))
        .map(|stored| (stored.identity, stored.version.uid.clone()))
        .collect()
}

/// CiliumEndpoints whose pod is gone, has ended, or is another one than the owner. Without an owner reference the name
/// alone counts.
pub(crate) fn stale_endpoints<'a>(endpoints: &'a [StoredEndpoint], pods: &[Pod]) -> Vec<&'a StoredEndpoint> {
    let pods: BTreeMap<&ObjectName, &Pod> = pods.iter().map(|pod| (&pod.name, pod)).collect();
    endpoints
        .iter()
        .filter(|stored| !has_pod(stored, pods.get(&stored.endpoint.name).copied()))
        .collect()
}

/// Whether the pod of that name is the one that the CiliumEndpoint is about, and needs it.
pub(crate) fn has_pod(stored: &StoredEndpoint, pod: Option<&Pod>) -> bool {
    pod.is_some_and(|pod| {
        let owner = &stored.endpoint.pod_uid;
        !pod.finished && !pod.host_network && (owner.is_empty() || *owner == pod.uid)
    })
}

/// CiliumNodes whose node is gone.
pub(crate) fn stale_nodes<'a>(stored: &'a [StoredNode], nodes: &[Node]) -> Vec<&'a StoredNode> {
    let names: BTreeSet<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    stored
        .iter()
        .filter(|stored| !names.contains(stored.name.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use k8s::ObjectVersion;
    use model::inputs::CiliumEndpoint;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn version(uid: &str) -> ObjectVersion {
        ObjectVersion {
            uid: uid.into(),
            resource_version: "1".into(),
        }
    }

    fn identity(number: u32, uid: &str) -> StoredIdentity {
        StoredIdentity {
            identity: Identity(number),
            created: 0,
            version: version(uid),
        }
    }

    fn endpoint(name: &str, pod_uid: &str, identity: Option<u32>) -> StoredEndpoint {
        let endpoint = CiliumEndpoint {
            name: ObjectName::new("default", name),
            pod_uid: pod_uid.into(),
            identity: identity.map(Identity),
            ..CiliumEndpoint::default()
        };
        StoredEndpoint {
            endpoint,
            version: version(name),
        }
    }

    fn pod(name: &str, uid: &str) -> Pod {
        Pod {
            name: ObjectName::new("default", name),
            uid: uid.into(),
            ..Pod::default()
        }
    }

    #[test]
    fn identities_without_endpoint_are_unused() {
        let identities = [identity(300, "a"), identity(301, "b")];
        let endpoints = [endpoint("x", "1", Some(300)), endpoint("waiting", "2", None)];
        assert_eq!(
            unused_identities(&identities, &endpoints),
            [(Identity(301), "b".to_owned())].into()
        );
        assert_eq!(unused_identities(&identities, &[]).len(), 2);
        assert!(unused_identities(&[], &endpoints).is_empty());
    }

    #[test]
    fn only_what_stays_unused_is_garbage() {
        let key = |n: u32, uid: &str| (Identity(n), uid.to_owned());
        let mut unused = Unused::new();
        let both: BTreeSet<_> = [key(300, "a"), key(301, "b")].into();
        let one: BTreeSet<_> = [key(300, "a")].into();
        assert!(unused.observe(&both, MINUTE, 2 * MINUTE).is_empty(), "first seen");
        assert!(
            unused.observe(&one, 2 * MINUTE, 2 * MINUTE).is_empty(),
            "301 is used again"
        );
        assert_eq!(
            unused.observe(&both, 3 * MINUTE, 2 * MINUTE),
            one,
            "301 begins anew"
        );
        assert_eq!(
            unused.observe(&[key(300, "other")].into(), 4 * MINUTE, 2 * MINUTE),
            [].into(),
            "another object"
        );
        assert_eq!(
            unused.observe(&both, 5 * MINUTE, Duration::ZERO),
            both,
            "no grace, no wait"
        );
        unused.clear();
        assert!(unused.observe(&both, 90 * MINUTE, 2 * MINUTE).is_empty());
        assert!(
            unused.observe(&both, 10 * MINUTE, 2 * MINUTE).is_empty(),
            "the clock was set back"
        );
        assert_eq!(unused.observe(&both, 12 * MINUTE, 2 * MINUTE), both);
    }

    #[test]
    fn endpoints_follow_their_pods() {
        let finished = Pod {
            finished: true,
            ..pod("job", "4")
        };
        let moved = Pod {
            host_network: true,
            ..pod("host", "5")
        };
        let pods = [
            pod("client", "1"),
            pod("server-0", "new"),
            finished,
            moved,
            pod("old", "6"),
        ];
        let rows = [
            ("its pod runs", endpoint("client", "1", None), false),
            ("its pod is gone", endpoint("gone", "2", None), true),
            ("the pod was made again", endpoint("server-0", "3", None), true),
            ("the pod has ended", endpoint("job", "4", None), true),
            (
                "the pod uses the node's network",
                endpoint("host", "5", None),
                true,
            ),
            ("no owner reference", endpoint("old", "", None), false),
        ];
        for (name, stored, stale) in rows {
            assert_eq!(!stale_endpoints(&[stored], &pods).is_empty(), stale, "{name}");
        }
    }

    #[test]
    fn cilium_nodes_follow_their_nodes() {
        let stored = |name: &str| StoredNode {
            name: name.into(),
            version: version(name),
        };
        let nodes = [Node {
            name: "kind-worker".into(),
            ..Node::default()
        }];
        let all = [stored("kind-worker"), stored("kind-worker2")];
        assert_eq!(stale_nodes(&all, &nodes), [&all[1]]);
    }
}
