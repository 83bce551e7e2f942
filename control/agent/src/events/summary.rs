//! One line about a captured packet: `[fd00::1]:1 -> [fd00::2]:80 tcp SYN`.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

const ETHERNET: usize = 14;
const IPV6: usize = 40;
/// Extension headers that are walked over; a capture is too short for more anyhow.
const MAX_EXTENSIONS: usize = 8;

/// The line; what is not understood is named as far as possible. `frame` begins at layer 2 and may be cut anywhere.
pub(super) fn of(frame: &[u8]) -> String {
    parse(frame).unwrap_or_else(|| format!("{} bytes that are no IP packet", frame.len()))
}

fn parse(frame: &[u8]) -> Option<String> {
    let packet = frame.get(ETHERNET..)?;
    match u16::from_be_bytes(*frame.get(12..)?.first_chunk()?) {
        0x86dd => ipv6(packet),
        0x0800 => ipv4(packet),
        other => Some(format!("ethertype {other:#06x}")),
    }
}

fn ipv6(packet: &[u8]) -> Option<String> {
    let source = Ipv6Addr::from(*packet.get(8..)?.first_chunk::<16>()?);
    let target = Ipv6Addr::from(*packet.get(24..)?.first_chunk::<16>()?);
    let mut next = *packet.get(6)?;
    let mut offset = IPV6;
    for _ in 0..MAX_EXTENSIONS {
        let (Some(following), Some(length)) = (packet.get(offset), packet.get(offset + 1)) else {
            break;
        };
        offset += match next {
            // RFC 8200 §4: hop-by-hop, routing, destination options; length in units of eight behind the first.
            0 | 43 | 60 => (usize::from(*length) + 1) * 8,
            // Fragment header; only the first fragment has ports.
            44 if packet
                .get(offset + 2..offset + 4)
                .is_some_and(|o| o[0] != 0 || o[1] & 0xf8 != 0) =>
            {
                return Some(format!("{source} -> {target} fragment"));
            }
            44 => 8,
            // RFC 4302: authentication header, in units of four behind the first two.
            51 => (usize::from(*length) + 2) * 4,
            _ => break,
        };
        next = *following;
    }
    Some(transport(
        source.into(),
        target.into(),
        next,
        packet.get(offset..).unwrap_or_default(),
    ))
}

fn ipv4(packet: &[u8]) -> Option<String> {
    let source = Ipv4Addr::from(*packet.get(12..)?.first_chunk::<4>()?);
    let target = Ipv4Addr::from(*packet.get(16..)?.first_chunk::<4>()?);
    let offset = usize::from(packet.first()? & 0x0f) * 4;
    Some(transport(
        source.into(),
        target.into(),
        *packet.get(9)?,
        packet.get(offset..).unwrap_or_default(),
    ))
}

fn transport(source: std::net::IpAddr, target: std::net::IpAddr, protocol: u8, segment: &[u8]) -> String {
    let ports = segment
        .first_chunk::<4>()
        .map(|[a, b, c, d]| (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])));
    match (protocol, ports) {
        (6 | 17 | 132, Some((from, to))) => {
            let name = match protocol {
                6 => "tcp",
                17 => "udp",
                _ => "sctp",
            };
            let mut line = format!(
                "{} -> {} {name}",
                SocketAddr::new(source, from),
                SocketAddr::new(target, to)
            );
            if protocol == 6
                && let Some(flags) = segment.get(13)
            {
                line.push_str(&tcp_flags(*flags));
            }
            line
        }
        (58, _) => format!("{source} -> {target} {}", icmpv6(segment)),
        (1, _) => format!("{source} -> {target} icmp"),
        (other, _) => format!("{source} -> {target} protocol {other}"),
    }
}

/// In the order of Cilium's monitor: ` SYN, ACK`.
fn tcp_flags(bits: u8) -> String {
    let names = [
        (2, "SYN"),
        (16, "ACK"),
        (4, "RST"),
        (1, "FIN"),
        (8, "PSH"),
        (32, "URG"),
        (64, "ECE"),
        (128, "CWR"),
    ];
    let mut text = String::new();
    for (bit, name) in names {
        if bits & bit != 0 {
            // Writing into a string does not fail.
            let _ = write!(text, "{}{name}", if text.is_empty() { " " } else { ", " });
        }
    }
    text
}

fn icmpv6(message: &[u8]) -> String {
    let name = match message.first() {
        Some(1) => "DestinationUnreachable",
        Some(2) => "PacketTooBig",
        Some(3) => "TimeExceeded",
        Some(4) => "ParameterProblem",
        Some(128) => "EchoRequest",
        Some(129) => "EchoReply",
        Some(133) => "RouterSolicitation",
        Some(134) => "RouterAdvertisement",
        Some(135) => "NeighborSolicitation",
        Some(136) => "NeighborAdvertisement",
        Some(other) => return format!("icmp {other}({})", message.get(1).copied().unwrap_or(0)),
        None => "",
    };
    format!("icmp {name}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An Ethernet frame with an IPv6 header from fd00::1 to fd00::2.
    fn frame(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, next, 64]);
        for last in [1, 2] {
            let mut address = [0; 16];
            (address[0], address[15]) = (0xfd, last);
            frame.extend(address);
        }
        frame.extend(payload);
        frame
    }

    #[test]
    fn packets_are_told_in_a_line() {
        let tcp = [0, 1, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x12];
        let hop_by_hop: Vec<u8> = [6, 0, 0, 0, 0, 0, 0, 0].into_iter().chain(tcp).collect();
        for (name, frame, expected) in [
            ("TCP", frame(6, &tcp), "[fd00::1]:1 -> [fd00::2]:80 tcp SYN, ACK"),
            (
                "behind an extension",
                frame(0, &hop_by_hop),
                "[fd00::1]:1 -> [fd00::2]:80 tcp SYN, ACK",
            ),
            (
                "UDP",
                frame(17, &[0, 1, 0, 53, 0, 8, 0, 0]),
                "[fd00::1]:1 -> [fd00::2]:53 udp",
            ),
            (
                "echo",
                frame(58, &[128, 0]),
                "fd00::1 -> fd00::2 icmp EchoRequest",
            ),
            (
                "a later fragment",
                frame(44, &[6, 0, 1, 0, 0, 0, 0, 0]),
                "fd00::1 -> fd00::2 fragment",
            ),
            ("cut", frame(6, &[0]), "fd00::1 -> fd00::2 protocol 6"),
            ("nothing", Vec::new(), "0 bytes that are no IP packet"),
            ("ARP", [vec![0; 12], vec![8, 6]].concat(), "ethertype 0x0806"),
        ] {
            assert_eq!(of(&frame), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..160)) {
            of(&bytes);
            of(&frame(bytes.first().copied().unwrap_or(0), &bytes));
        }
    }
}
