//! The command line of the lab, as `clap` reads it, and the one way in.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, Subcommand, ValueEnum};

use crate::{cmd, node, supervise};

/// The name of the cluster where the user gives none: the one that kind uses, so that what is written for kind fits.
const DEFAULT_CLUSTER: &str = "kind";

/// A cluster on this machine: bring it up, look at it, take it down.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring a cluster up: nodes, network, API server, and a kubectl context for it.
    Up(Up),
    /// Take a cluster down and remove everything that belongs to it.
    Down(Down),
    /// Show whether the cluster, its components and its nodes run.
    Status(Status),
    /// Show the log of the supervisor (API server and controllers) or of a node's kubelet.
    Logs(Logs),
    /// Run a command on a node, as `docker exec` does with kind.
    Exec(Exec),
    /// List the nodes of the cluster.
    Nodes(Cluster),
    /// Print the address of a node.
    NodeIp(NodeIp),
    /// Print the kubeconfig of the cluster's administrator.
    Kubeconfig(Cluster),
    /// The daemon behind `up`.
    #[command(hide = true)]
    Supervise(Cluster),
    /// The kubelet of one node; started by the supervisor inside the node.
    #[command(hide = true)]
    Kubelet(Box<lab_kubelet::Args>),
    /// The cluster's name server; what the image `registry.k8s.io/coredns/coredns` runs.
    #[command(hide = true)]
    Dns(lab_dns::Args),
    /// Makes the namespaces of one node; started by the supervisor.
    #[command(hide = true)]
    NodeInit(OnNode),
}

/// Which cluster is meant.
#[derive(Debug, Clone, Args)]
pub struct Cluster {
    /// Name of the cluster
    #[arg(long, default_value = DEFAULT_CLUSTER, env = "SETA_LAB_NAME", value_parser = cluster_name)]
    pub name: String,
}

/// Which node of which cluster is meant, in the commands that the lab gives itself.
#[derive(Debug, Args)]
pub struct OnNode {
    /// The cluster
    #[command(flatten)]
    pub cluster: Cluster,
    /// Name of the node
    #[arg(long)]
    pub node: String,
}

/// The address families of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IpFamily {
    /// IPv6 only
    Ipv6,
    /// IPv4 only (not there yet)
    Ipv4,
    /// Both (not there yet)
    Dual,
}

/// `seta lab up`
#[derive(Debug, Args)]
pub struct Up {
    /// The cluster
    #[command(flatten)]
    pub cluster: Cluster,
    /// Address families of nodes, pods and services
    #[arg(long, value_enum, default_value = "ipv6", env = "IPFAMILY")]
    pub ip_family: IpFamily,
    /// Number of nodes; the first one is the control plane
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub nodes: u16,
    /// The kubeconfig file that gets the context [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,
    /// More images than the built-in ones: a YAML or JSON file, see docs/lab.md
    #[arg(long, value_name = "PATH")]
    pub image_catalogue: Option<PathBuf>,
    /// Also wait until every node is Ready, which takes a CNI; gives up after DURATION (such as 90s or 5m)
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "2m", value_parser = duration)]
    pub wait: Option<Duration>,
}

/// `seta lab down`
#[derive(Debug, Args)]
pub struct Down {
    /// The cluster
    #[command(flatten)]
    pub cluster: Cluster,
}

/// `seta lab status`
#[derive(Debug, Args)]
pub struct Status {
    /// The cluster
    #[command(flatten)]
    pub cluster: Cluster,
    /// Output format
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
}

/// How `status` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// `seta lab logs`
#[derive(Debug, Args)]
pub struct Logs {
    /// The cluster
    #[command(flatten)]
    pub cluster: Cluster,
    /// `supervisor` or the name of a node [default: all of them, one after the other]
    pub component: Option<String>,
    /// Go on printing what is added
    #[arg(short, long)]
    pub follow: bool,
}

/// `seta lab exec`
#[derive(Debug, Args)]
pub struct Exec {
    /// The cluster
    #[command(flatten)]
    pub cluster: Cluster,
    /// The node; `router` and `outside` are the two hosts that are not nodes
    pub node: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<std::ffi::OsString>,
}

/// `seta lab node-ip`
#[derive(Debug, Args)]
pub struct NodeIp {
    /// The cluster
    #[command(flatten)]
    pub cluster: Cluster,
    /// The node; `router` and `outside` are the two hosts that are not nodes
    pub node: String,
}

/// Runs one command of the lab to its end.
///
/// May be called from any thread, also from one that runs an async runtime: the work is done on a thread of its own,
/// which blocks the caller. The exit code of `exec` is that of the command it ran.
///
/// # Errors
/// Whatever went wrong, worded for the user of the command line.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    // A fresh thread has neither a runtime nor (after `unshare(CLONE_FS)`) file system state shared with others,
    // which is what entering a mount namespace asks for.
    std::thread::Builder::new()
        .name("lab".into())
        .spawn(move || dispatch(command))?
        .join()
        .map_err(|_| anyhow!("the lab command panicked; its message is above"))?
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(args) => cmd::up::run(&args),
        Command::Down(args) => cmd::down::run(&args),
        Command::Status(args) => cmd::status::run(&args),
        Command::Logs(args) => cmd::logs::run(&args),
        Command::Exec(args) => cmd::exec::run(&args),
        Command::Nodes(args) => cmd::nodes::list(&args),
        Command::NodeIp(args) => cmd::nodes::address(&args),
        Command::Kubeconfig(args) => cmd::kubeconfig::run(&args),
        Command::Supervise(args) => supervise::run(&args.name),
        Command::Kubelet(args) => {
            supervise::log_to_stderr();
            lab_kubelet::run(*args)
        }
        Command::Dns(args) => {
            supervise::log_to_stderr();
            lab_dns::run(&args)
        }
        Command::NodeInit(args) => node::init(&args.cluster.name, &args.node).map(|()| ExitCode::SUCCESS),
    }
}

/// Accepts what can be a part of namespace, cgroup and file names: a DNS label of at most 32 characters.
fn cluster_name(name: &str) -> Result<String, String> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let good = (1..=32).contains(&name.len())
        && name.chars().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if good {
        Ok(name.to_owned())
    } else {
        Err("lower case letters, digits and inner '-', at most 32 of them".to_owned())
    }
}

/// Parses `90`, `90s`, `2m` or `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(number) => (number, text.as_bytes()[number.len()]),
        None => (text, b's'),
    };
    let factor = match unit {
        b'h' => 3600,
        b'm' => 60,
        _ => 1,
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
        .map(Duration::from_secs)
        .ok_or_else(|| "a number of seconds, or a number with s, m or h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["kind", "t-1", "a"] {
            assert_eq!(cluster_name(good).as_deref(), Ok(good));
        }
        for bad in ["", "-a", "a-", "A", "a/b", "..", "a b", &"x".repeat(33)] {
            assert!(cluster_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        for (text, seconds) in [("0", 0), ("90", 90), ("90s", 90), ("2m", 120), ("1h", 3600)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in [
            "",
            "s",
            "-1",
            "1d",
            "1.5s",
            "99999999999999999999h",
            "18446744073709551615h",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
