//! Connected UDP sockets whose other end is gone.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddrV6, UdpSocket};

use seta_netlink::close_datagram_sockets;

use crate::harness::namespace;

#[tokio::test]
async fn sockets_of_one_peer_are_closed_and_no_others() {
    let Some(namespace) = namespace("datagram") else {
        return;
    };
    let netlink = namespace.connect().await;
    let lo = netlink.link_by_name("lo").await.unwrap();
    netlink.set_up(lo.index, true).await.unwrap();
    let connect = |port: u16| {
        namespace.netns.run_blocking(move || {
            let socket = UdpSocket::bind("[::]:0").unwrap();
            socket.connect(("::1", port)).unwrap();
            socket
        })
    };
    let (first, second, other) = (connect(53).unwrap(), connect(53).unwrap(), connect(54).unwrap());
    let peers = BTreeSet::from(["[::1]:53", "[::1]:55"].map(|peer| peer.parse::<SocketAddrV6>().unwrap()));
    let closed = close_datagram_sockets(&namespace.netns, peers.clone()).await;
    assert_eq!(closed.unwrap(), 2);
    assert_eq!(close_datagram_sockets(&namespace.netns, peers).await.unwrap(), 0);
    for closed in [first, second] {
        closed.set_nonblocking(true).unwrap();
        let error = closed.recv(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    }
    other.set_nonblocking(true).unwrap();
    assert_eq!(other.recv(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
}
