//! Removing what a kubelet leaves on the machine. Blocking: for threads.

use std::{fs, io, path::Path};

use anyhow::bail;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{cgroup, context::Paths, crun, files, mounts, netns, pod::state::PodState, rootfs};

/// See [`crate::cleanup`].
pub(crate) fn everything(root_dir: &Path) -> anyhow::Result<()> {
    let paths = Paths::new(root_dir);
    let mut problems = Vec::new();
    match crun::list(&paths.runtime()) {
        Ok(containers) => {
            for container in containers {
                if let Err(error) = crun::delete(&paths.runtime(), &container.id) {
                    problems.push(format!("container {}: {error}", container.id));
                }
            }
        }
        Err(error) => problems.push(format!("crun: {error}")),
    }
    for dir in entries(&paths.containers()) {
        // The first process of a container whose crun state is lost, and with it its shim.
        if let Some(pid) = own_process(&dir) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
    for dir in entries(&paths.pods()) {
        let state = PodState::load(&dir);
        if let Some(netns) = state.sandbox.and_then(|sandbox| sandbox.netns)
            && netns.starts_with(netns::DIR)
            && let Err(error) = netns::remove(&netns)
        {
            problems.push(format!("{}: {error}", netns.display()));
        }
        if let Some(uid) = dir.file_name().and_then(|name| name.to_str()) {
            cgroup::remove(uid, None);
        }
    }
    for dir in [paths.containers(), paths.pods(), paths.logs(), paths.runtime()] {
        if let Err(error) = remove_tree(&dir) {
            problems.push(format!("{}: {error}", dir.display()));
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        bail!("left behind: {}", problems.join("; "))
    }
}

/// Removes the files of a pod that has no containers any more.
pub(crate) fn remove_pod(dir: &Path, logs: &Path, uid: &str) -> io::Result<()> {
    remove_tree(dir)?;
    files::remove(logs)?;
    cgroup::remove(uid, None);
    Ok(())
}

/// Removes a directory, after unmounting whatever is below it: removing through a mount would remove what is mounted.
fn remove_tree(dir: &Path) -> io::Result<()> {
    for point in mounts::below(dir).iter().rev() {
        rootfs::unmount_path(point)?;
    }
    files::remove(dir)
}

/// The container's first process, if it still is what it was: its cgroup or root cannot be asked, so its mount table is,
/// which names the container's directory.
fn own_process(dir: &Path) -> Option<Pid> {
    let pid: i32 = fs::read_to_string(dir.join("pid")).ok()?.trim().parse().ok()?;
    let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
    table
        .contains(&dir.join("upper").display().to_string())
        .then(|| Pid::from_raw(pid))
}

fn entries(dir: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

/// Removes containers that no pod's state knows: a kubelet was killed between making them and writing that down.
pub(crate) fn unknown_containers(paths: &Paths, states: &[PodState]) {
    let units = || states.iter().flat_map(|state| state.units.values());
    for dir in entries(&paths.containers()) {
        let Some(id) = dir.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let known = units().any(|unit| {
            let ended = [unit.ended(), unit.last.as_ref()].into_iter().flatten();
            unit.running() == Some(id) || ended.into_iter().any(|ended| ended.id == id)
        });
        if known {
            continue;
        }
        tracing::info!(id, "removing a container that no pod knows");
        if let Err(error) = crun::delete(&paths.runtime(), id) {
            tracing::warn!(%error, id, "cannot remove a container");
        } else if let Err(error) = remove_tree(&dir) {
            tracing::warn!(%error, id, "cannot remove a container's files");
        }
    }
}
