//! Network namespaces of pod sandboxes: made as the container runtime makes them, bound to a file under /run/netns.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// Where they are bound, by `ip netns` and everybody else.
pub(crate) const DIR: &str = "/run/netns";

/// Why a namespace could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetnsError {
    #[error("cannot prepare {0}")]
    Prepare(PathBuf, #[source] io::Error),
    #[error("cannot make a network namespace")]
    Make(#[from] nix::Error),
    #[error("cannot bring up the loopback device: {0}")]
    Loopback(String),
    #[error("the thread for the namespace failed")]
    Thread,
}

/// Makes a namespace with its loopback up, bound to `DIR/<name>`. Blocks: for threads.
pub(crate) fn make(name: &str) -> Result<PathBuf, NetnsError> {
    let path = Path::new(DIR).join(name);
    let prepared = fs::create_dir_all(DIR)
        .and_then(|()| File::create(&path))
        .map(drop);
    prepared.map_err(|error| NetnsError::Prepare(path.clone(), error))?;
    let target = path.clone();
    // A thread of its own, because a thread cannot be trusted again after it has left its namespace.
    let made = std::thread::spawn(move || in_new_namespace(&target))
        .join()
        .map_err(|_| NetnsError::Thread);
    if let Err(error) = made.and_then(|result| result) {
        let _ = remove(&path);
        return Err(error);
    }
    Ok(path)
}

fn in_new_namespace(target: &Path) -> Result<(), NetnsError> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    // What containerd sets in sandboxes: ping and low ports without privileges. Missing on kernels without IPv4.
    for (key, value) in [
        ("ping_group_range", "0 2147483647"),
        ("ip_unprivileged_port_start", "0"),
    ] {
        let _ = fs::write(format!("/proc/sys/net/ipv4/{key}"), value);
    }
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).output();
    let up = up.map_err(|error| NetnsError::Loopback(error.to_string()))?;
    if !up.status.success() {
        return Err(NetnsError::Loopback(
            String::from_utf8_lossy(&up.stderr).trim().to_owned(),
        ));
    }
    mount(
        Some("/proc/thread-self/ns/net"),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )?;
    Ok(())
}

/// Unbinds a namespace; absence is success. Blocks: for threads.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    crate::rootfs::unmount_path(path)?;
    crate::files::remove(path)
}
