//! The commands, one module each. They print to stdout what was asked for and to stderr what happens meanwhile.

pub(crate) mod down;
pub(crate) mod exec;
pub(crate) mod kubeconfig;
pub(crate) mod logs;
pub(crate) mod nodes;
pub(crate) mod status;
pub(crate) mod up;

use std::io::{self, Write as _};

use anyhow::bail;

/// Refuses to go on without root: namespaces, mounts and control groups take it.
fn require_root() -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!("the lab makes network and mount namespaces, which takes root; try again with sudo");
}

/// Prints to stdout. A reader that has seen enough, such as `head`, is no failure.
fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}
