//! Every field of a filter, by rows: a flow that matches and values that do not.

use std::sync::Arc;

use seta_flow::*;

fn endpoint(namespace: &str, pod: &str, identity: u32) -> Option<Arc<Endpoint>> {
    Some(Arc::new(Endpoint {
        id: 7,
        identity,
        cluster_name: "kind".into(),
        namespace: namespace.into(),
        labels: lookup::flow_labels(["k8s:app=web", "k8s:tier=front", "reserved:x"]),
        pod_name: pod.into(),
        workloads: Arc::from([Workload {
            name: "web".into(),
            kind: "Deployment".into(),
        }]),
    }))
}

fn service(namespace: &str, name: &str) -> Option<Arc<Service>> {
    Some(Arc::new(Service {
        name: name.into(),
        namespace: namespace.into(),
    }))
}

fn flow() -> Flow {
    Flow {
        uuid: "0a0b0c0d-0102-4304-8506-0708090a0b0c".parse().ok(),
        node_name: "kind-worker".into(),
        node_labels: lookup::flow_labels(["zone=a"]),
        kind: FlowKind::L3L4,
        verdict: Verdict::Dropped,
        drop_reason: Some(DropCode(133)),
        ip: Some(Ip {
            source: "fd00:10:244::a".parse().ok(),
            destination: "fd00:10:244:1::b".parse().ok(),
            version: IpVersion::V6,
            encrypted: false,
            source_xlated: "2001:db8::1".parse().ok(),
        }),
        l4: Some(Layer4::Tcp {
            source_port: 50000,
            destination_port: 80,
            flags: Some(TcpFlags::SYN.with(TcpFlags::ACK)),
        }),
        source: endpoint("default", "client-1", 300),
        destination: endpoint("shop", "server-1", 301),
        source_names: Arc::from([Arc::from("a.example.org")]),
        destination_names: Arc::from([Arc::from("B.Example.com.")]),
        source_service: service("default", "front"),
        destination_service: service("shop", "back"),
        direction: TrafficDirection::Ingress,
        event_type: EventType {
            kind: 1,
            subtype: 133,
        },
        interface: Some((4, "lxc1".into())),
        rare: Some(Box::new(Rare {
            trace_id: "t1".into(),
            ip_trace_id: Some((9, 1)),
            ..Rare::default()
        })),
        ..Flow::default()
    }
}

fn request() -> Flow {
    Flow {
        kind: FlowKind::L7,
        is_reply: Some(true),
        l7: Some(Box::new(Layer7 {
            kind: Layer7Kind::Response,
            latency_ns: 1,
            record: Some(Layer7Record::Http(Http {
                code: 404,
                method: "GET".into(),
                url: "http://web/a/b?c=d".into(),
                protocol: "HTTP/1.1".into(),
                headers: vec![("Host".into(), "web".into())],
            })),
        })),
        ..flow()
    }
}

fn query() -> Flow {
    let record = Layer7Record::Dns(Dns {
        query: "web.example.org.".into(),
        ..Dns::default()
    });
    Flow {
        l7: Some(Box::new(Layer7 {
            record: Some(record),
            ..Layer7::default()
        })),
        ..flow()
    }
}

fn matches(flow: &Flow, set: impl FnOnce(&mut FlowFilter)) -> bool {
    let mut filter = FlowFilter::default();
    set(&mut filter);
    Filter::new(&filter).expect("a filter").matches(flow)
}

fn refused(set: impl FnOnce(&mut FlowFilter)) -> bool {
    let mut filter = FlowFilter::default();
    set(&mut filter);
    Filter::new(&filter).is_err()
}

/// `field: flow => those that match; those that do not`.
macro_rules! rows {
    ($($field:ident: $flow:expr => [$($yes:expr),*]; [$($no:expr),*];)*) => {
        $($(assert!(matches(&$flow, |f| f.$field = vec![$yes]), "{} {}", stringify!($field), stringify!($yes));)*
          $(assert!(!matches(&$flow, |f| f.$field = vec![$no]), "{} not {}", stringify!($field), stringify!($no));)*)*
    };
}

