//! News about devices, addresses and routes, as they happen.

use std::collections::VecDeque;
use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::{AsyncSocketExt, Socket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};

use crate::handle::tokio_socket;
use crate::{Address, Link, NetlinkError, Netns};

const GROUPS: &[MulticastGroup] = &[
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Something changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MonitorEvent {
    /// A device appeared or changed.
    Link(Link),
    /// A device is gone.
    LinkGone(Link),
    /// An address appeared or changed.
    Address(Address),
    /// An address is gone.
    AddressGone(Address),
    /// Some route appeared, changed or is gone: look at them all.
    Routes,
    /// The kernel had more news than the socket could hold: look at everything.
    Lost,
}

/// A subscription to the news of one namespace. Nothing is queued but in the socket's own buffer, which is bounded;
/// what does not fit shows as [`MonitorEvent::Lost`].
pub struct Monitor {
    socket: TokioSocket,
    /// Events of the datagram read last.
    pending: VecDeque<MonitorEvent>,
}

impl Monitor {
    /// Subscribes in the namespace of the calling thread. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`NetlinkError::Open`].
    pub fn open() -> Result<Self, NetlinkError> {
        Self::from_socket(subscribe().map_err(NetlinkError::Open)?)
    }

    /// Subscribes inside `netns`.
    ///
    /// # Errors
    /// [`NetlinkError::Netns`], [`NetlinkError::Open`].
    pub async fn open_in(netns: &Netns) -> Result<Self, NetlinkError> {
        Self::from_socket(netns.run(subscribe).await?.map_err(NetlinkError::Open)?)
    }

    fn from_socket(socket: Socket) -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: tokio_socket(socket)?,
            pending: VecDeque::new(),
        })
    }

    /// The next event; waits for it. Cancelling the future loses nothing.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] when the socket cannot be read any more.
    pub async fn next(&mut self) -> Result<MonitorEvent, NetlinkError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            match self.socket.recv_from_full().await {
                Ok((datagram, _)) => self.pending.extend(events(&datagram)),
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {
                    return Ok(MonitorEvent::Lost);
                }
                Err(source) => {
                    return Err(NetlinkError::Refused {
                        operation: "read",
                        subject: "link news".into(),
                        source,
                    });
                }
            }
        }
    }
}

fn subscribe() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in GROUPS {
        socket.add_membership(*group as u32)?;
    }
    Ok(socket)
}

/// The events of a datagram; messages that cannot be read count as lost news.
fn events(mut datagram: &[u8]) -> Vec<MonitorEvent> {
    let mut events = Vec::new();
    while let Some(length) = datagram
        .first_chunk::<4>()
        .map(|length| u32::from_ne_bytes(*length) as usize)
    {
        let Some(message) = datagram.get(..length).filter(|_| length >= 16) else {
            events.push(MonitorEvent::Lost);
            break;
        };
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
            Ok(message) => events.extend(event(message)),
            Err(_) => events.push(MonitorEvent::Lost),
        }
        // Messages are aligned to four bytes.
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    events
}

fn event(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<MonitorEvent> {
    let NetlinkPayload::InnerMessage(message) = message.payload else {
        return None;
    };
    match message {
        RouteNetlinkMessage::NewLink(link) => Some(MonitorEvent::Link(Link::parse(&link))),
        RouteNetlinkMessage::DelLink(link) => Some(MonitorEvent::LinkGone(Link::parse(&link))),
        RouteNetlinkMessage::NewAddress(address) => Address::parse(&address).map(MonitorEvent::Address),
        RouteNetlinkMessage::DelAddress(address) => Address::parse(&address).map(MonitorEvent::AddressGone),
        RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => Some(MonitorEvent::Routes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cut_message_is_lost_news() {
        assert_eq!(events(&[]), []);
        assert_eq!(events(&[1, 2]), []);
        assert_eq!(events(&100u32.to_ne_bytes()), [MonitorEvent::Lost]);
        assert_eq!(events(&0u32.to_ne_bytes()), [MonitorEvent::Lost]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            events(&bytes);
        }

        #[test]
        fn any_route_message_is_survived(kind in 16u16..40, body in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut datagram = Vec::new();
            datagram.extend(u32::try_from(16 + body.len()).unwrap().to_ne_bytes());
            datagram.extend(kind.to_ne_bytes());
            datagram.extend([0; 10]);
            datagram.extend(body);
            prop_assert!(events(&datagram).len() <= 1);
        }
    }
}
