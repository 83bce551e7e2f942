use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::addr::{Family, Mac};
use crate::endpoint::{EndpointId, EndpointState};
use crate::identity::Identity;
use crate::inputs::{NamedPort, ObjectName};
use crate::labels::Labels;

fn endpoint(id: u16) -> Endpoint {
    Endpoint {
        id: EndpointId(id),
        state: EndpointState::Ready,
        container_id: format!("container-{id}"),
        ifname: "eth0".into(),
        netns: "/var/run/netns/cni-1".into(),
        pod: ObjectName::new("default", format!("pod-{id}")),
        pod_uid: "0f2c".into(),
        addresses: vec!["fd00:10:244::6321".parse().unwrap()],
        host_ifname: "lxc0123456789".into(),
        host_ifindex: 9,
        mac: Mac([2, 0, 0, 0, 0, 1]),
        host_mac: Mac([2, 0, 0, 0, 0, 2]),
        mtu: 1500,
        labels: Labels::parse(["k8s:app=client"]),
        identity: Identity(300),
        named_ports: vec![NamedPort {
            name: "http".into(),
            port: 80,
            protocol: "TCP".into(),
        }],
        service_account: "default".into(),
    }
}

fn state() -> AgentState {
    let mut ipam = Ipam::new(&["fd00:10:244::/64".parse().unwrap()], Duration::from_secs(60)).unwrap();
    let now = Duration::from_millis(1_700_000_000_123);
    let router = ipam
        .allocate(Family::V6, crate::ipam::Owner::Router, 4, now)
        .unwrap();
    let old = ipam
        .allocate(Family::V6, crate::ipam::Owner::container("gone", "eth0"), 9, now)
        .unwrap();
    ipam.release(old, now);
    AgentState {
        node: "kind-worker".into(),
        routers: vec![router],
        ipam: ipam.snapshot(),
        endpoints: vec![endpoint(1), endpoint(2)],
    }
}

#[test]
fn what_is_written_is_read() {
    let state = state();
    let (read, ipam) = AgentState::decode(&state.encode().unwrap()).unwrap();
    assert_eq!(read, state);
    assert_eq!(ipam.snapshot(), state.ipam);
}

type Expected = fn(&DecodeError) -> bool;

#[test]
fn bad_files_are_named_for_what_they_are() {
    let good = String::from_utf8(state().encode().unwrap()).unwrap();
    let rows: [(&str, String, Expected); 7] = [
        ("empty", String::new(), |e| matches!(e, DecodeError::Corrupt(_))),
        ("garbage", "\u{0}\u{1}".into(), |e| {
            matches!(e, DecodeError::Corrupt(_))
        }),
        ("cut off", good[..good.len() / 2].into(), |e| {
            matches!(e, DecodeError::Corrupt(_))
        }),
        (
            "newer",
            good.replacen("\"version\": 1", "\"version\": 2", 1),
            |e| matches!(e, DecodeError::Version { found: 2 }),
        ),
        (
            "newer and different",
            "{\"version\": 9, \"agent\": {}}".into(),
            |e| matches!(e, DecodeError::Version { found: 9 }),
        ),
        (
            "an endpoint twice",
            good.replacen("\"id\": 2", "\"id\": 1", 1),
            |e| matches!(e, DecodeError::DuplicateEndpoint { .. }),
        ),
        (
            "an address twice",
            {
                let mut state = state();
                state.ipam.used.push(state.ipam.used[0].clone());
                String::from_utf8(state.encode().unwrap()).unwrap()
            },
            |e| matches!(e, DecodeError::Ipam(_)),
        ),
    ];
    for (name, text, is_expected) in rows {
        let error = AgentState::decode(text.as_bytes()).unwrap_err();
        assert!(is_expected(&error), "{name}: {error}");
    }
}

proptest! {
    #[test]
    fn no_damage_makes_it_panic(position: prop::sample::Index, byte: u8) {
        let mut bytes = state().encode().unwrap();
        let at = position.index(bytes.len());
        bytes[at] = byte;
        if let Ok((state, ipam)) = AgentState::decode(&bytes) {
            prop_assert_eq!(ipam.snapshot().used.len(), state.ipam.used.len());
        }
    }
}
