//! Addresses of devices.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};

use crate::{Netlink, NetlinkError};

/// An address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Index of the device.
    pub device: u32,
    /// Address and the length of its on-link prefix.
    pub net: IpNet,
    /// May be used to talk to other links (not link-local, not host-local).
    pub global: bool,
    /// Still being checked for duplicates, or found to be one: not usable.
    pub tentative: bool,
    /// No longer used for new connections.
    pub deprecated: bool,
}

impl Netlink {
    /// All addresses of all devices of the namespace, both families.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub async fn addresses(&self) -> Result<Vec<Address>, NetlinkError> {
        let answers = self
            .dump(
                "list addresses",
                RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            )
            .await?;
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(message) => Address::parse(message),
                _ => None,
            })
            .collect())
    }

    /// Adds an address, at once usable (no duplicate address detection) and without a route for its prefix.
    /// Adding it again changes nothing.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub async fn add_address(&self, device: u32, net: IpNet) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewAddress(address_message(device, net));
        self.change(
            "add address",
            || format!("{net} to link {device}"),
            message,
            NLM_F_CREATE | NLM_F_REPLACE,
        )
        .await
    }

    /// Removes an address. `Ok(false)`: it was not there.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub async fn delete_address(&self, device: u32, net: IpNet) -> Result<bool, NetlinkError> {
        let message = RouteNetlinkMessage::DelAddress(address_message(device, net));
        match self
            .change("delete address", || format!("{net} of link {device}"), message, 0)
            .await
        {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The address by which other machines reach a device: its first usable global address, IPv6 first.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`] when it has none.
    pub async fn global_address(&self, device: u32) -> Result<IpAddr, NetlinkError> {
        let addresses = self.addresses().await?;
        first_global(&addresses, device).ok_or_else(|| NetlinkError::NotFound {
            kind: "global address of link",
            name: device.to_string(),
        })
    }
}

fn first_global(addresses: &[Address], device: u32) -> Option<IpAddr> {
    let mut usable = addresses
        .iter()
        .filter(|address| {
            address.device == device && address.global && !address.tentative && !address.deprecated
        })
        .map(|address| address.net.addr());
    let first = usable.clone().find(IpAddr::is_ipv6);
    first.or_else(|| usable.next())
}

fn address_message(device: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = device;
    message.header.prefix_len = net.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.header.family = if net.addr().is_ipv6() {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    let mut flags = AddressFlags::Noprefixroute;
    if net.addr().is_ipv6() {
        flags |= AddressFlags::Nodad;
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes.push(AddressAttribute::Flags(flags));
    message.attributes.push(AddressAttribute::Address(net.addr()));
    message.attributes.push(AddressAttribute::Local(net.addr()));
    message
}

impl Address {
    pub(crate) fn parse(message: &AddressMessage) -> Option<Self> {
        let mut local = None;
        let mut address = None;
        let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Flags(all) => flags = *all,
                _ => {}
            }
        }
        // On point-to-point devices `Address` is the other side; IPv6 sends `Address` alone otherwise.
        let net = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
        Some(Self {
            device: message.header.index,
            net,
            global: message.header.scope == AddressScope::Universe,
            tentative: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
            deprecated: flags.contains(AddressFlags::Deprecated),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(device: u32, net: &str) -> Address {
        Address {
            device,
            net: net.parse().unwrap(),
            global: true,
            tentative: false,
            deprecated: false,
        }
    }

    #[test]
    fn the_first_usable_ipv6_address_represents_a_device() {
        let mut addresses = vec![
            Address {
                global: false,
                ..address(2, "fe80::1/64")
            },
            address(2, "192.0.2.1/24"),
            Address {
                tentative: true,
                ..address(2, "2001:db8::1/64")
            },
            Address {
                deprecated: true,
                ..address(2, "2001:db8::2/64")
            },
            address(3, "2001:db8::3/64"),
            address(2, "2001:db8::4/64"),
        ];
        assert_eq!(first_global(&addresses, 2), Some("2001:db8::4".parse().unwrap()));
        addresses.pop();
        assert_eq!(first_global(&addresses, 2), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(first_global(&addresses, 4), None);
    }
}
