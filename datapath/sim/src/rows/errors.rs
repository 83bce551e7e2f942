//! Errors that a router must send, and none about what it must be silent on.

use abi::{
    Addr, CtKey,
    Direction::{Egress, Ingress},
    DropReason::{CtMissingTcpAckFlag, TtlExceeded},
};
use packet::{
    icmp6::kind as icmp,
    protocol::{TCP, UDP},
    transport::tcp_flag::ACK,
};
use stages::Route;

use super::{
    Row, drop_event, dropped, forwarded,
    making::{TO_ENDPOINT, drops, from_pod_frame, key, row},
    node::{NODE_MAC, OTHER_MAC, OUTSIDE_MAC, POD_MAC, other, pod, remote, router},
};
use crate::{Builder, Program, Sim, TcAction};

/// The error message of the router about a packet of the pod.
fn error(kind: u8, body: u32, packet: &[u8], to: Addr, mac: [u8; 6]) -> Vec<u8> {
    let kept = packet.len().min(14 + 1280 - 48);
    Builder::new(router(), to, &packet[14..kept])
        .icmp6(kind, 0, body.to_be_bytes())
        .frame(NODE_MAC, mac, 64)
}

pub(super) fn rows() -> Vec<Row> {
    use Program::{FromNetdev, FromPod};
    let udp = |src, dst, len: usize| Builder::new(src, dst, &vec![7; len]).udp(5000, 53);
    let out = |dst| key(pod(), dst, (5000, 53), UDP, CtKey::OUT);
    let expired = from_pod_frame(udp(pod(), other(), 33), 1);
    let finished = from_pod_frame(Builder::new(pod(), other(), b"some data").tcp(40000, 80, ACK), 1);
    let mut unfinished = finished.clone();
    let seed = packet::checksum::pseudo_header(&pod(), &other(), 20 + 9, TCP);
    unfinished[14 + 40 + 16..][..2].copy_from_slice(&seed.to_be_bytes());
    let long = from_pod_frame(udp(pod(), other(), 1400), 64);
    let routed = from_pod_frame(udp(pod(), remote(), 1400), 64);
    let arriving = udp(remote(), pod(), 1401).frame(OUTSIDE_MAC, NODE_MAC, 64);
    let about_error = from_pod_frame(
        Builder::new(pod(), other(), &[0; 48]).icmp6(icmp::UNREACHABLE, 0, [0; 4]),
        1,
    );
    let answered = |name, program, packet: Vec<u8>, reason, direction, answer: Vec<u8>| {
        row(name, program, packet, TcAction::Redirect)
            .counts(&[dropped(reason, direction)])
            .reports(&[drop_event(reason)])
            .becomes(answer)
    };
    let small = |sim: &mut Sim| {
        for endpoint in sim.endpoints.values_mut() {
            endpoint.mtu = 1400;
        }
    };
    vec![
        answered(
            "hop limit ends",
            FromPod,
            expired.clone(),
            TtlExceeded,
            Egress,
            error(icmp::TIME_EXCEEDED, 0, &expired, pod(), POD_MAC),
        )
        .opens(&[out(other())]),
        answered(
            "too big for the other pod",
            FromPod,
            long.clone(),
            CtMissingTcpAckFlag,
            Egress,
            error(icmp::TOO_BIG, 1400, &long, pod(), POD_MAC),
        )
        .with(small)
        .opens(&[out(other())]),
        answered(
            "too big for the pod, from the network",
            FromNetdev,
            arriving.clone(),
            CtMissingTcpAckFlag,
            Ingress,
            error(icmp::TOO_BIG, 1400, &arriving, remote(), OUTSIDE_MAC),
        )
        .with(small),
        answered(
            "too big for the route",
            FromPod,
            routed.clone(),
            CtMissingTcpAckFlag,
            Egress,
            error(icmp::TOO_BIG, 1300, &routed, pod(), POD_MAC),
        )
        .with(|sim| sim.route = Route::TooBig { mtu: 1300 })
        .opens(&[out(remote())]),
        answered(
            "hop limit ends, checksum left to the hardware",
            FromPod,
            unfinished.clone(),
            TtlExceeded,
            Egress,
            {
                // The message is right once the checksum inside is.
                let mut answer = error(icmp::TIME_EXCEEDED, 0, &finished, pod(), POD_MAC);
                answer[14 + 48 + 40 + 16..][..2].copy_from_slice(&unfinished[14 + 40 + 16..][..2]);
                answer
            },
        )
        .opens(&[key(pod(), other(), (40000, 80), TCP, CtKey::OUT)]),
        drops("hop limit of an error ends", FromPod, about_error, TtlExceeded),
        row(
            "segments that fit",
            FromPod,
            from_pod_frame(Builder::new(pod(), other(), &[1; 3000]).tcp(40000, 80, ACK), 64),
            TcAction::Redirect,
        )
        .with(small)
        .with(|sim| sim.segment_size = 1340)
        .becomes(
            Builder::new(pod(), other(), &[1; 3000])
                .tcp(40000, 80, ACK)
                .frame(NODE_MAC, OTHER_MAC, 63),
        )
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT])
        .opens(&[
            key(pod(), other(), (40000, 80), TCP, CtKey::OUT),
            key(pod(), other(), (40000, 80), TCP, CtKey::IN),
        ]),
    ]
}
