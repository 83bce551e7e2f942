//! The kernel, as far as pods and tables are concerned. The trait exists so that the steps of ADD and the reconciler
//! can be made to fail in tests, one by one; [`Linux`] is the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use abi::{Addr, Peer};
use futures::future::BoxFuture;
use loader::{AttachError, Datapath, PinError, TableError, WireError, WireMode};
use netlink::{Netlink, NetlinkError, Netns, NetnsError, PodError, PodLink, PodNetwork, Route, Sysctls};

use crate::fresh::Fresh;
use crate::programs;

/// Host-side devices of pods begin with this.
pub(crate) const POD_PREFIX: &str = "lxc";

/// The kernel refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KernelError {
    /// The pod's link could not be made.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// Links could not be read or deleted.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The pod's namespace could not be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// What was named as the pod's namespace is not one that a pod can have.
    #[error("{} is not the network namespace of a pod: {why}", path.display())]
    Sandbox {
        /// What was named.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// A table could not be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A program could not be attached or detached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A device does without the fast lane.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A pin could not be read or removed.
    #[error(transparent)]
    Pins(#[from] PinError),
}

impl KernelError {
    /// A device of that name is there already.
    #[must_use]
    pub(crate) fn is_exists(&self) -> bool {
        match self {
            Self::Pod(PodError::Link(error)) | Self::Netlink(error) => error.is_exists(),
            _ => false,
        }
    }
}

/// What a pod's device has now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inside {
    /// Addresses, without link-local ones.
    pub(crate) addresses: Vec<IpAddr>,
    /// Routes by way of the device.
    pub(crate) routes: Vec<Route>,
}

type Answer<T> = Result<T, KernelError>;

/// Opens the namespace of a pod. The node's own is refused: a device that was made there for a pod would be the node's.
fn sandbox(path: &Path) -> Answer<Netns> {
    let refuse = |why| KernelError::Sandbox {
        path: path.to_owned(),
        why,
    };
    let stat = |path: &Path| {
        std::fs::metadata(path).map_err(|source| NetnsError::Open {
            path: path.to_owned(),
            source,
        })
    };
    let (own, given) = (stat(Path::new("/proc/thread-self/ns/net"))?, stat(path)?);
    // All namespaces are files of one file system, and nothing else is. Asked before the file is opened, which might
    // take for ever.
    if given.dev() != own.dev() {
        return Err(refuse("not a namespace"));
    }
    if given.ino() == own.ino() {
        return Err(refuse("it is the node's own namespace"));
    }
    Ok(Netns::open(path)?)
}

