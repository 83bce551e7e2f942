//! The directory tree on bpffs. Everything in it that has a name of ours is ours; everything else is left alone.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use abi::names;
use aya::maps::{Array, Map, MapData};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::object::{Definition, MAPS, PROGRAMS};
use crate::sockets;
use crate::sys;
use crate::table::io_error;
use crate::verified;
use crate::wire;

/// Pin of the array that holds the ABI version of the maps beside it.
const ABI_PIN: &str = "seta_abi";

/// How long to wait for another process that is just loading.
const LOCK_DEADLINE: Duration = Duration::from_secs(10);

/// The pins cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// There is no bpffs.
    #[error("{root} is not a BPF file system; mount it with: mount -t bpf bpf {root}")]
    NotBpffs {
        /// Where it should be.
        root: PathBuf,
    },
    /// A file or directory cannot be used.
    #[error("cannot {operation} {path}")]
    File {
        /// "create", "read" …
        operation: &'static str,
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process is loading or unloading the datapath and does not come to an end.
    #[error("{path} is locked by another process since more than {LOCK_DEADLINE:?}")]
    Locked {
        /// The directory that is locked.
        path: PathBuf,
    },
}

/// What `uninstall` took away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uninstalled {
    /// Programs detached.
    pub links: usize,
    /// Maps unpinned.
    pub maps: usize,
    /// Programs unpinned.
    pub programs: usize,
}

/// Detaches every program and unpins every map below `root` (`/sys/fs/bpf`) that is ours, and nothing else.
/// Works without the object, and when nothing is there.
///
/// # Errors
/// [`PinError`].
pub fn uninstall(root: &Path) -> Result<Uninstalled, PinError> {
    let base = base_of(root)?;
    if !base.exists() {
        return Ok(Uninstalled::default());
    }
    let pins = Pins { base };
    let lock = pins.lock()?;
    let mut removed = Uninstalled::default();
    for pin in pins.links()? {
        // A file with the name of a link that is no link is not ours.
        if let Ok(fd) = sys::obj_get(&pin.path)
            && matches!(sys::tcx_link(fd.as_fd()), Ok(Some(_)))
        {
            remove_file(&pin.path)?;
            removed.links += 1;
        }
    }
    removed.links += sockets::detach(&pins)?;
    removed.links += wire::detach_all(&pins)?;
    removed.maps = remove_maps(&pins.maps())?;
    remove_maps(&pins.next())?;
    removed.programs = verified::remove_all(&pins)?;
    drop(lock);
    for directory in [
        pins.next(),
        pins.programs(),
        pins.maps(),
        pins.links_directory(),
        pins.base,
    ] {
        // Stays when somebody else has something in it.
        match fs::remove_dir(&directory) {
            Err(source)
                if !matches!(
                    source.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                return Err(PinError::File {
                    operation: "remove",
                    path: directory,
                    source,
                });
            }
            _ => {}
        }
    }
    Ok(removed)
}

/// A pinned link, by its file name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkPin {
    pub(crate) path: PathBuf,
    pub(crate) program: &'static str,
    /// The device it was made for.
    pub(crate) ifindex: u32,
}

/// What is at the place of a pinned map.
#[derive(Debug)]
pub(crate) enum Pinned {
    /// Nothing.
    Nothing,
    /// A map.
    Map(Definition),
    /// Something that is no map.
    Unusable,
}

