//! The programs of sockets: pinned links to a cgroup, whose program is exchanged in place.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use abi::names;
use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::{
    CgroupAttachMode, CgroupSock, CgroupSockAddr, CgroupSockAddrAttachType, CgroupSockAttachType,
    ProgramError, ProgramInfo,
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};

use crate::Cause;
use crate::attach::Attached;
use crate::pins::{PinError, Pins, remove_file};
use crate::sys::{self, CgroupLink};

/// A program of sockets, as the kernel loads it.
pub(crate) enum SocketProgram {
    /// Sees the address that a system call is about.
    Address(CgroupSockAddr),
    /// Sees a socket that was bound.
    Bind(CgroupSock),
}

/// Where a program hooks in.
#[derive(Clone, Copy)]
enum Hook {
    Address(CgroupSockAddrAttachType),
    Bind(CgroupSockAttachType),
}

/// Programs of sockets that must be in the object.
const HOOKS: &[(&str, Hook)] = &[
    (names::CONNECT6, Hook::Address(CgroupSockAddrAttachType::Connect6)),
    (
        names::SENDMSG6,
        Hook::Address(CgroupSockAddrAttachType::UDPSendMsg6),
    ),
    (
        names::RECVMSG6,
        Hook::Address(CgroupSockAddrAttachType::UDPRecvMsg6),
    ),
    (
        names::GETPEERNAME6,
        Hook::Address(CgroupSockAddrAttachType::GetPeerName6),
    ),
    (names::POST_BIND6, Hook::Bind(CgroupSockAttachType::PostBind6)),
];

/// Names of the programs of sockets.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    HOOKS.iter().map(|(name, _)| *name)
}

