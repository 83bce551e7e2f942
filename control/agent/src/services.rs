//! Services: from the watch into the index, and what changed from there straight into the kernel's tables.
//!
//! A change is written as soon as it comes, by the task that receives it; nothing waits for the reconciler, which looks
//! after everything else. What could not be written is tried again with back-off, and now and then all tables are read
//! and compared. Until everything was listed once the tables stay as the predecessor left them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use abi::Addr;
use anyhow::Context;
use k8s::{Change, Input, Kind};
use model::addr::to_abi;
use model::service::{Affected, Installed, ServiceChange, ServiceIndex, ServiceNode, Settings, Step};
use tokio::sync::{Mutex, MutexGuard, watch};

use crate::changes::Changes;
use crate::endpoints::Endpoints;
use crate::view::SharedView;

mod checks;
mod stale;
mod tables;

pub(crate) use checks::{Checks, serve as serve_checks};
pub(crate) use tables::{InKernel, SERVICE_ADDRESS, ServiceTables};

/// Label of a node with its zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// Groups of steps between two pauses for other tasks.
const GROUPS: usize = 64;

/// The services of the cluster and what the tables hold of them.
pub(crate) struct Services {
    name: String,
    settings: Settings,
    families: Vec<model::addr::Family>,
    view: SharedView,
    endpoints: Arc<Endpoints>,
    tables: Arc<dyn ServiceTables>,
    /// Told when something has to be tried again.
    changed: Changes,
    /// Told when a backend has left a service.
    left: Changes,
    state: Mutex<State>,
    /// Addresses that are only services'. Changed while the tables are locked, so that the reconciler sees what is there.
    addresses: StdMutex<BTreeSet<Addr>>,
    complete: watch::Sender<bool>,
    checks: watch::Sender<Checks>,
}

/// What is known and what is written.
#[derive(Default)]
pub(crate) struct State {
    /// What is wanted.
    pub(crate) index: ServiceIndex,
    /// What the tables hold.
    pub(crate) installed: Installed,
    /// What could not be written.
    pending: Affected,
    /// Kinds that were listed.
    synced: BTreeSet<Kind>,
    /// Backends that have left a service, and whose sockets are still open: address and port.
    stale: BTreeSet<(Addr, [u8; 2])>,
    /// Writes that failed since the start.
    pub(crate) failures: u64,
    /// Steps that were done since the start.
    pub(crate) steps: u64,
}

impl State {
    fn is_complete(&self) -> bool {
        Kind::SERVICES.iter().all(|kind| self.synced.contains(kind))
    }
}

impl Services {
    /// Takes over what the tables hold.
    pub(crate) fn new(
        name: String,
        settings: Settings,
        view: SharedView,
        endpoints: Arc<Endpoints>,
        tables: Arc<dyn ServiceTables>,
        changed: Changes,
    ) -> Self {
        Self {
            name,
            settings,
            families: endpoints.settings().families.clone(),
            view,
            endpoints,
            tables,
            changed,
            left: Changes::default(),
            state: Mutex::default(),
            addresses: StdMutex::default(),
            complete: watch::channel(false).0,
            checks: watch::channel(Checks::new()).0,
        }
    }

