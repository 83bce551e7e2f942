//! Endpoints: the pods of this node, from the moment a container's interface is made until it is gone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::addr::Mac;
use crate::identity::Identity;
use crate::inputs::{NamedPort, ObjectName};
use crate::ipam::Owner;
use crate::labels::Labels;

/// Number of an endpoint, unique on its node; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EndpointId(pub u16);

impl EndpointId {
    /// The node itself; no pod has it.
    pub const HOST: Self = Self(1);
}

impl std::fmt::Display for EndpointId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0.to_string())
    }
}

/// Every number is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {in_use} endpoint numbers of the node are in use")]
pub struct NoEndpointId {
    /// How many.
    pub in_use: usize,
}

/// Endpoint numbers in use. It is rebuilt from the endpoints of the state file, so it has no form of its own there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointIds(BTreeSet<u16>);

impl EndpointIds {
    /// The numbers of endpoints that exist.
    pub fn new(in_use: impl IntoIterator<Item = EndpointId>) -> Self {
        Self(in_use.into_iter().map(|id| id.0).collect())
    }

    /// Takes a free number, looking from a random place on.
    ///
    /// # Errors
    /// When all 65534 are taken.
    pub fn allocate(&mut self, random: u64) -> Result<EndpointId, NoEndpointId> {
        const FIRST: u32 = EndpointId::HOST.0 as u32 + 1;
        const NUMBERS: u32 = u16::MAX as u32 + 1 - FIRST;
        let start = (random % u64::from(NUMBERS)) as u32;
        let free = (0..NUMBERS)
            .map(|step| ((start + step) % NUMBERS + FIRST) as u16)
            .find(|id| !self.0.contains(id))
            .ok_or(NoEndpointId { in_use: self.0.len() })?;
        self.0.insert(free);
        Ok(EndpointId(free))
    }

    /// Gives a number back; returns whether it was taken.
    pub fn release(&mut self, id: EndpointId) -> bool {
        self.0.remove(&id.0)
    }
}

/// Where an endpoint is in its life (the names are those of the `CiliumEndpoint` status).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointState {
    /// Its interface is being made.
    Creating,
    /// Its labels are known, its identity is not.
    WaitingForIdentity,
    /// It cannot be served; see the log.
    NotReady,
    /// Its tables have to be written.
    WaitingToRegenerate,
    /// Its tables are being written.
    Regenerating,
    /// It was found after a restart of the agent.
    Restoring,
    /// Everything is in place.
    Ready,
    /// It is being taken down.
    Disconnecting,
    /// It is gone.
    Disconnected,
    /// It cannot exist: what was asked for contradicts itself.
    Invalid,
}

/// A change of state that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an endpoint cannot go from {from} to {to}")]
pub struct TransitionError {
    /// State it is in.
    pub from: EndpointState,
    /// State asked for.
    pub to: EndpointState,
}

impl EndpointState {
    /// All states.
    pub const ALL: [Self; 10] = [
        Self::Creating,
        Self::WaitingForIdentity,
        Self::NotReady,
        Self::WaitingToRegenerate,
        Self::Regenerating,
        Self::Restoring,
        Self::Ready,
        Self::Disconnecting,
        Self::Disconnected,
        Self::Invalid,
    ];

    /// Name in the `CiliumEndpoint` status and in `endpoint list`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::WaitingForIdentity => "waiting-for-identity",
            Self::NotReady => "not-ready",
            Self::WaitingToRegenerate => "waiting-to-regenerate",
            Self::Regenerating => "regenerating",
            Self::Restoring => "restoring",
            Self::Ready => "ready",
            Self::Disconnecting => "disconnecting",
            Self::Disconnected => "disconnected",
            Self::Invalid => "invalid",
        }
    }

    /// Whether `to` can follow. To stay in a state is always possible.
    #[must_use]
    pub fn can_become(self, to: Self) -> bool {
        use EndpointState::{
            Creating, Disconnected, Disconnecting, Invalid, NotReady, Ready, Regenerating, Restoring,
            WaitingForIdentity, WaitingToRegenerate,
        };
        if self == to {
            return true;
        }
        match self {
            Creating | Restoring => matches!(
                to,
                WaitingForIdentity | WaitingToRegenerate | NotReady | Disconnecting | Invalid
            ),
            WaitingForIdentity => matches!(to, WaitingToRegenerate | NotReady | Ready | Disconnecting),
            WaitingToRegenerate => matches!(to, Regenerating | WaitingForIdentity | NotReady | Disconnecting),
            Regenerating => {
                matches!(
                    to,
                    Ready | WaitingToRegenerate | WaitingForIdentity | NotReady | Disconnecting
                )
            }
            Ready => matches!(
                to,
                WaitingForIdentity | WaitingToRegenerate | NotReady | Disconnecting
            ),
            NotReady => matches!(to, WaitingForIdentity | WaitingToRegenerate | Disconnecting),
            Invalid => matches!(to, Disconnecting | Disconnected),
            Disconnecting => matches!(to, Disconnected),
            Disconnected => false,
        }
    }

    /// The state `to`, if it can follow.
    ///
    /// # Errors
    /// When it cannot.
    pub fn transition(self, to: Self) -> Result<Self, TransitionError> {
        if self.can_become(to) {
            Ok(to)
        } else {
            Err(TransitionError { from: self, to })
        }
    }
}

