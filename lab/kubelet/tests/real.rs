//! The kubelet for real: the lab's API server, crun, a CNI plugin, and the kubectl versions of this machine.
//!
//! Needs root, crun and kubectl, or says SKIP. Everything happens in network and mount namespaces of its own: the test runs
//! itself again under `unshare`, so that the machine never sees a mount, a device or an address of it.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use lab_apiserver::{ServerConfig, serve};
use serde_json::{Value, json};

const INSIDE: &str = "SETA_T_KUBELET_INSIDE";
const NODE: &str = "n1";
const KUBELET: &str = "/var/lib/kubelet";
const CONF_DIR: &str = "/run/cni/net.d";
const BIN_DIR: &str = "/run/cni/bin";
const CLOUD_SDK: &str = "/usr/lib/google-cloud-sdk/bin";

#[test]
fn a_kubelet_runs_pods() {
    if std::env::var_os(INSIDE).is_some() {
        return tokio::runtime::Runtime::new().unwrap().block_on(inside());
    }
    for (program, argument) in [("crun", "--version"), ("unshare", "--version"), ("ip", "-V")] {
        if !Command::new(program)
            .arg(argument)
            .output()
            .is_ok_and(|output| output.status.success())
        {
            return println!("SKIP: {program} is not on this machine");
        }
    }
    if !nix::unistd::geteuid().is_root() {
        return println!("SKIP: needs root for namespaces and overlays");
    }
    if kubectls().is_empty() {
        return println!("SKIP: kubectl is not on this machine");
    }
    // A node has a cgroup v2 hierarchy of its own; this test's is a part of the machine's.
    let hierarchy = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .into_iter()
        .find(|dir| Path::new(dir).join("cgroup.procs").exists());
    let Some(hierarchy) = hierarchy else {
        return println!("SKIP: no cgroup v2 hierarchy");
    };
    let cgroup = Path::new(hierarchy).join(format!("seta-t-kubelet-{}", std::process::id()));
    fs::create_dir(&cgroup).unwrap();
    // --kill-child: whatever is left dies with the test.
    let status = Command::new("unshare")
        .args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
            "--",
        ])
        // A shell as the first process, because that one must reap orphans.
        .args(["sh", "-c", "\"$@\"; exit $?", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_kubelet_runs_pods", "--nocapture"])
        .env(INSIDE, &cgroup)
        .status();
    remove_cgroup(&cgroup);
    let status = status.unwrap();
    assert!(status.success(), "the test inside its namespaces failed");
}

/// Removes a cgroup from the leaves up. The processes in it are gone, or will be in a moment.
fn remove_cgroup(dir: &Path) {
    for entry in fs::read_dir(dir)
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().is_dir())
    {
        remove_cgroup(&entry.path());
    }
    eventually("the cgroup is empty", || fs::remove_dir(dir).ok());
}

/// The oldest, the newest SPDY-only and the newest kubectl of this machine, or whatever there is.
fn kubectls() -> Vec<PathBuf> {
    let versions = ["kubectl.1.27", "kubectl.1.30", "kubectl.1.33"];
    let mut found: Vec<PathBuf> = versions
        .map(|name| Path::new(CLOUD_SDK).join(name))
        .into_iter()
        .filter(|path| path.exists())
        .collect();
    let plain = ["/usr/bin/kubectl", "/usr/local/bin/kubectl"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.exists());
    if found.is_empty() {
        found.extend(plain);
    }
    found
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A node of our own: loopback, and fresh directories where the machine has its own.
fn make_node() {
    run("ip", &["link", "set", "lo", "up"]);
    run("mount", &["--make-rprivate", "/"]);
    for dir in ["/run", "/tmp"] {
        run("mount", &["-t", "tmpfs", "tmpfs", dir]);
    }
    run("mount", &["--make-shared", "/run"]);
    run(
        "mount",
        &["--bind", &std::env::var(INSIDE).unwrap(), "/sys/fs/cgroup"],
    );
    fs::create_dir_all("/run/var-lib").unwrap();
    run("mount", &["--bind", "/run/var-lib", "/var/lib"]);
    for dir in [CONF_DIR, BIN_DIR, KUBELET] {
        fs::create_dir_all(dir).unwrap();
    }
    let plugin = format!("{BIN_DIR}/seta-t-cni");
    fs::write(&plugin, PLUGIN).unwrap();
    run("chmod", &["755", &plugin]);
}

/// A plugin as small as can be: a veth pair, and an address made of the sandbox's id.
const PLUGIN: &str = r#"#!/bin/sh
set -e
cat > /dev/null
echo "$CNI_COMMAND" >> /run/cni-calls
host=v$(echo "$CNI_CONTAINERID" | cut -c1-8)
address=fd00:99::$(echo "$CNI_CONTAINERID" | cut -c1-4)
case $CNI_COMMAND in
ADD)
    ip link add $host type veth peer name eth0 netns "$(basename "$CNI_NETNS")"
    ip link set $host up
    nsenter --net="$CNI_NETNS" sh -c "ip link set eth0 up; ip addr add $address/128 dev eth0 nodad; ip route add fd00:99::ffff:1 dev eth0; ip route add default via fd00:99::ffff:1" >&2
    ip addr add fd00:99::ffff:1/128 dev $host nodad 2>/dev/null || true
    ip route add $address dev $host
    echo "{\"cniVersion\":\"1.0.0\",\"interfaces\":[],\"ips\":[{\"address\":\"$address/128\"}]}" ;;
