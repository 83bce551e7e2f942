//! Every path of a packet: pod to pod on one node and across nodes, pod to host, host to pod, node to node, router.

mod common;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use seta_e2e::{client, server};

#[test]
fn every_pair_that_should_talk_talks() -> Result<()> {
    let Some(lab) = common::lab("t-paths")? else {
        return Ok(());
    };
    lab.up_with_seta()?;
    lab.pods(&[
        client("client", "kind-control-plane"),
        server("near", "kind-control-plane"),
        server("far", "kind-worker"),
    ])?;
    let (near, far) = (lab.address("near")?, lab.address("far")?);
    let get = |from: &str, to: &str| {
        format!(r#"{from} curl -6 -s -m 5 -o /dev/null -w "%{{http_code}}" "http://[{to}]""#)
    };
    for (what, script) in [
        ("pod to pod, one node", get("kubectl exec client --", &near)),
        ("pod to pod, two nodes", get("kubectl exec client --", &far)),
        ("node to its pod", get("seta lab exec kind-worker --", &far)),
        (
            "node to another node's pod",
            get("seta lab exec kind-worker --", &near),
        ),
    ] {
        ensure!(lab.ok(&script)?.contains("200"), "{what}: {script}");
    }
    let ping = |from: &str, rest: &str| format!("{from} ping -6 -c 3 -i 0.05 -W 2 {rest}");
    let router = "$(kubectl get ciliumnode kind-control-plane -o jsonpath='{.spec.addresses[?(@.type==\"CiliumInternalIP\")].ip}')";
    for (what, script) in [
        (
            "pod to its node",
            ping("kubectl exec client --", "fc00:f853:ccd:e793::2"),
        ),
        (
            "pod to the other node",
            ping("kubectl exec client --", "fc00:f853:ccd:e793::3"),
        ),
        ("pod to its router", ping("kubectl exec client --", router)),
        (
            "node to node",
            ping("seta lab exec kind-worker --", "fc00:f853:ccd:e793::2"),
        ),
        (
            "large packets, fragmented",
            ping("kubectl exec client --", &format!("-s 4000 {far}")),
        ),
    ] {
        ensure!(lab.ok(&script)?.contains(" 0% packet loss"), "{what}: {script}");
    }
    // The world sees pods under the address of their node, and answers find their way back.
    let outside = lab.ok("seta lab exec outside -- ip -6 -o address show scope global")?;
    let outside = outside
        .split([' ', '/'])
        .find(|word| word.starts_with("2001:db8:1:"))
        .context("the outside host has no address")?;
    let script = ping("seta lab exec kind-worker --", outside);
    ensure!(
        lab.ok(&script)?.contains(" 0% packet loss"),
        "node to the world: {script}"
    );
    let node = "fc00:f853:ccd:e793::2";
    let seen = lab.ok(&format!(
        "kubectl exec client -- ping -6 -c 50 -i 0.1 -w 5 {outside} > /dev/null & \
         seta lab exec outside -- timeout 10 tcpdump -lni any -c 1 'icmp6 and ip6[40] == 128'"
    ))?;
    ensure!(
        seen.contains(&format!("{node} > {outside}")),
        "pod to the world:\n{seen}"
    );
    let script = ping("kubectl exec client --", outside);
    ensure!(
        lab.ok(&script)?.contains(" 0% packet loss"),
        "pod to the world and back: {script}"
    );
    // And the world reaches a service at a port of every node, whichever of them runs the backend.
    lab.ok("kubectl expose pod far --port=80 --type=NodePort --name=far-web")?;
    let port = lab.ok("kubectl get service far-web -o jsonpath='{.spec.ports[0].nodePort}'")?;
    for node in [node, "fc00:f853:ccd:e793::3"] {
        lab.until(
            Duration::from_secs(10),
            &format!(r#"seta lab exec outside -- curl -6 -s -m 2 -o /dev/null -w "%{{http_code}}" "http://[{node}]:{port}""#),
            |output| output.text == "200",
        )
        .with_context(|| format!("the world to a service by way of {node}"))?;
    }
    // Hop limit 1 ends at the router, which says so.
    let text = lab
        .run(&ping("kubectl exec client --", &format!("-t 1 {far}")))?
        .text;
    ensure!(
        text.contains("Time exceeded"),
        "no time exceeded from the router:\n{text}"
    );
    Ok(())
}

#[test]
fn a_spoofed_source_is_dropped_and_the_drop_says_why() -> Result<()> {
    let Some(lab) = common::lab("t-spoof")? else {
        return Ok(());
    };
    lab.up_with_seta()?;
    lab.pods(&[client("client", "kind-worker"), server("server", "kind-worker")])?;
    let server = lab.address("server")?;
    let agent = lab.agent("kind-worker")?;
    let pid = r#"$(for pid in $(cat /sys/fs/cgroup/kubepods/*/*/cgroup.procs); do tr "\0" " " < /proc/$pid/cmdline | grep -q "sleep 1000" && echo $pid; done | head -n 1)"#;
    // An address that is not the pod's, added from the node as an attacker with NET_ADMIN would.
    lab.ok(&format!(
        r#"seta lab exec kind-worker -- sh -c 'nsenter --net=/proc/{pid}/ns/net ip -6 address add fd00:10:244:1::bad/128 dev eth0 nodad'"#
    ))?;
    let output = lab.run(&format!(
        "kubectl exec client -- ping -6 -c 2 -W 1 -I fd00:10:244:1::bad {server}"
    ))?;
    ensure!(
        output.text.contains("100% packet loss"),
        "the spoofed packet went through:\n{}",
        output.text
    );
    lab.until(
        Duration::from_secs(10),
        &format!("kubectl -n kube-system exec {agent} -- cilium-dbg bpf metrics list"),
        |output| {
            output
                .text
                .lines()
                .any(|line| line.contains("Invalid source ip") && line.contains("EGRESS"))
        },
    )?;
    Ok(())
}
