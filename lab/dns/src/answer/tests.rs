use hickory_proto::op::Query;
use proptest::prelude::*;

use super::*;
use crate::index::{Endpoint, Port, Slice};

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn port(name: &str, protocol: &str, number: u16) -> Port {
    Port {
        name: name.into(),
        protocol: protocol.into(),
        number,
    }
}

fn endpoint(address: &str, hostname: Option<&str>) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        hostname: hostname.map(Into::into),
    }
}

fn service(name: &str, backing: Backing, ports: Vec<Port>) -> Service {
    Service {
        key: Key::new("ns", name),
        backing,
        ports,
    }
}

fn slice(name: &str, service: &str, ports: Vec<Port>, endpoints: Vec<Endpoint>) -> Slice {
    Slice {
        key: Key::new("ns", name),
        service: service.into(),
        ports,
        endpoints,
    }
}

fn index() -> Index {
    let mut index = Index::new();
    index.put_namespace("ns");
    let web = || vec![port("http", "tcp", 80), port("dns", "udp", 53)];
    let cluster = |text: &str| Backing::Cluster(vec![text.parse().unwrap()]);
    index.put_service(service("web", cluster("fd00::96:1"), web()));
    index.put_slice(slice(
        "web-1",
        "web",
        vec![port("http", "tcp", 8080)],
        vec![endpoint("fd00::1:9", None)],
    ));
    index.put_service(service("four", cluster("10.96.0.1"), web()));
    index.put_service(service("pets", Backing::Headless, vec![port("http", "tcp", 80)]));
    let pets = vec![
        endpoint("fd00::1:1", Some("rex")),
        endpoint("fd00::1:2", None),
        endpoint("10.0.0.2", None),
    ];
    index.put_slice(slice("pets-1", "pets", vec![port("http", "tcp", 8080)], pets));
    index.put_service(service(
        "nobody",
        Backing::Headless,
        vec![port("http", "tcp", 80)],
    ));
    let external = |to: &str| Backing::External(name(to));
    index.put_service(service("alias", external("web.ns.svc.cluster.local."), vec![]));
    index.put_service(service("loop", external("loop.ns.svc.cluster.local."), vec![]));
    index.put_service(service("out", external("www.example.com."), vec![]));
    index.put_pod(Key::new("ns", "p"), vec!["fd00::1:9".parse().unwrap()]);
    index
}

fn zone() -> Zone {
    Zone {
        domain: name("cluster.local."),
        reverse: vec![name("in-addr.arpa."), name("ip6.arpa.")],
        fallthrough: vec![],
        ttl: 30,
        pods: Pods::Verified,
        rotate: false,
        serial: 7,
        recursion: true,
    }
}

fn request(asked: &str, kind: RecordType) -> Message {
    let mut request = Message::query();
    request.add_query(Query::query(name(asked), kind));
    request
}

/// Code and answers, or the word that somebody else is asked.
fn said(zone: &Zone, asked: &str, kind: RecordType) -> String {
    match answer(Some(&index()), zone, &request(asked, kind), 0) {
        Step::Forward => "forward".into(),
        Step::Chase { target, .. } => format!("chase {target}"),
        Step::Reply(reply) => {
            let code = reply.metadata.response_code;
            let answers: Vec<String> = reply
                .answers
                .iter()
                .map(|record| record.data.to_string())
                .collect();
            let soa = reply
                .authorities
                .iter()
                .any(|record| record.record_type() == RecordType::SOA);
            let negative =
                code == ResponseCode::NXDomain || (code == ResponseCode::NoError && answers.is_empty());
            assert_eq!(
                soa, negative,
                "a SOA record where there is nothing else: {asked} {kind}"
            );
            format!("{code:?} {}", answers.join(" | ")).trim().to_owned()
        }
    }
}

