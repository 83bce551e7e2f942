//! How large maps are. Pure, but for the question how much memory there is.

use std::collections::BTreeMap;
use std::io;

use abi::{CtEntry, CtKey};

/// Share of the machine's memory for connection tables when nothing else is configured
/// (`bpf-map-dynamic-size-ratio` of the Helm chart).
pub const DYNAMIC_SIZE_RATIO: f64 = 0.0025;

/// Sizes of the tables that grow with traffic are never below these, however small the machine
/// (Cilium `pkg/option/config.go`, `LimitTableAutoGlobal{TCP,Any}Min`).
const CT_TCP_MIN: u32 = 1 << 17;
const CT_ANY_MIN: u32 = 1 << 16;
const NAT_MIN: u32 = 1 << 17;
/// The largest table (`LimitTableMax`).
const TABLE_MAX: u32 = 1 << 24;
/// Default sizes, whose proportions are kept when the tables grow with memory (`CTMapEntriesGlobal*Default`,
/// `NATMapEntriesGlobalDefault`).
const CT_TCP_DEFAULT: u64 = 1 << 19;
const CT_ANY_DEFAULT: u64 = 1 << 18;
const NAT_DEFAULT: u64 = 1 << 19;

/// Size of every map that has one to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Pods of this node and addresses of the node.
    pub endpoints: u32,
    /// Host-side devices of pods.
    pub devices: u32,
    /// Addresses known in the cluster.
    pub ipcache: u32,
    /// TCP connections.
    pub ct_tcp: u32,
    /// Other connections.
    pub ct_any: u32,
    /// Entries of translated connections, two each.
    pub nat: u32,
    /// Frontends of services. There are four times as many backends, and as many members.
    pub services: u32,
    /// Event ring, bytes; a power of two and at least a page.
    pub events_bytes: u32,
}

impl Default for MapSizes {
    fn default() -> Self {
        Self {
            endpoints: 1 << 16,
            devices: 1 << 16,
            ipcache: 512_000,
            ct_tcp: CT_TCP_MIN,
            ct_any: CT_ANY_MIN,
            nat: NAT_MIN,
            services: 1 << 18,
            events_bytes: 1 << 20,
        }
    }
}

impl MapSizes {
    /// Sizes for a machine with `memory` bytes, of which `ratio` is for connection tables.
    ///
    /// The memory is shared out as the defaults are: TCP : any : translation = 2 : 1 : 2 entries. A ratio that is not
    /// between 0 and 1 counts as the nearest bound.
    #[must_use]
    pub fn for_memory(memory: u64, ratio: f64) -> Self {
        let entry = (size_of::<CtKey>() + size_of::<CtEntry>()) as u64;
        let ratio = if ratio.is_nan() {
            0.0
        } else {
            ratio.clamp(0.0, 1.0)
        };
        // Exact enough: memory sizes are far below 2^53.
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of memory between 0 and `memory`"
        )]
        let budget = (memory as f64 * ratio) as u64;
        let default_cost = (CT_TCP_DEFAULT + CT_ANY_DEFAULT + NAT_DEFAULT) * entry;
        let entries = |default: u64, min: u32| {
            let entries = u128::from(default) * u128::from(budget) / u128::from(default_cost);
            u32::try_from(entries).unwrap_or(TABLE_MAX).clamp(min, TABLE_MAX)
        };
        Self {
            ct_tcp: entries(CT_TCP_DEFAULT, CT_TCP_MIN),
            ct_any: entries(CT_ANY_DEFAULT, CT_ANY_MIN),
            nat: entries(NAT_DEFAULT, NAT_MIN),
            ..Self::default()
        }
    }

    /// By map name.
    pub(crate) fn by_name(&self) -> BTreeMap<&'static str, u32> {
        let Self {
            endpoints,
            devices,
            ipcache,
            ct_tcp,
            ct_any,
            nat,
            services,
            events_bytes,
        } = *self;
        BTreeMap::from([
            (abi::names::ENDPOINTS, endpoints.max(1)),
            (abi::names::DEVICES, devices.max(1)),
            (abi::names::IPCACHE, ipcache.max(1)),
            (abi::names::CT_TCP, ct_tcp.max(1)),
            (abi::names::CT_ANY, ct_any.max(1)),
            (abi::names::NAT, nat.max(1)),
            (abi::names::SERVICES, services.max(1)),
            (
                abi::names::BACKENDS,
                services.saturating_mul(4).clamp(1, TABLE_MAX),
            ),
            (abi::names::MEMBERS, services.max(1)),
            // The kernel takes powers of two from a page on; 1 GiB is far above anything useful.
            (
                abi::names::EVENTS,
                events_bytes.clamp(1 << 12, 1 << 30).next_power_of_two(),
            ),
        ])
    }
}

/// Memory of the machine, bytes.
///
/// # Errors
/// When the kernel does not say.
pub fn total_memory() -> io::Result<u64> {
    Ok(nix::sys::sysinfo::sysinfo()?.ram_total())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn tables_grow_with_memory_between_bounds() {
        let small = MapSizes::for_memory(GIB / 2, DYNAMIC_SIZE_RATIO);
        assert_eq!((small.ct_tcp, small.ct_any), (CT_TCP_MIN, CT_ANY_MIN));
        let large = MapSizes::for_memory(64 * GIB, DYNAMIC_SIZE_RATIO);
        assert!(large.ct_tcp > CT_TCP_MIN && large.ct_tcp < TABLE_MAX, "{large:?}");
        assert_eq!(large.ct_tcp / large.ct_any, 2);
        let huge = MapSizes::for_memory(u64::MAX, 1.0);
        assert_eq!((huge.ct_tcp, huge.ct_any), (TABLE_MAX, TABLE_MAX));
    }

    #[test]
    fn the_machine_has_memory() {
        assert!(total_memory().unwrap() > 0);
    }

    proptest! {
        #[test]
        fn any_ratio_gives_sizes_in_bounds(memory: u64, ratio: f64) {
            let sizes = MapSizes::for_memory(memory, ratio);
            prop_assert!((CT_TCP_MIN..=TABLE_MAX).contains(&sizes.ct_tcp));
            prop_assert!((CT_ANY_MIN..=TABLE_MAX).contains(&sizes.ct_any));
        }

        #[test]
        fn what_is_kept_for_connections_fits_the_budget(gib in 1u64..4096) {
            let sizes = MapSizes::for_memory(gib * GIB, DYNAMIC_SIZE_RATIO);
            let entry = (size_of::<CtKey>() + size_of::<CtEntry>()) as u64;
            let cost = (u64::from(sizes.ct_tcp) + u64::from(sizes.ct_any)) * entry;
            let least = u64::from(CT_TCP_MIN + CT_ANY_MIN) * entry;
            prop_assert!(cost <= least.max(gib * GIB / 400));
        }

        #[test]
        fn the_ring_has_a_size_the_kernel_takes(bytes: u32) {
            let sizes = MapSizes { events_bytes: bytes, ..MapSizes::default() };
            let ring = sizes.by_name()[abi::names::EVENTS];
            prop_assert!(ring.is_power_of_two() && ring >= 4096);
        }
    }
}
