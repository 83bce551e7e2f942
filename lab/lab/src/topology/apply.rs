//! Making the network of a [`Plan`] out of namespaces that exist.

use std::collections::BTreeMap;

use anyhow::Context as _;
use futures::future::try_join_all;
use ipnet::Ipv6Net;
use netlink::{Netlink, Netns, Route, VethEnd};

use super::{BRIDGE, Cable, OUTSIDE, Plan, ROUTER, SWITCH, UPLINK, set_host_sysctls};
use crate::state::{Paths, Spec};

/// Largest packet on every cable, bytes of layer 3: what Ethernet and kind's Docker network have.
const MTU: u32 = 1500;
/// `RTPROT_STATIC`: routes that an administrator made. The agent only touches those with its own number.
const STATIC: u8 = 4;

/// A namespace and a connection to the kernel inside it.
struct Host {
    netns: Netns,
    netlink: Netlink,
}

/// Connects the hosts of a cluster, whose network namespaces exist and are empty.
///
/// # Errors
/// The kernel refuses something.
pub(crate) async fn build(paths: &Paths, spec: &Spec) -> anyhow::Result<()> {
    let plan = Plan::new(&spec.nodes);
    let names = spec
        .nodes
        .iter()
        .map(|node| node.name.as_str())
        .chain([SWITCH, ROUTER, OUTSIDE]);
    let hosts: BTreeMap<&str, Host> = try_join_all(names.map(|name| open(paths, name)))
        .await?
        .into_iter()
        .collect();
    let host = |name: &str| {
        hosts
            .get(name)
            .with_context(|| format!("the plan names a host {name} that is not there"))
    };

    let switch = host(SWITCH)?;
    switch.netlink.add_bridge(BRIDGE).await?;
    for Cable(one, other) in &plan.cables {
        let (a, b) = (host(&one.host)?, host(&other.host)?);
        let end = |link, host| VethEnd {
            name: link,
            mac: None,
            netns: Some(host),
        };
        switch
            .netlink
            .add_veth(&end(&one.link, &a.netns), &end(&other.link, &b.netns), MTU)
            .await?;
    }
    let bridge = switch.netlink.link_by_name(BRIDGE).await?.index;
    for port in &plan.bridge {
        let index = switch.netlink.link_by_name(&port.link).await?.index;
        switch.netlink.set_controller(index, bridge).await?;
    }
    try_join_all(hosts.values().map(switch_on)).await?;
    for address in &plan.addresses {
        let netlink = &host(&address.host)?.netlink;
        let device = netlink.link_by_name(&address.link).await?.index;
        let net = Ipv6Net::new(address.address, address.prefix)?;
        netlink.add_address(device, net.into()).await?;
        netlink
            .add_route(&Route {
                protocol: STATIC,
                ..Route::new(net.trunc().into(), device)
            })
            .await?;
    }
    for (name, gateway) in &plan.default_routes {
        let netlink = &host(name)?.netlink;
        let device = netlink.link_by_name(UPLINK).await?.index;
        netlink
            .add_route(&Route {
                protocol: STATIC,
                ..Route::default_via((*gateway).into(), device)
            })
            .await?;
    }
    Ok(())
}

async fn open<'a>(paths: &Paths, name: &'a str) -> anyhow::Result<(&'a str, Host)> {
    let netns = Netns::open(paths.namespaces(name).join("net"))?;
    netns
        .run(set_host_sysctls)
        .await?
        .with_context(|| format!("cannot prepare the network of {name}"))?;
    let netlink = Netlink::open_in(&netns).await?;
    Ok((name, Host { netns, netlink }))
}

/// Every link of a host, the loopback device included.
async fn switch_on(host: &Host) -> anyhow::Result<()> {
    for link in host.netlink.links().await? {
        host.netlink.set_up(link.index, true).await?;
    }
    Ok(())
}
