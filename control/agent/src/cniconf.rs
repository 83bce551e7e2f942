//! The CNI configuration that tells the kubelet about us. It is written once the agent can serve ADD, as its
//! appearance is what makes the node ready.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::files;

/// Ending of other plugins' configurations that were set aside (Cilium has the same).
const ASIDE: &str = "cilium_bak";

/// Writes the configuration to `path` unless it stands there already; the plugin logs to `log_file`, if that is not empty. With `exclusive`, configurations of other
/// plugins in that directory are set aside, as the runtime takes the first it finds.
pub(crate) fn write(path: &Path, exclusive: bool, log_file: &str) -> io::Result<()> {
    let content = content(log_file);
    if files::read_if_exists(path)?.as_deref() != Some(content.as_slice()) {
        files::write_atomically(path, &content)?;
    }
    if exclusive && let Some(directory) = path.parent() {
        set_others_aside(directory, path)?;
    }
    Ok(())
}

/// Removes the configuration, so that the kubelet sends no more pods.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn set_others_aside(directory: &Path, own: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let ending = path
            .extension()
            .and_then(|ending| ending.to_str())
            .unwrap_or_default();
        if path != own && matches!(ending, "conf" | "conflist" | "json") {
            let mut aside = path.clone().into_os_string();
            aside.push(format!(".{ASIDE}"));
            tracing::info!(file = %path.display(), "CNI configuration of another plugin set aside");
            std::fs::rename(&path, aside)?;
        }
    }
    Ok(())
}

/// The network the configuration describes. 0.3.1 is understood by every runtime that is still in use; the plugin
/// answers in whatever version the runtime asks for.
fn content(log_file: &str) -> Vec<u8> {
    let mut plugin = json!({ "type": "cilium-cni" });
    if !log_file.is_empty() {
        plugin["log-file"] = json!(log_file);
    }
    let list = json!({ "cniVersion": "0.3.1", "name": "cilium", "plugins": [plugin] });
    format!("{list:#}\n").into_bytes()
}

/// Copies this program to where the kubelet looks for plugins, unless the same one is there. The kernel refuses to
/// write a program that runs, so it is put beside and renamed.
pub(crate) fn install_plugin(directory: &Path) -> io::Result<PathBuf> {
    let target = directory.join("cilium-cni");
    let own = std::env::current_exe()?;
    if same_file(&own, &target)? {
        return Ok(target);
    }
    let partial = directory.join(".cilium-cni.new");
    std::fs::copy(&own, &partial)?;
    std::fs::rename(&partial, &target)?;
    Ok(target)
}

/// Same length and same bytes.
fn same_file(one: &Path, other: &Path) -> io::Result<bool> {
    let length = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.len());
    match length(other) {
        Ok(there) if there == length(one)? => Ok(std::fs::read(one)? == std::fs::read(other)?),
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_written_once_and_restored_when_changed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("05-cilium.conflist");
        write(&path, true, "/run/cni.log").expect("written");
        let first = std::fs::metadata(&path)
            .expect("a file")
            .modified()
            .expect("a time");
        write(&path, true, "/run/cni.log").expect("still there");
        assert_eq!(
            std::fs::metadata(&path)
                .expect("a file")
                .modified()
                .expect("a time"),
            first
        );
        std::fs::write(&path, "{}").expect("changed");
        write(&path, true, "/run/cni.log").expect("written again");
        let list: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).expect("a file")).expect("JSON");
        assert_eq!(list["plugins"][0]["type"], "cilium-cni");
        remove(&path).expect("removed");
        remove(&path).expect("is not there any more");
        assert!(!path.exists());
    }

    #[test]
    fn others_are_set_aside_only_when_that_is_wanted() {
        let directory = tempfile::tempdir().expect("a directory");
        let other = directory.path().join("10-other.conflist");
        std::fs::write(&other, "{}").expect("written");
        let path = directory.path().join("05-cilium.conflist");
        write(&path, false, "").expect("written");
        assert!(other.exists());
        write(&path, true, "/run/cni.log").expect("still there");
        assert!(!other.exists() && directory.path().join("10-other.conflist.cilium_bak").exists());
    }

    #[test]
    fn the_plugin_is_this_program() {
        let directory = tempfile::tempdir().expect("a directory");
        let target = install_plugin(directory.path()).expect("copied");
        install_plugin(directory.path()).expect("still there");
        assert!(same_file(&std::env::current_exe().expect("a program"), &target).expect("comparable"));
    }
}
