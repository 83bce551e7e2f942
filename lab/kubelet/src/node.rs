//! The Node object: registration, measured status, conditions, heartbeats.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{
            Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo, ObjectReference, Taint,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time},
    },
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{info, warn};

use crate::{
    Args,
    cni::{self, Caller, Network},
    context::Context,
};

/// The version whose behaviour this kubelet follows.
const KUBELET_VERSION: &str = "v1.32.0";
/// How often the configuration directory is looked at: a node becomes ready this soon after its CNI.
const LOOK: Duration = Duration::from_millis(100);
/// How often plugins are asked for their status until they are ready.
const STATUS_EVERY: Duration = Duration::from_millis(250);
/// How soon a write is tried again that met somebody else's.
const AGAIN: Duration = Duration::from_millis(50);
/// How often the lease is renewed; the lease lasts four times as long.
const RENEW: Duration = Duration::from_secs(10);
/// How often the status is written even if nothing changed.
const REPORT: Duration = Duration::from_secs(300);
/// How long one write may take.
const API_WITHIN: Duration = Duration::from_secs(10);
const LEASES: &str = "kube-node-lease";

/// What the kubelet says while there is no network.
pub(crate) fn not_ready_message(why: &str) -> String {
    format!(
        "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin \
         returns error: {why}"
    )
}

/// Watches the network configuration and tells who listens.
pub(crate) async fn watch_network(args: Args, news: watch::Sender<Result<Arc<Network>, Arc<str>>>) {
    let caller = Caller {
        bin_dir: args.cni_bin_dir,
    };
    let mut next_status = Instant::now();
    loop {
        match cni::load(&args.cni_conf_dir) {
            Err(error) => {
                let why: Arc<str> = error.to_string().into();
                news.send_if_modified(|now| replace(now, Err(why)));
            }
            Ok(network) => {
                let known = matches!(&*news.borrow(), Ok(now) if **now == network);
                // Asked once per configuration: later failures of an agent that restarts do not make a node unready.
                if !known && Instant::now() >= next_status {
                    next_status = Instant::now() + STATUS_EVERY;
                    match caller.status(&network).await {
                        Ok(()) => {
                            info!(network = network.name, "network configuration found");
                            drop(news.send_replace(Ok(Arc::new(network))));
                        }
                        Err(error) => {
                            let why: Arc<str> = error.to_string().into();
                            news.send_if_modified(|now| replace(now, Err(why)));
                        }
                    }
                }
            }
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            () = news.closed() => return,
        }
    }
}

fn replace(now: &mut Result<Arc<Network>, Arc<str>>, new: Result<Arc<Network>, Arc<str>>) -> bool {
    let changed = match (&*now, &new) {
        (Ok(one), Ok(other)) => one != other,
        (Err(one), Err(other)) => one != other,
        _ => true,
    };
    if changed {
        *now = new;
    }
    changed
}

/// Keeps the Node object and its lease as they should be, for as long as it is polled.
pub(crate) async fn keep(context: Arc<Context>) {
    let mut network = context.network.clone();
    let mut next_report = Instant::now();
    let mut registered = false;
    loop {
        let ready = network
            .borrow_and_update()
            .as_ref()
            .map(|_| ())
            .map_err(|why| not_ready_message(why));
        match timeout(API_WITHIN, report(&context, ready)).await {
            Ok(Ok(node)) => {
                if !registered {
                    let about = node_reference(&node);
                    context
                        .events
                        .normal(about, "Starting", "Starting kubelet.".to_owned());
                    registered = true;
                }
                if let Err(error) = timeout(API_WITHIN, renew(&context, &node))
                    .await
                    .map_err(anyhow::Error::from)
                    .flatten()
                {
                    warn!(error = format!("{error:#}"), "cannot renew the node's lease");
                }
                next_report = Instant::now() + REPORT.min(RENEW);
            }
            // Somebody else wrote in between: look again.
            Ok(Err(error)) if is_conflict(&error) => next_report = Instant::now() + AGAIN,
            Ok(Err(error)) => {
                warn!(error = format!("{error:#}"), "cannot report the node");
                next_report = Instant::now() + Duration::from_millis(500);
            }
            Err(_) => warn!("cannot report the node in time"),
        }
        tokio::select! {
            () = sleep_until(next_report) => {}
            changed = network.changed() => if changed.is_err() { return },
        }
    }
}

