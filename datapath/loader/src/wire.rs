//! The fast lane of native devices: a pinned XDP link each, whose program is exchanged in place.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use abi::names::FROM_WIRE;
use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::xdp::XdpMode;
use aya::programs::{ProgramError, ProgramInfo, TestRun as _, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use nix::net::if_::if_indextoname;

use crate::attach::Attached;
use crate::pins::{PinError, Pins, remove_file};
use crate::sys::{self, TcxLink};
use crate::{Cause, OpenError, TestRun, TestRunError};

/// On which devices the program may run. It always runs in the driver: behind it, in the stack (generic XDP), Linux 6.18
/// hands packets on to tc programs without their Ethernet header when it had to copy them for want of headroom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireMode {
    /// On devices whose packets have their checksums.
    Native,
    /// On every device that can, also virtual pairs: for who knows what is at the other end.
    Forced,
}

/// The fast lane cannot be attached to a device; its packets go the other way, as before.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The device hands over packets whose checksum is still to be computed, and its other end loses what is sent back
    /// while nobody polls there (`ndo_xdp_xmit` of veth without NAPI).
    #[error(
        "device {ifindex} ({device}) is one end of a virtual pair: packets on it have unfinished checksums, and what \
         XDP sends is lost where the other end has no GRO; accelerate physical devices"
    )]
    Virtual {
        /// Index of the device.
        ifindex: u32,
        /// Its name.
        device: String,
    },
    /// The kernel or the driver refused.
    #[error("cannot attach {FROM_WIRE} to device {ifindex}")]
    Attach {
        /// Index of the device.
        ifindex: u32,
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

/// A device with a fast lane, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireAttachment {
    /// The device.
    pub ifindex: u32,
    /// Number of the program in the kernel.
    pub program_id: u32,
    /// The program is the one that this process attaches, not one of a predecessor.
    pub current: bool,
}

/// The loaded program.
pub(crate) struct Wire(Mutex<Xdp>);

/// Hands the program to the verifier.
pub(crate) fn load(ebpf: &mut Ebpf) -> Result<(), OpenError> {
    let failed = |source: Cause| OpenError::Program {
        name: FROM_WIRE,
        source,
    };
    let program = ebpf
        .program_mut(FROM_WIRE)
        .ok_or_else(|| failed("not in the object".into()))?;
    let program: &mut Xdp = program
        .try_into()
        .map_err(|error: ProgramError| failed(error.into()))?;
    program.load().map_err(|error| failed(error.into()))
}

impl Wire {
    /// The pinned program in a directory; `None` when it is not there.
    pub(crate) fn reopen(directory: &Path) -> Option<Self> {
        let program = Xdp::from_pin(directory.join(FROM_WIRE), XdpAttachType::Interface).ok()?;
        Some(Self(Mutex::new(program)))
    }

