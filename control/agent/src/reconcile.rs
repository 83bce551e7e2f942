//! Desired tables and routes against what the kernel holds: looks at everything that is known, computes the
//! difference, applies it. Running it twice changes nothing; stopping it anywhere harms nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use abi::{Addr, Peer};
use anyhow::{Context, bail};
use ipnet::IpNet;
use model::addr::{Family, to_abi};
use model::config::Acceleration;
use model::desired::{self, Desired, Diff, LocalNode, RouteProblem};
use model::{AgentConfig, EndpointState};
use netlink::{Address, Link, Netlink, Route};
use tokio::sync::Mutex;

use crate::endpoints::Endpoints;
use crate::host;
use crate::kernel::{Kernel, KernelError};
use crate::services::{SERVICE_ADDRESS, Services};
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
    /// Who knows the addresses of services.
    pub(crate) services: Arc<Services>,
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

/// The node's devices and addresses, asked once per pass.
struct Devices {
    /// Those that lead out of the node.
    native: Vec<Link>,
    /// `cilium_host`.
    router: Link,
    addresses: Vec<Address>,
    local: LocalNode,
}

impl Reconciler {
    /// One pass. With `whole` tables are read from the kernel and programs attached where they are missing; without
    /// it the tables are taken to hold what the last pass left, unless that failed.
    pub(crate) async fn run(&self, whole: bool) -> anyhow::Result<()> {
        let devices = self.devices().await?;
        let mut known = self.known.lock().await;
        // Nothing that ADD writes from here on may count as superfluous.
        let tables = self.endpoints.lock_tables().await;
        let (want, pods) = self.desired(&devices.local);
        let mut have = match known.take() {
            Some(have) if !whole => have,
            _ => Tables {
                endpoints: self.kernel.endpoints()?,
                peers: self.kernel.peers()?,
                devices: self.kernel.devices()?,
            },
        };
        self.write(&mut have, &want, &pods)?;
        let slow = if whole {
            self.attach(&devices)?;
            self.accelerate(&devices.native)
        } else {
            Ok(())
        };
        drop(tables);
        // Only a pass that wrote everything is remembered; after a failure the next one reads.
        *known = Some(have);
        drop(known);
        self.routes(&want, &devices).await?;
        // Last, as nothing else depends on it.
        slow?;
        let quiet = |problem: &RouteProblem| {
            self.config.skip_unreachable && matches!(problem, RouteProblem::NotOnLink { .. })
        };
        match want.problems.iter().find(|problem| !quiet(problem)) {
            None => Ok(()),
            Some(first) => bail!(
                "{} routes cannot be installed; the first: {first}",
                want.problems.len()
            ),
        }
    }

    /// Writes what is known without removing anything, and attaches the programs: after a restart the cluster is not
    /// known yet, but the pods of this node are. Tables come before programs, so that the first packet that a new
    /// program sees finds all that it needs.
    pub(crate) async fn seed(&self) -> anyhow::Result<()> {
        let devices = self.devices().await?;
        let _tables = self.endpoints.lock_tables().await;
        let (want, pods) = self.desired(&devices.local);
        for (addr, endpoint) in want.endpoints {
            self.kernel.set_endpoint(addr, endpoint)?;
        }
        for (addr, peer) in want.ipcache {
            self.kernel.set_peer(addr, peer)?;
        }
        for (index, addr) in pods {
            self.kernel.set_device(index, addr)?;
        }
        self.attach(&devices)?;
        // What is wrong is told by every pass from now on.
        let _ = self.accelerate(&devices.native);
        Ok(())
    }

    async fn devices(&self) -> anyhow::Result<Devices> {
        let links = self.netlink.links().await?;
        let addresses = self.netlink.addresses().await?;
        let native = host::native_devices(&self.netlink, &self.config.devices).await?;
        let (routers, pod_cidrs) = {
            let store = self.endpoints.store();
            (store.routers().to_vec(), store.ipam.blocks().collect())
        };
        let local = LocalNode {
            name: self.node.clone(),
            addresses: node_addresses(&links, &addresses, &routers),
            routers,
            pod_cidrs,
            on_link: on_link(&native, &addresses),
            direct_routes: self.config.auto_direct_node_routes,
            families: self.config.families().collect(),
        };
        Ok(Devices {
            native,
            router: self.netlink.link_by_name(host::HOST_DEVICE).await?,
            addresses,
            local,
        })
    }

    /// Content that the tables should have; the last is the device table.
    fn desired(&self, local: &LocalNode) -> (Desired, BTreeMap<u32, Addr>) {
        let view = self.view.lock();
        let store = self.endpoints.store();
        let mut want = desired::desired(local, store.iter(), view.nodes.values(), view.endpoints.values());
        // What belongs to a pod or to the node itself stays theirs.
        for addr in self.services.addresses() {
            want.endpoints.entry(addr).or_insert(SERVICE_ADDRESS);
        }
        let pods = store
            .iter()
            .filter(|endpoint| endpoint.host_ifindex != 0 && endpoint.state != EndpointState::Disconnecting);
        let devices = pods
            .filter_map(|endpoint| Some((endpoint.host_ifindex, to_abi(*endpoint.addresses.first()?))))
            .collect();
        (want, devices)
    }

