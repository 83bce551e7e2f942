//! What can sit between the two pods: nothing, redirects only, Seta.

use std::{fs::File, net::Ipv6Addr, path::PathBuf, thread};

use abi::{Addr, Config, Endpoint, Peer, tables::identity};
use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf, EbpfLoader,
    programs::{SchedClassifier, TcAttachType},
};
use loader::{Datapath, MapSizes, Options, ProgramInfo};
use nix::sched::{CloneFlags, setns};

use crate::topology::{NODE, POD, ROUTER, Topology};

/// One way of getting packets from pod to pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Variant {
    /// The kernel's own forwarding, no BPF at all.
    Plain,
    /// A tc program on each device that redirects and does nothing else.
    Limit,
    /// Seta, with everything that is on by default.
    Seta,
    /// Seta with host routing off: the programs watch, the stack forwards.
    SetaStack,
}

impl Variant {
    pub(crate) const ALL: [Self; 4] = [Self::Plain, Self::Limit, Self::Seta, Self::SetaStack];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Limit => "limit",
            Self::Seta => "seta",
            Self::SetaStack => "stack",
        }
    }
}

/// A topology with its programs attached; taken down when dropped.
pub(crate) struct Path {
    pub(crate) topology: Topology,
    datapaths: Vec<Datapath>,
    // Attachments live as long as these.
    limits: Vec<Ebpf>,
    _roots: Vec<Bpffs>,
}

impl Path {
    pub(crate) fn new(variant: Variant) -> Result<Self> {
        let topology = Topology::new(variant.name())?;
        let mut path = Self {
            topology,
            datapaths: Vec::new(),
            limits: Vec::new(),
            _roots: Vec::new(),
        };
        for side in 0..2 {
            match variant {
                Variant::Plain => {}
                Variant::Limit => path.limits.extend(limit(&path.topology, side)?),
                Variant::Seta | Variant::SetaStack => {
                    let root = Bpffs::new(&format!("{}-{side}", variant.name()))?;
                    path.datapaths
                        .push(seta(&path.topology, side, &root, variant == Variant::Seta)?);
                    path._roots.push(root);
                }
            }
        }
        Ok(path)
    }

    /// What the kernel says of the programs of both nodes.
    pub(crate) fn programs(&self) -> Result<Vec<ProgramInfo>> {
        let mut infos = Vec::new();
        for datapath in &self.datapaths {
            infos.extend(datapath.program_infos().context("program information")?);
        }
        for ebpf in &self.limits {
            for name in LIMIT {
                // Each object is loaded for the sake of one of the two.
                let Some(program) = ebpf.program(name).filter(|program| program.fd().is_ok()) else {
                    continue;
                };
                let info = program.info().context("program information")?;
                infos.push(ProgramInfo {
                    name,
                    id: info.id(),
                    verified_instructions: info.verified_instruction_count().unwrap_or(0),
                    jited_bytes: info.size_jitted(),
                    run_time: info.run_time(),
                    run_count: info.run_count(),
                });
            }
        }
        Ok(infos)
    }
}

/// Programs of the limit: out of a node, into a pod.
const LIMIT: [&str; 2] = ["limit_out", "limit_in"];

/// `from_pod` and `from_netdev` of the hand-made kind on one node.
fn limit(topology: &Topology, side: usize) -> Result<Vec<Ebpf>> {
    let (lxc, _) = topology.device("node", side, "lxc")?;
    let (eth0, _) = topology.device("node", side, "eth0")?;
    in_netns(topology.netns("node", side), move || {
        let mut loaded = Vec::new();
        let [out, into] = LIMIT;
        for (program, device, target) in [(out, "lxc", eth0), (into, "eth0", lxc)] {
            let object = aya::include_bytes_aligned!(env!("SETA_BENCH_OBJECT"));
            let mut ebpf = EbpfLoader::new()
                .override_global("IFINDEX", &target, true)
                .load(object)
                .context("load")?;
            let classifier: &mut SchedClassifier =
                ebpf.program_mut(program).context("program")?.try_into()?;
            classifier.load().context("verify")?;
            classifier
                .attach(device, TcAttachType::Ingress)
                .with_context(|| format!("attach to {device}"))?;
            loaded.push(ebpf);
        }
        Ok(loaded)
    })
}

/// The real datapath on one node, with the entries that the agent would make.
fn seta(topology: &Topology, side: usize, root: &Bpffs, host_routing: bool) -> Result<Datapath> {
    let other = 1 - side;
    let (lxc, node_mac) = topology.device("node", side, "lxc")?;
    let (eth0, _) = topology.device("node", side, "eth0")?;
    let (_, mac) = topology.device("pod", side, "eth0")?;
    let options = Options {
        root: root.0.clone(),
        config: Config {
            router_v6: address(ROUTER[side])?,
            host_ifindex: lxc,
            host_routing: host_routing.into(),
            ..Config::default()
        },
        sizes: MapSizes::default(),
        ..Options::default()
    };
    let datapath = Datapath::open(&options).context("load the datapath")?;
    let pod = Endpoint {
        ifindex: lxc,
        identity: 1000,
        id: 1,
        flags: 0,
        mtu: 1500,
        mac,
        node_mac,
        ..Endpoint::default()
    };
    datapath.endpoints().insert(&address(POD[side])?, &pod)?;
    datapath.devices().insert(&lxc, &address(POD[side])?)?;
    let host = Endpoint {
        identity: identity::HOST,
        flags: Endpoint::HOST,
        ..Endpoint::default()
    };
    datapath.endpoints().insert(&address(NODE[side])?, &host)?;
    let peers = [
        (POD[other], 1001),
        (POD[side], 1000),
        (NODE[other], identity::REMOTE_NODE),
        (NODE[side], identity::HOST),
    ];
    for (text, identity) in peers {
        datapath.ipcache().insert(
            &address(text)?,
            &Peer {
                identity,
                flags: 0,
                node: Addr::UNSPECIFIED,
            },
        )?;
    }
    in_netns(topology.netns("node", side), move || {
        datapath.attach_pod(lxc)?;
        datapath.attach_netdev(eth0)?;
        Ok(datapath)
    })
}

pub(crate) fn address(text: &str) -> Result<Addr> {
    Ok(Addr(
        text.parse::<Ipv6Addr>()
            .with_context(|| format!("`{text}` is no address"))?
            .octets(),
    ))
}

/// Interface indexes mean something only inside their namespace; a thread of its own goes there and ends.
pub(crate) fn in_netns<T: Send + 'static>(
    netns: PathBuf,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let thread = thread::spawn(move || {
        setns(
            File::open(&netns).with_context(|| format!("open {}", netns.display()))?,
            CloneFlags::CLONE_NEWNET,
        )?;
        work()
    });
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// A bpffs of its own for the pins of one node.
pub(crate) struct Bpffs(PathBuf);

impl Bpffs {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let root = PathBuf::from(format!("/run/seta-bench/{name}"));
        std::fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
        let bpffs = Self(root);
        bpffs.unmount();
        let status = std::process::Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(&bpffs.0)
            .status()
            .context("mount")?;
        if !status.success() {
            bail!("cannot mount bpffs at {}", bpffs.0.display());
        }
        Ok(bpffs)
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.0
    }

    fn unmount(&self) {
        // Unmounting what is not mounted is what usually happens: the directory is new.
        let _ = nix::mount::umount(&self.0);
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        self.unmount();
        if let Err(error) = std::fs::remove_dir(&self.0) {
            eprintln!("warning: {} is left behind: {error}", self.0.display());
        }
    }
}
