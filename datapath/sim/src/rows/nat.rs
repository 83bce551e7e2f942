//! The rows of services and masquerade.

use abi::{
    Addr, Backend, BackendKey, BackendSet, CtEntry, CtKey,
    Direction::{Egress, Ingress},
    DropReason::{
        CtMissingTcpAckFlag, DeniedByLbSrcRangeCheck, FirstLogicalDatagramFragmentNotFound, IsAClusterip,
        NoMappingForNatMasquerade, ServiceBackendNotFound, SnatNoMapFound,
        UnsupportedProtocolForNatMasquerade,
    },
    Endpoint, FragmentKey, FragmentPorts, MemberKey, NatEntry, NatKey, Peer, Service, ServiceKey,
};
use packet::{
    icmp6::{kind as icmp, unreachable},
    protocol::{FRAGMENT, ICMPV6, TCP, UDP},
    transport::tcp_flag::{ACK, SYN},
};
use stages::{Route, nat::hash};
use zerocopy::IntoBytes;

use super::{
    Row,
    cases::{TO_ENDPOINT, TO_NETWORK, TO_STACK, drops, from_pod_frame, key, row, syn},
    drop_event, dropped, forwarded,
    node::{
        IFINDEX, NODE_MAC, OTHER_MAC, OUTSIDE_MAC, POD_MAC, address, gateway, host, other, pod, remote,
        router,
    },
};
use crate::{
    Builder,
    Program::{FromNetdev, FromPod, ToNetdev},
    Sim, TcAction,
};

