//! The datapath outlives the agent: killed, restarted, reconfigured and replaced under traffic, no packet is lost.

mod common;

use std::process::Child;

use anyhow::{Context as _, Result, ensure};
use seta_e2e::{Lab, client, server};

/// Names and kernel ids of the pinned maps of a node.
const MAPS: &str = "seta lab exec kind-worker -- sh -c 'for map in /sys/fs/bpf/seta/maps/*; do bpftool map show pinned $map; done' | grep -o '^[0-9]*: [^ ]*  *name [^ ]*'";

/// Pings at 1 ms and a slow transfer, both across nodes, from before to after whatever happens in between.
struct Traffic {
    ping: Child,
    transfer: Child,
}

impl Traffic {
    fn start(lab: &Lab, address: &str) -> Result<Self> {
        let ping = lab.spawn(&format!(
            "kubectl exec client -- ping -6 -i 0.001 -q -w 12 {address}"
        ))?;
        // 40 MB at 4 MB/s: ten seconds on one connection.
        let transfer = lab.spawn(&format!(
            r#"kubectl exec client -- curl -6 -s --limit-rate 4M -o /dev/null -w "%{{http_code}} %{{size_download}}" "http://[{address}]/large""#
        ))?;
        Ok(Self { ping, transfer })
    }

    fn finish(self) -> Result<()> {
        let ping = self.ping.wait_with_output().context("ping")?;
        let text = String::from_utf8_lossy(&ping.stdout).into_owned();
        ensure!(
            ping.status.success() && text.contains(" 0% packet loss"),
            "pings were lost:\n{text}"
        );
        let transfer = self.transfer.wait_with_output().context("curl")?;
        let text = String::from_utf8_lossy(&transfer.stdout).into_owned();
        ensure!(
            transfer.status.success() && text == "200 41943040",
            "the transfer broke: {:?} `{text}`",
            transfer.status
        );
        Ok(())
    }
}

#[test]
fn no_packet_is_lost_when_agents_die_restart_and_are_reconfigured() -> Result<()> {
    let Some(lab) = common::lab("t-outlive")? else {
        return Ok(());
    };
    lab.up_with_seta()?;
    lab.pods(&[
        client("client", "kind-control-plane"),
        server("server", "kind-worker"),
    ])?;
    let address = lab.address("server")?;
    lab.ok("kubectl exec server -- sh -c 'head -c 41943040 /dev/zero > $(nginx -T 2>/dev/null | sed -n \"s/^ *root *\\(.*\\);/\\1/p\" | head -n 1)/large'")?;

    let maps_before = lab.ok(MAPS)?;
    let traffic = Traffic::start(&lab, &address)?;
    for node in ["kind-control-plane", "kind-worker"] {
        lab.kill_agent(node)?;
    }
    lab.healthy()?;
    lab.ok("seta config set monitor-aggregation none")?;
    lab.ok("seta status --wait")?;
    traffic.finish()?;

    ensure!(lab.address("server")? == address, "the server's address changed");
    let maps_after = lab.ok(MAPS)?;
    ensure!(
        maps_before == maps_after,
        "the maps were replaced: {maps_before} became {maps_after}"
    );
    let metrics = lab.ok("kubectl -n kube-system exec ds/cilium -- cilium-dbg bpf metrics list")?;
    ensure!(
        !metrics.contains("Missed tail call"),
        "packets found no program:\n{metrics}"
    );
    Ok(())
}