fn node_reference(node: &Node) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: node.metadata.name.clone(),
        // As the kubelet does: the name stands for the uid.
        uid: node.metadata.name.clone(),
        ..ObjectReference::default()
    }
}

fn is_conflict(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == 409)
}

/// Registers the node if it is not there and writes its status.
async fn report(context: &Context, ready: Result<(), String>) -> anyhow::Result<Node> {
    let api: Api<Node> = Api::all(context.client.clone());
    let name = &context.args.node_name;
    let mut node = match api.get_opt(name).await.context("get node")? {
        Some(node) => node,
        None => {
            info!(node = name, "registering the node");
            let mut node = new_node(&context.args)?;
            node.status = Some(status(&context.args, None, &ready));
            api.create(&PostParams::default(), &node)
                .await
                .context("create node")?
        }
    };
    let labels = own_labels(&context.args)?;
    let has = node.metadata.labels.clone().unwrap_or_default();
    if labels.iter().any(|(key, value)| has.get(key) != Some(value)) {
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        node = api
            .patch(name, &PatchParams::default(), &patch)
            .await
            .context("label node")?;
    }
    let status = status(&context.args, node.status.as_ref(), &ready);
    // Others have conditions here too: nobody's write may be lost in between.
    let patch = Patch::Merge(json!({
        "metadata": {"resourceVersion": node.metadata.resource_version}, "status": status,
    }));
    api.patch_status(name, &PatchParams::default(), &patch)
        .await
        .context("write node status")
}

fn new_node(args: &Args) -> anyhow::Result<Node> {
    let taints = args
        .taints
        .iter()
        .map(|text| parse_taint(text))
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Node {
        metadata: ObjectMeta {
            name: Some(args.node_name.clone()),
            labels: Some(own_labels(args)?),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!taints.is_empty()).then_some(taints),
            ..NodeSpec::default()
        }),
        status: None,
    })
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn own_labels(args: &Args) -> anyhow::Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), args.node_name.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), architecture().to_owned()),
        ("beta.kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("beta.kubernetes.io/arch".to_owned(), architecture().to_owned()),
    ]);
    for text in args.labels.iter().filter(|text| !text.is_empty()) {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        anyhow::ensure!(!key.is_empty(), "label {text:?} has no key");
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(labels)
}

/// `key=value:Effect` or `key:Effect`.
fn parse_taint(text: &str) -> anyhow::Result<Taint> {
    let (head, effect) = text
        .rsplit_once(':')
        .with_context(|| format!("taint {text:?} has no effect"))?;
    let (key, value) = head
        .split_once('=')
        .map_or((head, None), |(key, value)| (key, Some(value)));
    let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect);
    anyhow::ensure!(
        known && !key.is_empty(),
        "taint {text:?} is not of the form key=value:Effect"
    );
    let value = value.filter(|value| !value.is_empty()).map(str::to_owned);
    Ok(Taint {
        key: key.to_owned(),
        value,
        effect: effect.to_owned(),
        ..Taint::default()
    })
}

fn status(args: &Args, before: Option<&NodeStatus>, ready: &Result<(), String>) -> NodeStatus {
    let capacity = capacity(args.max_pods);
    NodeStatus {
        addresses: Some(addresses(&args.node_ips, &args.node_name)),
        allocatable: Some(capacity.clone()),
        capacity: Some(capacity),
        conditions: Some(conditions(before, ready, Timestamp::now())),
        node_info: Some(system_info()),
        ..NodeStatus::default()
    }
}

fn addresses(ips: &[IpAddr], name: &str) -> Vec<NodeAddress> {
    let ips = ips.iter().map(|ip| NodeAddress {
        type_: "InternalIP".to_owned(),
        address: ip.to_string(),
    });
    let name = NodeAddress {
        type_: "Hostname".to_owned(),
        address: name.to_owned(),
    };
    ips.chain([name]).collect()
}

