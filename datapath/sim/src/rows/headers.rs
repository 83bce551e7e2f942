//! Extension headers, fragments, packets of garbage, jumbograms.

use abi::{
    CtKey,
    Direction::Ingress,
    DropReason::{CtTruncatedOrInvalidHeader, InvalidIpv6ExtensionHeader, InvalidPacketDropped},
};
use packet::protocol::{FRAGMENT, TCP, UDP};

use super::{
    Row, forwarded,
    making::{TO_ENDPOINT, drops, from_pod_frame, key, row, syn},
    node::{NODE_MAC, OTHER_MAC, other, pod},
};
use crate::{Builder, Program, TcAction};

pub(super) fn rows() -> Vec<Row> {
    use Program::FromPod;
    let ports = (40000, 80);
    let passes = |name, build: &dyn Fn(Builder) -> Builder, proto: u8, ports| {
        let packet = build(syn(pod(), other()));
        row(
            name,
            FromPod,
            from_pod_frame(packet.clone(), 64),
            TcAction::Redirect,
        )
        .becomes(packet.frame(NODE_MAC, OTHER_MAC, 63))
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT])
        .opens(&[
            key(pod(), other(), ports, proto, CtKey::OUT),
            key(pod(), other(), ports, proto, CtKey::IN),
        ])
    };
    let fragment = |offset, more| {
        move |_: Builder| {
            Builder::new(pod(), other(), &[5; 64])
                .udp(5000, 53)
                .fragment(offset, more)
        }
    };
    let mut truncated = from_pod_frame(syn(pod(), other()), 64);
    truncated.truncate(14 + 40 + 12);
    truncated[14 + 5] = 12;
    let mut chain = syn(pod(), other());
    for _ in 0..9 {
        chain = chain.extension(60, 0);
    }
    let mut endless = from_pod_frame(syn(pod(), other()).extension(43, 0), 64);
    endless[14 + 40 + 1] = 255;
    let mut longer = from_pod_frame(syn(pod(), other()), 64);
    longer[14 + 4] = 9;
    vec![
        passes(
            "hop-by-hop, routing and destination options",
            &|p| p.extension(60, 1).extension(43, 0).extension(0, 2),
            TCP,
            ports,
        ),
        passes(
            "an extension header of the future",
            &|p| p.extension(253, 3),
            TCP,
            ports,
        ),
        passes("authentication header", &|p| p.authentication(4), TCP, ports),
        passes(
            "hop-by-hop of a packet beyond 64 KiB",
            &Builder::jumbo,
            TCP,
            ports,
        ),
        jumbogram(),
        passes("first fragment", &fragment(0, true), UDP, (5000, 53)),
        passes("later fragment", &fragment(4, false), FRAGMENT, (0, 0)),
        passes(
            "unknown transport",
            &|_| Builder::new(pod(), other(), b"what is this").extension(99, 0),
            99,
            (0, 0),
        ),
        drops(
            "too many headers",
            FromPod,
            from_pod_frame(chain, 64),
            InvalidIpv6ExtensionHeader,
        ),
        drops(
            "header beyond the end",
            FromPod,
            endless,
            CtTruncatedOrInvalidHeader,
        ),
        drops(
            "truncated transport header",
            FromPod,
            truncated,
            CtTruncatedOrInvalidHeader,
        ),
        drops("shorter than it says", FromPod, longer, InvalidPacketDropped),
    ]
}

/// As the kernel makes them: payload length 0.
fn jumbogram() -> Row {
    let zero = |mut packet: Vec<u8>| {
        packet[14 + 4..14 + 6].fill(0);
        packet
    };
    let builder = syn(pod(), other()).jumbo();
    let ports = (40000, 80);
    row(
        "payload length 0 of a packet beyond 64 KiB",
        Program::FromPod,
        zero(from_pod_frame(builder.clone(), 64)),
        TcAction::Redirect,
    )
    .becomes(zero(builder.frame(NODE_MAC, OTHER_MAC, 63)))
    .counts(&[forwarded(Ingress)])
    .reports(&[TO_ENDPOINT])
    .opens(&[
        key(pod(), other(), ports, TCP, CtKey::OUT),
        key(pod(), other(), ports, TCP, CtKey::IN),
    ])
}
