//! Programs on devices: pinned tcx links, whose program is exchanged in place.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use nix::net::if_::{if_indextoname, if_nametoindex};

use crate::Cause;
use crate::pins::{PinError, Pins, remove_file};
use crate::sys::{self, TcxLink};
use crate::verified::Classifiers;

/// A program cannot be attached to, or detached from, a device.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// There is no such device in this network namespace.
    #[error("there is no device {ifindex}")]
    NoDevice {
        /// Index of the device.
        ifindex: u32,
    },
    /// Something that is not a link of ours has the name of the pin.
    #[error("{path} is not a tcx link of device {ifindex}; remove it")]
    ForeignPin {
        /// The file.
        path: PathBuf,
        /// Index of the device.
        ifindex: u32,
    },
    /// The kernel refused the link.
    #[error("cannot attach {program} to device {ifindex}")]
    Attach {
        /// Name of the program.
        program: &'static str,
        /// Index of the device.
        ifindex: u32,
        /// Why.
        source: Cause,
    },
    /// The program of a live link could not be exchanged; the old one goes on.
    #[error("cannot exchange the program of {path}")]
    Exchange {
        /// The pin of the link.
        path: PathBuf,
        /// Why.
        source: Cause,
    },
    /// The link could not be pinned, and was taken off again.
    #[error("cannot pin {path}")]
    Pin {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not say what a link is.
    #[error("cannot read link {path}")]
    Read {
        /// The pin of the link.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The pins cannot be used.
    #[error(transparent)]
    Pins(#[from] PinError),
}

/// Which packets of a device a program sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Those that the device receives.
    Ingress,
    /// Those that it sends.
    Egress,
}

/// What an `attach_*` call did to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Attached {
    /// This program was there already.
    Kept,
    /// Another program was there, and was exchanged between two packets.
    Exchanged,
    /// There was none.
    New,
}

/// What a program runs under on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A pinned tcx link.
    Link,
    /// A filter of a clsact qdisc.
    Filter,
}

/// Priority of our filters. The devices are ours, so that nobody else has a filter of this priority on them.
const FILTER_PRIORITY: u16 = 1;
/// Handle of our filters.
const FILTER_HANDLE: TcHandle = TcHandle::new(0, 1);

/// A program on a device, as the kernel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the program.
    pub program: &'static str,
    /// The device; `None` when it is gone.
    pub ifindex: Option<u32>,
    /// Which packets.
    pub direction: Direction,
    /// Number of the link in the kernel.
    pub link_id: u32,
    /// Number of the program in the kernel.
    pub program_id: u32,
    /// The program is the one that this process attaches, not another one of a predecessor.
    pub current: bool,
}

/// The loaded programs and their links.
pub(crate) struct Programs {
    pins: Pins,
    classifiers: Mutex<Classifiers>,
}

impl Programs {
    pub(crate) fn new(pins: Pins, classifiers: Classifiers) -> Self {
        Self {
            pins,
            classifiers: Mutex::new(classifiers),
        }
    }

    pub(crate) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Runs `work` with a loaded program; `None` when there is none with this name.
    pub(crate) fn with<T>(&self, name: &str, work: impl FnOnce(&mut SchedClassifier) -> T) -> Option<T> {
        let mut classifiers = self.classifiers.lock().unwrap_or_else(PoisonError::into_inner);
        classifiers.get_mut(name).map(work)
    }

