//! Records as the datapath writes them, to flows.

use std::net::IpAddr;
use std::sync::Arc;

use abi::{Addr, DropNotify, EventHeader, PolicyVerdictNotify, TraceNotify, TraceSockNotify};
use proptest::prelude::*;
use seta_flow::*;
use zerocopy::IntoBytes as _;

const CLIENT: &str = "fd00:10:244::a";
const SERVER: &str = "fd00:10:244:1::b";
const SERVICE: &str = "fd00:10:96::50";

/// The client is endpoint 7 of this node, the server is elsewhere.
struct Table;

fn pod(id: u32, identity: u32, name: &str) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        id,
        identity,
        namespace: "default".into(),
        pod_name: name.into(),
        ..Endpoint::default()
    })
}

impl Lookup for Table {
    fn endpoint(&self, address: IpAddr) -> Option<Arc<Endpoint>> {
        match address.to_string().as_str() {
            CLIENT => Some(pod(7, 300, "client")),
            SERVER => Some(pod(0, 301, "server")),
            _ => None,
        }
    }

    fn identity(&self, identity: u32) -> Option<Arc<Endpoint>> {
        let labels = lookup::flow_labels(["k8s:of=identity"]);
        Some(Arc::new(Endpoint {
            identity,
            labels,
            ..Endpoint::default()
        }))
    }

    fn cgroup(&self, cgroup: u64, _: bool) -> Option<(IpAddr, Arc<Endpoint>)> {
        (cgroup == 5).then(|| (CLIENT.parse().expect("an address"), pod(7, 300, "client")))
    }

    fn service(&self, address: IpAddr, port: Option<u16>) -> Option<Arc<Service>> {
        let right = address.to_string() == SERVICE && port.is_none_or(|port| port == 80);
        right.then(|| {
            Arc::new(Service {
                name: "web".into(),
                namespace: "default".into(),
            })
        })
    }

    fn names(&self, id: u32, address: IpAddr) -> Arc<[Arc<str>]> {
        if id == 7 && address.to_string() == SERVER {
            Arc::from([Arc::from("web.example")])
        } else {
            Arc::default()
        }
    }

    fn interface(&self, index: u32) -> Option<Arc<str>> {
        (index == 4).then(|| "eth0".into())
    }

    fn policies(&self, question: &PolicyQuestion) -> Decision {
        assert_eq!((question.endpoint, question.remote), (7, 301));
        Decision {
            policies: vec![Policy {
                name: "rule".into(),
                ..Policy::default()
            }],
            ..Decision::default()
        }
    }
}

fn address(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>().expect("an address").octets()
}

fn frame(source: &str, destination: &str, next: u8, segment: &[u8]) -> Vec<u8> {
    let mut frame = vec![
        2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, next, 64,
    ];
    frame.extend(address(source));
    frame.extend(address(destination));
    frame.extend(segment);
    frame
}

fn tcp(from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut segment = [from.to_be_bytes(), to.to_be_bytes()].concat();
    segment.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
    segment
}

fn header(kind: u8, subtype: u8, source: u16, frame: &[u8]) -> EventHeader {
    let len_cap = u16::try_from(frame.len()).expect("a short frame");
    EventHeader {
        kind,
        subtype,
        source,
        len_cap,
        len_orig: u32::from(len_cap),
        ..EventHeader::default()
    }
}

fn flow(head: &[u8], frame: &[u8]) -> Flow {
    let bytes = [head, frame, &[0; 9]].concat();
    let record = decode(&bytes).expect("a record");
    Observer::new(Table, "kind-worker".into(), Arc::default(), 1).flow(&record, Time(5))
}

fn trace(point: u8, reason: u8, source: u16, orig: Addr, frame: &[u8]) -> Flow {
    let header = header(4, point, source, frame);
    let notify = TraceNotify {
        header,
        src_label: 0,
        reason,
        ifindex: 4,
        orig_addr: orig,
        ..TraceNotify::default()
    };
    flow(notify.as_bytes(), frame)
}

