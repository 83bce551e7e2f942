//! Neighbour table: which Ethernet address an IP address on a link has.

use std::net::IpAddr;

use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};

use crate::{Mac, Netlink, NetlinkError};

/// An entry of the neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Neighbour {
    /// Index of the device.
    pub device: u32,
    /// Address on the link.
    pub ip: IpAddr,
    /// Its Ethernet address; `None` while it is being asked for.
    pub mac: Option<Mac>,
    /// Set by hand, never asked for.
    pub permanent: bool,
}

impl Netlink {
    /// All entries of the namespace, both families.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub async fn neighbours(&self) -> Result<Vec<Neighbour>, NetlinkError> {
        let answers = self
            .dump(
                "list neighbours",
                RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
            )
            .await?;
        Ok(answers.iter().filter_map(parse).collect())
    }

    /// Sets a permanent entry, in place of whatever is there.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub async fn set_neighbour(&self, device: u32, ip: IpAddr, mac: Mac) -> Result<(), NetlinkError> {
        let mut message = neighbour_message(device, ip);
        message.header.state = NeighbourState::Permanent;
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        let message = RouteNetlinkMessage::NewNeighbour(message);
        self.change(
            "set neighbour",
            || format!("{ip} on link {device}"),
            message,
            NLM_F_CREATE | NLM_F_REPLACE,
        )
        .await
    }

    /// Removes an entry. `Ok(false)`: it was not there.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub async fn delete_neighbour(&self, device: u32, ip: IpAddr) -> Result<bool, NetlinkError> {
        let message = RouteNetlinkMessage::DelNeighbour(neighbour_message(device, ip));
        match self
            .change(
                "delete neighbour",
                || format!("{ip} on link {device}"),
                message,
                0,
            )
            .await
        {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn neighbour_message(device: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = device;
    let (family, address) = match ip {
        IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
    };
    message.header.family = family;
    message.attributes.push(NeighbourAttribute::Destination(address));
    message
}

fn parse(answer: &RouteNetlinkMessage) -> Option<Neighbour> {
    let RouteNetlinkMessage::NewNeighbour(message) = answer else {
        return None;
    };
    let mut ip = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
            _ => {}
        }
    }
    Some(Neighbour {
        device: message.header.ifindex,
        ip: ip?,
        mac,
        permanent: message.header.state == NeighbourState::Permanent,
    })
}