DEL) ip link del $host 2>/dev/null || true ;;
esac
"#;

struct Cluster {
    kubeconfig: PathBuf,
    kubelet: Child,
}

impl Cluster {
    fn start_kubelet(kubeconfig: &Path) -> Child {
        let binary = env!("CARGO_BIN_EXE_seta-lab-kubelet");
        Command::new(binary)
            .args([
                "lab",
                "kubelet",
                "--node-name",
                NODE,
                "--node-ip",
                "fd00:99::ffff:1",
                "--socket",
                "/run/kubelet.sock",
            ])
            .args(["--cni-conf-dir", CONF_DIR, "--cni-bin-dir", BIN_DIR])
            .args([
                "--kubernetes-service-host",
                "fd00:99::ffff:1",
                "--kubernetes-service-port",
                "6443",
            ])
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg("--seta-binary")
            .arg(binary)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn kubectl(&self, kubectl: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(kubectl);
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(args)
            .env("HOME", "/run")
            .stdin(Stdio::null());
        command
    }

    fn ask(&self, args: &[&str]) -> Output {
        self.kubectl(kubectls().last().unwrap(), args).output().unwrap()
    }

    fn get(&self, what: &[&str]) -> Option<Value> {
        let output = self.ask(&[&["get", "-o", "json"], what].concat());
        serde_json::from_slice(&output.stdout).ok()
    }

    fn apply(&self, object: &Value) {
        use std::io::Write;
        let mut command = self.kubectl(kubectls().last().unwrap(), &["create", "-f", "-"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(object.to_string().as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn pod(&self, name: &str) -> Value {
        self.get(&["pod", name]).unwrap_or_default()
    }
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn pod(name: &str, container: Value) -> Value {
    let mut container = container;
    container["name"] = json!("c");
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": NODE, "terminationGracePeriodSeconds": 1, "containers": [container],
            "tolerations": [{"operator": "Exists"}], "automountServiceAccountToken": false},
    })
}

async fn inside() {
    make_node();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let advertise: SocketAddr = listener.local_addr().unwrap();
    let handle = serve(ServerConfig {
        listeners: vec![listener],
        cluster_name: "seta-t-kubelet".to_owned(),
        service_cidr: "fd00:10:96::/112".parse().unwrap(),
        pod_cidr: "fd00:10:244::/56".parse().unwrap(),
        advertise,
        cert_sans: Vec::new(),
        data_dir: "/run/apiserver".into(),
        kubelets: Arc::new(|_| Some("/run/kubelet.sock".into())),
        watch_history: ServerConfig::DEFAULT_WATCH_HISTORY,
    })
    .await
    .unwrap();
    let kubeconfig = PathBuf::from("/run/kubeconfig");
    handle.write_admin_kubeconfig(&kubeconfig).unwrap();
    let steps = tokio::task::spawn_blocking(move || {
        let kubelet = Cluster::start_kubelet(&kubeconfig);
        let mut cluster = Cluster { kubeconfig, kubelet };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| steps(&mut cluster)));
        let _ = cluster.kubelet.kill();
        let _ = cluster.kubelet.wait();
        let cleaned = lab_kubelet::cleanup(Path::new(KUBELET));
        if let Err(panic) = result {
            println!("{}", text(&cluster.ask(&["get", "events,pods", "-A"]).stdout));
            std::panic::resume_unwind(panic);
        }
        cleaned.unwrap();
        lab_kubelet::cleanup(Path::new(KUBELET)).unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains("/var/lib/kubelet/") && !mounts.contains("/run/netns/cni-"),
            "left behind:\n{mounts}"
        );
    });
    steps.await.unwrap();
    handle.shutdown().await;
}

