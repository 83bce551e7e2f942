//! pod – node – node – pod in four network namespaces, the same for every variant: only the programs differ.

use std::{net::Ipv6Addr, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::traffic::Place;

/// Four namespaces `seta-bench-<name>-{pod1,node1,node2,pod2}`, joined by veths. Removed when dropped.
#[derive(Debug)]
pub(crate) struct Topology {
    name: &'static str,
}

/// What sits on which side: index 0 is the client's.
pub(crate) const POD: [&str; 2] = ["fd00:10:244::a", "fd00:10:244:1::b"];
const POD_BLOCK: [&str; 2] = ["fd00:10:244::/64", "fd00:10:244:1::/64"];
pub(crate) const ROUTER: [&str; 2] = ["fd00:10:244::1", "fd00:10:244:1::1"];
pub(crate) const NODE: [&str; 2] = ["fc00:f853:ccd:e793::2", "fc00:f853:ccd:e793::3"];

impl Topology {
    /// Build it: addresses without duplicate address detection, routes both ways, forwarding on, everything by the stack.
    pub(crate) fn new(name: &'static str) -> Result<Self> {
        let topology = Self { name };
        topology.remove();
        for side in 0..2 {
            for kind in ["pod", "node"] {
                let netns = topology.netns_name(kind, side);
                ip(&format!("netns add {netns}"))?;
                topology.sysctl(kind, side, "net/ipv6/conf/all/accept_dad", "0")?;
                topology.sysctl(kind, side, "net/ipv6/conf/default/accept_dad", "0")?;
                topology.ip_in(kind, side, "link set lo up")?;
            }
            let (pod, node) = (
                topology.netns_name("pod", side),
                topology.netns_name("node", side),
            );
            ip(&format!(
                "link add lxc netns {node} type veth peer name eth0 netns {pod}"
            ))?;
            topology.ip_in(
                "pod",
                side,
                &format!("address add {}/128 dev eth0 nodad", POD[side]),
            )?;
            topology.ip_in("pod", side, "link set eth0 up")?;
            topology.ip_in(
                "node",
                side,
                &format!("address add {}/128 dev lxc nodad", ROUTER[side]),
            )?;
            topology.ip_in("node", side, "link set lxc up")?;
            topology.ip_in("pod", side, &format!("route add {}/128 dev eth0", ROUTER[side]))?;
            topology.ip_in(
                "pod",
                side,
                &format!("route add default via {} dev eth0", ROUTER[side]),
            )?;
            topology.ip_in("node", side, &format!("route add {}/128 dev lxc", POD[side]))?;
            topology.sysctl("node", side, "net/ipv6/conf/all/forwarding", "1")?;
        }
        ip(&format!(
            "link add eth0 netns {} type veth peer name eth0 netns {}",
            topology.netns_name("node", 0),
            topology.netns_name("node", 1)
        ))?;
        for (side, address) in NODE.iter().enumerate() {
            topology.ip_in("node", side, &format!("address add {address}/64 dev eth0 nodad"))?;
            topology.ip_in("node", side, "link set eth0 up")?;
        }
        // Neighbours are given, not asked for: programs that only redirect would carry the questions away.
        for side in 0..2 {
            let other = 1 - side;
            for (kind, address, device, owner) in [
                ("pod", ROUTER[side], "eth0", ("node", side, "lxc")),
                ("node", POD[side], "lxc", ("pod", side, "eth0")),
                ("node", NODE[other], "eth0", ("node", other, "eth0")),
            ] {
                let (_, mac) = topology.device(owner.0, owner.1, owner.2)?;
                let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
                topology.ip_in(
                    kind,
                    side,
                    &format!("neighbour replace {address} lladdr {mac} dev {device} nud permanent"),
                )?;
            }
            topology.ip_in(
                "node",
                side,
                &format!("route add {} via {} dev eth0", POD_BLOCK[other], NODE[other]),
            )?;
        }
        Ok(topology)
    }

    /// One end of the measurement.
    pub(crate) fn place(&self, side: usize) -> Result<Place> {
        let address: Ipv6Addr = POD[side].parse().context("address")?;
        Ok(Place {
            netns: self.netns("pod", side),
            address,
        })
    }

    /// The namespace of a pod or node, as a file.
    pub(crate) fn netns(&self, kind: &str, side: usize) -> PathBuf {
        PathBuf::from("/run/netns").join(self.netns_name(kind, side))
    }

    /// Interface index and MAC address of a device.
    pub(crate) fn device(&self, kind: &str, side: usize, device: &str) -> Result<(u32, [u8; 6])> {
        index_and_mac(&output(&format!(
            "-n {} -j link show dev {device}",
            self.netns_name(kind, side)
        ))?)
    }

    fn netns_name(&self, kind: &str, side: usize) -> String {
        format!("seta-bench-{}-{kind}{}", self.name, side + 1)
    }

    fn ip_in(&self, kind: &str, side: usize, args: &str) -> Result<()> {
        ip(&format!("-n {} {args}", self.netns_name(kind, side)))
    }

    fn sysctl(&self, kind: &str, side: usize, key: &str, value: &str) -> Result<()> {
        let script = format!("echo {value} > /proc/sys/{key}");
        let netns = format!("--net={}", self.netns(kind, side).display());
        let status = Command::new("nsenter")
            .args([&netns, "sh", "-c", &script])
            .status()
            .context("nsenter")?;
        if !status.success() {
            bail!("{key}={value} in {netns}: {status}");
        }
        Ok(())
    }

    fn remove(&self) {
        for side in 0..2 {
            for kind in ["pod", "node"] {
                if self.netns(kind, side).exists() {
                    let name = self.netns_name(kind, side);
                    if let Err(error) = ip(&format!("netns del {name}")) {
                        eprintln!("warning: {name} is left behind: {error:#}");
                    }
                }
            }
        }
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        self.remove();
    }
}

/// From what `ip -j link show` prints of a device.
pub(crate) fn index_and_mac(text: &str) -> Result<(u32, [u8; 6])> {
    let links: serde_json::Value = serde_json::from_str(text).context("ip -j")?;
    let index = links[0]["ifindex"].as_u64().context("ifindex")?;
    let mut mac = [0; 6];
    let text = links[0]["address"].as_str().context("address")?;
    for (byte, part) in mac.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(part, 16).context("MAC address")?;
    }
    Ok((u32::try_from(index).context("ifindex")?, mac))
}

pub(crate) fn ip(args: &str) -> Result<()> {
    output(args).map(drop)
}

pub(crate) fn output(args: &str) -> Result<String> {
    let output = Command::new("ip")
        .args(args.split_whitespace())
        .output()
        .context("cannot start ip")?;
    if !output.status.success() {
        bail!("ip {args}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
