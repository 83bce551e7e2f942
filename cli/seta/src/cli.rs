//! The command line.

use clap::{Args, Parser, Subcommand};

use crate::dbg::Look;
use crate::failure::{EXIT_CODES, Failure};
use crate::nodes::OnNodes;
use crate::{config, dbg, install, status, uninstall, upgrade, version};

const EXAMPLES: &str = "\
A first walk, on one Linux machine:
  seta lab up                          a cluster of two nodes, IPv6 only
  seta install                         Seta on it
  seta status --wait                   until every agent is ready
  seta config view                     the configuration in use
  seta service list                    services and their backends, as every node has them
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
    // Taken before the command as well, as kubectl does, and shown where they belong.
    mut_args(|arg| arg.global(false).hide(true)),
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which cluster, and where in it: flags of the commands that talk to one.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Global {
    /// Namespace Seta runs in [default: kube-system]
    #[arg(
        short,
        long,
        global = true,
        value_name = "NAMESPACE",
        help_heading = "Cluster"
    )]
    pub(crate) namespace: Option<String>,
    /// Context of the kubeconfig to use [default: the current one]
    #[arg(long, global = true, value_name = "CONTEXT", help_heading = "Cluster")]
    pub(crate) context: Option<String>,
    /// Path of the kubeconfig [default: $KUBECONFIG, then ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub(crate) kubeconfig: Option<std::path::PathBuf>,
}

impl Global {
    /// The flags behind the command, completed by those before it.
    pub(crate) fn or(&self, before: &Self) -> Self {
        Self {
            namespace: self.namespace.clone().or_else(|| before.namespace.clone()),
            context: self.context.clone().or_else(|| before.context.clone()),
            kubeconfig: self.kubeconfig.clone().or_else(|| before.kubeconfig.clone()),
        }
    }

    /// Namespace Seta runs in.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("kube-system")
    }

    fn is_empty(&self) -> bool {
        self.namespace.is_none() && self.context.is_none() && self.kubeconfig.is_none()
    }
}

impl Cli {
    /// Refuses flags before a command that has no use for them.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let talks_to_a_cluster = matches!(
            self.command,
            Command::Install(_)
                | Command::Upgrade(_)
                | Command::Uninstall(_)
                | Command::Status(_)
                | Command::Config(_)
                | Command::Look(_)
                | Command::Version(_)
        );
        if talks_to_a_cluster || self.global.is_empty() {
            return Ok(());
        }
        Err(Failure::Usage(
            "--namespace, --context and --kubeconfig before the command are for commands that talk to a cluster, which this one does not"
                .to_owned(),
        ))
    }
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
    Config(config::Arguments),
    #[command(flatten)]
    Look(Look<OnNodes>),
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

    #[test]
    fn cluster_flags_stand_before_or_behind_commands_that_have_a_use_for_them() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        for (line, namespace) in [
            ("seta config view", "kube-system"),
            ("seta config view -n x", "x"),
            ("seta config -n x view", "x"),
            ("seta -n x config view", "x"),
            ("seta -n y config view -n x", "x"),
        ] {
            let cli = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert!(cli.check().is_ok(), "{line}");
            let Command::Config(arguments) = &cli.command else {
                panic!("{line}: {cli:?}");
            };
            assert_eq!(arguments.global.or(&cli.global).namespace(), namespace, "{line}");
        }
        assert!(parse("seta lab nodes --context x").is_err());
        assert!(parse("seta --context x lab nodes").is_ok_and(|cli| cli.check().is_err()));
    }
}