#[test]
fn each_field() {
    let s = |text: &str| text.to_owned();
    let kind = |kind, subtype| EventTypeFilter { kind, subtype };
    let owner = |name: &str, kind: &str| Workload {
        name: name.into(),
        kind: kind.into(),
    };
    rows! {
        source_ip: flow() => [s("fd00:10:244::a"), s("fd00:10:244::/64")]; [s("fd00:10:244::b"), s("10.0.0.0/8")];
        destination_ip: flow() => [s("fd00:10:244:1::b"), s("fd00:10:244:1::/64")]; [s("fd00:10:244::/64")];
        source_ip_xlated: flow() => [s("2001:db8::1"), s("2001:db8::/32")]; [s("fd00::/8")];
        source_pod: flow() => [s("client"), s("default/client-1"), s("default/")]; [s("shop/client"), s("kube-system/"), s("client-12")];
        destination_pod: flow() => [s("shop/server"), s("shop/"), s("/server")]; [s("server"), s("shop/client")];
        source_fqdn: flow() => [s("*.example.org"), s("A.example.org.")]; [s("example.org"), s("*.com")];
        destination_fqdn: flow() => [s("b.example.*")]; [s("a.example.com")];
        source_label: flow() => [s("app=web"), s("k8s:app in (web, db)"), s("any:tier"), s("app!=db,!zone"), s("reserved:x")];
            [s("reserved:app"), s("app notin (web)"), s("!tier"), s("app=web,tier=back")];
        destination_label: flow() => [s("tier==front")]; [s("tier=back")];
        source_service: flow() => [s("front"), s("default/fr")]; [s("back")];
        destination_service: flow() => [s("shop/back"), s("shop/")]; [s("back")];
        source_workload: flow() => [owner("web", ""), owner("", "Deployment")]; [owner("web", "DaemonSet")];
        destination_workload: flow() => [owner("web", "Deployment")]; [owner("db", "")];
        source_cluster_name: flow() => [s("kind")]; [s("default")];
        destination_cluster_name: flow() => [s("kind")]; [s("kin")];
        source_identity: flow() => [300]; [301];
        destination_identity: flow() => [301]; [300];
        source_port: flow() => [s("50000")]; [s("80")];
        destination_port: flow() => [s("80")]; [s("50000")];
        verdict: flow() => [Verdict::Dropped]; [Verdict::Forwarded];
        drop_reason_desc: flow() => [DropCode(133)]; [DropCode(181)];
        interface: flow() => [(4, s("")), (0, s("lxc1")), (4, s("lxc1"))]; [(5, s("lxc1")), (0, s("eth0"))];
        event_type: flow() => [kind(0, None), kind(1, None), kind(1, Some(133))]; [kind(4, None), kind(1, Some(132))];
        http_status_code: request() => [s("404"), s("4+"), s("40+")]; [s("403"), s("5+"), s("41+")];
        protocol: flow() => [s("tcp"), s("TCP")]; [s("udp"), s("icmp"), s("icmpv6"), s("sctp"), s("vrrp"), s("igmp"), s("dns")];
        protocol: request() => [s("http"), s("tcp")]; [s("dns"), s("kafka")];
        reply: request() => [true]; [false];
        reply: flow() => [false]; [true];
        reply: Flow { verdict: Verdict::Forwarded, ..flow() } => []; [true, false];
        dns_query: query() => [s("^web\\."), s("example")]; [s("^example")];
        http_method: request() => [s("get")]; [s("PUT")];
        http_path: request() => [s("^/a/b$")]; [s("c=d")];
        http_url: request() => [s("c=d$")]; [s("^/a")];
        http_header: request() => [(s("Host"), s("web"))]; [(s("Host"), s("w")), (s("host"), s("web"))];
        tcp_flags: flow() => [TcpFlags::SYN, TcpFlags::SYN.with(TcpFlags::ACK), TcpFlags(0)]; [TcpFlags::FIN, TcpFlags::SYN.with(TcpFlags::FIN)];
        node_name: flow() => [s("kind-worker"), s("kind-*"), s("default/"), s("/kind-worker")]; [s("worker"), s("kind/kind-worker"), s("kind/")];
        node_name: Flow { node_name: "kind/n".into(), ..flow() } => [s("kind/n"), s("kind/"), s("k*/*")]; [s("n"), s("default/n")];
        node_labels: flow() => [s("zone=a"), s("zone")]; [s("zone=b")];
        ip_version: flow() => [IpVersion::V6]; [IpVersion::V4];
        trace_id: flow() => [s("t1")]; [s("t")];
        ip_trace_id: flow() => [9]; [1];
        uuid: flow() => [s("0a0b0c0d-0102-4304-8506-0708090a0b0c")]; [s("0a0b0c0d-0102-4304-8506-0708090a0b0d"), s("x")];
        traffic_direction: flow() => [TrafficDirection::Ingress]; [TrafficDirection::Egress];
        encrypted: flow() => [false]; [true];
    }
}

