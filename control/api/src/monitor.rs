//! Decoded events of the datapath, one JSON object per line on `GET /v1/monitor`.

use serde::{Deserialize, Serialize};

/// An event, ready to be printed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// `drop`, `trace`, or `lost`.
    pub kind: String,
    /// Observation point (`to-endpoint` …) or text of the drop reason.
    pub what: String,
    /// Number behind [`Event::what`].
    pub code: u8,
    /// Endpoint number that reports; 0: the node.
    pub source: u16,
    /// Endpoint number of the receiver when local.
    pub destination: u32,
    /// Flow hash.
    pub hash: u32,
    /// Identity of the sender.
    pub src_identity: u32,
    /// Identity of the receiver.
    pub dst_identity: u32,
    /// Trace: `new`, `established`, `reply`, `related`, `unknown`. Drop: `ingress`, `egress`.
    pub state: String,
    /// Interface.
    pub ifindex: u32,
    /// Length of the packet, bytes.
    pub length: u32,
    /// `[src]:port -> [dst]:port tcp SYN`, from the captured bytes.
    pub summary: String,
    /// Nanoseconds of the monotonic clock since boot.
    pub time: u64,
    /// For `lost`: how many this reader missed.
    pub lost: u64,
}
