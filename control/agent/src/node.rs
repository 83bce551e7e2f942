//! What this node publishes about itself: its `CiliumNode`.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use ipnet::IpNet;
use model::addr::Family;
use model::inputs::{AddressType, CiliumNode, Node};
use tokio::sync::watch;

use crate::endpoints::Endpoints;
use crate::registry::Registry;
use crate::view::SharedView;

/// Publishes the node whenever its object is not as it should be.
pub(crate) struct Publisher {
    /// Name of this node.
    pub(crate) name: String,
    /// What is known of the cluster.
    pub(crate) view: SharedView,
    /// Router addresses and blocks.
    pub(crate) endpoints: Arc<Endpoints>,
    /// Where it is published.
    pub(crate) registry: Arc<dyn Registry>,
    /// Identifies the boot of the machine.
    pub(crate) boot_id: String,
    /// Ends the agent, with the reason.
    pub(crate) end: watch::Sender<Option<String>>,
}

impl Publisher {
    /// Publishes if needed. When the node's blocks are others than those the agent started with, the agent ends:
    /// addresses, router and programs are made for these, and the agent that is started in its place takes the new
    /// ones, while the datapath goes on. (Kubernetes gives a Node other blocks only when it is made anew.)
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let node = self.view.lock().node.clone();
        let node = node.with_context(|| format!("there is no Node {}", self.name))?;
        let (routers, blocks) = {
            let store = self.endpoints.store();
            (store.routers().to_vec(), store.ipam.blocks().collect::<Vec<_>>())
        };
        let wanted = object(&node, &routers, &blocks, &self.boot_id);
        let shown = self.view.lock().nodes.get(&self.name) == Some(&wanted);
        if !shown {
            self.registry.publish_node(&wanted).await?;
        }
        let families = &self.endpoints.settings().families;
        let given = blocks_of(&node, families);
        if given != blocks {
            let list = |blocks: &[IpNet]| {
                let texts: Vec<String> = blocks.iter().map(ToString::to_string).collect();
                texts.join(", ")
            };
            let change = format!(
                "the node's pod CIDRs are [{}], the agent works with [{}]",
                list(&given),
                list(&blocks)
            );
            // A Node that was made anew gets its blocks a moment later.
            let complete = families
                .iter()
                .all(|family| given.iter().any(|block| Family::of(block.network()) == *family));
            if complete {
                self.end.send_replace(Some(change.clone()));
            }
            bail!(change);
        }
        Ok(())
    }
}

/// The pod CIDRs of the families that are on.
#[must_use]
pub(crate) fn blocks_of(node: &Node, families: &[model::addr::Family]) -> Vec<IpNet> {
    let on = |block: &&IpNet| families.contains(&model::addr::Family::of(block.network()));
    node.pod_cidrs.iter().filter(on).map(IpNet::trunc).collect()
}

fn object(node: &Node, routers: &[IpAddr], blocks: &[IpNet], boot_id: &str) -> CiliumNode {
    let internal = node.internal_ips.iter().map(|ip| (AddressType::InternalIP, *ip));
    let external = node.external_ips.iter().map(|ip| (AddressType::ExternalIP, *ip));
    let routers = routers.iter().map(|ip| (AddressType::CiliumInternalIP, *ip));
    CiliumNode {
        name: node.name.clone(),
        node_uid: node.uid.clone(),
        addresses: internal.chain(external).chain(routers).collect(),
        pod_cidrs: blocks.to_vec(),
        health_ips: Vec::new(),
        boot_id: boot_id.to_owned(),
    }
}