#[test]
fn nothing_known_matches_nothing() {
    let s = |text: &str| text.to_owned();
    let empty = Flow::default();
    rows! {
        source_ip: empty => []; [s("::/0")];
        source_pod: empty => []; [s("default/"), s("/")];
        destination_port: empty => []; [s("0")];
        uuid: empty => []; [s("x")];
        reply: empty => []; [false];
        encrypted: empty => []; [false];
        tcp_flags: empty => []; [TcpFlags(0)];
        source_label: empty => [s("!app")]; [s("app")];
    }
    assert!(Filter::default().matches(&empty));
}

#[test]
fn values_are_alternatives_and_fields_are_not() {
    assert!(matches(&flow(), |f| f.source_identity = vec![1, 300]));
    assert!(!matches(&flow(), |f| (
        f.source_identity,
        f.destination_identity
    ) = (vec![300], vec![1])));
}

#[test]
fn nonsense_is_refused() {
    let bad = |text: &str| vec![text.to_owned()];
    for text in ["", "x", "fd00::/129", "fd00::/", "1.2.3", "[::1]"] {
        assert!(refused(|f| f.source_ip = bad(text)), "{text}");
    }
    for text in ["", "x", "65536", "+80", "-1"] {
        assert!(refused(|f| f.destination_port = bad(text)), "{text}");
    }
    for text in ["", "4", "40", "4040", "404+", "+", "6+", "4x+", "abc"] {
        assert!(refused(|f| f.http_status_code = bad(text)), "{text}");
    }
    for text in [
        "=",
        "a=b=c",
        "a in b",
        "a in (b",
        "!",
        "a b",
        ":",
        "a,,b",
        "a in (b) c",
    ] {
        assert!(refused(|f| f.source_label = bad(text)), "{text}");
    }
    assert!(refused(|f| f.protocol = bad("quic")));
    assert!(refused(|f| f.dns_query = bad("(")));
    assert!(refused(|f| f.source_pod = bad("")));
    assert!(refused(|f| f.source_fqdn = bad(".")));
    assert!(refused(|f| f.node_name = bad("a/b/c")));
    assert!(refused(|f| f.cel_expression = bad("true")));
    assert!(refused(|f| f.source_identity = vec![1; filter::MAX_VALUES + 1]));
}

#[test]
fn allow_and_deny() {
    let filter = |identity| FlowFilter {
        source_identity: vec![identity],
        ..FlowFilter::default()
    };
    let row = |allow: &[u32], deny: &[u32]| {
        let list = |numbers: &[u32]| numbers.iter().map(|n| filter(*n)).collect::<Vec<_>>();
        Filters::new(&list(allow), &list(deny))
            .expect("filters")
            .matches(&flow())
    };
    assert!(row(&[], &[]));
    assert!(row(&[1, 300], &[]));
    assert!(!row(&[1], &[]));
    assert!(!row(&[], &[300]));
    assert!(!row(&[300], &[2, 300]));
    let filters = Filters::new(&[filter(1)], &[]).expect("filters");
    assert!(filters.admits(&Event::Lost(LostEvent::default())));
}
