//! Pods, transfers and agents of a lab, as the tests speak of them.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{Lab, walk::INSTALL};

/// A pod that sleeps, for commands to be run in, on the node with this name (`kind-worker`).
#[must_use]
pub fn client(name: &str, node: &str) -> String {
    pod(
        name,
        node,
        "curlimages/curl",
        r#"command: ["/bin/sh", "-c", "while true; do sleep 1000; done"]"#,
    )
}

/// A pod with a web server.
#[must_use]
pub fn server(name: &str, node: &str) -> String {
    pod(name, node, "nginx", "ports: [{containerPort: 80}]")
}

fn pod(name: &str, node: &str, image: &str, rest: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  labels: {{app: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: {image}
    {rest}
  nodeSelector: {{kubernetes.io/hostname: {node}}}
---
"
    )
}

impl Lab {
    /// Bring the lab up, install Seta as the walk does, and wait until it is well.
    ///
    /// # Errors
    /// What the commands print.
    pub fn up_with_seta(&self) -> Result<()> {
        self.up_with_seta_on(2)
    }

    /// The same with so many nodes.
    ///
    /// # Errors
    /// What the commands print.
    pub fn up_with_seta_on(&self, nodes: u32) -> Result<()> {
        self.ok(&format!("seta lab up --nodes {nodes}"))?;
        self.ok(INSTALL)?;
        self.ok("seta status --wait")?;
        Ok(())
    }

    /// Apply manifests; the cluster name `kind` stands for this lab's.
    ///
    /// # Errors
    /// What kubectl prints.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        self.ok(&format!("kubectl apply -f - <<'EOF'\n{manifests}\nEOF"))
            .map(drop)
    }

    /// Apply pods and wait until they are ready.
    ///
    /// # Errors
    /// What kubectl prints.
    pub fn pods(&self, manifests: &[String]) -> Result<()> {
        self.apply(&manifests.concat())?;
        self.ok("kubectl wait --for=condition=Ready pod --all --timeout=60s")
            .map(drop)
    }

    /// The address of a pod of the default namespace.
    ///
    /// # Errors
    /// When the pod has none.
    pub fn address(&self, pod: &str) -> Result<String> {
        let text = self.ok(&format!("kubectl get pod {pod} -o jsonpath='{{.status.podIP}}'"))?;
        text.parse::<std::net::Ipv6Addr>()
            .with_context(|| format!("{pod} has no IPv6 address: `{text}`"))?;
        Ok(text)
    }

    /// The agent pod on a node (`kind-worker`).
    ///
    /// # Errors
    /// When there is none.
    pub fn agent(&self, node: &str) -> Result<String> {
        self.ok(&format!(
            "kubectl -n kube-system get pods -l k8s-app=cilium --field-selector spec.nodeName={node} -o name"
        ))
        .map(|name| name.trim().to_owned())
    }

    /// SIGKILL to the agent on a node, and nobody else: it is found in the node's own part of the cgroup tree.
    ///
    /// # Errors
    /// When no agent runs there.
    pub fn kill_agent(&self, node: &str) -> Result<()> {
        self.ok(&format!(
            r#"seta lab exec {node} -- sh -c '
for procs in $(find /sys/fs/cgroup -name cgroup.procs); do
  for pid in $(cat $procs); do
    case "$(tr "\0" " " < /proc/$pid/cmdline)" in cilium-agent*) kill -9 $pid && echo killed $pid;; esac
  done
done | grep killed'"#
        ))
        .map(drop)
    }

    /// Wait until `seta status` finds nothing wrong.
    ///
    /// # Errors
    /// After a minute; with the last status.
    pub fn healthy(&self) -> Result<()> {
        self.until(Duration::from_secs(60), "seta status", |output| output.code == 0)
            .map(drop)
    }
}
