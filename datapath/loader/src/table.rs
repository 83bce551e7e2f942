//! Typed access to a hash map, shared by reference between tasks.

use std::collections::BTreeMap;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError};
use nix::libc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::sys::BatchReader;

/// Entries that are read with one system call, if they are small.
const BATCH: usize = 4096;
/// Bytes that are read with one system call, if they are not.
const BATCH_BYTES: usize = 1 << 20;

/// `BPF_NOEXIST`.
const NO_EXIST: u64 = 1;

/// A type of `abi` on its way through aya.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Wire<T>(pub(crate) T);

// SAFETY: `IntoBytes` and `FromBytes` say that there is no padding and that any bytes are a value, which is what
// `Pod` asks for; `Wire` adds nothing to the layout.
unsafe impl<T: FromBytes + IntoBytes + Copy + 'static> Pod for Wire<T> {}

/// A key or value of a map: plain bytes without padding. The types of `abi` and plain numbers are.
pub trait Layout: FromBytes + IntoBytes + Immutable + Copy + 'static {}

impl<T: FromBytes + IntoBytes + Immutable + Copy + 'static> Layout for T {}

/// A map cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// There is no room for a further entry. What is in the map stays.
    #[error("map {name} is full ({max} entries)")]
    MapFull {
        /// Name of the map.
        name: &'static str,
        /// How many entries it can have.
        max: u32,
    },
    /// The kernel refused to read.
    #[error("cannot read map {name}")]
    Read {
        /// Name of the map.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused to change.
    #[error("cannot change map {name}")]
    Write {
        /// Name of the map.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Keys and values do not have the size that this program knows.
    #[error("map {name} has another layout")]
    Layout {
        /// Name of the map.
        name: &'static str,
        /// Which size.
        source: io::Error,
    },
}

/// A hash map in the kernel, keys and values of `abi`.
///
/// All operations take `&self`: each is one system call, which the kernel makes atomic per entry.
pub struct Table<K, V> {
    name: &'static str,
    max: u32,
    reader: HashMap<MapData, Wire<K>, Wire<V>>,
    /// A second descriptor of the same map, since aya changes maps through `&mut`.
    writer: Mutex<HashMap<MapData, Wire<K>, Wire<V>>>,
    _kv: PhantomData<(K, V)>,
}

impl<K: Layout, V: Layout> Table<K, V> {
    pub(crate) fn new(name: &'static str, map: Map) -> Result<Self, TableError> {
        let layout = |error| TableError::Layout {
            name,
            source: io_error(error),
        };
        let twin_of = |data: &MapData| duplicate(data).map_err(layout);
        let max_of = |data: &MapData| data.info().map(|info| info.max_entries()).map_err(layout);
        let (twin, max) = match &map {
            Map::HashMap(data) => (Map::HashMap(twin_of(data)?), max_of(data)?),
            Map::LruHashMap(data) => (Map::LruHashMap(twin_of(data)?), max_of(data)?),
            _ => {
                return Err(TableError::Layout {
                    name,
                    source: io::Error::other("not a hash map"),
                });
            }
        };
        Ok(Self {
            name,
            max,
            reader: HashMap::try_from(map).map_err(layout)?,
            writer: Mutex::new(HashMap::try_from(twin).map_err(layout)?),
            _kv: PhantomData,
        })
    }

    /// Name of the map in `abi::names`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How many entries it can have.
    #[must_use]
    pub fn max_entries(&self) -> u32 {
        self.max
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`TableError::Read`].
    pub fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        match self.reader.get(&Wire(*key), 0) {
            Ok(Wire(value)) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(TableError::Read {
                name: self.name,
                source: io_error(error),
            }),
        }
    }

    /// Sets the value of a key, new or not.
    ///
    /// # Errors
    /// [`TableError::MapFull`] when the key is new and there is no room.
    pub fn insert(&self, key: &K, value: &V) -> Result<(), TableError> {
        self.update(key, value, 0)
    }

    /// Sets the value of a key that is not there. `Ok(false)`: it is, and keeps its value.
    ///
    /// # Errors
    /// [`TableError::MapFull`].
    pub fn insert_new(&self, key: &K, value: &V) -> Result<bool, TableError> {
        match self.update(key, value, NO_EXIST) {
            Ok(()) => Ok(true),
            Err(TableError::Write { source, .. }) if source.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn update(&self, key: &K, value: &V, flags: u64) -> Result<(), TableError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.insert(Wire(*key), Wire(*value), flags).map_err(|error| {
            let source = io_error(error);
            match source.raw_os_error() {
                Some(libc::E2BIG) => TableError::MapFull {
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

    /// Removes a key. `Ok(false)`: it was not there.
    ///
    /// # Errors
    /// [`TableError::Write`].
    pub fn remove(&self, key: &K) -> Result<bool, TableError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        match writer.remove(&Wire(*key)) {
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

    /// Reads all entries in batches. Entries that come while it runs may be missed; none that stays is.
    pub fn batches(&self) -> Batches<'_, K, V> {
        self.batches_of((BATCH_BYTES / (size_of::<K>() + size_of::<V>())).clamp(1, BATCH))
    }

    /// The same with the number of entries per batch.
    pub fn batches_of(&self, batch: usize) -> Batches<'_, K, V> {
        let map = self.reader_fd();
        let reader = BatchReader::new(map, size_of::<K>(), size_of::<V>(), batch, self.max as usize);
        Batches {
            name: self.name,
            reader,
            _kv: PhantomData,
        }
    }

    fn reader_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        aya::maps::IterableMap::map(&self.reader).fd().as_fd()
    }

    /// All entries, in no order.
    ///
    /// # Errors
    /// [`TableError::Read`].
    pub fn entries(&self) -> Result<Vec<(K, V)>, TableError> {
        let mut entries = Vec::new();
        for batch in self.batches() {
            entries.extend(batch?);
        }
        Ok(entries)
    }

    /// All entries by key: what a reconciler compares with what should be there.
    ///
    /// # Errors
    /// [`TableError::Read`].
    pub fn dump(&self) -> Result<BTreeMap<K, V>, TableError>
    where
        K: Ord,
    {
        Ok(self.entries()?.into_iter().collect())
    }

    /// How many entries there are, counted now.
    ///
    /// # Errors
    /// [`TableError::Read`].
    pub fn count(&self) -> Result<u32, TableError> {
        let mut count = 0;
        let mut batches = self.batches();
        loop {
            match batches.reader.next_batch() {
                Ok(0) => return Ok(count),
                Ok(read) => count += u32::try_from(read).unwrap_or(u32::MAX),
                Err(source) => {
                    return Err(TableError::Read {
                        name: self.name,
                        source,
                    });
                }
            }
        }
    }

    /// Puts the entries of another table in that this one does not have. Returns how many were put in and how many
    /// found no room.
    pub(crate) fn copy_missing(&self, from: &Self) -> Result<(usize, usize), TableError> {
        let (mut copied, mut left) = (0, 0);
        for batch in from.batches() {
            for (key, value) in batch? {
                match self.insert_new(&key, &value) {
                    Ok(new) => copied += usize::from(new),
                    Err(TableError::MapFull { .. }) => left += 1,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok((copied, left))
    }
}

/// Entries of a table, a batch at a time. Ends after an error.
pub struct Batches<'a, K, V> {
    name: &'static str,
    reader: BatchReader<'a>,
    _kv: PhantomData<(K, V)>,
}

impl<K: Layout, V: Layout> Iterator for Batches<'_, K, V> {
    type Item = Result<Vec<(K, V)>, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.reader.next_batch() {
            Ok(0) => None,
            Ok(read) => {
                let keys = self.reader.keys.chunks_exact(size_of::<K>());
                let values = self.reader.values.chunks_exact(size_of::<V>());
                let entries = keys.zip(values).take(read);
                // Chunks have exactly the size of the types, so that nothing is filtered.
                let typed = entries.filter_map(|(key, value)| {
                    Some((K::read_from_bytes(key).ok()?, V::read_from_bytes(value).ok()?))
                });
                Some(Ok(typed.collect()))
            }
            Err(source) => {
                self.reader.finish();
                Some(Err(TableError::Read {
                    name: self.name,
                    source,
                }))
            }
        }
    }
}

pub(crate) fn duplicate(map: &MapData) -> Result<MapData, MapError> {
    MapData::from_fd(map.fd().as_fd().try_clone_to_owned().map_err(MapError::IoError)?)
}

/// The errno in an error of aya, or else its text.
pub(crate) fn io_error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        MapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}
