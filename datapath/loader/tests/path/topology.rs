//! pod – node – node – pod, each in a network namespace of its own, joined by veths; the datapath in both nodes.

use std::fs::File;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use abi::tables::identity;
use abi::{Addr, Config, DropReason, Endpoint, Peer};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use seta_loader::{Datapath, MapSizes, Options};

pub(crate) const POD: [&str; 2] = ["fd00:10:244::a", "fd00:10:244:1::b"];
pub(crate) const ROUTER: [&str; 2] = ["fd00:10:244::1", "fd00:10:244:1::1"];
const POD_BLOCK: [&str; 2] = ["fd00:10:244::/64", "fd00:10:244:1::/64"];
const NODE: [&str; 2] = ["fc00:f853:ccd:e793::2", "fc00:f853:ccd:e793::3"];

/// What is different from a pair of nodes as they usually are.
#[derive(Clone, Copy)]
pub(crate) struct Setting {
    /// Load-time constants; addresses are filled in.
    pub(crate) config: Config,
    /// MTU of the link between the nodes.
    pub(crate) link_mtu: u32,
    /// Largest packet that the second pod takes, as its node knows it.
    pub(crate) pod_mtu: u32,
    /// Largest packet before segmentation.
    pub(crate) gso: u32,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            config: Config::default(),
            link_mtu: 1500,
            pod_mtu: 1500,
            gso: 65_536,
        }
    }
}

/// The two nodes with their pods.
pub(crate) struct Path2 {
    namespaces: Namespaces,
    pub(crate) datapaths: Vec<Datapath>,
    roots: Vec<tempfile::TempDir>,
}

/// Runs a test between two nodes; says why where that is not possible.
pub(crate) fn between_nodes(setting: Setting, test: impl FnOnce(&Path2) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: needs root to load programs and make namespaces");
        return;
    }
    let namespaces = Namespaces::new();
    let result = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let nothing: Option<&str> = None;
        mount(
            nothing,
            "/",
            nothing,
            MsFlags::MS_PRIVATE | MsFlags::MS_REC,
            nothing,
        )
        .unwrap();
        let mut path = Path2 {
            namespaces,
            datapaths: Vec::new(),
            roots: Vec::new(),
        };
        path.build(&setting);
        test(&path);
    })
    .join();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

impl Path2 {
    fn build(&mut self, setting: &Setting) {
        let names = &self.namespaces;
        let size = format!("gso_max_size {0} gro_max_size {0}", setting.gso);
        for side in 0..2 {
            let (pod, node) = (names.name("pod", side), names.name("node", side));
            for name in [&pod, &node] {
                ip(&format!("-n {name} link set lo up"));
                in_namespace(&names.file(name), || {
                    for key in ["all", "default"] {
                        std::fs::write(format!("/proc/sys/net/ipv6/conf/{key}/accept_dad"), "0").unwrap();
                    }
                });
            }
            ip(&format!(
                "link add lxc netns {node} type veth peer name eth0 netns {pod}"
            ));
            for arguments in [
                format!("-n {pod} address add {}/128 dev eth0 nodad", POD[side]),
                format!("-n {pod} link set eth0 up {size}"),
                format!("-n {node} address add {}/128 dev lxc nodad", ROUTER[side]),
                format!("-n {node} link set lxc up {size}"),
                format!("-n {pod} route add {}/128 dev eth0", ROUTER[side]),
                format!("-n {pod} route add default via {} dev eth0", ROUTER[side]),
                format!("-n {node} route add {}/128 dev lxc", POD[side]),
            ] {
                ip(&arguments);
            }
            in_namespace(&names.file(&node), || {
                std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
            });
        }
        let nodes = [names.name("node", 0), names.name("node", 1)];
        ip(&format!(
            "link add eth0 netns {} type veth peer name eth0 netns {}",
            nodes[0], nodes[1]
        ));
        for (side, node) in nodes.iter().enumerate() {
            ip(&format!("-n {node} address add {}/64 dev eth0 nodad", NODE[side]));
            ip(&format!(
                "-n {node} link set eth0 up mtu {} {size}",
                setting.link_mtu
            ));
        }
        for (side, node) in nodes.iter().enumerate() {
            ip(&format!(
                "-n {node} route add {} via {} dev eth0",
                POD_BLOCK[1 - side],
                NODE[1 - side]
            ));
        }
        for side in 0..2 {
            let root = tempfile::tempdir().unwrap();
            mount(
                Some("bpf"),
                root.path(),
                Some("bpf"),
                MsFlags::empty(),
                None::<&str>,
            )
            .unwrap();
            let datapath = self.load(setting, side, root.path());
            self.datapaths.push(datapath);
            self.roots.push(root);
        }
    }