    pub(crate) fn attach(
        &self,
        program: &'static str,
        ifindex: u32,
        direction: Direction,
    ) -> Result<Attached, AttachError> {
        let path = self.pins.link(program, ifindex);
        let failed = |error: ProgramError| AttachError::Attach {
            program,
            ifindex,
            source: error.into(),
        };
        let attached = self.with(program, |classifier| {
            let id = classifier.info().map_err(failed)?.id();
            match pinned_link(&path)? {
                Some((_, link)) if link.ifindex == ifindex && link.attach_type == attach_type(direction) => {
                    if link.program == id {
                        return Ok(Attached::Kept);
                    }
                    exchange(classifier, &path)?;
                    return Ok(Attached::Exchanged);
                }
                // The device of this number is gone, or it was moved away and came back: the link is no use.
                Some(_) => remove_file(&path)?,
                None => {}
            }
            let name = device_name(ifindex)?;
            let options = TcAttachOptions::TcxOrder(LinkOrder::default());
            let link = classifier
                .attach_with_options(&name, tc_type(direction), options)
                .map_err(failed)?;
            let link = classifier.take_link(link).map_err(failed)?;
            // The name may have gone to another device since it was looked up.
            if if_nametoindex(name.as_str()).ok() != Some(ifindex) {
                return Err(AttachError::NoDevice { ifindex });
            }
            let pin_error = |source| AttachError::Pin {
                path: path.clone(),
                source,
            };
            let link = FdLink::try_from(link).map_err(|error| pin_error(io::Error::other(error)))?;
            link.pin(&path)
                .map_err(|error| pin_error(io::Error::other(error)))?;
            Ok(Attached::New)
        });
        attached.unwrap_or_else(|| Err(failed(ProgramError::NotLoaded)))
    }

    /// Has a program run on a device from now on, without waiting for the kernel: a link that is there is kept, its
    /// program exchanged; else the program becomes a filter of a clsact qdisc, in place of one that a predecessor left.
    pub(crate) fn attach_at_once(
        &self,
        program: &'static str,
        ifindex: u32,
        direction: Direction,
    ) -> Result<Holder, AttachError> {
        if self.has_link(program, ifindex, direction)? {
            self.attach(program, ifindex, direction)?;
            // A predecessor may have been killed between making the link and this.
            self.unfilter(program, ifindex, direction)?;
            return Ok(Holder::Link);
        }
        self.filter(program, ifindex, direction)?;
        Ok(Holder::Filter)
    }

    /// Whether a program has a live link on this very device.
    fn has_link(
        &self,
        program: &'static str,
        ifindex: u32,
        direction: Direction,
    ) -> Result<bool, AttachError> {
        let link = pinned_link(&self.pins.link(program, ifindex))?;
        Ok(link
            .is_some_and(|(_, link)| link.ifindex == ifindex && link.attach_type == attach_type(direction)))
    }

    /// Puts a program on a device as a filter of a clsact qdisc, which the kernel does without waiting, unlike for a
    /// link. The filter belongs to the device, and what a link decides goes before it. There is never more than one:
    /// it always has the same priority and handle, and the kernel exchanges its program between two packets.
    fn filter(&self, program: &'static str, ifindex: u32, direction: Direction) -> Result<(), AttachError> {
        let name = device_name(ifindex)?;
        // It may be there: of a first try, or of the other direction. Without it the filter is refused.
        let _ = qdisc_add_clsact(&name);
        let attached = self.with(program, |classifier| {
            let options = NlOptions {
                priority: FILTER_PRIORITY,
                handle: FILTER_HANDLE,
                classid: None,
            };
            let options = TcAttachOptions::Netlink(options);
            let made = classifier.attach_with_options(&name, tc_type(direction), options);
            let link = match made {
                Ok(link) => link,
                // There is one, then; if not, this fails as well and says why.
                Err(_) => {
                    let there = SchedClassifierLink::attached(
                        &name,
                        tc_type(direction),
                        FILTER_PRIORITY,
                        FILTER_HANDLE,
                        None,
                    );
                    classifier.attach_to_link(there.map_err(TcError::IoError)?)?
                }
            };
            // Dropping it would take the filter off, and pods outlive this process. It owns nothing else.
            std::mem::forget(classifier.take_link(link)?);
            Ok(())
        });
        attached
            .unwrap_or(Err(ProgramError::NotLoaded))
            .map_err(|error| AttachError::Attach {
                program,
                ifindex,
                source: error.into(),
            })?;
        // The name may have gone to another device since it was looked up.
        if if_nametoindex(name.as_str()).ok() != Some(ifindex) {
            return Err(AttachError::NoDevice { ifindex });
        }
        Ok(())
    }

    /// Takes the filters of a program off a device; there need not be any.
    pub(crate) fn unfilter(
        &self,
        program: &'static str,
        ifindex: u32,
        direction: Direction,
    ) -> Result<(), AttachError> {
        match qdisc_detach_program(&device_name(ifindex)?, tc_type(direction), program) {
            Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(AttachError::Attach {
                program,
                ifindex,
                source: ProgramError::from(error).into(),
            }),
            Ok(()) => Ok(()),
        }
    }

