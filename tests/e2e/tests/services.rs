//! Services from inside the cluster: by address, by name, by node port, to oneself, without endpoints, and while everything
//! around them is replaced.

mod common;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use seta_e2e::{Lab, client, server};

const DEADLINE: Duration = Duration::from_secs(20);

/// Asks for a page again and again until it is told to end, with a new connection and a new name lookup each time.
const REQUESTS: &str = r#"kubectl exec client -- sh -c '
asked=0; failed=0; end=$(($(date +%s) + 100))
until [ -e /tmp/enough ] || [ $(date +%s) -ge $end ]; do
  asked=$((asked + 1))
  code=$(curl -6 -s -m 5 -o /dev/null -w "%{http_code}" http://web.default.svc)
  [ "$code" = 200 ] || { failed=$((failed + 1)); echo "request $asked: $code"; }
done
echo "asked $asked failed $failed"'"#;

/// Backends of the UDP service: each answers every datagram with its name (Bash cannot receive datagrams; Perl is part of
/// every Debian).
const DATAGRAMS: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: echo}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: curlimages/curl
    command: [perl, -MIO::Socket::IP, -e]
    args: ['$s=IO::Socket::IP->new(LocalHost=>"::",LocalPort=>5353,Proto=>"udp") or die; while(defined($s->recv($b,9))){$s->send("NAME\n")}']
    ports: [{containerPort: 5353, protocol: UDP}]
---
"#;

/// One connected socket that asks ten times a second and prints who answers, or why nobody does; it goes on with a new
/// socket only when a call fails.
const ASKER: &str = r#"kubectl exec client -- timeout 30 perl -MIO::Socket::IP -e '
$|=1;
for (1..200) {
  $s //= IO::Socket::IP->new(PeerHost=>"ADDRESS",PeerPort=>5353,Proto=>"udp") or die;
  $SIG{ALRM}=sub{}; my $ok = $s->send("?");
  my $r=""; vec($r,fileno($s),1)=1;
  if ($ok && select($r,undef,undef,0.3)) { if (defined $s->recv($b,9)) { print $b } else { print "error $!\n"; undef $s } }
  elsif (!$ok) { print "error $!\n"; undef $s } else { print "silence\n" }
  select(undef,undef,undef,0.1);
}'"#;

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
    for what in ["deploy/coredns", "ds/cilium"] {
        lab.ok(&format!(
            "kubectl -n kube-system rollout restart {what} && kubectl -n kube-system rollout status {what} --timeout=60s"
        ))?;
    }
    lab.ok("seta upgrade --set bpf.monitorAggregation=low && seta status --wait")?;
    lab.ok("kubectl exec client -- touch /tmp/enough")?;
    let ended = requests.wait_with_output().context("the requests")?;
    let text = String::from_utf8_lossy(&ended.stdout);
    let asked: u32 = text
        .rsplit_once("asked ")
        .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok())
        .with_context(|| format!("the requests never ended:\n{text}"))?;
    ensure!(text.contains(" failed 0"), "requests failed:\n{text}");
    // The slowest of them, a lookup and a page, takes a tenth of a second on a busy machine.
    ensure!(asked >= 50, "only {asked} requests were made");
    Ok(())
}

/// Two servers, one per node, that answer with their node's name.
const NAMED: &str = "apiVersion: v1
kind: Pod
metadata: {name: on-NODE, labels: {app: named}}
spec:
  terminationGracePeriodSeconds: 0
  nodeSelector: {kubernetes.io/hostname: NODE}
  containers:
  - name: nginx
    image: nginx
    ports: [{containerPort: 80}]
    lifecycle: {postStart: {exec: {command: [sh, -c, 'echo NODE > /usr/share/nginx/html/index.html']}}}
---
";

