//! client – node – server: three network namespaces, joined by veths, and a cgroup for the processes of the pods.

use std::{
    fs,
    net::{Ipv6Addr, SocketAddrV6},
    path::PathBuf,
    process::Command,
};

use abi::{Config, Endpoint, Peer, tables::identity};
use anyhow::{Context as _, Result, bail};
use loader::{Datapath, Options};

use crate::{
    connects,
    topology::{ip, output},
    variant::{Bpffs, address, in_netns},
};

const CLIENT: &str = "fd00:10:244::a";
/// The server has two addresses, so that a service has two endpoints.
pub(crate) const SERVER: [&str; 2] = ["fd00:10:244::b", "fd00:10:244::c"];
/// Port of the server.
pub(crate) const PORT: u16 = 8080;
const ROUTER: &str = "fd00:10:244::1";
/// Endpoints that are only in tables; to connect there fails at once.
pub(crate) const NOWHERE: &str = "fd00:10:245::";

/// Namespaces `seta-t-bench-<name>-{client,node,server}`, and what is attached. Removed when dropped.
pub(crate) struct OneNode {
    name: String,
    cgroup: Cgroup,
    /// Seta, if it is there.
    pub(crate) seta: Option<Seta>,
}

/// The datapath of a node, filled and attached as the agent does it.
pub(crate) struct Seta {
    pub(crate) datapath: Datapath,
    _root: Bpffs,
}