pub(super) fn all() -> Vec<Row> {
    [
        masquerade(),
        back(),
        collisions(),
        inside(),
        refused(),
        looped(),
        outside(),
        errors(),
        fragments(),
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

fn masquerade() -> Vec<Row> {
    let unchanged = |name, packet: Vec<u8>| {
        row(name, ToNetdev, packet, TcAction::Next)
            .with(translating)
            .counts(&[forwarded(Egress)])
            .reports(&[TO_NETWORK])
    };
    let open = pair((pod(), world(), 40000, 80), (host(), world(), 40000, 80), TCP, 0);
    let asked = pair((pod(), world(), 40000, 53), (host(), world(), 40000, 53), UDP, 0);
    let pinged = pair(
        (pod(), world(), 0xabcd, 0),
        (host(), world(), 0xabcd, 0),
        ICMPV6,
        0,
    );
    vec![
        unchanged("masquerade: TCP", stack_frame(syn(pod(), world())))
            .becomes(stack_frame(syn(host(), world())))
            .translates(&[open]),
        unchanged("masquerade: UDP", stack_frame(udp(pod(), world(), (40000, 53))))
            .becomes(stack_frame(udp(host(), world(), (40000, 53))))
            .translates(&[asked]),
        unchanged(
            "masquerade: echo",
            stack_frame(ping(pod(), world(), icmp::ECHO_REQUEST, 0xabcd)),
        )
        .becomes(stack_frame(ping(host(), world(), icmp::ECHO_REQUEST, 0xabcd)))
        .translates(&[pinged]),
        row(
            "masquerade: by the FIB",
            FromPod,
            from_pod_frame(syn(pod(), world()), 64),
            TcAction::Redirect,
        )
        .with(translating)
        .with(|sim| {
            sim.route = Route::Via {
                ifindex: IFINDEX,
                next_hop: gateway(),
            }
        })
        .becomes(from_pod_frame(syn(host(), world()), 63))
        .counts(&[forwarded(Egress)])
        .reports(&[TO_NETWORK])
        .opens(&[key(pod(), world(), (40000, 80), TCP, CtKey::OUT)])
        .translates(&[open]),
        unchanged("no masquerade: another pod", stack_frame(syn(pod(), remote()))),
        unchanged("no masquerade: another node", stack_frame(syn(pod(), gateway()))).with(|sim| {
            let peer = Peer {
                flags: Peer::NODE,
                ..Peer::default()
            };
            sim.peers.insert(gateway(), peer);
        }),
        unchanged(
            "no masquerade: a prefix that is excepted",
            stack_frame(syn(pod(), world())),
        )
        .with(|sim| {
            sim.translation.plain.insert((48, world().0));
        }),
        unchanged(
            "no masquerade: an answer",
            stack_frame(tcp(pod(), world(), (80, 40000), SYN | ACK)),
        )
        .with(tracks(key(world(), pod(), (40000, 80), TCP, CtKey::IN), 0)),
        row(
            "masquerade: a connection that is known",
            ToNetdev,
            stack_frame(tcp(pod(), world(), (40000, 80), ACK)),
            TcAction::Next,
        )
        .with(knows(&[open]))
        .becomes(stack_frame(tcp(host(), world(), (40000, 80), ACK)))
        .counts(&[forwarded(Egress)])
        .translates(&[pair(
            (pod(), world(), 40000, 80),
            (host(), world(), 40000, 80),
            TCP,
            NatEntry::ESTABLISHED,
        )]),
        row(
            "masquerade: no port for this protocol",
            ToNetdev,
            stack_frame(ping(pod(), world(), icmp::ECHO_REPLY, 1)),
            TcAction::Shot,
        )
        .with(translating)
        .counts(&[dropped(UnsupportedProtocolForNatMasquerade, Egress)])
        .reports(&[drop_event(UnsupportedProtocolForNatMasquerade)]),
        row(
            "masquerade: a device without an address",
            ToNetdev,
            stack_frame(syn(pod(), world())),
            TcAction::Shot,
        )
        .with(translating)
        .with(|sim| sim.translation.masquerade.clear())
        .counts(&[dropped(NoMappingForNatMasquerade, Egress)])
        .reports(&[drop_event(NoMappingForNatMasquerade)]),
    ]
}

/// What comes back to who was masqueraded.
fn back() -> Vec<Row> {
    let moved = pair((pod(), world(), 40000, 80), (host(), world(), 50000, 80), TCP, 0);
    let established = |pairs: [Half; 2]| {
        pairs.map(|(key, entry)| {
            let flags = entry.flags | NatEntry::ESTABLISHED;
            (key, NatEntry { flags, ..entry })
        })
    };
    let pinged = pair(
        (pod(), world(), 0xabcd, 0),
        (host(), world(), 0xbbbb, 0),
        ICMPV6,
        0,
    );
    vec![
        row(
            "answer to who was masqueraded",
            FromNetdev,
            arriving(tcp(world(), host(), (80, 50000), SYN | ACK)),
            TcAction::Redirect,
        )
        .with(knows(&[moved]))
        .with(tracks(key(pod(), world(), (40000, 80), TCP, CtKey::OUT), 0))
        .becomes(tcp(world(), pod(), (80, 40000), SYN | ACK).frame(NODE_MAC, POD_MAC, 59))
        .counts(&[forwarded(Ingress)])
        .translates(&[established(moved)]),
        row(
            "echo reply to who was masqueraded",
            FromNetdev,
            arriving(ping(world(), host(), icmp::ECHO_REPLY, 0xbbbb)),
            TcAction::Redirect,
        )
        .with(knows(&[pinged]))
        .with(tracks(key(pod(), world(), (0xabcd, 0), ICMPV6, CtKey::OUT), 0))
        .becomes(ping(world(), pod(), icmp::ECHO_REPLY, 0xabcd).frame(NODE_MAC, POD_MAC, 59))
        .counts(&[forwarded(Ingress)]),
        row(
            "to a port of the node that nobody was given",
            FromNetdev,
            arriving(tcp(world(), host(), (80, 50001), SYN | ACK)),
            TcAction::Next,
        )
        .with(knows(&[moved])),
        row(
            "half of a pair that was dropped is made again",
            FromNetdev,
            arriving(tcp(world(), host(), (80, 50000), ACK)),
            TcAction::Redirect,
        )
        .with(knows(&[moved]))
        .with(move |sim| {
            sim.translation.nat.remove(moved[0].0.as_bytes());
        })
        .with(tracks(key(pod(), world(), (40000, 80), TCP, CtKey::OUT), 0))
        .becomes(tcp(world(), pod(), (80, 40000), ACK).frame(NODE_MAC, POD_MAC, 59))
        .counts(&[forwarded(Ingress)])
        .translates(&[established(moved)]),
    ]
}

/// The first port that is tried when its own is taken.
fn next_port(from: Ends, proto: u8) -> u16 {
    let [(key, _), _] = pair(from, from, proto, 0);
    let number = hash::next(hash::connection(&key));
    32_768 + u16::try_from((u64::from(number) * 32_768) >> 32).unwrap_or(0)
}

fn collisions() -> Vec<Row> {
    let ends = (pod(), world(), 40000, 80);
    let taken = pair(
        (other(), world(), 40000, 80),
        (host(), world(), 40000, 80),
        TCP,
        0,
    );
    let moved = pair(ends, (host(), world(), next_port(ends, TCP), 80), TCP, 0);
    let low = (pod(), world(), 1000, 80);
    let own = (host(), world(), 40000, 80);
    let leaving = |name, src: Addr, port| {
        let packet = stack_frame(Builder::new(src, world(), &[]).tcp(port, 80, SYN));
        row(name, ToNetdev, packet, TcAction::Next)
            .counts(&[forwarded(Egress)])
            .reports(&[TO_NETWORK])
    };
    let becomes = |port| stack_frame(Builder::new(host(), world(), &[]).tcp(port, 80, SYN));
    vec![
        leaving("masquerade: the port belongs to another pod", pod(), 40000)
            .with(knows(&[taken]))
            .becomes(becomes(next_port(ends, TCP)))
            .translates(&[moved]),
        leaving("masquerade: the port belonged to another pod", pod(), 40000)
            .with(knows(&[
                taken.map(|(key, entry)| (key, NatEntry { expires: 1, ..entry }))
            ]))
            .becomes(becomes(40000))
            .translates(&[pair(ends, (host(), world(), 40000, 80), TCP, 0)]),
        leaving("masquerade: the port belongs to the node", pod(), 40000)
            .with(translating)
            .with(move |sim| {
                let [_, (back, _)] = pair(ends, own, TCP, 0);
                sim.translation.sockets.insert(back.as_bytes().to_vec());
            })
            .becomes(becomes(next_port(ends, TCP)))
            .translates(&[moved]),
        leaving("masquerade: a port that is not for it", pod(), 1000)
            .with(translating)
            .becomes(becomes(next_port(low, TCP)))
            .translates(&[pair(low, (host(), world(), next_port(low, TCP), 80), TCP, 0)]),
        leaving("the node's own connection from a port of a pod", host(), 40000)
            .with(knows(&[taken]))
            .becomes(becomes(next_port(own, TCP)))
            .translates(&[pair(
                own,
                (host(), world(), next_port(own, TCP), 80),
                TCP,
                NatEntry::HOST,
            )]),
        leaving("the node's own connection", host(), 40001).with(knows(&[taken])),
        row(
            "no entry more: masquerade",
            ToNetdev,
            stack_frame(syn(pod(), world())),
            TcAction::Shot,
        )
        .with(translating)
        .with(|sim| {
            sim.translation.nat_max = 0;
            // The kernel's table never is full.
            sim.route = Route::Failed;
        })
        .counts(&[dropped(NoMappingForNatMasquerade, Egress)])
        .reports(&[drop_event(NoMappingForNatMasquerade)]),
    ]
}

/// A pod and a service inside the cluster.
fn inside() -> Vec<Row> {
    let to = |backend| {
        pair(
            (pod(), service(), 40000, 80),
            (pod(), backend, 40000, 8080),
            TCP,
            NatEntry::SERVICE,
        )
    };
    let sent = |dst, port| Builder::new(pod(), dst, &[]).tcp(40000, port, SYN);
    let out = |dst| key(pod(), dst, (40000, 8080), TCP, CtKey::OUT);
    let mut datagram = pair(
        (pod(), service(), 40000, 80),
        (pod(), remote(), 40000, 8080),
        UDP,
        NatEntry::SERVICE,
    );
    let renewed = datagram;
    datagram[0].1.dst = other();
    vec![
        row(
            "service: backend on this node",
            FromPod,
            from_pod_frame(sent(service(), 80), 64),
            TcAction::Redirect,
        )
        .with(serves(TCP, other(), 0))
        .becomes(sent(other(), 8080).frame(NODE_MAC, OTHER_MAC, 63))
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT])
        .opens(&[out(other()), key(pod(), other(), (40000, 8080), TCP, CtKey::IN)])
        .translates(&[to(other())]),
        row(
            "service: backend on another node",
            FromPod,
            from_pod_frame(sent(service(), 80), 64),
            TcAction::Ok,
        )
        .with(serves(TCP, remote(), 0))
        .becomes(from_pod_frame(sent(remote(), 8080), 64))
        .counts(&[forwarded(Egress)])
        .reports(&[TO_STACK])
        .opens(&[out(remote())])
        .translates(&[to(remote())]),
        row(
            "service: backend on the node itself",
            FromPod,
            from_pod_frame(sent(service(), 80), 64),
            TcAction::Ok,
        )
        .with(serves(TCP, host(), 0))
        .becomes(from_pod_frame(sent(host(), 8080), 64))
        .counts(&[forwarded(Egress)])
        .reports(&[TO_STACK])
        .opens(&[out(host())])
        .translates(&[to(host())]),
        row(
            "service: a connection that is known keeps its backend",
            FromPod,
            from_pod_frame(tcp(pod(), service(), (40000, 80), ACK), 64),
            TcAction::Redirect,
        )
        .with(knows(&[to(other())]))
        .with(tracks(out(other()), CtEntry::TRANSLATED))
        .with(tracks(
            key(pod(), other(), (40000, 8080), TCP, CtKey::IN),
            CtEntry::TRANSLATED,
        ))
        .becomes(tcp(pod(), other(), (40000, 8080), ACK).frame(NODE_MAC, OTHER_MAC, 63))
        .counts(&[forwarded(Ingress)])
        .translates(&[pair(
            (pod(), service(), 40000, 80),
            (pod(), other(), 40000, 8080),
            TCP,
            NatEntry::SERVICE | NatEntry::ESTABLISHED,
        )]),
        row(
            "service: datagrams leave a backend that is gone",
            FromPod,
            from_pod_frame(udp(pod(), service(), (40000, 80)), 64),
            TcAction::Ok,
        )
        .with(serves(UDP, remote(), 0))
        .with(move |sim| {
            let (key, entry) = datagram[0];
            sim.translation.nat.insert(
                key.as_bytes().to_vec(),
                NatEntry {
                    expires: u64::MAX >> 1,
                    ..entry
                },
            );
        })
        .becomes(from_pod_frame(udp(pod(), remote(), (40000, 8080)), 64))
        .counts(&[forwarded(Egress)])
        .reports(&[TO_STACK])
        .opens(&[key(pod(), remote(), (40000, 8080), UDP, CtKey::OUT)])
        .translates(&[
            renewed,
            [
                (
                    NatKey {
                        src: other(),
                        ..renewed[1].0
                    },
                    renewed[1].1,
                ),
                renewed[0],
            ],
        ]),
        row(
            "service: answer of a backend on another node",
            FromNetdev,
            arriving(tcp(remote(), pod(), (8080, 40000), SYN | ACK)),
            TcAction::Redirect,
        )
        .with(knows(&[to(remote())]))
        .with(tracks(out(remote()), CtEntry::TRANSLATED))
        .becomes(tcp(service(), pod(), (80, 40000), SYN | ACK).frame(NODE_MAC, POD_MAC, 59))
        .counts(&[forwarded(Ingress)])
        .translates(&[pair(
            (pod(), service(), 40000, 80),
            (pod(), remote(), 40000, 8080),
            TCP,
            NatEntry::SERVICE | NatEntry::ESTABLISHED,
        )]),
        row(
            "service: answer of a backend on this node",
            FromPod,
            from_pod_frame(tcp(pod(), other(), (8080, 40000), ACK), 64),
            TcAction::Redirect,
        )
        .with(knows(&[pair(
            (other(), service(), 40000, 80),
            (other(), pod(), 40000, 8080),
            TCP,
            NatEntry::SERVICE | NatEntry::ESTABLISHED,
        )]))
        .with(tracks(
            key(other(), pod(), (40000, 8080), TCP, CtKey::IN),
            CtEntry::TRANSLATED,
        ))
        .with(tracks(
            key(other(), pod(), (40000, 8080), TCP, CtKey::OUT),
            CtEntry::TRANSLATED,
        ))
        .becomes(tcp(service(), other(), (80, 40000), ACK).frame(NODE_MAC, OTHER_MAC, 63))
        .counts(&[forwarded(Ingress)]),
        drops(
            "service: answer whose translation is gone",
            FromNetdev,
            arriving(tcp(remote(), pod(), (8080, 40000), ACK)),
            SnatNoMapFound,
        )
        .with(translating)
        .with(tracks(out(remote()), CtEntry::TRANSLATED)),
    ]
}

