//! The object with the kernel programs, and what its maps are defined as.

use std::collections::BTreeMap;

use aya_obj::Object;

use crate::Cause;

/// The object that this build carries.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SETA_EBPF_OBJECT"));

/// Maps that must be in the object, and are pinned.
pub(crate) const MAPS: &[&str] = &[
    abi::names::ENDPOINTS,
    abi::names::DEVICES,
    abi::names::IPCACHE,
    abi::names::CT_TCP,
    abi::names::CT_ANY,
    abi::names::METRICS,
    abi::names::EVENTS,
    abi::names::EVENTS_LOST,
    abi::names::RATES,
    abi::names::SERVICES,
    abi::names::BACKENDS,
    abi::names::MAGLEV,
    abi::names::SOURCE_RANGES,
    abi::names::MEMBERS,
    abi::names::AFFINITY,
    abi::names::SOCKETS,
    abi::names::SOCKET_PEERS,
    abi::names::NAT,
    abi::names::FRAGMENTS,
    abi::names::PLAIN,
    abi::names::MASQUERADE,
];

/// Programs of packets that must be in the object; those of sockets are in `sockets`.
pub(crate) const PROGRAMS: &[&str] = &[
    abi::names::FROM_POD,
    abi::names::TO_POD,
    abi::names::FROM_NETDEV,
    abi::names::TO_NETDEV,
    abi::names::FROM_HOST,
];

/// What makes two maps interchangeable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Definition {
    /// `enum bpf_map_type`.
    pub(crate) kind: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
}

impl Definition {
    /// Entries of one can be put into the other.
    pub(crate) fn same_layout(&self, other: &Self) -> bool {
        (self.kind, self.key_size, self.value_size) == (other.kind, other.key_size, other.value_size)
    }
}

/// The object is not one of ours.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// It is not an eBPF object.
    #[error("cannot read the eBPF object")]
    Parse(#[source] Cause),
    /// Something that we need is not in it.
    #[error("the eBPF object has no {kind} {name}")]
    Missing {
        /// "map" or "program".
        kind: &'static str,
        /// Name in `abi::names`.
        name: &'static str,
    },
}

/// Definitions of the maps in the object, with the sizes that were asked for.
pub(crate) fn definitions(
    object: &[u8],
    sizes: &BTreeMap<&'static str, u32>,
) -> Result<BTreeMap<&'static str, Definition>, ObjectError> {
    let object = Object::parse(object).map_err(|error| ObjectError::Parse(error.into()))?;
    let mut programs = PROGRAMS
        .iter()
        .copied()
        .chain(crate::sockets::names())
        .chain([abi::names::FROM_WIRE]);
    if let Some(name) = programs.find(|name| !object.programs.contains_key(*name)) {
        return Err(ObjectError::Missing {
            kind: "program",
            name,
        });
    }
    MAPS.iter()
        .map(|name| {
            let map = object
                .maps
                .get(*name)
                .ok_or(ObjectError::Missing { kind: "map", name })?;
            let definition = Definition {
                kind: map.map_type(),
                key_size: map.key_size(),
                value_size: map.value_size(),
                max_entries: sizes.get(name).copied().unwrap_or_else(|| map.max_entries()),
                flags: map.map_flags(),
            };
            Ok((*name, definition))
        })
        .collect()
}
