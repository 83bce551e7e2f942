//! Programs that the verifier has accepted, pinned, so that a process that starts again need not have them verified
//! again: that takes a second of a CPU, and an agent that was killed should be back before anyone notices.
//!
//! They lie in `programs/<fingerprint>/`. The fingerprint covers everything a program is made of: the object, the
//! load-time constants and the very maps it works on.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;

use abi::Config;
use aya::Ebpf;
use aya::maps::MapData;
use aya::programs::{ProgramInfo, SchedClassifier};
use zerocopy::IntoBytes;

use crate::object::{MAPS, PROGRAMS};
use crate::pins::{PinError, Pins, entries, file_error, make_directory, remove_file};
use crate::sockets::{self, Sockets};
use crate::table::io_error;
use crate::wire::Wire;

/// Loaded programs of packets, by name.
pub(crate) type Classifiers = BTreeMap<&'static str, SchedClassifier>;

/// All loaded programs.
pub(crate) struct Verified {
    pub(crate) classifiers: Classifiers,
    pub(crate) sockets: Sockets,
    pub(crate) wire: Wire,
}

/// Names of all programs.
fn all_programs() -> impl Iterator<Item = &'static str> {
    PROGRAMS
        .iter()
        .copied()
        .chain(sockets::names())
        .chain([abi::names::FROM_WIRE])
}

/// Appended to the name of a directory that is not complete yet (bpffs takes no dots).
const UNFINISHED: &str = "-new";

/// Names the programs of an object with these constants over the maps in a directory.
pub(crate) fn fingerprint(object: &[u8], config: &Config, maps: &Path) -> Result<String, PinError> {
    let mut hasher = DefaultHasher::new();
    object.hash(&mut hasher);
    config.as_bytes().hash(&mut hasher);
    for name in MAPS {
        let path = maps.join(name);
        let info = MapData::from_pin(&path).and_then(|map| map.info());
        let info = info.map_err(|error| file_error("read", &path, io_error(error)))?;
        info.id().hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// The pinned programs of this name; `None` unless all of them are there.
pub(crate) fn reopen(pins: &Pins, fingerprint: &str) -> Option<Verified> {
    let directory = pins.programs().join(fingerprint);
    let classifiers = PROGRAMS
        .iter()
        .map(|name| Some((*name, SchedClassifier::from_pin(directory.join(name)).ok()?)))
        .collect::<Option<_>>()?;
    Some(Verified {
        classifiers,
        sockets: sockets::reopen(&directory)?,
        wire: Wire::reopen(&directory)?,
    })
}

/// Pins loaded programs under this name, complete or not at all, and lets those of other names go.
pub(crate) fn keep(pins: &Pins, fingerprint: &str, ebpf: &mut Ebpf) -> Result<Verified, PinError> {
    let all = pins.programs();
    make_directory(&all)?;
    for old in entries(&all)? {
        if old.file_name().to_str().is_some_and(is_ours) {
            remove(&old.path())?;
        }
    }
    let unfinished = all.join(format!("{fingerprint}{UNFINISHED}"));
    let finished = all.join(fingerprint);
    make_directory(&unfinished)?;
    for name in all_programs() {
        let path = unfinished.join(name);
        let missing = || file_error("pin", &path, io::ErrorKind::NotFound.into());
        let program = ebpf.program_mut(name).ok_or_else(missing)?;
        program
            .pin(&path)
            .map_err(|error| file_error("pin", &path, io::Error::other(error)))?;
    }
    fs::rename(&unfinished, &finished).map_err(|source| file_error("replace", &finished, source))?;
    let incomplete = || file_error("read", &finished, io::ErrorKind::NotFound.into());
    reopen(pins, fingerprint).ok_or_else(incomplete)
}

/// Unpins all programs of ours; returns how many there were.
pub(crate) fn remove_all(pins: &Pins) -> Result<usize, PinError> {
    let mut removed = 0;
    for entry in entries(&pins.programs())? {
        if entry.file_name().to_str().is_some_and(is_ours) {
            removed += remove(&entry.path())?;
        }
    }
    Ok(removed)
}

/// Unpins the programs in a directory, and the directory too unless somebody else has something in it.
fn remove(directory: &Path) -> Result<usize, PinError> {
    let mut removed = 0;
    for name in all_programs() {
        let path = directory.join(name);
        // A file with the name of a program that is none is not ours.
        if ProgramInfo::from_pin(&path).is_ok() {
            remove_file(&path)?;
            removed += 1;
        }
    }
    match fs::remove_dir(directory) {
        Err(source) if source.kind() != io::ErrorKind::DirectoryNotEmpty => {
            Err(file_error("remove", directory, source))
        }
        _ => Ok(removed),
    }
}

/// Sixteen lower-case hexadecimal digits, finished or not.
fn is_ours(name: &str) -> bool {
    let digits = name.strip_suffix(UNFINISHED).unwrap_or(name);
    digits.len() == 16
        && digits
            .bytes()
            .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fingerprints_are_ours() {
        assert!(is_ours("0123456789abcdef") && is_ours("0123456789abcdef-new"));
        for name in [
            "",
            "0123456789ABCDEF",
            "0123456789abcde",
            "0123456789abcdef0",
            "programs",
            "0123456789abcdef-old",
        ] {
            assert!(!is_ours(name), "{name}");
        }
    }
}