/// An error message of the router about a packet.
fn error(kind: u8, code: u8, body: u32, inner: &[u8], to: Addr) -> Builder {
    Builder::new(router(), to, inner).icmp6(kind, code, body.to_be_bytes())
}

fn refused() -> Vec<Row> {
    let refused = |name, builder: &Builder| {
        let packet = from_pod_frame(builder.clone(), 64);
        let answer = error(icmp::UNREACHABLE, unreachable::PORT, 0, &packet[14..], pod());
        row(name, FromPod, packet, TcAction::Redirect)
            .becomes(answer.frame(NODE_MAC, POD_MAC, 64))
            .counts(&[dropped(ServiceBackendNotFound, Egress)])
            .reports(&[drop_event(ServiceBackendNotFound)])
    };
    let empty = |flags| {
        move |sim: &mut Sim| {
            serves(TCP, other(), flags)(sim);
            for service in sim.translation.services.values_mut() {
                service.inside = BackendSet::default();
                service.outside = BackendSet::default();
            }
        }
    };
    vec![
        refused(
            "service: a port that is none of it",
            &Builder::new(pod(), service(), &[]).tcp(40000, 81, SYN),
        )
        .with(serves(TCP, other(), 0)),
        refused("service: another protocol", &udp(pod(), service(), (40000, 80))).with(serves(
            TCP,
            other(),
            0,
        )),
        refused("service: no backend", &syn(pod(), service())).with(empty(0)),
        drops(
            "service: no backend on this node",
            FromPod,
            from_pod_frame(syn(pod(), service()), 64),
            ServiceBackendNotFound,
        )
        .with(empty(Service::INSIDE_LOCAL)),
    ]
}

