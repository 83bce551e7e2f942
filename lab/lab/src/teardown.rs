//! Taking a cluster away, whatever state it is in. Every step works on what is found, not on what should be there, so
//! it is the same after `up`, after a crash half way, and when there is nothing.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;

use crate::cgroup::Cgroups;
use crate::kubeconfig;
use crate::mounts;
use crate::netns_links;
use crate::state::{Paths, Process};
use crate::wait::poll_until;

/// How long the supervisor may take to end by itself before it is killed.
pub(crate) const GRACE: Duration = Duration::from_secs(8);
/// How long killed processes may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Removes everything that belongs to the cluster. The caller holds its lock.
///
/// # Errors
/// Something is left; the message names it. All steps are tried, and the first failure is reported.
pub(crate) fn remove_cluster(paths: &Paths) -> anyhow::Result<()> {
    let mut first_failure = None;
    let mut attempt = |result: anyhow::Result<()>| {
        if let Err(error) = result {
            first_failure.get_or_insert(error);
        }
    };
    attempt(remove_context(paths));
    attempt(stop_processes(paths));
    for guest in guests(paths) {
        eprintln!("Note: {guest} is inside the cluster's network and keeps a part of it until it ends.");
    }
    attempt(unmount(paths));
    attempt(netns_links::remove(paths));
    attempt(remove_directory(paths));
    first_failure.map_or(Ok(()), Err)
}

/// Whether anything of the cluster is to be seen.
pub(crate) fn has_leftovers(paths: &Paths) -> bool {
    paths.root().exists()
        || Cgroups::of(paths.cluster()).is_ok_and(|cgroups| cgroups.root().exists())
        || netns_links::list(paths).is_ok_and(|links| !links.is_empty())
}

fn remove_context(paths: &Paths) -> anyhow::Result<()> {
    let Some(spec) = paths.read_spec().unwrap_or_default() else {
        return Ok(());
    };
    let context = kubeconfig::context(&spec.cluster);
    if !kubeconfig::is_ours(&spec.user_kubeconfig, &paths.kubeconfig(), &context) {
        return Ok(());
    }
    lab_apiserver::kubeconfig::remove(&spec.user_kubeconfig, &context).with_context(|| {
        format!(
            "cannot remove the context from {}",
            spec.user_kubeconfig.display()
        )
    })
}

fn stop_processes(paths: &Paths) -> anyhow::Result<()> {
    let processes: Vec<Process> = paths
        .recorded_processes()
        .into_iter()
        .map(|(_, process)| process)
        .collect();
    if let Some(supervisor) = paths.live_supervisor() {
        supervisor.signal(Signal::SIGTERM);
        poll_until(GRACE, || Ok::<_, anyhow::Error>(!supervisor.is_alive()))?;
    }
    let killed = match Cgroups::of(paths.cluster()) {
        Ok(cgroups) => cgroups.destroy(KILL_PATIENCE),
        Err(error) => Err(error),
    };
    // Those that never came as far as a control group.
    for process in &processes {
        process.signal(Signal::SIGKILL);
    }
    poll_until(KILL_PATIENCE, || {
        Ok::<_, anyhow::Error>(!processes.iter().any(|process| process.is_alive()))
    })?;
    killed
}

/// Processes in the cluster's network that the cluster did not start, such as a `tcpdump` under `ip netns exec`. They are
/// their owners' to end.
fn guests(paths: &Paths) -> Vec<String> {
    let inode = |path: &Path| fs::metadata(path).ok().map(|meta| meta.ino());
    let hosts = fs::read_dir(paths.root().join("ns")).into_iter().flatten();
    let ours: HashSet<u64> = hosts
        .filter_map(|host| inode(&host.ok()?.path().join("net")))
        .collect();
    if ours.is_empty() {
        return Vec::new();
    }
    let processes = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|process| Some(process.ok()?.path()));
    processes
        .filter(|process| inode(&process.join("ns/net")).is_some_and(|inode| ours.contains(&inode)))
        .map(|process| {
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            let pid = process.file_name().unwrap_or_default().to_string_lossy();
            format!("process {pid} ({})", name.trim_end())
        })
        .collect()
}

fn unmount(paths: &Paths) -> anyhow::Result<()> {
    mounts::mounted_below(paths.root())?
        .iter()
        .try_for_each(|point| mounts::detach(point))
}

fn remove_directory(paths: &Paths) -> anyhow::Result<()> {
    let root = paths.root();
    // Never delete through a mount: what is behind it may not be ours.
    if let Some(point) = mounts::mounted_below(root)?.first() {
        bail!("{} is still mounted", point.display());
    }
    match fs::remove_dir_all(root) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", root.display())),
    }
}
