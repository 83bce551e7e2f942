//! The agent of a lab with many services: its first sync from start to the kernel, one change, its memory.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv6Addr, TcpStream},
    path::{Path, PathBuf},
    process::Child,
    thread,
    time::{Duration, Instant},
};

use abi::names;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::maps::{HashMap, Map, MapData};
use seta_e2e::{Lab, walk::INSTALL};

use crate::table::{median, percentile};

/// Services, each with one EndpointSlice of two endpoints.
const SERVICES: usize = 10_000;
/// Changes that are timed.
const CHANGES: usize = 200;
/// Requests at a time while the services are made.
const MAKERS: usize = 4;
const DEADLINE: Duration = Duration::from_secs(60);
const SERVICES_PATH: &str = "/api/v1/namespaces/default/services";
const SLICES_PATH: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// `abi::ServiceKey` and `abi::Service` as bytes.
type Frontends = HashMap<MapData, [u8; 24], [u8; 28]>;

pub(crate) fn run(seta: &Path) -> Result<()> {
    let lab = Lab::new("t-bench", seta)?;
    lab.ok("seta lab up --nodes 2")?;
    let api = Api::new(&lab)?;
    let made = Instant::now();
    api.make()?;
    println!(
        "\nThe agent with {SERVICES} services ({:.1} s to make them)",
        made.elapsed().as_secs_f64()
    );
    lab.ok(&INSTALL.replace(" --set debug.enabled=true", ""))?;
    let (pid, synced) = first_sync(&lab, 0)?;
    println!(
        "first sync of two nodes at once, process start to all in the kernel: {:.2} s",
        synced.as_secs_f64()
    );
    lab.ok("seta status --wait")?;
    lab.ok(&format!(
        "kill -9 {pid} && seta lab exec kind-worker -- rm -r /sys/fs/bpf/seta"
    ))?;
    let (pid, synced) = first_sync(&lab, pid)?;
    println!(
        "first sync of one node that has nothing, the others idle: {:.2} s",
        synced.as_secs_f64()
    );
    let mut list = Duration::MAX;
    for _ in 0..5 {
        let started = Instant::now();
        api.request("GET", SERVICES_PATH, "application/json", "")?;
        api.request("GET", SLICES_PATH, "application/json", "")?;
        list = list.min(started.elapsed());
    }
    println!(
        "LIST of services and EndpointSlices as JSON by `kubectl proxy`: {:.2} s",
        list.as_secs_f64()
    );
    lab.ok("seta status --wait")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("status of the agent")?;
    let memory: Vec<&str> = status
        .lines()
        .filter(|line| line.starts_with("VmRSS") || line.starts_with("RssAnon"))
        .collect();
    println!("memory: {}", memory.join(", ").replace('\t', ""));
    changes(&api, &frontends(pid)?)
}

