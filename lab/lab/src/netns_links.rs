//! The names in `/run/netns` by which `ip netns` knows the hosts of a cluster.
//!
//! They are links and no mounts: `ip netns add` bind-mounts the directory over itself, mounts in it included, and would
//! so keep our namespaces for ever.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::state::Paths;

/// Where `ip netns` looks.
const DIRECTORY: &str = "/run/netns";
/// How often the directory is made, should somebody else's `down` remove it each time.
const ATTEMPTS: u32 = 16;

/// Gives the network namespace of a host its name.
///
/// # Errors
/// The link cannot be made.
pub(crate) fn add(paths: &Paths, host: &str) -> anyhow::Result<()> {
    let link = Path::new(DIRECTORY).join(paths.netns_name(host));
    let target = paths.namespaces(host).join("net");
    for _ in 0..ATTEMPTS {
        fs::create_dir_all(DIRECTORY).with_context(|| format!("cannot create {DIRECTORY}"))?;
        match symlink(&target, &link) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            made => return made.with_context(|| format!("cannot create {}", link.display())),
        }
    }
    bail!("{DIRECTORY} is removed again and again");
}

/// The links that lead into the cluster's directory.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn list(paths: &Paths) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {DIRECTORY}")),
    };
    let links = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(links
        .filter(|link| fs::read_link(link).is_ok_and(|target| target.starts_with(paths.root())))
        .collect())
}

/// Removes the links of the cluster, and no others.
///
/// # Errors
/// A link cannot be removed.
pub(crate) fn remove(paths: &Paths) -> anyhow::Result<()> {
    for link in list(paths)? {
        fs::remove_file(&link).with_context(|| format!("cannot remove {}", link.display()))?;
    }
    // Only if it is empty and no mount point, which is what the kernel checks.
    let _ = fs::remove_dir(DIRECTORY);
    Ok(())
}
