//! What the lab remembers about a cluster, in files below `/run/seta-lab/<cluster>/`.
//!
//! The directory is a tmpfs of its own, so one unmount forgets all of it. `spec.json` says what was asked for and is
//! written first; `status.json` says how far the supervisor came; `processes/*.json` names every process with its
//! start time, so that nobody ever signals a stranger that got a recycled process id.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::wait::poll_until;

/// Where the state of all clusters lives.
const BASE: &str = "/run/seta-lab";

/// Version of the files; `up` treats a cluster with another one as a leftover.
pub(crate) const SPEC_VERSION: u32 = 1;

/// How long to wait for another command on the same cluster.
const LOCK_PATIENCE: Duration = Duration::from_secs(120);

/// Bound of everything a cluster writes, logs and pods' own files included.
pub(crate) const TMPFS_SIZE: &str = "size=50%";

/// The files of one cluster.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    cluster: String,
    root: PathBuf,
}

impl Paths {
    /// The files of the cluster called `cluster`, whether it exists or not.
    pub(crate) fn of(cluster: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            root: Path::new(BASE).join(cluster),
        }
    }

    /// The cluster's name.
    pub(crate) fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The directory (a mount point while the cluster exists).
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What was asked for.
    pub(crate) fn spec(&self) -> PathBuf {
        self.root.join("spec.json")
    }

    /// How far the supervisor came.
    pub(crate) fn status(&self) -> PathBuf {
        self.root.join("status.json")
    }

    /// The user's own images, if there are any.
    pub(crate) fn image_catalogue(&self) -> PathBuf {
        self.root.join("images.yaml")
    }

    /// The supervisor's log.
    pub(crate) fn supervisor_log(&self) -> PathBuf {
        self.root.join("supervisor.log")
    }

    /// The credentials of the cluster's administrator.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// The records of running processes.
    pub(crate) fn processes(&self) -> PathBuf {
        self.root.join("processes")
    }

    /// Everything of one node.
    pub(crate) fn node(&self, node: &str) -> PathBuf {
        self.root.join("nodes").join(node)
    }

    /// The log of one node's kubelet.
    pub(crate) fn kubelet_log(&self, node: &str) -> PathBuf {
        self.node(node).join("kubelet.log")
    }

    /// The socket on which one node's kubelet serves exec and logs to the API server.
    pub(crate) fn kubelet_socket(&self, node: &str) -> PathBuf {
        self.node(node).join("kubelet.sock")
    }

    /// The pinned namespaces of `host`, a node or one of the hosts beside them.
    pub(crate) fn namespaces(&self, host: &str) -> PathBuf {
        self.root.join("ns").join(host)
    }

    /// The name by which `ip netns` knows the network namespace of `host`.
    pub(crate) fn netns_name(&self, host: &str) -> String {
        format!("seta-{}-{host}", self.cluster)
    }

    /// Takes the lock that lets one `up` or `down` of this cluster run at a time, waiting for it. `check` is asked
    /// meanwhile whether to go on waiting.
    ///
    /// # Errors
    /// The lock file cannot be made, somebody else has the lock for long, or `check` says no.
    pub(crate) fn lock(&self, check: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<Lock> {
        let mut lock = None;
        poll_until(LOCK_PATIENCE, || {
            check()?;
            lock = self.try_lock()?;
            anyhow::Ok(lock.is_some())
        })?;
        lock.with_context(|| {
            format!(
                "another `seta lab` command works on cluster {:?} and does not end",
                self.cluster
            )
        })
    }

    fn try_lock(&self) -> anyhow::Result<Option<Lock>> {
        let path = Path::new(BASE).join(format!("{}.lock", self.cluster));
        fs::create_dir_all(BASE).with_context(|| format!("cannot create {BASE}"))?;
        let file = match File::create(&path) {
            Ok(file) => file,
            // Somebody's `down` removed the directory in between.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot create {}", path.display())),
        };
        let held = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => held,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(errno).with_context(|| format!("cannot lock {}", path.display())),
        };
        // The previous holder removes the file, so what was locked may be a file that nobody else can see.
        Ok(same_file(&held, &path)?.then_some(Lock { path, _held: held }))
    }

    /// What was asked for, if the cluster exists in any state.
    ///
    /// # Errors
    /// The file cannot be read or understood.
    pub(crate) fn read_spec(&self) -> anyhow::Result<Option<Spec>> {
        read_json(&self.spec())
    }

    /// How far the supervisor came, if it wrote anything yet.
    ///
    /// # Errors
    /// The file cannot be read or understood.
    pub(crate) fn read_status(&self) -> anyhow::Result<Option<Status>> {
        read_json(&self.status())
    }

    /// The spec of a cluster that must exist.
    ///
    /// # Errors
    /// There is no such cluster, or its spec cannot be read.
    pub(crate) fn require_spec(&self) -> anyhow::Result<Spec> {
        match self.read_spec()? {
            Some(spec) => Ok(spec),
            None => bail!("there is no cluster {:?}; `seta lab up` makes one", self.cluster),
        }
    }

    /// Writes down a process of the cluster under `name`.
    ///
    /// # Errors
    /// The process is gone, or the file cannot be written.
    pub(crate) fn record_process(&self, name: &str, pid: u32) -> anyhow::Result<Process> {
        let process = Process::of(pid).with_context(|| format!("{name} (pid {pid}) ended at once"))?;
        fs::create_dir_all(self.processes())?;
        write_json(&self.processes().join(format!("{name}.json")), &process)?;
        Ok(process)
    }

    /// All recorded processes with their names; a record that cannot be read is skipped, since nothing can be done with it.
    pub(crate) fn recorded_processes(&self) -> Vec<(String, Process)> {
        let Ok(entries) = fs::read_dir(self.processes()) else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let name = path.file_stem()?.to_str()?.to_owned();
                Some((name, read_json(&path).ok()??))
            })
            .collect()
    }

    /// The supervisor, if it is recorded and alive.
    pub(crate) fn live_supervisor(&self) -> Option<Process> {
        self.recorded_processes()
            .into_iter()
            .find(|(name, process)| name == "supervisor" && process.is_alive())
            .map(|(_, process)| process)
    }
}

