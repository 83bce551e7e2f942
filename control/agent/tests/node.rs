//! The whole agent on a node without Kubernetes: pods in network namespaces, packets through the kernel's programs,
//! the agent killed and started again. Needs root and BPF; says `SKIP` without.

mod fixture;

use std::time::{Duration, Instant};

use api::cni::{Attachment, CheckRequest, GcRequest, code};
use api::status::{State, StatusResponse};
use api::{ClientError, path};
use serde_json::Value;

use fixture::cluster::Cluster;
use fixture::{Fixture, skip};

/// Not a test: what the fixture starts as the agent's process.
#[test]
#[ignore = "run by the other tests"]
fn agent_process() {
    fixture::run_agent();
}

#[test]
fn pods_talk_and_the_agent_may_die() {
    if skip() {
        return;
    }
    let mut node = Fixture::new("live");
    node.start();
    let (one, two) = (node.pod("one"), node.pod("two"));
    let (first, second) = (node.add(&one).expect("ADD"), node.add(&two).expect("ADD"));
    let address = |response: &api::cni::AddResponse| response.addresses[0].address.replace("/128", "");
    let (first, second) = (address(&first), address(&second));
    assert!(node.ping(&one, &second, 3), "pod to pod:\n{}", node.look());
    assert!(node.ping(&two, &first, 3), "pod to pod:\n{}", node.look());
    assert!(
        node.ping(&node.name(), &first, 3),
        "node to pod:\n{}",
        node.look()
    );
    let router = node
        .get::<StatusResponse>(path::HEALTHZ)
        .ipam
        .allocations
        .into_iter()
        .find(|(_, owner)| owner == "router");
    let (router, _) = router.expect("a router address");
    assert!(node.ping(&one, &router, 3), "pod to router:\n{}", node.look());

    let check = |node: &Fixture, pod: &str, address: &str| {
        let attachment = Attachment {
            container_id: pod.to_owned(),
            ifname: "eth0".to_owned(),
        };
        let netns = format!("/run/netns/{pod}");
        node.put::<_, Value>(
            path::CNI_CHECK,
            &CheckRequest {
                attachment,
                netns,
                addresses: vec![address.to_owned()],
            },
        )
    };
    check(&node, &one, &format!("{first}/128")).expect("as ADD left it");
    assert_eq!(refusal(check(&node, &one, "fd00::bad/128")), code::CHECK_FAILED);
    assert_eq!(
        refusal(check(&node, "nobody", "fd00::1/128")),
        code::UNKNOWN_CONTAINER
    );

    // The agent dies while packets flow: none may be lost, and the next agent knows the same pods.
    let flood = node.flood(&one, &second, Duration::from_millis(5), 400);
    node.kill();
    node.start();
    let lost = flood.lost();
    assert_eq!(lost, 0, "packets lost over the restart:\n{}", node.look());
    check(&node, &one, &format!("{first}/128")).expect("as ADD left it");
    let status = node.get::<StatusResponse>(path::HEALTHZ);
    assert_eq!(status.cilium.state, State::Ok, "{:?}", status.cilium);
    assert!(
        status
            .controllers
            .iter()
            .all(|c| c.status.consecutive_failure_count == 0),
        "{:?}",
        status.controllers
    );
    assert_eq!((status.attach_mode.as_str(), status.ipam.ipv6.len()), ("TCX", 3));

    node.del(&one).expect("DEL");
    node.del(&one).expect("DEL again");
    assert!(!node.ping(&two, &first, 1), "a deleted pod answers");
    let third = node.add(&one).expect("ADD under the old name");
    assert_ne!(address(&third), first, "an address is used again at once");
    assert!(node.ping(&two, &address(&third), 3), "{}", node.look());
}

#[test]
fn failed_and_forgotten_pods_leave_nothing() {
    if skip() {
        return;
    }
    let mut node = Fixture::new("undo");
    node.start();
    let one = node.pod("one");
    node.add(&one).expect("ADD");
    assert_eq!(refusal(node.add(&one)), code::EXISTS);
    let mut other = node.request(&one);
    other.attachment.container_id = "another-sandbox".to_owned();
    assert_eq!(
        refusal(node.send_add(&other)),
        code::EXISTS,
        "eth0 is there already"
    );
    let mut nowhere = node.request("nowhere");
    nowhere.netns = "/run/netns/there-is-no-such-namespace".to_owned();
    assert_eq!(refusal(node.send_add(&nowhere)), code::BAD_ENVIRONMENT);
    assert_eq!(node.links(), 1, "{}", node.look());
    assert_eq!(
        node.get::<StatusResponse>(path::HEALTHZ).ipam.ipv6.len(),
        2,
        "the router's address and one pod's"
    );

    // A delete that came while no agent ran.
    node.kill();
    node.queue_delete(&one);
    node.start();
    assert_eq!(node.links(), 0, "{}", node.look());
    assert_eq!(node.queued(), 0);

    // A namespace that vanished without DEL.
    let two = node.pod("two");
    node.add(&two).expect("ADD");
    node.kill();
    node.remove_pod(&two);
    node.start();
    let left = node.get::<Vec<api::Endpoint>>(path::ENDPOINT);
    let identities: Vec<u32> = left.iter().map(|endpoint| endpoint.status.identity.id).collect();
    assert_eq!(identities, [1], "only the node itself");
    assert_eq!(
        (left[0].status.state.as_str(), &left[0].status.identity.labels[..]),
        ("ready", &["reserved:host".to_owned()][..])
    );
    assert_eq!(
        node.get::<StatusResponse>(path::HEALTHZ).ipam.ipv6.len(),
        1,
        "only the router's address"
    );

    // GC takes what the runtime does not list.
    let (three, four) = (node.pod("three"), node.pod("four"));
    node.add(&three).expect("ADD");
    node.add(&four).expect("ADD");
    let valid = vec![Attachment {
        container_id: three.clone(),
        ifname: "eth0".to_owned(),
    }];
    node.put::<_, Value>(path::CNI_GC, &GcRequest { valid })
        .expect("GC");
    let mut left = node.get::<Vec<api::Endpoint>>(path::ENDPOINT);
    left.retain(|endpoint| endpoint.status.identity.id != 1);
    assert_eq!(left.len(), 1);
    assert_eq!(
        (
            left[0].status.external_identifiers.container_id.as_str(),
            node.links()
        ),
        (three.as_str(), 1)
    );

    // A state file of garbage: the agent starts, and what nobody knows any more is taken away.
    node.kill();
    node.spoil_state();
    node.start();
    assert_eq!(node.links(), 0, "{}", node.look());
    assert_eq!(node.set_aside(), 1);
}

