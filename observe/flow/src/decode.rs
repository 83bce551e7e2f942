//! Records of the kernel's ring.

use abi::event::kind;
use abi::{DropNotify, PolicyVerdictNotify, TraceNotify, TraceSockNotify};
use zerocopy::FromBytes as _;

/// What the datapath says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// A packet was seen.
    Trace(TraceNotify),
    /// A packet was dropped.
    Drop(DropNotify),
    /// Policy decided.
    Verdict(PolicyVerdictNotify),
    /// A socket's address was translated.
    Sock(TraceSockNotify),
}

impl Notify {
    /// Nanoseconds of the monotonic clock since boot.
    #[must_use]
    pub const fn monotonic(&self) -> u64 {
        match self {
            Self::Trace(notify) => notify.time,
            Self::Drop(notify) => notify.time,
            Self::Verdict(notify) => notify.time,
            Self::Sock(notify) => notify.time,
        }
    }
}

/// What the datapath says, and the first bytes of the packet, layer 2 first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it says.
    pub notify: Notify,
    /// The packet; empty for sockets.
    pub packet: &'a [u8],
}

/// A record that cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It has no bytes.
    #[error("empty record")]
    Empty,
    /// Nobody knows the kind.
    #[error("record of unknown kind {0}")]
    Kind(u8),
    /// It is shorter than its header.
    #[error("record of kind {kind} has only {length} bytes")]
    Short {
        /// First byte.
        kind: u8,
        /// Bytes of the record.
        length: usize,
    },
    /// It says that it has more of the packet than there is.
    #[error("record promises {promised} bytes of the packet and has {present}")]
    Capture {
        /// `len_cap` of the header.
        promised: u16,
        /// Bytes behind the header.
        present: usize,
    },
    /// A trace from a place, or a translation at a point, that nobody knows.
    #[error("record of kind {kind} from unknown point {point}")]
    Point {
        /// First byte.
        kind: u8,
        /// Second byte.
        point: u8,
    },
}

/// Decodes a record without a copy of the packet. Bytes behind the captured ones are ignored: the kernel side may reserve
/// records of one size.
///
/// # Errors
/// [`DecodeError`]; what is in the packet is no error, since packets are dropped for being malformed.
pub fn decode(record: &[u8]) -> Result<Record<'_>, DecodeError> {
    let first = *record.first().ok_or(DecodeError::Empty)?;
    let short = || DecodeError::Short {
        kind: first,
        length: record.len(),
    };
    match first {
        kind::TRACE => {
            let (notify, rest) = TraceNotify::read_from_prefix(record).map_err(|_| short())?;
            point(first, notify.header.subtype, notify.header.subtype <= 13)?;
            Ok(Record {
                notify: Notify::Trace(notify),
                packet: captured(rest, notify.header.len_cap)?,
            })
        }
        kind::DROP => {
            let (notify, rest) = DropNotify::read_from_prefix(record).map_err(|_| short())?;
            Ok(Record {
                notify: Notify::Drop(notify),
                packet: captured(rest, notify.header.len_cap)?,
            })
        }
        kind::POLICY_VERDICT => {
            let (notify, rest) = PolicyVerdictNotify::read_from_prefix(record).map_err(|_| short())?;
            Ok(Record {
                notify: Notify::Verdict(notify),
                packet: captured(rest, notify.header.len_cap)?,
            })
        }
        kind::TRACE_SOCK => {
            let (notify, _) = TraceSockNotify::read_from_prefix(record).map_err(|_| short())?;
            point(first, notify.point, (1..=4).contains(&notify.point))?;
            Ok(Record {
                notify: Notify::Sock(notify),
                packet: &[],
            })
        }
        other => Err(DecodeError::Kind(other)),
    }
}

fn point(kind: u8, point: u8, known: bool) -> Result<(), DecodeError> {
    if known {
        Ok(())
    } else {
        Err(DecodeError::Point { kind, point })
    }
}

fn captured(rest: &[u8], promised: u16) -> Result<&[u8], DecodeError> {
    rest.get(..usize::from(promised)).ok_or(DecodeError::Capture {
        promised,
        present: rest.len(),
    })
}