fn conditions(before: Option<&NodeStatus>, ready: &Result<(), String>, now: Timestamp) -> Vec<NodeCondition> {
    let known = before
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let fine = |kind: &str, reason: &str, message: &str| {
        (kind.to_owned(), false, reason.to_owned(), message.to_owned())
    };
    let ready = match ready {
        Ok(()) => (
            "Ready".to_owned(),
            true,
            "KubeletReady".to_owned(),
            "kubelet is posting ready status".to_owned(),
        ),
        Err(why) => (
            "Ready".to_owned(),
            false,
            "KubeletNotReady".to_owned(),
            why.clone(),
        ),
    };
    let own = [
        fine(
            "MemoryPressure",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        fine(
            "DiskPressure",
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
        ),
        fine(
            "PIDPressure",
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
        ready,
    ];
    let foreign = known
        .iter()
        .filter(|old| !own.iter().any(|(kind, ..)| *kind == old.type_))
        .cloned();
    let mut list: Vec<NodeCondition> = foreign.collect();
    list.extend(own.into_iter().map(|(kind, holds, reason, message)| {
        let status = if holds { "True" } else { "False" };
        let same = known.iter().find(|old| old.type_ == kind && old.status == status);
        NodeCondition {
            last_transition_time: same
                .and_then(|old| old.last_transition_time.clone())
                .or(Some(Time(now))),
            last_heartbeat_time: Some(Time(now)),
            type_: kind,
            status: status.to_owned(),
            reason: Some(reason),
            message: Some(message),
        }
    }));
    list
}

fn capacity(max_pods: u32) -> BTreeMap<String, Quantity> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
    let mut map = BTreeMap::from([
        ("cpu".to_owned(), Quantity(cpus.to_string())),
        ("pods".to_owned(), Quantity(max_pods.to_string())),
    ]);
    if let Some(kilobytes) = memory {
        map.insert("memory".to_owned(), Quantity(format!("{kilobytes}Ki")));
    }
    map
}

fn system_info() -> NodeSystemInfo {
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let release = read("/etc/os-release");
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: format!(
            "crun://{}",
            crun_version().unwrap_or_else(|| "unknown".to_owned())
        ),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: KUBELET_VERSION.to_owned(),
        machine_id: read("/etc/machine-id"),
        operating_system: "linux".to_owned(),
        os_image: pretty.unwrap_or("Linux").trim_matches('"').to_owned(),
        system_uuid: read("/sys/class/dmi/id/product_uuid"),
        ..NodeSystemInfo::default()
    }
}

/// Asked once: the runtime does not change under a kubelet.
fn crun_version() -> Option<String> {
    static VERSION: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let ask = || {
        let output = std::process::Command::new("crun")
            .arg("--version")
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        text.lines()
            .next()?
            .strip_prefix("crun version ")
            .map(str::to_owned)
    };
    VERSION.get_or_init(ask).clone()
}

async fn renew(context: &Context, node: &Node) -> anyhow::Result<()> {
    let api: Api<Lease> = Api::namespaced(context.client.clone(), LEASES);
    let name = &context.args.node_name;
    let now = MicroTime(Timestamp::now());
    if api.get_opt(name).await?.is_some() {
        let patch = Patch::Merge(json!({"spec": {"holderIdentity": name, "renewTime": now}}));
        api.patch(name, &PatchParams::default(), &patch).await?;
        return Ok(());
    }
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(LEASES.to_owned()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: name.clone(),
                uid: node.metadata.uid.clone().unwrap_or_default(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(40),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    api.create(&PostParams::default(), &lease).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints() {
        let taint = parse_taint("node-role.kubernetes.io/control-plane:NoSchedule").unwrap();
        assert_eq!(
            (taint.key.as_str(), taint.value, taint.effect.as_str()),
            ("node-role.kubernetes.io/control-plane", None, "NoSchedule")
        );
        assert_eq!(parse_taint("a=b:NoExecute").unwrap().value.as_deref(), Some("b"));
        for bad in ["", "a", "a:Sometimes", ":NoSchedule"] {
            assert!(parse_taint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn conditions_keep_times_and_others() {
        let old: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let condition = |kind: &str, status: &str| NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            last_transition_time: Some(Time(old)),
            ..NodeCondition::default()
        };
        let before = NodeStatus {
            conditions: Some(vec![
                condition("NetworkUnavailable", "False"),
                condition("Ready", "False"),
            ]),
            ..NodeStatus::default()
        };
        let now = old + jiff::SignedDuration::from_secs(9);
        let list = conditions(
            Some(&before),
            &Err(not_ready_message("cni plugin not initialized")),
            now,
        );
        assert_eq!(list[0].type_, "NetworkUnavailable");
        let ready = list.last().unwrap();
        assert_eq!(ready.last_transition_time, Some(Time(old)));
        assert!(
            ready
                .message
                .as_deref()
                .unwrap()
                .ends_with("returns error: cni plugin not initialized")
        );
        let list = conditions(Some(&before), &Ok(()), now);
        assert_eq!(list.last().unwrap().last_transition_time, Some(Time(now)));
    }
}
