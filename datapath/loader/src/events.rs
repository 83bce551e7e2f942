//! Events of the datapath, read from the ring buffer.

use std::io;
use std::path::Path;

use abi::event::{CAPTURE, kind};
use abi::{DropNotify, TraceNotify};
use aya::maps::{Map, MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use zerocopy::FromBytes;

use crate::table::io_error;

/// The event ring cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// It could not be opened.
    #[error("cannot open the event ring")]
    Open(#[source] io::Error),
    /// It could not be waited for.
    #[error("cannot wait for events")]
    Wait(#[source] io::Error),
}

/// A decoded record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A packet was seen.
    Trace {
        /// What is known of it.
        notify: TraceNotify,
        /// Its first bytes, layer 2 first.
        packet: Box<[u8]>,
    },
    /// A packet was dropped.
    Drop {
        /// What is known of it.
        notify: DropNotify,
        /// Its first bytes, layer 2 first.
        packet: Box<[u8]>,
    },
}

/// A record that cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
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
        promised: usize,
        /// Bytes behind the header.
        present: usize,
    },
}

/// Decodes a record. Bytes behind the captured ones are ignored: the kernel side may reserve records of one size.
///
/// # Errors
/// [`Malformed`].
pub fn decode(record: &[u8]) -> Result<Event, Malformed> {
    let first = *record.first().ok_or(Malformed::Empty)?;
    let short = || Malformed::Short {
        kind: first,
        length: record.len(),
    };
    match first {
        kind::TRACE => {
            let (notify, rest) = TraceNotify::read_from_prefix(record).map_err(|_| short())?;
            Ok(Event::Trace {
                notify,
                packet: captured(rest, notify.header.len_cap)?,
            })
        }
        kind::DROP => {
            let (notify, rest) = DropNotify::read_from_prefix(record).map_err(|_| short())?;
            Ok(Event::Drop {
                notify,
                packet: captured(rest, notify.header.len_cap)?,
            })
        }
        other => Err(Malformed::Kind(other)),
    }
}

fn captured(rest: &[u8], promised: u16) -> Result<Box<[u8]>, Malformed> {
    let promised = usize::from(promised);
    let wrong = Malformed::Capture {
        promised,
        present: rest.len(),
    };
    let packet = rest
        .get(..promised)
        .filter(|_| promised <= CAPTURE)
        .ok_or(wrong)?;
    Ok(packet.into())
}

/// Reads the ring. What the kernel could not put into it is counted by [`crate::Datapath::lost_events`].
pub struct EventReader {
    ring: AsyncFd<RingBuf<MapData>>,
    malformed: u64,
}

impl EventReader {
    pub(crate) fn open(pin: &Path) -> Result<Self, EventsError> {
        // Checked here because `AsyncFd` panics without a runtime.
        tokio::runtime::Handle::try_current().map_err(|error| EventsError::Open(io::Error::other(error)))?;
        let data = MapData::from_pin(pin).map_err(|error| EventsError::Open(io_error(error)))?;
        let ring =
            RingBuf::try_from(Map::RingBuf(data)).map_err(|error| EventsError::Open(io_error(error)))?;
        // SAFETY: the ring owns its map's descriptor and neither closes nor changes it while it lives.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        let ring = ring.map_err(|error| EventsError::Open(error.into()))?;
        Ok(Self { ring, malformed: 0 })
    }

    /// Waits until there are events and appends up to `max` of them to `events`. Returns how many records were taken
    /// from the ring. Cancelling the future loses nothing.
    ///
    /// # Errors
    /// [`EventsError::Wait`].
    pub async fn read(&mut self, events: &mut Vec<Event>, max: usize) -> Result<usize, EventsError> {
        loop {
            let mut ready = self.ring.readable_mut().await.map_err(EventsError::Wait)?;
            let mut taken = 0;
            while taken < max.max(1) {
                let Some(record) = ready.get_inner_mut().next() else {
                    // Empty: from here on the kernel tells when something comes.
                    ready.clear_ready();
                    break;
                };
                taken += 1;
                match decode(&record) {
                    Ok(event) => events.push(event),
                    Err(_) => self.malformed += 1,
                }
            }
            if taken > 0 {
                return Ok(taken);
            }
        }
    }

    /// Records that could not be decoded so far.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.malformed
    }
}

#[cfg(test)]
mod tests {
    use abi::EventHeader;
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    use super::*;

    fn trace(packet: &[u8], promised: u16) -> Vec<u8> {
        let header = EventHeader {
            kind: kind::TRACE,
            len_cap: promised,
            ..EventHeader::default()
        };
        let notify = TraceNotify {
            header,
            ifindex: 7,
            ..TraceNotify::default()
        };
        [notify.as_bytes(), packet].concat()
    }

    #[test]
    fn a_trace_with_its_packet() {
        let record = trace(&[1, 2, 3, 0, 0], 3);
        let Ok(Event::Trace { notify, packet }) = decode(&record) else {
            panic!("not a trace")
        };
        assert_eq!((notify.ifindex, &*packet), (7, &[1, 2, 3][..]));
    }

    #[test]
    fn records_that_are_no_events() {
        assert_eq!(decode(&[]), Err(Malformed::Empty));
        assert_eq!(decode(&[99, 1, 2]), Err(Malformed::Kind(99)));
        assert_eq!(
            decode(&[kind::DROP, 0]),
            Err(Malformed::Short {
                kind: kind::DROP,
                length: 2
            })
        );
        assert_eq!(
            decode(&trace(&[1, 2], 3)),
            Err(Malformed::Capture {
                promised: 3,
                present: 2
            })
        );
        let large = vec![0; CAPTURE + 1];
        let promised = CAPTURE + 1;
        let result = decode(&trace(&large, u16::try_from(promised).unwrap()));
        assert_eq!(
            result,
            Err(Malformed::Capture {
                promised,
                present: promised
            })
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut bytes in prop::collection::vec(any::<u8>(), 0..400), first in 0u8..6) {
            if let Some(byte) = bytes.first_mut() {
                *byte = first;
            }
            if let Ok(Event::Trace { packet, .. } | Event::Drop { packet, .. }) = decode(&bytes) {
                prop_assert!(packet.len() <= CAPTURE && packet.len() < bytes.len());
            }
        }
    }
}
