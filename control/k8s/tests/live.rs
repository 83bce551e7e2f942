//! Everything that is written, against a real API server (the lab's or any other): set `SETA_TEST_KUBECONFIG`.
//! It makes objects named `seta-k8s-test`; what stays of them is an event and a Lease that nobody holds. Prints `SKIP`
//! without the variable.

use std::time::Duration;

use model::endpoint::{EndpointId, EndpointState, EndpointStatus};
use model::identity::IdentityIndex;
use model::inputs::{AddressType, CiliumNode, ObjectName};
use model::labels::Labels;
use seta_k8s::{Access, Change, Cluster, Deleted, Election, Input, Leadership, LeaseTimes, Watches};

const NAME: &str = "seta-k8s-test";
const DEADLINE: Duration = Duration::from_secs(10);

/// The first event that `wanted` makes something of.
async fn until<T>(watches: &mut Watches, wanted: impl Fn(Input) -> Option<T>) -> T {
    let search = async {
        loop {
            if let Some(found) = wanted(watches.next().await.expect("the watches go on")) {
                return found;
            }
        }
    };
    tokio::time::timeout(DEADLINE, search)
        .await
        .expect("the event comes in time")
}

fn status(state: EndpointState) -> EndpointStatus {
    EndpointStatus {
        id: EndpointId(7),
        state,
        identity: None,
        container_id: "c1".into(),
        attachment_id: "c1:eth0".into(),
        pod: ObjectName::new("default", NAME),
        addresses: vec!["fd00:10:244::6321".parse().expect("an address")],
        node_ip: Some("fc00:f853:ccd:e793::2".parse().expect("an address")),
        named_ports: Vec::new(),
        service_account: "default".into(),
    }
}

#[tokio::test]
async fn everything_that_is_written_comes_back() {
    let Some(path) = std::env::var_os("SETA_TEST_KUBECONFIG") else {
        println!("SKIP: SETA_TEST_KUBECONFIG names no kubeconfig");
        return;
    };
    let access = Access::Kubeconfig {
        path: path.into(),
        context: None,
    };
    let cluster = Cluster::connect(&access, NAME).await.unwrap();
    cluster.register_crds(DEADLINE).await.unwrap();
    cluster.wait_for_crds(DEADLINE).await.unwrap();
    let mut watches = cluster.watch(NAME);

    // A node of ours.
    let mut node = CiliumNode {
        name: NAME.into(),
        boot_id: "b1".into(),
        ..CiliumNode::default()
    };
    cluster.publish_node(&node).await.unwrap();
    node.addresses
        .push((AddressType::CiliumInternalIP, "fd00:10:244::1".parse().unwrap()));
    cluster.publish_node(&node).await.unwrap();
    let seen = until(&mut watches, |input| match input {
        Input::CiliumNode(Change::Upsert(seen)) if seen.name == NAME && !seen.addresses.is_empty() => {
            Some(seen)
        }
        _ => None,
    });
    assert_eq!(seen.await, node);

    // An endpoint, from its first to its last state.
    for state in [EndpointState::WaitingForIdentity, EndpointState::Ready] {
        cluster.publish_endpoint("", &status(state)).await.unwrap();
        cluster.publish_endpoint("", &status(state)).await.unwrap();
        let seen = until(&mut watches, |input| match input {
            Input::CiliumEndpoint(Change::Upsert(seen))
                if seen.name.name == NAME && seen.state == state.as_str() =>
            {
                Some(seen)
            }
            _ => None,
        });
        assert_eq!(seen.await.addresses, status(state).addresses);
    }
    cluster
        .delete_endpoint(&ObjectName::new("default", NAME), "")
        .await
        .unwrap();
    until(&mut watches, |input| match input {
        Input::CiliumEndpoint(Change::Remove(name)) if name.name == NAME => Some(()),
        _ => None,
    })
    .await;

    // Two agents that know nothing of each other agree on one number; a stale judgement deletes nothing.
    let labels = Labels::parse([
        format!("k8s:app={NAME}"),
        "k8s:io.kubernetes.pod.namespace=default".to_owned(),
    ]);
    let index = IdentityIndex::new();
    let number = 5_000;
    let one = cluster
        .resolve_identity(&index, &labels, || number)
        .await
        .unwrap()
        .identity;
    let other = cluster
        .resolve_identity(&index, &labels, || number + 1)
        .await
        .unwrap();
    assert_eq!(other.identity, one.min(other.identity), "the older or lower one");
    for stored in cluster.identities().await.unwrap() {
        if other
            .learned
            .iter()
            .any(|object| object.identity == stored.identity)
            || stored.identity == one
        {
            let mut stale = stored.clone();
            stale.version.resource_version = "1".into();
            assert_eq!(cluster.delete_identity(&stale).await.unwrap(), Deleted::Changed);
            assert_eq!(cluster.delete_identity(&stored).await.unwrap(), Deleted::Gone);
            assert_eq!(
                cluster.delete_identity(&stored).await.unwrap(),
                Deleted::Gone,
                "gone is gone"
            );
        }
    }

    // A Lease has one holder.
    let election = |me| Election::new(cluster.clone(), "default", NAME, me, LeaseTimes::default());
    let (mut a, mut b) = (election("a"), election("b"));
    assert_eq!(a.step().await.unwrap(), Leadership::Leader);
    assert_eq!(
        b.step().await.unwrap(),
        Leadership::Follower { holder: "a".into() }
    );
    a.release().await.unwrap();
    assert_eq!(b.step().await.unwrap(), Leadership::Leader);
    b.release().await.unwrap();

    let pod = ObjectName::new("default", NAME);
    cluster
        .warn_about_pod(&pod, "", NAME, "Test", "written by a test")
        .await
        .unwrap();

    // Whatever node there is becomes ready.
    if let Some(node) = cluster.nodes_everywhere().await.unwrap().first() {
        cluster.mark_network_ready(&node.name).await.unwrap();
        let ready = cluster.wait_for_node(&node.name, DEADLINE, |node| {
            !node
                .taints
                .iter()
                .any(|taint| taint == "node.cilium.io/agent-not-ready")
        });
        ready.await.unwrap();
    } else {
        println!("SKIP: the cluster has no node to mark");
    }

    let stored = cluster.cilium_nodes().await.unwrap();
    let ours = stored.iter().find(|stored| stored.name == NAME).unwrap();
    assert_eq!(cluster.delete_cilium_node(ours).await.unwrap(), Deleted::Gone);
}
