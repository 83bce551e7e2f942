//! The controllers: what makes a set of objects behave as a cluster.
//!
//! Each is a [`Controller`]: it names what wakes it ([`Trigger`]) and looks at one object at a time. It reads what it
//! needs from the API server when it needs it (that is a function call: the server is in this process), decides by a
//! pure function, and writes the difference. So there is no cache that could be old, and doing it twice is harmless.
//!
//! Service accounts and `kube-root-ca.crt` of new namespaces are made by the API server itself.

mod common;
mod daemonset;
mod deployment;
mod driver;
mod endpointslice;
mod events;
mod fit;
mod gc;
mod namespace;
mod node_lifecycle;
mod owned_pods;
mod pod_gc;
mod podcidr;
mod queue;
mod replicaset;
mod scheduler;
mod template;

use std::time::Duration;

use ipnet::Ipv6Net;
use lab_apiserver::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use driver::{Controller, Next, Trigger};
pub(crate) use queue::Key;

/// What the controllers are told.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Addresses of pods; every node gets a /64 of it.
    pub(crate) cluster_cidr: Ipv6Net,
    /// The nodes that are expected, in order: they get the first blocks, whoever registers first.
    pub(crate) nodes: Vec<String>,
}

/// A node that has not renewed its lease for so long is not known to be alive (`--node-monitor-grace-period`).
pub(crate) const NODE_GRACE: Duration = Duration::from_secs(40);

/// Starts all controllers; they run until `stop`.
pub(crate) fn start(client: &Client, config: &Config, stop: &CancellationToken, tasks: &TaskTracker) {
    let client = |name: &str| client.named(name);
    let manager = || client("kube-controller-manager");
    let run = Runner { stop, tasks };
    run.start(podcidr::PodCidr::new(manager(), config));
    run.start(node_lifecycle::NodeLifecycle::new(manager()));
    run.start(scheduler::Scheduler::new(client("kube-scheduler")));
    run.start(daemonset::DaemonSets::new(manager()));
    run.start(deployment::Deployments::new(manager()));
    run.start(replicaset::ReplicaSets::new(manager()));
    run.start(endpointslice::EndpointSlices::new(manager()));
    run.start(endpointslice::Mirroring::new(manager()));
    run.start(namespace::Namespaces::new(manager()));
    run.start(pod_gc::PodGc::new(manager()));
    tasks.spawn(gc::run(manager(), stop.clone()));
}

struct Runner<'a> {
    stop: &'a CancellationToken,
    tasks: &'a TaskTracker,
}

impl Runner<'_> {
    fn start(&self, controller: impl Controller) {
        self.tasks.spawn(driver::run(controller, self.stop.clone()));
    }
}

#[cfg(test)]
mod tests;
