//! From a record to a flow: the rules of `reference/cilium.md` §1.7.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use abi::event::kind;
use abi::{Addr, Direction, DropNotify, PolicyVerdictNotify, TraceNotify, TraceSockNotify};

use crate::decode::{Notify, Record};
use crate::flow::{
    AuthType, DropCode, Endpoint, EventType, Flow, FlowKind, Ip, IpVersion, ObservationPoint, Rare,
    SocketPoint, Time, TraceReason, TrafficDirection, Uuid, Verdict,
};
use crate::layer4::{Layer4, Summary};
use crate::lookup::{Lookup, PolicyQuestion};
use crate::packet;

/// Bit of [`TraceNotify::reason`]: the packet travels encrypted.
const ENCRYPTED: u8 = 0x80;

/// Makes flows of records on one node.
#[derive(Debug)]
pub struct Observer<L> {
    lookup: L,
    node_name: Arc<str>,
    node_labels: Arc<[Arc<str>]>,
    /// Random bits of this observer's UUIDs.
    seed: u128,
    made: u64,
}

/// What the datapath says of the two sides of a packet.
#[derive(Clone, Copy, Default)]
struct Labels {
    source: u32,
    destination: u32,
}

impl<L: Lookup> Observer<L> {
    /// An observer on the node `cluster/node` (the node alone in the cluster `default`). The seed is random, given once.
    #[must_use]
    pub fn new(lookup: L, node_name: Arc<str>, node_labels: Arc<[Arc<str>]>, seed: u128) -> Self {
        Self {
            lookup,
            node_name,
            node_labels,
            seed,
            made: 0,
        }
    }

    /// What it asks.
    #[must_use]
    pub const fn lookup(&self) -> &L {
        &self.lookup
    }

    /// The flow of a record that was made at this time.
    #[must_use]
    pub fn flow(&mut self, record: &Record<'_>, time: Time) -> Flow {
        let base = Flow {
            time: Some(time),
            uuid: Some(self.uuid()),
            node_name: self.node_name.clone(),
            node_labels: self.node_labels.clone(),
            ..Flow::default()
        };
        match &record.notify {
            Notify::Trace(notify) => self.trace(base, notify, record.packet),
            Notify::Drop(notify) => self.dropped(base, notify, record.packet),
            Notify::Verdict(notify) => self.verdict(base, notify, record.packet),
            Notify::Sock(notify) => self.sock(base, notify),
        }
    }

