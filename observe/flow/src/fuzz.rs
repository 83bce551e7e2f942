//! The target of the fuzzer: any bytes as a record, decoded, enriched and summed up.

use std::net::IpAddr;
use std::sync::Arc;

use crate::decode::decode;
use crate::enrich::Observer;
use crate::flow::{Endpoint, Service, Time};
use crate::lookup::{Decision, Lookup, PolicyQuestion};

/// Knows nobody.
struct Nobody;

impl Lookup for Nobody {
    fn endpoint(&self, _: IpAddr) -> Option<Arc<Endpoint>> {
        None
    }

    fn identity(&self, _: u32) -> Option<Arc<Endpoint>> {
        None
    }

    fn cgroup(&self, _: u64, _: bool) -> Option<(IpAddr, Arc<Endpoint>)> {
        None
    }

    fn service(&self, _: IpAddr, _: Option<u16>) -> Option<Arc<Service>> {
        None
    }

    fn names(&self, _: u32, _: IpAddr) -> Arc<[Arc<str>]> {
        Arc::default()
    }

    fn interface(&self, _: u32) -> Option<Arc<str>> {
        None
    }

    fn policies(&self, _: &PolicyQuestion) -> Decision {
        Decision::default()
    }
}

/// Any bytes are a flow or an error. What is promised about every flow is asserted.
pub fn record(data: &[u8]) {
    let Ok(record) = decode(data) else { return };
    let mut observer = Observer::new(Nobody, Arc::default(), Arc::default(), 0);
    let flow = observer.flow(&record, Time(0));
    assert!(flow.size() > 0 && flow.time.is_some() && flow.uuid.is_some());
    // Layers stand on each other.
    assert!(flow.l4.is_none() || flow.ip.is_some());
    let _ = flow.summary.to_string();
}