fn steps(cluster: &mut Cluster) {
    readiness_follows_the_network(cluster);
    pods_run_and_have_addresses(cluster);
    exec_over_both_protocols(cluster);
    privileged_pods_on_the_host_network(cluster);
    logs(cluster);
    port_forward(cluster);
    restarts_and_back_off(cluster);
    unknown_images(cluster);
    a_killed_kubelet_finds_its_pods_again(cluster);
    deletion(cluster);
}

fn ready(cluster: &Cluster) -> Option<(String, String)> {
    let node = cluster.get(&["node", NODE])?;
    let conditions = node["status"]["conditions"].as_array()?.clone();
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready")?;
    Some((
        ready["status"].as_str()?.to_owned(),
        ready["message"].as_str()?.to_owned(),
    ))
}

fn readiness_follows_the_network(cluster: &Cluster) {
    let (status, message) = eventually("the node is registered", || ready(cluster));
    assert_eq!(status, "False");
    assert!(message.contains("cni plugin not initialized"), "{message}");
    let list = json!({"cniVersion": "1.0.0", "name": "t", "plugins": [{"type": "seta-t-cni"}]});
    fs::write(format!("{CONF_DIR}/05-t.conflist"), list.to_string()).unwrap();
    eventually("the node is ready", || {
        ready(cluster).filter(|(status, _)| status == "True")
    });
}

fn pods_run_and_have_addresses(cluster: &Cluster) {
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "conf"}, "data": {"greeting": "hello", "file": "from a map\n"},
    }));
    let mut shell = pod(
        "shell",
        json!({
            "image": "busybox", "command": ["sh", "-c", "echo started $WHO; echo oops >&2; trap 'exit 0' TERM; while :; do sleep 0.1; done"],
            "env": [
                {"name": "GREETING", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "greeting"}}},
                {"name": "WHO", "value": "$(GREETING)-$(POD)"},
                {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            ],
            "volumeMounts": [
                {"name": "conf", "mountPath": "/conf"}, {"name": "empty", "mountPath": "/data"},
                {"name": "conf", "mountPath": "/one", "subPath": "file"},
            ],
        }),
    );
    shell["spec"]["volumes"] = json!([{"name": "conf", "configMap": {"name": "conf"}}, {"name": "empty", "emptyDir": {"medium": "Memory"}}]);
    shell["spec"]["initContainers"] = json!([{
        "name": "first", "image": "busybox", "command": ["sh", "-c", "echo init > /data/init"],
        "volumeMounts": [{"name": "empty", "mountPath": "/data"}],
    }]);
    cluster.apply(&shell);
    cluster.apply(&pod(
        "web",
        json!({
            "image": "nginx", "ports": [{"name": "http", "containerPort": 80}],
            "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
        }),
    ));
    let started = Instant::now();
    for name in ["shell", "web"] {
        let pod = eventually(name, || {
            let pod = cluster.pod(name);
            let ready = pod["status"]["containerStatuses"][0]["ready"] == true;
            (ready && pod["status"]["phase"] == "Running").then_some(pod)
        });
        assert!(
            pod["status"]["podIP"].as_str().unwrap().starts_with("fd00:99::"),
            "{}",
            pod["status"]
        );
        assert_eq!(pod["status"]["hostIP"], "fd00:99::ffff:1");
    }
    println!("two pods ready after {:?}", started.elapsed());
}

