//! Desired tables and routes against what the kernel holds: looks at everything that is known, computes the
//! difference, applies it. Running it twice changes nothing; stopping it anywhere harms nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use abi::{Addr, Peer};
use anyhow::{Context, bail};
use ipnet::IpNet;
use model::AgentConfig;
use model::addr::{Family, to_abi};
use model::desired::{self, Desired, Diff, LocalNode};
use netlink::{Address, Link, Netlink, Route};
use tokio::sync::Mutex;

use crate::endpoints::Endpoints;
use crate::host;
use crate::kernel::Kernel;
use crate::view::SharedView;

/// Brings tables and routes to what they should be.
pub(crate) struct Reconciler {
    /// Name of this node.
    pub(crate) node: String,
    /// Configuration.
    pub(crate) config: Arc<AgentConfig>,
    /// What is known of the cluster.
    pub(crate) view: SharedView,
    /// The pods of this node.
    pub(crate) endpoints: Arc<Endpoints>,
    /// Where the tables are.
    pub(crate) kernel: Arc<dyn Kernel>,
    /// Where the routes are.
    pub(crate) netlink: Netlink,
    /// What the tables hold, as far as known without reading them anew.
    pub(crate) known: Mutex<Option<Tables>>,
}

/// Content of the tables.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    endpoints: BTreeMap<Addr, abi::Endpoint>,
    peers: BTreeMap<Addr, Peer>,
    devices: BTreeMap<u32, Addr>,
}

impl Reconciler {
    /// One pass. With `reread` the tables are read from the kernel, without it they are taken to hold what the last
    /// pass left, unless that failed.
    pub(crate) async fn run(&self, reread: bool) -> anyhow::Result<()> {
        let local = self.local_node().await?;
        let mut known = self.known.lock().await;
        // Nothing that ADD writes from here on may count as superfluous.
        let tables = self.endpoints.lock_tables().await;
        let (want, devices) = self.desired(&local);
        let mut have = match known.take() {
            Some(have) if !reread => have,
            _ => Tables {
                endpoints: self.kernel.endpoints()?,
                peers: self.kernel.peers()?,
                devices: self.kernel.devices()?,
            },
        };
        self.write(&mut have, &want, &devices)?;
        drop(tables);
        // Only a pass that wrote everything is remembered; after a failure the next one reads.
        *known = Some(have);
        drop(known);
        self.routes(&want, &local).await?;
        if let Some(problem) = want.problems.first() {
            let quiet = self.config.skip_unreachable
                && want.problems.iter().all(|problem| matches!(problem, desired::RouteProblem::NotOnLink { .. }));
            if !quiet {
                bail!("{} routes cannot be installed; the first: {problem}", want.problems.len());
            }
        }
        Ok(())
    }

    /// Writes what is known without removing anything: after a restart the cluster is not known yet, but the pods of
    /// this node are.
    pub(crate) async fn seed(&self) -> anyhow::Result<()> {
        let local = self.local_node().await?;
        let _tables = self.endpoints.lock_tables().await;
        let (want, devices) = self.desired(&local);
        for (addr, endpoint) in want.endpoints {
            self.kernel.set_endpoint(addr, endpoint)?;
        }
        for (addr, peer) in want.ipcache {
            self.kernel.set_peer(addr, peer)?;
        }
        for (index, addr) in devices {
            self.kernel.set_device(index, addr)?;
        }
        Ok(())
    }

    async fn local_node(&self) -> anyhow::Result<LocalNode> {
        let links = self.netlink.links().await?;
        let addresses = self.netlink.addresses().await?;
        let routers = self.endpoints.store().routers().to_vec();
        let natives = host::native_devices(&self.netlink, &self.config.devices).await?;
        Ok(LocalNode {
            name: self.node.clone(),
            addresses: node_addresses(&links, &addresses, &routers),
            routers,
            pod_cidrs: self.endpoints.store().ipam.blocks().collect(),
            on_link: on_link(&natives, &addresses),
            direct_routes: self.config.auto_direct_node_routes,
            families: self.config.families().collect(),
        })
    }

