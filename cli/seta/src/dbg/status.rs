//! `status`: the lines of `cilium-dbg status` (§4.3 of the reference), in their order.

use std::process::ExitCode;

use api::status::{BigTcp, State, StatusResponse};
use api::{Client, ClientError, path};
use serde_json::Value;

use super::output::{self, Output, columns};
use crate::progress;

/// How much.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// One line: OK, or what is wrong
    #[arg(long)]
    brief: bool,
    /// Everything: addresses, controllers, maps, programs, clock
    #[arg(long)]
    verbose: bool,
    /// All addresses that were given out
    #[arg(long)]
    all_addresses: bool,
    /// All controllers, not only those that fail
    #[arg(long)]
    all_controllers: bool,
    /// Accepted for Cilium's health checks; there is no separate health daemon to require
    #[arg(long, hide = true)]
    require_k8s_connectivity: Option<bool>,
    /// `json`, or `jsonpath='{.path}'`
    #[arg(short, long, value_parser = output::parse)]
    output: Option<Output>,
}

pub(super) async fn run(client: &Client, args: Args) -> anyhow::Result<ExitCode> {
    let value: Value = client.get(path::HEALTHZ).await.inspect_err(|error| {
        // The one line that scripts around Cilium look for; the cause follows on standard error.
        if args.brief && matches!(error, ClientError::Connect { .. }) {
            println!("cilium: daemon unreachable");
        }
    })?;
    if let Some(format) = &args.output {
        progress::output(&output::rendered(format, &value)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let status: StatusResponse = output::typed(value)?;
    let wrong = problem(&status);
    progress::output(&match (args.brief, &wrong) {
        (false, _) => text(&status, &args),
        (true, None) => "OK\n".to_owned(),
        (true, Some(wrong)) => format!("error in {wrong}\n"),
    })?;
    let healthy = !status.cilium.state.is_bad() && (!args.brief || wrong.is_none());
    Ok(if healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The first thing that is wrong, in the order in which Cilium looks.
fn problem(status: &StatusResponse) -> Option<String> {
    let subsystems = [
        ("kvstore", status.kvstore.state, &status.kvstore.msg),
        ("kubernetes", status.kubernetes.state, &status.kubernetes.msg),
        ("cilium", status.cilium.state, &status.cilium.msg),
        (
            "cilium-health",
            status.cluster.cilium_health.state,
            &status.cluster.cilium_health.msg,
        ),
    ];
    let subsystem = subsystems.into_iter().find(|(_, state, _)| state.is_bad());
    subsystem
        .map(|(name, _, message)| format!("{name}: {message}"))
        .or_else(|| {
            let controller = status
                .controllers
                .iter()
                .find(|c| c.status.consecutive_failure_count > 0)?;
            Some(format!(
                "controller {}: {}",
                controller.name, controller.status.last_failure_msg
            ))
        })
}

/// Lines of a name and what belongs to it.
#[derive(Default)]
struct Rows(Vec<Vec<String>>);

impl Rows {
    /// `Name:` and cells three spaces apart; empty cells are left out.
    fn line(&mut self, name: &str, cells: &[&str]) {
        let rest: Vec<&str> = cells.iter().copied().filter(|cell| !cell.is_empty()).collect();
        self.0.push(vec![format!("{name}:"), rest.join("   ")]);
    }

    /// An indented line below it.
    fn detail(&mut self, name: &str, text: String) {
        self.0.push(vec![format!("  {name}"), text]);
    }
}

fn text(status: &StatusResponse, args: &Args) -> String {
    let mut rows = Rows::default();
    rows.line("KVStore", &[status.kvstore.state.as_str(), &status.kvstore.msg]);
    rows.line(
        "Kubernetes",
        &[status.kubernetes.state.as_str(), &status.kubernetes.msg],
    );
    if status.kubernetes.state != State::Disabled {
        let mut kinds = status.kubernetes.k8s_api_versions.clone();
        kinds.sort();
        rows.line("Kubernetes APIs", &[&format!("[\"{}\"]", kinds.join("\", \""))]);
    }
    rows.line(
        "KubeProxyReplacement",
        &[&status.kube_proxy_replacement.mode, &devices(status)],
    );
    rows.line("Host firewall", &[&status.host_firewall.mode]);
    rows.line("SRv6", &[enabled(status.srv6.enabled)]);
    rows.line("CNI Chaining", &[&status.cni_chaining.mode]);
    rows.line("CNI Config file", &[&status.cni_file.msg]);
    rows.line("Cilium", &[status.cilium.state.as_str(), &status.cilium.msg]);
    if !status.stale.is_empty() {
        let stale: Vec<_> = status
            .stale
            .iter()
            .map(|(probe, since)| format!("{probe:?} since {since}"))
            .collect();
        rows.line("Stale status", &[&stale.join(", ")]);
    }
    let monitor = &status.node_monitor;
    rows.line(
        "NodeMonitor",
        &[&format!(
            "Listening for events on {} CPUs with {}x{} of shared memory",
            monitor.cpus, monitor.npages, monitor.pagesize
        )],
    );
    if monitor.lost != 0 || monitor.unknown != 0 {
        rows.detail(
            "",
            format!(
                "{} events lost, {} unknown notifications",
                monitor.lost, monitor.unknown
            ),
        );
    }
    rows.line(
        "Cilium health daemon",
        &[
            status.cluster.cilium_health.state.as_str(),
            &status.cluster.cilium_health.msg,
        ],
    );
    rows.line("IPAM", &[&status.ipam.status]);
    if args.all_addresses || args.verbose {
        rows.line("Allocated addresses", &[]);
        for (address, owner) in &status.ipam.allocations {
            rows.0.push(vec![format!("  {address} ({owner})")]);
        }
    }
    rows.line("IPv4 BIG TCP", &[&big_tcp(status.ipv4_big_tcp)]);
    rows.line("IPv6 BIG TCP", &[&big_tcp(status.ipv6_big_tcp)]);
    rows.line("BandwidthManager", &[enabled(status.bandwidth_manager.enabled)]);
    let routing = &status.routing;
    let network = if routing.tunnel_protocol.is_empty() {
        routing.inter_host_routing_mode.clone()
    } else {
        format!(
            "{} [{}]",
            routing.inter_host_routing_mode, routing.tunnel_protocol
        )
    };
    rows.line(
        "Routing",
        &[
            &format!("Network: {network}"),
            &format!("Host: {}", routing.intra_host_routing_mode),
        ],
    );
    rows.line("Attach Mode", &[&status.attach_mode]);
    rows.line("Device Mode", &[&status.datapath_mode]);
    rows.line("Masquerading", &[&masquerading(status)]);
    if args.verbose {
        rows.line("Clock Source for BPF", &[&status.clock_source.mode]);
    }
    let failing = status
        .controllers
        .iter()
        .filter(|c| c.status.consecutive_failure_count > 0)
        .count();
    let all = status.controllers.len();
    rows.line(
        "Controller Status",
        &[&format!("{}/{all} healthy", all - failing)],
    );
    controllers(status, args.all_controllers || args.verbose, &mut rows);
    let proxy = if status.proxy.state == State::Disabled {
        "No managed proxy redirect".to_owned()
    } else {
        format!("OK, {} redirects active", status.proxy.total_redirects)
    };
    rows.line("Proxy Status", &[&proxy]);
    let range = status.identity_range;
    rows.line(
        "Global Identity Range",
        &[&format!("min {}, max {}", range.min_identity, range.max_identity)],
    );
    rows.line("Hubble", &[status.hubble.state.as_str(), &status.hubble.msg]);
    if args.verbose {
        details(status, &mut rows);
    }
    rows.line("Encryption", &[&status.encryption.mode]);
    columns(&rows.0)
}

fn devices(status: &StatusResponse) -> String {
    let replacement = &status.kube_proxy_replacement;
    let list = replacement.device_list.iter().map(|device| {
        let direct = if device.name == replacement.direct_routing_device {
            " (Direct Routing)"
        } else {
            ""
        };
        format!("{} {}{direct}", device.name, device.ip.join(" "))
    });
    let list = list.collect::<Vec<_>>().join(", ");
    if list.is_empty() {
        list
    } else {
        format!("[{list}]")
    }
}

fn enabled(on: bool) -> &'static str {
    if on { "Enabled" } else { "Disabled" }
}

fn big_tcp(sizes: BigTcp) -> String {
    match sizes {
        BigTcp { enabled: false, .. } => "Disabled".to_owned(),
        BigTcp { max_gro, max_gso, .. } if max_gro == max_gso => format!("Enabled   [{max_gso}]"),
        BigTcp { max_gro, max_gso, .. } => format!("Enabled   [{max_gro}, {max_gso}]"),
    }
}

fn masquerading(status: &StatusResponse) -> String {
    let masquerading = &status.masquerading;
    if !masquerading.enabled {
        return "Disabled".to_owned();
    }
    let devices = status.kube_proxy_replacement.devices.join(", ");
    let agent = if masquerading.ip_masq_agent {
        " (ip-masq-agent)"
    } else {
        ""
    };
    format!(
        "{}{agent}   [{devices}]   {} [IPv4: {}, IPv6: {}]",
        masquerading.mode,
        masquerading.snat_exclusion_cidr_v6,
        enabled(masquerading.enabled_protocols.ipv4),
        enabled(masquerading.enabled_protocols.ipv6)
    )
}

fn controllers(status: &StatusResponse, all: bool, rows: &mut Rows) {
    let shown = status
        .controllers
        .iter()
        .filter(|c| all || c.status.consecutive_failure_count > 0);
    for controller in shown {
        let counts = &controller.status;
        let or_never = |time: &str| {
            if time.is_empty() {
                "never".to_owned()
            } else {
                time.to_owned()
            }
        };
        let message = if counts.last_failure_msg.is_empty() {
            "no error"
        } else {
            &counts.last_failure_msg
        };
        let counted = format!(
            "last success {}, last error {}, {} ok, {} failed ({} in a row): {message}",
            or_never(&counts.last_success_timestamp),
            or_never(&counts.last_failure_timestamp),
            counts.success_count,
            counts.failure_count,
            counts.consecutive_failure_count
        );
        rows.detail(&controller.name, counted);
    }
}

fn details(status: &StatusResponse, rows: &mut Rows) {
    rows.line("KubeProxyReplacement Details", &[]);
    let acceleration = &status.kube_proxy_replacement.features.node_port.acceleration;
    rows.detail("XDP Acceleration", acceleration.clone());
    rows.line("BPF Maps", &[]);
    for map in &status.bpf_maps.maps {
        let fill = match map.entries {
            Some(entries) => format!("{entries} of {}", map.size),
            None => "not counted".to_owned(),
        };
        rows.detail(&map.name, fill);
    }
    rows.line("BPF Programs", &[]);
    for attachment in &status.attachments {
        let place = format!("{} {}", attachment.device, attachment.direction);
        rows.detail(
            &place,
            format!(
                "{} (program {}, {})",
                attachment.program, attachment.program_id, attachment.holder
            ),
        );
    }
    rows.line("Direct Routes", &[]);
    for route in &status.routing.direct_routes {
        rows.0.push(vec![format!("  {route}")]);
    }
}

#[cfg(test)]
mod tests {
    use api::status::{ControllerCounts, ControllerStatus, Status};

    use super::*;

    fn args() -> Args {
        Args {
            brief: false,
            verbose: false,
            all_addresses: false,
            all_controllers: false,
            require_k8s_connectivity: None,
            output: None,
        }
    }

    fn status() -> StatusResponse {
        let mut status = StatusResponse {
            cilium: Status::new(State::Ok, "v0.1.0"),
            ..StatusResponse::default()
        };
        status.ipam.status = "IPv6: 5/65534 allocated from fd00:10:244::/64,".to_owned();
        status.routing.inter_host_routing_mode = "Native".to_owned();
        status.routing.intra_host_routing_mode = "BPF".to_owned();
        status.ipv6_big_tcp = BigTcp {
            enabled: true,
            max_gro: 196_608,
            max_gso: 196_608,
        };
        status
    }

    #[test]
    fn lines_stand_in_ciliums_order() {
        let text = text(&status(), &args());
        let names: Vec<&str> = text.lines().filter_map(|line| line.split(':').next()).collect();
        assert_eq!(
            names,
            [
                "KVStore",
                "Kubernetes",
                "KubeProxyReplacement",
                "Host firewall",
                "SRv6",
                "CNI Chaining",
                "CNI Config file",
                "Cilium",
                "NodeMonitor",
                "Cilium health daemon",
                "IPAM",
                "IPv4 BIG TCP",
                "IPv6 BIG TCP",
                "BandwidthManager",
                "Routing",
                "Attach Mode",
                "Device Mode",
                "Masquerading",
                "Controller Status",
                "Proxy Status",
                "Global Identity Range",
                "Hubble",
                "Encryption",
            ]
        );
        assert!(
            text.contains("Routing:                 Network: Native   Host: BPF\n"),
            "{text}"
        );
        assert!(
            text.contains("IPv6 BIG TCP:            Enabled   [196608]\n"),
            "{text}"
        );
        assert!(text.contains("Cilium:                  Ok   v0.1.0\n"), "{text}");
    }

    #[test]
    fn the_first_problem_is_named() {
        let mut status = status();
        assert_eq!(problem(&status), None);
        let counts = ControllerCounts {
            consecutive_failure_count: 1,
            last_failure_msg: "no route".to_owned(),
            ..ControllerCounts::default()
        };
        status.controllers.push(ControllerStatus {
            name: "sync-routes".to_owned(),
            status: counts,
        });
        assert_eq!(
            problem(&status).as_deref(),
            Some("controller sync-routes: no route")
        );
        status.kubernetes.state = State::Failure;
        status.kubernetes.msg = "refused".to_owned();
        assert_eq!(problem(&status).as_deref(), Some("kubernetes: refused"));
    }
}
