//! How rows are written.

use abi::{
    Addr, CtKey,
    Direction::{Egress, Ingress},
    DropReason,
    DropReason::MulticastHandled,
    NatEntry, NatKey,
    event::{ObservationPoint, kind},
};
use packet::transport::tcp_flag::SYN;

use super::{
    After, Row, drop_event, dropped,
    node::{self, NODE_MAC, POD_MAC},
};
use crate::{Builder, Program, Sim, TcAction};

pub(super) const TO_ENDPOINT: (u8, u8) = (kind::TRACE, ObservationPoint::ToEndpoint as u8);
pub(super) const TO_STACK: (u8, u8) = (kind::TRACE, ObservationPoint::ToStack as u8);
pub(super) const TO_NETWORK: (u8, u8) = (kind::TRACE, ObservationPoint::ToNetwork as u8);
pub(super) const FROM_ENDPOINT: (u8, u8) = (kind::TRACE, ObservationPoint::FromEndpoint as u8);

pub(super) fn row(name: &'static str, program: Program, packet: Vec<u8>, action: TcAction) -> Row {
    let before = Sim {
        packet,
        ..node::sim()
    };
    let after = After {
        action,
        packet: None,
        counted: vec![],
        events: vec![],
        connections: vec![],
        nat: vec![],
    };
    Row {
        name,
        program,
        before,
        after,
    }
}

impl Row {
    pub(super) fn counts(mut self, slots: &[u32]) -> Self {
        self.after.counted = slots.to_vec();
        self
    }

    pub(super) fn reports(mut self, events: &[(u8, u8)]) -> Self {
        self.after.events = events.to_vec();
        self
    }

    pub(super) fn opens(mut self, connections: &[CtKey]) -> Self {
        self.after.connections = connections.to_vec();
        self
    }

    pub(super) fn translates(mut self, pairs: &[[(NatKey, NatEntry); 2]]) -> Self {
        self.after.nat = pairs.concat();
        self
    }

    pub(super) fn becomes(mut self, packet: Vec<u8>) -> Self {
        self.after.packet = Some(packet);
        self
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Sim)) -> Self {
        change(&mut self.before);
        self
    }
}

/// A packet that is dropped with a record, nothing else.
pub(super) fn drops(name: &'static str, program: Program, packet: Vec<u8>, reason: DropReason) -> Row {
    let direction = if program == Program::FromPod {
        Egress
    } else {
        Ingress
    };
    row(name, program, packet, TcAction::Shot)
        .counts(&[dropped(reason, direction)])
        .reports(&[drop_event(reason)])
}

/// A packet that is taken without noise.
pub(super) fn consumes(name: &'static str, packet: Vec<u8>) -> Row {
    row(name, Program::FromPod, packet, TcAction::Shot).counts(&[dropped(MulticastHandled, Egress)])
}

pub(super) fn key(src: Addr, dst: Addr, ports: (u16, u16), proto: u8, dir: u8) -> CtKey {
    CtKey {
        src,
        dst,
        src_port: ports.0.to_be_bytes(),
        dst_port: ports.1.to_be_bytes(),
        proto,
        dir,
        pad: [0; 2],
    }
}

pub(super) fn syn(src: Addr, dst: Addr) -> Builder {
    Builder::new(src, dst, &[]).tcp(40000, 80, SYN)
}

pub(super) fn from_pod_frame(builder: Builder, hop_limit: u8) -> Vec<u8> {
    builder.frame(POD_MAC, NODE_MAC, hop_limit)
}