#[test]
fn the_specification_row_by_row() {
    use RecordType::{A, AAAA, ANY, AXFR, CNAME, MX, NS, PTR, SOA, SRV, TXT};
    let rows = [
        // 2.2
        ("dns-version.cluster.local.", TXT, "NoError 1.1.0"),
        ("dns-version.cluster.local.", A, "NoError"),
        // 2.3
        ("web.ns.svc.cluster.local.", AAAA, "NoError fd00::96:1"),
        ("web.ns.svc.cluster.local.", ANY, "NoError fd00::96:1"),
        ("WEB.ns.SVC.cluster.LOCAL.", AAAA, "NoError fd00::96:1"),
        ("web.ns.svc.cluster.local.", A, "NoError"),
        ("web.ns.svc.cluster.local.", MX, "NoError"),
        ("four.ns.svc.cluster.local.", A, "NoError 10.96.0.1"),
        ("four.ns.svc.cluster.local.", AAAA, "NoError"),
        (
            "_http._tcp.web.ns.svc.cluster.local.",
            SRV,
            "NoError 0 100 80 web.ns.svc.cluster.local.",
        ),
        (
            "_dns._udp.web.ns.svc.cluster.local.",
            SRV,
            "NoError 0 100 53 web.ns.svc.cluster.local.",
        ),
        ("_http._tcp.web.ns.svc.cluster.local.", A, "NoError"),
        ("_tcp.web.ns.svc.cluster.local.", A, "NoError"),
        ("_sctp.web.ns.svc.cluster.local.", A, "NXDomain"),
        ("_http._udp.web.ns.svc.cluster.local.", SRV, "NXDomain"),
        ("http.tcp.web.ns.svc.cluster.local.", SRV, "NXDomain"),
        ("fd00--1-9.web.ns.svc.cluster.local.", AAAA, "NoError fd00::1:9"),
        // 2.4
        (
            "pets.ns.svc.cluster.local.",
            AAAA,
            "NoError fd00::1:1 | fd00::1:2",
        ),
        ("pets.ns.svc.cluster.local.", A, "NoError 10.0.0.2"),
        ("rex.pets.ns.svc.cluster.local.", AAAA, "NoError fd00::1:1"),
        ("rex.pets.ns.svc.cluster.local.", A, "NoError"),
        ("fd00--1-2.pets.ns.svc.cluster.local.", AAAA, "NoError fd00::1:2"),
        ("10-0-0-2.pets.ns.svc.cluster.local.", A, "NoError 10.0.0.2"),
        ("fd00--1-1.pets.ns.svc.cluster.local.", AAAA, "NXDomain"),
        (
            "_http._tcp.pets.ns.svc.cluster.local.",
            SRV,
            "NoError 0 100 8080 rex.pets.ns.svc.cluster.local. | 0 100 8080 fd00--1-2.pets.ns.svc.cluster.local. | \
             0 100 8080 10-0-0-2.pets.ns.svc.cluster.local.",
        ),
        ("nobody.ns.svc.cluster.local.", AAAA, "NXDomain"),
        ("_http._tcp.nobody.ns.svc.cluster.local.", SRV, "NXDomain"),
        // 2.5
        ("out.ns.svc.cluster.local.", AAAA, "chase www.example.com."),
        ("out.ns.svc.cluster.local.", CNAME, "NoError www.example.com."),
        (
            "alias.ns.svc.cluster.local.",
            AAAA,
            "NoError web.ns.svc.cluster.local. | fd00::96:1",
        ),
        ("_http._tcp.out.ns.svc.cluster.local.", SRV, "NXDomain"),
        // 2.6
        ("fd00--1-9.ns.pod.cluster.local.", AAAA, "NoError fd00::1:9"),
        ("fd00--1-8.ns.pod.cluster.local.", AAAA, "NXDomain"),
        ("fd00--1-9.other.pod.cluster.local.", AAAA, "NXDomain"),
        ("x.ns.pod.cluster.local.", AAAA, "NXDomain"),
        // Names between, and names that nothing has.
        ("cluster.local.", NS, "NoError ns.dns.cluster.local."),
        ("cluster.local.", A, "NoError"),
        (
            "cluster.local.",
            SOA,
            "NoError ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 30",
        ),
        ("svc.cluster.local.", A, "NoError"),
        ("ns.svc.cluster.local.", A, "NoError"),
        ("other.svc.cluster.local.", A, "NXDomain"),
        ("gone.ns.svc.cluster.local.", AAAA, "NXDomain"),
        ("*.ns.svc.cluster.local.", AAAA, "NXDomain"),
        ("web.*.svc.cluster.local.", AAAA, "NXDomain"),
        ("x.y.z.pets.ns.svc.cluster.local.", AAAA, "NXDomain"),
        // Addresses.
        (
            "1.0.0.0.6.9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
            PTR,
            "NoError web.ns.svc.cluster.local.",
        ),
        (
            "1.0.96.10.in-addr.arpa.",
            PTR,
            "NoError four.ns.svc.cluster.local.",
        ),
        ("1.0.96.10.IN-ADDR.arpa.", A, "NoError"),
        (
            "2.0.0.10.in-addr.arpa.",
            PTR,
            "NoError 10-0-0-2.pets.ns.svc.cluster.local.",
        ),
        ("3.0.0.10.in-addr.arpa.", PTR, "NXDomain"),
        ("0.10.in-addr.arpa.", PTR, "NoError"),
        ("x.in-addr.arpa.", PTR, "NXDomain"),
        // What is not ours.
        ("example.com.", AAAA, "forward"),
        ("cluster.local.example.com.", AAAA, "forward"),
        (".", NS, "forward"),
        ("cluster.local.", AXFR, "Refused"),
        ("loop.ns.svc.cluster.local.", AAAA, "ServFail"),
    ];
    for (asked, kind, expected) in rows {
        if asked.starts_with("loop") {
            let Step::Reply(reply) = answer(Some(&index()), &zone(), &request(asked, kind), 0) else {
                panic!("{asked}");
            };
            assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
            continue;
        }
        assert_eq!(said(&zone(), asked, kind), expected, "{asked} {kind}");
    }
}