    fn write(&self, have: &mut Tables, want: &Desired, devices: &BTreeMap<u32, Addr>) -> anyhow::Result<()> {
        let kernel = &self.kernel;
        let change = desired::diff(&have.endpoints, &want.endpoints);
        apply(
            &change,
            |addr, endpoint| kernel.set_endpoint(*addr, *endpoint),
            |addr| kernel.remove_endpoint(*addr),
        )?;
        change.apply(&mut have.endpoints);
        let change = desired::diff(&have.peers, &want.ipcache);
        apply(
            &change,
            |addr, peer| kernel.set_peer(*addr, *peer),
            |addr| kernel.remove_peer(*addr),
        )?;
        change.apply(&mut have.peers);
        let change = desired::diff(&have.devices, devices);
        apply(
            &change,
            |index, addr| kernel.set_device(*index, *addr),
            |index| kernel.remove_device(*index),
        )?;
        change.apply(&mut have.devices);
        Ok(())
    }

    /// Puts the programs on every device that should have them; where they are already this changes nothing.
    fn attach(&self, devices: &Devices) -> anyhow::Result<()> {
        let pods: Vec<(u32, String)> = {
            let store = self.endpoints.store();
            let served = store
                .iter()
                .filter(|endpoint| endpoint.state != EndpointState::Disconnecting);
            served
                .map(|endpoint| (endpoint.host_ifindex, endpoint.host_ifname.clone()))
                .filter(|(i, _)| *i != 0)
                .collect()
        };
        for (index, name) in pods {
            self.kernel
                .attach_pod(index)
                .with_context(|| format!("attaching programs to {name}"))?;
        }
        self.kernel
            .attach_router(devices.router.index)
            .context("attaching the program of cilium_host")?;
        for link in &devices.native {
            // Before the program, which has nothing to translate with otherwise.
            if let Some(addr) = translated_source(link, &devices.addresses) {
                self.kernel
                    .set_masquerade(link.index, addr)
                    .with_context(|| format!("setting the source of translated packets of {}", link.name))?;
            }
            self.kernel
                .attach_native(link.index)
                .with_context(|| format!("attaching programs to {}", link.name))?;
        }
        Ok(())
    }

    /// Has packets to services turn round in the drivers of native devices, as configured.
    fn accelerate(&self, native: &[Link]) -> anyhow::Result<()> {
        let config = &self.config;
        let wanted = if config.kube_proxy_replacement {
            config.services.acceleration
        } else {
            Acceleration::Disabled
        };
        let mut first = Ok(());
        for link in native {
            let done = match wanted {
                Acceleration::Disabled => self.kernel.detach_wire(link.index),
                Acceleration::Native | Acceleration::BestEffort => self.kernel.attach_wire(link.index),
            };
            match done {
                Err(KernelError::Wire(why)) if wanted == Acceleration::BestEffort => {
                    tracing::debug!("{} goes on without XDP: {why}", link.name);
                }
                done if first.is_ok() => {
                    first = done.with_context(|| format!("accelerating {}", link.name));
                }
                _ => {}
            }
        }
        first
    }

    async fn routes(&self, want: &Desired, devices: &Devices) -> anyhow::Result<()> {
        let Devices {
            native,
            router,
            addresses,
            local,
        } = devices;
        let mut routes: Vec<Route> = Vec::new();
        for (destination, via) in &want.routes {
            let reaches = |link: &&Link| {
                on_link(std::slice::from_ref(*link), addresses)
                    .iter()
                    .any(|n| n.contains(via))
            };
            let device = native
                .iter()
                .find(reaches)
                .with_context(|| format!("no native device reaches {via}"))?;
            routes.push(Route {
                via: Some(*via),
                ..Route::new(*destination, device.index)
            });
        }
        // People look here for the node's own block, and processes of the node reach its pods by it.
        let own = local
            .pod_cidrs
            .iter()
            .filter(|block| local.families.contains(&Family::of(block.network())));
        routes.extend(own.map(|block| {
            let source = local
                .routers
                .iter()
                .copied()
                .find(|router| block.contains(router));
            Route {
                source,
                ..Route::new(*block, router.index)
            }
        }));
        let have = self.netlink.our_routes().await?;
        let failed = self
            .netlink
            .apply_routes(netlink::plan_routes(&have, &routes))
            .await;
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
    change
        .upsert
        .iter()
        .try_for_each(|(key, value)| set(key, value))?;
    change.remove.iter().try_for_each(remove)
}

/// Addresses of the node itself: those of all its devices but the pods' and without the routers.
fn node_addresses(links: &[Link], addresses: &[Address], routers: &[IpAddr]) -> Vec<IpAddr> {
    let ours = |index| {
        links
            .iter()
            .any(|link| link.index == index && !link.name.starts_with(crate::kernel::POD_PREFIX))
    };
    let usable = addresses
        .iter()
        .filter(|address| ours(address.device) && !address.tentative);
    usable
        .map(|address| address.net.addr())
        .filter(|address| !routers.contains(address))
        .collect()
}

/// Prefixes that are reached through native devices without a router in between.
/// The address under which translated packets leave by a device: its first one that others can answer to. Families share
/// the table, and IPv6 is the one that is translated.
fn translated_source(link: &Link, addresses: &[Address]) -> Option<Addr> {
    let usable = |address: &&Address| {
        address.device == link.index && address.global && !address.tentative && !address.deprecated
    };
    let v6 = |address: &Address| match address.net.addr() {
        IpAddr::V6(_) => Some(to_abi(address.net.addr())),
        IpAddr::V4(_) => None,
    };
    addresses.iter().filter(usable).find_map(v6)
}

fn on_link(native: &[Link], addresses: &[Address]) -> Vec<IpNet> {
    let ours = |index| native.iter().any(|link| link.index == index);
    addresses
        .iter()
        .filter(|a| ours(a.device) && a.global)
        .map(|address| address.net.trunc())
        .collect()
}