    fn desired(&self, local: &LocalNode) -> (Desired, BTreeMap<u32, Addr>) {
        let view = self.view.lock();
        let store = self.endpoints.store();
        let want = desired::desired(local, store.iter(), view.nodes.values(), view.endpoints.values());
        let pods = store.iter().filter(|endpoint| endpoint.host_ifindex != 0);
        let devices =
            pods.filter_map(|endpoint| Some((endpoint.host_ifindex, to_abi(*endpoint.addresses.first()?)))).collect();
        (want, devices)
    }

    fn write(&self, have: &mut Tables, want: &Desired, devices: &BTreeMap<u32, Addr>) -> anyhow::Result<()> {
        let kernel = &self.kernel;
        let change = desired::diff(&have.endpoints, &want.endpoints);
        apply(&change, |addr, endpoint| kernel.set_endpoint(*addr, *endpoint), |addr| kernel.remove_endpoint(*addr))?;
        change.apply(&mut have.endpoints);
        let change = desired::diff(&have.peers, &want.ipcache);
        apply(&change, |addr, peer| kernel.set_peer(*addr, *peer), |addr| kernel.remove_peer(*addr))?;
        change.apply(&mut have.peers);
        let change = desired::diff(&have.devices, devices);
        apply(&change, |index, addr| kernel.set_device(*index, *addr), |index| kernel.remove_device(*index))?;
        change.apply(&mut have.devices);
        Ok(())
    }

    async fn routes(&self, want: &Desired, local: &LocalNode) -> anyhow::Result<()> {
        let natives = host::native_devices(&self.netlink, &self.config.devices).await?;
        let addresses = self.netlink.addresses().await?;
        let cilium_host = self.netlink.link_by_name(host::HOST_DEVICE).await?;
        let mut routes: Vec<Route> = Vec::new();
        for (destination, via) in &want.routes {
            let device = natives.iter().find(|native| on_link(&[(*native).clone()], &addresses).iter().any(|n| n.contains(via)));
            let device = device.with_context(|| format!("no native device reaches {via}"))?;
            routes.push(Route { via: Some(*via), ..Route::new(*destination, device.index) });
        }
        // People look here for the node's own block, and processes of the node reach its pods by it.
        let families = &local.families;
        let own = local.pod_cidrs.iter().filter(|block| families.contains(&Family::of(block.network())));
        routes.extend(own.map(|block| {
            let source = local.routers.iter().copied().find(|router| block.contains(router));
            Route { source, ..Route::new(*block, cilium_host.index) }
        }));
        let have = self.netlink.our_routes().await?;
        let failed = self.netlink.apply_routes(netlink::plan_routes(&have, &routes)).await;
        match failed.into_iter().next() {
            None => Ok(()),
            Some((change, error)) => Err(error).with_context(|| format!("applying {change:?}")),
        }
    }
}

fn apply<K, V, E>(
    change: &Diff<K, V>,
    set: impl Fn(&K, &V) -> Result<(), E>,
    remove: impl Fn(&K) -> Result<(), E>,
) -> Result<(), E> {
    change.upsert.iter().try_for_each(|(key, value)| set(key, value))?;
    change.remove.iter().try_for_each(remove)
}

/// Addresses of the node itself: those of all its devices but the pods' and without the routers.
fn node_addresses(links: &[Link], addresses: &[Address], routers: &[IpAddr]) -> Vec<IpAddr> {
    let ours = |index| links.iter().any(|link| link.index == index && !link.name.starts_with(crate::kernel::POD_PREFIX));
    let usable = addresses.iter().filter(|address| ours(address.device) && !address.tentative);
    usable.map(|address| address.net.addr()).filter(|address| !routers.contains(address)).collect()
}

/// Prefixes that are reached through native devices without a router in between.
fn on_link(natives: &[Link], addresses: &[Address]) -> Vec<IpNet> {
    let native = |index| natives.iter().any(|link| link.index == index);
    addresses.iter().filter(|a| native(a.device) && a.global).map(|address| address.net.trunc()).collect()
}
