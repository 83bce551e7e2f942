//! A Kubernetes cluster on one Linux machine, without Docker: the `seta lab …` commands.
//!
//! `seta lab up` starts one daemon, the supervisor ([`supervise`]). It builds the network ([`topology`]) and the nodes
//! ([`node`]) out of namespaces, runs the API server and the controllers ([`controllers`]) inside itself, and one
//! kubelet process per node. All that it owns is written down below `/run/seta-lab/<cluster>/` ([`state`]), so that
//! `seta lab down` ([`teardown`]) can remove it even after the supervisor was killed.
//!
//! What a kind cluster has and this one has not: etcd (objects live in the memory of the API server, so they end with the
//! supervisor), kube-proxy, a storage class, and the taint `node-role.kubernetes.io/control-plane:NoSchedule`
//! (kind keeps it where there are workers; here every node takes every pod, so that two nodes are enough to try things).
//!
//! This crate is a tool: it may import any room, and only the `seta` binary imports it.

mod cgroup;
mod cli;
mod cmd;
mod control_plane;
mod controllers;
mod kubeconfig;
mod mounts;
mod netns_links;
mod node;
mod state;
mod supervise;
mod teardown;
mod topology;
mod wait;

pub use cli::{Command, run};