/// What ADD, DEL, CHECK and the reconciler do to the kernel. Every removal is idempotent.
pub(crate) trait Kernel: Send + Sync + 'static {
    /// Makes the link of a pod, both ends down; nothing is left behind on failure.
    fn make_pod<'a>(&'a self, netns: &'a Path, want: &'a PodNetwork) -> BoxFuture<'a, Answer<PodLink>>;
    /// Switches a pod's link on, with addresses and routes.
    fn raise_pod<'a>(
        &'a self,
        netns: &'a Path,
        want: &'a PodNetwork,
        link: PodLink,
    ) -> BoxFuture<'a, Answer<()>>;
    /// Deletes a link and its other end.
    fn delete_link<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Answer<bool>>;
    /// Name and index of every host-side pod device.
    fn pod_links(&self) -> BoxFuture<'_, Answer<BTreeMap<String, u32>>>;
    /// What a device inside a namespace has.
    fn inside_pod<'a>(&'a self, netns: &'a Path, device: &'a str) -> BoxFuture<'a, Answer<Inside>>;
    /// Has the programs of a pod run on its host-side device from now on, without waiting: what is there is exchanged,
    /// where nothing is there links follow later.
    fn attach_pod(&self, ifindex: u32) -> Answer<()>;
    /// Attaches the programs of a device that leads out of the node.
    fn attach_native(&self, ifindex: u32) -> Answer<()>;
    /// Attaches the fast lane in the driver of a native device.
    fn attach_wire(&self, ifindex: u32) -> Answer<()>;
    /// Takes it off.
    fn detach_wire(&self, ifindex: u32) -> Answer<()>;
    /// Sets the address under which translated packets leave by a native device.
    fn set_masquerade(&self, ifindex: u32, addr: Addr) -> Answer<()>;
    /// Attaches the program of `cilium_host`.
    fn attach_router(&self, ifindex: u32) -> Answer<()>;
    /// Detaches the programs of a pod.
    fn detach_pod(&self, ifindex: u32) -> Answer<()>;
    /// Which of these devices have the programs of a pod now, by links or as filters.
    fn attached_pods<'a>(&'a self, devices: &'a [u32]) -> BoxFuture<'a, Answer<BTreeSet<u32>>>;
    /// Writes an entry of the device table.
    fn set_device(&self, ifindex: u32, addr: Addr) -> Answer<()>;
    /// Removes one.
    fn remove_device(&self, ifindex: u32) -> Answer<()>;
    /// The device table.
    fn devices(&self) -> Answer<BTreeMap<u32, Addr>>;
    /// Writes an entry of the endpoint table.
    fn set_endpoint(&self, addr: Addr, endpoint: abi::Endpoint) -> Answer<()>;
    /// Removes one.
    fn remove_endpoint(&self, addr: Addr) -> Answer<()>;
    /// The endpoint table.
    fn endpoints(&self) -> Answer<BTreeMap<Addr, abi::Endpoint>>;
    /// Writes an entry of the identity table.
    fn set_peer(&self, addr: Addr, peer: Peer) -> Answer<()>;
    /// Removes one.
    fn remove_peer(&self, addr: Addr) -> Answer<()>;
    /// The identity table.
    fn peers(&self) -> Answer<BTreeMap<Addr, Peer>>;
}

/// The running kernel.
pub(crate) struct Linux {
    /// The node's namespace.
    pub(crate) netlink: Netlink,
    /// Settings of the node and, seen from a thread inside, of pods.
    pub(crate) sysctls: Sysctls,
    /// Programs and tables.
    pub(crate) datapath: Arc<Datapath>,
    /// A connection of its own for deletes: the kernel takes tens of milliseconds for one, and handles the requests
    /// of a connection one after the other.
    pub(crate) remover: Netlink,
    /// Pods whose links are not made yet.
    pub(crate) fresh: Arc<Fresh>,
}

