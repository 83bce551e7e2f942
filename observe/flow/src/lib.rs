//! Flows: what the datapath's events say, in the terms of the Hubble API (`reference/cilium.md` §1), without its protobuf.
//!
//! [`decode`] reads a record of the kernel's ring, [`Observer`] makes a [`Flow`] of it with the names that a
//! [`Lookup`] knows, [`Filter`] chooses, [`Ring`] keeps, [`Counters`] counts.
//!
//! Pure: no clock, file, socket or environment; whoever calls gives the time. Imports `abi`; the protobuf side lives in
//! `wire`, which imports this.
#![forbid(unsafe_code)]

pub mod counters;
pub mod decode;
pub mod enrich;
pub mod event;
pub mod filter;
pub mod flow;
pub mod fuzz;
pub mod layer4;
pub mod layer7;
pub mod lookup;
pub mod packet;
pub mod ring;
pub mod select;

pub use counters::Counters;
pub use decode::{DecodeError, Notify, Record, decode};
pub use enrich::Observer;
pub use event::{
    AgentEvent, AgentEventKind, AgentNotification, DebugEvent, Event, LostEvent, LostSource, ServiceUpsert,
};
pub use filter::{EventTypeFilter, Filter, FilterError, Filters, FlowFilter};
pub use flow::{
    AuthType, DropCode, Endpoint, Ethernet, EventType, Extension, Flow, FlowKind, Ip, IpVersion, Mac,
    ObservationPoint, Policy, Rare, Service, SocketPoint, Time, TraceReason, TrafficDirection, Tunnel,
    TunnelProtocol, Uuid, UuidError, Verdict, Workload,
};
pub use layer4::{Layer4, SctpChunk, Summary, TcpFlags};
pub use layer7::{Dns, Http, Kafka, Layer7, Layer7Kind, Layer7Record};
pub use lookup::{Decision, Lookup, PolicyQuestion};
pub use ring::{Limits, Reader, Ring, Window, Writer, ring};
pub use select::{Selection, SelectionError, Step, Subscription, Wanted};
