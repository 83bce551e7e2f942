//! The tables that kernel and user space share. Names are those of [`abi::names`], under which the loader pins them;
//! sizes here are defaults that the loader may override before the load.

use abi::{
    Addr, Bucket, CtEntry, CtKey, Endpoint, Peer,
    reason::METRIC_SLOTS,
    tables::{Counter, bucket},
};
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{HashMap, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};

use crate::routes::{KEPT, Kept};

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// Local pods and addresses of the node.
#[btf_map(name = "seta_endpoints")]
pub(crate) static ENDPOINTS: HashMap<Addr, Endpoint, 16_384, NO_PREALLOC> = HashMap::new();

/// Host-side device of a pod to its address.
#[btf_map(name = "seta_devices")]
pub(crate) static DEVICES: HashMap<u32, Addr, 16_384, NO_PREALLOC> = HashMap::new();

/// Identities of the cluster's addresses.
#[btf_map(name = "seta_ipcache")]
pub(crate) static IPCACHE: HashMap<Addr, Peer, 524_288, NO_PREALLOC> = HashMap::new();

/// TCP connections; the oldest goes when it is full.
#[btf_map(name = "seta_ct_tcp")]
pub(crate) static CT_TCP: LruHashMap<CtKey, CtEntry, 131_072> = LruHashMap::new();

/// All other connections; the oldest goes when it is full.
#[btf_map(name = "seta_ct_any")]
pub(crate) static CT_ANY: LruHashMap<CtKey, CtEntry, 65_536> = LruHashMap::new();

/// Forwarded and dropped packets by reason and direction.
#[btf_map(name = "seta_metrics")]
pub(crate) static METRICS: PerCpuArray<Counter, { METRIC_SLOTS as usize }> = PerCpuArray::new();

/// Records for user space; what finds no room is counted in [`EVENTS_LOST`].
#[btf_map(name = "seta_events")]
pub(crate) static EVENTS: RingBuf<u8, { 4 << 20 }> = RingBuf::new();

/// Records that found no room, by kind.
#[btf_map(name = "seta_lost")]
pub(crate) static EVENTS_LOST: PerCpuArray<u64, 256> = PerCpuArray::new();

/// Token buckets.
#[btf_map(name = "seta_rates")]
pub(crate) static RATES: PerCpuArray<Bucket, { bucket::SLOTS as usize }> = PerCpuArray::new();

/// The routing table's last answers. The loader neither pins nor names it: it belongs to the programs alone, and new
/// programs begin with an empty one.
#[btf_map(name = "seta_routes")]
pub(crate) static ROUTES: PerCpuArray<Kept, KEPT> = PerCpuArray::new();
