//! From bytes to what the other stages ask about a packet.

use abi::{Addr, CtKey, DropReason};
use packet::{
    Ethernet, Family, Fragment, Packet,
    icmp6::Icmp6,
    protocol,
    transport::{Ports, Tcp},
};

use crate::{
    conntrack::Tracked,
    verdict::{access, chain},
};

/// A packet, read once. Small, as it lies on a stack of 512 bytes while everything else happens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parsed {
    /// Addresses, ports (for echo: the identifier on the side of who asked) and protocol. Of a later fragment: no
    /// ports, and the protocol number of the fragment header ([`crate::conntrack`] tells why).
    pub tuple: CtKey,
    /// Offset of the transport header.
    pub offset: u32,
    /// Traffic class and flow label, network order.
    pub flow_info: [u8; 4],
    /// Identification of the datagram that a fragment belongs to, network order.
    pub fragment_id: [u8; 4],
    /// Bytes that the packet is longer by on the wire than here: less than 0 for a hop-by-hop header that will not be
    /// there, more for an option that will ([`crate::nat::dsr`]).
    pub growth: i8,
    /// Length of the transport header, bytes; 0 where it does not matter.
    pub transport_len: u8,
    /// Hop limit on arrival.
    pub hop_limit: u8,
    /// Which part of a datagram this is.
    pub fragment: Fragment,
    /// TCP flags.
    pub tcp_flags: u8,
    /// Whether this is a control message with its header.
    pub is_control: bool,
    /// Type of a control message.
    pub control: u8,
    /// Protocol number, also of a later fragment.
    pub protocol: u8,
    /// Whether this is IPv6.
    pub is_v6: bool,
    /// Whether addresses or ports of the connection are translated on this node: known from [`crate::nat`] for a packet
    /// that was translated before, else from conntrack.
    pub is_translated: bool,
    /// What conntrack said, once it was asked.
    pub tracked: Tracked,
}

impl Parsed {
    /// Sender.
    #[inline(always)]
    pub fn src(&self) -> &Addr {
        &self.tuple.src
    }

    /// Receiver.
    #[inline(always)]
    pub fn dst(&self) -> &Addr {
        &self.tuple.dst
    }

    /// Bytes of layer 3 of the longest packet that this one becomes on the wire.
    #[inline(always)]
    pub fn wire_len<P: Packet>(&self, packet: &P) -> u32 {
        let here = match packet.segment_size() {
            0 => packet.len().saturating_sub(Ethernet::LEN),
            segment => self
                .offset
                .saturating_sub(Ethernet::LEN)
                .saturating_add(u32::from(self.transport_len))
                .saturating_add(segment),
        };
        here.saturating_add_signed(i32::from(self.growth))
    }
}

/// Reads the headers into `parsed`, which is empty. Nothing in the packet is changed.
#[inline(always)]
pub fn parse<F: Family, P: Packet>(packet: &P, parsed: &mut Parsed) -> Result<(), DropReason> {
    let header: F::Header = packet.load(Ethernet::LEN).map_err(access)?;
    if !F::is_valid(&header, packet.len().saturating_sub(Ethernet::LEN)) {
        return Err(DropReason::InvalidPacketDropped);
    }
    parsed.tuple.src = F::src(&header);
    parsed.tuple.dst = F::dst(&header);
    parsed.is_v6 = F::IS_V6;
    parsed.flow_info = F::flow_info(&header);
    parsed.hop_limit = F::hop_limit(&header);
    let walked = F::chain(packet, Ethernet::LEN, &header).map_err(chain)?;
    let is_later = matches!(walked.fragment, Fragment::Later);
    parsed.tuple.proto = if is_later {
        protocol::FRAGMENT
    } else {
        walked.protocol
    };
    parsed.offset = walked.offset;
    parsed.growth = (walked.jumbo as i8).wrapping_neg();
    parsed.fragment = walked.fragment;
    parsed.fragment_id = walked.id;
    parsed.is_control = walked.protocol == F::CONTROL && !is_later;
    parsed.protocol = walked.protocol;
    if is_later {
        Ok(())
    } else {
        transport::<F, P>(packet, parsed)
    }
}

#[inline(always)]
fn transport<F: Family, P: Packet>(packet: &P, parsed: &mut Parsed) -> Result<(), DropReason> {
    let truncated = |_| DropReason::CtTruncatedOrInvalidHeader;
    if parsed.protocol == protocol::TCP {
        let tcp: Tcp = packet.load(parsed.offset).map_err(truncated)?;
        parsed.tuple.src_port = tcp.src_port;
        parsed.tuple.dst_port = tcp.dst_port;
        parsed.tcp_flags = tcp.flags;
        parsed.transport_len = tcp.header_len();
    } else if parsed.is_control {
        let icmp: Icmp6 = packet.load(parsed.offset).map_err(truncated)?;
        parsed.control = icmp.kind;
        if icmp.kind == F::ECHO_REQUEST {
            parsed.tuple.src_port = icmp.echo_id();
        } else if icmp.kind == F::ECHO_REPLY {
            parsed.tuple.dst_port = icmp.echo_id();
        }
    } else if has_ports(parsed.protocol) {
        let ports: Ports = packet.load(parsed.offset).map_err(truncated)?;
        parsed.tuple.src_port = ports.src;
        parsed.tuple.dst_port = ports.dst;
        parsed.transport_len = 8;
    }
    Ok(())
}

/// Whether a protocol other than TCP begins with two ports.
#[inline(always)]
pub(crate) const fn has_ports(number: u8) -> bool {
    matches!(
        number,
        protocol::UDP | protocol::SCTP | protocol::DCCP | protocol::UDP_LITE
    )
}
