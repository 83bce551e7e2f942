//! The command line.

use clap::{Args, Parser, Subcommand};

use crate::failure::EXIT_CODES;
use crate::{config, dbg, install, status, uninstall, upgrade, version};

const EXAMPLES: &str = "\
A first walk, on one Linux machine:
  seta lab up                          a cluster of two nodes, IPv6 only
  seta install                         Seta on it
  seta status --wait                   until every agent is ready
  seta config view                     the configuration in use
  seta uninstall && seta lab down      and everything is as before

Inside the agent's pod this binary also answers to `cilium` and `cilium-dbg`:
  kubectl -n kube-system exec ds/cilium -- cilium-dbg endpoint list";

/// eBPF networking for Kubernetes, IPv6 first
///
/// Seta connects the pods of a Kubernetes cluster with eBPF. It speaks what Cilium users already have: the objects of
/// cilium.io, the keys of cilium-config, the values of the Helm chart, the verbs of the cilium command.
#[derive(Debug, Parser)]
#[command(
    name = "seta",
    version,
    propagate_version = false,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"),
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which cluster, and where in it.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// Namespace Seta runs in
    #[arg(
        short,
        long,
        global = true,
        default_value = "kube-system",
        value_name = "NAMESPACE",
        help_heading = "Cluster"
    )]
    pub(crate) namespace: String,
    /// Context of the kubeconfig to use [default: the current one]
    #[arg(long, global = true, value_name = "CONTEXT", help_heading = "Cluster")]
    pub(crate) context: Option<String>,
    /// Path of the kubeconfig [default: $KUBECONFIG, then ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub(crate) kubeconfig: Option<std::path::PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Install Seta in a cluster
    Install(install::Arguments),
    /// Change the values or the version of an installation
    Upgrade(upgrade::Arguments),
    /// Remove Seta from a cluster and from its nodes
    Uninstall(uninstall::Arguments),
    /// Show how Seta is, measured on every node
    Status(status::Arguments),
    /// Show and change the configuration
    #[command(subcommand)]
    Config(config::Command),
    /// A cluster on this machine, to try and to test
    #[command(subcommand)]
    Lab(lab::Command),
    /// Show the versions of this command and of the agents
    Version(version::Arguments),
    /// Print completions for a shell
    #[command(
        after_help = "Examples:\n  source <(seta completion bash)\n  seta completion zsh > ~/.zfunc/_seta"
    )]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// The agent: what runs on every node
    Agent(agent::Args),
    /// The operator: what one per cluster does
    Operator(operator::Args),
    /// Look into the agent of this node; `cilium` and `cilium-dbg` inside its pod
    Dbg(dbg::Args),
    /// Take away what the agent left on this node
    #[command(hide = true)]
    NodeCleanup(agent::CleanupArgs),
    /// The CNI plugin, as a container runtime calls it
    #[command(hide = true)]
    Cni,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn no_flag_is_in_the_way_of_another() {
        Cli::command().debug_assert();
    }
}