#[test]
fn traces() {
    use TrafficDirection::{Egress, Ingress, Unknown};
    let forth = frame(CLIENT, SERVER, 6, &tcp(50000, 80, 0x02));
    let back = frame(SERVER, CLIENT, 6, &tcp(80, 50000, 0x18));
    for (point, reason, source, frame, seen, reply, direction) in [
        (11, 0, 7, &forth, ObservationPoint::ToNetwork, Some(false), Egress),
        (11, 1, 7, &forth, ObservationPoint::ToNetwork, Some(false), Egress),
        (0, 2, 7, &back, ObservationPoint::ToEndpoint, Some(true), Egress),
        (0, 0, 7, &back, ObservationPoint::ToEndpoint, Some(false), Ingress),
        (5, 5, 7, &forth, ObservationPoint::FromEndpoint, None, Unknown),
        (10, 5, 0, &forth, ObservationPoint::FromNetwork, None, Unknown),
        (
            11,
            0x82,
            7,
            &forth,
            ObservationPoint::ToNetwork,
            Some(true),
            Ingress,
        ),
    ] {
        let flow = trace(point, reason, source, Addr::UNSPECIFIED, frame);
        assert_eq!(
            (flow.observation_point, flow.is_reply, flow.direction),
            (seen, reply, direction),
            "{point} {reason}"
        );
        assert_eq!((flow.verdict, flow.event_type.kind), (Verdict::Forwarded, 4));
        assert_eq!(flow.ip.expect("addresses").encrypted, reason & 0x80 != 0);
    }
    let flow = trace(11, 0, 7, Addr(address(SERVICE)), &forth);
    assert_eq!(flow.summary.to_string(), "TCP Flags: SYN");
    assert_eq!(flow.l4.and_then(|l4| l4.ports()), Some((50000, 80)));
    assert_eq!(flow.destination_service.expect("a service").name, "web".into());
    assert_eq!(&*flow.destination_names[0], "web.example");
    assert_eq!(
        (flow.source.expect("a pod").id, flow.interface),
        (7, Some((4, "eth0".into())))
    );
    let flow = trace(0, 0, 0, Addr::UNSPECIFIED, &back);
    assert_eq!(flow.summary.to_string(), "TCP Flags: ACK, PSH");
}

#[test]
fn drops_and_the_datapaths_word_on_identities() {
    let packet = frame(CLIENT, SERVER, 58, &[3, 0, 0, 0]);
    let notify = DropNotify {
        header: header(1, 133, 7, &packet),
        src_label: 400,
        ..DropNotify::default()
    };
    let flow = flow(notify.as_bytes(), &packet);
    assert_eq!(
        (flow.verdict, flow.drop_reason, flow.is_reply),
        (Verdict::Dropped, Some(DropCode::POLICY_DENIED), None)
    );
    assert_eq!(
        (flow.direction, flow.event_type),
        (
            TrafficDirection::Egress,
            EventType {
                kind: 1,
                subtype: 133
            }
        )
    );
    assert_eq!(flow.summary.to_string(), "ICMPv6 TimeExceeded(HopLimitExceeded)");
    let source = flow.source.expect("a pod");
    assert_eq!(
        (source.identity, &*source.pod_name, &*source.labels[0]),
        (400, "client", "k8s:of=identity")
    );
}

#[test]
fn verdicts() {
    let packet = frame(SERVER, CLIENT, 6, &tcp(50000, 80, 2));
    for (verdict, bits, is, code, subtype, reply) in [
        (0, 0x09, Verdict::Forwarded, None, 0, Some(false)),
        (-133, 0x09, Verdict::Dropped, Some(DropCode(133)), 133, None),
        (0, 0x49, Verdict::Audit, None, 0, Some(false)),
        (15001, 0x09, Verdict::Redirected, None, 0, Some(false)),
        (i32::MIN, 0x09, Verdict::Dropped, Some(DropCode(255)), 255, None),
    ] {
        let header = header(5, 0, 7, &packet);
        let notify = PolicyVerdictNotify {
            header,
            remote_label: 301,
            verdict,
            bits,
            ..PolicyVerdictNotify::default()
        };
        let flow = flow(notify.as_bytes(), &packet);
        assert_eq!((flow.verdict, flow.drop_reason, flow.is_reply), (is, code, reply));
        assert_eq!((flow.event_type.subtype, flow.policy_match_type), (subtype, 1));
        assert_eq!(flow.direction, TrafficDirection::Ingress);
        let rare = flow.rare.expect("policies");
        let allowed = matches!(is, Verdict::Forwarded | Verdict::Redirected);
        assert_eq!(
            (rare.ingress_allowed_by.len(), rare.ingress_denied_by.len()),
            (allowed.into(), (!allowed).into())
        );
    }
}

