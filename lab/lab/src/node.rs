//! A node: a set of namespaces that looks like a machine of its own to whoever is inside.
//!
//! [`init`] makes them from inside, in a short-lived process; [`create`] runs that process and pins what it made below
//! `ns/<node>/`, so that the node exists without any process, and outlives its kubelet; [`enter`] goes inside.
//!
//! What is the node's own: network, host name, control group root, `/run`, `/sys` (with its own bpffs and cgroup2),
//! `/var/lib/kubelet`, `/etc/cni/net.d`, `/opt/cni/bin`. `/etc`, `/opt` and `/var` are overlays on the machine's, so that
//! pods which create directories by hostPath leave no trace on it. All else is the machine's.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::sethostname;

use crate::cgroup::{self, Cgroups};
use crate::mounts::{self, bind, mount_new, set_propagation};
use crate::netns_links;
use crate::state::{Paths, Spec};

/// The namespaces of a node by their names in `/proc/<pid>/ns`, in the order in which they are entered: the mount
/// namespace last, because the pins are files outside of it.
const NAMESPACES: [(&str, CloneFlags); 4] = [
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// Directories of the machine that a node sees through an overlay.
const OVERLAYS: [&str; 3] = ["etc", "opt", "var"];

/// What [`init`] says once the namespaces are complete, with the id of the thread that is in them.
const READY: &str = "ready ";

/// Makes a node's namespaces and pins them.
///
/// # Errors
/// The kernel refuses something; the message is that of the process inside.
pub(crate) fn create(paths: &Paths, cgroups: &Cgroups, node: &str) -> anyhow::Result<()> {
    cgroup::create(&cgroups.node(node))?;
    fs::create_dir_all(paths.node(node))?;
    let mut child = Command::new("/proc/self/exe")
        .args(["lab", "node-init", "--name", paths.cluster(), "--node", node])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start the process that makes the node's namespaces")?;
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut said)?;
    }
    let Some(thread) = said.trim_end().strip_prefix(READY) else {
        let mut complaint = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_string(&mut complaint)?;
        }
        child.wait()?;
        bail!("node {node}: {}", complaint.trim().trim_start_matches("Error: "));
    };
    let from = PathBuf::from(format!("/proc/{}/task/{thread}/ns", child.id()));
    let pinned = pin(paths, node, &from, &NAMESPACES.map(|(name, _)| name));
    // The end of its input is what the child waits for.
    drop(child.stdin.take());
    child.wait()?;
    pinned
}

/// Makes a host that is only a network namespace, such as the router.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn create_network_only(paths: &Paths, host: &str) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let made = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
            pin(paths, host, Path::new("/proc/thread-self/ns"), &["net"])
        });
        made.join()
            .unwrap_or_else(|_| bail!("the thread that makes {host} panicked"))
    })
}

/// Holds namespaces by bind mounts, and shows the network namespace to `ip netns`.
fn pin(paths: &Paths, host: &str, from: &Path, names: &[&str]) -> anyhow::Result<()> {
    let dir = paths.namespaces(host);
    fs::create_dir_all(&dir)?;
    for name in names {
        let pin = dir.join(name);
        File::create(&pin)?;
        bind(&from.join(name), &pin)?;
    }
    netns_links::add(paths, host)
}

