//! Starting one container: environment, mounts, root, shim.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Service};
use kube::{Api, api::ListParams};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

use super::{sandbox, state::Sandbox};
use crate::{
    catalogue::Image,
    cgroup,
    context::Context,
    env::{self, Env, EnvError},
    files,
    oci::{self, Blueprint, Mount, Propagation},
    resolv,
    rootfs::{self, RootfsError},
    shim,
    sources::Sources,
    volumes,
};

/// How long a container may take to start, after everything is prepared.
const START_WITHIN: Duration = Duration::from_secs(60);

/// Why a container did not start, sorted by the reason people see on the container.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// CreateContainerConfigError
    #[error(transparent)]
    Env(#[from] EnvError),
    #[error("volume {0:?} of a mount is not one of the pod")]
    NoVolume(String),
    #[error("subPath {0:?} leaves its volume or cannot be made")]
    SubPath(String),
    #[error("user {0:?} is neither a number nor known on this machine")]
    User(String),
    #[error("container has runAsNonRoot and image will run as root")]
    NonRoot,
    /// CreateContainerError
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    #[error("cannot prepare the container's directory")]
    Io(#[from] io::Error),
    #[error("the shim said nothing within {START_WITHIN:?}")]
    Timeout,
    /// RunContainerError
    #[error("{0}")]
    Runtime(String),
}

impl StartError {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Env(_) | Self::NoVolume(_) | Self::SubPath(_) | Self::User(_) | Self::NonRoot => {
                "CreateContainerConfigError"
            }
            Self::Rootfs(_) | Self::Io(_) | Self::Timeout => "CreateContainerError",
            Self::Runtime(_) => "RunContainerError",
        }
    }
}

/// What a container is started with.
pub(crate) struct Start<'a> {
    pub(crate) context: &'a Context,
    pub(crate) pod: &'a Pod,
    pub(crate) spec: &'a PodSpec,
    pub(crate) container: &'a Container,
    pub(crate) image: &'a Image,
    pub(crate) sandbox: &'a Sandbox,
    pub(crate) volumes: &'a BTreeMap<String, PathBuf>,
    pub(crate) attempt: u32,
}

/// Starts a container; returns its id.
pub(crate) async fn start(request: Start<'_>) -> Result<String, StartError> {
    let Start {
        context,
        pod,
        container,
        image,
        attempt,
        ..
    } = &request;
    let id = sandbox::new_id();
    let dir = context.paths.container(&id);
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let env = environment(&request).await?;
    let mut blueprint = blueprint(&request, env)?;
    fs::create_dir_all(&dir)?;
    let result: Result<(), StartError> = async {
        let (root_dir, root_image) = (dir.clone(), (*image).clone());
        let root = tokio::task::spawn_blocking(move || rootfs::make(&root_dir, &root_image)).await;
        blueprint.rootfs = root
            .map_err(|error| StartError::Io(error.into()))??
            .display()
            .to_string();
        own_files(&request, &dir, &mut blueprint)?;
        fs::write(
            dir.join("config.json"),
            serde_json::to_vec(&oci::config(&blueprint)).map_err(io::Error::from)?,
        )?;
        let order = shim::Order {
            id: id.clone(),
            runtime_root: context.paths.runtime(),
            log: context.paths.log(uid, &container.name, *attempt),
            terminal: blueprint.terminal,
            stdin: container.stdin == Some(true),
            cgroup: cgroup::make(uid, &id)?,
        };
        fs::write(
            dir.join("shim.json"),
            serde_json::to_vec(&order).map_err(io::Error::from)?,
        )?;
        spawn_shim(context, &dir).await
    }
    .await;
    match result {
        Ok(()) => Ok(id),
        Err(error) => {
            remove(context, uid, &id).await;
            Err(error)
        }
    }
}

