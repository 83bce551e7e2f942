//! Layer 4 and the few words that sum up a packet.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::flow::numbered;

/// Flags of TCP: bit 0 FIN, 1 SYN, 2 RST, 3 PSH, 4 ACK, 5 URG, 6 ECE, 7 CWR as on the wire, 8 NS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TcpFlags(pub u16);

impl TcpFlags {
    /// No more data.
    pub const FIN: Self = Self(0x01);
    /// Connect.
    pub const SYN: Self = Self(0x02);
    /// Reset.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// Acknowledge.
    pub const ACK: Self = Self(0x10);
    /// Urgent.
    pub const URG: Self = Self(0x20);
    /// Congestion echo.
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced.
    pub const CWR: Self = Self(0x80);
    /// Nonce sum.
    pub const NS: Self = Self(0x100);

    /// Flags and names in the order in which they are printed.
    pub const NAMES: [(Self, &'static str); 9] = [
        (Self::SYN, "SYN"),
        (Self::ACK, "ACK"),
        (Self::RST, "RST"),
        (Self::FIN, "FIN"),
        (Self::PSH, "PSH"),
        (Self::URG, "URG"),
        (Self::ECE, "ECE"),
        (Self::CWR, "CWR"),
        (Self::NS, "NS"),
    ];

    /// Whether all of these are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and those.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (flag, name) in Self::NAMES {
            if self.contains(flag) {
                write!(f, "{separator}{name}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

numbered! {
    /// First chunk of an SCTP packet, as far as it opens or closes an association.
    SctpChunk {
        /// Any other.
        #[default]
        Unsupported = 0 "UNSUPPORTED",
        /// INIT.
        Init = 1 "INIT",
        /// INIT ACK.
        InitAck = 2 "INIT_ACK",
        /// SHUTDOWN.
        Shutdown = 3 "SHUTDOWN",
        /// SHUTDOWN ACK.
        ShutdownAck = 4 "SHUTDOWN_ACK",
        /// SHUTDOWN COMPLETE.
        ShutdownComplete = 5 "SHUTDOWN_COMPLETE",
        /// ABORT.
        Abort = 6 "ABORT",
    }
}

/// Layer 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer4 {
    /// TCP.
    Tcp {
        /// Port of the sender.
        source_port: u16,
        /// Port of the receiver.
        destination_port: u16,
        /// Flags; none: no packet (layer 7, sockets).
        flags: Option<TcpFlags>,
    },
    /// UDP.
    Udp {
        /// Port of the sender.
        source_port: u16,
        /// Port of the receiver.
        destination_port: u16,
    },
    /// SCTP.
    Sctp {
        /// Port of the sender.
        source_port: u16,
        /// Port of the receiver.
        destination_port: u16,
        /// First chunk.
        chunk: SctpChunk,
    },
    /// ICMP for IPv4.
    Icmp4 {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// ICMP for IPv6.
    Icmp6 {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// VRRP.
    Vrrp {
        /// Type.
        kind: u8,
        /// Virtual router.
        vrid: u8,
        /// Priority.
        priority: u8,
    },
    /// IGMP.
    Igmp {
        /// Type.
        kind: u8,
        /// Group.
        group: Option<IpAddr>,
    },
}

impl Layer4 {
    /// Ports of sender and receiver.
    #[must_use]
    pub const fn ports(&self) -> Option<(u16, u16)> {
        match *self {
            Self::Tcp {
                source_port,
                destination_port,
                ..
            }
            | Self::Udp {
                source_port,
                destination_port,
            }
            | Self::Sctp {
                source_port,
                destination_port,
                ..
            } => Some((source_port, destination_port)),
            _ => None,
        }
    }
}

/// What people read at the end of the line; `Display` writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Summary {
    /// Nothing.
    #[default]
    None,
    /// `TCP Flags: SYN, ACK`.
    Tcp(TcpFlags),
    /// `ICMPv4 EchoReply`: type and code.
    Icmp4(u8, u8),
    /// `ICMPv6 RouterSolicitation`: type and code.
    Icmp6(u8, u8),
    /// Name of the deepest layer: `UDP`, `IPv6`, `ARP`.
    Layer(&'static str),
    /// Any other.
    Text(Arc<str>),
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Tcp(flags) => write!(f, "TCP Flags: {flags}"),
            Self::Icmp4(kind, code) => icmp(f, "ICMPv4", &ICMP4, *kind, *code),
            Self::Icmp6(kind, code) => icmp(f, "ICMPv6", &ICMP6, *kind, *code),
            Self::Layer(name) => f.write_str(name),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// A type, its name, and the names of its codes.
type Names = (u8, &'static str, &'static [(u8, &'static str)]);

/// Names as gopacket prints them (`layers/icmp4.go`): codes are named where the type has several.
const ICMP4: [Names; 13] = [
    (0, "EchoReply", &[]),
    (
        3,
        "DestinationUnreachable",
        &[
            (0, "Net"),
            (1, "Host"),
            (2, "Protocol"),
            (3, "Port"),
            (4, "FragmentationNeeded"),
            (5, "SourceRoutingFailed"),
            (6, "NetUnknown"),
            (7, "HostUnknown"),
            (8, "SourceIsolated"),
            (9, "NetAdminProhibited"),
            (10, "HostAdminProhibited"),
            (11, "NetTOS"),
            (12, "HostTOS"),
            (13, "CommAdminProhibited"),
            (14, "HostPrecedence"),
            (15, "PrecedenceCutoff"),
        ],
    ),
    (4, "SourceQuench", &[]),
    (
        5,
        "Redirect",
        &[(0, "Net"), (1, "Host"), (2, "TOS+Net"), (3, "TOS+Host")],
    ),
    (8, "EchoRequest", &[]),
    (9, "RouterAdvertisement", &[]),
    (10, "RouterSolicitation", &[]),
    (
        11,
        "TimeExceeded",
        &[(0, "TTLExceeded"), (1, "FragmentReassemblyTimeExceeded")],
    ),
    (
        12,
        "ParameterProblem",
        &[
            (0, "PointerIndicatesError"),
            (1, "MissingOption"),
            (2, "BadLength"),
        ],
    ),
    (13, "TimestampRequest", &[]),
    (14, "TimestampReply", &[]),
    (17, "AddressMaskRequest", &[]),
    (18, "AddressMaskReply", &[]),
];

/// The same for `layers/icmp6.go`.
const ICMP6: [Names; 14] = [
    (
        1,
        "DestinationUnreachable",
        &[
            (0, "NoRouteToDst"),
            (1, "AdminProhibited"),
            (2, "BeyondScopeOfSrc"),
            (3, "AddressUnreachable"),
            (4, "PortUnreachable"),
            (5, "SrcAddressFailedPolicy"),
            (6, "RejectRouteToDst"),
        ],
    ),
    (2, "PacketTooBig", &[]),
    (
        3,
        "TimeExceeded",
        &[(0, "HopLimitExceeded"), (1, "FragmentReassemblyTimeExceeded")],
    ),
    (
        4,
        "ParameterProblem",
        &[
            (0, "ErroneousHeader"),
            (1, "UnrecognizedNextHeader"),
            (2, "UnrecognizedIPv6Option"),
        ],
    ),
    (128, "EchoRequest", &[]),
    (129, "EchoReply", &[]),
    (130, "MLDv1MulticastListenerQueryMessage", &[]),
    (131, "MLDv1MulticastListenerReportMessage", &[]),
    (132, "MLDv1MulticastListenerDoneMessage", &[]),
    (133, "RouterSolicitation", &[]),
    (134, "RouterAdvertisement", &[]),
    (135, "NeighborSolicitation", &[]),
    (136, "NeighborAdvertisement", &[]),
    (137, "Redirect", &[]),
];

fn icmp(f: &mut fmt::Formatter<'_>, family: &str, names: &[Names], kind: u8, code: u8) -> fmt::Result {
    let Some((_, name, codes)) = names.iter().find(|(number, ..)| *number == kind) else {
        return write!(f, "{family} {kind}({code})");
    };
    if codes.is_empty() && code == 0 {
        return write!(f, "{family} {name}");
    }
    match codes.iter().find(|(number, _)| *number == code) {
        Some((_, text)) => write!(f, "{family} {name}({text})"),
        None => write!(f, "{family} {name}({code})"),
    }
}
