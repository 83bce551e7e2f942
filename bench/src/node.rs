//! The agent and the CNI plugin on a real lab: ADD, first packet, start with 100 pods, memory.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use seta_e2e::Lab;

use crate::table::{median, percentile};

/// Pods on the node when the agent is restarted.
const PODS: usize = 100;

pub(crate) fn run(seta: &Path, adds: usize) -> Result<()> {
    let lab = Lab::new("t-bench", seta)?;
    lab.up_with_seta()?;
    cni(&lab, adds)?;
    start(&lab)
}

/// What a kubelet does: a namespace, then the plugin as a process. The floor is the same with `/bin/true`.
fn cni(lab: &Lab, adds: usize) -> Result<()> {
    // One shell in the node runs all of it and prints nanoseconds; what it costs itself is in the floor.
    let script = format!(
        r#"seta lab exec kind-worker -- bash -c '
conf=$(jq -c "{{cniVersion: .cniVersion, name: .name}} + .plugins[0]" /etc/cni/net.d/05-cilium.conflist)
plugin=/opt/cni/bin/$(jq -r .type <<< "$conf")
cni() {{ CNI_COMMAND=$1 CNI_CONTAINERID=bench$2 CNI_NETNS=/run/netns/bench$2 CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin \
  CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=bench$2" $plugin <<< "$conf"; }}
trap "for i in \$(seq {adds}); do cni DEL \$i; ip netns del bench\$i; done > /dev/null 2>&1" EXIT
for i in $(seq {adds}); do
  ip netns add bench$i
  a=$(date +%s%N); /bin/true <<< "$conf"; b=$(date +%s%N)
  cni ADD $i > /tmp/bench-result || {{ cat /tmp/bench-result; exit 1; }}
  c=$(date +%s%N)
  gateway=$(jq -r ".ips[0].gateway" /tmp/bench-result)
  d=$(date +%s%N)
  nsenter --net=/run/netns/bench$i ping -6 -q -c 1 -W 1 $gateway > /dev/null || exit 1
  e=$(date +%s%N)
  cni DEL $i; f=$(date +%s%N)
  echo sample $((b-a)) $((c-b)) $((e-d)) $((f-e))
done'"#
    );
    let text = lab.ok(&script)?;
    let mut columns: [Vec<f64>; 4] = Default::default();
    for line in text.lines().filter_map(|line| line.strip_prefix("sample ")) {
        for (column, number) in columns.iter_mut().zip(line.split_whitespace()) {
            column.push(number.parse::<f64>().context("a sample is no number")? / 1e6);
        }
    }
    if columns[0].len() != adds {
        bail!("{} of {adds} samples came back:\n{text}", columns[0].len());
    }
    println!("\nCNI, {adds} pods one after the other, milliseconds");
    println!("{:<44} {:>8} {:>8} {:>8}", "", "p50", "p99", "max");
    let names = [
        "empty process (floor)",
        "ADD, plugin process included",
        "first echo after ADD, ping process included",
        "DEL, plugin process included",
    ];
    for (name, column) in names.iter().zip(&columns) {
        println!(
            "{name:<44} {:>8.1} {:>8.1} {:>8.1}",
            median(column),
            percentile(column, 0.99),
            percentile(column, 1.0)
        );
    }
    Ok(())
}

/// The agent of a node with many pods: killed, started by the kubelet, ready.
fn start(lab: &Lab) -> Result<()> {
    let manifests: Vec<String> = (0..PODS)
        .map(|number| seta_e2e::client(&format!("bench-{number}"), "kind-worker"))
        .collect();
    let started = Instant::now();
    lab.apply(&manifests.concat())?;
    lab.until(
        Duration::from_secs(300),
        "kubectl get pods --no-headers | grep -c ' Running '",
        |output| {
            output
                .text
                .trim()
                .parse::<usize>()
                .is_ok_and(|links| links >= PODS)
        },
    )?;
    println!(
        "\nAgent with {PODS} pods on its node ({:.1} s from apply to all of them running)",
        started.elapsed().as_secs_f64()
    );
    // Links follow a second after the last pod, 25 ms each; an agent killed before that makes them at its start.
    lab.until(
        Duration::from_secs(60),
        "seta lab exec kind-worker -- sh -c 'ls /sys/fs/bpf/seta/links | grep -c from_pod'",
        |output| {
            output
                .text
                .trim()
                .parse::<usize>()
                .is_ok_and(|links| links >= PODS)
        },
    )?;
    let agent = lab.agent("kind-worker")?;
    let log = |previous: &str| {
        lab.ok(&format!(
            "kubectl -n kube-system logs {agent} | grep -o 'ready node=.*'{previous}"
        ))
    };
    let first = log("")?;
    lab.kill_agent("kind-worker")?;
    let again = lab.until(
        Duration::from_secs(60),
        &format!("kubectl -n kube-system logs {agent} | grep -o 'ready node=.*'"),
        // The DNS server's pods may be on this node, too.
        |output| output.code == 0 && output.text != first && pods(&output.text) >= PODS,
    )?;
    println!("  at install:  {}", first.trim());
    println!("  restarted:   {}", again.text.trim());
    let memory = lab.ok(
        r#"seta lab exec kind-worker -- sh -c 'for pid in $(cat $(find /sys/fs/cgroup -name cgroup.procs)); do
  case "$(tr "\0" " " 2> /dev/null < /proc/$pid/cmdline)" in cilium-agent*) grep -E "VmRSS|RssAnon" /proc/$pid/status;; esac
done'"#,
    )?;
    println!(
        "  memory:      {}",
        memory.split_whitespace().collect::<Vec<_>>().join(" ")
    );
    Ok(())
}

/// The number in `ready node="kind-worker" pods=100 took=…`.
fn pods(line: &str) -> usize {
    let number = line.split_once("pods=").map(|(_, rest)| rest);
    number
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}