    fn load(&self, setting: &Setting, side: usize, root: &Path) -> Datapath {
        let node = self.file("node", side);
        let (lxc, node_mac) = device(&node, "lxc");
        let (eth0, _) = device(&node, "eth0");
        let (_, mac) = device(&self.file("pod", side), "eth0");
        let config = Config {
            router_v6: addr(ROUTER[side]),
            host_ifindex: 1,
            ..setting.config
        };
        let sizes = MapSizes {
            ipcache: 64,
            endpoints: 64,
            devices: 64,
            ct_tcp: 4096,
            ct_any: 4096,
            ..MapSizes::default()
        };
        let datapath = Datapath::open(&Options {
            root: root.to_owned(),
            config,
            sizes,
            ..Options::default()
        })
        .unwrap();
        let mtu = if side == 1 { setting.pod_mtu } else { 1500 };
        let pod = Endpoint {
            ifindex: lxc,
            identity: 1000,
            id: 1,
            mtu,
            mac,
            node_mac,
            ..Endpoint::default()
        };
        let own = Endpoint {
            identity: identity::HOST,
            flags: Endpoint::HOST,
            ..Endpoint::default()
        };
        datapath.endpoints().insert(&addr(POD[side]), &pod).unwrap();
        datapath.endpoints().insert(&addr(NODE[side]), &own).unwrap();
        datapath
            .endpoints()
            .insert(
                &addr(ROUTER[side]),
                &Endpoint {
                    flags: Endpoint::HOST | Endpoint::ROUTER,
                    ..own
                },
            )
            .unwrap();
        datapath.devices().insert(&lxc, &addr(POD[side])).unwrap();
        datapath
            .ipcache()
            .insert(
                &addr(POD[1 - side]),
                &Peer {
                    identity: 1001,
                    ..Peer::default()
                },
            )
            .unwrap();
        in_namespace(&node, || {
            datapath.attach_pod(lxc).unwrap();
            datapath.attach_netdev(eth0).unwrap();
        });
        datapath
    }

    /// Runs work in the namespace of a pod.
    pub(crate) fn in_pod<T: Send>(&self, side: usize, work: impl FnOnce() -> T + Send) -> T {
        in_namespace(&self.file("pod", side), work)
    }

    /// Runs a command in a namespace; whether it succeeded, and what it said.
    pub(crate) fn command(&self, kind: &str, side: usize, command: &str) -> (bool, String) {
        let output = Command::new("nsenter")
            .arg(format!("--net={}", self.file(kind, side).display()))
            .args(command.split(' '))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text.into_owned())
    }

    /// Packets dropped on both nodes, by reason. What pods say to everybody at their start does not count.
    pub(crate) fn drops(&self) -> Vec<(usize, Option<DropReason>, u64)> {
        let mut drops = Vec::new();
        for (side, datapath) in self.datapaths.iter().enumerate() {
            let metrics = datapath.metrics().unwrap();
            drops.extend(
                metrics
                    .iter()
                    .filter(|metric| {
                        metric.reason != 0 && metric.reason != DropReason::MulticastHandled as u8
                    })
                    .map(|metric| {
                        (
                            side,
                            DropReason::from_number(metric.reason),
                            metric.counter.packets,
                        )
                    }),
            );
        }
        drops
    }

    /// How often a reason was counted on a node.
    pub(crate) fn dropped(&self, side: usize, reason: DropReason) -> u64 {
        self.drops()
            .iter()
            .filter(|drop| (drop.0, drop.1) == (side, Some(reason)))
            .map(|drop| drop.2)
            .sum()
    }

    /// The pinned event ring of a node.
    pub(crate) fn events(&self, side: usize) -> PathBuf {
        self.roots[side].path().join("seta/maps").join(abi::names::EVENTS)
    }

    fn file(&self, kind: &str, side: usize) -> PathBuf {
        self.namespaces.file(&self.namespaces.name(kind, side))
    }
}

impl Drop for Path2 {
    fn drop(&mut self) {
        for root in &self.roots {
            let _ = umount2(root.path(), MntFlags::MNT_DETACH);
        }
    }
}

/// Four namespaces, deleted at the end, also of a test that failed.
struct Namespaces {
    prefix: String,
}

impl Namespaces {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!(
            "seta-t-dp-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let namespaces = Self { prefix };
        for side in 0..2 {
            for kind in ["pod", "node"] {
                ip(&format!("netns add {}", namespaces.name(kind, side)));
            }
        }
        namespaces
    }

    fn name(&self, kind: &str, side: usize) -> String {
        format!("{}-{kind}{}", self.prefix, side + 1)
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new("/run/netns").join(name)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for side in 0..2 {
            for kind in ["pod", "node"] {
                let _ = Command::new("ip")
                    .args(["netns", "delete", &self.name(kind, side)])
                    .status();
            }
        }
    }
}

/// Runs work on a thread of its own in a network namespace.
fn in_namespace<T: Send>(file: &Path, work: impl FnOnce() -> T + Send) -> T {
    let result = std::thread::scope(|scope| {
        let run = || {
            setns(File::open(file).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        scope.spawn(run).join()
    });
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Index and MAC address of a device.
fn device(namespace: &Path, name: &str) -> (u32, [u8; 6]) {
    in_namespace(namespace, || {
        let index = nix::net::if_::if_nametoindex(name).unwrap();
        let mac = nix::ifaddrs::getifaddrs()
            .unwrap()
            .filter(|interface| interface.interface_name == name)
            .find_map(|interface| {
                interface
                    .address
                    .and_then(|address| address.as_link_addr().and_then(nix::sys::socket::LinkAddr::addr))
            })
            .unwrap();
        (index, mac)
    })
}

pub(crate) fn addr(text: &str) -> Addr {
    Addr(text.parse::<Ipv6Addr>().unwrap().octets())
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
