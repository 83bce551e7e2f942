//! Lists: endpoints, addresses, identities, nodes, and the datapath's maps as they are in the kernel now.

use std::collections::BTreeMap;
use std::net::IpAddr;

use abi::{CtEntry, CtKey};
use api::Endpoint;
use api::endpoint::{
    AddressPair, EndpointHealth, EndpointIdentity, EndpointLabels, EndpointNetworking, EndpointPolicy,
    EndpointPolicyRealized, EndpointStatus, ExternalIdentifiers,
};
use api::objects::{Identity, IpEntry, IpMetadata, Node, NodeAddress, NodeAddressing};
use api::tables::{CacheEntry, Connection, DatapathMetric, LocalEndpoint, MapInfo};
use ipnet::IpNet;
use model::addr::{Family, Mac, from_abi, to_abi};
use model::endpoint::EndpointId;
use model::labels::Label;

use super::dump::List;
use crate::agent::Agent;
use crate::{host, metrics, programs};

/// The node itself and its pods, each compared with the kernel.
pub(super) async fn endpoints(agent: &Agent) -> anyhow::Result<Vec<Endpoint>> {
    let links = agent.kernel.pod_links().await?;
    let devices: Vec<u32> = {
        let store = agent.endpoints.store();
        store.iter().map(|endpoint| endpoint.host_ifindex).collect()
    };
    let attached = agent.kernel.attached_pods(&devices).await?;
    let table = agent.kernel.endpoints()?;
    let host = node_itself(agent).await?;
    let store = agent.endpoints.store();
    let pods = store.iter().map(|endpoint| {
        let connected = links.get(&endpoint.host_ifname) == Some(&endpoint.host_ifindex);
        let programs = attached.contains(&endpoint.host_ifindex);
        let entries = endpoint.addresses.iter().all(|address| {
            table
                .get(&to_abi(*address))
                .is_some_and(|entry| entry.ifindex == endpoint.host_ifindex)
        });
        let bpf = if programs && entries { "OK" } else { "Failure" };
        let labels = endpoint.labels.to_strings();
        Endpoint {
            id: u32::from(endpoint.id.0),
            status: EndpointStatus {
                state: endpoint.state.as_str().to_owned(),
                identity: EndpointIdentity {
                    id: endpoint.identity.0,
                    labels: if labels.is_empty() {
                        reserved(endpoint.identity)
                    } else {
                        labels.clone()
                    },
                },
                labels: EndpointLabels {
                    security_relevant: labels,
                    derived: Vec::new(),
                },
                networking: EndpointNetworking {
                    addressing: vec![pair(&endpoint.addresses)],
                    interface_name: endpoint.host_ifname.clone(),
                    interface_index: endpoint.host_ifindex,
                    mac: endpoint.mac.to_string(),
                    host_mac: endpoint.host_mac.to_string(),
                },
                external_identifiers: ExternalIdentifiers {
                    cni_attachment_id: endpoint.attachment_id(),
                    container_id: endpoint.container_id.clone(),
                    pod_name: endpoint.pod.to_string(),
                    k8s_pod_name: endpoint.pod.name.clone(),
                    k8s_namespace: endpoint.pod.namespace.clone(),
                },
                policy: no_policy(),
                health: EndpointHealth {
                    bpf: bpf.to_owned(),
                    policy: "OK".to_owned(),
                    connected,
                    overall_health: if connected { bpf } else { "Failure" }.to_owned(),
                },
            },
        }
    });
    Ok(std::iter::once(host).chain(pods).collect())
}

/// The node, as an endpoint with the identity `reserved:host`; its device is the one that its packets to pods leave by.
async fn node_itself(agent: &Agent) -> anyhow::Result<Endpoint> {
    let links = agent.netlink.links().await?;
    let device = links.iter().find(|link| link.name == host::HOST_DEVICE);
    let found = programs::on_devices(&agent.datapath, &agent.netlink, &[]).await?;
    let attached = device.is_some_and(|device| {
        found
            .iter()
            .any(|found| found.ifindex == device.index && found.program == abi::names::FROM_HOST)
    });
    let bpf = if attached { "OK" } else { "Failure" };
    let labels = reserved(model::Identity::HOST);
    let mac = device.and_then(|device| device.mac).map(|mac| mac.to_string());
    Ok(Endpoint {
        id: u32::from(EndpointId::HOST.0),
        status: EndpointStatus {
            state: if attached { "ready" } else { "not-ready" }.to_owned(),
            identity: EndpointIdentity {
                id: model::Identity::HOST.0,
                labels: labels.clone(),
            },
            labels: EndpointLabels {
                security_relevant: labels,
                derived: Vec::new(),
            },
            networking: EndpointNetworking {
                // As in Cilium, which leaves them out: its addresses are those of the node's devices.
                addressing: vec![AddressPair::default()],
                interface_name: host::HOST_DEVICE.to_owned(),
                interface_index: device.map_or(0, |device| device.index),
                mac: mac.clone().unwrap_or_default(),
                host_mac: mac.unwrap_or_default(),
            },
            external_identifiers: ExternalIdentifiers::default(),
            policy: no_policy(),
            health: EndpointHealth {
                bpf: bpf.to_owned(),
                policy: "OK".to_owned(),
                connected: device.is_some_and(|device| device.up),
                overall_health: bpf.to_owned(),
            },
        },
    })
}

