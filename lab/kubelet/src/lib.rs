//! The node agent of the lab's cluster: what a kubelet and its container runtime do, on one Linux machine and without images.
//!
//! It runs inside its node's network and mount namespace. Containers are made by `crun` on an overlay of the machine's own
//! root; the network is asked for by the CNI protocol, exactly as a container runtime asks; everything else is the Kubernetes API.
//! May be imported by `lab` only.

mod catalogue;
mod cgroup;
mod cleanup;
mod cni;
mod context;
mod crun;
mod dial;
mod downward;
mod env;
mod events;
mod exec;
mod files;
#[doc(hidden)]
pub mod fuzz;
mod kubelet;
mod log_reader;
mod logs;
mod mounts;
mod netns;
mod node;
mod oci;
mod pod;
mod resolv;
mod rootfs;
mod server;
mod shim;
mod sources;
mod terminal;
mod volumes;

use std::{net::IpAddr, path::PathBuf, process::ExitCode};

/// How a kubelet is started: `seta lab kubelet …`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Name of the Node object this kubelet registers and serves
    #[arg(long)]
    pub node_name: String,
    /// Credentials and address of the API server
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Unix socket on which exec, attach, port-forward and logs are served to the API server
    #[arg(long)]
    pub socket: PathBuf,
    /// Directory of all state; must not be on the file system of `/` (overlay refuses that): the lab mounts a tmpfs
    #[arg(long, default_value = "/var/lib/kubelet")]
    pub root_dir: PathBuf,
    /// The `seta` executable: it is `/usr/bin/seta` in Seta's own image, and the shim beside every container
    #[arg(long)]
    pub seta_binary: PathBuf,
    /// Where network configuration appears; the node is Ready only once there is one
    #[arg(long, default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// Where CNI plugins are looked for
    #[arg(long, default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,
    /// Addresses of the node, the primary one first
    #[arg(long = "node-ip", value_delimiter = ',', required = true)]
    pub node_ips: Vec<IpAddr>,
    /// Further labels of the Node object, as `key=value`
    #[arg(long, value_delimiter = ',')]
    pub labels: Vec<String>,
    /// Taints the Node object is registered with, as `key=value:Effect` or `key:Effect`
    #[arg(long, value_delimiter = ',')]
    pub taints: Vec<String>,
    /// More images: a YAML or JSON file, see `catalogue`
    #[arg(long)]
    pub image_catalogue: Option<PathBuf>,
    /// Name servers of pods with dnsPolicy ClusterFirst; without one they get the node's resolv.conf
    #[arg(long, value_delimiter = ',')]
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster in the pods' resolv.conf
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// What KUBERNETES_SERVICE_HOST says in pods; without it, the address of the service default/kubernetes
    #[arg(long)]
    pub kubernetes_service_host: Option<IpAddr>,
    /// What KUBERNETES_SERVICE_PORT says in pods, together with --kubernetes-service-host
    #[arg(long, default_value_t = 443)]
    pub kubernetes_service_port: u16,
    /// How many pods the node admits
    #[arg(long, default_value_t = 110)]
    pub max_pods: u32,
    /// Not for people: be the shim of the container in this directory (see `shim`)
    #[arg(long, hide = true)]
    pub shim: Option<PathBuf>,
}

/// Runs the kubelet until it is told to stop by SIGTERM or SIGINT. Containers go on running and are adopted by the next kubelet.
///
/// # Errors
/// When it cannot start: unreadable kubeconfig or catalogue, socket or root directory unusable.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Some(dir) = &args.shim {
        return shim::run(dir);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let result = runtime.block_on(kubelet::run(args));
    // Threads that wait for logs or terminals must not delay the end.
    runtime.shutdown_background();
    result
}

/// Whether a kubelet would take this file as `--image-catalogue`.
///
/// # Errors
/// It cannot be read, or is not a list of images.
pub fn check_catalogue(file: &std::path::Path) -> anyhow::Result<()> {
    catalogue::Catalogue::new(std::path::Path::new(""), Some(file))?;
    Ok(())
}

/// Removes whatever a kubelet with this root directory left on the machine: containers, mounts, network namespaces.
/// Idempotent; meant for `seta lab down` and for the start after a crash. Runs in the node's mount namespace.
///
/// # Errors
/// When something is still there in the end.
pub fn cleanup(root_dir: &std::path::Path) -> anyhow::Result<()> {
    cleanup::everything(root_dir)
}