/// Holds off other processes while it lives.
pub(crate) struct Lock(#[expect(dead_code, reason = "closing the file unlocks it")] File);

pub(crate) struct Pins {
    base: PathBuf,
}

impl Pins {
    /// The tree below a bpffs; makes the directories.
    pub(crate) fn prepare(root: &Path) -> Result<Self, PinError> {
        let pins = Self { base: base_of(root)? };
        for directory in [pins.base.clone(), pins.links_directory()] {
            make_directory(&directory)?;
        }
        Ok(pins)
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.base.join("maps")
    }

    pub(crate) fn next(&self) -> PathBuf {
        self.base.join("next")
    }

    /// The maps that are to be used: a new set that is being prepared, or the one in use.
    pub(crate) fn set(&self, renew: bool) -> PathBuf {
        if renew { self.next() } else { self.maps() }
    }

    pub(crate) fn programs(&self) -> PathBuf {
        self.base.join("programs")
    }

    fn links_directory(&self) -> PathBuf {
        self.base.join("links")
    }

    pub(crate) fn link(&self, program: &str, ifindex: u32) -> PathBuf {
        self.links_directory().join(format!("{program}-{ifindex}"))
    }

    pub(crate) fn socket_link(&self, program: &str) -> PathBuf {
        self.links_directory().join(program)
    }

    /// Waits until no other process loads or unloads.
    pub(crate) fn lock(&self) -> Result<Lock, PinError> {
        let file = File::open(&self.base).map_err(|source| file_error("open", &self.base, source))?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock(file)),
                Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_DEADLINE => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(PinError::Locked {
                        path: self.base.clone(),
                    });
                }
                Err(TryLockError::Error(source)) => return Err(file_error("lock", &self.base, source)),
            }
        }
    }

    /// The links that have a name of ours.
    pub(crate) fn links(&self) -> Result<Vec<LinkPin>, PinError> {
        let mut links = Vec::new();
        for entry in entries(&self.links_directory())? {
            if let Some((program, ifindex)) = entry.file_name().to_str().and_then(parse_link) {
                links.push(LinkPin {
                    path: entry.path(),
                    program,
                    ifindex,
                });
            }
        }
        links.sort_by(|a, b| (a.ifindex, a.program).cmp(&(b.ifindex, b.program)));
        Ok(links)
    }

    /// The links of the fast lane: interface index and pin.
    pub(crate) fn wire_links(&self) -> Result<Vec<(u32, PathBuf)>, PinError> {
        let mut links = Vec::new();
        for entry in entries(&self.links_directory())? {
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix(names::FROM_WIRE)?.strip_prefix('-'));
            if let Some(ifindex) = number.and_then(|number| number.parse().ok()) {
                links.push((ifindex, entry.path()));
            }
        }
        links.sort();
        Ok(links)
    }

    /// What is pinned under the name of a map.
    pub(crate) fn pinned(&self, name: &str) -> Result<Pinned, PinError> {
        let path = self.maps().join(name);
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Pinned::Nothing),
            Err(source) => return Err(file_error("read", &path, source)),
            Ok(_) => {}
        }
        let info = MapData::from_pin(&path).and_then(|map| map.info());
        Ok(match info {
            Ok(info) => match info.map_type() {
                Ok(kind) => Pinned::Map(Definition {
                    kind: kind as u32,
                    key_size: info.key_size(),
                    value_size: info.value_size(),
                    max_entries: info.max_entries(),
                    flags: info.map_flags(),
                }),
                Err(_) => Pinned::Unusable,
            },
            Err(_) => Pinned::Unusable,
        })
    }

    /// The ABI version of the pinned maps; `None` when there is none.
    pub(crate) fn abi_version(&self) -> Option<u32> {
        let map = MapData::from_pin(self.maps().join(ABI_PIN)).ok()?;
        Array::<_, u32>::try_from(Map::Array(map)).ok()?.get(&0, 0).ok()
    }

    /// Makes an empty directory for a new set of maps, with the ABI version in it.
    pub(crate) fn begin_next(&self) -> Result<(), PinError> {
        let next = self.next();
        self.discard_next()?;
        make_directory(&next)?;
        let path = next.join(ABI_PIN);
        let pin = || -> io::Result<()> {
            let mut array = Array::<_, u32>::create(1, 0).map_err(io_error)?;
            array.set(0, abi::ABI_VERSION, 0).map_err(io_error)?;
            array.pin(&path).map_err(io::Error::other)
        };
        pin().map_err(|source| file_error("pin", &path, source))
    }

    /// Takes a map that stays into the new set.
    pub(crate) fn keep(&self, name: &str) -> Result<(), PinError> {
        let (from, to) = (self.maps().join(name), self.next().join(name));
        let pin = || -> io::Result<()> {
            MapData::from_pin(&from)
                .map_err(io_error)?
                .pin(&to)
                .map_err(io::Error::other)
        };
        pin().map_err(|source| file_error("pin", &to, source))
    }

    /// Puts the new set in the place of the old one in one step, then clears the old one away. What somebody else
    /// has pinned among our maps moves along.
    pub(crate) fn commit_next(&self) -> Result<(), PinError> {
        let (maps, next) = (self.maps(), self.next());
        let flags = if maps.exists() {
            RenameFlags::RENAME_EXCHANGE
        } else {
            RenameFlags::RENAME_NOREPLACE
        };
        renameat2(AT_FDCWD, &next, AT_FDCWD, &maps, flags)
            .map_err(|errno| file_error("replace", &maps, errno.into()))?;
        self.discard_next()
    }

    /// Clears away a set that was not, or is no longer, in use.
    pub(crate) fn discard_next(&self) -> Result<(), PinError> {
        let (maps, next) = (self.maps(), self.next());
        if !next.exists() {
            return Ok(());
        }
        remove_maps(&next)?;
        for entry in entries(&next)? {
            let to = maps.join(entry.file_name());
            if maps.exists() && !to.exists() {
                fs::rename(entry.path(), &to).map_err(|source| file_error("keep", &to, source))?;
            } else {
                // Under a name of ours, but no map: it cannot stay where a map has to be.
                let removed = if entry.path().is_dir() {
                    fs::remove_dir(entry.path())
                } else {
                    fs::remove_file(entry.path())
                };
                removed.map_err(|source| file_error("remove", &entry.path(), source))?;
            }
        }
        fs::remove_dir(&next).map_err(|source| file_error("remove", &next, source))
    }
}