    fn lock(&self) -> MutexGuard<'_, Xdp> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn info(&self) -> Result<ProgramInfo, ProgramError> {
        self.lock().info()
    }

    pub(crate) fn attach(&self, pins: &Pins, ifindex: u32, mode: WireMode) -> Result<Attached, WireError> {
        let failed = |source: Cause| WireError::Attach { ifindex, source };
        if mode == WireMode::Native {
            refuse_virtual(ifindex)?;
        }
        let path = pins.link(FROM_WIRE, ifindex);
        let unusable = |source| WireError::Link {
            path: path.clone(),
            source,
        };
        let mut program = self.lock();
        let id = program.info().map_err(|error| failed(error.into()))?.id();
        match pinned(&path).map_err(unusable)? {
            Some((_, link)) if link.ifindex == ifindex && link.program == id => return Ok(Attached::Kept),
            Some((fd, link)) if link.ifindex == ifindex => {
                let new = program.fd().map_err(|error| failed(error.into()))?;
                sys::link_update(fd.as_fd(), new.as_fd()).map_err(unusable)?;
                return Ok(Attached::Exchanged);
            }
            // The device is gone.
            Some(_) => remove_file(&path)?,
            None => {}
        }
        let link = program
            .attach_to_if_index(ifindex, XdpMode::Driver)
            .and_then(|link| program.take_link(link))
            .map_err(|error| failed(error.into()))?;
        let link = FdLink::try_from(link).map_err(|error| failed(error.into()))?;
        link.pin(&path)
            .map_err(|error| unusable(io::Error::other(error)))?;
        Ok(Attached::New)
    }

    pub(crate) fn attachments(&self, pins: &Pins) -> Result<Vec<WireAttachment>, PinError> {
        let own = self.info().ok().map(|info| info.id());
        let read = |(_, path): (u32, PathBuf)| {
            let (_, link) = pinned(&path).ok().flatten()?;
            (link.ifindex != 0).then_some(WireAttachment {
                ifindex: link.ifindex,
                program_id: link.program,
                current: own == Some(link.program),
            })
        };
        Ok(pins.wire_links()?.into_iter().filter_map(read).collect())
    }

    pub(crate) fn test_run(
        &self,
        packet: &[u8],
        context: Option<&[u8]>,
        repeat: u32,
    ) -> Result<TestRun, TestRunError> {
        let mut out = vec![0; packet.len()];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: context,
            repeat,
            ..TestRunOptions::new()
        };
        let result = self.lock().test_run(options).map_err(|error| TestRunError::Run {
            name: FROM_WIRE.to_owned(),
            source: error.into(),
        })?;
        out.truncate(usize::try_from(result.data_size_out).unwrap_or(usize::MAX));
        Ok(TestRun {
            verdict: result.return_value.cast_signed(),
            packet: out,
            duration: result.duration,
        })
    }
}

/// Takes the fast lane off a device. Returns whether it was there. Works without a loaded program.
pub(crate) fn detach(pins: &Pins, ifindex: u32) -> Result<bool, PinError> {
    remove(&pins.link(FROM_WIRE, ifindex))
}

/// Takes the fast lane off all devices. Returns how many there were.
pub(crate) fn detach_all(pins: &Pins) -> Result<usize, PinError> {
    let mut detached = 0;
    for (_, path) in pins.wire_links()? {
        detached += usize::from(remove(&path)?);
    }
    Ok(detached)
}

/// Removes the pins of links whose device is gone. Returns how many there were.
pub(crate) fn prune(pins: &Pins) -> Result<usize, PinError> {
    let mut pruned = 0;
    for (_, path) in pins.wire_links()? {
        if matches!(pinned(&path), Ok(Some((_, link))) if link.ifindex == 0) {
            remove_file(&path)?;
            pruned += 1;
        }
    }
    Ok(pruned)
}

/// A file with the name of a link that is no link is not ours.
fn remove(path: &Path) -> Result<bool, PinError> {
    let is_ours = matches!(pinned(path), Ok(Some(_)));
    if is_ours {
        remove_file(path)?;
    }
    Ok(is_ours)
}

/// The XDP link that is pinned there; `None` when there is nothing.
fn pinned(path: &Path) -> io::Result<Option<(OwnedFd, TcxLink)>> {
    let fd = match sys::obj_get(path) {
        Ok(fd) => fd,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let link = sys::xdp_link(fd.as_fd())?.ok_or_else(|| io::Error::other("not an XDP link of ours"))?;
    Ok(Some((fd, link)))
}

/// Whether a driver says of itself that it is one of the kernel's own pairs (`SIOCETHTOOL`, `ETHTOOL_GDRVINFO`).
fn refuse_virtual(ifindex: u32) -> Result<(), WireError> {
    let failed = |source: Cause| WireError::Attach { ifindex, source };
    let name = if_indextoname(ifindex).map_err(|errno| failed(errno.into()))?;
    let driver = sys::driver(&name).map_err(|error| failed(error.into()))?;
    if matches!(driver.as_str(), "veth" | "tun") {
        return Err(WireError::Virtual {
            ifindex,
            device: name.to_string_lossy().into_owned(),
        });
    }
    Ok(())
}
