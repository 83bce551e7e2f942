//! Network settings under `/proc/sys/net`. They belong to the network namespace of the thread that opens the file.

use std::io;
use std::path::PathBuf;

use crate::{Netns, NetnsError};

/// A setting could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The name is not a relative path of plain components.
    #[error("bad sysctl name {0:?}")]
    Name(String),
    /// The file could not be read.
    #[error("cannot read sysctl {name}")]
    Read {
        /// The setting, such as `net/ipv6/conf/all/forwarding`.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The file could not be written.
    #[error("cannot set sysctl {name} to {value}")]
    Write {
        /// The setting.
        name: String,
        /// What should have been written.
        value: String,
        /// Why.
        source: io::Error,
    },
}

/// The tree of settings, usually `/proc/sys`.
#[derive(Clone, Debug)]
pub struct Sysctls {
    root: PathBuf,
}

impl Default for Sysctls {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/proc/sys"),
        }
    }
}

impl Sysctls {
    /// Settings below another directory, for example `/host/proc/sys` where `/proc/sys` is read-only.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Reads a setting in the namespace of the calling thread, for example `net/ipv6/conf/all/forwarding`
    /// (slashes, since device names may hold dots).
    ///
    /// # Errors
    /// [`SysctlError`].
    pub fn get(&self, name: &str) -> Result<String, SysctlError> {
        let value = std::fs::read_to_string(self.path(name)?).map_err(|source| SysctlError::Read {
            name: name.to_owned(),
            source,
        })?;
        Ok(value.trim_end().to_owned())
    }

    /// Writes a setting in the namespace of the calling thread, unless it has the value already: a read is cheaper,
    /// and some settings act on every write.
    ///
    /// # Errors
    /// [`SysctlError`].
    pub fn set(&self, name: &str, value: &str) -> Result<(), SysctlError> {
        if self.get(name)? == value {
            return Ok(());
        }
        std::fs::write(self.path(name)?, value).map_err(|source| SysctlError::Write {
            name: name.to_owned(),
            value: value.to_owned(),
            source,
        })
    }

    /// Writes several settings inside a namespace, in order, up to the first that is refused.
    ///
    /// # Errors
    /// [`SysctlError`].
    pub async fn set_in(&self, netns: &Netns, settings: Vec<(String, String)>) -> Result<(), SysctlError> {
        let sysctls = self.clone();
        netns
            .run(move || {
                settings
                    .iter()
                    .try_for_each(|(name, value)| sysctls.set(name, value))
            })
            .await?
    }

    fn path(&self, name: &str) -> Result<PathBuf, SysctlError> {
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        if name.split('/').all(plain) {
            Ok(self.root.join(name))
        } else {
            Err(SysctlError::Name(name.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_tree() {
        let sysctls = Sysctls::default();
        for name in ["", "/etc/passwd", "net/../../etc/passwd", "net//ipv6", "./net"] {
            assert!(matches!(sysctls.get(name), Err(SysctlError::Name(_))), "{name}");
        }
        assert_eq!(
            sysctls.path("net/ipv6/conf/eth0.5/mtu").unwrap(),
            PathBuf::from("/proc/sys/net/ipv6/conf/eth0.5/mtu")
        );
    }

    #[test]
    fn a_setting_that_is_not_there_is_named() {
        let error = Sysctls::default()
            .get("net/ipv6/conf/no-such-device/mtu")
            .unwrap_err();
        assert!(error.to_string().contains("no-such-device"), "{error}");
    }
}
