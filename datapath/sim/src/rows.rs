//! What the datapath does, one row per case: tables and packet in, action, packet, counters, events and connections
//! out, and nothing else changed. The same rows run in memory (`tests/rows.rs` here) and by `BPF_PROG_TEST_RUN`
//! (`datapath/loader/tests/rows.rs`).
//!
//! The device under test has index 1, as the kernel runs tests on the loopback device.

mod connections;
mod errors;
mod forwarding;
mod headers;
mod making;
mod nat;
mod neighbours;
mod sources;

use std::collections::BTreeMap;

use abi::{
    Addr, Config, CtKey, Direction, DropReason, Endpoint, NatEntry, NatKey, Peer, event::kind,
    reason::metric_index,
};
use zerocopy::IntoBytes;

use crate::{Program, Sim, TcAction, timeless};

/// All rows.
#[must_use]
pub fn all() -> Vec<Row> {
    [
        forwarding::rows(),
        sources::rows(),
        neighbours::rows(),
        errors::rows(),
        headers::rows(),
        connections::rows(),
        nat::all(),
    ]
    .concat()
}

/// A node with services and masquerade, for fuzzing.
pub(crate) fn with_services(sim: &mut Sim, is_local: bool) {
    nat::node_ports(sim, is_local);
}

/// A case.
#[derive(Clone, Debug)]
pub struct Row {
    /// What happens, in words.
    pub name: &'static str,
    /// Which program runs.
    pub program: Program,
    /// Everything before.
    pub before: Sim,
    /// What is different after.
    pub after: After,
}

/// What is different after a program has run.
#[derive(Clone, Debug)]
pub struct After {
    /// What tc does.
    pub action: TcAction,
    /// The packet, if it was changed.
    pub packet: Option<Vec<u8>>,
    /// Counter slots that rose by one.
    pub counted: Vec<u32>,
    /// Kind and subtype of the records sent.
    pub events: Vec<(u8, u8)>,
    /// Connections that are new.
    pub connections: Vec<CtKey>,
    /// Entries of translated connections that are new or changed; times do not matter.
    pub nat: Vec<(NatKey, NatEntry)>,
}

/// What happened.
#[derive(Clone, Debug)]
pub struct Happened {
    /// What tc does.
    pub action: TcAction,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// Counter slots, one for each packet counted.
    pub counted: Vec<u32>,
    /// Kind and subtype of the records sent.
    pub events: Vec<(u8, u8)>,
    /// Keys of new connections, and who is behind their ends.
    pub connections: Vec<(Vec<u8>, [u32; 2])>,
    /// All entries of translated connections, as of [`crate::timeless`].
    pub nat: Vec<(Vec<u8>, NatEntry)>,
}

impl Row {
    /// Whether the kernel can be asked: neither its routing table nor a VLAN tag nor a socket nor a fragment that passed
    /// can be set
    /// by hand.
    #[must_use]
    pub fn runs_in_kernel(&self) -> bool {
        self.before.route == stages::Route::Stack
            && !self.before.is_tagged
            && self.before.translation.sockets.is_empty()
            && self.before.translation.fragments.is_empty()
    }

    /// Runs the row in memory; the answer names every difference.
    pub fn check(&self) -> Result<(), String> {
        let mut sim = self.before.clone();
        let before = sim.snapshot();
        let action = TcAction::from(sim.run(self.program));
        let after = sim.snapshot();
        let counted = after.counters.iter().flat_map(|(slot, counter)| {
            let old = before.counters.get(slot).map_or(0, |old| old.packets);
            std::iter::repeat_n(*slot, usize::try_from(counter.packets - old).unwrap_or(0))
        });
        let new = after
            .connections
            .iter()
            .filter(|(key, _)| !self.before.connections.contains_key(key))
            .cloned()
            .collect();
        self.compare(Happened {
            action,
            packet: sim.packet.clone(),
            counted: counted.collect(),
            events: after.events[before.events.len()..].to_vec(),
            connections: new,
            nat: after.nat,
        })
    }

    /// Compares what happened with what should have.
    pub fn compare(&self, happened: Happened) -> Result<(), String> {
        let Happened {
            action,
            packet,
            mut counted,
            events,
            mut connections,
            mut nat,
        } = happened;
        let mut wrong = Vec::new();
        if action != self.after.action {
            wrong.push(format!("action {action:?}, not {:?}", self.after.action));
        }
        let expected = self.after.packet.as_ref().unwrap_or(&self.before.packet);
        if packet != *expected {
            wrong.push(format!("packet\n  {packet:02x?}, not\n  {expected:02x?}"));
        }
        let mut expected = self.after.counted.clone();
        expected.sort_unstable();
        counted.sort_unstable();
        if counted != expected {
            wrong.push(format!("counted {counted:?}, not {expected:?}"));
        }
        if events != self.after.events {
            wrong.push(format!("events {events:?}, not {:?}", self.after.events));
        }
        let mut expected: Vec<_> = self
            .after
            .connections
            .iter()
            .map(|key| self.with_identities(key))
            .collect();
        expected.sort_unstable();
        connections.sort_unstable();
        if connections != expected {
            wrong.push(format!("connections {connections:02x?}, not {expected:02x?}"));
        }
        let mut expected: BTreeMap<_, _> = self
            .before
            .translation
            .entries()
            .map(|(key, entry)| timeless(&key, &entry))
            .collect();
        expected.extend(self.after.nat.iter().map(|(key, entry)| timeless(key, entry)));
        let expected: Vec<_> = expected.into_iter().collect();
        nat.sort_by(|one, other| one.0.cmp(&other.0));
        if nat != expected {
            wrong.push(format!("translations {nat:02x?}, not {expected:02x?}"));
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(format!("{}: {}", self.name, wrong.join("; ")))
        }
    }

