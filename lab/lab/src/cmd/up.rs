//! `seta lab up`

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use nix::mount::MsFlags;

use crate::cli::{IpFamily, Up};
use crate::state::{Paths, Phase, SPEC_VERSION, Spec, TMPFS_SIZE, write_json};
use crate::wait::poll_until;
use crate::{kubeconfig, mounts, node, teardown, topology};

/// How long the supervisor may take. It takes well under three seconds on an idle machine.
const READY_PATIENCE: Duration = Duration::from_secs(60);

/// Programs of the machine that the lab cannot do without.
const PROGRAMS: [(&str, &str); 3] = [
    ("crun", "runs the containers"),
    ("nginx", "is the image `nginx`"),
    ("curl", "is the image `curlimages/curl`"),
];

pub(crate) fn run(args: &Up) -> anyhow::Result<ExitCode> {
    refuse_families(args.ip_family)?;
    super::require_root()?;
    require_programs(std::env::var_os("PATH"))?;
    let user_kubeconfig = match &args.kubeconfig {
        Some(path) => std::path::absolute(path)?,
        None => {
            let (list, home) = (std::env::var_os("KUBECONFIG"), std::env::var_os("HOME"));
            kubeconfig::default_path(list.as_deref(), home.as_deref())?
        }
    };
    // Read before anything is made: a mistake in it is the user's to know at once.
    let catalogue = args.image_catalogue.as_deref().map(read_catalogue).transpose()?;
    let spec = Spec {
        version: SPEC_VERSION,
        cluster: args.cluster.name.clone(),
        nodes: topology::plan_nodes(&args.cluster.name, args.nodes),
        user_kubeconfig,
    };

    let started = Instant::now();
    let paths = Paths::of(&spec.cluster);
    let interrupt = Interrupt::watch()?;
    let _lock = paths.lock(|| interrupt.check())?;
    let fresh = !already_up(&paths, &spec)?;
    if fresh {
        if teardown::has_leftovers(&paths) {
            eprintln!("Removing what was left of cluster {:?} …", paths.cluster());
            teardown::remove_cluster(&paths)?;
        }
        eprintln!(
            "Creating cluster {:?} with {} …",
            paths.cluster(),
            count(spec.nodes.len(), "node")
        );
    }
    if !fresh && catalogue.is_some() {
        bail!(
            "cluster {:?} is up already, and its nodes read --image-catalogue when they start; `seta lab down` it first",
            spec.cluster
        );
    }
    if let Err(error) = bring_up(&paths, &spec, fresh.then_some(catalogue), &interrupt) {
        let tail = log_tail(&paths);
        if fresh {
            teardown::remove_cluster(&paths).context("cannot undo what was done so far")?;
        }
        return Err(error.context(tail));
    }
    report(&paths, &spec, fresh, started.elapsed())?;
    match args.wait {
        Some(patience) => wait_for_nodes(&paths, &spec, patience, &interrupt),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Says yes to IPv6 and why not to the others.
fn refuse_families(family: IpFamily) -> anyhow::Result<()> {
    let name = match family {
        IpFamily::Ipv6 => return Ok(()),
        IpFamily::Ipv4 => "ipv4",
        IpFamily::Dual => "dual",
    };
    bail!(
        "--ip-family {name} is not supported yet: nodes, pods and services of the lab have IPv6 addresses only, \
         because the datapath knows IPv6 only; use --ip-family ipv6"
    );
}

/// Fails with the list of programs that are not on the search path.
fn require_programs(path: Option<std::ffi::OsString>) -> anyhow::Result<()> {
    let path = path.unwrap_or_default();
    let missing: Vec<String> = PROGRAMS
        .iter()
        .filter(|(program, _)| !std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
        .map(|(program, why)| format!("{program} (which {why})"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "not installed: {}; `make setup` installs what the lab needs",
        missing.join(", ")
    );
}

/// Whether this very cluster runs already.
fn already_up(paths: &Paths, wanted: &Spec) -> anyhow::Result<bool> {
    // A spec that cannot be read is a leftover like any other.
    let Ok(Some(spec)) = paths.read_spec() else {
        return Ok(false);
    };
    let failed = paths
        .read_status()
        .ok()
        .flatten()
        .is_some_and(|status| status.phase == Phase::Failed);
    if spec.version != SPEC_VERSION || failed || paths.live_supervisor().is_none() {
        return Ok(false);
    }
    if spec.nodes != wanted.nodes {
        bail!(
            "cluster {:?} is up with {}, not {}; `seta lab down` it first",
            spec.cluster,
            count(spec.nodes.len(), "node"),
            wanted.nodes.len()
        );
    }
    Ok(true)
}

/// A catalogue of images that kubelets will understand.
fn read_catalogue(path: &std::path::Path) -> anyhow::Result<String> {
    lab_kubelet::check_catalogue(path)?;
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Starts the supervisor if the cluster is `fresh`, with the user's own images, and waits until the cluster can be used.
fn bring_up(
    paths: &Paths,
    spec: &Spec,
    fresh: Option<Option<String>>,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    if let Some(catalogue) = fresh {
        prepare_directory(paths)?;
        if let Some(catalogue) = catalogue {
            // A copy, because nodes have mounts of their own over much of the machine.
            fs::write(paths.image_catalogue(), catalogue)?;
        }
        write_json(&paths.spec(), spec)?;
        start_supervisor(paths)?;
    }
    let ready = poll_until(READY_PATIENCE, || {
        interrupt.check()?;
        match paths.read_status()?.unwrap_or_default() {
            status if status.phase == Phase::Running => Ok(true),
            status if status.phase == Phase::Failed => Err(anyhow!(status.error.unwrap_or_default())),
            _ if paths.live_supervisor().is_none() => Err(anyhow!("the supervisor ended")),
            _ => Ok(false),
        }
    })?;
    if !ready {
        bail!("the cluster is not ready after {} s", READY_PATIENCE.as_secs());
    }
    Ok(())
}

/// A tmpfs for everything the cluster writes, so that it can be forgotten in one step.
fn prepare_directory(paths: &Paths) -> anyhow::Result<()> {
    let root = paths.root();
    fs::create_dir_all(root).with_context(|| format!("cannot create {}", root.display()))?;
    mounts::mount_new(
        "tmpfs",
        root,
        MsFlags::empty(),
        // Tokens and Secrets of the pods are in there, and a token may do everything.
        &format!("mode=0700,{TMPFS_SIZE}"),
    )?;
    // Mount namespaces can only be pinned where mounts do not travel.
    mounts::set_propagation(root, MsFlags::MS_PRIVATE)
}

fn start_supervisor(paths: &Paths) -> anyhow::Result<()> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(paths.supervisor_log())?;
    let mut command: Command = node::self_command(["supervise", "--name", paths.cluster()]);
    // A process group of its own, so that Ctrl-C on this terminal is not for it; it detaches fully by itself.
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    let child = command.spawn().context("cannot start the supervisor")?;
    paths.record_process("supervisor", child.id())?;
    Ok(())
}

/// The end of the supervisor's log, for an error message.
fn log_tail(paths: &Paths) -> String {
    let log = fs::read_to_string(paths.supervisor_log()).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let tail = &lines[lines.len().saturating_sub(10)..];
    if tail.is_empty() {
        "the cluster did not come up".to_owned()
    } else {
        format!(
            "the cluster did not come up; the end of its log:\n{}\n",
            tail.join("\n")
        )
    }
}

fn report(paths: &Paths, spec: &Spec, fresh: bool, took: Duration) -> anyhow::Result<()> {
    let server = paths
        .read_status()?
        .and_then(|status| status.server)
        .unwrap_or_default();
    if fresh {
        eprintln!(
            " ✓ nodes: {}",
            spec.nodes
                .iter()
                .map(|node| node.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        );
        eprintln!(" ✓ API server: {server}");
        let context = kubeconfig::context(&spec.cluster);
        eprintln!(
            " ✓ kubectl context {context:?} in {}",
            spec.user_kubeconfig.display()
        );
        eprintln!(
            "Up after {:.1} s. Nodes become Ready once there is a CNI: `seta install`.",
            took.as_secs_f64()
        );
    } else {
        eprintln!(
            "Cluster {:?} is up already: {}, {server}.",
            spec.cluster,
            count(spec.nodes.len(), "node")
        );
    }
    Ok(())
}

fn wait_for_nodes(
    paths: &Paths,
    spec: &Spec,
    patience: Duration,
    interrupt: &Interrupt,
) -> anyhow::Result<ExitCode> {
    let mut missing = Vec::new();
    let ready = poll_until(patience, || -> anyhow::Result<bool> {
        interrupt.check()?;
        let status = paths.read_status()?.unwrap_or_default();
        let is_ready = |name: &str| {
            status
                .kubelets
                .iter()
                .any(|kubelet| kubelet.node == name && kubelet.ready)
        };
        missing = spec
            .nodes
            .iter()
            .map(|node| node.name.clone())
            .filter(|name| !is_ready(name))
            .collect();
        Ok(missing.is_empty())
    })?;
    if ready {
        eprintln!("All nodes are Ready.");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "Not Ready after {} s: {}. The cluster stays up.",
        patience.as_secs(),
        missing.join(", ")
    );
    Ok(ExitCode::FAILURE)
}

fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// Whether the user asked to stop. A signal only sets a mark, so what is being done comes to an end that can be undone.
struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    fn watch() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let mark = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let seen = Arc::clone(&mark);
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                });
                seen.store(true, Ordering::Relaxed);
            })?;
        Ok(Self(mark))
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("interrupted; what was done is undone");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn only_ipv6() {
        assert!(refuse_families(IpFamily::Ipv6).is_ok());
        for (family, name) in [(IpFamily::Ipv4, "ipv4"), (IpFamily::Dual, "dual")] {
            let message = refuse_families(family).unwrap_err().to_string();
            assert!(
                message.contains(name) && message.contains("datapath"),
                "{message}"
            );
        }
    }

    #[test]
    fn missing_programs_are_all_named_with_the_cure() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("nginx")).unwrap();
        let message = require_programs(Some(dir.path().into())).unwrap_err().to_string();
        assert!(
            message.contains("crun") && message.contains("curl") && !message.contains("nginx"),
            "{message}"
        );
        assert!(message.contains("make setup"), "{message}");
        assert!(require_programs(None).is_err());
    }
}
