//! The control groups of a cluster: `seta-<cluster>/{supervisor, <node>/{kubelet, exec, …}}` in the unified hierarchy.
//!
//! Every process of the cluster is in there, containers included, so the lab can end all of them at once without
//! knowing one of them. Controllers are handed down only as far as the machine hands them to us: its own settings stay.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::mounts;
use crate::wait::poll_until;

/// The control groups of one cluster.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    root: PathBuf,
}

impl Cgroups {
    /// Those of the cluster called `cluster`, whether they exist or not.
    ///
    /// # Errors
    /// This machine has no unified hierarchy.
    pub(crate) fn of(cluster: &str) -> anyhow::Result<Self> {
        Ok(Self {
            root: mounts::cgroup2_mount()?.join(format!("seta-{cluster}")),
        })
    }

    /// The group that holds all of them.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The group of the supervisor.
    pub(crate) fn supervisor(&self) -> PathBuf {
        self.root.join("supervisor")
    }

    /// The group of a node, which the node sees as the root.
    pub(crate) fn node(&self, node: &str) -> PathBuf {
        self.root.join(node)
    }

    /// The group of a node's kubelet.
    pub(crate) fn kubelet(&self, node: &str) -> PathBuf {
        self.node(node).join("kubelet")
    }

    /// The group of what users start on a node with `seta lab exec`.
    pub(crate) fn exec(&self, node: &str) -> PathBuf {
        self.node(node).join("exec")
    }

    /// Ends every process in the groups and removes the groups. Nothing to do is no error.
    ///
    /// # Errors
    /// Processes are left after `patience`, or the groups cannot be removed.
    pub(crate) fn destroy(&self, patience: Duration) -> anyhow::Result<()> {
        if !self.root.exists() {
            return Ok(());
        }
        if !poll_until(patience, || {
            kill_all(&self.root).map(|()| !is_populated(&self.root))
        })? {
            bail!("processes in {} do not end", self.root.display());
        }
        remove_tree(&self.root).with_context(|| format!("cannot remove {}", self.root.display()))
    }
}

/// Makes a group, with its parents, and hands down the controllers that the parent has.
///
/// # Errors
/// The group cannot be made.
pub(crate) fn create(group: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(group).with_context(|| format!("cannot create the control group {}", group.display()))
}

/// Lets the children of `group` use every controller that `group` has. A group that does so must hold no process.
pub(crate) fn delegate_controllers(group: &Path) {
    let Ok(controllers) = fs::read_to_string(group.join("cgroup.controllers")) else {
        return;
    };
    for controller in controllers.split_ascii_whitespace() {
        // One by one and best effort: limits on pods are a nicety, and some controllers refuse for their own reasons.
        if let Err(error) = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}")) {
            tracing::debug!(controller, %error, "controller not delegated");
        }
    }
}

/// Moves a process into a group; `0` is the calling process.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn join(group: &Path, pid: u32) -> anyhow::Result<()> {
    fs::write(group.join("cgroup.procs"), pid.to_string())
        .with_context(|| format!("cannot move process {pid} into {}", group.display()))
}

/// SIGKILLs everything in a group and below, including what is being forked (kernel ≥ 5.14).
fn kill_all(group: &Path) -> anyhow::Result<()> {
    match fs::write(group.join("cgroup.kill"), "1") {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !group.exists() => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot kill the processes in {}", group.display())),
    }
}

/// Whether a live process is in the group or below.
fn is_populated(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.events"))
        .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
}

fn remove_tree(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}