#[test]
fn after_a_burst_of_pods_the_next_agent_is_ready_before_their_links_are_made() {
    if skip() {
        return;
    }
    const PODS: usize = 100;
    /// Making two links takes the kernel 25 ms per pod.
    const READY: Duration = Duration::from_millis(1500);
    let mut node = Fixture::new("burst");
    node.start();
    let pods: Vec<String> = (0..PODS).map(|number| node.pod(&number.to_string())).collect();
    let addresses: Vec<String> = pods
        .iter()
        .map(|pod| {
            node.add(pod).expect("ADD").addresses[0]
                .address
                .replace("/128", "")
        })
        .collect();
    node.kill();
    let began = Instant::now();
    node.start();
    let took = began.elapsed();
    println!("ready after {took:?} with {PODS} pods");
    assert!(took < READY, "{took:?}");
    let status = node.get::<StatusResponse>(path::HEALTHZ);
    assert_eq!(
        (status.cilium.state, status.attach_mode.as_str()),
        (State::Ok, "TCX, Legacy TC on new pods"),
        "{:?}",
        status.cilium
    );
    assert!(node.ping(&pods[PODS - 1], &addresses[0], 1), "{}", node.look());

    let until = Instant::now() + Duration::from_secs(60);
    while node.get::<StatusResponse>(path::HEALTHZ).attach_mode != "TCX" {
        assert!(Instant::now() < until, "links are not made");
        std::thread::sleep(Duration::from_millis(100));
    }
    let status = node.get::<StatusResponse>(path::HEALTHZ);
    assert_eq!(status.cilium.state, State::Ok, "{:?}", status.cilium);
    assert!(node.ping(&pods[0], &addresses[PODS - 1], 1), "{}", node.look());
}

#[test]
fn while_the_api_server_is_away_pods_are_served_and_the_agent_says_why_it_is_not_ready() {
    if skip() {
        return;
    }
    let mut node = Fixture::new("away");
    node.start();
    let (one, two) = (node.pod("one"), node.pod("two"));
    let address = |response: &api::cni::AddResponse| response.addresses[0].address.replace("/128", "");
    let first = address(&node.add(&one).expect("ADD"));
    node.kill();
    node.start_in_cluster();
    let refused = node.put::<_, Value>(path::CNI_CHECK, &check(&one, &first));
    refused.expect("as ADD left it");
    let second = address(&node.add(&two).expect("ADD without an API server"));
    assert!(node.ping(&one, &second, 3), "{}", node.look());
    let status = node.get::<StatusResponse>(path::HEALTHZ);
    assert_eq!(status.cilium.state, State::Warning, "{:?}", status.cilium);
    assert!(
        status.cilium.msg.contains("waiting for the CRDs"),
        "{:?}",
        status.cilium
    );
    assert_eq!(status.kubernetes.state, State::Failure);
    node.del(&two).expect("DEL");
    assert!(!node.ping(&one, &second, 1), "a deleted pod answers");

    // It comes.
    let cluster = Cluster::start(&node.name());
    let object = |block: &str| {
        serde_json::json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {}, "spec": {"podCIDR": block, "podCIDRs": [block]},
            "status": {"addresses": [{"type": "InternalIP", "address": "fc00:f853:ccd:e793::2"}]},
        })
    };
    cluster.put("/api/v1/nodes/node", object("fd00:10:244::/64"));
    node.wait_ready();
    let status = node.get::<StatusResponse>(path::HEALTHZ);
    assert_eq!(status.cilium.state, State::Ok, "{:?}", status.cilium);
    assert!(cluster.get("/apis/cilium.io/v2/ciliumnodes/node").is_some());

    // Another block: the agent ends, and the next one works with it. Pods keep their addresses.
    cluster.put("/api/v1/nodes/node", object("fd00:10:244:7::/64"));
    node.wait_ended();
    node.start_in_cluster();
    node.wait_ready();
    let three = node.pod("three");
    let third = address(&node.add(&three).expect("ADD"));
    assert!(third.starts_with("fd00:10:244:7:"), "{third}");
    assert!(node.ping(&one, &third, 3), "{}", node.look());
}

fn check(pod: &str, address: &str) -> CheckRequest {
    CheckRequest {
        attachment: Attachment {
            container_id: pod.to_owned(),
            ifname: "eth0".to_owned(),
        },
        netns: format!("/run/netns/{pod}"),
        addresses: vec![format!("{address}/128")],
    }
}

fn refusal<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> u32 {
    match outcome {
        Err(ClientError::Refused { error, .. }) => error.cni_code,
        other => panic!("not refused: {other:?}"),
    }
}