/// Moves the calling thread into a host's namespaces: all of a node, the network of a router. There is no way back, and
/// the thread shares its working directory and root with no other thread any more.
///
/// # Errors
/// The host does not exist, or the kernel refuses.
pub(crate) fn enter(paths: &Paths, host: &str) -> anyhow::Result<()> {
    let dir = paths.namespaces(host);
    let mut pins = Vec::new();
    for (name, kind) in NAMESPACES {
        match File::open(dir.join(name)) {
            Ok(file) => pins.push((name, kind, file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open the {name} namespace of {host}"));
            }
        }
    }
    if pins.is_empty() {
        bail!("{host} has no namespaces; is the cluster up?");
    }
    unshare(CloneFlags::CLONE_FS).context("cannot get file system state of its own")?;
    for (name, kind, file) in &pins {
        setns(file.as_fd(), *kind).with_context(|| format!("cannot enter the {name} namespace of {host}"))?;
    }
    Ok(())
}

/// The body of the process that makes a node: becomes the node, says so, and waits until it has been pinned.
///
/// # Errors
/// The kernel refuses something.
pub(crate) fn init(cluster: &str, node: &str) -> anyhow::Result<()> {
    let paths = Paths::of(cluster);
    let spec = paths.require_spec()?;
    let group = Cgroups::of(cluster)?.node(node);

    // The group in which a process is when it makes a control group namespace becomes the root of that namespace.
    cgroup::join(&group, 0)?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWCGROUP,
    )
    .context("cannot make namespaces")?;
    sethostname(node).context("cannot set the host name")?;

    // Looked at while /run is the machine's: on many it is a link to a file there.
    let resolvers = fs::read("/etc/resolv.conf").unwrap_or_default();

    // What is unmounted on the machine goes away here too, and nothing that is mounted here is seen there.
    set_propagation(Path::new("/"), MsFlags::MS_REC | MsFlags::MS_SLAVE)?;
    mount_run(&paths, node)?;
    let state = paths.node(node);
    for name in OVERLAYS {
        overlay(&state, name)?;
    }
    own_directories(&state)?;
    mount_sys()?;
    write_names(&spec, node, &resolvers)?;

    // A group whose children use controllers must not hold processes itself.
    for leaf in ["kubelet", "exec"] {
        cgroup::create(&Path::new("/sys/fs/cgroup").join(leaf))?;
    }
    cgroup::join(Path::new("/sys/fs/cgroup/kubelet"), 0)?;
    cgroup::delegate_controllers(Path::new("/sys/fs/cgroup"));

    let mut stdout = io::stdout();
    writeln!(stdout, "{READY}{}", nix::unistd::gettid())?;
    stdout.flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// A `/run` of the node's own, in which only the node's part of the lab's state is to be seen.
fn mount_run(paths: &Paths, node: &str) -> anyhow::Result<()> {
    let state = paths.node(node);
    // Opened after the namespace was made, so that it is a mount of this namespace, and used after /run hides it.
    let before = File::open(&state)?;
    mount_new(
        "tmpfs",
        Path::new("/run"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        "mode=0755,size=10%",
    )?;
    // Pods ask for mounts under /run, such as network namespaces, to travel between the node and them.
    set_propagation(Path::new("/run"), MsFlags::MS_SHARED)?;
    fs::create_dir_all(&state)?;
    bind(
        Path::new(&format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&before)
        )),
        &state,
    )?;
    fs::create_dir_all("/run/lock")?;
    if fs::canonicalize("/var/run").ok().as_deref() != Some(Path::new("/run")) {
        bail!("/var/run of this machine is no link to /run; make it one, as Debian has it");
    }
    Ok(())
}

/// Puts a writable layer over a directory of the machine.
fn overlay(state: &Path, name: &str) -> anyhow::Result<()> {
    let target = Path::new("/").join(name);
    let layer = state.join("overlay").join(name);
    let (upper, work) = (layer.join("upper"), layer.join("work"));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        target.display(),
        upper.display(),
        work.display()
    );
    mount_new("overlay", &target, MsFlags::empty(), &options)
}

/// Directories that start empty, whatever the machine has in them: a CNI configuration of the machine's own Podman must
/// not make our node Ready.
fn own_directories(state: &Path) -> anyhow::Result<()> {
    for (name, target) in [
        ("cni-net.d", "/etc/cni/net.d"),
        ("cni-bin", "/opt/cni/bin"),
        ("kubelet", "/var/lib/kubelet"),
    ] {
        let source = state.join(name);
        fs::create_dir_all(&source)?;
        fs::create_dir_all(target)?;
        bind(&source, Path::new(target))?;
    }
    // Volumes that pods mount there are seen by the node, and the other way round.
    set_propagation(Path::new("/var/lib/kubelet"), MsFlags::MS_SHARED)
}

/// A `/sys` that shows this network namespace, with BPF and control group file systems of the node's own.
fn mount_sys() -> anyhow::Result<()> {
    let common = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mounts::detach(Path::new("/sys"))?;
    mount_new("sysfs", Path::new("/sys"), common, "")?;
    mount_new("bpf", Path::new("/sys/fs/bpf"), common, "mode=0700")?;
    set_propagation(Path::new("/sys/fs/bpf"), MsFlags::MS_SHARED)?;
    mount_new("cgroup2", Path::new("/sys/fs/cgroup"), common, "")
}

/// `/etc/hostname`, an `/etc/hosts` that knows the nodes, and the machine's name servers as a plain file.
fn write_names(spec: &Spec, node: &str, resolvers: &[u8]) -> anyhow::Result<()> {
    fs::write("/etc/hostname", format!("{node}\n"))?;
    fs::write("/etc/hosts", hosts_file(spec))?;
    match fs::remove_file("/etc/resolv.conf") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => fs::write("/etc/resolv.conf", resolvers)?,
    }
    Ok(())
}

/// The text of a node's `/etc/hosts`.
fn hosts_file(spec: &Spec) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for node in &spec.nodes {
        text.push_str(&format!("{}\t{}\n", node.address, node.name));
    }
    text
}

/// A command that will run on a node: start it on a thread that has entered the node.
pub(crate) fn self_command(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("lab").args(args).current_dir("/");
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::plan_nodes;

    #[test]
    fn hosts_name_every_node() {
        let spec = Spec {
            version: 1,
            cluster: "kind".into(),
            nodes: plan_nodes("kind", 2),
            user_kubeconfig: PathBuf::new(),
        };
        assert_eq!(
            hosts_file(&spec),
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fc00:f853:ccd:e793::2\tkind-control-plane\nfc00:f853:ccd:e793::3\tkind-worker\n"
        );
    }
}