    /// RFC 9562 version 4 in form; the low bits run through all values before one comes again.
    fn uuid(&mut self) -> Uuid {
        self.made = self.made.wrapping_add(1);
        let step = u128::from(self.made.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let low = (self.seed.wrapping_add(step)) & ((1 << 62) - 1);
        let high = (self.seed >> 64) & 0xffff_ffff_ffff_0fff;
        Uuid(high << 64 | 4 << 76 | 2 << 62 | low)
    }

    fn trace(&self, mut flow: Flow, notify: &TraceNotify, frame: &[u8]) -> Flow {
        flow.verdict = Verdict::Forwarded;
        flow.observation_point = match notify.header.subtype {
            0 => ObservationPoint::ToEndpoint,
            point => ObservationPoint::from_number(i32::from(point)).unwrap_or_default(),
        };
        flow.trace_reason = match notify.reason & !ENCRYPTED {
            5 => TraceReason::Unknown,
            reason @ 0..=4 => TraceReason::from_number(i32::from(reason) + 1).unwrap_or_default(),
            reason => TraceReason::from_number(i32::from(reason)).unwrap_or_default(),
        };
        flow.is_reply = match flow.trace_reason {
            TraceReason::Unknown
            | TraceReason::Srv6Encap
            | TraceReason::Srv6Decap
            | TraceReason::EncryptOverlay => None,
            reason => Some(reason == TraceReason::Reply),
        };
        if flow.observation_point == ObservationPoint::ToProxy {
            flow.proxy_port = u32::from(notify.dst_id);
        }
        flow.interface = self.interface(notify.ifindex);
        let labels = Labels {
            source: notify.src_label,
            destination: notify.dst_label,
        };
        self.packet(
            &mut flow,
            kind::TRACE,
            notify.header.subtype,
            frame,
            labels,
            translated(notify.orig_addr),
        );
        if notify.reason & ENCRYPTED != 0
            && let Some(ip) = &mut flow.ip
        {
            ip.encrypted = true;
        }
        let from_source =
            notify.header.source != 0 && id(flow.source.as_ref()) == u32::from(notify.header.source);
        flow.direction = match flow.is_reply {
            Some(reply) if notify.header.source != 0 => egress_if(from_source != reply),
            _ => TrafficDirection::Unknown,
        };
        flow
    }

    fn dropped(&self, mut flow: Flow, notify: &DropNotify, frame: &[u8]) -> Flow {
        flow.verdict = Verdict::Dropped;
        flow.drop_reason = Some(DropCode(u32::from(notify.header.subtype)));
        flow.interface = self.interface(notify.ifindex);
        let labels = Labels {
            source: notify.src_label,
            destination: notify.dst_label,
        };
        self.packet(&mut flow, kind::DROP, notify.header.subtype, frame, labels, None);
        flow.direction = if notify.header.source == 0 {
            // The node reports: the program says which half it was in.
            direction(notify.direction)
        } else {
            egress_if(id(flow.source.as_ref()) == u32::from(notify.header.source))
        };
        flow
    }

    fn verdict(&self, mut flow: Flow, notify: &PolicyVerdictNotify, frame: &[u8]) -> Flow {
        let audited = notify.bits & 0x40 != 0;
        let denied = u8::try_from(notify.verdict.unsigned_abs()).unwrap_or(u8::MAX);
        flow.verdict = match notify.verdict {
            ..0 => Verdict::Dropped,
            1.. => Verdict::Redirected,
            0 if audited => Verdict::Audit,
            0 => Verdict::Forwarded,
        };
        let subtype = if notify.verdict < 0 { denied } else { 0 };
        if notify.verdict < 0 {
            flow.drop_reason = Some(DropCode(u32::from(denied)));
        } else {
            flow.is_reply = Some(false);
        }
        flow.proxy_port = u32::try_from(notify.verdict).unwrap_or_default();
        flow.direction = direction(notify.bits & 3);
        flow.policy_match_type = u32::from(notify.bits >> 3 & 7);
        flow.auth_type = AuthType::from_number(i32::from(notify.auth_type)).unwrap_or_default();
        let mut labels = Labels::default();
        match flow.direction {
            TrafficDirection::Ingress => labels.source = notify.remote_label,
            TrafficDirection::Egress => labels.destination = notify.remote_label,
            TrafficDirection::Unknown => {}
        }
        self.packet(&mut flow, kind::POLICY_VERDICT, subtype, frame, labels, None);
        self.explain(&mut flow, notify);
        flow
    }

    /// Names the policies that decided.
    fn explain(&self, flow: &mut Flow, notify: &PolicyVerdictNotify) {
        let allowed = matches!(flow.verdict, Verdict::Forwarded | Verdict::Redirected);
        let decision = self.lookup.policies(&PolicyQuestion {
            endpoint: u32::from(notify.header.source),
            direction: flow.direction,
            remote: notify.remote_label,
            protocol: notify.proto,
            port: notify.dst_port,
            allowed,
            cookie: notify.cookie,
        });
        if decision.policies.is_empty() && decision.log.is_empty() {
            return;
        }
        let mut rare = Rare {
            policy_log: decision.log,
            ..Rare::default()
        };
        match (flow.direction, allowed) {
            (TrafficDirection::Ingress, true) => rare.ingress_allowed_by = decision.policies,
            (TrafficDirection::Ingress, false) => rare.ingress_denied_by = decision.policies,
            (TrafficDirection::Egress, true) => rare.egress_allowed_by = decision.policies,
            (TrafficDirection::Egress, false) => rare.egress_denied_by = decision.policies,
            (TrafficDirection::Unknown, _) => {}
        }
        flow.rare = Some(Box::new(rare));
    }

    fn sock(&self, mut flow: Flow, notify: &TraceSockNotify) -> Flow {
        let ipv6 = notify.flags & 1 != 0;
        flow.kind = FlowKind::Sock;
        flow.event_type = EventType {
            kind: i32::from(kind::TRACE_SOCK),
            subtype: i32::from(notify.point),
        };
        flow.socket_point = SocketPoint::from_number(i32::from(notify.point)).unwrap_or_default();
        flow.socket_cookie = notify.sock_cookie;
        flow.cgroup_id = notify.cgroup_id;
        let reverse = matches!(
            flow.socket_point,
            SocketPoint::PreReverse | SocketPoint::PostReverse
        );
        flow.is_reply = Some(reverse);
        flow.verdict = match flow.socket_point {
            SocketPoint::PreForward | SocketPoint::PreReverse => Verdict::Traced,
            SocketPoint::PostForward | SocketPoint::PostReverse => Verdict::Translated,
            SocketPoint::Unknown => Verdict::Unknown,
        };
        let peer = canonical(notify.dst_addr);
        let own = self.lookup.cgroup(notify.cgroup_id, ipv6);
        let address = own.as_ref().map(|(address, _)| *address);
        let (source, destination) = if reverse {
            (Some(peer), address)
        } else {
            (address, Some(peer))
        };
        let version = if ipv6 { IpVersion::V6 } else { IpVersion::V4 };
        flow.ip = Some(Ip {
            source,
            destination,
            version,
            ..Ip::default()
        });
        let (source_port, destination_port) = if reverse {
            (notify.dst_port, 0)
        } else {
            (0, notify.dst_port)
        };
        (flow.l4, flow.summary) = match notify.l4_proto {
            1 => (
                Some(Layer4::Tcp {
                    source_port,
                    destination_port,
                    flags: None,
                }),
                Summary::Layer("TCP"),
            ),
            2 => (
                Some(Layer4::Udp {
                    source_port,
                    destination_port,
                }),
                Summary::Layer("UDP"),
            ),
            _ => (None, Summary::None),
        };
        let peer_names = own
            .as_ref()
            .map(|(_, pod)| self.lookup.names(pod.id, peer))
            .unwrap_or_default();
        let own = own.map(|(_, pod)| pod);
        let other = self.lookup.endpoint(peer);
        let service = self.lookup.service(peer, Some(notify.dst_port));
        if reverse {
            (flow.source, flow.destination) = (other, own);
            (flow.source_service, flow.source_names) = (service, peer_names);
        } else {
            (flow.source, flow.destination) = (own, other);
            (flow.destination_service, flow.destination_names) = (service, peer_names);
        }
        flow
    }

    /// What all flows of packets have. `service`: the destination before it was translated.
    fn packet(
        &self,
        flow: &mut Flow,
        kind: u8,
        subtype: u8,
        frame: &[u8],
        labels: Labels,
        service: Option<IpAddr>,
    ) {
        let layers = packet::layers(frame);
        flow.kind = FlowKind::L3L4;
        flow.event_type = EventType {
            kind: i32::from(kind),
            subtype: i32::from(subtype),
        };
        flow.ethernet = layers.ethernet;
        flow.ip = layers.ip;
        flow.l4 = layers.l4;
        flow.summary = layers.summary;
        let Some(Ip {
            source, destination, ..
        }) = flow.ip
        else {
            return;
        };
        let ports = flow.l4.and_then(|l4| l4.ports());
        flow.source = source.and_then(|address| self.endpoint(address, labels.source));
        flow.destination = destination.and_then(|address| self.endpoint(address, labels.destination));
        flow.source_service = source.and_then(|address| self.lookup.service(address, Some(ports?.0)));
        flow.destination_service = service
            .and_then(|address| self.lookup.service(address, None))
            .or_else(|| destination.and_then(|address| self.lookup.service(address, Some(ports?.1))));
        // What the one side has learnt about the other.
        let names = |of: Option<&Arc<Endpoint>>, address: Option<IpAddr>| match (id(of), address) {
            (0, _) | (_, None) => Arc::default(),
            (id, Some(address)) => self.lookup.names(id, address),
        };
        flow.source_names = names(flow.destination.as_ref(), source);
        flow.destination_names = names(flow.source.as_ref(), destination);
    }

    /// Who has the address. The datapath's word about the identity goes before ours: it decided with it.
    fn endpoint(&self, address: IpAddr, identity: u32) -> Option<Arc<Endpoint>> {
        let known = self.lookup.endpoint(address);
        match known {
            Some(known) if identity == 0 || known.identity == identity => Some(known),
            None if identity == 0 => None,
            known => {
                let labels = self.lookup.identity(identity);
                match (known, labels) {
                    (None, Some(labels)) => Some(labels),
                    (known, labels) => Some(Arc::new(Endpoint {
                        identity,
                        labels: labels.map(|it| it.labels.clone()).unwrap_or_default(),
                        ..known.map(|it| (*it).clone()).unwrap_or_default()
                    })),
                }
            }
        }
    }

    fn interface(&self, index: u32) -> Option<(u32, Arc<str>)> {
        (index != 0).then(|| (index, self.lookup.interface(index).unwrap_or_default()))
    }
}

fn id(endpoint: Option<&Arc<Endpoint>>) -> u32 {
    endpoint.map_or(0, |endpoint| endpoint.id)
}

const fn egress_if(egress: bool) -> TrafficDirection {
    if egress {
        TrafficDirection::Egress
    } else {
        TrafficDirection::Ingress
    }
}

const fn direction(number: u8) -> TrafficDirection {
    match number {
        1 => TrafficDirection::Ingress,
        2 => TrafficDirection::Egress,
        _ => TrafficDirection::Unknown,
    }
}

const _: () = assert!(Direction::Ingress as u8 == 1 && Direction::Egress as u8 == 2);

fn canonical(address: Addr) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(address.0)).to_canonical()
}

fn translated(address: Addr) -> Option<IpAddr> {
    (address != Addr::UNSPECIFIED).then(|| canonical(address))
}
