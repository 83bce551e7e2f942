//! What the kernel says of maps and programs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use abi::Config;
use aya::maps::{Array, Map, MapData, MapError, MapType};
use aya::programs::{ProgramError, loaded_programs};
use zerocopy::FromBytes as _;

use crate::Cause;
use crate::sys::BatchReader;
use crate::table::io_error;

/// The kernel does not say.
#[derive(Debug, thiserror::Error)]
pub enum InfoError {
    /// A map cannot be read.
    #[error("cannot inspect map {name}")]
    Map {
        /// Name of the map.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A program cannot be read.
    #[error("cannot inspect program {name}")]
    Program {
        /// Name of the program.
        name: &'static str,
        /// Why.
        source: Cause,
    },
    /// The constants of a loaded program cannot be read.
    #[error("cannot read the constants of program {id}")]
    Constants {
        /// Number of the program in the kernel.
        id: u32,
        /// Why.
        source: Cause,
    },
    /// Run statistics cannot be switched on.
    #[error("cannot switch on run statistics")]
    Stats(#[source] io::Error),
}

/// A pinned map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapInfo {
    /// Name in `abi::names`.
    pub name: &'static str,
    /// Type: `Hash`, `LruHash` …
    pub kind: String,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// How many entries it can have; bytes for a ring buffer.
    pub max_entries: u32,
    /// How many it has; `None` where that has no meaning (arrays, ring buffers).
    pub entries: Option<u32>,
    /// Kernel memory it takes, bytes, as far as the kernel accounts for it.
    pub bytes: u64,
}

/// A loaded program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Name in `abi::names`.
    pub name: &'static str,
    /// Number in the kernel.
    pub id: u32,
    /// Instructions that the verifier looked at.
    pub verified_instructions: u32,
    /// Machine code, bytes.
    pub jited_bytes: u32,
    /// Time spent in it while statistics were on.
    pub run_time: Duration,
    /// Runs while statistics were on.
    pub run_count: u64,
}

/// Keeps run statistics of all programs of the machine switched on. They cost some 20 ns per run.
#[derive(Debug)]
pub struct StatsGuard(
    #[expect(dead_code, reason = "closing the descriptor switches the statistics off")] OwnedFd,
);

impl StatsGuard {
    /// Switches the statistics on until the value is dropped.
    ///
    /// # Errors
    /// [`InfoError::Stats`].
    pub fn enable() -> Result<Self, InfoError> {
        match aya::sys::enable_stats(aya::sys::Stats::RunTime) {
            Ok(fd) => Ok(Self(fd)),
            Err(error) => Err(InfoError::Stats(error.io_error)),
        }
    }
}

pub(crate) fn map_info(name: &'static str, pin: &Path) -> Result<MapInfo, InfoError> {
    let inspect = || -> io::Result<MapInfo> {
        let map = MapData::from_pin(pin).map_err(io_error)?;
        let info = map.info().map_err(io_error)?;
        let kind = info.map_type().map_err(io_error)?;
        let entries = match kind {
            MapType::Hash | MapType::LruHash | MapType::LpmTrie => Some(count(
                &map,
                info.key_size(),
                info.value_size(),
                info.max_entries(),
            )?),
            _ => None,
        };
        Ok(MapInfo {
            name,
            kind: format!("{kind:?}"),
            key_size: info.key_size(),
            value_size: info.value_size(),
            max_entries: info.max_entries(),
            entries,
            bytes: memory(&map)?,
        })
    };
    inspect().map_err(|source| InfoError::Map { name, source })
}

fn count(map: &MapData, key_size: u32, value_size: u32, max: u32) -> io::Result<u32> {
    let size = |bytes: u32| usize::try_from(bytes).map_err(io::Error::other);
    let mut reader = BatchReader::new(
        map.fd().as_fd(),
        size(key_size)?,
        size(value_size)?,
        // A megabyte at a time, as some values are large.
        ((1 << 20) / size(key_size.saturating_add(value_size))?.max(1)).clamp(1, 4096),
        size(max)?,
    );
    let mut entries = 0;
    loop {
        match reader.next_batch()? {
            0 => return Ok(entries),
            read => entries += u32::try_from(read).map_err(io::Error::other)?,
        }
    }
}

/// `memlock` of the map's descriptor: what the kernel estimates that the map takes.
fn memory(map: &MapData) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
    let memlock = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    Ok(memlock.and_then(|number| number.trim().parse().ok()).unwrap_or(0))
}

/// Name that the kernel has for the map that is all of [`abi::Config`], the section of the object.
const CONSTANTS: &str = ".rodata.config";

/// The constants that programs were loaded with, as the kernel runs them, whoever loaded them. The map is frozen: what is
/// read is what the verifier saw. Programs that are not there any more, or have no constants of this size (those of
/// another version), are left out.
pub(crate) fn constants(programs: &BTreeSet<u32>) -> Result<BTreeMap<u32, Config>, InfoError> {
    let mut found = BTreeMap::new();
    for info in loaded_programs().filter_map(Result::ok) {
        let id = info.id();
        if !programs.contains(&id) {
            continue;
        }
        let failed = |source| InfoError::Constants { id, source };
        let maps = info.map_ids().map_err(|error| failed(error.into()))?;
        for map in maps.into_iter().flatten() {
            if let Some(config) = constants_in(map).map_err(|error| failed(error.into()))? {
                found.insert(id, config);
            }
        }
    }
    Ok(found)
}

/// The constants, if this is their map.
fn constants_in(map: u32) -> Result<Option<Config>, MapError> {
    let map = MapData::from_id(map)?;
    let info = map.info()?;
    let is_theirs = info.name_as_str() == Some(CONSTANTS)
        && usize::try_from(info.value_size()).is_ok_and(|size| size == size_of::<Config>());
    if !is_theirs {
        return Ok(None);
    }
    let array: Array<MapData, [u8; size_of::<Config>()]> = Map::Array(map).try_into()?;
    let bytes = array.get(&0, 0)?;
    Ok(Config::read_from_bytes(&bytes).ok())
}

pub(crate) fn program_info(
    name: &'static str,
    info: Result<aya::programs::ProgramInfo, ProgramError>,
) -> Result<ProgramInfo, InfoError> {
    let info = info.map_err(|error| InfoError::Program {
        name,
        source: error.into(),
    })?;
    Ok(ProgramInfo {
        name,
        id: info.id(),
        verified_instructions: info.verified_instruction_count().unwrap_or(0),
        jited_bytes: info.size_jitted(),
        run_time: info.run_time(),
        run_count: info.run_count(),
    })
}
