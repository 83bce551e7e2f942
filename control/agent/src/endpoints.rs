//! The pods of this node: what ADD makes, DEL takes away, CHECK compares and GC finds.
//!
//! One rule keeps it simple: there is one way to take an endpoint away ([`Endpoints::tear_down`]), it is idempotent,
//! and a failed ADD takes it as well as DEL and GC do. So whatever is left is left by nobody.

mod add;
mod check;
mod state;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::cni::{Attachment, code};
use model::addr::{Family, to_abi};
use model::{Endpoint, EndpointId, EndpointState, Identity, LabelFilter};
use tokio::sync::{Mutex as AsyncMutex, Notify, Semaphore};

use crate::changes::Changes;
use crate::kernel::{Kernel, KernelError, POD_PREFIX};
use crate::view::SharedView;

pub(crate) use check::CheckError;
pub(crate) use state::{StateError, Store, load};

/// ADDs that run at once; each takes the kernel's routing lock several times, more would only wait there.
const PARALLEL_ADDS: usize = 8;
/// How long a DEL waits for the ADD of the same name. The plugin gives up after 30 s.
const ADD_PATIENCE: Duration = Duration::from_secs(20);
/// How long an address rests after its pod is gone.
pub(crate) const COOL_DOWN: Duration = Duration::from_secs(30);

/// What is the same for all pods of the node.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Families that pods get an address of.
    pub(crate) families: Vec<Family>,
    /// MTU of a pod's device, bytes.
    pub(crate) mtu: u32,
    /// MTU of a pod's default route, bytes.
    pub(crate) route_mtu: u32,
    /// Name of the cluster, part of every identity.
    pub(crate) cluster: String,
    /// Which labels make an identity.
    pub(crate) labels: LabelFilter,
    /// The state file.
    pub(crate) state_file: PathBuf,
}