/// No policy is enforced; revision 1 is the empty set of rules.
fn no_policy() -> EndpointPolicy {
    EndpointPolicy {
        realized: EndpointPolicyRealized {
            policy_enabled: "none".to_owned(),
            policy_revision: 1,
        },
    }
}

fn reserved(identity: model::Identity) -> Vec<String> {
    identity
        .reserved_name()
        .map(|name| Label::reserved(name).to_string())
        .into_iter()
        .collect()
}

fn pair(addresses: &[IpAddr]) -> AddressPair {
    let of = |family| {
        addresses
            .iter()
            .find(|a| Family::of(**a) == family)
            .map(ToString::to_string)
    };
    AddressPair {
        ipv4: of(Family::V4),
        ipv6: of(Family::V6),
    }
}

fn host_prefix(address: IpAddr) -> String {
    IpNet::from(address).to_string()
}

/// Every address that the agent knows of, and where it knows it from.
pub(super) fn addresses(agent: &Agent) -> Vec<IpEntry> {
    let mut entries: BTreeMap<IpAddr, IpEntry> = BTreeMap::new();
    let mut add = |address: IpAddr, identity: u32, host: String, metadata: IpMetadata| {
        entries.insert(
            address,
            IpEntry {
                cidr: host_prefix(address),
                identity,
                host_ip: host,
                metadata,
            },
        );
    };
    let metadata = |source: &str, name: &model::inputs::ObjectName| IpMetadata {
        source: source.to_owned(),
        name: name.name.clone(),
        namespace: name.namespace.clone(),
    };
    let view = agent.view.lock();
    for endpoint in view.endpoints.values() {
        let identity = endpoint.identity.unwrap_or(model::Identity::INIT).0;
        let host = endpoint.node_ip.map(|ip| ip.to_string()).unwrap_or_default();
        for address in &endpoint.addresses {
            add(
                *address,
                identity,
                host.clone(),
                metadata("custom-resource", &endpoint.name),
            );
        }
    }
    for node in view.nodes.values() {
        let identity = if node.name == agent.node {
            model::Identity::HOST
        } else {
            model::Identity::REMOTE_NODE
        };
        for (_, address) in &node.addresses {
            let source = IpMetadata {
                source: "custom-resource".to_owned(),
                ..IpMetadata::default()
            };
            add(*address, identity.0, String::new(), source);
        }
    }
    drop(view);
    for endpoint in agent.endpoints.store().iter() {
        for address in &endpoint.addresses {
            add(
                *address,
                endpoint.identity.0,
                String::new(),
                metadata("agent-local", &endpoint.pod),
            );
        }
    }
    entries.into_values().collect()
}

/// Reserved identities and those of the cluster; the count is that of this node's endpoints.
pub(super) fn identities(agent: &Agent) -> Vec<Identity> {
    let mut used: BTreeMap<u32, u32> = BTreeMap::new();
    for endpoint in agent.endpoints.store().iter() {
        *used.entry(endpoint.identity.0).or_default() += 1;
    }
    let count = |id: model::Identity| used.get(&id.0).copied().unwrap_or(0);
    let reserved = model::Identity::all_reserved()
        .filter(|(id, _)| *id != model::Identity::UNKNOWN)
        .map(|(id, label)| Identity {
            id: id.0,
            labels: vec![label.to_string()],
            ref_count: count(id),
        });
    let view = agent.view.lock();
    let cluster = view.identities.iter().map(|(id, labels)| Identity {
        id: id.0,
        labels: labels.to_strings(),
        ref_count: count(id),
    });
    reserved.chain(cluster).collect()
}

