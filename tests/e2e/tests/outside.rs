//! Services from outside the cluster, packet by packet: addresses of load balancers, external IPs, host ports, and the way back of
//! errors; and from pods whose sockets no hook sees.

mod common;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use seta_e2e::{Lab, client, server};

const DEADLINE: Duration = Duration::from_secs(20);
const NODES: [&str; 2] = ["fc00:f853:ccd:e793::2", "fc00:f853:ccd:e793::3"];
/// The outside host, as the lab makes it.
const OUTSIDE: &str = "2001:db8:1::2";

/// A pod of the worker that tells by whom it is asked: to TCP on 8000 as a web page (`/big`: three megabytes), to UDP on 5300
/// with the length of the question.
const WHO: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: who, labels: {app: who}}
spec:
  terminationGracePeriodSeconds: 0
  nodeSelector: {kubernetes.io/hostname: kind-worker}
  containers:
  - name: main
    image: curlimages/curl
    ports: [{containerPort: 8000, hostPort: 8088}]
    readinessProbe: {tcpSocket: {port: 8000}, periodSeconds: 1}
    command: [perl, -e]
    args:
    - |
      use IO::Socket::IP; use Socket qw(getnameinfo NI_NUMERICHOST NI_NUMERICSERV);
      if (!fork) {
        my $u = IO::Socket::IP->new(LocalHost => "::", LocalPort => 5300, Proto => "udp") or die;
        while (my $from = $u->recv(my $b, 65535)) {
          my (undef, $host) = getnameinfo($from, NI_NUMERICHOST | NI_NUMERICSERV);
          $u->send(length($b) . " bytes from $host\n", 0, $from);
        }
        exit;
      }
      my $s = IO::Socket::IP->new(LocalHost => "::", LocalPort => 8000, Listen => 9, ReuseAddr => 1) or die;
      while (my $c = $s->accept) {
        my $ask = <$c>;
        while (<$c>) { last if /^\r?$/ }
        my $body = $ask =~ m{/big} ? "x" x 3000000 : $c->peerhost . "\n";
        print $c "HTTP/1.0 200 OK\r\nContent-Length: " . length($body) . "\r\n\r\n$body";
        close $c;
      }
---
"#;

/// Services of that pod, of every kind that is reached from outside.
const SERVICES: &str = r#"apiVersion: cilium.io/v2alpha1
kind: CiliumLoadBalancerIPPool
metadata: {name: pool}
spec: {blocks: [{start: "2001:db8:2::10", stop: "2001:db8:2::99"}]}
---
apiVersion: v1
kind: Service
metadata: {name: anywhere}
spec:
  type: LoadBalancer
  selector: {app: who}
  ports: [{port: 80, targetPort: 8000}]
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: who}
  ports: [{port: 80, targetPort: 8000}]
---
apiVersion: v1
kind: Service
metadata: {name: allowed}
spec:
  type: LoadBalancer
  loadBalancerSourceRanges: ["2001:db8:1::/64"]
  selector: {app: who}
  ports: [{port: 80, targetPort: 8000}]
---
apiVersion: v1
kind: Service
metadata: {name: forbidden}
spec:
  type: LoadBalancer
  loadBalancerSourceRanges: ["2001:db8:77::/64"]
  selector: {app: who}
  ports: [{port: 80, targetPort: 8000}]
---
apiVersion: v1
kind: Service
metadata: {name: external}
spec:
  externalIPs: ["2001:db8:3::7"]
  selector: {app: who}
  ports: [{port: 8080, targetPort: 8000}]
---
apiVersion: v1
kind: Service
metadata: {name: datagrams}
spec:
  type: NodePort
  selector: {app: who}
  ports: [{port: 53, targetPort: 5300, protocol: UDP, nodePort: 30053}]
---
"#;