impl Kernel for Linux {
    fn make_pod<'a>(&'a self, netns: &'a Path, want: &'a PodNetwork) -> BoxFuture<'a, Answer<PodLink>> {
        Box::pin(async move {
            let netns = sandbox(netns)?;
            let Self { netlink, sysctls, .. } = self;
            Ok(netlink::link_pod(netlink, &netns, sysctls, want).await?)
        })
    }

    fn raise_pod<'a>(
        &'a self,
        netns: &'a Path,
        want: &'a PodNetwork,
        link: PodLink,
    ) -> BoxFuture<'a, Answer<()>> {
        Box::pin(async move {
            let netns = Netns::open(netns)?;
            let Self { netlink, sysctls, .. } = self;
            Ok(netlink::raise_pod(netlink, &netns, sysctls, want, link).await?)
        })
    }

    fn delete_link<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Answer<bool>> {
        Box::pin(async move { Ok(self.remover.delete_link(name).await?) })
    }

    fn pod_links(&self) -> BoxFuture<'_, Answer<BTreeMap<String, u32>>> {
        Box::pin(async move {
            let links = self.netlink.links().await?.into_iter();
            let of_pods = links.filter(|link| link.name.starts_with(POD_PREFIX));
            Ok(of_pods.map(|link| (link.name, link.index)).collect())
        })
    }

    fn inside_pod<'a>(&'a self, netns: &'a Path, device: &'a str) -> BoxFuture<'a, Answer<Inside>> {
        Box::pin(async move {
            let inside = Netlink::open_in(&sandbox(netns)?).await?;
            let index = inside.link_by_name(device).await?.index;
            let addresses = inside.addresses().await?.into_iter();
            let routes = inside.routes().await?.into_iter();
            Ok(Inside {
                addresses: addresses
                    .filter(|a| a.device == index && a.global)
                    .map(|address| address.net.addr())
                    .collect(),
                routes: routes.filter(|route| route.device == index).collect(),
            })
        })
    }

    fn attach_pod(&self, ifindex: u32) -> Answer<()> {
        if self.datapath.attach_pod_at_once(ifindex)? {
            self.fresh.insert(ifindex);
        }
        Ok(())
    }

    fn attach_native(&self, ifindex: u32) -> Answer<()> {
        self.datapath.attach_netdev(ifindex)?;
        Ok(())
    }

    fn attach_wire(&self, ifindex: u32) -> Answer<()> {
        self.datapath.attach_wire(ifindex, WireMode::Native)?;
        Ok(())
    }

    fn detach_wire(&self, ifindex: u32) -> Answer<()> {
        self.datapath.detach_wire(ifindex)?;
        Ok(())
    }

    fn set_masquerade(&self, ifindex: u32, addr: Addr) -> Answer<()> {
        Ok(self.datapath.nat().masquerade.insert(&ifindex, &addr)?)
    }

    fn attach_router(&self, ifindex: u32) -> Answer<()> {
        self.datapath.attach_host(ifindex)?;
        Ok(())
    }

    fn detach_pod(&self, ifindex: u32) -> Answer<()> {
        self.fresh.remove(ifindex);
        self.datapath.detach(ifindex)?;
        Ok(())
    }

    fn attached_pods<'a>(&'a self, devices: &'a [u32]) -> BoxFuture<'a, Answer<BTreeSet<u32>>> {
        Box::pin(async move {
            let found = programs::on_devices(&self.datapath, &self.netlink, devices).await?;
            let has = |device: &u32, program| {
                found
                    .iter()
                    .any(|one| one.ifindex == *device && one.program == program)
            };
            let served = devices.iter().copied();
            Ok(served
                .filter(|device| has(device, abi::names::FROM_POD) && has(device, abi::names::TO_POD))
                .collect())
        })
    }

    fn set_device(&self, ifindex: u32, addr: Addr) -> Answer<()> {
        Ok(self.datapath.devices().insert(&ifindex, &addr)?)
    }

    fn remove_device(&self, ifindex: u32) -> Answer<()> {
        self.datapath.devices().remove(&ifindex)?;
        Ok(())
    }

    fn devices(&self) -> Answer<BTreeMap<u32, Addr>> {
        Ok(self.datapath.devices().dump()?)
    }

    fn set_endpoint(&self, addr: Addr, endpoint: abi::Endpoint) -> Answer<()> {
        Ok(self.datapath.endpoints().insert(&addr, &endpoint)?)
    }

    fn remove_endpoint(&self, addr: Addr) -> Answer<()> {
        self.datapath.endpoints().remove(&addr)?;
        Ok(())
    }

    fn endpoints(&self) -> Answer<BTreeMap<Addr, abi::Endpoint>> {
        Ok(self.datapath.endpoints().dump()?)
    }

    fn set_peer(&self, addr: Addr, peer: Peer) -> Answer<()> {
        Ok(self.datapath.ipcache().insert(&addr, &peer)?)
    }

    fn remove_peer(&self, addr: Addr) -> Answer<()> {
        self.datapath.ipcache().remove(&addr)?;
        Ok(())
    }

    fn peers(&self) -> Answer<BTreeMap<Addr, Peer>> {
        Ok(self.datapath.ipcache().dump()?)
    }
}
