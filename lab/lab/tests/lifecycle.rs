//! Clusters come up, survive what happens to them, and leave nothing behind. Needs root; says `SKIP` without.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long anything may take on a machine that compiles something else at the same time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster of a test; gone when the test ends, however it ends.
struct Lab {
    name: &'static str,
    home: tempfile::TempDir,
}

impl Lab {
    /// `None`, with a word about it, where the test cannot run.
    fn new(name: &'static str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIP: needs root");
            return None;
        }
        let lab = Self {
            name,
            home: tempfile::tempdir().unwrap(),
        };
        lab.run("down", &[]);
        Some(lab)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.home.path().join("new/dir/config")
    }

    fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seta-lab"));
        command.args([verb, "--name", self.name]).args(arguments);
        command
            .env("KUBECONFIG", self.kubeconfig())
            .env_remove("IPFAMILY")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, verb: &str, arguments: &[&str]) -> Output {
        self.command(verb, arguments).output().unwrap()
    }

    fn succeed(&self, verb: &str, arguments: &[&str]) -> String {
        let output = self.run(verb, arguments);
        assert!(output.status.success(), "{verb} {arguments:?}: {}", text(&output));
        text(&output)
    }

    fn fail(&self, verb: &str, arguments: &[&str]) -> String {
        let output = self.run(verb, arguments);
        assert!(
            !output.status.success(),
            "{verb} {arguments:?} succeeded: {}",
            text(&output)
        );
        text(&output)
    }

    fn status(&self) -> Value {
        serde_json::from_slice(&self.run("status", &["-o", "json"]).stdout).unwrap()
    }

    fn netns(&self, host: &str) -> PathBuf {
        PathBuf::from(format!("/run/netns/seta-{}-{host}", self.name))
    }

    /// Everything of the cluster that is still to be found on the machine.
    fn traces(&self) -> Vec<String> {
        let mut traces = Vec::new();
        let mine = format!("seta-{}", self.name);
        let state = format!("/run/seta-lab/{}", self.name);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours = |line: &&str| line.contains(&format!("{state} ")) || line.contains(&format!("{state}/"));
        traces.extend(mounts.lines().filter(ours).map(|line| format!("mount {line}")));
        if Path::new(&state).exists() {
            traces.push(state);
        }
        for entry in fs::read_dir("/run/netns").into_iter().flatten() {
            let name = entry.unwrap().file_name().to_string_lossy().into_owned();
            if name.starts_with(&format!("{mine}-")) {
                traces.push(format!("netns {name}"));
            }
        }
        for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            let group = Path::new(root).join(&mine);
            if group.exists() {
                traces.push(group.display().to_string());
            }
        }
        for process in fs::read_dir("/proc").unwrap() {
            let path = process.unwrap().path();
            let groups = fs::read_to_string(path.join("cgroup")).unwrap_or_default();
            // One that has ended and waits for init to notice has no part in anything any more.
            let ended = fs::read_to_string(path.join("stat")).is_ok_and(|stat| stat.contains(") Z "));
            if !ended && groups.lines().any(|line| line.contains(&format!("/{mine}/"))) {
                traces.push(format!("process {}", path.display()));
            }
        }
        let config = fs::read_to_string(self.kubeconfig()).unwrap_or_default();
        if config.contains(&format!("kind-{}", self.name)) {
            traces.push("kubeconfig context".to_owned());
        }
        traces
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.run("down", &[]);
    }
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn pid(value: &Value) -> Pid {
    Pid::from_raw(i32::try_from(value.as_i64().unwrap()).unwrap())
}