    /// What is known and what is written.
    pub(crate) async fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().await
    }

    /// The same, unless it is being changed.
    pub(crate) fn state_now(&self) -> Option<MutexGuard<'_, State>> {
        self.state.try_lock().ok()
    }

    /// Addresses that are only services'.
    pub(crate) fn addresses(&self) -> BTreeSet<Addr> {
        self.shared_addresses().clone()
    }

    /// Whether everything was listed and written once.
    pub(crate) fn complete(&self) -> watch::Receiver<bool> {
        self.complete.subscribe()
    }

    /// When backends leave services.
    pub(crate) fn left(&self) -> Changes {
        self.left.clone()
    }

    /// What balancers may ask about.
    pub(crate) fn checks(&self) -> watch::Receiver<Checks> {
        self.checks.subscribe()
    }

    /// Begins anew with a watch that lists everything again. The tables stay as they are until it has.
    pub(crate) async fn begin(&self) {
        let mut state = self.state.lock().await;
        state.index = ServiceIndex::new(self.settings, self.node());
        state.synced.clear();
        state.pending.clear();
        for change in self.surroundings() {
            state.index.apply(change);
        }
    }

    /// Takes events in and writes what follows from them.
    ///
    /// # Errors
    /// When something could not be written; it is remembered.
    pub(crate) async fn take(&self, inputs: Vec<Input>) -> anyhow::Result<()> {
        let mut state = self.state.lock().await;
        let mut affected = Affected::new();
        for input in inputs {
            let change = match input {
                Input::Service(Change::Upsert(service)) => ServiceChange::Service(service),
                Input::Service(Change::Remove(name)) => ServiceChange::ServiceGone(name),
                Input::EndpointSlice(Change::Upsert(slice)) => ServiceChange::Slice(slice),
                Input::EndpointSlice(Change::Remove(name)) => ServiceChange::SliceGone(name),
                Input::Service(Change::Synced) => {
                    affected.extend(Self::listed(&mut state, Kind::Service));
                    continue;
                }
                Input::EndpointSlice(Change::Synced) => {
                    affected.extend(Self::listed(&mut state, Kind::EndpointSlice));
                    continue;
                }
                _ => continue,
            };
            affected.extend(state.index.apply(change));
        }
        self.write(&mut state, affected).await
    }

    /// Looks at nodes and pods again, and writes what is left; with `whole` the tables are read before and all of them
    /// compared.
    ///
    /// # Errors
    /// When the tables could not be read or written.
    pub(crate) async fn sync(&self, whole: bool) -> anyhow::Result<()> {
        let mut state = self.state.lock().await;
        let mut affected = std::mem::take(&mut state.pending);
        for change in self.surroundings() {
            affected.extend(state.index.apply(change));
        }
        if whole {
            self.read(&mut state).await?;
            if state.is_complete() {
                affected = everything(&state);
            }
        }
        self.write(&mut state, affected).await
    }

    /// Empties the tables: services are not translated (any more).
    ///
    /// # Errors
    /// When the tables could not be read or written.
    pub(crate) async fn clear(&self) -> anyhow::Result<()> {
        let mut state = self.state.lock().await;
        self.read(&mut state).await?;
        state.index = ServiceIndex::default();
        state.synced.extend(Kind::SERVICES);
        let affected = everything(&state);
        self.write(&mut state, affected).await?;
        drop(state);
        for _ in 0..3 {
            self.collect().await?;
        }
        Ok(())
    }

    /// Reads the tables and removes what belongs to nothing.
    ///
    /// # Errors
    /// When the tables could not be read or written.
    pub(crate) async fn load(&self) -> anyhow::Result<()> {
        let mut state = self.state.lock().await;
        self.read(&mut state).await
    }

    /// Removes sets of backends that nobody uses any more.
    ///
    /// # Errors
    /// When the tables could not be written.
    pub(crate) async fn collect(&self) -> anyhow::Result<()> {
        let mut state = self.state.lock().await;
        if !state.installed.is_waiting() {
            return Ok(());
        }
        let steps = state.installed.collect();
        self.follow(&mut state, &steps).map_err(|(_, error)| error)
    }

    /// A kind has been listed. When that was the last one, everything is to be written.
    fn listed(state: &mut State, kind: Kind) -> Affected {
        let before = state.is_complete();
        state.synced.insert(kind);
        if state.is_complete() && !before {
            everything(state)
        } else {
            Affected::new()
        }
    }

    async fn read(&self, state: &mut State) -> anyhow::Result<()> {
        let _tables = self.endpoints.lock_tables().await;
        let held = self.tables.read().context("reading the tables of services")?;
        let (installed, garbage) = Installed::read(held);
        state.installed = installed;
        self.shared_addresses().clone_from(state.installed.addresses());
        self.follow(state, &garbage).map_err(|(_, error)| error)
    }

    /// Writes what is wanted of some frontends, each owner's as a whole: one that cannot be written stops no other.
    async fn write(&self, state: &mut State, affected: Affected) -> anyhow::Result<()> {
        if !state.is_complete() {
            return Ok(());
        }
        let mut outcome = Ok(());
        let owners = state.index.owners(&affected);
        for (number, owner) in owners.iter().enumerate() {
            let State { index, installed, .. } = &mut *state;
            let group = index.wanted(owner.as_ref(), &affected);
            let steps = installed.plan(&group, |addr| index.is_node(addr));
            let is_address = |step: &Step| matches!(step, Step::AddAddress(_) | Step::RemoveAddress(_));
            let tables = if steps.iter().any(is_address) {
                Some(self.endpoints.lock_tables().await)
            } else {
                None
            };
            if let Err((done, error)) = self.follow(state, &steps) {
                state.installed.abandon(steps.get(done..).unwrap_or_default());
                state.pending.extend(group.iter().map(|(key, _)| *key));
                outcome = outcome.and(Err(error));
            }
            drop(tables);
            if number % GROUPS == GROUPS - 1 {
                tokio::task::yield_now().await;
            }
        }
        let checks = state.index.health_checks();
        self.checks.send_if_modified(|current| {
            let differ = *current != checks;
            *current = checks;
            differ
        });
        if outcome.is_ok() {
            self.complete.send_replace(true);
        } else {
            self.changed.touch();
        }
        outcome
    }

    /// Does steps one by one; after a failure tells how many were done.
    fn follow(&self, state: &mut State, steps: &[Step]) -> Result<(), (usize, anyhow::Error)> {
        for (done, step) in steps.iter().enumerate() {
            if let Err(error) = self.tables.write(step) {
                state.failures += 1;
                return Err((
                    done,
                    anyhow::Error::new(error).context("writing the tables of services"),
                ));
            }
            state.installed.apply(step);
            state.steps += 1;
            match step {
                Step::RemoveMember(key) => {
                    state.stale.insert((key.addr, key.port));
                    self.left.touch();
                }
                Step::AddAddress(addr) => {
                    self.shared_addresses().insert(*addr);
                }
                Step::RemoveAddress(addr) => {
                    self.shared_addresses().remove(addr);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn shared_addresses(&self) -> std::sync::MutexGuard<'_, BTreeSet<Addr>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What services have to know of the node and the cluster.
    fn surroundings(&self) -> [ServiceChange; 3] {
        let node = self.node();
        let view = self.view.lock();
        let published = view
            .nodes
            .values()
            .flat_map(|node| node.addresses.iter().map(|(_, addr)| *addr));
        let addresses = published
            .chain(node.addresses.iter().copied())
            .map(to_abi)
            .collect();
        let pods = view
            .pods
            .values()
            .filter(|pod| !pod.host_ports.is_empty())
            .cloned()
            .collect();
        [
            ServiceChange::Node(node),
            ServiceChange::NodeAddresses(addresses),
            ServiceChange::Pods(pods),
        ]
    }

    fn node(&self) -> ServiceNode {
        let view = self.view.lock();
        let node = view.node.as_ref();
        let addresses = node.map(|node| node.internal_ips.iter().chain(&node.external_ips));
        ServiceNode {
            name: self.name.clone(),
            zone: node
                .and_then(|node| node.labels.get(ZONE))
                .cloned()
                .unwrap_or_default(),
            addresses: addresses.into_iter().flatten().copied().collect(),
            families: self.families.clone(),
        }
    }
}

/// Every frontend that is wanted or there.
fn everything(state: &State) -> Affected {
    let mut all = state.index.all();
    all.extend(state.installed.services().map(|(key, _)| *key));
    // Addresses without a frontend are found by the port that no service has.
    let bare = state.installed.addresses().iter().map(|addr| abi::ServiceKey {
        addr: *addr,
        ..abi::ServiceKey::default()
    });
    all.extend(bare);
    all
}

#[cfg(test)]
mod tests;
