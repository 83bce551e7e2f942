//! The rows of services and masquerade: the node they begin with, and what is said in all of them.

mod direct;
mod errors;
mod inside;
mod masquerade;
mod outside;

use abi::{
    Addr, Backend, BackendKey, BackendSet, CtEntry, CtKey, Endpoint, MemberKey, NatEntry, NatKey, Service,
    ServiceKey,
};
use zerocopy::IntoBytes;

use super::{
    Row,
    node::{IFINDEX, NODE_MAC, OUTSIDE_MAC, address, host, router},
};
use crate::{Builder, Sim};

pub(super) fn all() -> Vec<Row> {
    [
        masquerade::rows(),
        masquerade::back(),
        masquerade::collisions(),
        inside::rows(),
        inside::refused(),
        inside::looped(),
        outside::rows(),
        direct::front_rows(),
        direct::back_rows(),
        errors::rows(),
        errors::fragments(),
    ]
    .concat()
}

/// A host outside the cluster.
fn world() -> Addr {
    address([0x2001, 0xdb8, 1, 0, 0, 0, 0, 9])
}

/// Address of the services.
fn service() -> Addr {
    address([0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x50])
}

const NODE_PORT: u16 = 30080;

/// A half of a pair: key and entry.
type Half = (NatKey, NatEntry);
/// Source, destination, their ports.
type Ends = (Addr, Addr, u16, u16);

fn pair(from: Ends, to: Ends, proto: u8, flags: u32) -> [Half; 2] {
    let key = |(src, dst, src_port, dst_port): Ends| NatKey {
        src,
        dst,
        src_port: src_port.to_be_bytes(),
        dst_port: dst_port.to_be_bytes(),
        proto,
        pad: [0; 3],
    };
    let entry = |(src, dst, src_port, dst_port): Ends, flags| NatEntry {
        src,
        dst,
        src_port: src_port.to_be_bytes(),
        dst_port: dst_port.to_be_bytes(),
        flags,
        created: 0,
        expires: u64::MAX,
    };
    let turned = |(src, dst, src_port, dst_port): Ends| (dst, src, dst_port, src_port);
    [
        (key(from), entry(to, flags)),
        (key(turned(to)), entry(turned(from), flags | NatEntry::REPLY)),
    ]
}

/// A node that masquerades and has services.
fn translating(sim: &mut Sim) {
    sim.config.masquerade_v6 = 1;
    sim.config.services = 1;
    sim.config.native_v6 = address([0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0]);
    sim.config.native_v6_bits = 56;
    sim.config.monitor_interval = u64::MAX;
    sim.translation.masquerade.insert(IFINDEX, host());
    let own = Endpoint {
        flags: Endpoint::SERVICE,
        ..Endpoint::default()
    };
    sim.endpoints.insert(service(), own);
}

/// The device is the link of a pod: nobody leaves the node by it.
fn is_a_pods_link(sim: &mut Sim) {
    sim.translation.masquerade.clear();
}

/// A service that nobody serves.
fn is_empty(flags: u32) -> impl FnOnce(&mut Sim) {
    move |sim| {
        serves(packet::protocol::TCP, super::node::other(), flags)(sim);
        for service in sim.translation.services.values_mut() {
            service.inside = BackendSet::default();
            service.outside = BackendSet::default();
        }
    }
}

fn knows(pairs: &[[Half; 2]]) -> impl FnOnce(&mut Sim) + use<> {
    let halves = pairs.concat();
    move |sim| {
        translating(sim);
        for (key, entry) in halves {
            sim.translation.nat.insert(key.as_bytes().to_vec(), entry);
        }
    }
}

/// A known connection.
fn tracks(key: CtKey, flags: u16) -> impl FnOnce(&mut Sim) {
    move |sim| {
        let entry = CtEntry {
            expires: u64::MAX,
            tx_report: u64::MAX >> 1,
            rx_report: u64::MAX >> 1,
            tx_flags: 0xff,
            rx_flags: 0xff,
            flags,
            ..CtEntry::default()
        };
        sim.connections.insert(key.as_bytes().to_vec(), entry);
    }
}

/// A service with one backend, for everybody.
fn serves(proto: u8, backend: Addr, flags: u32) -> impl FnOnce(&mut Sim) {
    move |sim| {
        translating(sim);
        let set = BackendSet { id: 7, count: 1 };
        let service = Service {
            inside: set,
            outside: set,
            number: 3,
            affinity: 0,
            flags,
        };
        let is_node_port = flags & Service::NODE_PORT != 0;
        let key = ServiceKey {
            addr: if is_node_port {
                Addr::UNSPECIFIED
            } else {
                self::service()
            },
            port: if is_node_port { NODE_PORT } else { 80 }.to_be_bytes(),
            proto,
            family: 6,
            pad: [0; 4],
        };
        sim.translation.services.insert(key, service);
        let port = 8080u16.to_be_bytes();
        sim.translation.backends.insert(
            BackendKey { set: 7, slot: 0 },
            Backend {
                addr: backend,
                port,
                flags: 0,
                number: 1,
            },
        );
        let member = MemberKey {
            addr: backend,
            port,
            pad: [0; 2],
            service: 3,
        };
        sim.translation.members.insert(member, 3);
    }
}

/// Node ports for TCP and UDP, with direct return, behind which is a pod of this node or of another one.
pub(super) fn node_ports(sim: &mut Sim, is_local: bool) {
    let backend = if is_local {
        super::node::pod()
    } else {
        super::node::remote()
    };
    for proto in [packet::protocol::TCP, packet::protocol::UDP] {
        serves(proto, backend, NODE_PORT_FLAGS | Service::DSR)(sim);
    }
}

const NODE_PORT_FLAGS: u32 = Service::NODE_PORT | Service::EXTERNAL;

fn stack_frame(builder: Builder) -> Vec<u8> {
    builder.frame(NODE_MAC, OUTSIDE_MAC, 63)
}

fn arriving(builder: Builder) -> Vec<u8> {
    builder.frame(OUTSIDE_MAC, NODE_MAC, 60)
}

fn tcp(src: Addr, dst: Addr, ports: (u16, u16), flags: u8) -> Builder {
    Builder::new(src, dst, b"some data").tcp(ports.0, ports.1, flags)
}

fn udp(src: Addr, dst: Addr, ports: (u16, u16)) -> Builder {
    Builder::new(src, dst, b"question").udp(ports.0, ports.1)
}

fn ping(src: Addr, dst: Addr, kind: u8, id: u16) -> Builder {
    let [high, low] = id.to_be_bytes();
    Builder::new(src, dst, b"ping").icmp6(kind, 0, [high, low, 0, 1])
}

/// An error message of the router about a packet.
fn error(kind: u8, code: u8, body: u32, inner: &[u8], to: Addr) -> Builder {
    Builder::new(router(), to, inner).icmp6(kind, code, body.to_be_bytes())
}