    /// Takes our programs off a device. Returns how many were on it.
    pub(crate) fn detach(&self, ifindex: u32) -> Result<usize, AttachError> {
        let mut detached = 0;
        for pin in self
            .pins
            .links()?
            .into_iter()
            .filter(|pin| pin.ifindex == ifindex)
        {
            if matches!(pinned_link(&pin.path), Ok(Some(_))) {
                remove_file(&pin.path)?;
                detached += 1;
            }
        }
        Ok(detached)
    }

    /// Removes the pins of links whose device is gone. Returns how many there were.
    pub(crate) fn prune(&self) -> Result<usize, AttachError> {
        let mut pruned = 0;
        for pin in self.pins.links()? {
            if let Ok(Some((_, link))) = pinned_link(&pin.path)
                && link.ifindex == 0
            {
                remove_file(&pin.path)?;
                pruned += 1;
            }
        }
        Ok(pruned)
    }

    pub(crate) fn attachments(&self) -> Result<Vec<Attachment>, AttachError> {
        let mut attachments = Vec::new();
        for pin in self.pins.links()? {
            // Removed meanwhile, or not a link: not attached.
            let Ok(Some((_, link))) = pinned_link(&pin.path) else {
                continue;
            };
            let own = self
                .with(pin.program, |program| program.info().ok().map(|info| info.id()))
                .flatten();
            attachments.push(Attachment {
                program: pin.program,
                ifindex: (link.ifindex != 0).then_some(link.ifindex),
                direction: if link.attach_type == sys::TCX_INGRESS {
                    Direction::Ingress
                } else {
                    Direction::Egress
                },
                link_id: link.id,
                program_id: link.program,
                current: own == Some(link.program),
            });
        }
        Ok(attachments)
    }
}

/// The tcx link that is pinned there; `None` when there is nothing.
fn pinned_link(path: &Path) -> Result<Option<(OwnedFd, TcxLink)>, AttachError> {
    let fd = match sys::obj_get(path) {
        Ok(fd) => fd,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(_) => {
            return Err(AttachError::ForeignPin {
                path: path.to_owned(),
                ifindex: pin_ifindex(path),
            });
        }
    };
    match sys::tcx_link(fd.as_fd()) {
        Ok(Some(link)) => Ok(Some((fd, link))),
        Ok(None) => Err(AttachError::ForeignPin {
            path: path.to_owned(),
            ifindex: pin_ifindex(path),
        }),
        Err(source) => Err(AttachError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Puts the program in the place of the one that a pinned link runs. The pin holds the link, whatever happens here.
fn exchange(classifier: &mut SchedClassifier, path: &Path) -> Result<(), AttachError> {
    let exchange_error = |source: Cause| AttachError::Exchange {
        path: path.to_owned(),
        source,
    };
    let link_error = |error: LinkError| exchange_error(error.into());
    let link = FdLink::from(PinnedLink::from_pin(path).map_err(link_error)?);
    let link = SchedClassifierLink::try_from(link).map_err(link_error)?;
    let id = classifier
        .attach_to_link(link)
        .map_err(|error| exchange_error(error.into()))?;
    // Taken out and dropped, so that it closes its descriptor now and not when the program is unloaded.
    classifier
        .take_link(id)
        .map(drop)
        .map_err(|error| exchange_error(error.into()))
}

fn device_name(ifindex: u32) -> Result<String, AttachError> {
    let name = if_indextoname(ifindex)
        .ok()
        .and_then(|name| name.into_string().ok());
    // nix 0.31 takes the null pointer of a failure for success, and the name is empty then.
    name.filter(|name| !name.is_empty())
        .ok_or(AttachError::NoDevice { ifindex })
}

fn pin_ifindex(path: &Path) -> u32 {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    name.rsplit_once('-')
        .and_then(|(_, index)| index.parse().ok())
        .unwrap_or_default()
}

fn tc_type(direction: Direction) -> TcAttachType {
    match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    }
}

fn attach_type(direction: Direction) -> u32 {
    match direction {
        Direction::Ingress => sys::TCX_INGRESS,
        Direction::Egress => sys::TCX_EGRESS,
    }
}
