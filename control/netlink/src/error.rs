//! What can go wrong when the kernel is asked over netlink.

use std::io;
use std::time::Duration;

use crate::NetnsError;

/// A netlink request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be opened.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The kernel refused.
    #[error("cannot {operation} {subject}")]
    Refused {
        /// What was asked, as a verb and an object: "add route".
        operation: &'static str,
        /// The thing it was asked for.
        subject: String,
        /// The errno of the answer.
        source: io::Error,
    },
    /// No answer came within the deadline.
    #[error("no answer to \"{operation} {subject}\" within {after:?}")]
    Deadline {
        /// What was asked.
        operation: &'static str,
        /// The thing it was asked for.
        subject: String,
        /// The deadline.
        after: Duration,
    },
    /// What was to be listed kept changing.
    #[error("cannot {operation}: they change all the time")]
    Unstable {
        /// What was asked.
        operation: &'static str,
    },
    /// The connection to the kernel has ended.
    #[error("the netlink connection is closed")]
    Closed,
    /// The thing that was asked for does not exist.
    #[error("there is no {kind} {name}")]
    NotFound {
        /// "link", "address" …
        kind: &'static str,
        /// Which one.
        name: String,
    },
}

impl NetlinkError {
    /// The errno of a refused request.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// The thing was there already.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(nix::libc::EEXIST)
    }

    /// The thing, or the device it hangs on, is not there (any more).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
            || matches!(
                self.errno(),
                Some(nix::libc::ENODEV | nix::libc::ENOENT | nix::libc::ESRCH | nix::libc::EADDRNOTAVAIL)
            )
    }
}
