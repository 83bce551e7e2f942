//! What a stream is made of: flows, and what the agent says beside them.

use std::sync::Arc;

use crate::flow::{Endpoint, Flow, Time, numbered};

/// One item of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A packet or request.
    Flow(Arc<Flow>),
    /// Events that nobody will see.
    Lost(LostEvent),
    /// Something happened in the agent.
    Agent(Time, Arc<AgentEvent>),
    /// A message of the datapath for its makers.
    Debug(Time, Arc<DebugEvent>),
}

impl Event {
    /// Bytes that the event takes for itself, about; what it shares with others is not counted.
    #[must_use]
    pub fn size(&self) -> usize {
        let shared_counts = 2 * size_of::<usize>();
        size_of::<Self>()
            + match self {
                Self::Flow(flow) => shared_counts + flow.size(),
                Self::Lost(_) => 0,
                Self::Agent(..) => shared_counts + size_of::<AgentEvent>() + 256,
                Self::Debug(_, debug) => shared_counts + size_of::<DebugEvent>() + debug.message.len(),
            }
    }

    /// When it happened.
    #[must_use]
    pub fn time(&self) -> Option<Time> {
        match self {
            Self::Flow(flow) => flow.time,
            Self::Lost(lost) => lost.last,
            Self::Agent(time, _) | Self::Debug(time, _) => Some(*time),
        }
    }
}

numbered! {
    /// Where events were lost.
    LostSource {
        /// Not said.
        #[default]
        Unknown = 0 "UNKNOWN_LOST_EVENT_SOURCE",
        /// The kernel found no room in its ring.
        PerfRing = 1 "PERF_EVENT_RING_BUFFER",
        /// The agent was slower than the kernel.
        ObserverQueue = 2 "OBSERVER_EVENTS_QUEUE",
        /// The reader was slower than the writer.
        HubbleRing = 3 "HUBBLE_RING_BUFFER",
    }
}

/// Events that nobody will see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LostEvent {
    /// Where.
    pub source: LostSource,
    /// How many.
    pub count: u64,
    /// On which CPU, if that is known.
    pub cpu: Option<i32>,
    /// When the loss was first noticed.
    pub first: Option<Time>,
    /// When the loss was last noticed.
    pub last: Option<Time>,
}

numbered! {
    /// Kinds of [`AgentEvent`].
    AgentEventKind {
        /// Not said.
        #[default]
        Unknown = 0 "AGENT_EVENT_UNKNOWN",
        /// The agent started.
        Started = 2 "AGENT_STARTED",
        /// Policies were added or changed.
        PolicyUpdated = 3 "POLICY_UPDATED",
        /// Policies were removed.
        PolicyDeleted = 4 "POLICY_DELETED",
        /// An endpoint's tables were written.
        RegenerateSuccess = 5 "ENDPOINT_REGENERATE_SUCCESS",
        /// An endpoint's tables could not be written.
        RegenerateFailure = 6 "ENDPOINT_REGENERATE_FAILURE",
        /// An endpoint was made.
        EndpointCreated = 7 "ENDPOINT_CREATED",
        /// An endpoint was removed.
        EndpointDeleted = 8 "ENDPOINT_DELETED",
        /// An address has an identity.
        IpcacheUpserted = 9 "IPCACHE_UPSERTED",
        /// An address has none any more.
        IpcacheDeleted = 10 "IPCACHE_DELETED",
        /// Deprecated.
        ServiceUpserted = 11 "SERVICE_UPSERTED",
        /// Deprecated.
        ServiceDeleted = 12 "SERVICE_DELETED",
    }
}

/// Something happened in the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentEvent {
    /// What.
    pub kind: AgentEventKind,
    /// The particulars.
    pub notification: AgentNotification,
}

/// The particulars of an [`AgentEvent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentNotification {
    /// None.
    None,
    /// Of a kind without a message of its own: type and text.
    Unknown(String, String),
    /// The agent started then.
    Start(Option<Time>),
    /// Policies.
    Policy {
        /// Labels of the rules.
        labels: Vec<String>,
        /// Revision after it.
        revision: u64,
        /// How many rules.
        rules: i64,
    },
    /// An endpoint's tables.
    Regenerate {
        /// Number.
        id: u64,
        /// Labels.
        labels: Vec<String>,
        /// What went wrong; empty: nothing.
        error: String,
    },
    /// An endpoint.
    Endpoint {
        /// Number.
        id: u64,
        /// Labels.
        labels: Vec<String>,
        /// What went wrong; empty: nothing.
        error: String,
        /// Pod.
        pod_name: String,
        /// Namespace.
        namespace: String,
    },
    /// An address and its identity.
    Ipcache {
        /// Address and length of the prefix.
        cidr: String,
        /// Identity.
        identity: u32,
        /// Identity before.
        old_identity: Option<u32>,
        /// Node.
        host_ip: String,
        /// Node before.
        old_host_ip: String,
        /// Key.
        encrypt_key: u32,
        /// Namespace.
        namespace: String,
        /// Pod.
        pod_name: String,
    },
    /// A service; deprecated.
    ServiceUpsert(Box<ServiceUpsert>),
    /// The number of a service; deprecated.
    ServiceDelete(u32),
}

/// A service changed; deprecated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceUpsert {
    /// Number.
    pub id: u32,
    /// Address and port.
    pub frontend: Option<(String, u32)>,
    /// Addresses and ports.
    pub backends: Vec<(String, u32)>,
    /// `ClusterIP` …
    pub kind: String,
    /// Deprecated policy.
    pub traffic_policy: String,
    /// Policy for the outside.
    pub ext_traffic_policy: String,
    /// Policy for the inside.
    pub int_traffic_policy: String,
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
}

/// A message of the datapath for its makers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DebugEvent {
    /// Number of the `DebugEventType`.
    pub kind: i32,
    /// Who reports.
    pub source: Option<Endpoint>,
    /// Hash of the packet.
    pub hash: Option<u32>,
    /// First argument.
    pub arg1: Option<u32>,
    /// Second argument.
    pub arg2: Option<u32>,
    /// Third argument.
    pub arg3: Option<u32>,
    /// Text.
    pub message: String,
    /// CPU.
    pub cpu: Option<i32>,
}
