//! From bytes to what the other stages ask about a packet.

use abi::{Addr, DropReason};
use packet::{
    Ethernet, Family, Fragment, Packet,
    icmp6::Icmp6,
    protocol,
    transport::{Ports, Tcp},
};

use crate::verdict::{access, chain};

/// A packet of one family, read once.
#[derive(Clone, Copy, Debug)]
pub struct Parsed<F: Family> {
    /// The layer 3 header as it was on arrival.
    pub header: F::Header,
    /// Sender.
    pub src: Addr,
    /// Receiver.
    pub dst: Addr,
    /// Offset of the transport header.
    pub offset: u32,
    /// Bytes of a hop-by-hop header that will not be on the wire.
    pub jumbo: u32,
    /// Length of the transport header, bytes; 0 where it does not matter.
    pub transport_len: u32,
    /// Sender's port, network order; the identifier of an echo request.
    pub src_port: [u8; 2],
    /// Receiver's port, network order; the identifier of an echo reply.
    pub dst_port: [u8; 2],
    /// Protocol number.
    pub protocol: u8,
    /// Which part of a datagram this is.
    pub fragment: Fragment,
    /// TCP flags.
    pub tcp_flags: u8,
    /// Type of a control message; 0 for others, and no control message that matters has this type.
    pub control: u8,
}

impl<F: Family> Parsed<F> {
    /// Whether this is a control message with its header.
    #[inline(always)]
    pub fn is_control(&self) -> bool {
        self.protocol == F::CONTROL && !matches!(self.fragment, Fragment::Later)
    }

    /// Bytes of layer 3 of the longest packet that this one becomes on the wire.
    #[inline(always)]
    pub fn wire_len<P: Packet>(&self, packet: &P) -> u32 {
        match packet.segment_size() {
            0 => packet.len().saturating_sub(Ethernet::LEN),
            segment => self
                .offset
                .saturating_sub(Ethernet::LEN)
                .saturating_sub(self.jumbo)
                .saturating_add(self.transport_len)
                .saturating_add(segment),
        }
    }
}

/// Reads the headers. Nothing is changed.
#[inline(always)]
pub fn parse<F: Family, P: Packet>(packet: &P) -> Result<Parsed<F>, DropReason> {
    let header: F::Header = packet.load(Ethernet::LEN).map_err(access)?;
    if !F::is_valid(&header, packet.len().saturating_sub(Ethernet::LEN)) {
        return Err(DropReason::InvalidPacketDropped);
    }
    let walked = F::chain(packet, Ethernet::LEN, &header).map_err(chain)?;
    let mut parsed = Parsed {
        header,
        src: F::src(&header),
        dst: F::dst(&header),
        offset: walked.offset,
        jumbo: walked.jumbo,
        transport_len: 0,
        src_port: [0; 2],
        dst_port: [0; 2],
        protocol: walked.protocol,
        fragment: walked.fragment,
        tcp_flags: 0,
        control: 0,
    };
    if !matches!(walked.fragment, Fragment::Later) {
        transport(packet, &mut parsed)?;
    }
    Ok(parsed)
}

#[inline(always)]
fn transport<F: Family, P: Packet>(packet: &P, parsed: &mut Parsed<F>) -> Result<(), DropReason> {
    let truncated = |_| DropReason::CtTruncatedOrInvalidHeader;
    if parsed.protocol == protocol::TCP {
        let tcp: Tcp = packet.load(parsed.offset).map_err(truncated)?;
        parsed.src_port = tcp.src_port;
        parsed.dst_port = tcp.dst_port;
        parsed.tcp_flags = tcp.flags;
        parsed.transport_len = tcp.header_len();
    } else if parsed.protocol == F::CONTROL {
        let icmp: Icmp6 = packet.load(parsed.offset).map_err(truncated)?;
        parsed.control = icmp.kind;
        if icmp.kind == F::ECHO_REQUEST {
            parsed.src_port = icmp.echo_id();
        } else if icmp.kind == F::ECHO_REPLY {
            parsed.dst_port = icmp.echo_id();
        }
    } else if has_ports(parsed.protocol) {
        let ports: Ports = packet.load(parsed.offset).map_err(truncated)?;
        parsed.src_port = ports.src;
        parsed.dst_port = ports.dst;
        parsed.transport_len = 8;
    }
    Ok(())
}

/// Whether a protocol other than TCP begins with two ports.
#[inline(always)]
pub(crate) const fn has_ports(number: u8) -> bool {
    matches!(number, protocol::UDP | protocol::SCTP | protocol::DCCP | protocol::UDP_LITE)
}