/// A program of sockets cannot be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The directory is no cgroup of version 2.
    #[error("{path} is not a cgroup v2 directory")]
    NotACgroup {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused the link.
    #[error("cannot attach {program} to cgroup {path}")]
    Attach {
        /// Name of the program.
        program: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// Why.
        source: Cause,
    },
    /// Something that is not a link of ours has the name of the pin, or the link cannot be read or changed.
    #[error("cannot use {path}")]
    Link {
        /// The pin.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The pins cannot be used.
    #[error(transparent)]
    Pins(#[from] PinError),
}

/// A program of sockets that is attached, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketAttachment {
    /// Name of the program.
    pub program: &'static str,
    /// Number of the cgroup (its inode).
    pub cgroup: u64,
    /// Number of the program in the kernel.
    pub program_id: u32,
    /// The program is the one that this process attaches, not another one of a predecessor.
    pub current: bool,
}

/// The loaded programs of sockets.
pub(crate) struct Sockets(Mutex<BTreeMap<&'static str, SocketProgram>>);

impl SocketProgram {
    pub(crate) fn info(&self) -> Result<ProgramInfo, ProgramError> {
        match self {
            Self::Address(program) => program.info(),
            Self::Bind(program) => program.info(),
        }
    }

    fn attach(&mut self, cgroup: &File) -> Result<FdLink, Cause> {
        // Flags are refused for links, which always stand beside others.
        match self {
            Self::Address(program) => {
                let link = program.attach(cgroup, CgroupAttachMode::Single)?;
                Ok(FdLink::try_from(program.take_link(link)?)?)
            }
            Self::Bind(program) => {
                let link = program.attach(cgroup, CgroupAttachMode::Single)?;
                Ok(FdLink::try_from(program.take_link(link)?)?)
            }
        }
    }

    fn exchange(&self, link: &impl AsFd) -> io::Result<()> {
        let fd = match self {
            Self::Address(program) => program.fd(),
            Self::Bind(program) => program.fd(),
        };
        sys::link_update(link.as_fd(), fd.map_err(io::Error::other)?.as_fd())
    }
}

/// Opens the pinned programs in a directory; `None` unless all of them are there.
pub(crate) fn reopen(directory: &Path) -> Option<Sockets> {
    let open = |(name, hook): &(&'static str, Hook)| {
        let path = directory.join(name);
        let program = match *hook {
            Hook::Address(kind) => SocketProgram::Address(CgroupSockAddr::from_pin(path, kind).ok()?),
            Hook::Bind(kind) => SocketProgram::Bind(CgroupSock::from_pin(path, kind).ok()?),
        };
        Some((*name, program))
    };
    let programs = HOOKS.iter().map(open).collect::<Option<_>>()?;
    Some(Sockets(Mutex::new(programs)))
}

/// Hands the programs of sockets to the verifier. They are small.
pub(crate) fn load(ebpf: &mut Ebpf) -> Result<(), (&'static str, Cause)> {
    for (name, hook) in HOOKS {
        let failed = |error: ProgramError| (*name, Cause::from(error));
        let program = ebpf
            .program_mut(name)
            .ok_or((*name, "not in the object".into()))?;
        match hook {
            Hook::Address(_) => {
                let program: &mut CgroupSockAddr = program.try_into().map_err(failed)?;
                program.load().map_err(failed)?;
            }
            Hook::Bind(_) => {
                let program: &mut CgroupSock = program.try_into().map_err(failed)?;
                program.load().map_err(failed)?;
            }
        }
    }
    Ok(())
}

impl Sockets {
    /// Attaches all programs to a cgroup; those of a predecessor are exchanged in place, one after the other, the one
    /// that answers before the one that asks.
    pub(crate) fn attach(&self, pins: &Pins, cgroup: &Path) -> Result<Attached, SocketError> {
        let not_a_cgroup = |source| SocketError::NotACgroup {
            path: cgroup.to_owned(),
            source,
        };
        let directory = File::open(cgroup).map_err(not_a_cgroup)?;
        let system = fstatfs(&directory).map_err(|errno| not_a_cgroup(errno.into()))?;
        if system.filesystem_type() != CGROUP2_SUPER_MAGIC {
            return Err(not_a_cgroup(io::ErrorKind::InvalidInput.into()));
        }
        let number = directory.metadata().map_err(not_a_cgroup)?.ino();
        let mut programs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut outcome = Attached::Kept;
        for (name, program) in programs.iter_mut().rev() {
            let attached = attach(name, program, &pins.socket_link(name), cgroup, &directory, number)?;
            outcome = outcome.max(attached);
        }
        Ok(outcome)
    }

    /// What is attached, asked of the kernel now.
    pub(crate) fn attachments(&self, pins: &Pins) -> Vec<SocketAttachment> {
        let programs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let read = |(name, program): (&&'static str, &SocketProgram)| {
            let link = pinned(&pins.socket_link(name)).ok().flatten()?.1;
            Some(SocketAttachment {
                program: name,
                cgroup: link.cgroup,
                program_id: link.program,
                current: program.info().ok().map(|info| info.id()) == Some(link.program),
            })
        };
        programs.iter().filter_map(read).collect()
    }

    /// Runs `work` with each program.
    pub(crate) fn each<T>(&self, mut work: impl FnMut(&'static str, &SocketProgram) -> T) -> Vec<T> {
        let programs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        programs
            .iter()
            .map(|(name, program)| work(name, program))
            .collect()
    }
}

/// Takes the programs of sockets off their cgroup. Returns how many were on it. Works without loaded programs.
pub(crate) fn detach(pins: &Pins) -> Result<usize, PinError> {
    let mut detached = 0;
    for name in names() {
        let path = pins.socket_link(name);
        // A file with the name of a link that is no link is not ours.
        if let Ok(Some(_)) = pinned(&path) {
            remove_file(&path)?;
            detached += 1;
        }
    }
    Ok(detached)
}

fn attach(
    name: &'static str,
    program: &mut SocketProgram,
    pin: &Path,
    cgroup: &Path,
    directory: &File,
    number: u64,
) -> Result<Attached, SocketError> {
    let failed = |source| SocketError::Attach {
        program: name,
        path: cgroup.to_owned(),
        source,
    };
    let unusable = |source| SocketError::Link {
        path: pin.to_owned(),
        source,
    };
    match pinned(pin).map_err(unusable)? {
        Some((fd, link)) if link.cgroup == number => {
            if program.info().map_err(|error| failed(error.into()))?.id() == link.program {
                return Ok(Attached::Kept);
            }
            program.exchange(&fd).map_err(unusable)?;
            return Ok(Attached::Exchanged);
        }
        // Another cgroup, or one that is gone: number 0.
        Some(_) => remove_file(pin)?,
        None => {}
    }
    let link = program.attach(directory).map_err(failed)?;
    link.pin(pin).map_err(|error| unusable(io::Error::other(error)))?;
    Ok(Attached::New)
}

/// The cgroup link that is pinned there; `None` when there is nothing.
fn pinned(path: &Path) -> io::Result<Option<(std::os::fd::OwnedFd, CgroupLink)>> {
    let fd = match sys::obj_get(path) {
        Ok(fd) => fd,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let link = sys::cgroup_link(fd.as_fd())?.ok_or_else(|| io::Error::other("not a cgroup link of ours"))?;
    Ok(Some((fd, link)))
}
