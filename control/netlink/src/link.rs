//! Network devices.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd};
use std::str::FromStr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, State,
};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use crate::{Netlink, NetlinkError, Netns};

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The text is not six bytes in hexadecimal with colons between them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address")]
pub struct InvalidMac(String);

impl FromStr for Mac {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidMac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(invalid)?;
            if !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(invalid());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        if parts.next().is_some() {
            Err(invalid())
        } else {
            Ok(Self(bytes))
        }
    }
}

/// Largest packets that the stack may build for, or put together from, a device, bytes. 0: the kernel does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkSizes {
    /// Segmentation left to the device or done late, IPv6 (and both families before 6.3).
    pub gso_max: u32,
    /// Receive side merging, IPv6.
    pub gro_max: u32,
    /// Like `gso_max` for IPv4.
    pub gso_ipv4_max: u32,
    /// Like `gro_max` for IPv4.
    pub gro_ipv4_max: u32,
    /// What the device could take at most; since 5.19.
    pub tso_max: u32,
}

/// A network device as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Index of the device in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Ethernet address; `None` for devices without one.
    pub mac: Option<Mac>,
    /// Largest packet (layer 3), bytes.
    pub mtu: u32,
    /// Switched on by the administrator.
    pub up: bool,
    /// Really able to carry packets: on, and the other side is on as well.
    pub running: bool,
    /// Answers and asks no neighbour discovery.
    pub noarp: bool,
    /// The loopback device.
    pub loopback: bool,
    /// Driver kind: `veth`, `bridge` …; `None` for hardware.
    pub kind: Option<String>,
    /// Index of the other end of a pair, or of the device below.
    pub peer: Option<u32>,
    /// The namespace that `peer` counts in, when it is another one (kernel's local number).
    pub peer_netns: Option<i32>,
    /// Index of the bridge, bond or VRF it belongs to.
    pub controller: Option<u32>,
    /// Offload sizes.
    pub sizes: LinkSizes,
}

/// One end of a veth pair that is to be made.
#[derive(Clone, Debug)]
pub struct VethEnd<'a> {
    /// Name.
    pub name: &'a str,
    /// Address; `None`: the kernel invents one.
    pub mac: Option<Mac>,
    /// Namespace; `None`: the one of the connection.
    pub netns: Option<&'a Netns>,
}