/// Removes everything of a container that no longer runs; kills it if it does.
pub(crate) async fn remove(context: &Context, pod_uid: &str, id: &str) {
    let (runtime, dir) = (context.paths.runtime(), context.paths.container(id));
    let (pod_uid, id) = (pod_uid.to_owned(), id.to_owned());
    let work = move || -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        crate::crun::delete(&runtime, &id)?;
        cgroup::kill(&pod_uid, &id);
        rootfs::unmount(&dir)?;
        files::remove(&dir)?;
        cgroup::remove(&pod_uid, Some(&id));
        Ok(())
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "cannot remove a container completely"),
        Err(error) => tracing::warn!(%error, "removing a container failed"),
    }
}

async fn spawn_shim(context: &Context, dir: &Path) -> Result<(), StartError> {
    let args = &context.args;
    let mut command = Command::new(&args.seta_binary);
    // The other flags are asked for by the command line, not by the shim.
    command.args([
        "lab",
        "kubelet",
        "--node-name",
        &args.node_name,
        "--node-ip",
        "::1",
        "--kubeconfig",
    ]);
    command
        .arg(&args.kubeconfig)
        .arg("--socket")
        .arg(&args.socket)
        .arg("--seta-binary")
        .arg(&args.seta_binary);
    command
        .arg("--shim")
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
        .stderr(fs::File::create(dir.join("shim.err"))?)
        .process_group(0);
    let mut child = command.spawn()?;
    let Some(stdout) = child.stdout.take() else {
        return Err(StartError::Timeout);
    };
    // The shim outlives this kubelet; while both live, somebody must take its exit code.
    tokio::spawn(async move { child.wait().await });
    let mut lines = BufReader::new(stdout).lines();
    let said = timeout(START_WITHIN, lines.next_line())
        .await
        .map_err(|_| StartError::Timeout)??;
    match said {
        Some(line) if line.starts_with("started ") => Ok(()),
        Some(line) => Err(StartError::Runtime(line)),
        None => {
            let why = fs::read_to_string(dir.join("shim.err")).unwrap_or_default();
            Err(StartError::Runtime(format!("the shim failed: {}", why.trim())))
        }
    }
}