fn looped() -> Vec<Row> {
    let pair = pair(
        (pod(), service(), 40000, 80),
        (router(), pod(), 40000, 8080),
        TCP,
        NatEntry::SERVICE,
    );
    vec![
        row(
            "a pod is its own backend",
            FromPod,
            from_pod_frame(syn(pod(), service()), 64),
            TcAction::Redirect,
        )
        .with(serves(TCP, pod(), 0))
        .becomes(
            Builder::new(router(), pod(), &[])
                .tcp(40000, 8080, SYN)
                .frame(NODE_MAC, POD_MAC, 63),
        )
        .counts(&[forwarded(Ingress)])
        .with(|sim| sim.config.monitor_aggregation = 0)
        .reports(&[super::cases::FROM_ENDPOINT, TO_ENDPOINT])
        .translates(&[pair]),
        row(
            "a pod answers itself",
            FromPod,
            from_pod_frame(tcp(pod(), router(), (8080, 40000), SYN | ACK), 64),
            TcAction::Redirect,
        )
        .with(knows(&[pair]))
        .becomes(tcp(service(), pod(), (80, 40000), SYN | ACK).frame(NODE_MAC, POD_MAC, 63))
        .counts(&[forwarded(Ingress)])
        .translates(&[pair.map(|(key, entry)| {
            let flags = entry.flags | NatEntry::ESTABLISHED;
            (key, NatEntry { flags, ..entry })
        })]),
    ]
}