fn exec_over_both_protocols(cluster: &Cluster) {
    for kubectl in kubectls() {
        let exec = |args: &[&str]| {
            let args = [&["exec", "shell", "-c", "c", "--"], args].concat();
            cluster.kubectl(&kubectl, &args).output().unwrap()
        };
        let output = exec(&[
            "sh",
            "-c",
            "cat /conf/file /one /data/init; hostname; pwd; echo $WHO; id -u; echo err >&2; exit 7",
        ]);
        assert_eq!(
            output.status.code(),
            Some(7),
            "{kubectl:?}: {}",
            text(&output.stderr)
        );
        assert_eq!(
            text(&output.stdout),
            "from a map\nfrom a map\ninit\nshell\n/\nhello-$(POD)\n0\n",
            "{kubectl:?}"
        );
        assert!(
            text(&output.stderr).starts_with("err\n"),
            "{}",
            text(&output.stderr)
        );
        let output = exec(&["/no/such/program"]);
        assert!(
            !output.status.success() && text(&output.stderr).contains("no/such/program"),
            "{}",
            text(&output.stderr)
        );
        // More than any window or buffer on the way, in both directions.
        let big = "0123456789abcdef\n".repeat(40_000);
        fs::write("/run/big", &big).unwrap();
        let output = cluster
            .kubectl(&kubectl, &["exec", "-i", "shell", "-c", "c", "--", "cat"])
            .stdin(fs::File::open("/run/big").unwrap())
            .output()
            .unwrap();
        assert!(
            output.status.success() && output.stdout == big.as_bytes(),
            "{kubectl:?}: {} bytes, {}",
            output.stdout.len(),
            text(&output.stderr)
        );
        // A terminal: script(1) gives kubectl one.
        let line = format!(
            "{} --kubeconfig {} exec -it shell -c c -- sh -c 'tty; stty size; exit 3'",
            kubectl.display(),
            cluster.kubeconfig.display()
        );
        let output = Command::new("script")
            .args(["-qec", &format!("stty rows 33 cols 99; {line}"), "/dev/null"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(
            output.status.code(),
            Some(3),
            "{kubectl:?}: {}",
            text(&output.stdout)
        );
        let shown = text(&output.stdout);
        assert!(
            shown.contains("/dev/pts/") && shown.contains("33 99"),
            "{kubectl:?}: {shown:?}"
        );
    }
}

fn privileged_pods_on_the_host_network(cluster: &Cluster) {
    let mut agent = pod(
        "agent",
        json!({
            "image": "ghcr.io/seta/seta:v0", "command": ["sh", "-c", "mount -t tmpfs x /host/inner && touch /host/inner/seen; exec sleep 1000"],
            "securityContext": {"privileged": true},
            "volumeMounts": [
                {"name": "shared", "mountPath": "/host", "mountPropagation": "Bidirectional"},
                {"name": "proc", "mountPath": "/host-proc"},
            ],
        }),
    );
    agent["spec"]["hostNetwork"] = json!(true);
    agent["spec"]["volumes"] = json!([
        {"name": "shared", "hostPath": {"path": "/run/shared", "type": "DirectoryOrCreate"}},
        {"name": "proc", "hostPath": {"path": "/proc", "type": "Directory"}},
    ]);
    fs::create_dir_all("/run/shared/inner").unwrap();
    cluster.apply(&agent);
    eventually("a mount of the container is seen on the node", || {
        Path::new("/run/shared/inner/seen").exists().then_some(())
    });
    let output = cluster.ask(&["exec", "agent", "--", "sh", "-c", "readlink -f /usr/bin/cilium-agent; hostname; ls /host-proc/1/ns | head -1; ip -o link | grep -c ': v'; cat /proc/self/cgroup"]);
    let shown = text(&output.stdout);
    assert!(
        shown.starts_with(&format!("/usr/bin/seta\n{NODE}\ncgroup\n2\n")),
        "{shown} {}",
        text(&output.stderr)
    );
    assert!(shown.contains("kubepods/pod"), "{shown}");
    assert_eq!(cluster.pod("agent")["status"]["podIP"], "fd00:99::ffff:1");
    run("umount", &["/run/shared/inner"]);
}

fn logs(cluster: &Cluster) {
    let shown = text(&cluster.ask(&["logs", "shell", "-c", "c"]).stdout);
    let mut lines = shown.lines().collect::<Vec<_>>();
    lines.sort_unstable();
    assert_eq!(lines, ["oops", "started hello-$(POD)"]);
    assert_eq!(
        text(
            &cluster
                .ask(&["logs", "shell", "-c", "c", "--tail=1", "--timestamps"])
                .stdout
        )
        .lines()
        .count(),
        1
    );
    let mut follow = cluster
        .kubectl(kubectls().last().unwrap(), &["logs", "-f", "web"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let address = cluster.pod("web")["status"]["podIP"].as_str().unwrap().to_owned();
    let output = Command::new("curl")
        .args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            &format!("http://[{address}]/marker"),
        ])
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), "404");
    use std::io::{BufRead, BufReader};
    let found = BufReader::new(follow.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("GET /marker"));
    let _ = follow.kill();
    let _ = follow.wait();
    assert!(found);
}

