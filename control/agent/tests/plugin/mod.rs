//! A node as a container runtime sees it: a directory with the plugin's binary, namespaces of pods, and an agent.

pub(crate) mod call;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use api::cni::Attachment;
use api::status::StatusResponse;
use api::tables::{CacheEntry, LocalEndpoint};
use api::{Client, path};
use serde::de::DeserializeOwned;
use serde_json::Value;

use call::Call;

/// Longest wait for anything that the kernel or the agent does a moment later.
const PATIENCE: Duration = Duration::from_secs(30);

/// What pods leave on a node; equal before ADD and after DEL.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Traces {
    /// Host-side devices.
    links: Vec<String>,
    /// Addresses with an owner.
    addresses: Vec<String>,
    /// Endpoints the agent knows.
    endpoints: usize,
    /// Keys of the endpoint table.
    table: Vec<String>,
    /// Keys of the identity table.
    identities: Vec<String>,
}

/// A node in a network namespace of its own, with a private bpffs and state directory.
pub(crate) struct Node {
    name: String,
    cidr: String,
    pods: Vec<String>,
    directory: tempfile::TempDir,
    agent: Option<Child>,
    runtime: tokio::runtime::Runtime,
}

impl Node {
    /// A node with a running agent whose pods get addresses of `cidr`; nothing where the machine cannot run one.
    pub(crate) fn with_agent(test: &str, cidr: &str) -> Option<Self> {
        let root = run("id", &["-u"]).stdout == b"0\n";
        if !root || !Path::new("/sys/kernel/btf/vmlinux").exists() {
            println!("SKIP: needs root and BPF");
            return None;
        }
        let mut node = Self {
            name: format!("seta-t-cni-{test}-{}", std::process::id()),
            cidr: cidr.to_owned(),
            pods: Vec::new(),
            directory: tempfile::tempdir().expect("a directory"),
            agent: None,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
        };
        must("ip", &["netns", "add", &node.name]);
        for directory in ["bpf", "config", "run", "bin"] {
            fs::create_dir(node.path(directory)).expect("a directory");
        }
        must(
            "mount",
            &["-t", "bpf", "none", &node.path("bpf").display().to_string()],
        );
        node.inside(&node.name, "ip link set lo up");
        fs::write(node.path("config/routing-mode"), "native").expect("a key");
        // The kubelet finds a plugin by its name, and the binary knows by its name what it is.
        std::os::unix::fs::symlink(binary(), node.plugin()).expect("a link");
        node.start();
        Some(node)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn plugin(&self) -> PathBuf {
        self.path("bin/cilium-cni")
    }

    /// A call of the plugin for a pod, complete; rows take away or change what they are about.
    pub(crate) fn call(&self, command: &str, version: &str, pod: &str) -> Call {
        let mut call = Call::new(&self.plugin(), command, version);
        call.set("CNI_CONTAINERID", pod)
            .set("CNI_NETNS", &netns(pod))
            .set("CNI_IFNAME", "eth0")
            .set(
                "CNI_ARGS",
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web",
            )
            .set("CNI_PATH", &self.path("bin").display().to_string())
            .set("CILIUM_SOCK", &self.path("run/cilium.sock").display().to_string());
        call
    }

    /// ADD of a new pod in a namespace of its own; its name and the result.
    pub(crate) fn add(&mut self, pod: &str) -> (String, Value) {
        let pod = self.pod(pod);
        let result = self.call("ADD", "1.1.0", &pod).run().result();
        (pod, result)
    }

    /// Makes the namespace of a pod; answers its name, which is also its container id.
    pub(crate) fn pod(&mut self, pod: &str) -> String {
        let name = format!("{}-{pod}", self.name);
        must("ip", &["netns", "add", &name]);
        self.pods.push(name.clone());
        name
    }

    pub(crate) fn remove_pod(&mut self, pod: &str) {
        must("ip", &["netns", "del", pod]);
        self.pods.retain(|name| name != pod);
    }

    /// Runs a command in the namespace of the node or a pod; what it printed.
    pub(crate) fn inside(&self, namespace: &str, command: &str) -> String {
        let inside = format!("--net={}", netns(namespace));
        let arguments: Vec<&str> = std::iter::once(inside.as_str())
            .chain(command.split(' '))
            .collect();
        must("nsenter", &arguments)
    }

    /// The name of the node's own namespace.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Starts the agent and waits until it is ready.
    pub(crate) fn start(&mut self) {
        let path = |name: &str| self.path(name).display().to_string();
        let log = fs::File::options().create(true).append(true).open(path("log"));
        let child = Command::new("nsenter")
            .arg(format!("--net={}", netns(&self.name)))
            .arg(binary())
            .args(["agent", "--node-name=node"])
            .arg(format!("--alone={}", self.cidr))
            .arg(format!("--config-dir={}", path("config")))
            .arg(format!("--state-dir={}", path("run/state")))
            .arg(format!("--socket={}", path("run/cilium.sock")))
            .arg(format!("--bpffs={}", path("bpf")))
            .stdout(Stdio::null())
            .stderr(log.expect("a log"))
            .spawn()
            .expect("a process");
        self.agent = Some(child);
        self.until("the agent is ready", |node| {
            node.get::<Value>(path::CNI_STATUS).is_some()
        });
    }

    /// Ends the agent without giving it a chance.
    pub(crate) fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().expect("killed");
            agent.wait().expect("ended");
        }
    }

    /// Waits until a condition holds.
    pub(crate) fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(
                Instant::now() < until,
                "{what} does not come true; {:?}\n{}",
                self.traces(),
                self.log()
            );
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Option<T> {
        let client = Client::new(self.path("run/cilium.sock"), PATIENCE);
        self.runtime.block_on(client.get(path)).ok()
    }

    /// What pods have left on the node.
    pub(crate) fn traces(&self) -> Traces {
        let links: Vec<Value> = serde_json::from_str(&self.inside(&self.name, "ip -j link")).expect("JSON");
        let links = links.iter().filter_map(|link| link["ifname"].as_str());
        let table: Vec<LocalEndpoint> = self.get(path::BPF_ENDPOINT).unwrap_or_default();
        let identities: Vec<CacheEntry> = self.get(path::BPF_IPCACHE).unwrap_or_default();
        Traces {
            links: links
                .filter(|name| name.starts_with("lxc"))
                .map(str::to_owned)
                .collect(),
            addresses: self
                .get::<StatusResponse>(path::HEALTHZ)
                .unwrap_or_default()
                .ipam
                .allocations
                .into_keys()
                .collect(),
            endpoints: self.endpoints().len(),
            table: table.into_iter().map(|entry| entry.address).collect(),
            identities: identities.into_iter().map(|entry| entry.prefix).collect(),
        }
    }

    /// The pods that the agent knows: its endpoints without the node itself.
    pub(crate) fn endpoints(&self) -> Vec<api::Endpoint> {
        let mut all: Vec<api::Endpoint> = self.get(path::ENDPOINT).unwrap_or_default();
        all.retain(|endpoint| endpoint.status.identity.id != 1);
        all
    }

    /// Waits until pods have left nothing but this. Links go a moment after DEL.
    pub(crate) fn settle(&self, left: &Traces) {
        self.until(&format!("{left:?}"), |node| node.traces() == *left);
    }

    /// Files in the queue of deletes.
    pub(crate) fn queued(&self) -> Vec<Attachment> {
        let files = fs::read_dir(self.path("run/deleteQueue")).into_iter().flatten();
        let texts = files.map(|file| fs::read(file.expect("an entry").path()).expect("a file"));
        texts
            .map(|text| serde_json::from_slice(&text).expect("an attachment"))
            .collect()
    }

    /// The state file of an agent that does not run, after a change.
    pub(crate) fn change_state(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path("run/state/agent.json");
        let mut state: Value = serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
        change(&mut state["state"]);
        fs::write(path, state.to_string()).expect("written");
    }

    /// What the agent said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        for name in self.pods.iter().chain([&self.name]) {
            run("ip", &["netns", "del", name]);
        }
        run("umount", &[&self.path("bpf").display().to_string()]);
    }
}

/// Where `ip netns` keeps a namespace.
pub(crate) fn netns(name: &str) -> String {
    format!("/run/netns/{name}")
}

/// `SETA_BIN`, else what cargo built next to this test.
fn binary() -> PathBuf {
    let built = std::env::var_os("SETA_BIN").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/debug/seta"),
        PathBuf::from,
    );
    built
        .canonicalize()
        .unwrap_or_else(|error| panic!("{}: {error}; build it with `cargo build`", built.display()))
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// Runs a program that must succeed; its output.
pub(crate) fn must(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
