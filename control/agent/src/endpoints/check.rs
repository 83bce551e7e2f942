//! CHECK: compares what ADD left with what the kernel has now. It changes nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use api::cni::{Attachment, CheckRequest};
use ipnet::IpNet;
use model::EndpointState;
use model::addr::to_abi;
use netlink::Route;

use super::{CniError, Endpoints};
use crate::kernel::KernelError;

/// Something is not as ADD left it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    /// There is no such endpoint.
    #[error("container {} has no interface {}", .0.container_id, .0.ifname)]
    Unknown(Attachment),
    /// The link is gone or is another one.
    #[error("the host-side device {0} is gone")]
    Link(String),
    /// The pod's device does not have the addresses that were given.
    #[error("{device} has the addresses {found:?} instead of {expected:?}")]
    Addresses {
        /// The device inside the pod.
        device: String,
        /// What it has.
        found: Vec<IpAddr>,
        /// What it should have.
        expected: Vec<IpAddr>,
    },
    /// The pod cannot reach what is not on its link, or not by way of the router.
    #[error("{device} has no route to {destination}")]
    Route {
        /// The device inside the pod.
        device: String,
        /// Where to.
        destination: IpNet,
    },
    /// The programs are not there.
    #[error("no programs are attached to {0}")]
    Programs(String),
    /// An entry is missing or another one.
    #[error("the {table} entry of {address} is missing or wrong")]
    Table {
        /// Which table.
        table: &'static str,
        /// Which address.
        address: IpAddr,
    },
    /// The kernel could not be asked.
    #[error("looking at the pod")]
    Kernel(#[from] KernelError),
}

impl Endpoints {
    /// CHECK.
    pub(crate) async fn check(&self, request: &CheckRequest) -> Result<(), CniError> {
        Ok(self.compare(request).await?)
    }

    async fn compare(&self, request: &CheckRequest) -> Result<(), CheckError> {
        let found = self.store().find(&request.attachment);
        let found = found.filter(|endpoint| endpoint.state != EndpointState::Disconnecting);
        let Some(endpoint) = found else {
            return Err(CheckError::Unknown(request.attachment.clone()));
        };
        let links = self.kernel.pod_links().await?;
        if links.get(&endpoint.host_ifname) != Some(&endpoint.host_ifindex) {
            return Err(CheckError::Link(endpoint.host_ifname));
        }
        let mut expected: BTreeSet<IpAddr> = endpoint.addresses.iter().copied().collect();
        // The runtime's memory of the result must be of the same pod as ours.
        let bare = |address: &String| {
            address
                .split('/')
                .next()
                .and_then(|address| address.parse::<IpAddr>().ok())
        };
        expected.extend(request.addresses.iter().filter_map(bare));
        let inside = self
            .kernel
            .inside_pod(Path::new(&request.netns), &endpoint.ifname)
            .await?;
        if inside.addresses.iter().copied().collect::<BTreeSet<_>>() != expected {
            let expected = expected.into_iter().collect();
            return Err(CheckError::Addresses {
                device: endpoint.ifname,
                found: inside.addresses,
                expected,
            });
        }
        // Others may have added routes or changed the size of these, so only destination and next hop count.
        let routers = self.store().routers().to_vec();
        let of_pod = |router: &IpAddr| endpoint.addresses.iter().any(|a| a.is_ipv6() == router.is_ipv6());
        for router in routers.into_iter().filter(of_pod) {
            let default = Route::default_via(router, endpoint.host_ifindex).destination;
            for (destination, via) in [(IpNet::from(router), None), (default, Some(router))] {
                let there = |route: &Route| route.destination == destination && route.via == via;
                if !inside.routes.iter().any(there) {
                    return Err(CheckError::Route {
                        device: endpoint.ifname,
                        destination,
                    });
                }
            }
        }
        let device = [endpoint.host_ifindex];
        if self.kernel.attached_pods(&device).await?.is_empty() {
            return Err(CheckError::Programs(endpoint.host_ifname));
        }
        let (endpoints, peers, devices) = (
            self.kernel.endpoints()?,
            self.kernel.peers()?,
            self.kernel.devices()?,
        );
        for address in endpoint.addresses {
            let addr = to_abi(address);
            let wrong = |table| CheckError::Table { table, address };
            if devices.get(&endpoint.host_ifindex) != Some(&addr) {
                return Err(wrong("device"));
            }
            if endpoints
                .get(&addr)
                .is_none_or(|entry| entry.ifindex != endpoint.host_ifindex || entry.mac != endpoint.mac.0)
            {
                return Err(wrong("endpoint"));
            }
            if peers
                .get(&addr)
                .is_none_or(|peer| peer.identity != endpoint.identity.0)
            {
                return Err(wrong("identity"));
            }
        }
        Ok(())
    }
}