/// Held while `up` or `down` works on a cluster.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    _held: Flock<File>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Best effort: a lock file that stays is harmless, and a directory with other clusters in it must stay.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_dir(BASE);
    }
}

fn same_file(open: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let held = open.metadata()?;
    match fs::metadata(path) {
        Ok(seen) => Ok(held.ino() == seen.ino() && held.dev() == seen.dev()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    /// [`SPEC_VERSION`]
    pub(crate) version: u32,
    /// The cluster's name
    pub(crate) cluster: String,
    /// The nodes, the control plane first
    pub(crate) nodes: Vec<NodeSpec>,
    /// The kubeconfig file that got the context
    pub(crate) user_kubeconfig: PathBuf,
}

impl Spec {
    /// The node called `name`.
    pub(crate) fn node(&self, name: &str) -> Option<&NodeSpec> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The node on which the control plane is said to run.
    ///
    /// # Errors
    /// The spec has no nodes.
    pub(crate) fn control_plane(&self) -> anyhow::Result<&NodeSpec> {
        self.nodes.first().context("the cluster has no nodes")
    }
}

/// One node as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeSpec {
    /// Its name, also its host name
    pub(crate) name: String,
    /// Its address on the node network
    pub(crate) address: Ipv6Addr,
}

/// How far the supervisor came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    /// What the supervisor does
    pub(crate) phase: Phase,
    /// Why it failed
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// The API server's address on this machine
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<String>,
    /// Milliseconds from the start of the supervisor until it was ready
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ready_after_ms: Option<u64>,
    /// The kubelets
    #[serde(default)]
    pub(crate) kubelets: Vec<KubeletStatus>,
}

/// What the supervisor does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// Building the cluster
    #[default]
    Starting,
    /// The API server answers and every kubelet has been started
    Running,
    /// Taking the cluster's processes down
    Stopping,
    /// It gave up
    Failed,
}

/// One node's kubelet as the supervisor sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KubeletStatus {
    /// The node
    pub(crate) node: String,
    /// The process, while it runs
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<u32>,
    /// How often it was started again
    pub(crate) restarts: u32,
    /// Whether the node is Ready
    #[serde(default)]
    pub(crate) ready: bool,
}

/// A process that cannot be mistaken for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Process {
    /// Process id
    pub(crate) pid: u32,
    /// Clock ticks from boot to its start: field 22 of `/proc/<pid>/stat`, see proc_pid_stat(5)
    pub(crate) start_time: u64,
}

impl Process {
    /// The process that has this id now.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, start_time) = parse_stat(&stat).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "cannot understand /proc/<pid>/stat")
        })?;
        Ok(Self { pid, start_time })
    }

    /// Whether it still runs. A zombie does not.
    pub(crate) fn is_alive(self) -> bool {
        let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", self.pid)) else {
            return false;
        };
        matches!(parse_stat(&stat), Some((state, start)) if start == self.start_time && state != 'Z')
    }

    /// Sends a signal, unless the process is gone.
    pub(crate) fn signal(self, signal: Signal) {
        if self.is_alive()
            && let Ok(pid) = i32::try_from(self.pid)
        {
            // It may end between the look and the signal; then there is nothing to do.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

/// State and start time out of `/proc/<pid>/stat`. The command name, which may hold anything, is skipped from the right.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // Field 22 counted from 1; state is field 3.
    let start_time = fields.nth(18)?.parse().ok()?;
    Some((state, start_time))
}

/// Reads a JSON file; `None` if there is none.
///
/// # Errors
/// It cannot be read or is not what it should be.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .with_context(|| format!("{} is damaged", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes a JSON file such that a reader sees the old or the new one, never half of it.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
    let temporary = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        serde_json::to_writer_pretty(&mut file, value)?;
        file.write_all(b"\n")?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let tail = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 0";
        for (line, expected) in [
            (format!("12 (sh) S {tail}"), Some(('S', 4711))),
            (format!("12 (a) b (c) Z {tail}"), Some(('Z', 4711))),
            ("12 (sh) S 1 2".to_owned(), None),
            ("".to_owned(), None),
            ("12 sh S".to_owned(), None),
        ] {
            assert_eq!(parse_stat(&line), expected, "{line}");
        }
    }

    #[test]
    fn a_recycled_pid_is_somebody_else() {
        let me = Process::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        let stranger = Process {
            start_time: me.start_time + 1,
            ..me
        };
        assert!(!stranger.is_alive());
        stranger.signal(Signal::SIGKILL);
    }

    #[test]
    fn files_survive_a_round_trip_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.json");
        assert_eq!(read_json::<Status>(&path).unwrap(), None);
        let status = Status {
            phase: Phase::Failed,
            error: Some("x".into()),
            ..Status::default()
        };
        write_json(&path, &status).unwrap();
        assert_eq!(read_json(&path).unwrap(), Some(status));
        fs::write(&path, "{").unwrap();
        assert!(
            read_json::<Status>(&path)
                .unwrap_err()
                .to_string()
                .contains("damaged")
        );
    }
}
