//! The way of a packet: where it goes, and by which program.

use abi::{
    CtKey,
    Direction::{Egress, Ingress},
    DropReason::NoMatchingLocalContainerFound,
};
use packet::{protocol::TCP, transport::tcp_flag::ACK};
use stages::Route;

use super::{
    Row, forwarded,
    making::{FROM_ENDPOINT, TO_ENDPOINT, TO_NETWORK, TO_STACK, drops, from_pod_frame, key, row, syn},
    node::{self, NODE_MAC, OTHER_MAC, OUTSIDE_MAC, POD_MAC, host, other, pod, remote},
};
use crate::{Builder, Program, TcAction};

pub(super) fn rows() -> Vec<Row> {
    use Program::{FromHost, FromNetdev, FromPod, ToNetdev, ToPod};
    let out = |dst| key(pod(), dst, (40000, 80), TCP, CtKey::OUT);
    let into = |src, dst| key(src, dst, (40000, 80), TCP, CtKey::IN);
    vec![
        row(
            "pod to local pod",
            FromPod,
            from_pod_frame(syn(pod(), other()), 64),
            TcAction::Redirect,
        )
        .becomes(syn(pod(), other()).frame(NODE_MAC, OTHER_MAC, 63))
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT])
        .opens(&[out(other()), into(pod(), other())]),
        row(
            "pod to the node",
            FromPod,
            from_pod_frame(syn(pod(), host()), 64),
            TcAction::Ok,
        )
        .counts(&[forwarded(Egress)])
        .reports(&[TO_STACK])
        .opens(&[out(host())]),
        row(
            "pod to somewhere without a route",
            FromPod,
            from_pod_frame(syn(pod(), remote()), 64),
            TcAction::Ok,
        )
        .counts(&[forwarded(Egress)])
        .reports(&[TO_STACK])
        .opens(&[out(remote())]),
        row(
            "pod to remote pod",
            FromPod,
            from_pod_frame(syn(pod(), remote()), 64),
            TcAction::Redirect,
        )
        .with(|sim| {
            sim.route = Route::Via {
                ifindex: 2,
                next_hop: host(),
            }
        })
        .becomes(from_pod_frame(syn(pod(), remote()), 63))
        .counts(&[forwarded(Egress)])
        .reports(&[TO_NETWORK])
        .opens(&[out(remote())]),
        drops(
            "pod to a local address nobody has",
            FromPod,
            from_pod_frame(syn(pod(), node::local(9)), 64),
            NoMatchingLocalContainerFound,
        )
        .with(|sim| {
            sim.route = Route::Via {
                ifindex: 3,
                next_hop: node::local(9),
            }
        })
        .opens(&[out(node::local(9))]),
        row(
            "stack routing: pod to local pod",
            FromPod,
            from_pod_frame(syn(pod(), other()), 64),
            TcAction::Ok,
        )
        .with(|sim| sim.config.host_routing = 0)
        .counts(&[forwarded(Egress)])
        .reports(&[TO_STACK])
        .opens(&[out(other())]),
        row(
            "every packet reported: pod to local pod",
            FromPod,
            from_pod_frame(syn(pod(), other()), 64),
            TcAction::Redirect,
        )
        .with(|sim| sim.config.monitor_aggregation = 0)
        .becomes(syn(pod(), other()).frame(NODE_MAC, OTHER_MAC, 63))
        .counts(&[forwarded(Ingress)])
        .reports(&[FROM_ENDPOINT, TO_ENDPOINT])
        .opens(&[out(other()), into(pod(), other())]),
        row(
            "network to local pod",
            FromNetdev,
            syn(remote(), pod()).frame(OUTSIDE_MAC, NODE_MAC, 63),
            TcAction::Redirect,
        )
        .becomes(syn(remote(), pod()).frame(NODE_MAC, POD_MAC, 62))
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT])
        .opens(&[into(remote(), pod())]),
        row(
            "network to the node",
            FromNetdev,
            syn(remote(), host()).frame(OUTSIDE_MAC, NODE_MAC, 63),
            TcAction::Next,
        ),
        row(
            "network to nobody here",
            FromNetdev,
            syn(remote(), remote()).frame(OUTSIDE_MAC, NODE_MAC, 63),
            TcAction::Next,
        ),
        row(
            "stack routing: network to local pod",
            FromNetdev,
            syn(remote(), pod()).frame(OUTSIDE_MAC, NODE_MAC, 63),
            TcAction::Next,
        )
        .with(|sim| sim.config.host_routing = 0),
        row(
            "node to local pod, first half",
            FromHost,
            syn(host(), other()).frame([0; 6], [0; 6], 64),
            TcAction::Redirect,
        )
        .becomes(syn(host(), other()).frame(NODE_MAC, OTHER_MAC, 64)),
        drops(
            "node to a local address nobody has",
            FromHost,
            syn(host(), node::local(9)).frame([0; 6], [0; 6], 64),
            NoMatchingLocalContainerFound,
        ),
        row(
            "node to local pod, second half",
            ToPod,
            syn(host(), pod()).frame(NODE_MAC, POD_MAC, 64),
            TcAction::Next,
        )
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT])
        .opens(&[into(host(), pod())]),
        drops(
            "stack delivers to the wrong pod",
            ToPod,
            syn(host(), other()).frame(NODE_MAC, POD_MAC, 64),
            NoMatchingLocalContainerFound,
        ),
        row(
            "answered already on its way out",
            ToPod,
            syn(host(), other()).frame(NODE_MAC, POD_MAC, 64),
            TcAction::Next,
        )
        .with(|sim| sim.mark = abi::mark::DONE),
        row(
            "node to the network",
            ToNetdev,
            syn(host(), remote()).frame(NODE_MAC, OUTSIDE_MAC, 64),
            TcAction::Next,
        )
        .counts(&[forwarded(Egress)])
        .reports(&[TO_NETWORK]),
        row(
            "node to the network, in the middle of a connection",
            ToNetdev,
            Builder::new(host(), remote(), &[1])
                .tcp(1, 2, ACK)
                .frame(NODE_MAC, OUTSIDE_MAC, 64),
            TcAction::Next,
        )
        .counts(&[forwarded(Egress)]),
        row(
            "pod to the network, seen on its way out",
            ToNetdev,
            syn(pod(), remote()).frame(NODE_MAC, OUTSIDE_MAC, 63),
            TcAction::Next,
        )
        .with(|sim| sim.mark = abi::mark::DONE),
    ]
}