async fn environment(request: &Start<'_>) -> Result<Env, StartError> {
    let Start {
        context,
        pod,
        spec,
        container,
        image,
        ..
    } = request;
    let mut base = Env::default();
    base.set(
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
    );
    base.set("HOSTNAME", hostname(context, pod, spec));
    if container.tty == Some(true) {
        base.set("TERM", "xterm".to_owned());
    }
    base.set("HOME", "/root".to_owned());
    for (name, value) in &image.env {
        base.set(name, value.clone());
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut services = Env::default();
    // An address given on the command line replaces the service's: nothing of the service may then be mixed in.
    let given = context.args.kubernetes_service_host;
    let hidden = |service: &Service| {
        given.is_some() && service.metadata.name.as_deref() == Some("kubernetes") && namespace == "default"
    };
    if spec.enable_service_links != Some(false) {
        let api: Api<Service> = Api::namespaced(context.client.clone(), namespace);
        // Without the list the variables are missing, which is better than no container.
        for service in api
            .list(&ListParams::default())
            .await
            .map(|list| list.items)
            .unwrap_or_default()
            .into_iter()
            .filter(|service| !hidden(service))
        {
            env::of_service(&service, &mut services);
        }
    }
    match given {
        Some(host) => {
            let port = i32::from(context.args.kubernetes_service_port);
            env::of_address(
                "kubernetes",
                &host.to_string(),
                &[(Some("https"), Some("TCP"), port)],
                &mut services,
            );
        }
        None => {
            let api: Api<Service> = Api::namespaced(context.client.clone(), "default");
            if let Ok(Some(service)) = api.get_opt("kubernetes").await {
                env::of_service(&service, &mut services);
            }
        }
    }
    let sources = Sources::new(context.client.clone(), namespace);
    Ok(env::resolve(base, pod, container, services, &sources).await?)
}

fn hostname(context: &Context, pod: &Pod, spec: &PodSpec) -> String {
    if spec.host_network == Some(true) {
        return context.args.node_name.clone();
    }
    let name = spec
        .hostname
        .clone()
        .or_else(|| pod.metadata.name.clone())
        .unwrap_or_default();
    // Longer names are cut, as Kubernetes does: the kernel takes 64 bytes.
    name.chars()
        .take(63)
        .collect::<String>()
        .trim_end_matches(['-', '.'])
        .to_owned()
}

fn blueprint(request: &Start<'_>, env: Env) -> Result<Blueprint, StartError> {
    let Start {
        context,
        pod,
        spec,
        container,
        image,
        sandbox,
        volumes,
        ..
    } = request;
    let words = |list: &Option<Vec<String>>| -> Option<Vec<String>> {
        let list = list.as_ref().filter(|list| !list.is_empty())?;
        Some(list.iter().map(|word| env.expand(word)).collect())
    };
    let (command, arguments) = (words(&container.command), words(&container.args));
    // An own command drops the image's arguments too.
    let default_arguments = if command.is_some() {
        Vec::new()
    } else {
        image.cmd.clone()
    };
    let mut args = command.unwrap_or_else(|| image.entrypoint.clone());
    args.extend(arguments.unwrap_or(default_arguments));
    if args.is_empty() {
        return Err(StartError::Runtime("no command specified".to_owned()));
    }
    let own = container.security_context.clone().unwrap_or_default();
    let shared = spec.security_context.clone().unwrap_or_default();
    let number = |own: Option<i64>, shared: Option<i64>| own.or(shared).and_then(|id| u32::try_from(id).ok());
    let (image_uid, image_gid) = user(&image.user)?;
    let run_as = number(own.run_as_user, shared.run_as_user);
    let uid = run_as.unwrap_or(image_uid);
    if uid == 0 && own.run_as_non_root.or(shared.run_as_non_root) == Some(true) {
        return Err(StartError::NonRoot);
    }
    let gid =
        number(own.run_as_group, shared.run_as_group).unwrap_or(if run_as.is_some() { 0 } else { image_gid });
    let extra = shared
        .supplemental_groups
        .iter()
        .flatten()
        .chain(shared.fs_group.iter());
    let capabilities = own.capabilities.unwrap_or_default();
    let mut mounts = image
        .binds
        .iter()
        .map(|(path, source)| Mount {
            destination: path.clone(),
            source: source.display().to_string(),
            read_only: true,
            propagation: Propagation::None,
        })
        .collect::<Vec<_>>();
    for mount in container.volume_mounts.as_deref().unwrap_or_default() {
        let volume = volumes
            .get(&mount.name)
            .ok_or_else(|| StartError::NoVolume(mount.name.clone()))?;
        let sub = match (&mount.sub_path, &mount.sub_path_expr) {
            (_, Some(expression)) => Some(env.expand(expression)),
            (path, None) => path.clone(),
        };
        let source = match sub.filter(|path| !path.is_empty()) {
            Some(path) => sub_path(volume, &path)?,
            None => volume.clone(),
        };
        mounts.push(Mount {
            destination: mount.mount_path.clone(),
            source: source.display().to_string(),
            read_only: mount.read_only == Some(true),
            propagation: match mount.mount_propagation.as_deref() {
                Some("Bidirectional") => Propagation::Bidirectional,
                Some("HostToContainer") => Propagation::HostToContainer,
                _ => Propagation::None,
            },
        });
    }
    let privileged = own.privileged == Some(true);
    let host_network = spec.host_network == Some(true);
    let sysctls = shared
        .sysctls
        .iter()
        .flatten()
        .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()));
    Ok(Blueprint {
        args,
        cwd: container
            .working_dir
            .clone()
            .filter(|dir| !dir.is_empty())
            .unwrap_or_else(|| match image.working_dir.as_str() {
                "" => "/".to_owned(),
                dir => dir.to_owned(),
            }),
        env: env.into_pairs(),
        uid,
        gid,
        groups: extra.filter_map(|id| u32::try_from(*id).ok()).collect(),
        terminal: container.tty == Some(true),
        rootfs: String::new(),
        read_only: own.read_only_root_filesystem == Some(true),
        privileged,
        no_new_privileges: own.allow_privilege_escalation == Some(false) && !privileged,
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        denied_capabilities: denied_capabilities(),
        hostname: hostname(context, pod, spec),
        netns: if host_network {
            None
        } else {
            sandbox.netns.as_ref().map(|path| path.display().to_string())
        },
        host_pid: spec.host_pid == Some(true),
        mounts,
        sysctls: if host_network {
            Vec::new()
        } else {
            sysctls.collect()
        },
        oom_score_adj: 0,
    })
}

