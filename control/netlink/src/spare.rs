//! Pairs that are made before a pod asks for them.
//!
//! Attaching a program to a device takes a grace period of the kernel (`tcx_entry_sync`: 10 ms and more each, with
//! the routing lock held). A pair that has its programs already only has to be given its names, addresses and
//! namespace when the pod comes.

use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use crate::pod::configure;
use crate::{Mac, Netlink, NetlinkError, Netns, PodDevices, PodError, PodNetwork, Sysctls, VethEnd};

/// A pair that belongs to no pod; both ends are down and in the host's namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spare {
    /// Index of the end that stays in the host's namespace. It never changes.
    pub host_index: u32,
    /// Index of the end that goes to the pod.
    pub index: u32,
}

impl Netlink {
    /// Makes a pair that belongs to no pod.
    ///
    /// # Errors
    /// [`NetlinkError::is_exists`] when one of the names is taken.
    pub async fn add_spare(&self, host_device: &str, device: &str, mtu: u32) -> Result<Spare, NetlinkError> {
        let end = |name| VethEnd { name, mac: None, netns: None };
        self.add_veth(&end(host_device), &end(device), mtu).await?;
        let host_index = self.link_by_name(host_device).await?.index;
        Ok(Spare { host_index, index: self.link_by_name(device).await?.index })
    }

    /// Gives a device its name, address, MTU and namespace at once.
    async fn turn_into(
        &self,
        index: u32,
        name: &str,
        mac: Mac,
        mtu: u32,
        netns: Option<&Netns>,
    ) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
        message.attributes.push(LinkAttribute::Mtu(mtu));
        if let Some(netns) = netns {
            message.attributes.push(LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()));
        }
        self.change("turn spare link into", || name.to_owned(), RouteNetlinkMessage::SetLink(message), 0).await
    }
}

/// Makes the network of a pod out of a spare pair; otherwise like [`crate::configure_pod`].
///
/// On failure the pair is deleted, so that nothing half-made is ever spare again.
///
/// # Errors
/// [`PodError`].
pub async fn configure_pod_with(
    spare: Spare,
    host: &Netlink,
    netns: &Netns,
    sysctls: &Sysctls,
    want: &PodNetwork,
) -> Result<PodDevices, PodError> {
    let made = async {
        // The pod's end first: whether its name is taken is known before anything else changes.
        let inside = host.turn_into(spare.index, &want.device, want.mac, want.mtu, Some(netns));
        inside.await.map_err(PodError::Link)?;
        let outside = host.turn_into(spare.host_index, &want.host_device, want.host_mac, want.mtu, None);
        outside.await.map_err(PodError::Link)?;
        configure(host, netns, sysctls, want).await
    };
    match made.await {
        Ok(devices) => Ok(devices),
        Err(error) => {
            if let Ok(link) = host.link_by_index(spare.host_index).await
                && let Err(undo) = host.delete_link(&link.name).await
            {
                tracing::warn!(device = link.name, error = %undo, "link of a failed pod stays behind");
            }
            Err(error)
        }
    }
}
