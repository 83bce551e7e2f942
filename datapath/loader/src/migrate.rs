//! Which pinned maps a new object can go on with, and which must be replaced. The decision is pure.

use crate::object::Definition;
use crate::pins::Pinned;

/// A map was made anew while loading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapNews {
    /// Name of the map.
    pub name: &'static str,
    /// Why.
    pub reason: MapReason,
    /// Entries taken over from the map that was there.
    pub copied: usize,
    /// Entries that found no room in the new map.
    pub left: usize,
}

/// Why a map was made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapReason {
    /// There was none.
    Missing,
    /// Another size is wanted; entries are taken over.
    Resized {
        /// Entries of the old map.
        from: u32,
        /// Entries of the new map.
        to: u32,
    },
    /// Type, flags or size of keys and values differ; entries of hash maps with the same layout are taken over.
    Redefined,
    /// The meaning of keys and values may differ: the maps belong to another ABI version (`None`: not known).
    OtherAbi {
        /// Version of the old map.
        from: Option<u32>,
    },
    /// What was pinned there was no map.
    NotAMap,
}

impl MapReason {
    /// Something that was in use is replaced: worth a warning, as entries may be gone until they are written again.
    #[must_use]
    pub fn is_replacement(self) -> bool {
        self != Self::Missing
    }
}

/// What to do about one map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Keep,
    Create { reason: MapReason, copy: bool },
}

/// Compares what is pinned with what the object defines.
pub(crate) fn decide(pinned: &Pinned, wanted: &Definition, abi: Option<u32>) -> Decision {
    let create = |reason, copy| Decision::Create { reason, copy };
    match pinned {
        Pinned::Nothing => create(MapReason::Missing, false),
        Pinned::Unusable => create(MapReason::NotAMap, false),
        Pinned::Map(_) if abi != Some(abi::ABI_VERSION) => create(MapReason::OtherAbi { from: abi }, false),
        Pinned::Map(map) if map == wanted => Decision::Keep,
        Pinned::Map(map)
            if *map
                == (Definition {
                    max_entries: map.max_entries,
                    ..*wanted
                }) =>
        {
            create(
                MapReason::Resized {
                    from: map.max_entries,
                    to: wanted.max_entries,
                },
                true,
            )
        }
        Pinned::Map(map) => create(MapReason::Redefined, map.same_layout(wanted)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Definition = Definition {
        kind: 1,
        key_size: 16,
        value_size: 32,
        max_entries: 100,
        flags: 1,
    };
    const NOW: Option<u32> = Some(abi::ABI_VERSION);

    #[test]
    fn decisions() {
        let create = |reason, copy| Decision::Create { reason, copy };
        let map = Pinned::Map;
        let rows = [
            ("the same", map(WANTED), NOW, Decision::Keep),
            (
                "first start",
                Pinned::Nothing,
                None,
                create(MapReason::Missing, false),
            ),
            (
                "one is gone",
                Pinned::Nothing,
                NOW,
                create(MapReason::Missing, false),
            ),
            (
                "not a map",
                Pinned::Unusable,
                NOW,
                create(MapReason::NotAMap, false),
            ),
            (
                "other size",
                map(Definition {
                    max_entries: 50,
                    ..WANTED
                }),
                NOW,
                create(MapReason::Resized { from: 50, to: 100 }, true),
            ),
            (
                "other flags",
                map(Definition { flags: 0, ..WANTED }),
                NOW,
                create(MapReason::Redefined, true),
            ),
            (
                "other value",
                map(Definition {
                    value_size: 40,
                    ..WANTED
                }),
                NOW,
                create(MapReason::Redefined, false),
            ),
            (
                "other type",
                map(Definition { kind: 9, ..WANTED }),
                NOW,
                create(MapReason::Redefined, false),
            ),
            (
                "other version",
                map(WANTED),
                Some(0),
                create(MapReason::OtherAbi { from: Some(0) }, false),
            ),
            (
                "no version",
                map(WANTED),
                None,
                create(MapReason::OtherAbi { from: None }, false),
            ),
        ];
        for (name, pinned, abi, decision) in rows {
            assert_eq!(decide(&pinned, &WANTED, abi), decision, "{name}");
        }
    }
}