/// A CNI request that was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CniError {
    /// ADD for an interface that there is already.
    #[error("container {} has interface {} already", .0.container_id, .0.ifname)]
    Exists(Attachment),
    /// ADD found a device of that name inside the sandbox or on the node.
    #[error("the interface exists already")]
    DeviceExists(#[source] KernelError),
    /// DEL while ADD does not end.
    #[error("container {} is still being given interface {}", .0.container_id, .0.ifname)]
    Busy(Attachment),
    /// The agent stops.
    #[error("the agent is stopping")]
    Stopping,
    /// No address is left.
    #[error("no address for the pod")]
    Address(#[from] model::ipam::AllocateError),
    /// No endpoint number is left.
    #[error("no number for the pod")]
    Number(#[from] model::endpoint::NoEndpointId),
    /// The node has no router address of a family yet.
    #[error("the node has no {0} router address")]
    NoRouter(Family),
    /// The kernel refused.
    #[error("{step} the pod")]
    Kernel {
        /// What was being done.
        step: &'static str,
        /// Why not.
        source: KernelError,
    },
    /// The state could not be written down.
    #[error("writing the agent's state")]
    State(#[from] StateError),
    /// CHECK found something else than ADD left.
    #[error(transparent)]
    Check(#[from] CheckError),
}

impl CniError {
    /// The code of the CNI specification.
    #[must_use]
    pub(crate) fn code(&self) -> u32 {
        match self {
            Self::Exists(_) | Self::DeviceExists(_) => code::EXISTS,
            Self::Stopping | Self::Busy(_) | Self::NoRouter(_) => code::TRY_AGAIN,
            Self::Address(_) | Self::Number(_) => code::NO_ADDRESS,
            Self::Kernel {
                source: KernelError::Netns(_) | KernelError::Sandbox { .. },
                ..
            }
            | Self::Check(CheckError::Kernel(KernelError::Netns(_) | KernelError::Sandbox { .. })) => {
                code::BAD_ENVIRONMENT
            }
            Self::Kernel { .. } => code::KERNEL,
            Self::State(_) => code::IO,
            Self::Check(CheckError::Unknown(_)) => code::UNKNOWN_CONTAINER,
            Self::Check(CheckError::Kernel(_)) => code::KERNEL,
            Self::Check(_) => code::CHECK_FAILED,
        }
    }
}

/// The pods of this node.
pub(crate) struct Endpoints {
    kernel: Arc<dyn Kernel>,
    settings: Settings,
    view: SharedView,
    store: Mutex<Store>,
    adds: Semaphore,
    /// Held while tables are written, so that the reconciler does not remove what an ADD has just put there.
    tables: AsyncMutex<()>,
    /// Held while the state file is written.
    file: AsyncMutex<()>,
    /// Held while an endpoint is taken away.
    ending: AsyncMutex<()>,
    /// Told at the end of every ADD.
    added: Notify,
    changed: Changes,
    retired: Changes,
}

impl Endpoints {
    /// The pods that `store` remembers. `changed` is told of everything others have to follow up on: identities,
    /// objects, tables.
    #[must_use]
    pub(crate) fn new(
        kernel: Arc<dyn Kernel>,
        settings: Settings,
        view: SharedView,
        store: Store,
        changed: Changes,
    ) -> Self {
        Self {
            kernel,
            settings,
            view,
            store: Mutex::new(store),
            adds: Semaphore::new(PARALLEL_ADDS),
            tables: AsyncMutex::new(()),
            file: AsyncMutex::new(()),
            ending: AsyncMutex::new(()),
            added: Notify::new(),
            changed,
            retired: Changes::default(),
        }
    }

    /// What is known of the pods and addresses; for moments only.
    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps everybody else from writing tables.
    pub(crate) async fn lock_tables(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.tables.lock().await
    }

    /// What is the same for all pods.
    #[must_use]
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// DEL: succeeds whether there is something to delete or not.
    pub(crate) async fn delete(&self, attachment: &Attachment) -> Result<(), CniError> {
        let Some(endpoint) = self.settled(attachment).await? else {
            // An ADD of an agent that lost its state may have left the link.
            let stray = add::host_device(attachment);
            let deleted = self.kernel.delete_link(&stray).await;
            return deleted.map(drop).map_err(|source| CniError::Kernel {
                step: "deleting a left-over link of",
                source,
            });
        };
        tracing::info!(endpoint = %endpoint.id, pod = %endpoint.pod, "DEL");
        self.retire(&endpoint).await
    }

    /// The endpoint of an attachment, once no ADD works on it any more: what is being made cannot be taken away.
    async fn settled(&self, attachment: &Attachment) -> Result<Option<Endpoint>, CniError> {
        let settled = async {
            loop {
                let added = self.added.notified();
                tokio::pin!(added);
                added.as_mut().enable();
                match self.store().find(attachment) {
                    Some(endpoint) if endpoint.state == EndpointState::Creating => {}
                    other => return other,
                }
                added.await;
            }
        };
        let waited = tokio::time::timeout(ADD_PATIENCE, settled).await;
        waited.map_err(|_| CniError::Busy(attachment.clone()))
    }

    /// Ends the traffic of an endpoint: without entries in the tables, packets from and to it are dropped. Its link
    /// goes with [`Endpoints::finish`], as deleting one takes the kernel tens of milliseconds; until then its addresses
    /// are not free.
    async fn retire(&self, endpoint: &Endpoint) -> Result<(), CniError> {
        self.store().change(endpoint.id, |endpoint| {
            endpoint.state = EndpointState::Disconnecting;
        });
        self.remove_entries(endpoint).await?;
        self.persist().await?;
        self.changed.touch();
        self.retired.touch();
        Ok(())
    }

    /// Told of endpoints that [`Endpoints::finish`] has to take away.
    pub(crate) fn retired(&self) -> &Changes {
        &self.retired
    }

    /// Takes away what DEL has left. Goes on after a failure and reports the first.
    pub(crate) async fn finish(&self) -> Result<(), CniError> {
        let mut outcome = Ok(());
        let endpoints = self.store().all();
        for endpoint in endpoints
            .iter()
            .filter(|endpoint| endpoint.state == EndpointState::Disconnecting)
        {
            outcome = outcome.and(self.tear_down(endpoint).await);
        }
        outcome
    }

    /// GC: deletes every endpoint that is not listed, and every pod link that belongs to none. Goes on after a
    /// failure and reports the first.
    pub(crate) async fn collect(&self, valid: &[Attachment]) -> Result<(), CniError> {
        let valid: BTreeSet<&Attachment> = valid.iter().collect();
        let mut outcome = Ok(());
        let endpoints = self.store().all();
        for endpoint in endpoints {
            // One that is being made cannot be listed yet.
            if endpoint.state != EndpointState::Creating && !valid.contains(&attachment(&endpoint)) {
                tracing::info!(endpoint = %endpoint.id, pod = %endpoint.pod, "collected");
                outcome = outcome.and(self.tear_down(&endpoint).await);
            }
        }
        outcome.and(self.delete_strays().await)
    }

    /// Takes away endpoints whose link is gone, links that belong to no endpoint, and addresses whose owner is gone.
    pub(crate) async fn sweep(&self) -> Result<(), CniError> {
        // The endpoints first: what comes after the links were listed is not missing among them.
        let endpoints = self.store().all();
        let step = |source| CniError::Kernel {
            step: "listing the links of",
            source,
        };
        let links = self.kernel.pod_links().await.map_err(step)?;
        for endpoint in endpoints {
            let alive = links.get(&endpoint.host_ifname) == Some(&endpoint.host_ifindex);
            let half = endpoint.state == EndpointState::Disconnecting;
            if endpoint.state != EndpointState::Creating && (half || !alive) {
                tracing::info!(endpoint = %endpoint.id, pod = %endpoint.pod, "its link is gone, forgotten");
                self.tear_down(&endpoint).await?;
            }
        }
        self.delete_strays().await?;
        if self.store().release_orphans(now()) {
            self.persist().await?;
        }
        Ok(())
    }

    /// After a restart: what was being made or taken away when the last agent ended is taken away, as nobody waits
    /// for it any more; then everything is compared with the links that are there.
    pub(crate) async fn recover(&self) -> Result<(), CniError> {
        let half = [EndpointState::Creating, EndpointState::Disconnecting];
        let endpoints = self.store().all();
        for endpoint in endpoints
            .into_iter()
            .filter(|endpoint| half.contains(&endpoint.state))
        {
            tracing::info!(endpoint = %endpoint.id, pod = %endpoint.pod, "was left half-made, taken away");
            self.tear_down(&endpoint).await?;
        }
        self.sweep().await
    }

    async fn delete_strays(&self) -> Result<(), CniError> {
        let step = |source| CniError::Kernel {
            step: "deleting a left-over link of",
            source,
        };
        let links = self.kernel.pod_links().await.map_err(step)?;
        let known: BTreeSet<String> = self
            .store()
            .all()
            .into_iter()
            .map(|endpoint| endpoint.host_ifname)
            .collect();
        for name in links
            .into_keys()
            .filter(|name| name.starts_with(POD_PREFIX) && !known.contains(name))
        {
            tracing::info!(link = name, "belongs to no endpoint, deleted");
            self.kernel.delete_link(&name).await.map_err(step)?;
        }
        Ok(())
    }

    /// Takes an endpoint away, however much of it there is. On failure it stays known, so that it can be tried again.
    pub(crate) async fn tear_down(&self, endpoint: &Endpoint) -> Result<(), CniError> {
        let _one = self.ending.lock().await;
        {
            // Somebody else may have done it while we waited, and number and name may be another pod's by now.
            let mut store = self.store();
            if store.get(endpoint.id).map(Endpoint::owner) != Some(endpoint.owner()) {
                return Ok(());
            }
            store.change(endpoint.id, |endpoint| {
                endpoint.state = EndpointState::Disconnecting;
            });
        }
        self.remove_entries(endpoint).await?;
        let step = |step| move |source| CniError::Kernel { step, source };
        self.kernel
            .delete_link(&endpoint.host_ifname)
            .await
            .map_err(step("deleting the link of"))?;
        if endpoint.host_ifindex != 0 {
            self.kernel
                .detach_pod(endpoint.host_ifindex)
                .map_err(step("detaching the programs of"))?;
        }
        self.store().remove(endpoint.id, now());
        self.changed.touch();
        self.persist().await?;
        Ok(())
    }

    /// Removes what the tables know of an endpoint. The programs then drop what still comes from it.
    async fn remove_entries(&self, endpoint: &Endpoint) -> Result<(), CniError> {
        let step = |step| move |source| CniError::Kernel { step, source };
        let _tables = self.tables.lock().await;
        if endpoint.host_ifindex != 0 {
            self.kernel
                .remove_device(endpoint.host_ifindex)
                .map_err(step("removing the device entry of"))?;
        }
        for addr in &endpoint.addresses {
            self.kernel
                .remove_endpoint(to_abi(*addr))
                .map_err(step("removing the endpoint entry of"))?;
            self.kernel
                .remove_peer(to_abi(*addr))
                .map_err(step("removing the identity entry of"))?;
        }
        Ok(())
    }

    /// Changes an endpoint, for example its identity, and writes the state down if it exists.
    pub(crate) async fn update(
        &self,
        id: EndpointId,
        change: impl FnOnce(&mut Endpoint),
    ) -> Result<bool, StateError> {
        let exists = self.store().change(id, change);
        if exists {
            self.changed.touch();
            self.persist().await?;
        }
        Ok(exists)
    }

    /// Writes the state down.
    pub(crate) async fn persist(&self) -> Result<(), StateError> {
        // The snapshot is taken under the lock: whoever writes last writes the newest.
        let _file = self.file.lock().await;
        let bytes = self.store().encode()?;
        state::write(self.settings.state_file.clone(), bytes).await
    }
}

/// How CNI names an endpoint.
#[must_use]
pub(crate) fn attachment(endpoint: &Endpoint) -> Attachment {
    Attachment {
        container_id: endpoint.container_id.clone(),
        ifname: endpoint.ifname.clone(),
    }
}

/// Time since the Unix epoch; addresses rest by it, also over a restart.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The identity an endpoint has while its labels are not known.
const UNKNOWN_YET: Identity = Identity::INIT;

#[cfg(test)]
pub(crate) mod tests;
