//! How large maps are made, and how much memory there is.

use std::collections::BTreeMap;
use std::io;

/// The largest table that makes sense (Cilium `pkg/option/config.go`, `LimitTableMax`).
const TABLE_MAX: u32 = 1 << 24;

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
            ct_tcp: 1 << 17,
            ct_any: 1 << 16,
            nat: 1 << 17,
            services: 1 << 18,
            events_bytes: 1 << 20,
        }
    }
}

impl MapSizes {
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

    #[test]
    fn the_machine_has_memory() {
        assert!(total_memory().unwrap() > 0);
    }

    proptest! {
        #[test]
        fn the_ring_has_a_size_the_kernel_takes(bytes: u32) {
            let sizes = MapSizes { events_bytes: bytes, ..MapSizes::default() };
            let ring = sizes.by_name()[abi::names::EVENTS];
            prop_assert!(ring.is_power_of_two() && ring >= 4096);
        }
    }
}
