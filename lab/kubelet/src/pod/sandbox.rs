//! The sandbox of a pod: its network namespace, attached by the CNI plugins.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::state::{Attached, Sandbox};
use crate::{
    cni::{self, Attachment, CniError, Network},
    context::Context,
    netns::{self, NetnsError},
};

/// Why there is no sandbox. The texts go into a FailedCreatePodSandBox event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error("failed to setup network for sandbox \"{id}\": {source}")]
    Cni { id: String, source: CniError },
    #[error("failed to setup network for sandbox \"{0}\": the plugin's result has no address")]
    NoAddress(String),
    #[error("the thread for the namespace failed")]
    Thread(#[from] tokio::task::JoinError),
}

/// A container or sandbox id: 64 hexadecimal digits are customary, half of them are enough.
pub(crate) fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// Makes a pod's sandbox.
pub(crate) async fn make(
    context: &Context,
    pod: &Pod,
    network: Option<Arc<Network>>,
) -> Result<Sandbox, SandboxError> {
    let id = new_id();
    let Some(network) = network else {
        return Ok(Sandbox {
            id,
            netns: None,
            addresses: Vec::new(),
            attached: None,
        });
    };
    let name = format!("cni-{}", uuid::Uuid::new_v4());
    let netns = tokio::task::spawn_blocking(move || netns::make(&name)).await??;
    let metadata = &pod.metadata;
    let attachment = Attachment {
        container_id: id.clone(),
        netns: netns.clone(),
        namespace: metadata.namespace.clone().unwrap_or_default(),
        pod: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        port_mappings: port_mappings(pod),
    };
    let added = context.cni.add(&network, &attachment).await;
    let checked = added
        .map_err(|source| SandboxError::Cni {
            id: id.clone(),
            source,
        })
        .and_then(|result| {
            let addresses = cni::addresses(&result);
            if addresses.is_empty() {
                Err(SandboxError::NoAddress(id.clone()))
            } else {
                Ok((result, addresses))
            }
        });
    match checked {
        Ok((result, addresses)) => {
            let attached = Attached {
                network: (*network).clone(),
                attachment,
                result,
            };
            Ok(Sandbox {
                id,
                netns: Some(netns),
                addresses,
                attached: Some(attached),
            })
        }
        Err(error) => {
            if matches!(error, SandboxError::NoAddress(_)) {
                let _ = context.cni.del(&network, &attachment, None).await;
            }
            let _ = tokio::task::spawn_blocking(move || netns::remove(&netns)).await;
            Err(error)
        }
    }
}

/// Whether an existing sandbox is still as it was made.
pub(crate) async fn check(context: &Context, sandbox: &Sandbox) -> Result<(), CniError> {
    match &sandbox.attached {
        Some(attached) => {
            context
                .cni
                .check(&attached.network, &attached.attachment, &attached.result)
                .await
        }
        None => Ok(()),
    }
}

/// Detaches and removes a sandbox. The namespace goes only when the plugins have let go of it.
pub(crate) async fn remove(context: &Context, sandbox: &Sandbox) -> Result<(), CniError> {
    if let Some(attached) = &sandbox.attached {
        context
            .cni
            .del(&attached.network, &attached.attachment, Some(&attached.result))
            .await?;
    }
    if let Some(netns) = sandbox.netns.clone() {
        let removed = tokio::task::spawn_blocking(move || netns::remove(&netns)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, "cannot remove a network namespace");
        }
    }
    Ok(())
}

fn port_mappings(pod: &Pod) -> Vec<serde_json::Value> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let mapped = ports.filter_map(|port| {
        let host_port = port.host_port.filter(|port| *port != 0)?;
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
        let host_ip = port.host_ip.as_deref().unwrap_or_default();
        Some(json!({
            "hostPort": host_port, "containerPort": port.container_port, "protocol": protocol, "hostIP": host_ip,
        }))
    });
    mapped.collect()
}
