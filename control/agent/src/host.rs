//! The node's own devices: `cilium_host` with the router's address, its peer `cilium_net`, and the native devices
//! that lead to other nodes and the world.

use std::net::IpAddr;

use anyhow::Context;
use ipnet::IpNet;
use model::config::DevicePattern;
use netlink::{Link, Netlink, Sysctls, VethEnd};

/// Carries the router's address; packets of the node to its pods leave by it.
pub(crate) const HOST_DEVICE: &str = "cilium_host";
/// Its other end.
pub(crate) const NET_DEVICE: &str = "cilium_net";

/// Makes the pair if it is not there, and gives it exactly the router addresses. Answers `cilium_host`.
pub(crate) async fn ensure_router(
    netlink: &Netlink,
    sysctls: &Sysctls,
    routers: &[IpAddr],
    mtu: u32,
) -> anyhow::Result<Link> {
    if netlink
        .link_by_name(HOST_DEVICE)
        .await
        .is_err_and(|error| error.is_not_found())
    {
        let end = |name| VethEnd {
            name,
            mac: None,
            netns: None,
        };
        netlink
            .add_veth(&end(HOST_DEVICE), &end(NET_DEVICE), mtu)
            .await
            .context("making cilium_host")?;
    }
    for name in [NET_DEVICE, HOST_DEVICE] {
        let link = netlink.link_by_name(name).await?;
        for (key, value) in [("accept_dad", "0"), ("accept_ra", "0"), ("forwarding", "1")] {
            sysctls.set(&format!("net/ipv6/conf/{name}/{key}"), value)?;
        }
        // Neither end ever asks for a neighbour: the program on cilium_host decides where a packet goes.
        netlink.set_noarp(link.index, true).await?;
        if link.mtu != mtu {
            netlink.set_mtu(link.index, mtu).await?;
        }
        if !link.up {
            netlink.set_up(link.index, true).await?;
        }
    }
    let link = netlink.link_by_name(HOST_DEVICE).await?;
    let addresses = netlink.addresses().await?;
    let present: Vec<IpNet> = addresses
        .iter()
        .filter(|a| a.device == link.index && a.global)
        .map(|a| a.net)
        .collect();
    for router in routers {
        if !present.contains(&IpNet::from(*router)) {
            netlink
                .add_address(link.index, IpNet::from(*router))
                .await
                .context("giving cilium_host its address")?;
        }
    }
    for stale in present.iter().filter(|net| !routers.contains(&net.addr())) {
        netlink.delete_address(link.index, *stale).await?;
    }
    Ok(link)
}

/// The devices that lead out of the node: those that the configuration names, else those of the default routes.
pub(crate) async fn native_devices(
    netlink: &Netlink,
    patterns: &[DevicePattern],
) -> anyhow::Result<Vec<Link>> {
    let links = netlink.links().await.context("listing devices")?;
    if !patterns.is_empty() {
        let named = |link: &Link| patterns.iter().any(|pattern| pattern.matches(&link.name));
        return Ok(links.into_iter().filter(named).collect());
    }
    let defaults = netlink::default_devices(&netlink.routes().await.context("listing routes")?);
    // Ours are never native, whatever routes somebody put on them.
    let native = |index: &u32| {
        links
            .iter()
            .find(|link| link.index == *index && ![HOST_DEVICE, NET_DEVICE].contains(&link.name.as_str()))
            .cloned()
    };
    Ok(defaults.iter().filter_map(native).collect())
}

/// Lets the node forward packets.
pub(crate) fn enable_forwarding(sysctls: &Sysctls, ipv4: bool) -> anyhow::Result<()> {
    sysctls.set("net/ipv6/conf/all/forwarding", "1")?;
    if ipv4 {
        sysctls.set("net/ipv4/conf/all/forwarding", "1")?;
    }
    Ok(())
}

/// MTU of pods: what was configured, else the smallest of the native devices.
#[must_use]
pub(crate) fn mtu(configured: Option<u32>, natives: &[Link]) -> u32 {
    /// Where nothing leads out of the node.
    const ETHERNET: u32 = 1500;
    configured
        .or_else(|| natives.iter().map(|link| link.mtu).min())
        .unwrap_or(ETHERNET)
}
