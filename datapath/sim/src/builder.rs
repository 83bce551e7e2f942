//! Packets for tests, from the inside out: payload first, then the headers in front of it.

use abi::Addr;
use packet::{
    Ethernet, checksum,
    ethernet::ether_type,
    icmp6::Icmp6,
    ip::Ipv6,
    protocol,
    transport::{Tcp, Udp},
};
use zerocopy::{FromBytes, IntoBytes};

/// A packet that grows at its front.
#[derive(Clone, Debug)]
pub struct Builder {
    src: Addr,
    dst: Addr,
    next: u8,
    bytes: Vec<u8>,
}

impl Builder {
    /// A packet between two IPv6 addresses with some payload and no next header yet.
    #[must_use]
    pub fn new(src: Addr, dst: Addr, payload: &[u8]) -> Self {
        Self {
            src,
            dst,
            next: 59,
            bytes: payload.to_vec(),
        }
    }

    /// Puts a TCP header in front.
    #[must_use]
    pub fn tcp(self, src_port: u16, dst_port: u16, flags: u8) -> Self {
        let header = Tcp {
            src_port: src_port.to_be_bytes(),
            dst_port: dst_port.to_be_bytes(),
            data_offset: 5 << 4,
            flags,
            window: [0xff, 0xff],
            ..Tcp::default()
        };
        self.transport(protocol::TCP, header.as_bytes(), 16)
    }

    /// Puts a UDP header in front.
    #[must_use]
    pub fn udp(self, src_port: u16, dst_port: u16) -> Self {
        let len = u16::try_from(self.bytes.len() + 8).unwrap_or(u16::MAX);
        let header = Udp {
            src_port: src_port.to_be_bytes(),
            dst_port: dst_port.to_be_bytes(),
            len: len.to_be_bytes(),
            checksum: [0; 2],
        };
        self.transport(protocol::UDP, header.as_bytes(), 6)
    }

    /// Puts an ICMPv6 header in front.
    #[must_use]
    pub fn icmp6(self, kind: u8, code: u8, body: [u8; 4]) -> Self {
        let header = Icmp6 {
            kind,
            code,
            checksum: [0; 2],
            body,
        };
        self.transport(protocol::ICMPV6, header.as_bytes(), 2)
    }

    fn transport(mut self, number: u8, header: &[u8], checksum_at: usize) -> Self {
        let mut bytes = header.to_vec();
        bytes.extend(&self.bytes);
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        let sum = checksum::add(
            checksum::pseudo_header(&self.src, &self.dst, len, number),
            checksum::sum(&bytes),
        );
        bytes[checksum_at..checksum_at + 2].copy_from_slice(&(!sum).to_be_bytes());
        self.bytes = bytes;
        self.next = number;
        self
    }

    /// Puts an extension header in front: any type, `units` of 8 bytes beyond the first 8, zero options.
    #[must_use]
    pub fn extension(self, number: u8, units: u8) -> Self {
        let mut header = vec![0; 8 + usize::from(units) * 8];
        header[0] = self.next;
        header[1] = units;
        self.prepend(number, &header)
    }

    /// Puts the option that names the service of a packet in front.
    #[must_use]
    pub fn told(self, addr: Addr, port: u16) -> Self {
        let mut header = vec![self.next, 2, 0x1b, 20];
        header.extend(addr.0);
        header.extend(port.to_be_bytes());
        header.extend([0; 2]);
        self.prepend(60, &header)
    }

    /// Puts the hop-by-hop header of a packet beyond 64 KiB in front.
    #[must_use]
    pub fn jumbo(self) -> Self {
        let [a, b, c, d] = u32::try_from(self.bytes.len() + 8)
            .unwrap_or(u32::MAX)
            .to_be_bytes();
        let header = [self.next, 0, 0xc2, 4, a, b, c, d];
        self.prepend(0, &header)
    }

    /// Puts an authentication header in front, with `words` of 4 bytes beyond the first 8.
    #[must_use]
    pub fn authentication(self, words: u8) -> Self {
        let mut header = vec![0; 8 + usize::from(words) * 4];
        header[0] = self.next;
        header[1] = words;
        self.prepend(51, &header)
    }

    /// Puts a fragment header in front; the offset is in units of 8 bytes.
    #[must_use]
    pub fn fragment(self, offset: u16, more: bool) -> Self {
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        let header = [self.next, 0, high, low, 0, 0, 0, 7];
        self.prepend(protocol::FRAGMENT, &header)
    }

    /// The same for a later fragment of a datagram of some protocol.
    #[must_use]
    pub fn fragment_of(mut self, protocol: u8, offset: u16, more: bool) -> Self {
        self.next = protocol;
        self.fragment(offset, more)
    }

    fn prepend(mut self, number: u8, header: &[u8]) -> Self {
        self.bytes.splice(0..0, header.iter().copied());
        self.next = number;
        self
    }

    /// The IPv6 packet without layer 2. A payload beyond 65535 bytes gets length 0.
    #[must_use]
    pub fn layer3(self, hop_limit: u8) -> Vec<u8> {
        let header = Ipv6 {
            version_class_flow: [Ipv6::VERSION, 0, 0, 0],
            payload_len: u16::try_from(self.bytes.len()).unwrap_or(0).to_be_bytes(),
            next_header: self.next,
            hop_limit,
            src: self.src.0,
            dst: self.dst.0,
        };
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend(self.bytes);
        bytes
    }

    /// The whole frame.
    #[must_use]
    pub fn frame(self, src: [u8; 6], dst: [u8; 6], hop_limit: u8) -> Vec<u8> {
        let mut bytes = Ethernet {
            dst,
            src,
            ether_type: ether_type::IPV6,
        }
        .as_bytes()
        .to_vec();
        bytes.extend(self.layer3(hop_limit));
        bytes
    }
}

/// Whether a frame is IPv6 without extension headers and the checksum of its transport header is right.
#[must_use]
pub fn checksum_is_valid(frame: &[u8]) -> bool {
    let Some(ip) = frame.get(14..) else { return false };
    let Ok((header, payload)) = Ipv6::read_from_prefix(ip) else {
        return false;
    };
    let len = u16::from_be_bytes(header.payload_len);
    if usize::from(len) != payload.len() {
        return false;
    }
    let pseudo = checksum::pseudo_header(&Addr(header.src), &Addr(header.dst), len, header.next_header);
    checksum::add(pseudo, checksum::sum(payload)) == 0xffff
}