/// Nodes that run an agent.
pub(super) fn nodes(agent: &Agent) -> Vec<Node> {
    let cluster = &agent.config.cluster_name;
    let named = |name: &str| {
        if cluster == "default" {
            name.to_owned()
        } else {
            format!("{cluster}/{name}")
        }
    };
    let view = agent.view.lock();
    let address = |node: &model::inputs::CiliumNode, family| {
        let ip = node.node_ip(family)?;
        let block = node
            .pod_cidrs
            .iter()
            .find(|block| Family::of(block.network()) == family);
        Some(NodeAddress {
            ip: ip.to_string(),
            alloc_range: block.map(ToString::to_string).unwrap_or_default(),
        })
    };
    view.nodes
        .values()
        .map(|node| Node {
            name: named(&node.name),
            primary_address: NodeAddressing {
                ipv4: address(node, Family::V4),
                ipv6: address(node, Family::V6),
            },
            source: if node.name == agent.node {
                "local"
            } else {
                "custom-resource"
            }
            .to_owned(),
        })
        .collect()
}

/// The maps.
pub(super) fn maps(agent: &Agent) -> anyhow::Result<Vec<MapInfo>> {
    // These are written from what the agent knows, and restored when something else changes them.
    let reconciled = [abi::names::ENDPOINTS, abi::names::DEVICES, abi::names::IPCACHE];
    let failures = agent
        .controllers
        .snapshot()
        .into_iter()
        .find(|controller| controller.name == crate::RECONCILE);
    let failures = failures.map_or(0, |controller| controller.status.failure_count);
    let infos = agent.datapath.map_infos()?.into_iter();
    Ok(infos
        .map(|map| {
            let cached = reconciled.contains(&map.name);
            MapInfo {
                name: map.name.to_owned(),
                path: format!("seta/maps/{}", map.name),
                entries: map.entries.map(u64::from),
                max_entries: u64::from(map.max_entries),
                errors: if cached { failures } else { 0 },
                cache_enabled: cached,
            }
        })
        .collect())
}

/// The connection tables.
pub(super) fn connections(agent: &Agent, list: &mut List) -> anyhow::Result<()> {
    let now = loader::monotonic_ns();
    for table in [agent.datapath.ct_tcp(), agent.datapath.ct_any()] {
        for batch in table.batches() {
            for (key, entry) in batch? {
                list.push(&connection(&key, &entry, now))?;
            }
        }
    }
    Ok(())
}

fn connection(key: &CtKey, entry: &CtEntry, now: u64) -> Connection {
    const SECOND: u64 = 1_000_000_000;
    let seconds = |nanos: u64| i64::try_from(nanos / SECOND).unwrap_or(i64::MAX);
    Connection {
        protocol: key.proto,
        direction: if key.dir == CtKey::IN { "IN" } else { "OUT" }.to_owned(),
        source: from_abi(key.src).to_string(),
        source_port: u16::from_be_bytes(key.src_port),
        destination: from_abi(key.dst).to_string(),
        destination_port: u16::from_be_bytes(key.dst_port),
        expires: entry.expires / SECOND,
        remaining: seconds(entry.expires) - seconds(now),
        packets: entry.packets,
        bytes: entry.bytes,
        tx_flags: entry.tx_flags,
        rx_flags: entry.rx_flags,
        last_tx_report: entry.tx_report / SECOND,
        last_rx_report: entry.rx_report / SECOND,
        flags: entry.flags,
        rev_nat: entry.rev_nat,
        source_identity: entry.src_identity,
        destination_identity: entry.dst_identity,
    }
}

/// The counters.
pub(super) fn metrics(agent: &Agent) -> anyhow::Result<Vec<DatapathMetric>> {
    let metrics = agent.datapath.metrics()?.into_iter();
    Ok(metrics
        .map(|metric| DatapathMetric {
            reason: metrics::reason(metric.reason),
            code: metric.reason,
            direction: metrics::direction(metric.direction).to_owned(),
            packets: metric.counter.packets,
            bytes: metric.counter.bytes,
        })
        .collect())
}

/// The identity table.
pub(super) fn ipcache(agent: &Agent) -> anyhow::Result<Vec<CacheEntry>> {
    let peers = agent.kernel.peers()?.into_iter();
    Ok(peers
        .map(|(addr, peer)| CacheEntry {
            prefix: host_prefix(from_abi(addr)),
            identity: peer.identity,
            node: from_abi(peer.node).to_string(),
            flags: peer.flags,
        })
        .collect())
}

/// The endpoint table.
pub(super) fn local(agent: &Agent) -> anyhow::Result<Vec<LocalEndpoint>> {
    let entries = agent.kernel.endpoints()?.into_iter();
    Ok(entries
        .map(|(addr, endpoint)| LocalEndpoint {
            address: from_abi(addr).to_string(),
            id: endpoint.id,
            identity: endpoint.identity,
            flags: endpoint.flags,
            ifindex: endpoint.ifindex,
            mac: Mac(endpoint.mac).to_string(),
            node_mac: Mac(endpoint.node_mac).to_string(),
        })
        .collect())
}
