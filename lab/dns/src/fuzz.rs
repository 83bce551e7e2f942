//! For the fuzz crate: the bytes of a request against a small cluster.

use std::sync::LazyLock;

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::Name;

use crate::corefile::Config;
use crate::index::{Backing, Endpoint, Index, Key, Port, Service, Slice};
use crate::upstream::question_end;
use crate::wire::{self, Response, Transport};
use crate::zone::{Pods, Zone};

static CLUSTER: LazyLock<(Index, Zone)> = LazyLock::new(cluster);

/// A request: the first byte says by which way it comes and whether anything is known yet; the rest are its bytes. An
/// answer fits, can be read, and is to the question.
pub fn query(data: &[u8]) {
    let Some((first, request)) = data.split_first() else {
        return;
    };
    let (index, zone) = &*CLUSTER;
    let transport = if first & 1 == 0 {
        Transport::Udp
    } else {
        Transport::Tcp
    };
    let index = (first & 2 == 0).then_some(index);
    match wire::respond(index, zone, request, transport, usize::from(*first)) {
        Response::Silence => {}
        Response::Reply(reply) | Response::Forward { refusal: reply } => {
            check(request, &reply, transport);
        }
        Response::Chase(chase) => check(request, &wire::fit(&chase.reply, chase.limit), transport),
    }
}

fn check(request: &[u8], reply: &[u8], transport: Transport) {
    let most = match transport {
        Transport::Udp => usize::from(wire::MAX_UDP),
        Transport::Tcp => usize::from(u16::MAX),
    };
    assert!(reply.len() <= most, "an answer of {} octets", reply.len());
    assert_eq!(reply[..2], request[..2], "another id");
    let Ok(message) = Message::from_vec(reply) else {
        panic!("an answer that cannot be read");
    };
    assert_eq!(message.metadata.message_type, MessageType::Response);
    if let (Some(end), [_]) = (question_end(request), message.queries.as_slice()) {
        // Byte for byte, so also in the case of its letters.
        assert_eq!(
            reply[wire::HEADER..end],
            request[wire::HEADER..end],
            "another question"
        );
    }
}

/// The text of a Corefile.
pub fn corefile(data: &[u8]) {
    let _ = Config::parse(&String::from_utf8_lossy(data));
}

/// A service of each kind, and endpoints enough that they do not fit into a datagram.
fn cluster() -> (Index, Zone) {
    let name = |text: &str| Name::from_ascii(text).unwrap_or_default();
    let port = |number| Port {
        name: "http".into(),
        protocol: "tcp".into(),
        number,
    };
    let mut index = Index::new();
    index.put_namespace("default");
    let services = [
        (
            "web",
            Backing::Cluster(vec![[0xfd00, 0x10, 0x96, 0, 0, 0, 0, 1].into()]),
        ),
        ("pets", Backing::Headless),
        ("alias", Backing::External(name("web.default.svc.cluster.local."))),
        ("loop", Backing::External(name("loop.default.svc.cluster.local."))),
        ("out", Backing::External(name("www.example.com."))),
    ];
    for (service, backing) in services {
        index.put_service(Service {
            key: Key::new("default", service),
            backing,
            ports: vec![port(80)],
        });
    }
    index.put_slice(Slice {
        key: Key::new("default", "pets-1"),
        service: "pets".into(),
        ports: vec![port(8080)],
        endpoints: (0..100)
            .map(|number| Endpoint {
                address: [0xfd00, 0x10, 0x244, 0, 0, 0, 0, number].into(),
                hostname: (number == 0).then(|| "rex".into()),
            })
            .collect(),
    });
    let zone = Zone {
        domain: name("cluster.local."),
        reverse: vec![name("in-addr.arpa."), name("ip6.arpa.")],
        fallthrough: vec![name("ip6.arpa.")],
        ttl: 30,
        pods: Pods::Insecure,
        rotate: true,
        serial: 1,
        recursion: true,
    };
    (index, zone)
}