/// Node ports, from outside.
fn outside() -> Vec<Row> {
    let asked = |dst, port| Builder::new(world(), dst, &[]).tcp(40000, port, SYN);
    let direct = |backend| {
        pair(
            (world(), host(), 40000, NODE_PORT),
            (world(), backend, 40000, 8080),
            TCP,
            NatEntry::SERVICE,
        )
    };
    let through = pair(
        (world(), host(), 40000, NODE_PORT),
        (host(), remote(), 40000, 8080),
        TCP,
        NatEntry::SERVICE,
    );
    let established = |pairs: [Half; 2]| {
        pairs.map(|(key, entry)| {
            let flags = entry.flags | NatEntry::ESTABLISHED;
            (key, NatEntry { flags, ..entry })
        })
    };
    vec![
        row(
            "node port: backend on this node",
            FromNetdev,
            arriving(asked(host(), NODE_PORT)),
            TcAction::Redirect,
        )
        .with(serves(TCP, pod(), NODE_PORT_FLAGS))
        .becomes(asked(pod(), 8080).frame(NODE_MAC, POD_MAC, 59))
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT])
        .opens(&[key(world(), pod(), (40000, 8080), TCP, CtKey::IN)])
        .translates(&[direct(pod())]),
        row(
            "node port: answer of a backend on this node",
            FromPod,
            from_pod_frame(tcp(pod(), world(), (8080, 40000), SYN | ACK), 64),
            TcAction::Ok,
        )
        .with(knows(&[direct(pod())]))
        .with(tracks(
            key(world(), pod(), (40000, 8080), TCP, CtKey::IN),
            CtEntry::TRANSLATED,
        ))
        .becomes(from_pod_frame(
            tcp(host(), world(), (NODE_PORT, 40000), SYN | ACK),
            64,
        ))
        .counts(&[forwarded(Egress)])
        .translates(&[established(direct(pod()))]),
        row(
            "node port: backend on another node",
            FromNetdev,
            arriving(asked(host(), NODE_PORT)),
            TcAction::Ok,
        )
        .with(serves(TCP, remote(), NODE_PORT_FLAGS))
        .becomes(arriving(
            Builder::new(host(), remote(), &[]).tcp(40000, 8080, SYN),
        ))
        .translates(&[through]),
        row(
            "node port: answer of a backend on another node",
            FromNetdev,
            arriving(tcp(remote(), host(), (8080, 40000), SYN | ACK)),
            TcAction::Ok,
        )
        .with(knows(&[through]))
        .becomes(arriving(tcp(host(), world(), (NODE_PORT, 40000), SYN | ACK)))
        .translates(&[established(through)]),
        row(
            "node port: backend on another node, by the FIB",
            FromNetdev,
            arriving(asked(host(), NODE_PORT)),
            TcAction::Redirect,
        )
        .with(serves(TCP, remote(), NODE_PORT_FLAGS))
        .with(|sim| {
            sim.route = Route::Via {
                ifindex: IFINDEX,
                next_hop: gateway(),
            }
        })
        .becomes(
            Builder::new(host(), remote(), &[])
                .tcp(40000, 8080, SYN)
                .frame(OUTSIDE_MAC, NODE_MAC, 59),
        )
        .counts(&[forwarded(Egress)])
        .translates(&[through]),
        row(
            "node port: backend on the node itself",
            FromNetdev,
            arriving(asked(host(), NODE_PORT)),
            TcAction::Next,
        )
        .with(serves(TCP, host(), NODE_PORT_FLAGS))
        .becomes(arriving(asked(host(), 8080)))
        .translates(&[direct(host())]),
        row(
            "node port: answer of a backend on the node itself",
            ToNetdev,
            stack_frame(tcp(host(), world(), (8080, 40000), SYN | ACK)),
            TcAction::Next,
        )
        .with(knows(&[direct(host())]))
        .becomes(stack_frame(tcp(host(), world(), (NODE_PORT, 40000), SYN | ACK)))
        .counts(&[forwarded(Egress)])
        .reports(&[TO_NETWORK])
        .translates(&[established(direct(host()))]),
        row(
            "a port of the node that is no service",
            FromNetdev,
            arriving(asked(host(), 22)),
            TcAction::Next,
        )
        .with(serves(TCP, pod(), NODE_PORT_FLAGS)),
        drops(
            "cluster address from outside",
            FromNetdev,
            arriving(asked(service(), 80)),
            IsAClusterip,
        )
        .with(serves(TCP, pod(), 0)),
        drops(
            "load balancer: a client that may not",
            FromNetdev,
            arriving(asked(service(), 80)),
            DeniedByLbSrcRangeCheck,
        )
        .with(serves(TCP, pod(), Service::EXTERNAL | Service::SOURCE_RANGES)),
        drops(
            "node port: none on this node",
            FromNetdev,
            arriving(asked(host(), NODE_PORT)),
            ServiceBackendNotFound,
        )
        .with(|sim| {
            serves(TCP, pod(), NODE_PORT_FLAGS | Service::OUTSIDE_LOCAL)(sim);
            for service in sim.translation.services.values_mut() {
                service.outside = BackendSet::default();
            }
        }),
    ]
}

