//! Calls of the OCI runtime, crun.

use std::{
    io,
    path::Path,
    process::{Command, Stdio},
};

use serde::Deserialize;

/// Why the runtime did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeError {
    #[error("cannot run crun")]
    Spawn(#[from] io::Error),
    #[error("{0}")]
    Failed(String),
}

/// A container as `crun list` shows it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Listed {
    pub(crate) id: String,
}

/// crun with its own state directory and, in `log`, its own messages: standard error belongs to the container.
pub(crate) fn command(root: &Path, log: &Path) -> Command {
    let mut command = Command::new("crun");
    command
        .arg("--root")
        .arg(root)
        .args(["--cgroup-manager=disabled", "--log-format=json"]);
    command.arg("--log").arg(log).stdin(Stdio::null());
    command
}

/// The last message in a log of crun.
pub(crate) fn last_error(log: &Path) -> Option<String> {
    last_error_in(&std::fs::read_to_string(log).ok()?)
}

/// The same in the text of a log: one JSON object a line.
pub(crate) fn last_error_in(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Line>(line).ok());
    lines
        .filter(|line| line.level == "error")
        .fold(None, |_, line| Some(line.msg))
}

/// Sends a signal to a container's first process. A container that is gone already is success.
pub(crate) fn kill(root: &Path, id: &str, signal: &str) -> Result<(), RuntimeError> {
    run(root, &["kill", id, signal]).or_else(gone_is_fine)
}

/// Removes a container, killing it if needed. A container that is gone already is success.
pub(crate) fn delete(root: &Path, id: &str) -> Result<(), RuntimeError> {
    run(root, &["delete", "--force", id]).or_else(gone_is_fine)
}

/// All containers of this state directory.
pub(crate) fn list(root: &Path) -> Result<Vec<Listed>, RuntimeError> {
    if !root.is_dir() {
        return Ok(Vec::new());
    }
    let output = Command::new("crun")
        .arg("--root")
        .arg(root)
        .args(["list", "--format", "json"])
        .output()?;
    if !output.status.success() {
        return Err(RuntimeError::Failed(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ));
    }
    parse_list(&output.stdout)
}

/// What `crun list --format json` printed: `null` when there are none.
pub(crate) fn parse_list(output: &[u8]) -> Result<Vec<Listed>, RuntimeError> {
    let list: Option<Vec<Listed>> =
        serde_json::from_slice(output).map_err(|error| RuntimeError::Failed(error.to_string()))?;
    Ok(list.unwrap_or_default())
}

fn run(root: &Path, args: &[&str]) -> Result<(), RuntimeError> {
    let output = Command::new("crun")
        .arg("--root")
        .arg(root)
        .arg("--cgroup-manager=disabled")
        .args(args)
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(RuntimeError::Failed(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}

fn gone_is_fine(error: RuntimeError) -> Result<(), RuntimeError> {
    match &error {
        RuntimeError::Failed(text)
            if text.contains("does not exist")
                || text.contains("No such")
                || text.contains("not running") =>
        {
            Ok(())
        }
        _ => Err(error),
    }
}