#[test]
fn clients_stay_with_their_backend_or_their_node_where_the_service_says_so() -> Result<()> {
    let Some(lab) = common::lab("t-affinity")? else {
        return Ok(());
    };
    lab.up_with_seta()?;
    lab.pods(&[
        client("client", "kind-control-plane"),
        NAMED.replace("NODE", "kind-control-plane"),
        NAMED.replace("NODE", "kind-worker"),
    ])?;
    lab.apply(
        "apiVersion: v1
kind: Service
metadata: {name: any}
spec: {selector: {app: named}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec:
  selector: {app: named}
  ports: [{port: 80}]
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 2}}
---
apiVersion: v1
kind: Service
metadata: {name: near}
spec: {selector: {app: named}, ports: [{port: 80}], internalTrafficPolicy: Local}
---
",
    )?;
    // What thirty requests are answered by: each name once.
    let answers = |service: &str| -> Result<Vec<String>> {
        let address = lab.ok(&format!(
            "kubectl get service {service} -o jsonpath='{{.spec.clusterIP}}'"
        ))?;
        let script = format!(
            "kubectl exec client -- sh -c 'for i in $(seq 30); do curl -6 -s -m 2 http://[{address}] || echo failed; done' | sort -u"
        );
        Ok(lab.ok(&script)?.lines().map(str::to_owned).collect())
    };
    let both = lab.localised("kind-control-plane kind-worker");
    let both: Vec<&str> = both.split(' ').collect();
    let end = std::time::Instant::now() + DEADLINE;
    while answers("any")? != both {
        ensure!(std::time::Instant::now() < end, "both servers never answered");
    }
    ensure!(answers("near")? == both[..1], "traffic stays on the node");
    let kept = answers("sticky")?;
    ensure!(
        kept.len() == 1 && both.contains(&kept[0].as_str()),
        "a client stays with its backend: {kept:?}"
    );
    // After its time the client is anybody again: within some rounds it is sent to the other one.
    let address = lab.ok("kubectl get service sticky -o jsonpath='{.spec.clusterIP}'")?;
    let script = format!("sleep 2.2; kubectl exec client -- curl -6 -s -m 2 http://[{address}]");
    lab.until(Duration::from_secs(60), &script, |output| {
        let answer = output.text.trim();
        both.contains(&answer) && answer != kept[0]
    })
    .context("affinity ends")?;
    Ok(())
}

#[test]
fn a_connected_datagram_socket_is_told_when_its_backend_goes() -> Result<()> {
    let Some(lab) = common::lab("t-datagram")? else {
        return Ok(());
    };
    lab.up_with_seta()?;
    lab.pods(&[
        client("client", "kind-control-plane"),
        DATAGRAMS.replace("NAME", "one"),
        DATAGRAMS.replace("NAME", "two"),
    ])?;
    lab.ok("kubectl create service clusterip echo --tcp=1 --dry-run=client -o json | sed 's/TCP/UDP/; s/\"port\": 1/\"port\": 5353/; s/\"targetPort\": 1/\"targetPort\": 5353/' | kubectl apply -f -")?;
    let address = lab.ok("kubectl get service echo -o jsonpath='{.spec.clusterIP}'")?;
    lab.until(
        DEADLINE,
        "kubectl get endpointslices -l kubernetes.io/service-name=echo -o jsonpath='{.items[*].endpoints[*].conditions.ready}'",
        |output| output.text == "true true",
    )?;

    let directory = tempfile::tempdir()?;
    let file = directory.path().join("answers");
    let mut asker = lab.spawn(&format!(
        "{{ {} ; }} > {} 2>&1",
        ASKER.replace("ADDRESS", &address),
        file.display()
    ))?;
    let shows = |name: &str| format!("grep -c {name} {}", file.display());
    let first = lab.until(DEADLINE, &format!("tail -n 1 {}", file.display()), |output| {
        ["one\n", "two\n"].contains(&output.text.as_str())
    })?;
    let (first, second) = if first.text == "one\n" {
        ("one", "two")
    } else {
        ("two", "one")
    };
    ensure!(
        lab.run(&shows(second))?.text == "0\n",
        "a connected socket stays with its backend"
    );
    lab.ok(&format!("kubectl delete pod {first} --wait=false"))?;
    let told = lab.until(DEADLINE, &shows(second), |output| {
        output.code == 0 && output.text != "0\n"
    });
    let _ = asker.kill();
    let text = std::fs::read_to_string(&file)?;
    told.with_context(|| format!("the other backend never answered:\n{text}"))?;
    ensure!(
        text.contains("error"),
        "the socket was closed with an error:\n{text}"
    );
    ensure!(
        text.matches("silence").count() <= 5,
        "the socket was told late:\n{text}"
    );
    Ok(())
}
