//! Workloads and nodes that come and go.

mod common;

use std::time::Duration;

use anyhow::{Result, ensure};
use seta_e2e::client;

const WORKLOADS: &str = "apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      terminationGracePeriodSeconds: 0
      tolerations: [{operator: Exists}]
      containers: [{name: web, image: nginx}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: web, image: nginx}]
";

/// Addresses of the pods with this label, one a line.
fn addresses(app: &str) -> String {
    format!(
        "kubectl get pods -l app={app} -o jsonpath='{{range .items[*]}}{{.status.podIP}}{{\"\\n\"}}{{end}}'"
    )
}

#[test]
fn three_nodes_know_each_others_pods() -> Result<()> {
    let Some(lab) = common::lab("t-three")? else {
        return Ok(());
    };
    lab.up_with_seta_on(3)?;
    let blocks = ["fd00:10:244::/64", "fd00:10:244:1::/64", "fd00:10:244:2::/64"];
    for (index, node) in ["kind-control-plane", "kind-worker", "kind-worker2"]
        .iter()
        .enumerate()
    {
        let routes = lab.ok(&format!("seta lab exec {node} -- ip -6 route"))?;
        for (other, block) in blocks.iter().enumerate().filter(|(other, _)| *other != index) {
            let route = format!("{block} via fc00:f853:ccd:e793::{} dev eth0", other + 2);
            ensure!(routes.contains(&route), "{node} has no `{route}`:\n{routes}");
        }
    }
    lab.apply(WORKLOADS)?;
    lab.apply(&client("client", "kind-worker2"))?;
    lab.ok("kubectl rollout status ds/everywhere --timeout=60s")?;
    lab.ok("kubectl wait --for=condition=Ready pod/client --timeout=60s")?;
    let found = lab.ok(&addresses("everywhere"))?;
    ensure!(found.lines().count() == 3, "not a pod on each node:\n{found}");
    for address in found.lines() {
        let text = lab.ok(&format!(
            r#"kubectl exec client -- curl -6 -s -m 5 -o /dev/null -w "%{{http_code}}" "http://[{address}]""#
        ))?;
        ensure!(text == "200", "{address} answers {text}");
    }
    // A node that is no more is no destination any more.
    lab.ok("kubectl delete node kind-worker")?;
    lab.until(
        Duration::from_secs(20),
        "seta lab exec kind-worker2 -- ip -6 route",
        |output| output.code == 0 && !output.text.contains("fd00:10:244:1::/64"),
    )?;
    Ok(())
}

#[test]
fn workloads_roll_out_scale_and_are_collected() -> Result<()> {
    let Some(lab) = common::lab("t-rollout")? else {
        return Ok(());
    };
    lab.up_with_seta()?;
    lab.apply(WORKLOADS)?;
    let text = lab.ok("kubectl rollout status ds/everywhere --timeout=60s && kubectl rollout status deploy/web --timeout=60s")?;
    ensure!(text.contains("successfully rolled out"), "{text}");
    let before = lab.ok(&addresses("web"))?;
    lab.ok("kubectl set env deploy/web COLOUR=blue && kubectl rollout status deploy/web --timeout=60s")?;
    let count = "kubectl get pods -l app=web --no-headers | wc -l";
    lab.until(Duration::from_secs(20), count, |output| output.text.trim() == "2")?;
    let after = lab.ok(&addresses("web"))?;
    ensure!(
        !before.lines().any(|address| after.contains(address)),
        "an address was given away at once: {before} {after}"
    );
    lab.ok("kubectl scale deploy/web --replicas=4 && kubectl rollout status deploy/web --timeout=60s")?;
    ensure!(
        lab.ok(&addresses("web"))?.lines().count() == 4,
        "there are not four pods"
    );
    lab.ok("kubectl scale deploy/web --replicas=1")?;
    lab.until(Duration::from_secs(20), count, |output| output.text.trim() == "1")?;
    lab.ok("kubectl delete deploy/web ds/everywhere --timeout=30s")?;
    // Garbage collection: what they owned goes with them, and so does what the agents made for it.
    lab.until(
        Duration::from_secs(30),
        "kubectl get pods,replicasets,ciliumendpoints",
        |output| output.text.contains("No resources found"),
    )?;
    let endpoints = "kubectl -n kube-system exec ds/cilium -- cilium-dbg endpoint list";
    lab.until(Duration::from_secs(10), endpoints, |output| {
        output.code == 0 && !output.text.contains("k8s:app=")
    })?;
    Ok(())
}

#[test]
fn uninstall_leaves_nothing_on_the_nodes() -> Result<()> {
    let Some(lab) = common::lab("t-uninstall")? else {
        return Ok(());
    };
    lab.up_with_seta()?;
    lab.pods(&[
        client("here", "kind-control-plane"),
        client("there", "kind-worker"),
    ])?;
    let left = |node: &str| {
        lab.ok(&format!(
            r#"seta lab exec {node} -- sh -c '
ls -d /sys/fs/bpf/seta /etc/cni/net.d/* /opt/cni/bin/cilium-cni /var/run/cilium/* 2>/dev/null
ip -6 route | grep fd00:10
ip -o link | grep -e lxc -e cilium
bpftool net list | grep -e seta -e eth0
true'"#
        ))
    };
    // What is looked for is there as long as Seta is, or this test could not fail.
    let before = left("kind-worker")?;
    for trace in [
        "/sys/fs/bpf/seta",
        "05-cilium.conflist",
        "cilium-cni",
        "fd00:10:244::/64",
        "lxc",
        "cilium_host",
        "eth0",
    ] {
        ensure!(before.contains(trace), "`{trace}` is not there before:\n{before}");
    }
    lab.ok("seta uninstall")?;
    for node in ["kind-control-plane", "kind-worker"] {
        let after = left(node)?;
        ensure!(after.trim().is_empty(), "{node} still has:\n{after}");
    }
    let objects = lab.ok(
        "kubectl get ds,deploy,cm,sa,secrets -n kube-system; kubectl get clusterroles,clusterrolebindings",
    )?;
    ensure!(!objects.contains("cilium"), "objects are left:\n{objects}");
    ensure!(
        lab.ok("seta uninstall")?.contains("not installed"),
        "a second uninstall does not say that there is nothing to do"
    );
    // And again, over what was left, if anything was.
    lab.ok("seta install --wait")?;
    lab.pods(&[client("again", "kind-worker")])?;
    Ok(())
}