/// ICMPv6 errors about translated packets.
fn errors() -> Vec<Row> {
    let about = |from, to, inner: Builder| {
        let inner = inner.layer3(50);
        Builder::new(from, to, &inner).icmp6(icmp::TOO_BIG, 0, [0, 0, 5, 0])
    };
    let masked = pair((pod(), world(), 40000, 80), (host(), world(), 50000, 80), TCP, 0);
    let balanced = pair(
        (pod(), service(), 40000, 80),
        (pod(), remote(), 40000, 8080),
        TCP,
        NatEntry::SERVICE,
    );
    let long = |dst, port| Builder::new(pod(), dst, &[7; 1400]).udp(40000, port);
    let kept = long(service(), 80).layer3(64);
    vec![
        row(
            "error about a masqueraded packet",
            FromNetdev,
            arriving(about(gateway(), host(), tcp(host(), world(), (50000, 80), ACK))),
            TcAction::Redirect,
        )
        .with(knows(&[masked]))
        .with(tracks(key(pod(), world(), (40000, 80), TCP, CtKey::OUT), 0))
        .becomes(about(gateway(), pod(), tcp(pod(), world(), (40000, 80), ACK)).frame(NODE_MAC, POD_MAC, 59))
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT]),
        row(
            "error of the other end about a masqueraded packet",
            FromNetdev,
            arriving(about(world(), host(), tcp(host(), world(), (50000, 80), ACK))),
            TcAction::Redirect,
        )
        .with(knows(&[masked]))
        .with(tracks(key(pod(), world(), (40000, 80), TCP, CtKey::OUT), 0))
        .becomes(about(world(), pod(), tcp(pod(), world(), (40000, 80), ACK)).frame(NODE_MAC, POD_MAC, 59))
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT]),
        row(
            "error of a masqueraded pod",
            ToNetdev,
            stack_frame(about(pod(), world(), tcp(world(), pod(), (80, 40000), ACK))),
            TcAction::Next,
        )
        .with(knows(&[masked]))
        .becomes(stack_frame(about(
            host(),
            world(),
            tcp(world(), host(), (80, 50000), ACK),
        )))
        .counts(&[forwarded(Egress)])
        .reports(&[TO_NETWORK]),
        row(
            "error about a packet of the node",
            FromNetdev,
            arriving(about(gateway(), host(), tcp(host(), world(), (50001, 80), ACK))),
            TcAction::Next,
        )
        .with(knows(&[masked])),
        row(
            "error about a packet to a service",
            FromNetdev,
            arriving(about(gateway(), pod(), tcp(pod(), remote(), (40000, 8080), ACK))),
            TcAction::Redirect,
        )
        .with(knows(&[balanced]))
        .with(tracks(
            key(pod(), remote(), (40000, 8080), TCP, CtKey::OUT),
            CtEntry::TRANSLATED,
        ))
        .becomes(
            about(gateway(), pod(), tcp(pod(), service(), (40000, 80), ACK)).frame(NODE_MAC, POD_MAC, 59),
        )
        .counts(&[forwarded(Ingress)])
        .reports(&[TO_ENDPOINT]),
        row(
            "too big for the backend: the client sees the service",
            FromPod,
            from_pod_frame(long(service(), 80), 64),
            TcAction::Redirect,
        )
        .with(serves(UDP, other(), 0))
        .with(|sim| {
            sim.endpoints
                .values_mut()
                .for_each(|endpoint| endpoint.mtu = 1400);
        })
        .becomes(error(icmp::TOO_BIG, 0, 1400, &kept[..1280 - 48], pod()).frame(NODE_MAC, POD_MAC, 64))
        .counts(&[dropped(CtMissingTcpAckFlag, Egress)])
        .reports(&[drop_event(CtMissingTcpAckFlag)])
        .opens(&[key(pod(), other(), (40000, 8080), UDP, CtKey::OUT)])
        .translates(&[pair(
            (pod(), service(), 40000, 80),
            (pod(), other(), 40000, 8080),
            UDP,
            NatEntry::SERVICE,
        )]),
    ]
}