impl std::fmt::Display for EndpointState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// An endpoint of this node, as the state file has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Endpoint {
    /// Number, unique on the node.
    pub id: EndpointId,
    /// Where it is in its life.
    pub state: EndpointState,
    /// `CNI_CONTAINERID` of the sandbox.
    pub container_id: String,
    /// `CNI_IFNAME`: name of the interface inside the pod.
    pub ifname: String,
    /// `CNI_NETNS`: path of the network namespace when the endpoint was made.
    pub netns: String,
    /// The pod.
    pub pod: ObjectName,
    /// Unique id of the pod; empty when the runtime did not tell (`K8S_POD_UID`).
    pub pod_uid: String,
    /// Addresses, one per family.
    pub addresses: Vec<IpAddr>,
    /// Name of the interface on the host's side.
    pub host_ifname: String,
    /// Index of the interface on the host's side.
    pub host_ifindex: u32,
    /// MAC address of the interface inside the pod.
    pub mac: Mac,
    /// MAC address of the interface on the host's side: the router, as the pod sees it.
    pub host_mac: Mac,
    /// Largest packet that the pod takes, bytes of layer 3.
    pub mtu: u32,
    /// Labels that make the identity; empty until they are known.
    pub labels: Labels,
    /// Identity; [`Identity::INIT`] until it is known.
    pub identity: Identity,
    /// Named ports of the pod's containers.
    pub named_ports: Vec<NamedPort>,
    /// Service account of the pod.
    pub service_account: String,
}

impl Endpoint {
    /// Under which name the address allocator knows it.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner::container(&self.container_id, &self.ifname)
    }

    /// `external-identifiers.cni-attachment-id`.
    #[must_use]
    pub fn attachment_id(&self) -> String {
        format!("{}:{}", self.container_id, self.ifname)
    }

    /// What other nodes are told about it.
    #[must_use]
    pub fn status(&self, node_ip: Option<IpAddr>) -> EndpointStatus {
        EndpointStatus {
            id: self.id,
            state: self.state,
            identity: (self.identity != Identity::INIT).then(|| (self.identity, self.labels.clone())),
            container_id: self.container_id.clone(),
            attachment_id: self.attachment_id(),
            pod: self.pod.clone(),
            addresses: self.addresses.clone(),
            node_ip,
            named_ports: self.named_ports.clone(),
            service_account: self.service_account.clone(),
        }
    }
}

/// What is published as the status of a `CiliumEndpoint` (cilium.md §3.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointStatus {
    /// Local endpoint number.
    pub id: EndpointId,
    /// State.
    pub state: EndpointState,
    /// Identity and the labels behind it; `None` while it waits for one.
    pub identity: Option<(Identity, Labels)>,
    /// Sandbox.
    pub container_id: String,
    /// Sandbox and interface.
    pub attachment_id: String,
    /// The pod.
    pub pod: ObjectName,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Address of the node it runs on.
    pub node_ip: Option<IpAddr>,
    /// Named ports of its containers.
    pub named_ports: Vec<NamedPort>,
    /// Its service account.
    pub service_account: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_life_can_end() {
        for state in EndpointState::ALL {
            let ends = state == EndpointState::Disconnected
                || state.can_become(EndpointState::Disconnecting)
                || state.can_become(EndpointState::Disconnected);
            assert!(ends, "{state}");
            assert!(state.can_become(state), "{state}");
        }
    }

    #[test]
    fn transitions() {
        use EndpointState::{
            Creating, Disconnected, Disconnecting, Ready, Regenerating, Restoring, WaitingForIdentity,
            WaitingToRegenerate,
        };
        let life = [
            Creating,
            WaitingForIdentity,
            WaitingToRegenerate,
            Regenerating,
            Ready,
            Disconnecting,
            Disconnected,
        ];
        for pair in life.windows(2) {
            assert_eq!(pair[0].transition(pair[1]), Ok(pair[1]));
        }
        for (from, to) in [
            (Disconnected, Creating),
            (Disconnecting, Ready),
            (Ready, Creating),
            (Ready, Restoring),
        ] {
            assert_eq!(from.transition(to), Err(TransitionError { from, to }));
        }
    }

    #[test]
    fn state_names_are_those_of_the_api() {
        for state in EndpointState::ALL {
            assert_eq!(
                serde_json::to_value(state).unwrap(),
                serde_json::json!(state.as_str())
            );
        }
    }

    #[test]
    fn endpoint_numbers() {
        let mut ids = EndpointIds::new([EndpointId(2), EndpointId(3)]);
        assert_eq!(ids.allocate(0), Ok(EndpointId(4)));
        assert_eq!(ids.allocate(65533), Ok(EndpointId(65535)));
        assert_eq!(
            ids.allocate(65533),
            Ok(EndpointId(5)),
            "wraps, and never gives 0 or the number of the node"
        );
        assert!(ids.release(EndpointId(2)) && !ids.release(EndpointId(2)));
        assert_eq!(ids.allocate(0), Ok(EndpointId(2)));
        let mut full = EndpointIds::new((2..=u16::MAX).map(EndpointId));
        assert_eq!(full.allocate(5), Err(NoEndpointId { in_use: 65534 }));
    }
}
