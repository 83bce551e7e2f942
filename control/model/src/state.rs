//! What the agent must remember over a restart, as one small JSON document. Reading and writing the file (atomically,
//! setting a corrupt one aside) is the agent's; here is only its form.
//!
//! What the pinned tables hold is not repeated here; this is what cannot be read back from the kernel: who owns which
//! address, and which pod an interface belongs to.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::endpoint::Endpoint;
use crate::ipam::{Ipam, RestoreError, Snapshot};

/// Rises with every change of the form that an older agent cannot read.
pub const VERSION: u32 = 1;

/// The agent's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AgentState {
    /// Name of the node: the file is of no use on another one.
    pub node: String,
    /// Router addresses (`cilium_host`), at most one per family.
    pub routers: Vec<IpAddr>,
    /// Address allocator.
    pub ipam: Snapshot,
    /// Endpoints, in ascending order of their number.
    pub endpoints: Vec<Endpoint>,
}

/// The document around it.
#[derive(Serialize, Deserialize)]
struct Document<T> {
    version: u32,
    state: T,
}

/// Only the version: read first, so that a document of another version is named as such.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// A state that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the state has no JSON form")]
pub struct EncodeError(#[source] serde_json::Error);

/// A state file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It is no JSON, or not ours.
    #[error("the state file is corrupt")]
    Corrupt(#[source] serde_json::Error),
    /// It was written by a newer agent.
    #[error("the state file has version {found}, this agent reads version {VERSION}")]
    Version {
        /// Its version.
        found: u32,
    },
    /// Its address allocations contradict themselves.
    #[error("the state file's address allocations are inconsistent")]
    Ipam(#[from] RestoreError),
    /// Two endpoints have the same number.
    #[error("the state file lists endpoint {id} twice")]
    DuplicateEndpoint {
        /// The number.
        id: crate::EndpointId,
    },
}

impl AgentState {
    /// The file's content.
    ///
    /// # Errors
    /// When the state cannot be expressed in JSON.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut bytes = serde_json::to_vec_pretty(&Document {
            version: VERSION,
            state: self,
        })
        .map_err(EncodeError)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads a file's content and checks that it is consistent. Gives the allocator that it describes, too.
    ///
    /// # Errors
    /// When it is corrupt, of another version or contradicts itself.
    pub fn decode(bytes: &[u8]) -> Result<(Self, Ipam), DecodeError> {
        let Version { version } = serde_json::from_slice(bytes).map_err(DecodeError::Corrupt)?;
        if version != VERSION {
            return Err(DecodeError::Version { found: version });
        }
        let Document { state, .. } =
            serde_json::from_slice::<Document<Self>>(bytes).map_err(DecodeError::Corrupt)?;
        let mut seen = std::collections::BTreeSet::new();
        if let Some(endpoint) = state.endpoints.iter().find(|endpoint| !seen.insert(endpoint.id)) {
            return Err(DecodeError::DuplicateEndpoint { id: endpoint.id });
        }
        let ipam = Ipam::restore(&state.ipam)?;
        Ok((state, ipam))
    }
}

#[cfg(test)]
mod tests;