/// What our own bounding set lacks: in a virtual machine or a container root has not always everything.
fn denied_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    bounding
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .map_or(0, |mask| !mask)
}

/// A path inside a volume; missing directories are made, links that lead out are refused.
fn sub_path(volume: &Path, path: &str) -> Result<PathBuf, StartError> {
    let bad = || StartError::SubPath(path.to_owned());
    if !volumes::is_inside(path) {
        return Err(bad());
    }
    let volume = volume.canonicalize().map_err(|_| bad())?;
    // Step by step, so that nothing is made behind a link that leads out.
    let mut full = volume.clone();
    for part in Path::new(path).components() {
        full.push(part);
        if fs::symlink_metadata(&full).is_err() {
            fs::create_dir(&full).map_err(|_| bad())?;
        }
        full = full.canonicalize().map_err(|_| bad())?;
        if !full.starts_with(&volume) {
            return Err(bad());
        }
    }
    Ok(full)
}

/// `uid`, `uid:gid` or a name of this machine.
fn user(text: &str) -> Result<(u32, u32), StartError> {
    let bad = || StartError::User(text.to_owned());
    let (user, group) = text
        .split_once(':')
        .map_or((text, None), |(user, group)| (user, Some(group)));
    let (uid, own_gid) = match user.parse::<u32>() {
        _ if user.is_empty() => (0, 0),
        Ok(uid) => (uid, 0),
        Err(_) => {
            let found = nix::unistd::User::from_name(user)
                .ok()
                .flatten()
                .ok_or_else(bad)?;
            (found.uid.as_raw(), found.gid.as_raw())
        }
    };
    let gid = match group {
        Some(group) => group.parse().map_err(|_| bad())?,
        None => own_gid,
    };
    Ok((uid, gid))
}

/// hosts, resolv.conf, hostname and the termination log, unless the pod mounts its own there.
fn own_files(request: &Start<'_>, dir: &Path, blueprint: &mut Blueprint) -> io::Result<()> {
    let Start {
        context,
        pod,
        spec,
        container,
        sandbox,
        ..
    } = request;
    let host_network = spec.host_network == Some(true);
    let name = blueprint.hostname.clone();
    let addresses = if host_network {
        context.host_ips()
    } else {
        &sandbox.addresses
    };
    let node_resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let (dns, domain) = (&context.args.cluster_dns, &context.args.cluster_domain);
    let log_path = container
        .termination_message_path
        .as_deref()
        .unwrap_or("/dev/termination-log");
    let own = [
        (
            "hosts",
            "/etc/hosts",
            files::hosts(spec, namespace, domain, &name, addresses),
        ),
        (
            "resolv.conf",
            "/etc/resolv.conf",
            resolv::resolv_conf(spec, namespace, dns, domain, &node_resolv),
        ),
        ("hostname", "/etc/hostname", format!("{name}\n")),
        ("termination-log", log_path, String::new()),
    ];
    for (file, destination, content) in own {
        if blueprint
            .mounts
            .iter()
            .any(|mount| mount.destination == destination)
        {
            continue;
        }
        let path = dir.join(file);
        fs::write(&path, content)?;
        if file == "termination-log" {
            // Whoever the container runs as may leave a last word.
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
        }
        blueprint.mounts.push(Mount {
            destination: destination.to_owned(),
            source: path.display().to_string(),
            read_only: false,
            propagation: Propagation::None,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_paths_make_nothing_behind_a_link_that_leads_out() {
        let (volume, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(outside.path(), volume.path().join("out")).unwrap();
        for bad in ["out/made", "../made", "/made"] {
            assert!(sub_path(volume.path(), bad).is_err(), "{bad}");
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(sub_path(volume.path(), "a/b").unwrap().ends_with("a/b"));
    }
}
