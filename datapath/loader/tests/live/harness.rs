//! A node and a pod with a veth pair between them; all of it goes away with the test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use abi::tables::identity;
use abi::{Addr, Config, Endpoint, Peer};
use nix::mount::{MsFlags, mount};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use seta_loader::{Datapath, MapSizes, Options};

pub(crate) const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NODE: &str = "fc00:f853:ccd:e793::2";
const POD: &str = "fd00:10:244::6321";
const ROUTER: &str = "fd00:10:244::1";

/// What a test works with. The thread of the test is the node.
pub(crate) struct Node {
    root: tempfile::TempDir,
    pod: String,
}

/// Runs a test on a thread in namespaces of its own; prints why where that is not possible.
pub(crate) fn on_a_node(test: impl FnOnce(&Node) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: needs root to load programs and make namespaces");
        return;
    }
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let pod = format!(
        "seta-t-loader-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    );
    let result = std::thread::spawn(move || {
        run("ip", &["netns", "add", &pod]);
        let node = Node {
            root: tempfile::tempdir().unwrap(),
            pod,
        };
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let nothing: Option<&str> = None;
        mount(
            nothing,
            "/",
            nothing,
            MsFlags::MS_PRIVATE | MsFlags::MS_REC,
            nothing,
        )
        .unwrap();
        mount(Some("bpf"), node.root(), Some("bpf"), MsFlags::empty(), nothing).unwrap();
        test(&node);
    })
    .join();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = nix::mount::umount(self.root());
        let _ = Command::new("ip").args(["netns", "delete", &self.pod]).status();
    }
}

impl Node {
    /// The bpffs.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.root().join("seta/maps")
    }

    pub(crate) fn links(&self) -> PathBuf {
        self.root().join("seta/links")
    }

    /// Small maps, so that the tests are quick.
    pub(crate) fn options(&self) -> Options {
        Options {
            root: self.root().to_owned(),
            config: Config {
                router_v6: addr(ROUTER),
                ..Config::default()
            },
            sizes: MapSizes {
                endpoints: 64,
                devices: 64,
                ipcache: 64,
                ct_tcp: 4096,
                ct_any: 4096,
                services: 256,
                nat: 4096,
                events_bytes: 1 << 16,
            },
            ..Options::default()
        }
    }

    /// Links the pod to the node: `lxc` here, `eth0` there. No neighbour discovery, as that is not the subject.
    /// Returns the index of `lxc`.
    pub(crate) fn link_pod(&self) -> u32 {
        let (node_mac, pod_mac) = ("02:00:00:00:00:01", "02:00:00:00:00:02");
        let peer = ["peer", "name", "eth0", "address", pod_mac, "netns", &self.pod];
        run(
            "ip",
            &[
                &["link", "add", "lxc", "address", node_mac, "type", "veth"],
                &peer[..],
            ]
            .concat(),
        );
        for device in ["all", "lxc"] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{device}/accept_dad"), "0").unwrap();
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{device}/forwarding"), "1").unwrap();
        }
        for arguments in [
            "link set lo up",
            "link set lxc up",
            &format!("address replace {NODE}/128 dev lo nodad"),
            &format!("route add {POD}/128 dev lxc"),
            &format!("neigh add {POD} lladdr {pod_mac} dev lxc nud permanent"),
        ] {
            run("ip", &arguments.split(' ').collect::<Vec<_>>());
        }
        for arguments in [
            "link set eth0 up",
            &format!("address add {POD}/128 dev eth0 nodad"),
            &format!("route add {ROUTER}/128 dev eth0"),
            &format!("route add default via {ROUTER} dev eth0"),
            &format!("neigh add {ROUTER} lladdr {node_mac} dev eth0 nud permanent"),
        ] {
            let inside = ["netns", "exec", &self.pod, "ip"];
            run(
                "ip",
                &inside.into_iter().chain(arguments.split(' ')).collect::<Vec<_>>(),
            );
        }
        if_nametoindex("lxc").unwrap()
    }

    /// Tells the datapath of the pod and the node.
    pub(crate) fn fill(&self, datapath: &Datapath, lxc: u32) {
        let pod = Endpoint {
            ifindex: lxc,
            identity: identity::MIN_CLUSTER,
            id: 1,
            mac: POD_MAC,
            node_mac: NODE_MAC,
            ..Endpoint::default()
        };
        let node = Endpoint {
            identity: identity::HOST,
            flags: Endpoint::HOST,
            ..Endpoint::default()
        };
        datapath.endpoints().insert(&addr(POD), &pod).unwrap();
        datapath.endpoints().insert(&addr(NODE), &node).unwrap();
        datapath.devices().insert(&lxc, &addr(POD)).unwrap();
        for (address, identity) in [(POD, identity::MIN_CLUSTER), (NODE, identity::HOST)] {
            datapath
                .ipcache()
                .insert(
                    &addr(address),
                    &Peer {
                        identity,
                        ..Peer::default()
                    },
                )
                .unwrap();
        }
    }

    /// A program that runs inside the pod's network namespace.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args([&format!("--net=/run/netns/{}", self.pod), program]);
        command
    }

    /// Runs a command line inside the pod's network namespace.
    pub(crate) fn inside(&self, line: &str) {
        let namespace = format!("--net=/run/netns/{}", self.pod);
        let arguments: Vec<&str> = std::iter::once(namespace.as_str())
            .chain(line.split(' '))
            .collect();
        run("nsenter", &arguments);
    }

    /// Pings the node from the pod every two milliseconds.
    pub(crate) fn ping(&self, count: u32) -> Ping {
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.pod))
            .args([
                "ping",
                "-6",
                "-q",
                "-i",
                "0.002",
                "-W",
                "2",
                "-c",
                &count.to_string(),
                NODE,
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Ping { child, count }
    }
}

/// A running ping.
pub(crate) struct Ping {
    child: Child,
    count: u32,
}

impl Ping {
    /// Waits for its end; panics unless every packet was answered, once.
    pub(crate) fn expect_no_loss(self) {
        let count = self.count;
        self.expect(&format!("{count} received, 0% packet loss"));
    }

    /// Waits for its end; panics if a single packet was answered.
    pub(crate) fn expect_no_answer(self) {
        self.expect("0 received, ");
    }

    fn expect(self, outcome: &str) {
        let output = self.child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let line = format!("{} packets transmitted, {outcome}", self.count);
        assert!(text.contains(&line), "{text}");
    }
}

pub(crate) fn addr(text: &str) -> Addr {
    Addr(text.parse::<std::net::Ipv6Addr>().unwrap().octets())
}

/// The address with this number.
pub(crate) fn nth(number: u32) -> Addr {
    let mut bytes = [0xfd; 16];
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    Addr(bytes)
}

pub(crate) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
