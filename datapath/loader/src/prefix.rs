//! Typed access to an LPM trie whose entries say only that a prefix is there.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, Map, MapData, MapError};
use nix::libc;

use crate::table::{Layout, TableError, Wire, duplicate, io_error};

/// A set of prefixes in the kernel: bits that count, and the key they are of.
pub struct PrefixTable<K> {
    name: &'static str,
    max: u32,
    reader: LpmTrie<MapData, Wire<K>, u32>,
    /// A second descriptor of the same map, since aya changes maps through `&mut`.
    writer: Mutex<LpmTrie<MapData, Wire<K>, u32>>,
}

impl<K: Layout + Ord> PrefixTable<K> {
    pub(crate) fn new(name: &'static str, map: Map) -> Result<Self, TableError> {
        let layout = |error| TableError::Layout {
            name,
            source: io_error(error),
        };
        let Map::LpmTrie(data) = map else {
            return Err(layout(MapError::InvalidMapType { map_type: 0 }));
        };
        let max = data.info().map_err(layout)?.max_entries();
        let twin = Map::LpmTrie(duplicate(&data).map_err(layout)?);
        Ok(Self {
            name,
            max,
            reader: LpmTrie::try_from(Map::LpmTrie(data)).map_err(layout)?,
            writer: Mutex::new(LpmTrie::try_from(twin).map_err(layout)?),
        })
    }

    /// Name of the map in `abi::names`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How many prefixes it can have.
    #[must_use]
    pub fn max_entries(&self) -> u32 {
        self.max
    }

    /// Adds a prefix of `bits` bits; it may be there already.
    ///
    /// # Errors
    /// [`TableError::MapFull`], [`TableError::Write`].
    pub fn insert(&self, bits: u32, key: &K) -> Result<(), TableError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.insert(&Key::new(bits, Wire(*key)), 1, 0).map_err(|error| {
            let source = io_error(error);
            match source.raw_os_error() {
                Some(libc::ENOSPC) => TableError::MapFull {
                    name: self.name,
                    max: self.max,
                },
                _ => TableError::Write {
                    name: self.name,
                    source,
                },
            }
        })
    }

    /// Removes a prefix. `Ok(false)`: it was not there.
    ///
    /// # Errors
    /// [`TableError::Write`].
    pub fn remove(&self, bits: u32, key: &K) -> Result<bool, TableError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        match writer.remove(&Key::new(bits, Wire(*key))) {
            Ok(()) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => {
                let source = io_error(error);
                if source.raw_os_error() == Some(libc::ENOENT) {
                    Ok(false)
                } else {
                    Err(TableError::Write {
                        name: self.name,
                        source,
                    })
                }
            }
        }
    }

    /// All prefixes: bits and key.
    ///
    /// # Errors
    /// [`TableError::Read`].
    pub fn dump(&self) -> Result<BTreeSet<(u32, K)>, TableError> {
        self.reader
            .keys()
            .map(|key| {
                let key = key.map_err(|error| TableError::Read {
                    name: self.name,
                    source: io_error(error),
                })?;
                Ok((key.prefix_len(), key.data().0))
            })
            .collect()
    }
}
