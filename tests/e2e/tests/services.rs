//! Services from inside the cluster: by address, by name, by node port, to oneself, without endpoints, and while everything
//! around them is replaced.

mod common;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use seta_e2e::{Lab, client, server};

const DEADLINE: Duration = Duration::from_secs(20);

/// Asks for a page again and again for some seconds, with a new connection and a new name lookup each time.
const REQUESTS: &str = r#"kubectl exec client -- sh -c '
asked=0; failed=0; end=$(($(date +%s) + 15))
while [ $(date +%s) -lt $end ]; do
  asked=$((asked + 1))
  code=$(curl -6 -s -m 5 -o /dev/null -w "%{http_code}" http://web.default.svc)
  [ "$code" = 200 ] || { failed=$((failed + 1)); echo "request $asked: $code"; }
done
echo "asked $asked failed $failed"'"#;

/// The code of a request of a pod.
fn code(lab: &Lab, pod: &str, url: &str) -> Result<String> {
    let script = format!(r#"kubectl exec {pod} -- curl -6 -s -m 5 -o /dev/null -w "%{{http_code}}" "{url}""#);
    Ok(lab.run(&script)?.text)
}

#[test]
fn services_are_reached_by_address_name_and_node_port() -> Result<()> {
    let Some(lab) = common::lab("t-services")? else {
        return Ok(());
    };
    lab.up_with_seta()?;
    lab.pods(&[
        client("client", "kind-control-plane"),
        server("server", "kind-worker"),
    ])?;
    lab.ok("kubectl -n kube-system rollout status deploy/coredns --timeout=60s")?;
    lab.ok("kubectl expose pod server --port=80 --type=NodePort --name=web")?;
    let address = lab.ok("kubectl get service web -o jsonpath='{.spec.clusterIP}'")?;
    let port = lab.ok("kubectl get service web -o jsonpath='{.spec.ports[0].nodePort}'")?;

    let reached = |url: &str| {
        let script =
            format!(r#"kubectl exec client -- curl -6 -s -m 5 -o /dev/null -w "%{{http_code}}" "{url}""#);
        lab.until(DEADLINE, &script, |output| output.text == "200")
            .map(drop)
    };
    reached(&format!("http://[{address}]"))?;
    reached("http://web")?;
    reached("http://web.default.svc.cluster.local")?;
    for node in ["kind-control-plane", "kind-worker"] {
        let node = lab.ok(&format!(
            "kubectl get node {node} -o jsonpath='{{.status.addresses[?(@.type==\"InternalIP\")].address}}'"
        ))?;
        reached(&format!("http://[{node}]:{port}"))?;
    }
    // The server by its own service, and a process of a node.
    ensure!(code(&lab, "server", &format!("http://[{address}]"))? == "200");
    let from_node = lab.ok(&format!(
        r#"seta lab exec kind-control-plane -- curl -6 -s -m 5 -o /dev/null -w "%{{http_code}}" "http://[{address}]""#
    ))?;
    ensure!(from_node == "200", "from the node: {from_node}");

    // Without endpoints: refused at once (curl's 7), not silence (28). The name stays.
    lab.ok("kubectl create service clusterip empty --tcp=80")?;
    lab.until(
        DEADLINE,
        "kubectl exec client -- curl -6 -s -m 2 -o /dev/null http://empty",
        |output| output.code == 7,
    )?;
    // The name of nothing is unknown, also at once.
    lab.until(
        DEADLINE,
        "kubectl exec client -- curl -6 -s -m 2 -o /dev/null http://nothing",
        |output| output.code == 6,
    )?;
    // A service that goes is a service no more.
    lab.ok("kubectl delete service web")?;
    lab.until(
        DEADLINE,
        "kubectl exec client -- curl -6 -s -m 2 -o /dev/null http://web",
        |output| output.code == 6,
    )?;
    Ok(())
}

#[test]
fn no_request_fails_while_agents_backends_and_dns_are_replaced() -> Result<()> {
    let Some(lab) = common::lab("t-rolling")? else {
        return Ok(());
    };
    lab.up_with_seta()?;
    lab.pods(&[client("client", "kind-control-plane")])?;
    lab.apply(
        "apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: nginx
        image: nginx
        ports: [{containerPort: 80}]
        readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
        lifecycle: {preStop: {exec: {command: [sleep, '2']}}}
",
    )?;
    lab.ok("kubectl expose deployment web --port=80")?;
    lab.ok("kubectl rollout status deployment/web --timeout=60s")?;
    lab.ok("kubectl -n kube-system rollout status deploy/coredns --timeout=60s")?;
    lab.until(
        DEADLINE,
        "kubectl exec client -- curl -6 -s -m 5 -o /dev/null http://web.default.svc",
        |output| output.code == 0,
    )?;

    let requests = lab.spawn(REQUESTS)?;
    for node in ["kind-control-plane", "kind-worker"] {
        lab.kill_agent(node)?;
    }
    lab.ok("kubectl rollout restart deployment/web && kubectl rollout status deployment/web --timeout=60s")?;
    lab.ok("kubectl -n kube-system rollout restart deploy/coredns")?;
    let ended = requests.wait_with_output().context("the requests")?;
    let text = String::from_utf8_lossy(&ended.stdout);
    ensure!(
        text.contains(" failed 0") && !text.contains("asked 0"),
        "requests failed:\n{text}"
    );
    Ok(())
}