#[test]
fn a_cluster_lives_through_crashes_and_leaves_nothing() {
    let Some(lab) = Lab::new("t-life") else { return };
    assert_eq!(lab.traces(), [""; 0]);
    assert_eq!(lab.status()["state"], "Absent");
    lab.succeed("up", &["--nodes", "2"]);

    let status = lab.status();
    assert_eq!(status["state"], "Running");
    assert_eq!(status["nodes"].as_array().unwrap().len(), 2);
    assert_eq!(lab.succeed("nodes", &[]), "t-life-control-plane\nt-life-worker\n");
    assert_eq!(
        fs::metadata(lab.kubeconfig()).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(lab.succeed("up", &[]).contains("up already"));
    assert!(lab.fail("up", &["--nodes", "3"]).contains("down"));

    for (from, to) in [
        ("t-life-control-plane", "t-life-worker"),
        ("t-life-worker", "router"),
        ("t-life-worker", "outside"),
        ("outside", "t-life-control-plane"),
    ] {
        let address = lab.succeed("node-ip", &[to]);
        lab.succeed("exec", &[from, "--", "ping", "-6", "-c1", "-W5", address.trim()]);
    }
    // A veth and its addresses would be seen here.
    let host = fs::read_to_string("/proc/net/if_inet6").unwrap();
    assert!(
        !host.contains("fc00f8530ccde793"),
        "the machine got an address of the node network: {host}"
    );

    // A kubelet that dies comes back, into the same node.
    let node = fs::metadata(lab.netns("t-life-worker")).unwrap().ino();
    let kubelet = |status: &Value| status["nodes"][1]["kubelet"].clone();
    let before = kubelet(&lab.status());
    kill(pid(&before), Signal::SIGKILL).unwrap();
    eventually("the kubelet is started again", || {
        let now = kubelet(&lab.status());
        now.is_number() && now != before
    });
    assert_eq!(fs::metadata(lab.netns("t-life-worker")).unwrap().ino(), node);

    // A supervisor that dies leaves a crashed cluster, and `up` makes a new one of it.
    kill(pid(&status["supervisor"]), Signal::SIGKILL).unwrap();
    eventually("the crash is seen", || lab.status()["state"] == "Crashed");
    assert!(lab.succeed("up", &[]).contains("Removing what was left"));
    assert_eq!(lab.status()["state"], "Running");

    // A guest is named, and left to its owner.
    let netns = format!("--net={}", lab.netns("router").display());
    let mut guest = Command::new("nsenter")
        .args([&netns, "sleep", "1000"])
        .spawn()
        .unwrap();
    eventually("the guest is inside", || {
        let seen = fs::metadata(format!("/proc/{}/ns/net", guest.id())).map(|meta| meta.ino());
        seen.ok() == fs::metadata(lab.netns("router")).map(|meta| meta.ino()).ok()
    });

    // What users started on a node ends with it.
    let mut shell = lab
        .command("exec", &["t-life-worker", "--", "sleep", "1000"])
        .spawn()
        .unwrap();
    let said = lab.succeed("down", &[]);
    assert!(
        said.contains(&format!("process {} (sleep)", guest.id())),
        "{said}"
    );
    guest.kill().unwrap();
    guest.wait().unwrap();
    assert!(!shell.wait().unwrap().success());
    assert_eq!(lab.traces(), [""; 0]);
    assert!(lab.succeed("down", &[]).contains("There is no cluster"));
}

#[test]
fn a_node_looks_like_a_machine_of_its_own() {
    let Some(lab) = Lab::new("t-node") else { return };
    lab.succeed("up", &["--nodes", "1"]);
    let node = "t-node-control-plane";
    let sh = |script: &str| lab.succeed("exec", &[node, "--", "sh", "-c", script]);
    for (script, expected) in [
        ("hostname", "t-node-control-plane\n"),
        ("ls /sys/class/net", "eth0\nlo\n"),
        (
            "stat -f -c %T /sys/fs/bpf /sys/fs/cgroup /run",
            "bpf_fs\ncgroup2fs\ntmpfs\n",
        ),
        ("ls -A /etc/cni/net.d | cat; ls -A /opt/cni/bin", ""),
        ("readlink -f /var/run", "/run\n"),
        ("grep -c 0::/exec /proc/self/cgroup", "1\n"),
        ("cat /proc/sys/net/ipv6/conf/eth0/accept_dad", "0\n"),
        ("ip -6 addr show dev eth0 tentative", ""),
        (
            "ip -6 route show default | cut -d' ' -f3",
            "fc00:f853:ccd:e793::1\n",
        ),
        (
            "mkdir -p /etc/t-node /opt/t-node /var/t-node && cat /etc/hostname",
            "t-node-control-plane\n",
        ),
    ] {
        let script = format!("{script} || true");
        assert_eq!(sh(&script), expected, "{script}");
    }
    for path in ["/etc/t-node", "/opt/t-node", "/var/t-node"] {
        assert!(!Path::new(path).exists(), "a node wrote to {path} of the machine");
    }
    for (command, code) in [
        (&["sh", "-c", "exit 7"][..], 7),
        (&["no-such-program"], 127),
        (&["/etc"], 126),
    ] {
        let mut arguments = vec![node, "--"];
        arguments.extend(command);
        assert_eq!(
            lab.run("exec", &arguments).status.code(),
            Some(code),
            "{command:?}"
        );
    }
    assert!(
        lab.fail("exec", &["nobody", "--", "true"])
            .contains("router and outside")
    );
    assert!(lab.fail("logs", &["nobody"]).contains("supervisor"));
    assert!(lab.succeed("logs", &["supervisor"]).contains("the cluster is up"));
    // A reader that goes away at once.
    for (verb, arguments) in [
        ("status", &["-o", "json"][..]),
        ("kubeconfig", &[]),
        ("logs", &[]),
        ("nodes", &[]),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = lab
            .command(verb, arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert!(output.status.success(), "{verb}: {}", text(&output));
    }
}

#[test]
fn an_interrupted_up_is_undone() {
    let Some(lab) = Lab::new("t-int") else { return };
    let child = lab
        .command("up", &[])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("up began", || Path::new("/run/seta-lab/t-int").exists());
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    // It may have been faster than the signal; then there is nothing to undo.
    if output.status.success() {
        lab.succeed("down", &[]);
    } else {
        assert!(text(&output).contains("interrupted"), "{}", text(&output));
    }
    assert_eq!(lab.traces(), [""; 0]);
}

#[test]
fn leftovers_that_nobody_understands_are_removed() {
    let Some(lab) = Lab::new("t-junk") else { return };
    let state = Path::new("/run/seta-lab/t-junk");
    for junk in ["", "{", "{\"version\": 99}", "[]"] {
        fs::create_dir_all(state.join("processes")).unwrap();
        fs::write(state.join("spec.json"), junk).unwrap();
        // A record of a stranger: the test itself, started at another time. It must survive.
        let stranger = format!("{{\"pid\": {}, \"startTime\": 1}}", std::process::id());
        fs::write(state.join("processes/supervisor.json"), stranger).unwrap();
        assert!(
            lab.succeed("up", &["--nodes", "1"])
                .contains("Removing what was left"),
            "{junk}"
        );
        lab.succeed("down", &[]);
        assert_eq!(lab.traces(), [""; 0]);
    }
}

#[test]
fn a_foreign_context_of_the_same_name_is_left_alone() {
    let Some(lab) = Lab::new("t-ctx") else { return };
    fs::create_dir_all(lab.kubeconfig().parent().unwrap()).unwrap();
    let other = "apiVersion: v1\nkind: Config\ncurrent-context: mine\nclusters:\n- name: mine\n  cluster:\n    server: https://a\n\
        contexts:\n- name: mine\n  context:\n    cluster: mine\n    user: mine\nusers: []\n";
    fs::write(lab.kubeconfig(), other).unwrap();
    lab.succeed("up", &["--nodes", "1"]);
    let both = fs::read_to_string(lab.kubeconfig()).unwrap();
    assert!(
        both.contains("https://a") && both.contains("kind-t-ctx"),
        "{both}"
    );
    lab.succeed("down", &[]);
    let after = fs::read_to_string(lab.kubeconfig()).unwrap();
    assert!(
        after.contains("https://a") && after.contains("current-context: mine"),
        "{after}"
    );
    assert_eq!(lab.traces(), [""; 0]);

    lab.succeed("up", &["--nodes", "1"]);
    let foreign = other.replace("mine", "kind-t-ctx");
    fs::write(lab.kubeconfig(), &foreign).unwrap();
    lab.succeed("down", &[]);
    assert_eq!(fs::read_to_string(lab.kubeconfig()).unwrap(), foreign);
}

#[test]
fn what_cannot_work_is_refused_with_a_reason() {
    let Some(lab) = Lab::new("t-no") else { return };
    for family in ["ipv4", "dual"] {
        let message = lab.fail("up", &["--ip-family", family]);
        assert!(
            message.contains(family) && message.contains("--ip-family ipv6"),
            "{message}"
        );
    }
    let empty = tempfile::tempdir().unwrap();
    let output = lab.command("up", &[]).env("PATH", empty.path()).output().unwrap();
    assert!(
        text(&output).contains("crun") && text(&output).contains("make setup"),
        "{}",
        text(&output)
    );
    for arguments in [
        ["--nodes", "0"],
        ["--nodes", "65"],
        ["--name", "../x"],
        ["--wait", "soon"],
    ] {
        assert_eq!(lab.run("up", &arguments).status.code(), Some(2), "{arguments:?}");
    }
    assert!(lab.fail("exec", &["x", "--", "true"]).contains("lab up"));

    // The program may be where only root can go; a copy is not.
    let copy = lab.home.path().join("seta-lab");
    fs::set_permissions(lab.home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_seta-lab"), &copy).unwrap();
    for verb in ["up", "down"] {
        let mut command = Command::new::<&OsStr>(copy.as_ref());
        let output = command
            .args([verb, "--name", lab.name])
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        assert!(
            !output.status.success() && text(&output).contains("sudo"),
            "{verb}: {}",
            text(&output)
        );
    }
    assert_eq!(lab.traces(), [""; 0]);
}
