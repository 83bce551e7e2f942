//! The commands, one module each. They print to stdout what was asked for and to stderr what happens meanwhile.

pub(crate) mod down;
pub(crate) mod exec;
pub(crate) mod kubeconfig;
pub(crate) mod logs;
pub(crate) mod nodes;
pub(crate) mod status;
pub(crate) mod up;

use anyhow::bail;

/// Refuses to go on without root: namespaces, mounts and control groups take it.
fn require_root() -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!("the lab makes network and mount namespaces, which takes root; try again with sudo");
}
