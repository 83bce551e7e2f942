//! One kubelet process per node, started again when it ends.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use nix::sys::signal::Signal;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::cgroup::{self, Cgroups};
use crate::control_plane::API_PORT;
use crate::node;
use crate::state::{NodeSpec, Paths, Process, Spec};
use crate::supervise::StatusFile;
use crate::topology::{CLUSTER_DNS, CLUSTER_DOMAIN};

/// Waiting times between restarts: they double from the first to the last.
const FIRST_DELAY: Duration = Duration::from_millis(250);
const LAST_DELAY: Duration = Duration::from_secs(30);
/// A kubelet that ran this long has not failed to start.
const STABLE_AFTER: Duration = Duration::from_secs(60);
/// How long a kubelet may take to stop before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// Runs a node's kubelet until told to stop.
pub(crate) async fn keep_running(
    paths: Paths,
    spec: Spec,
    node: NodeSpec,
    stop: CancellationToken,
    status: StatusFile,
) {
    let mut delay = FIRST_DELAY;
    loop {
        let started = Instant::now();
        match start(&paths, &spec, &node).await {
            Ok((mut child, process)) => {
                status.change_node(&node.name, |kubelet| kubelet.pid = Some(process.pid));
                tokio::select! {
                    ended = child.wait() => tracing::warn!(node = node.name, ?ended, "the kubelet ended"),
                    () = stop.cancelled() => return stop_kubelet(child, process).await,
                }
            }
            Err(error) => tracing::error!(node = node.name, "cannot start the kubelet: {error:#}"),
        }
        delay = next_delay(delay, started.elapsed());
        status.change_node(&node.name, |kubelet| {
            kubelet.pid = None;
            kubelet.restarts += 1;
        });
        if stop
            .run_until_cancelled(tokio::time::sleep(delay))
            .await
            .is_none()
        {
            return;
        }
    }
}

/// The waiting time after a kubelet that lived for `lived`, if the one before it was followed by `last`.
fn next_delay(last: Duration, lived: Duration) -> Duration {
    if lived >= STABLE_AFTER {
        FIRST_DELAY
    } else {
        (last * 2).min(LAST_DELAY)
    }
}

async fn stop_kubelet(mut child: Child, process: Process) {
    process.signal(Signal::SIGTERM);
    if tokio::time::timeout(STOP_PATIENCE, child.wait()).await.is_err() {
        process.signal(Signal::SIGKILL);
        let _ = tokio::time::timeout(STOP_PATIENCE, child.wait()).await;
    }
}

/// Starts the kubelet inside its node.
async fn start(paths: &Paths, spec: &Spec, node: &NodeSpec) -> anyhow::Result<(Child, Process)> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(paths.kubelet_log(&node.name))?;
    let mut command = std::process::Command::new("/proc/self/exe");
    command
        .args(arguments(paths, spec, node, &std::env::current_exe()?)?)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let (entered, host, runtime) = (
        paths.clone(),
        node.name.clone(),
        tokio::runtime::Handle::current(),
    );
    // A child is born into the namespaces of the thread that makes it. The thread ends with it, so that no thread of
    // the runtime is ever found inside a node.
    let (sender, spawned) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("spawn-kubelet".into())
        .spawn(move || {
            let _inside = runtime.enter();
            let result = node::enter(&entered, &host).and_then(|()| {
                Command::from(command)
                    .kill_on_drop(true)
                    .spawn()
                    .context("cannot start the process")
            });
            // The receiver is gone only when the supervisor stops; then the child is dropped and thereby killed.
            let _ = sender.send(result);
        })?;
    let child = spawned.await.context("the thread that starts it panicked")??;
    let pid = child.id().ok_or_else(|| anyhow!("it ended at once"))?;
    cgroup::join(&Cgroups::of(&spec.cluster)?.kubelet(&node.name), pid)?;
    let process = paths.record_process(&format!("kubelet-{}", node.name), pid)?;
    Ok((child, process))
}

/// The kubelet's command line; see `lab_kubelet::Args`.
fn arguments(
    paths: &Paths,
    spec: &Spec,
    node: &NodeSpec,
    exe: &std::path::Path,
) -> anyhow::Result<Vec<std::ffi::OsString>> {
    let control_plane = spec.control_plane()?;
    let mut arguments: Vec<std::ffi::OsString> = vec!["lab".into(), "kubelet".into()];
    let mut add = |name: &str, value: std::ffi::OsString| arguments.extend([name.into(), value]);
    add("--node-name", node.name.clone().into());
    add("--kubeconfig", kubeconfig(paths, &node.name).into());
    add("--socket", paths.kubelet_socket(&node.name).into());
    add("--seta-binary", exe.into());
    add("--node-ip", node.address.to_string().into());
    // The address of the service is of use only once something balances load; this one always works.
    add(
        "--kubernetes-service-host",
        control_plane.address.to_string().into(),
    );
    add("--kubernetes-service-port", API_PORT.to_string().into());
    add("--cluster-dns", CLUSTER_DNS.into());
    add("--cluster-domain", CLUSTER_DOMAIN.into());
    if paths.image_catalogue().exists() {
        add("--image-catalogue", image_catalogue(paths, &node.name).into());
    }
    if node == control_plane {
        add("--labels", "node-role.kubernetes.io/control-plane=".into());
    }
    Ok(arguments)
}

/// The credentials of a node's kubelet.
pub(crate) fn kubeconfig(paths: &Paths, node: &str) -> PathBuf {
    paths.node(node).join("kubeconfig")
}

/// A node's copy of the user's own images: of the cluster's files, a node sees only its own.
pub(crate) fn image_catalogue(paths: &Paths, node: &str) -> PathBuf {
    paths.node(node).join("images.yaml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_last_and_start_again() {
        let (short, long) = (Duration::from_secs(1), STABLE_AFTER);
        for (last, lived, expected) in [
            (FIRST_DELAY, short, FIRST_DELAY * 2),
            (Duration::from_secs(20), short, LAST_DELAY),
            (LAST_DELAY, short, LAST_DELAY),
            (LAST_DELAY, long, FIRST_DELAY),
        ] {
            assert_eq!(next_delay(last, lived), expected);
        }
    }
}