impl OneNode {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let node = Self {
            name: name.to_owned(),
            cgroup: Cgroup::new(name)?,
            seta: None,
        };
        node.remove();
        for kind in ["client", "node", "server"] {
            ip(&format!("netns add {}", node.netns_name(kind)))?;
            node.sysctls(kind)?;
            node.ip_in(kind, "link set lo up")?;
        }
        for (kind, addresses) in [("client", &[CLIENT][..]), ("server", &SERVER[..])] {
            ip(&format!(
                "link add {kind} netns {} type veth peer name eth0 netns {}",
                node.netns_name("node"),
                node.netns_name(kind)
            ))?;
            node.ip_in(kind, "link set eth0 up")?;
            node.ip_in("node", &format!("link set {kind} up"))?;
            node.ip_in("node", &format!("address add {ROUTER}/128 dev {kind} nodad"))?;
            node.neighbour(kind, ROUTER, "eth0", ("node", kind))?;
            for address in addresses {
                node.ip_in(kind, &format!("address add {address}/128 dev eth0 nodad"))?;
                node.ip_in("node", &format!("route add {address}/128 dev {kind}"))?;
                node.neighbour("node", address, kind, (kind, "eth0"))?;
            }
            node.ip_in(kind, &format!("route add {ROUTER}/128 dev eth0"))?;
            node.ip_in(kind, &format!("route add default via {ROUTER} dev eth0"))?;
        }
        node.ip_in("client", &format!("route add unreachable {NOWHERE}/48"))?;
        Ok(node)
    }

    /// Loads the datapath, gives it the two pods, and attaches it to them and to the sockets of their processes.
    pub(crate) fn attach_seta(&mut self) -> Result<()> {
        let root = Bpffs::new(&self.name)?;
        let options = Options {
            root: root.path().to_owned(),
            config: Config {
                router_v6: address(ROUTER)?,
                host_routing: 1,
                ..Config::default()
            },
            ..Options::default()
        };
        let datapath = Datapath::open(&options).context("load the datapath")?;
        let mut devices = Vec::new();
        for (kind, addresses, id) in [("client", &[CLIENT][..], 1), ("server", &SERVER[..], 2)] {
            let (ifindex, node_mac) = self.device("node", kind)?;
            let (_, mac) = self.device(kind, "eth0")?;
            let identity = 1000 + u32::from(id);
            let pod = Endpoint {
                ifindex,
                identity,
                id,
                mtu: 1500,
                mac,
                node_mac,
                ..Endpoint::default()
            };
            for text in addresses {
                datapath.endpoints().insert(&address(text)?, &pod)?;
                let peer = Peer {
                    identity,
                    ..Peer::default()
                };
                datapath.ipcache().insert(&address(text)?, &peer)?;
            }
            datapath.devices().insert(&ifindex, &address(addresses[0])?)?;
            devices.push(ifindex);
        }
        let host = Endpoint {
            identity: identity::HOST,
            flags: Endpoint::HOST,
            ..Endpoint::default()
        };
        datapath.endpoints().insert(&address(ROUTER)?, &host)?;
        let cgroup = self.cgroup.path.clone();
        let datapath = in_netns(self.netns("node"), move || {
            for ifindex in devices {
                datapath.attach_pod(ifindex)?;
            }
            datapath.attach_sockets(&cgroup)?;
            Ok(datapath)
        })?;
        self.seta = Some(Seta {
            datapath,
            _root: root,
        });
        Ok(())
    }

    /// Connections from the client to an address that leads to the server.
    pub(crate) fn rate(&self, target: SocketAddrV6, count: usize) -> Result<connects::Rate> {
        self.inside(|| connects::rate(&self.netns("server"), PORT, &self.netns("client"), target, count))
            .with_context(|| format!("in {}", self.name))
    }

    /// Runs something as a process of a pod: sockets that it makes are seen by the programs.
    pub(crate) fn inside<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.cgroup.enter()?;
        let result = work();
        self.cgroup.leave()?;
        result
    }

    pub(crate) fn netns(&self, kind: &str) -> PathBuf {
        PathBuf::from("/run/netns").join(self.netns_name(kind))
    }

    /// Index and MAC address of a device.
    pub(crate) fn device(&self, kind: &str, device: &str) -> Result<(u32, [u8; 6])> {
        let text = output(&format!("-n {} -j link show dev {device}", self.netns_name(kind)))?;
        crate::topology::index_and_mac(&text)
    }

    fn neighbour(&self, kind: &str, address: &str, device: &str, owner: (&str, &str)) -> Result<()> {
        let (_, mac) = self.device(owner.0, owner.1)?;
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        self.ip_in(
            kind,
            &format!("neighbour replace {address} lladdr {mac} dev {device} nud permanent"),
        )
    }

    /// The same in all variants: no TIME_WAIT (28 000 of them end a benchmark), conntrack's shortened so that the entries
    /// of one sample are gone before the next.
    fn sysctls(&self, kind: &str) -> Result<()> {
        let mut script = String::from("set -e; cd /proc/sys/net; ");
        for (key, value) in [
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv4/tcp_max_tw_buckets", "0"),
            ("ipv4/tcp_syn_retries", "2"),
            ("netfilter/nf_conntrack_tcp_timeout_time_wait", "1"),
            ("netfilter/nf_conntrack_tcp_timeout_close", "1"),
        ] {
            script.push_str(&format!("echo {value} > {key}; "));
        }
        script.push_str("echo '1024 65535' > ipv4/ip_local_port_range; ");
        if kind == "node" {
            script.push_str("echo 1 > ipv6/conf/all/forwarding; ");
        }
        let netns = format!("--net={}", self.netns(kind).display());
        let output = Command::new("nsenter")
            .args([&netns, "sh", "-c", &script])
            .output()
            .context("nsenter")?;
        if !output.status.success() {
            bail!(
                "settings of {}: {}",
                self.netns_name(kind),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    fn netns_name(&self, kind: &str) -> String {
        format!("seta-t-bench-{}-{kind}", self.name)
    }

    fn ip_in(&self, kind: &str, args: &str) -> Result<()> {
        ip(&format!("-n {} {args}", self.netns_name(kind)))
    }

    fn remove(&self) {
        for kind in ["client", "node", "server"] {
            if self.netns(kind).exists() {
                let name = self.netns_name(kind);
                if let Err(error) = ip(&format!("netns del {name}")) {
                    eprintln!("warning: {name} is left behind: {error:#}");
                }
            }
        }
    }
}

impl Drop for OneNode {
    fn drop(&mut self) {
        self.remove();
    }
}

/// An address and port of a service or pod.
pub(crate) fn at(ip: Ipv6Addr, port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(ip, port, 0, 0)
}

/// A cgroup that this process goes into and out of.
struct Cgroup {
    path: PathBuf,
    home: PathBuf,
}

impl Cgroup {
    fn new(name: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("mounts")?;
        let root = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|fields| fields.get(2) == Some(&"cgroup2"))
            .and_then(|fields| fields.get(1).map(PathBuf::from))
            .context("there is no cgroup v2 hierarchy")?;
        let own = fs::read_to_string("/proc/self/cgroup").context("own cgroup")?;
        let own = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .context("own cgroup")?;
        let path = root.join(format!("seta-t-bench-{}-{name}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self {
            path,
            home: root.join(own),
        })
    }

    fn enter(&self) -> Result<()> {
        fs::write(self.path.join("cgroup.procs"), "0")
            .with_context(|| format!("enter {}", self.path.display()))
    }

    fn leave(&self) -> Result<()> {
        fs::write(self.home.join("cgroup.procs"), "0")
            .with_context(|| format!("go back to {}", self.home.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.path) {
            eprintln!("warning: {} is left behind: {error}", self.path.display());
        }
    }
}

/// A TCP segment without data from the client to an address, as it leaves the pod.
pub(crate) fn pod_packet(
    mac: [u8; 6],
    node_mac: [u8; 6],
    to: &str,
    source_port: u16,
    flags: u8,
) -> Result<Vec<u8>> {
    const ETHERTYPE: [u8; 2] = [0x86, 0xdd];
    const TCP: u8 = 6;
    const TCP_HEADER: u8 = 20;
    const HOP_LIMIT: u8 = 64;
    let mut packet = Vec::new();
    packet.extend(node_mac);
    packet.extend(mac);
    packet.extend(ETHERTYPE);
    packet.extend([0x60, 0, 0, 0, 0, TCP_HEADER, TCP, HOP_LIMIT]);
    packet.extend(address(CLIENT)?.0);
    packet.extend(address(to)?.0);
    packet.extend(source_port.to_be_bytes());
    packet.extend(PORT.to_be_bytes());
    packet.extend([0; 8]);
    packet.extend([(TCP_HEADER / 4) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    Ok(packet)
}