fn port_forward(cluster: &Cluster) {
    for (index, kubectl) in kubectls().iter().enumerate() {
        let port = 18080 + index;
        let mut child = cluster
            .kubectl(kubectl, &["port-forward", "web", &format!("{port}:80")])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let status = eventually("an answer through port-forward", || {
            let output = Command::new("curl")
                .args(["-s", "-m", "5", &format!("http://127.0.0.1:{port}/")])
                .output()
                .unwrap();
            output.status.success().then(|| text(&output.stdout))
        });
        assert!(status.contains("Welcome to nginx!"));
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn restarts_and_back_off(cluster: &Cluster) {
    cluster.apply(&pod(
        "crash",
        json!({"image": "busybox", "command": ["sh", "-c", "echo bye | tee /dev/termination-log; exit 3"]}),
    ));
    let status = eventually("CrashLoopBackOff", || {
        let pod = cluster.pod("crash");
        let status = pod["status"]["containerStatuses"][0].clone();
        (status["state"]["waiting"]["reason"] == "CrashLoopBackOff").then_some(status)
    });
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(status["lastState"]["terminated"]["message"], "bye\n");
    assert_eq!(
        text(&cluster.ask(&["logs", "crash", "--previous"]).stdout),
        "bye\n"
    );
    let mut once = pod("once", json!({"image": "busybox", "command": ["true"]}));
    once["spec"]["restartPolicy"] = json!("Never");
    cluster.apply(&once);
    eventually("Succeeded", || {
        (cluster.pod("once")["status"]["phase"] == "Succeeded").then_some(())
    });
}

fn unknown_images(cluster: &Cluster) {
    cluster.apply(&pod("unknown", json!({"image": "redis:7"})));
    let message = eventually("ErrImagePull", || {
        let waiting = cluster.pod("unknown")["status"]["containerStatuses"][0]["state"]["waiting"].clone();
        let reason = waiting["reason"].as_str()?.to_owned();
        reason
            .contains("ImagePull")
            .then(|| waiting["message"].as_str().unwrap_or_default().to_owned())
    });
    assert!(message.contains("--image-catalogue"), "{message}");
}

fn a_killed_kubelet_finds_its_pods_again(cluster: &mut Cluster) {
    let id = cluster.pod("shell")["status"]["containerStatuses"][0]["containerID"].clone();
    cluster.kubelet.kill().unwrap();
    cluster.kubelet.wait().unwrap();
    cluster.kubelet = Cluster::start_kubelet(&cluster.kubeconfig);
    eventually("exec works again", || {
        cluster
            .ask(&["exec", "shell", "-c", "c", "--", "true"])
            .status
            .success()
            .then_some(())
    });
    let status = cluster.pod("shell")["status"]["containerStatuses"][0].clone();
    assert_eq!(
        (&status["containerID"], &status["restartCount"]),
        (&id, &json!(0))
    );
}

fn deletion(cluster: &Cluster) {
    for name in ["shell", "web", "agent", "crash", "once", "unknown"] {
        let started = Instant::now();
        let output = cluster.ask(&["delete", "pod", name, "--timeout=30s"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        println!("{name} is gone after {:?}", started.elapsed());
    }
    let left = |dir: &str| fs::read_dir(dir).map_or(0, Iterator::count);
    eventually("nothing is left of the pods", || {
        let dirs = [
            format!("{KUBELET}/pods"),
            format!("{KUBELET}/containers"),
            "/run/netns".to_owned(),
        ];
        dirs.iter().all(|dir| left(dir) == 0).then_some(())
    });
    let calls = fs::read_to_string("/run/cni-calls").unwrap();
    let count = |command: &str| calls.lines().filter(|line| *line == command).count();
    assert!(count("DEL") >= count("ADD") && count("ADD") >= 4, "{calls}");
}
