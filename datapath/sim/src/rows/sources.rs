//! Who may send what.

use abi::{
    Addr,
    DropReason::{
        EpNotReady, InvalidPacketDropped, InvalidSourceIp, InvalidSourceMac, MulticastHandled,
        UnsupportedL3Protocol, VlanFiltered,
    },
};
use packet::icmp6::{self};

use super::{
    Row,
    making::{consumes, drops, from_pod_frame, row, syn},
    node::{self, NODE_MAC, OTHER_MAC, OUTSIDE_MAC, host, other, pod, pod_link_local, remote, router},
};
use crate::{Builder, Program, TcAction};

pub(super) fn rows() -> Vec<Row> {
    use Program::{FromNetdev, FromPod, ToPod};
    let from_network = |src| syn(src, pod()).frame(OUTSIDE_MAC, NODE_MAC, 64);
    let mut arp = from_pod_frame(syn(pod(), other()), 64);
    arp[12..14].copy_from_slice(&[8, 6]);
    vec![
        drops(
            "source MAC of another",
            FromPod,
            syn(pod(), remote()).frame(OTHER_MAC, NODE_MAC, 64),
            InvalidSourceMac,
        ),
        drops(
            "source address of another pod",
            FromPod,
            from_pod_frame(syn(other(), remote()), 64),
            InvalidSourceIp,
        ),
        drops(
            "source address of the node",
            FromPod,
            from_pod_frame(syn(host(), remote()), 64),
            InvalidSourceIp,
        ),
        drops(
            "source address of nobody",
            FromPod,
            from_pod_frame(syn(remote(), other()), 64),
            InvalidSourceIp,
        ),
        drops(
            "source address of IPv4",
            FromPod,
            from_pod_frame(syn(Addr::from_v4([10, 0, 0, 1]), remote()), 64),
            InvalidPacketDropped,
        ),
        drops(
            "destination address of IPv4",
            FromPod,
            from_pod_frame(syn(pod(), Addr::from_v4([10, 0, 0, 1])), 64),
            InvalidPacketDropped,
        ),
        drops(
            "link-local source to the node",
            FromPod,
            from_pod_frame(syn(pod_link_local(), host()), 64),
            InvalidSourceIp,
        ),
        drops(
            "with a VLAN tag",
            FromPod,
            from_pod_frame(syn(pod(), remote()), 64),
            VlanFiltered,
        )
        .with(|sim| sim.is_tagged = true),
        row(
            "from the network with a VLAN tag",
            FromNetdev,
            from_network(remote()),
            TcAction::Next,
        )
        .with(|sim| sim.is_tagged = true),
        drops(
            "from the network, address of a pod of this node",
            FromNetdev,
            from_network(other()),
            InvalidSourceIp,
        ),
        drops(
            "from the network, address of the pod itself",
            FromNetdev,
            from_network(pod()),
            InvalidSourceIp,
        ),
        drops(
            "from the network, address of this node",
            FromNetdev,
            from_network(host()),
            InvalidSourceIp,
        ),
        drops(
            "from the network, address of this node's router",
            FromNetdev,
            from_network(router()),
            InvalidSourceIp,
        ),
        drops(
            "from the network, address of a pod of this node, routed by the stack",
            FromNetdev,
            from_network(other()),
            InvalidSourceIp,
        )
        .with(|sim| sim.config.host_routing = 0),
        drops(
            "from the network, no address",
            FromNetdev,
            from_network(Addr::UNSPECIFIED),
            InvalidSourceIp,
        ),
        drops(
            "from the network, loopback address",
            FromNetdev,
            from_network(node::address([0, 0, 0, 0, 0, 0, 0, 1])),
            InvalidSourceIp,
        ),
        drops(
            "from the network, link-local address",
            FromNetdev,
            from_network(pod_link_local()),
            InvalidSourceIp,
        ),
        drops(
            "from the network, multicast address",
            FromNetdev,
            from_network(icmp6::ALL_NODES),
            InvalidSourceIp,
        ),
        // Not readable, so nobody knows who it is for: the stack forwards no such packet, and the pod's device takes none.
        row(
            "from the network, address of IPv4",
            FromNetdev,
            from_network(Addr::from_v4([10, 0, 0, 1])),
            TcAction::Next,
        ),
        drops(
            "to a pod from the stack, address of IPv4",
            ToPod,
            from_network(Addr::from_v4([10, 0, 0, 1])),
            InvalidPacketDropped,
        ),
        drops(
            "device of nobody",
            FromPod,
            from_pod_frame(syn(pod(), remote()), 64),
            EpNotReady,
        )
        .with(|sim| {
            sim.endpoints.remove(&pod());
            sim.devices.clear();
        }),
        drops("not IP", FromPod, arp, UnsupportedL3Protocol),
        consumes(
            "to all on the link",
            from_pod_frame(
                Builder::new(
                    pod_link_local(),
                    node::address([0xff02, 0, 0, 0, 0, 0, 0, 0xfb]),
                    b"mdns",
                )
                .udp(5353, 5353),
                255,
            ),
        ),
        drops(
            "to all on the site",
            FromPod,
            from_pod_frame(
                Builder::new(pod(), node::address([0xff05, 0, 0, 0, 0, 0, 0, 1]), b"x").udp(1, 2),
                64,
            ),
            MulticastHandled,
        ),
    ]
}