impl Netlink {
    /// All devices of the namespace, by index.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let mut links: Vec<Link> = self
            .dump("list links", RouteNetlinkMessage::GetLink(LinkMessage::default()))
            .await?
            .iter()
            .filter_map(link_of)
            .collect();
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// The device with this name.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`] when there is none.
    pub async fn link_by_name(&self, name: &str) -> Result<Link, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.one_link(message, name).await
    }

    /// The device with this index.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`] when there is none.
    pub async fn link_by_index(&self, index: u32) -> Result<Link, NetlinkError> {
        self.one_link(indexed(index), &index.to_string()).await
    }

    async fn one_link(&self, message: LinkMessage, name: &str) -> Result<Link, NetlinkError> {
        let not_found = || NetlinkError::NotFound {
            kind: "link",
            name: name.to_owned(),
        };
        match self
            .exchange(
                "get link",
                || name.to_owned(),
                RouteNetlinkMessage::GetLink(message),
                0,
            )
            .await
        {
            Ok(answers) => answers.messages.iter().find_map(link_of).ok_or_else(not_found),
            Err(error) if error.errno() == Some(nix::libc::ENODEV) => Err(not_found()),
            Err(error) => Err(error),
        }
    }

    /// Makes a veth pair, each end in its namespace from the start, so that neither is ever seen elsewhere.
    /// Both ends are down.
    ///
    /// # Errors
    /// [`NetlinkError::is_exists`] when one of the names is taken.
    pub async fn add_veth(
        &self,
        one: &VethEnd<'_>,
        other: &VethEnd<'_>,
        mtu: u32,
    ) -> Result<(), NetlinkError> {
        let mut message = veth_end(one, mtu);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(veth_end(other, mtu)))),
        ]));
        self.change(
            "add veth pair",
            || format!("{} - {}", one.name, other.name),
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .await
    }

    /// Makes a bridge; it is down.
    ///
    /// # Errors
    /// [`NetlinkError::is_exists`] when the name is taken.
    pub async fn add_bridge(&self, name: &str) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message
            .attributes
            .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        let message = RouteNetlinkMessage::NewLink(message);
        self.change(
            "add bridge",
            || name.to_owned(),
            message,
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .await
    }

    /// Makes a device a port of a bridge, bond or VRF.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub async fn set_controller(&self, index: u32, controller: u32) -> Result<(), NetlinkError> {
        let mut message = indexed(index);
        message.attributes.push(LinkAttribute::Controller(controller));
        self.set_link("set controller of link", index, message).await
    }

    /// Switches a device on or off.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub async fn set_up(&self, index: u32, up: bool) -> Result<(), NetlinkError> {
        self.set_flag("switch link", index, LinkFlags::Up, up).await
    }

    /// Switches neighbour discovery of a device off (`true`) or on.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub async fn set_noarp(&self, index: u32, noarp: bool) -> Result<(), NetlinkError> {
        self.set_flag("set noarp of link", index, LinkFlags::Noarp, noarp)
            .await
    }

    async fn set_flag(
        &self,
        operation: &'static str,
        index: u32,
        flag: LinkFlags,
        on: bool,
    ) -> Result<(), NetlinkError> {
        let mut message = indexed(index);
        message.header.change_mask = flag;
        message.header.flags = if on { flag } else { LinkFlags::empty() };
        self.set_link(operation, index, message).await
    }

    /// Sets the largest packet of a device, bytes of layer 3.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let mut message = indexed(index);
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.set_link("set mtu of link", index, message).await
    }

    /// Sets the Ethernet address of a device.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub async fn set_mac(&self, index: u32, mac: Mac) -> Result<(), NetlinkError> {
        let mut message = indexed(index);
        message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
        self.set_link("set address of link", index, message).await
    }

    /// Renames a device; it must be down on kernels before 6.2.
    ///
    /// # Errors
    /// [`NetlinkError::is_exists`] when the name is taken.
    pub async fn rename(&self, index: u32, name: &str) -> Result<(), NetlinkError> {
        let mut message = indexed(index);
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.set_link("rename link", index, message).await
    }

    /// Moves a device into another namespace, where it may get another index.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub async fn move_to(&self, index: u32, netns: &Netns) -> Result<(), NetlinkError> {
        let mut message = indexed(index);
        message
            .attributes
            .push(LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()));
        self.set_link("move link", index, message).await
    }

    async fn set_link(
        &self,
        operation: &'static str,
        index: u32,
        message: LinkMessage,
    ) -> Result<(), NetlinkError> {
        self.change(
            operation,
            || index.to_string(),
            RouteNetlinkMessage::SetLink(message),
            0,
        )
        .await
    }

    /// Deletes a device, and with it the other end of a pair. `Ok(false)`: it was not there.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub async fn delete_link(&self, name: &str) -> Result<bool, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self
            .change(
                "delete link",
                || name.to_owned(),
                RouteNetlinkMessage::DelLink(message),
                0,
            )
            .await
        {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(nix::libc::ENODEV) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn indexed(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn veth_end(end: &VethEnd<'_>, mtu: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(end.name.to_owned()));
    message.attributes.push(LinkAttribute::Mtu(mtu));
    if let Some(mac) = end.mac {
        message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
    }
    if let Some(netns) = end.netns {
        message
            .attributes
            .push(LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()));
    }
    message
}

fn link_of(message: &RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(message) => Some(Link::parse(message)),
        _ => None,
    }
}

impl Link {
    pub(crate) fn parse(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            up: flags.contains(LinkFlags::Up),
            running: flags.contains(LinkFlags::Up | LinkFlags::Running),
            noarp: flags.contains(LinkFlags::Noarp),
            loopback: message.header.link_layer_type == LinkLayerType::Loopback,
            ..Self::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(Mac),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Link(index) => link.peer = Some(*index),
                LinkAttribute::LinkNetNsId(id) => link.peer_netns = Some(*id),
                LinkAttribute::Controller(index) => link.controller = Some(*index),
                LinkAttribute::OperState(state) => {
                    link.running &= !matches!(state, State::Down | State::LowerLayerDown);
                }
                LinkAttribute::GsoMaxSize(size) => link.sizes.gso_max = *size,
                LinkAttribute::GroMaxSize(size) => link.sizes.gro_max = *size,
                LinkAttribute::GsoIpv4MaxSize(size) => link.sizes.gso_ipv4_max = *size,
                LinkAttribute::GroIpv4MaxSize(size) => link.sizes.gro_ipv4_max = *size,
                LinkAttribute::TsoMaxSize(size) => link.sizes.tso_max = *size,
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_that_is_no_mac_address() {
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "02:00:00:00:00:0g",
            "+2:00:00:00:00:01",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(InvalidMac(text.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn a_mac_address_reads_back(bytes: [u8; 6]) {
            prop_assert_eq!(Mac(bytes).to_string().parse::<Mac>(), Ok(Mac(bytes)));
        }
    }
}
