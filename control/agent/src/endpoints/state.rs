//! What the agent remembers of its pods, in memory and in the state file.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::cni::Attachment;
use model::addr::Family;
use model::endpoint::EndpointIds;
use model::ipam::{AllocateError, BlockError, Owner};
use model::state::{AgentState, EncodeError};
use model::{Endpoint, EndpointId, Ipam};

use super::{COOL_DOWN, attachment};
use crate::files;

/// The state could not be written down.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// It has no form.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The file could not be written.
    #[error("writing {}", path.display())]
    Write {
        /// The state file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Pods, their numbers and the addresses of the node.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    node: String,
    routers: Vec<IpAddr>,
    /// Addresses of the node's blocks.
    pub(crate) ipam: Ipam,
    ids: EndpointIds,
    endpoints: BTreeMap<EndpointId, Endpoint>,
}

impl Store {
    /// Nothing yet, on blocks that were never used.
    pub(crate) fn new(node: &str, blocks: &[ipnet::IpNet]) -> Result<Self, BlockError> {
        Ok(Self::from_parts(
            AgentState {
                node: node.to_owned(),
                ..AgentState::default()
            },
            Ipam::new(blocks, COOL_DOWN)?,
        ))
    }

    fn from_parts(state: AgentState, ipam: Ipam) -> Self {
        let AgentState {
            node,
            routers,
            ipam: _,
            endpoints,
        } = state;
        Self {
            node,
            routers,
            ipam,
            ids: EndpointIds::new(endpoints.iter().map(|endpoint| endpoint.id)),
            endpoints: endpoints
                .into_iter()
                .map(|endpoint| (endpoint.id, endpoint))
                .collect(),
        }
    }

    /// Router addresses of the node.
    #[must_use]
    pub(crate) fn routers(&self) -> &[IpAddr] {
        &self.routers
    }

    /// The router addresses: those the node had before, new ones where it had none.
    pub(crate) fn choose_routers(
        &mut self,
        families: &[Family],
        random: u64,
        now: Duration,
    ) -> Result<(), AllocateError> {
        let ipam = &mut self.ipam;
        // An address that is no longer in the node's blocks cannot be reached by its pods.
        self.routers.retain(|router| {
            families.contains(&Family::of(*router))
                && ipam.reserve(*router, Owner::Router).is_ok()
                && ipam.blocks().any(|block| block.contains(router))
        });
        for family in families {
            if !self.routers.iter().any(|router| Family::of(*router) == *family) {
                self.routers
                    .push(self.ipam.allocate(*family, Owner::Router, random, now)?);
            }
        }
        Ok(())
    }

    /// All endpoints.
    #[must_use]
    pub(crate) fn all(&self) -> Vec<Endpoint> {
        self.endpoints.values().cloned().collect()
    }

    /// All endpoints by reference.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Endpoint> + Clone {
        self.endpoints.values()
    }

    /// The endpoint with this number.
    #[must_use]
    pub(crate) fn get(&self, id: EndpointId) -> Option<&Endpoint> {
        self.endpoints.get(&id)
    }

    /// The endpoint of an attachment.
    #[must_use]
    pub(crate) fn find(&self, wanted: &Attachment) -> Option<Endpoint> {
        self.endpoints
            .values()
            .find(|endpoint| attachment(endpoint) == *wanted)
            .cloned()
    }

    /// Changes an endpoint; answers whether there is such a one.
    pub(crate) fn change(&mut self, id: EndpointId, change: impl FnOnce(&mut Endpoint)) -> bool {
        self.endpoints.get_mut(&id).map(change).is_some()
    }

    /// Takes a number.
    pub(super) fn take_id(&mut self, random: u64) -> Result<EndpointId, model::endpoint::NoEndpointId> {
        self.ids.allocate(random)
    }

    /// Gives a number back that no endpoint got.
    pub(super) fn give_id_back(&mut self, id: EndpointId) {
        self.ids.release(id);
    }

    /// Remembers an endpoint.
    pub(super) fn insert(&mut self, endpoint: Endpoint) {
        self.endpoints.insert(endpoint.id, endpoint);
    }

    /// Forgets an endpoint; its addresses rest from now on.
    pub(super) fn remove(&mut self, id: EndpointId, now: Duration) {
        if let Some(endpoint) = self.endpoints.remove(&id) {
            self.ipam.release_owner(&endpoint.owner(), now);
            self.ids.release(id);
        }
    }

    /// Gives addresses back whose container is not known; answers whether there were any.
    pub(super) fn release_orphans(&mut self, now: Duration) -> bool {
        let known = |owner: &Owner| match owner {
            Owner::Container { .. } => self.endpoints.values().any(|endpoint| endpoint.owner() == *owner),
            Owner::Router | Owner::Health => true,
        };
        let orphans: Vec<IpAddr> = self
            .ipam
            .used()
            .filter(|(_, owner)| !known(owner))
            .map(|(address, _)| address)
            .collect();
        for address in &orphans {
            tracing::info!(%address, "its owner is gone, given back");
            self.ipam.release(*address, now);
        }
        !orphans.is_empty()
    }

    /// The state file's content.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let Self {
            node,
            routers,
            ipam,
            ids: _,
            endpoints,
        } = self;
        AgentState {
            node: node.clone(),
            routers: routers.clone(),
            ipam: ipam.snapshot(),
            endpoints: endpoints.values().cloned().collect(),
        }
        .encode()
    }
}

/// Reads the state file. One that cannot be used is set aside with a warning: the pods it knew of are then found
/// and cleaned up as strays, which is better than an agent that does not start.
pub(crate) fn load(path: &Path, node: &str) -> io::Result<Option<Store>> {
    let Some(bytes) = files::read_if_exists(path)? else {
        return Ok(None);
    };
    let reason = match AgentState::decode(&bytes) {
        Ok((state, ipam)) if state.node == node => return Ok(Some(Store::from_parts(state, ipam))),
        Ok((state, _)) => format!("it belongs to node {:?}", state.node),
        Err(error) => format!("{:#}", anyhow::Error::from(error)),
    };
    let aside = files::set_aside(path)?;
    tracing::warn!(file = %path.display(), aside = %aside.display(), reason, "state file set aside");
    Ok(None)
}

/// Replaces the state file without blocking the runtime.
pub(super) async fn write(path: PathBuf, bytes: Vec<u8>) -> Result<(), StateError> {
    let target = path.clone();
    let written = tokio::task::spawn_blocking(move || files::write_atomically(&target, &bytes)).await;
    let failed = |source| StateError::Write { path, source };
    match written {
        Ok(outcome) => outcome.map_err(failed),
        Err(error) => Err(failed(io::Error::other(error))),
    }
}
