//! The network of a pod: a veth pair whose one end is `eth0` inside the pod's namespace, with address and routes. It
//! is made in two steps, so that the host side can get its programs before the first packet. This is what the time of a CNI ADD is spent on, so it takes one short-lived thread and a handful of
//! netlink requests, and waits for nothing (no duplicate address detection, no router solicitation).

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::sys::{Socket, protocols::NETLINK_ROUTE};

use crate::{Mac, Netlink, NetlinkError, Netns, NetnsError, Route, SysctlError, Sysctls, VethEnd};

/// What a pod gets.
#[derive(Clone, Debug)]
pub struct PodNetwork {
    /// Name of the device inside the pod, `eth0`.
    pub device: String,
    /// MAC address inside the pod.
    pub mac: Mac,
    /// Name of the other end in the host's namespace.
    pub host_device: String,
    /// MAC address of the other end: the router, as the pod sees it.
    pub host_mac: Mac,
    /// Addresses of the pod; each is given as a single address (/128 or /32).
    pub addresses: Vec<IpAddr>,
    /// Address of the router per family: the target of the default route.
    pub routers: Vec<IpAddr>,
    /// Largest packet of the device, bytes.
    pub mtu: u32,
    /// Largest packet on the default route, bytes; smaller than `mtu` where something is added on the way.
    pub route_mtu: u32,
}

/// The link of a pod whose ends are still down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// Index of the host side, in the host's namespace.
    pub host_index: u32,
    /// Index of the pod's side, in the pod's namespace, if the kernel told.
    pub index: Option<u32>,
}

/// A pod's network could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// The veth pair could not be made; [`NetlinkError::is_exists`]: one of the names is taken.
    #[error("cannot make the link of the pod")]
    Link(#[source] NetlinkError),
    /// The pod's namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// IPv6 could not be switched on inside the pod.
    #[error("cannot prepare the pod's namespace")]
    Sysctl(#[from] SysctlError),
    /// Address or routes were refused.
    #[error("cannot configure the pod's device")]
    Configure(#[source] NetlinkError),
}

/// Makes the link of a pod, both ends down: `host` is a connection in the host's namespace, `netns` the pod's
/// namespace. What is to see every packet can be attached to the host side now; [`raise_pod`] follows.
///
/// The calling thread must be in the host's namespace too, since the settings of the host's end are files that
/// belong to the namespace of whoever opens them.
///
/// On failure the pair is deleted again.
///
/// # Errors
/// [`PodError`].
pub async fn link_pod(
    host: &Netlink,
    netns: &Netns,
    sysctls: &Sysctls,
    want: &PodNetwork,
) -> Result<PodLink, PodError> {
    let ends = (
        VethEnd {
            name: &want.host_device,
            mac: Some(want.host_mac),
            netns: None,
        },
        VethEnd {
            name: &want.device,
            mac: Some(want.mac),
            netns: Some(netns),
        },
    );
    host.add_veth(&ends.0, &ends.1, want.mtu)
        .await
        .map_err(PodError::Link)?;
    let prepared = async {
        prepare_host_side(sysctls, &want.host_device)?;
        host.link_by_name(&want.host_device).await.map_err(PodError::Link)
    };
    match prepared.await {
        Ok(link) => Ok(PodLink {
            host_index: link.index,
            index: link.peer,
        }),
        Err(error) => {
            if let Err(undo) = host.delete_link(&want.host_device).await {
                tracing::warn!(device = want.host_device, error = %undo, "link of a failed pod stays behind");
            }
            Err(error)
        }
    }
}

/// Switches both ends of a pod's link on and gives the pod its addresses and routes. On failure the link is for the
/// caller to delete, which takes all of it along.
///
/// # Errors
/// [`PodError`].
pub async fn raise_pod(
    host: &Netlink,
    netns: &Netns,
    sysctls: &Sysctls,
    want: &PodNetwork,
    link: PodLink,
) -> Result<(), PodError> {
    // The pod's end second: it has its carrier from the start then, and its addresses count at once.
    host.set_up(link.host_index, true).await.map_err(PodError::Link)?;
    let socket = {
        let (sysctls, device) = (sysctls.clone(), want.device.clone());
        netns.run(move || prepare_pod_side(&sysctls, &device)).await??
    };
    let pod = Netlink::from_socket(socket).map_err(PodError::Configure)?;
    let index = match link.index {
        Some(index) => index,
        None => {
            pod.link_by_name(&want.device)
                .await
                .map_err(PodError::Configure)?
                .index
        }
    };
    configure_pod_side(&pod, index, want)
        .await
        .map_err(PodError::Configure)
}

/// The host side routes for the pod: it takes no advertisements from it and checks nothing for duplicates.
fn prepare_host_side(sysctls: &Sysctls, device: &str) -> Result<(), SysctlError> {
    sysctls.set(&format!("net/ipv6/conf/{device}/accept_ra"), "0")?;
    sysctls.set(&format!("net/ipv6/conf/{device}/accept_dad"), "0")?;
    sysctls.set(&format!("net/ipv4/conf/{device}/rp_filter"), "0")
}

/// Runs on a thread inside the pod's namespace, before the device is up: container runtimes switch IPv6 off, and the
/// device must come up without duplicate address detection. Returns a socket of this namespace.
fn prepare_pod_side(sysctls: &Sysctls, device: &str) -> Result<Socket, PodError> {
    sysctls.set("net/ipv6/conf/all/disable_ipv6", "0")?;
    for (key, value) in [
        ("disable_ipv6", "0"),
        ("accept_dad", "0"),
        ("accept_ra", "0"),
        ("router_solicitations", "0"),
    ] {
        sysctls.set(&format!("net/ipv6/conf/{device}/{key}"), value)?;
    }
    Socket::new(NETLINK_ROUTE).map_err(|error| PodError::Configure(NetlinkError::Open(error)))
}

async fn configure_pod_side(pod: &Netlink, index: u32, want: &PodNetwork) -> Result<(), NetlinkError> {
    /// The loopback device is the first of every namespace.
    const LOOPBACK: u32 = 1;
    pod.set_up(LOOPBACK, true).await?;
    for address in &want.addresses {
        pod.add_address(index, IpNet::from(*address)).await?;
    }
    pod.set_up(index, true).await?;
    for router in &want.routers {
        pod.add_route(&Route::new(IpNet::from(*router), index)).await?;
        let default = Route {
            mtu: Some(want.route_mtu),
            ..Route::default_via(*router, index)
        };
        pod.add_route(&default).await?;
    }
    Ok(())
}