    /// A new entry knows who is behind its ends: a local endpoint, else an address of the cluster, else the world.
    fn with_identities(&self, key: &CtKey) -> (Vec<u8>, [u32; 2]) {
        let identity = |addr: &Addr| {
            let local = self.before.endpoints.get(addr).map(|endpoint| endpoint.identity);
            let peer = self.before.peers.get(addr).map(|peer| peer.identity);
            local.or(peer).unwrap_or(abi::tables::identity::WORLD)
        };
        (key.as_bytes().to_vec(), [identity(&key.src), identity(&key.dst)])
    }
}

/// Addresses and tables of the node in the rows.
pub mod node {
    use super::{Addr, Config, Endpoint, Peer, Sim};

    /// Device under test.
    pub const IFINDEX: u32 = 1;
    /// Device of the other local pod.
    pub const OTHER_IFINDEX: u32 = 17;
    /// MAC inside the pod at the device under test.
    pub const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
    /// MAC of the host side of every pod link.
    pub const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x01];
    /// MAC inside the other local pod.
    pub const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
    /// MAC of a machine on the node network.
    pub const OUTSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xee];

    /// An address of the cluster's first pod block.
    #[must_use]
    pub fn local(last: u16) -> Addr {
        address([0xfd00, 0x10, 0x244, 0, 0, 0, 0, last])
    }

    /// An address from eight words.
    #[must_use]
    pub fn address(words: [u16; 8]) -> Addr {
        let mut bytes = [0; 16];
        for (pair, word) in bytes.chunks_exact_mut(2).zip(words) {
            pair.copy_from_slice(&word.to_be_bytes());
        }
        Addr(bytes)
    }

    /// The router, as pods know it.
    #[must_use]
    pub fn router() -> Addr {
        local(1)
    }

    /// The pod at the device under test.
    #[must_use]
    pub fn pod() -> Addr {
        local(0x6321)
    }

    /// The other local pod.
    #[must_use]
    pub fn other() -> Addr {
        local(0x7c58)
    }

    /// A pod on another node.
    #[must_use]
    pub fn remote() -> Addr {
        address([0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0x7c58])
    }

    /// The node's own address.
    #[must_use]
    pub fn host() -> Addr {
        address([0xfc00, 0xf853, 0xccd, 0xe793, 0, 0, 0, 3])
    }

    /// The router of the node network.
    #[must_use]
    pub fn gateway() -> Addr {
        address([0xfc00, 0xf853, 0xccd, 0xe793, 0, 0, 0, 1])
    }

    /// The pod's link-local address.
    #[must_use]
    pub fn pod_link_local() -> Addr {
        address([0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 0x000a])
    }

    /// The link-local address of the node's end of the link.
    #[must_use]
    pub fn node_link_local() -> Addr {
        address([0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 0x0001])
    }

    /// A node with two pods.
    #[must_use]
    pub fn sim() -> Sim {
        let endpoint = |ifindex, id, identity, mac| Endpoint {
            ifindex,
            identity,
            id,
            mac,
            node_mac: NODE_MAC,
            ..Endpoint::default()
        };
        let own = |flags| Endpoint {
            identity: abi::tables::identity::HOST,
            flags,
            ..Endpoint::default()
        };
        let mut sim = Sim {
            ifindex: IFINDEX,
            config: Config {
                router_v6: router(),
                host_ifindex: 3,
                ..Config::DEFAULT
            },
            ..Sim::default()
        };
        sim.endpoints.insert(pod(), endpoint(IFINDEX, 100, 4001, POD_MAC));
        sim.endpoints
            .insert(other(), endpoint(OTHER_IFINDEX, 200, 4002, OTHER_MAC));
        sim.endpoints.insert(host(), own(Endpoint::HOST));
        sim.endpoints
            .insert(router(), own(Endpoint::HOST | Endpoint::ROUTER));
        sim.devices.insert(IFINDEX, pod());
        sim.devices.insert(OTHER_IFINDEX, other());
        sim.peers.insert(
            remote(),
            Peer {
                identity: 4003,
                ..Peer::default()
            },
        );
        sim
    }
}

/// Slot of forwarded packets.
pub(crate) fn forwarded(direction: Direction) -> u32 {
    metric_index(0, direction)
}

/// Slot of dropped packets.
pub(crate) fn dropped(reason: DropReason, direction: Direction) -> u32 {
    metric_index(reason as u8, direction)
}

/// Record of a drop.
pub(crate) fn drop_event(reason: DropReason) -> (u8, u8) {
    (kind::DROP, reason as u8)
}
