use std::net::Ipv6Addr;

use hickory_proto::op::{Edns, Query};
use hickory_proto::rr::{Name, RecordType};
use proptest::prelude::*;

use super::*;
use crate::index::{Backing, Endpoint, Key, Service, Slice};
use crate::zone::Pods;

/// A headless service with this many endpoints.
fn cluster(endpoints: u16) -> (Index, Zone) {
    let mut index = Index::new();
    index.put_service(Service {
        key: Key::new("ns", "many"),
        backing: Backing::Headless,
        ports: vec![],
    });
    index.put_slice(Slice {
        key: Key::new("ns", "many-1"),
        service: "many".into(),
        ports: vec![],
        endpoints: (1..=endpoints)
            .map(|number| Endpoint {
                address: Ipv6Addr::from(u128::from(number)).into(),
                hostname: None,
            })
            .collect(),
    });
    let zone = Zone {
        domain: Name::from_ascii("cluster.local.").unwrap(),
        reverse: vec![],
        fallthrough: vec![],
        ttl: 5,
        pods: Pods::Disabled,
        rotate: false,
        serial: 1,
        recursion: false,
    };
    (index, zone)
}

fn question(payload: Option<u16>) -> Vec<u8> {
    let mut request = Message::query();
    let name = Name::from_ascii("MaNy.ns.svc.cluster.local.").unwrap();
    request.add_query(Query::query(name, RecordType::AAAA));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        request.set_edns(edns);
    }
    request.to_vec().unwrap()
}

#[test]
fn what_does_not_fit_is_cut_and_says_so() {
    // Endpoints, payload, transport; octets at most, whether cut, whether all are there.
    let rows = [
        (10, None, Transport::Udp, 512, false),
        (30, None, Transport::Udp, 512, true),
        (30, Some(1232), Transport::Udp, 1232, false),
        (100, Some(1232), Transport::Udp, 1232, true),
        (100, Some(65535), Transport::Udp, 1232, true),
        (30, Some(0), Transport::Udp, 512, true),
        (100, None, Transport::Tcp, 65535, false),
        (3000, None, Transport::Tcp, 65535, true),
        (20_000, Some(1232), Transport::Tcp, 65535, true),
    ];
    for (endpoints, payload, transport, most, cut) in rows {
        let (index, zone) = cluster(endpoints);
        let request = question(payload);
        let Response::Reply(bytes) = respond(Some(&index), &zone, &request, transport, 0) else {
            panic!("no reply");
        };
        let row = format!("{endpoints} {payload:?} {transport:?}: {} octets", bytes.len());
        assert!(bytes.len() <= most, "{row}");
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!(reply.metadata.truncation, cut, "{row}");
        assert_eq!(reply.edns.is_some(), payload.is_some(), "{row}");
        assert_eq!(reply.answers.len() == usize::from(endpoints), !cut, "{row}");
        assert!(!reply.answers.is_empty(), "{row}");
        // The case of the question is kept, and answers are to that name.
        assert!(reply.queries[0].name.to_ascii().starts_with("MaNy."), "{row}");
        assert!(reply.answers[0].name.to_ascii().starts_with("MaNy."), "{row}");
    }
}

#[test]
fn what_is_not_a_request() {
    let (index, zone) = cluster(1);
    let answer = |bytes: &[u8]| respond(Some(&index), &zone, bytes, Transport::Udp, 0);
    assert!(matches!(answer(&[]), Response::Silence));
    assert!(matches!(answer(&[0; 11]), Response::Silence));
    let mut reply = question(None);
    reply[2] |= 0x80;
    assert!(
        matches!(answer(&reply), Response::Silence),
        "an answer is not answered"
    );
    let mut cut = question(None);
    cut.truncate(20);
    let Response::Reply(bytes) = answer(&cut) else {
        panic!("no reply");
    };
    assert_eq!(
        (&bytes[..2], bytes[2] & 0x80, bytes[3]),
        (&cut[..2], 0x80, FORMAT_ERROR)
    );
}

proptest! {
    /// No request of whatever bytes gets an answer that is too long, cannot be read, or has another id.
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..80), at in 0usize..60, way in any::<u8>()) {
        crate::fuzz::query(&[&[way], bytes.as_slice()].concat());
        // A good request with a bad place in it goes further.
        let mut damaged = question(Some(1232));
        let at = at % damaged.len();
        damaged[at] = bytes.first().copied().unwrap_or_default();
        crate::fuzz::query(&[&[way], damaged.as_slice()].concat());
    }
}
