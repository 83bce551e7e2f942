//! Gives every node a block of pod addresses (`--allocate-node-cidrs`).

use std::collections::HashSet;
use std::net::Ipv6Addr;

use anyhow::Context as _;
use ipnet::Ipv6Net;
use k8s_openapi::api::core::v1::Node;
use lab_apiserver::{Client, Patch, Resource};
use serde_json::json;

use super::common;
use super::events::{self, Kind, Subject};
use super::{Config, Controller, Key, Next, Trigger};

/// Length of a node's block (`--node-cidr-mask-size-ipv6`).
const BLOCK: u8 = 64;

/// The controller.
pub(crate) struct PodCidr {
    client: Client,
    cluster: Ipv6Net,
    expected: Vec<String>,
}

impl PodCidr {
    pub(crate) fn new(client: Client, config: &Config) -> Self {
        Self {
            client,
            cluster: config.cluster_cidr,
            expected: config.nodes.clone(),
        }
    }
}

impl Controller for PodCidr {
    const NAME: &'static str = "podcidr";

    fn client(&self) -> &Client {
        &self.client
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself(Resource::core("nodes"))]
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let nodes = Resource::core("nodes");
        let all: Vec<Node> = common::list(&self.client, &nodes, None).await?;
        let Some(node) = all
            .iter()
            .find(|node| node.metadata.name.as_deref() == Some(&key.name))
        else {
            return Ok(Next::Wait);
        };
        if !blocks(node).is_empty() {
            return Ok(Next::Wait);
        }
        let taken: HashSet<Ipv6Net> = all.iter().flat_map(blocks).collect();
        let Some(block) = choose(self.cluster, &taken, &self.expected, &key.name) else {
            let subject = Subject {
                api_version: "v1",
                kind: "Node",
                meta: &node.metadata,
            };
            let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
            events::record(
                &self.client,
                "cidrAllocator",
                subject,
                Kind::Normal,
                "CIDRNotAvailable",
                &message,
            )
            .await;
            anyhow::bail!("no free block in {}", self.cluster);
        };
        let patch = json!({"spec": {"podCIDR": block, "podCIDRs": [block]}});
        self.client
            .patch(&nodes, None, &key.name, Patch::Merge, patch)
            .await
            .context("cannot set the block")?;
        tracing::info!(node = key.name, %block, "gave the node its block of pod addresses");
        Ok(Next::Wait)
    }
}

/// The blocks a node has.
fn blocks(node: &Node) -> Vec<Ipv6Net> {
    let spec = node.spec.as_ref();
    let list = spec
        .and_then(|spec| spec.pod_cidrs.as_deref())
        .unwrap_or_default();
    let single = spec.and_then(|spec| spec.pod_cidr.as_ref());
    list.iter()
        .chain(single)
        .filter_map(|text| text.parse().ok())
        .collect()
}

/// The block for `node`: its own, where it is one of the expected nodes, else the lowest that is neither taken nor
/// kept for an expected node.
fn choose(cluster: Ipv6Net, taken: &HashSet<Ipv6Net>, expected: &[String], node: &str) -> Option<Ipv6Net> {
    let mut free = (0..).map_while(|index| block(cluster, index));
    if let Some(index) = expected.iter().position(|name| name == node)
        && let Some(own) = free.clone().nth(index)
        && !taken.contains(&own)
    {
        return Some(own);
    }
    let mut unreserved = free.clone().skip(expected.len());
    unreserved
        .find(|block| !taken.contains(block))
        .or_else(|| free.find(|block| !taken.contains(block)))
}

/// The `index`-th block of the cluster's addresses, if there are so many.
fn block(cluster: Ipv6Net, index: u128) -> Option<Ipv6Net> {
    let bits = BLOCK.checked_sub(cluster.prefix_len())?;
    if index >> bits != 0 {
        return None;
    }
    let network = u128::from(cluster.network()) | (index << (128 - BLOCK));
    Ipv6Net::new(Ipv6Addr::from(network), BLOCK).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "fd00:10:244::/56";

    fn net(text: &str) -> Ipv6Net {
        text.parse().unwrap()
    }

    #[test]
    fn expected_nodes_get_their_own_block_whoever_comes_first() {
        let expected = ["cp".to_owned(), "worker".to_owned()];
        let free = HashSet::new();
        let choose = |taken: &HashSet<Ipv6Net>, node| choose(net(CLUSTER), taken, &expected, node);
        assert_eq!(choose(&free, "worker"), Some(net("fd00:10:244:1::/64")));
        assert_eq!(choose(&free, "cp"), Some(net("fd00:10:244::/64")));
        assert_eq!(choose(&free, "guest"), Some(net("fd00:10:244:2::/64")));
        let taken = HashSet::from([net("fd00:10:244::/64"), net("fd00:10:244:2::/64")]);
        assert_eq!(
            choose(&taken, "cp"),
            Some(net("fd00:10:244:3::/64")),
            "its own block is taken"
        );
        assert_eq!(choose(&taken, "guest"), Some(net("fd00:10:244:3::/64")));
    }

    #[test]
    fn all_blocks_are_used_before_there_are_none() {
        let mut taken = HashSet::new();
        for _ in 0..256 {
            let block = choose(net(CLUSTER), &taken, &["cp".to_owned()], "guest").unwrap();
            assert!(net(CLUSTER).contains(&block) && taken.insert(block), "{block}");
        }
        assert_eq!(choose(net(CLUSTER), &taken, &[], "guest"), None);
        assert_eq!(block(net("fd00::/65"), 0), None);
        assert_eq!(block(net("fd00::/64"), 0), Some(net("fd00::/64")));
        assert_eq!(block(net("fd00::/64"), 1), None);
    }
}