fn fragments() -> Vec<Row> {
    let later = |dst| Builder::new(pod(), dst, &[5; 16]).fragment_of(UDP, 3, false);
    let known = pair(
        (pod(), service(), 40000, 80),
        (pod(), remote(), 40000, 8080),
        UDP,
        NatEntry::SERVICE,
    );
    vec![
        row(
            "service: a later fragment goes where the first one went",
            FromPod,
            from_pod_frame(later(service()), 64),
            TcAction::Ok,
        )
        .with(serves(UDP, remote(), 0))
        .with(knows(&[known]))
        .with(|sim| {
            let datagram = FragmentKey {
                src: pod(),
                dst: service(),
                id: [0, 0, 0, 7],
                proto: UDP,
                pad: [0; 3],
            };
            let ports = FragmentPorts {
                src: 40000u16.to_be_bytes(),
                dst: 80u16.to_be_bytes(),
            };
            sim.translation
                .fragments
                .insert(datagram.as_bytes().to_vec(), ports);
        })
        .becomes(from_pod_frame(later(remote()), 64))
        .counts(&[forwarded(Egress)])
        .reports(&[TO_STACK])
        .opens(&[key(pod(), remote(), (0, 0), FRAGMENT, CtKey::OUT)]),
        drops(
            "service: a later fragment before the first one",
            FromPod,
            from_pod_frame(later(service()), 64),
            FirstLogicalDatagramFragmentNotFound,
        )
        .with(knows(&[known])),
    ]
}