/// What a command says that is run on the outside host.
fn outside(lab: &Lab, url: &str) -> Result<String> {
    Ok(lab
        .run(&format!(r#"seta lab exec outside -- curl -6 -s -m 2 "{url}""#))?
        .text
        .trim()
        .to_owned())
}

/// Packets to what the pool and the external IPs are taken from go to this node.
fn route_by(lab: &Lab, node: &str) -> Result<()> {
    for prefix in ["2001:db8:2::/64", "2001:db8:3::/64"] {
        lab.ok(&format!(
            "seta lab exec router -- ip -6 route replace {prefix} via {node}"
        ))?;
    }
    Ok(())
}

/// Asks by UDP with so many bytes, from a shell that `at` begins.
fn datagram(at: &str, host: &str, port: u16, bytes: u32) -> String {
    format!(
        r#"{at} perl -MIO::Socket::IP -e '$s = IO::Socket::IP->new(PeerHost => "{host}", PeerPort => {port}, Proto => "udp") or die; $s->send("x" x {bytes}); alarm 3; $s->recv($b, 99); print $b'"#
    )
}

fn load_balancer(lab: &Lab, service: &str) -> Result<String> {
    let script =
        format!("kubectl get service {service} -o jsonpath='{{.status.loadBalancer.ingress[0].ip}}'");
    let found = lab.until(DEADLINE, &script, |output| !output.text.is_empty())?;
    Ok(found.text)
}

#[test]
fn every_kind_of_service_is_reached_from_outside_by_every_node() -> Result<()> {
    let Some(lab) = common::lab("t-outside")? else {
        return Ok(());
    };
    lab.up_with_seta()?;
    lab.pods(&[WHO.to_owned(), client("client", "kind-control-plane")])?;
    lab.apply(SERVICES)?;
    let health = lab.ok("kubectl get service local -o jsonpath='{.spec.healthCheckNodePort}'")?;
    for (node, runs_the_backend) in [(NODES[0], false), (NODES[1], true)] {
        route_by(&lab, node)?;
        let seen = if runs_the_backend { OUTSIDE } else { node };
        for service in ["anywhere", "allowed"] {
            let url = format!("http://[{}]", load_balancer(&lab, service)?);
            lab.until(
                DEADLINE,
                &format!("seta lab exec outside -- curl -6 -s -m 2 {url}"),
                |output| output.text.trim() == seen,
            )
            .with_context(|| format!("{service} by {node}"))?;
        }
        let page = outside(&lab, "http://[2001:db8:3::7]:8080")?;
        ensure!(page == seen, "external IP by {node}: {page:?}");
        // Only the node that runs a backend takes packets for it, with the client's address.
        let page = outside(&lab, &format!("http://[{}]", load_balancer(&lab, "local")?))?;
        ensure!(
            page == if runs_the_backend { OUTSIDE } else { "" },
            "traffic policy Local by {node}: {page:?}"
        );
        let healthy = lab.ok(&format!(
            r#"seta lab exec outside -- curl -6 -s -m 2 -o /dev/null -w "%{{http_code}}" "http://[{node}]:{health}/healthz""#
        ))?;
        ensure!(
            healthy == if runs_the_backend { "200" } else { "503" },
            "health of {node}: {healthy}"
        );
        let page = outside(&lab, &format!("http://[{}]", load_balancer(&lab, "forbidden")?))?;
        ensure!(
            page.is_empty(),
            "a source that is not in the ranges is answered: {page:?}"
        );
        // Small, and in fragments.
        for bytes in [10, 30_000] {
            let answer = lab.ok(&datagram("seta lab exec outside --", node, 30053, bytes))?;
            ensure!(
                answer == format!("{bytes} bytes from {seen}\n"),
                "datagrams by {node}: {answer:?}"
            );
        }
    }
    let page = outside(&lab, &format!("http://[{}]:8088", NODES[1]))?;
    ensure!(page == OUTSIDE, "host port: {page:?}");
    let dropped = lab.ok("seta bpf metrics list")?;
    ensure!(
        dropped.contains("Denied by LB src range check") && dropped.contains("Service backend not found"),
        "drops say why:\n{dropped}"
    );
    Ok(())
}

#[test]
fn too_big_finds_its_way_back_through_every_translation() -> Result<()> {
    let Some(lab) = common::lab("t-mtu")? else {
        return Ok(());
    };
    lab.up_with_seta()?;
    lab.pods(&[WHO.to_owned(), client("client", "kind-control-plane")])?;
    lab.apply(SERVICES)?;
    // Both ends believe in 1500 bytes; the link beyond the router takes 1400.
    lab.ok("seta lab exec router -- ip -6 route replace 2001:db8:1::/64 dev eth1 mtu 1400")?;
    let learned = |pod: &str, peer: &str| {
        let script = format!("kubectl exec {pod} -- ip -6 route get {peer}");
        lab.ok(&script).map(|text| text.contains("mtu 1400"))
    };

    // A service's answers: straight to the client from the backend's node, and back through the node that was asked.
    let url = load_balancer(&lab, "anywhere")?;
    for (node, seen) in [(NODES[0], NODES[0]), (NODES[1], OUTSIDE)] {
        route_by(&lab, node)?;
        ensure!(!learned("who", seen)?, "the path to {seen} is new");
        lab.until(
            DEADLINE,
            &format!(
                r#"seta lab exec outside -- curl -6 -s -m 10 -o /dev/null -w "%{{size_download}}" "http://[{url}]/big""#
            ),
            |output| output.text == "3000000",
        )
        .with_context(|| format!("a large page by {node}"))?;
        ensure!(
            learned("who", seen)?,
            "the backend learned the MTU of the path to {seen}"
        );
    }

    // Masquerade: what a pod sends.
    let sink = lab.spawn(
        "seta lab exec outside -- timeout 30 perl -MIO::Socket::IP -e '$s = IO::Socket::IP->new(LocalHost => \"::\", LocalPort => 9000, Listen => 1, ReuseAddr => 1) or die; $c = $s->accept; while (sysread($c, $b, 65536)) { $n += length $b } print $c \"$n\\n\"; print \"$n\\n\"'",
    )?;
    let sent = lab.until(
        DEADLINE,
        &format!(
            r#"kubectl exec client -- perl -MIO::Socket::IP -e '$s = IO::Socket::IP->new(PeerHost => "{OUTSIDE}", PeerPort => 9000) or exit 1; alarm 15; print $s "x" x 3000000; $s->flush; $s->shutdown(1); print <$s>'"#
        ),
        |output| output.code == 0,
    )?;
    ensure!(
        sent.text == "3000000\n",
        "what the outside host got: {}",
        sent.text
    );
    sink.wait_with_output()?;
    ensure!(
        learned("client", OUTSIDE)?,
        "the masqueraded pod learned the path's MTU"
    );
    Ok(())
}

/// A shell in the network of a pod, outside of the node's cgroups: the hooks of sockets do not see it.
fn unseen(lab: &Lab, pod: &str) -> Result<String> {
    let address = lab.address(pod)?;
    let script = format!(
        r#"for netns in $(grep -l "/kubepods/" /proc/[0-9]*/cgroup 2>/dev/null | cut -d/ -f1-3); do
  nsenter --net=$netns/ns/net ip -6 -o address show dev eth0 2>/dev/null | grep -q " {address}/" && echo $netns && break
done"#
    );
    let process = lab.ok(&script)?;
    Ok(format!("nsenter --net={}/ns/net", process.trim()))
}

#[test]
fn services_are_translated_for_sockets_that_no_hook_sees() -> Result<()> {
    let Some(lab) = common::lab("t-unseen")? else {
        return Ok(());
    };
    lab.up_with_seta()?;
    lab.pods(&[
        WHO.to_owned(),
        client("client", "kind-control-plane"),
        server("server", "kind-control-plane"),
    ])?;
    lab.apply(SERVICES)?;
    lab.ok("kubectl expose pod server --port=80 && kubectl create service clusterip empty --tcp=80")?;
    let cluster_ip = |service: &str| {
        lab.ok(&format!(
            "kubectl get service {service} -o jsonpath='{{.spec.clusterIP}}'"
        ))
    };
    let (at_client, at_server) = (unseen(&lab, "client")?, unseen(&lab, "server")?);
    let get = |at: &str, url: &str| {
        format!(r#"{at} curl -6 -s -m 3 -o /dev/null -w "%{{http_code}} %{{remote_ip}}" "{url}""#)
    };
    for (what, at, service, url) in [
        ("another node", &at_client, "external", ":8080"),
        ("the same node", &at_client, "server", ""),
        ("itself", &at_server, "server", ""),
    ] {
        let address = cluster_ip(service)?;
        lab.until(
            DEADLINE,
            &get(at, &format!("http://[{address}]{url}")),
            |output| output.text == format!("200 {address}"),
        )
        .with_context(|| format!("a backend on {what}"))?;
    }
    let page = lab.ok(&get(&at_client, &format!("http://[{}]:8088", NODES[1])))?;
    ensure!(page.starts_with("200 "), "host port: {page}");
    let address = lab.address("client")?;
    for bytes in [10, 30_000] {
        let answer = lab.ok(&datagram(&at_client, &cluster_ip("datagrams")?, 53, bytes))?;
        ensure!(
            answer == format!("{bytes} bytes from {address}\n"),
            "datagrams: {answer:?}"
        );
    }
    // Refused (curl's 7), not silence (28).
    let refused = lab.run(&get(&at_client, &format!("http://[{}]", cluster_ip("empty")?)))?;
    ensure!(
        refused.code == 7,
        "without backends: {} {}",
        refused.code,
        refused.text
    );
    // The packets were translated, and the list says so.
    let address = cluster_ip("server")?;
    let list = lab.ok("seta bpf nat list --node kind-control-plane --protocol tcp")?;
    ensure!(
        list.contains(&format!("[{address}]:80 XLATE_DST"))
            || list.contains(&format!("[{address}]:80 XLATE_SRC")),
        "the table of translations:\n{list}"
    );
    Ok(())
}

#[test]
fn excepted_destinations_see_the_pods_own_address() -> Result<()> {
    let Some(lab) = common::lab("t-ipmasq")? else {
        return Ok(());
    };
    lab.up_with_seta()?;
    lab.pods(&[client("client", "kind-control-plane")])?;
    let pod = lab.address("client")?;
    let seen = |by: &str| {
        lab.until(
            DEADLINE,
            &format!(
                "kubectl exec client -- ping -6 -c 30 -i 0.1 -w 3 {OUTSIDE} > /dev/null & \
                 seta lab exec outside -- timeout 10 tcpdump -lni any -c 1 'icmp6 and ip6[40] == 128'"
            ),
            |output| output.text.contains(&format!("IP6 {by} > {OUTSIDE}")),
        )
        .with_context(|| format!("the outside host sees {by}"))
    };
    seen(NODES[0])?;
    lab.ok(
        "seta upgrade --set ipMasqAgent.enabled=true --set 'ipMasqAgent.config.nonMasqueradeCIDRs={2001:db8:1::/64}' && seta status --wait",
    )?;
    seen(&pod)?;
    let status = lab.ok("kubectl -n kube-system exec ds/cilium -c cilium-agent -- cilium status")?;
    ensure!(status.contains("BPF (ip-masq-agent)   ["), "{status}");
    // The file is followed; one that cannot be used is told, and changes nothing.
    let patch = |cidr: &str| {
        lab.ok(&format!(
            r#"kubectl -n kube-system patch configmap ip-masq-agent --type merge -p '{{"data":{{"config":"nonMasqueradeCIDRs: [{cidr}]"}}}}'"#
        ))
    };
    patch("nonsense")?;
    lab.until(Duration::from_secs(60), "seta status", |output| {
        output.text.contains("\"nonsense\" is no prefix")
    })?;
    seen(&pod)?;
    patch("2001:db8:9::/64")?;
    lab.until(
        Duration::from_secs(60),
        "seta bpf ipmasq list --node kind-control-plane",
        |output| output.text.contains("2001:db8:9::/64") && !output.text.contains("2001:db8:1::/64"),
    )?;
    seen(NODES[0]).map(drop)
}

/// Echoes whatever it gets, on the outside host, for every connection by itself.
const ECHO: &str = r#"seta lab exec outside -- timeout 90 perl -MIO::Socket::IP -e '
$SIG{CHLD} = "IGNORE";
$s = IO::Socket::IP->new(LocalHost => "::", LocalPort => 9000, Listen => 4096, ReuseAddr => 1) or die;
while ($c = $s->accept) { if (!fork) { while (sysread $c, $b, 100) { syswrite $c, $b } exit } close $c }'"#;

/// One connection from before, three tables full of datagrams, and connections afterwards.
const CROWD: &str = r#"kubectl exec client -- perl -MIO::Socket::IP -e '
sub echoed { my $s = shift; syswrite $s, "x"; alarm 5; my $got = sysread $s, my $b, 9; alarm 0; $got }
my $early = IO::Socket::IP->new(PeerHost => "2001:db8:1::2", PeerPort => 9000) or exit 1;
for my $i (1 .. 6000) {
  my $s = IO::Socket::IP->new(PeerHost => "2001:db8:1::2", PeerPort => 10000 + $i % 500, Proto => "udp") or die;
  $s->send("x");
  echoed($early) or die "the early connection ended" if $i % 200 == 0;
}
my $new = grep { my $s = IO::Socket::IP->new(PeerHost => "2001:db8:1::2", PeerPort => 9000, Timeout => 5); $s && echoed($s) } 1 .. 50;
print "early alive, $new of 50 new\n"'"#;

#[test]
fn a_full_table_of_translations_forgets_who_was_silent_longest() -> Result<()> {
    let Some(lab) = common::lab("t-natfull")? else {
        return Ok(());
    };
    lab.up_with_seta()?;
    lab.ok("seta upgrade --set bpf.natMax=2048 && seta status --wait")?;
    lab.pods(&[client("client", "kind-control-plane")])?;
    let mut echo = lab.spawn(ECHO)?;
    let crowd = lab.until(DEADLINE, CROWD, |output| output.code == 0);
    let _ = echo.kill();
    ensure!(crowd?.text == "early alive, 50 of 50 new\n");
    let metrics = lab.ok("seta metrics list --node kind-control-plane -p map_pressure -o json")?;
    let metrics: serde_json::Value = serde_json::from_str(&metrics)?;
    let gauges = metrics[lab.localised("kind-control-plane")].as_array();
    let gauge = gauges
        .into_iter()
        .flatten()
        .find(|metric| metric["labels"]["map_name"] == "seta_nat");
    let value = gauge
        .and_then(|metric| metric["value"].as_f64())
        .with_context(|| format!("no gauge of the table: {metrics}"))?;
    ensure!(
        (0.7..=1.0).contains(&value),
        "pressure of the full table: {value}"
    );
    Ok(())
}

/// The lab's devices are virtual pairs, whose packets cannot turn round in the driver.
#[test]
fn a_device_that_cannot_have_xdp_is_named_and_goes_on_without() -> Result<()> {
    let Some(lab) = common::lab("t-xdp")? else {
        return Ok(());
    };
    lab.up_with_seta()?;
    lab.pods(&[client("client", "kind-control-plane")])?;
    let reach = format!("kubectl exec client -- ping -6 -c 1 -W 2 {OUTSIDE}");
    lab.ok("seta upgrade --set loadBalancer.acceleration=best-effort && seta status --wait")?;
    let verbose = "kubectl -n kube-system exec ds/cilium -c cilium-agent -- cilium status --verbose";
    let status = lab.ok(verbose)?;
    let line = status
        .lines()
        .find(|line| line.contains("XDP Acceleration"))
        .with_context(|| status.clone())?;
    ensure!(line.ends_with(" Disabled"), "{line}");
    lab.ok(&reach)?;
    lab.ok("seta upgrade --set loadBalancer.acceleration=native")?;
    lab.until(Duration::from_secs(60), "seta status", |output| {
        output.code == 1 && output.text.contains("eth0") && output.text.contains("virtual pair")
    })?;
    lab.ok(&reach)?;
    lab.ok("seta upgrade --set loadBalancer.acceleration=disabled && seta status --wait")
        .map(drop)
}