#[test]
fn sockets() {
    for (point, verdict, reply) in [
        (1, Verdict::Traced, false),
        (2, Verdict::Translated, false),
        (3, Verdict::Traced, true),
        (4, Verdict::Translated, true),
    ] {
        let dst_addr = Addr(address(SERVICE));
        let notify = TraceSockNotify {
            kind: 7,
            point,
            l4_proto: 2,
            flags: 1,
            dst_port: 80,
            cgroup_id: 5,
            dst_addr,
            ..TraceSockNotify::default()
        };
        let flow = flow(notify.as_bytes(), &[]);
        assert_eq!(
            (flow.verdict, flow.is_reply, flow.kind),
            (verdict, Some(reply), FlowKind::Sock)
        );
        let (pod, service) = if reply {
            (flow.destination, flow.source_service)
        } else {
            (flow.source, flow.destination_service)
        };
        assert_eq!(
            (
                pod.expect("the pod").id,
                service.is_some(),
                flow.summary.to_string()
            ),
            (7, true, "UDP".into())
        );
    }
}

#[test]
fn malformed_records_are_told_apart() {
    assert_eq!(decode(&[]), Err(DecodeError::Empty));
    assert_eq!(decode(&[9; 99]), Err(DecodeError::Kind(9)));
    assert_eq!(decode(&[4; 20]), Err(DecodeError::Short { kind: 4, length: 20 }));
    let notify = TraceNotify {
        header: EventHeader {
            kind: 4,
            len_cap: 9,
            ..EventHeader::default()
        },
        ..TraceNotify::default()
    };
    assert_eq!(
        decode(notify.as_bytes()),
        Err(DecodeError::Capture {
            promised: 9,
            present: 0
        })
    );
    let notify = TraceSockNotify {
        kind: 7,
        point: 9,
        ..TraceSockNotify::default()
    };
    assert_eq!(
        decode(notify.as_bytes()),
        Err(DecodeError::Point { kind: 7, point: 9 })
    );
    let mut counters = Counters::default();
    counters.malformed(&DecodeError::Empty);
    assert_eq!(counters.undecoded(), 1);
}

#[test]
fn counters_and_rate() {
    let mut counters = Counters::default();
    for second in 0..120i64 {
        let now = Time(second * 1_000_000_000);
        for _ in 0..3 {
            counters.event(
                &Event::Flow(Arc::new(Flow {
                    verdict: Verdict::Dropped,
                    ..Flow::default()
                })),
                now,
            );
        }
    }
    let rate = counters.rate(Time(119_000_000_000));
    assert!((rate - 3.0).abs() < 1e-9, "{rate}");
    assert!(counters.rate(Time(500_000_000_000)).abs() < 1e-9);
    assert_eq!(
        (
            counters.flows(),
            counters
                .verdicts()
                .find(|(verdict, _)| *verdict == Verdict::Dropped)
        ),
        (360, Some((Verdict::Dropped, 360)))
    );
}

proptest! {
    #[test]
    fn any_bytes_are_a_flow_or_an_error(kind in prop::sample::select(vec![0u8, 1, 4, 5, 7]), mut bytes in prop::collection::vec(any::<u8>(), 0..300), cap in 0u16..200) {
        if let Some(first) = bytes.first_mut() { *first = kind; }
        if let Some(length) = bytes.get_mut(12..14) { length.copy_from_slice(&cap.to_ne_bytes()); }
        fuzz::record(&bytes);
    }

    /// A packet that is cut anywhere still gives what is in front of the cut.
    #[test]
    fn cut_packets(cut in 0usize..75) {
        let packet = frame(CLIENT, SERVER, 6, &tcp(50000, 80, 2));
        let layers = packet::layers(&packet[..cut.min(packet.len())]);
        prop_assert_eq!(layers.ethernet.is_some(), cut >= 14);
        prop_assert_eq!(layers.ip.is_some(), cut >= 54);
        prop_assert_eq!(layers.l4.is_some(), cut >= 58);
    }

    #[test]
    fn uuids_go_through_their_text(number in any::<u128>()) {
        prop_assert_eq!(Uuid(number).to_string().parse(), Ok(Uuid(number)));
    }
}