fn base_of(root: &Path) -> Result<PathBuf, PinError> {
    let not_bpffs = || PinError::NotBpffs {
        root: root.to_owned(),
    };
    let status = statfs(root).map_err(|_| not_bpffs())?;
    if status.filesystem_type() == BPF_FS_MAGIC {
        Ok(root.join("seta"))
    } else {
        Err(not_bpffs())
    }
}

/// Splits `<program>-<ifindex>`; only the spelling that we write ourselves counts.
fn parse_link(name: &str) -> Option<(&'static str, u32)> {
    let (program, ifindex) = name.rsplit_once('-')?;
    let number: u32 = ifindex.parse().ok()?;
    let program = PROGRAMS.iter().find(|known| **known == program)?;
    (number != 0 && number.to_string() == ifindex).then_some((*program, number))
}

/// Unpins the maps that have names of ours.
fn remove_maps(directory: &Path) -> Result<usize, PinError> {
    let mut removed = 0;
    for name in MAPS.iter().chain(&[ABI_PIN]) {
        let path = directory.join(name);
        if MapData::from_pin(&path).is_ok() {
            remove_file(&path)?;
            removed += 1;
        }
    }
    Ok(removed)
}

pub(crate) fn remove_file(path: &Path) -> Result<(), PinError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(file_error("remove", path, source)),
        _ => Ok(()),
    }
}

pub(crate) fn make_directory(path: &Path) -> Result<(), PinError> {
    match fs::create_dir(path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(file_error("create", path, source))
        }
        _ => Ok(()),
    }
}

pub(crate) fn entries(directory: &Path) -> Result<Vec<fs::DirEntry>, PinError> {
    match fs::read_dir(directory).and_then(Iterator::collect) {
        Ok(entries) => Ok(entries),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(file_error("read", directory, source)),
    }
}

pub(crate) fn file_error(operation: &'static str, path: &Path, source: io::Error) -> PinError {
    PinError::File {
        operation,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_directory_that_is_no_bpffs_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        for root in [directory.path().to_owned(), directory.path().join("missing")] {
            let error = uninstall(&root).unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains(&format!("mount -t bpf bpf {}", root.display())),
                "{error}"
            );
        }
    }

    #[test]
    fn only_names_that_we_write_are_links_of_ours() {
        assert_eq!(parse_link("from_pod-7"), Some(("from_pod", 7)));
        for name in [
            "",
            "from_pod",
            "from_pod-",
            "from_pod-0",
            "from_pod-07",
            "from_pod-+7",
            "other-7",
            "from_pod-7-8",
        ] {
            assert_eq!(parse_link(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn link_names_read_back(index in 1u32.., program in prop::sample::select(PROGRAMS)) {
            prop_assert_eq!(parse_link(&format!("{program}-{index}")), Some((program, index)));
        }
    }
}