#[test]
fn without_an_upstream() {
    let zone = Zone {
        recursion: false,
        fallthrough: vec![name("in-addr.arpa.")],
        ..zone()
    };
    for (asked, kind, expected) in [
        ("example.com.", RecordType::A, "Refused"),
        (
            "out.ns.svc.cluster.local.",
            RecordType::A,
            "NoError www.example.com.",
        ),
        ("3.0.0.10.in-addr.arpa.", RecordType::PTR, "NXDomain"),
    ] {
        assert_eq!(said(&zone, asked, kind), expected, "{asked}");
    }
    let zone = Zone {
        recursion: true,
        ..zone
    };
    assert_eq!(said(&zone, "3.0.0.10.in-addr.arpa.", RecordType::PTR), "forward");
}

#[test]
fn srv_records_bring_the_addresses_along() {
    let asked = request("_http._tcp.pets.ns.svc.cluster.local.", RecordType::SRV);
    let Step::Reply(reply) = answer(Some(&index()), &zone(), &asked, 0) else {
        panic!();
    };
    let brought: Vec<String> = reply
        .additionals
        .iter()
        .map(|record| format!("{} {}", record.name, record.data))
        .collect();
    assert_eq!(brought[0], "rex.pets.ns.svc.cluster.local. fd00::1:1");
    assert_eq!(brought.len(), 3);
}

#[test]
fn requests_that_are_not_answered() {
    let code = |request: &Message, index: Option<&Index>| match answer(index, &zone(), request, 0) {
        Step::Reply(reply) => reply.metadata.response_code,
        other => panic!("{other:?}"),
    };
    let good = request("web.ns.svc.cluster.local.", RecordType::AAAA);
    let index = index();
    assert_eq!(code(&good, None), ResponseCode::ServFail, "nothing is known yet");
    let mut bad = good.clone();
    bad.metadata.op_code = OpCode::Notify;
    assert_eq!(code(&bad, Some(&index)), ResponseCode::NotImp);
    let mut bad = good.clone();
    bad.queries[0].query_class = DNSClass::CH;
    assert_eq!(code(&bad, Some(&index)), ResponseCode::Refused);
    let mut bad = good.clone();
    bad.queries.push(good.queries[0].clone());
    assert_eq!(code(&bad, Some(&index)), ResponseCode::FormErr);
    let mut bad = good.clone();
    let mut edns = Edns::new();
    edns.set_version(1);
    bad.set_edns(edns);
    assert_eq!(code(&bad, Some(&index)), ResponseCode::BADVERS);
}

#[test]
fn addresses_take_turns() {
    let zone = Zone {
        rotate: true,
        ..zone()
    };
    let asked = request("pets.ns.svc.cluster.local.", RecordType::AAAA);
    let first = |turn| match answer(Some(&index()), &zone, &asked, turn) {
        Step::Reply(reply) => reply.answers[0].data.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        [first(0), first(1), first(2)],
        ["fd00::1:1", "fd00::1:2", "fd00::1:1"]
    );
}

fn slices() -> impl Strategy<Value = Slice> {
    let endpoints = prop::collection::vec((0u16..4, prop::option::of("[ab]")), 0..4);
    (0u8..3, 0u8..2, endpoints).prop_map(|(number, service, endpoints)| {
        let endpoints = endpoints.into_iter().map(|(last, hostname)| Endpoint {
            address: [0xfd00, 0, 0, 0, 0, 0, 0, last].into(),
            hostname,
        });
        let name = format!("s{number}");
        slice(&name, &format!("v{service}"), vec![], endpoints.collect())
    })
}

proptest! {
    /// Whatever came and went, the index is what it would be had only the last state ever been.
    #[test]
    fn an_index_has_no_memory(changes in prop::collection::vec((slices(), any::<bool>()), 0..12)) {
        let mut index = Index::new();
        let mut last = std::collections::BTreeMap::new();
        for (slice, stays) in changes {
            index.put_slice(slice.clone());
            last.insert(slice.key.clone(), slice.clone());
            if !stays {
                index.remove_slice(&slice.key);
                last.remove(&slice.key);
            }
        }
        let mut again = Index::new();
        last.into_values().for_each(|slice| again.put_slice(slice));
        prop_assert_eq!(index, again);
    }
}