/// The agent of the worker after `last`, and the time from its start until all services are in the table.
fn first_sync(lab: &Lab, last: u32) -> Result<(u32, Duration)> {
    let output = lab.until(
        DEADLINE,
        r#"seta lab exec kind-worker -- sh -c '
for pid in $(cat $(find /sys/fs/cgroup -name cgroup.procs)); do
  case "$(tr "\0" " " 2> /dev/null < /proc/$pid/cmdline)" in cilium-agent*) echo $pid;; esac
done'"#,
        |output| output.code == 0 && output.text.trim().parse::<u32>().is_ok_and(|pid| pid != last),
    )?;
    let pid = output.text.trim().parse().context("process id")?;
    let end = Instant::now() + DEADLINE;
    loop {
        // Until the agent has pinned its maps there is nothing to look at.
        let found = frontends(pid).map_or(0, |table| table.keys().flatten().count());
        if found >= SERVICES {
            return Ok((pid, age(pid)?));
        }
        ensure!(
            Instant::now() < end,
            "{found} of {SERVICES} services in the kernel after {DEADLINE:?}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// How long ago a process was started, to a hundredth of a second.
fn age(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("stat")?;
    let (_, fields) = stat.rsplit_once(')').context("stat")?;
    let ticks: f64 = fields
        .split_whitespace()
        .nth(19)
        .context("start time")?
        .parse()
        .context("start time")?;
    let uptime = std::fs::read_to_string("/proc/uptime").context("uptime")?;
    let now: f64 = uptime
        .split(' ')
        .next()
        .context("uptime")?
        .parse()
        .context("uptime")?;
    // USER_HZ
    Ok(Duration::from_secs_f64((now - ticks / 100.0).max(0.0)))
}

/// The table of frontends of the node that this process belongs to.
fn frontends(pid: u32) -> Result<Frontends> {
    let pin = PathBuf::from(format!("/proc/{pid}/root/sys/fs/bpf/seta/maps")).join(names::SERVICES);
    let data = MapData::from_pin(&pin).with_context(|| format!("open {}", pin.display()))?;
    Ok(HashMap::try_from(Map::HashMap(data))?)
}

/// New endpoints of a service: how long after the reply of the API server the kernel uses them, and after the question.
fn changes(api: &Api, table: &Frontends) -> Result<()> {
    let (mut after_reply, mut after_request) = (Vec::new(), Vec::new());
    for change in 0..CHANGES {
        let number = change * 47 % SERVICES;
        let service = api.request(
            "GET",
            &format!("{SERVICES_PATH}/s{number}"),
            "application/json",
            "",
        )?;
        let service: serde_json::Value = serde_json::from_slice(&service).context("a Service")?;
        let address: Ipv6Addr = service["spec"]["clusterIP"]
            .as_str()
            .context("clusterIP")?
            .parse()
            .context("clusterIP")?;
        let mut key = [0; 24];
        key[..16].copy_from_slice(&address.octets());
        key[16..20].copy_from_slice(&[0, 80, 6, 6]);
        let before = table
            .get(&key, 0)
            .with_context(|| format!("service s{number} at {address}"))?;
        let body = format!(
            r#"{{"endpoints":[{{"addresses":["fd00:10:244:ff::{:x}"],"conditions":{{"ready":true}}}}]}}"#,
            change + 1
        );
        let asked = Instant::now();
        api.request(
            "PATCH",
            &format!("{SLICES_PATH}/s{number}"),
            "application/merge-patch+json",
            &body,
        )?;
        let replied = Instant::now();
        while table.get(&key, 0)? == before {
            ensure!(
                replied.elapsed() < DEADLINE,
                "a change of s{number} is not in the kernel after {DEADLINE:?}"
            );
            thread::sleep(Duration::from_micros(100));
        }
        after_reply.push(replied.elapsed().as_secs_f64() * 1e3);
        after_request.push(asked.elapsed().as_secs_f64() * 1e3);
    }
    for (name, samples) in [("reply", &after_reply), ("request", &after_request)] {
        println!(
            "one change, {name} to kernel: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms ({CHANGES} changes)",
            median(samples),
            percentile(samples, 0.99),
            percentile(samples, 1.0)
        );
    }
    Ok(())
}

/// The API server behind `kubectl proxy`, which does the TLS.
struct Api {
    proxy: Child,
    port: u16,
}

impl Api {
    fn new(lab: &Lab) -> Result<Self> {
        let mut proxy = lab.spawn("exec kubectl proxy --port=0")?;
        let mut line = String::new();
        let output = proxy.stdout.take().context("standard output")?;
        BufReader::new(output)
            .read_line(&mut line)
            .context("kubectl proxy")?;
        let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
        // Dropped, and with it the process, when there is no port.
        let mut api = Self { proxy, port: 0 };
        api.port = port.with_context(|| format!("kubectl proxy says `{line}`"))?;
        Ok(api)
    }

    /// The body of the answer.
    fn request(&self, method: &str, path: &str, kind: &str, body: &str) -> Result<Vec<u8>> {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], self.port));
        let mut stream = TcpStream::connect_timeout(&address, DEADLINE).context("kubectl proxy")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .with_context(|| format!("{method} {path}"))?;
        let mut answer = Vec::new();
        stream
            .read_to_end(&mut answer)
            .with_context(|| format!("{method} {path}"))?;
        let head = answer
            .windows(4)
            .position(|bytes| bytes == b"\r\n\r\n")
            .with_context(|| format!("{method} {path}: no answer"))?;
        let status = String::from_utf8_lossy(&answer[..head]);
        let code = status.split(' ').nth(1).unwrap_or_default();
        if !code.starts_with('2') {
            bail!(
                "{method} {path}: {}",
                String::from_utf8_lossy(&answer[..answer.len().min(600)])
            );
        }
        Ok(answer.split_off(head + 4))
    }

    /// Makes the services and their endpoints.
    fn make(&self) -> Result<()> {
        thread::scope(|scope| {
            let makers: Vec<_> = (0..MAKERS)
                .map(|maker| {
                    scope.spawn(move || {
                        (maker..SERVICES).step_by(MAKERS).try_for_each(|number| {
                            self.request("POST", SERVICES_PATH, "application/json", &service(number))?;
                            self.request("POST", SLICES_PATH, "application/json", &slice(number))
                                .map(drop)
                        })
                    })
                })
                .collect();
            makers
                .into_iter()
                .try_for_each(|maker| maker.join().map_err(|_| anyhow!("a thread panicked"))?)
        })
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.proxy.kill();
        let _reaped = self.proxy.wait();
    }
}

fn service(number: usize) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"s{number}"}},"spec":{{"ports":[{{"port":80,"targetPort":8080}}]}}}}"#
    )
}

fn slice(number: usize) -> String {
    let endpoint = |slot: usize| {
        format!(
            r#"{{"addresses":["fd00:10:244:fe::{:x}"],"conditions":{{"ready":true}}}}"#,
            number * 2 + slot
        )
    };
    format!(
        r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"s{number}","labels":{{"kubernetes.io/service-name":"s{number}"}}}},"addressType":"IPv6","ports":[{{"name":"","port":8080,"protocol":"TCP"}}],"endpoints":[{},{}]}}"#,
        endpoint(1),
        endpoint(2)
    )
}
