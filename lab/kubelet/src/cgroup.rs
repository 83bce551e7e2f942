//! The pods' part of the node's cgroup v2 hierarchy: `kubepods/pod<uid>/<container>`. Limits are not set; the tree is for those
//! who look at it, and to kill all that is in it. Blocking: for threads.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where the node's hierarchy is mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// Makes a container's cgroup; `None` where there is no cgroup v2 hierarchy.
pub(crate) fn make(pod_uid: &str, container: &str) -> io::Result<Option<PathBuf>> {
    if !Path::new(ROOT).join("cgroup.procs").exists() {
        return Ok(None);
    }
    let path = pod(pod_uid).join(container);
    fs::create_dir_all(&path)?;
    Ok(Some(path))
}

/// Kills all processes in a container's cgroup, also those outside its pid namespace.
pub(crate) fn kill(pod_uid: &str, container: &str) {
    // Absent before Linux 5.14: the runtime's own kill must do then.
    let _ = fs::write(pod(pod_uid).join(container).join("cgroup.kill"), "1");
}

/// Removes a container's cgroup, or all of a pod's. What still holds processes stays.
pub(crate) fn remove(pod_uid: &str, container: Option<&str>) {
    let pod = pod(pod_uid);
    match container {
        Some(container) => {
            let _ = fs::remove_dir(pod.join(container));
        }
        None => {
            for entry in fs::read_dir(&pod).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(entry.path());
            }
            let _ = fs::remove_dir(pod);
        }
    }
}

fn pod(uid: &str) -> PathBuf {
    Path::new(ROOT).join("kubepods").join(format!("pod{uid}"))
}
