//! The first bytes of a packet, as far as they can be read.
//!
//! A capture is cut anywhere and may be garbage: every layer that can be read is, and the summary names the deepest.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::flow::{Ethernet, Ip, IpVersion, Mac};
use crate::layer4::{Layer4, SctpChunk, Summary, TcpFlags};

/// What could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// Layer 2.
    pub ethernet: Option<Ethernet>,
    /// Layer 3.
    pub ip: Option<Ip>,
    /// Layer 4.
    pub l4: Option<Layer4>,
    /// Name of the deepest layer.
    pub summary: Summary,
}

const ETHERNET: usize = 14;
const IPV6: usize = 40;
/// Extension headers that are walked over; a capture is too short for more.
const MAX_EXTENSIONS: usize = 8;

/// Reads what can be read. `frame` begins at layer 2.
#[must_use]
pub fn layers(frame: &[u8]) -> Layers {
    let mut layers = Layers::default();
    let Some(head) = frame.first_chunk::<ETHERNET>() else {
        return layers;
    };
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *head;
    layers.ethernet = Some(Ethernet {
        source: Mac([s0, s1, s2, s3, s4, s5]),
        destination: Mac([d0, d1, d2, d3, d4, d5]),
    });
    layers.summary = Summary::Layer("Ethernet");
    let rest = &frame[ETHERNET..];
    match u16::from_be_bytes([t0, t1]) {
        0x86dd => ipv6(rest, &mut layers),
        0x0800 => ipv4(rest, &mut layers),
        0x0806 => layers.summary = Summary::Layer("ARP"),
        _ => {}
    }
    layers
}

fn ipv6(packet: &[u8], layers: &mut Layers) {
    let Some(head) = packet.first_chunk::<IPV6>().filter(|head| head[0] >> 4 == 6) else {
        return;
    };
    let address = |from: usize| {
        head[from..]
            .first_chunk::<16>()
            .map(|bytes| IpAddr::V6(Ipv6Addr::from(*bytes)))
    };
    layers.ip = Some(Ip {
        source: address(8),
        destination: address(24),
        version: IpVersion::V6,
        ..Ip::default()
    });
    layers.summary = Summary::Layer("IPv6");
    let mut next = head[6];
    let mut rest = &packet[IPV6..];
    for _ in 0..MAX_EXTENSIONS {
        let length = match (next, rest) {
            // RFC 8200 §4: hop-by-hop, routing, destination options; length in units of eight behind the first.
            (0 | 43 | 60, [_, length, ..]) => (usize::from(*length) + 1) * 8,
            // Only the first fragment has what follows.
            (44, [_, _, offset, low, ..]) if *offset != 0 || *low & 0xf8 != 0 => {
                layers.summary = Summary::Layer("IPv6Fragment");
                return;
            }
            (44, _) => 8,
            // RFC 4302: authentication header, in units of four behind the first two.
            (51, [_, length, ..]) => (usize::from(*length) + 2) * 4,
            _ => break,
        };
        let (Some(following), Some(behind)) = (rest.first(), rest.get(length..)) else {
            return;
        };
        next = *following;
        rest = behind;
    }
    transport(next, rest, layers);
}

fn ipv4(packet: &[u8], layers: &mut Layers) {
    let Some(head) = packet.first_chunk::<20>().filter(|head| head[0] >> 4 == 4) else {
        return;
    };
    let address = |from: usize| {
        head[from..]
            .first_chunk::<4>()
            .map(|bytes| IpAddr::V4(Ipv4Addr::from(*bytes)))
    };
    layers.ip = Some(Ip {
        source: address(12),
        destination: address(16),
        version: IpVersion::V4,
        ..Ip::default()
    });
    layers.summary = Summary::Layer("IPv4");
    let later_fragment = u16::from_be_bytes([head[6], head[7]]) & 0x1fff != 0;
    let length = usize::from(head[0] & 0x0f) * 4;
    if length < 20 || later_fragment {
        return;
    }
    if let Some(rest) = packet.get(length..) {
        transport(head[9], rest, layers);
    }
}

fn transport(protocol: u8, segment: &[u8], layers: &mut Layers) {
    let ports = segment
        .first_chunk::<4>()
        .map(|[a, b, c, d]| (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])));
    let two = segment.first_chunk::<2>();
    let (l4, summary) = match (protocol, ports, two) {
        (6, Some((source_port, destination_port)), _) => {
            let flags = segment
                .get(12..14)
                .map(|bytes| TcpFlags(u16::from(bytes[1]) | u16::from(bytes[0] & 1) << 8));
            let summary = flags.map_or(Summary::Layer("TCP"), Summary::Tcp);
            (
                Layer4::Tcp {
                    source_port,
                    destination_port,
                    flags,
                },
                summary,
            )
        }
        (17, Some((source_port, destination_port)), _) => (
            Layer4::Udp {
                source_port,
                destination_port,
            },
            Summary::Layer("UDP"),
        ),
        (132, Some((source_port, destination_port)), _) => {
            let chunk = segment
                .get(12)
                .map_or(SctpChunk::Unsupported, |kind| sctp_chunk(*kind));
            (
                Layer4::Sctp {
                    source_port,
                    destination_port,
                    chunk,
                },
                Summary::Layer("SCTP"),
            )
        }
        (1, _, Some([kind, code])) => (
            Layer4::Icmp4 {
                kind: *kind,
                code: *code,
            },
            Summary::Icmp4(*kind, *code),
        ),
        (58, _, Some([kind, code])) => (
            Layer4::Icmp6 {
                kind: *kind,
                code: *code,
            },
            Summary::Icmp6(*kind, *code),
        ),
        // RFC 9568 §5.1: version and type, virtual router, priority.
        (112, _, Some([kind, vrid])) if segment.len() >= 3 => (
            Layer4::Vrrp {
                kind: kind & 0x0f,
                vrid: *vrid,
                priority: segment[2],
            },
            Summary::Layer("VRRP"),
        ),
        (2, _, Some([kind, _])) => {
            let group = segment.get(4..8).and_then(|bytes| bytes.first_chunk::<4>());
            let group = group.map(|bytes| IpAddr::V4(Ipv4Addr::from(*bytes)));
            (Layer4::Igmp { kind: *kind, group }, Summary::Layer("IGMP"))
        }
        _ => return,
    };
    layers.l4 = Some(l4);
    layers.summary = summary;
}

/// RFC 9260 §3.2.
const fn sctp_chunk(kind: u8) -> SctpChunk {
    match kind {
        1 => SctpChunk::Init,
        2 => SctpChunk::InitAck,
        6 => SctpChunk::Abort,
        7 => SctpChunk::Shutdown,
        8 => SctpChunk::ShutdownAck,
        14 => SctpChunk::ShutdownComplete,
        _ => SctpChunk::Unsupported,
    }
}
