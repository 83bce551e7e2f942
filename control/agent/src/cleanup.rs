//! `seta node-cleanup`: takes away what the agent leaves on a node on purpose, so that a restart changes nothing:
//! programs and maps, devices and routes, the CNI configuration and the plugin. Run by `seta uninstall` in a pod on
//! every node, when no agent runs any more.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use netlink::Netlink;

/// Where the pods of the agent see the node's own directories.
const CNI_CONFIGURATION: &str = "/host/etc/cni/net.d";
const CNI_PLUGINS: &str = "/host/opt/cni/bin";

/// Remove what the agent leaves on a node on purpose (run by `seta uninstall`)
#[derive(clap::Args, Clone, Debug)]
pub struct CleanupArgs {
    /// Make this file when everything is done, and then wait to be ended: the pod is then ready
    #[arg(long, value_name = "FILE")]
    hold: Option<PathBuf>,
}

/// Runs `seta node-cleanup`.
///
/// # Errors
/// What could not be removed; calling it again goes on from there.
pub async fn cleanup(arguments: CleanupArgs) -> anyhow::Result<ExitCode> {
    // First, so that no new pod is given to a network that goes away.
    for path in [
        Path::new(CNI_CONFIGURATION).join("05-cilium.conflist"),
        Path::new(CNI_PLUGINS).join("cilium-cni"),
    ] {
        match std::fs::remove_file(&path) {
            Ok(()) => println!("removed {}", path.display()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("removing {}", path.display())),
        }
    }
    restore_configurations(Path::new(CNI_CONFIGURATION))?;
    let removed = loader::uninstall(Path::new("/sys/fs/bpf")).context("removing programs and maps")?;
    println!("removed {} programs and {} maps", removed.links, removed.maps);
    devices().await?;
    empty(Path::new("/var/run/cilium"))?;
    if let Some(file) = arguments.hold {
        std::fs::write(&file, "").with_context(|| format!("writing {}", file.display()))?;
        let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        end.recv().await;
    }
    Ok(ExitCode::SUCCESS)
}

async fn devices() -> anyhow::Result<()> {
    let netlink = Netlink::open().context("opening netlink")?;
    for route in netlink.our_routes().await.context("listing routes")? {
        netlink
            .delete_route(&route)
            .await
            .with_context(|| format!("removing the route to {}", route.destination))?;
        println!("removed the route to {}", route.destination);
    }
    for link in netlink.links().await.context("listing devices")? {
        // Devices of pods belong to no bridge; those of the LXC tools do.
        let pod =
            link.name.starts_with("lxc") && link.kind.as_deref() == Some("veth") && link.controller.is_none();
        // Its peer cilium_net goes with it.
        if pod || link.name == "cilium_host" {
            netlink
                .delete_link(&link.name)
                .await
                .with_context(|| format!("removing device {}", link.name))?;
            println!("removed device {}", link.name);
        }
    }
    Ok(())
}

/// Gives the other CNI plugins back what `cni-exclusive` set aside, under the name that Cilium gives it, too.
fn restore_configurations(directory: &Path) -> anyhow::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("listing {}", directory.display())),
    };
    for entry in entries {
        let path = entry
            .with_context(|| format!("listing {}", directory.display()))?
            .path();
        let original = path.to_str().and_then(|name| name.strip_suffix(".cilium_bak"));
        if let Some(original) = original {
            std::fs::rename(&path, original).with_context(|| format!("renaming {}", path.display()))?;
            println!("restored {original}");
        }
    }
    Ok(())
}

/// Removes what is in a directory, which is itself mounted.
fn empty(directory: &Path) -> anyhow::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("listing {}", directory.display())),
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("listing {}", directory.display()))?;
        let path = entry.path();
        let directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if directory {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_that_were_set_aside_come_back() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("10-other.conflist.cilium_bak"), "{}").expect("a file");
        std::fs::write(directory.path().join("20-more.conflist"), "{}").expect("a file");
        restore_configurations(directory.path()).expect("it works");
        assert!(directory.path().join("10-other.conflist").exists());
        assert!(directory.path().join("20-more.conflist").exists());
        restore_configurations(&directory.path().join("nowhere")).expect("nothing to do");
    }

    #[test]
    fn a_directory_is_emptied_and_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(directory.path().join("deleteQueue/x")).expect("directories");
        std::fs::write(directory.path().join("state.json"), "{}").expect("a file");
        empty(directory.path()).expect("it works");
        assert_eq!(
            std::fs::read_dir(directory.path())
                .expect("it is still there")
                .count(),
            0
        );
        empty(&directory.path().join("nowhere")).expect("nothing to do");
    }
}
