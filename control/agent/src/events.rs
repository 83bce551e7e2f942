//! The way of an event: from the kernel's ring, decoded and counted, to whoever listens.
//!
//! The ring is drained whether anybody listens or not, so that the counts are whole. A listener that is slow loses
//! its own events and is told how many; nobody waits for it.

mod summary;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use abi::event::{EventHeader, ObservationPoint, TraceReason};
use abi::{Direction, DropReason};
use api::monitor::Event;
use tokio::sync::broadcast;

/// Events kept for a listener that is behind.
const BACKLOG: usize = 4096;

/// Decoded events and their counts. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    listeners: broadcast::Sender<Arc<Event>>,
    counts: Arc<Mutex<Counts>>,
}

/// What came out of the ring since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Kind and text of observation point or reason, to number of events. Bounded by the enums of `abi`.
    pub(crate) by_kind: BTreeMap<(&'static str, &'static str), u64>,
    /// Records that could not be decoded.
    pub(crate) unknown: u64,
    /// Events that listeners missed because they were slow.
    pub(crate) missed: u64,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            listeners: broadcast::channel(BACKLOG).0,
            counts: Arc::default(),
        }
    }
}

impl Events {
    /// Takes an event of the ring.
    pub(crate) fn record(&self, record: &loader::Event) {
        let Some((kind, what)) = name(record) else {
            self.unknown(1);
            return;
        };
        self.with_counts(|counts| *counts.by_kind.entry((kind, what)).or_default() += 1);
        // Packets are only looked into when somebody reads it.
        if self.listeners.receiver_count() > 0 {
            // An error means that the last listener has just left.
            let _ = self.listeners.send(Arc::new(event(record, kind, what)));
        }
    }

    /// Counts records that could not be decoded.
    pub(crate) fn unknown(&self, number: u64) {
        self.with_counts(|counts| counts.unknown += number);
    }

    /// Listens from now on.
    #[must_use]
    pub(crate) fn listen(&self) -> broadcast::Receiver<Arc<Event>> {
        self.listeners.subscribe()
    }

    /// Counts events that a listener missed.
    pub(crate) fn missed(&self, number: u64) {
        self.with_counts(|counts| counts.missed += number);
    }

    /// The counts so far.
    #[must_use]
    pub(crate) fn counts(&self) -> Counts {
        self.with_counts(|counts| counts.clone())
    }

    fn with_counts<T>(&self, work: impl FnOnce(&mut Counts) -> T) -> T {
        work(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Kind of an event, and observation point or reason; nothing for numbers that nobody knows.
fn name(record: &loader::Event) -> Option<(&'static str, &'static str)> {
    match record {
        loader::Event::Drop { notify, .. } => {
            Some(("drop", DropReason::from_number(notify.header.subtype)?.text()))
        }
        loader::Event::Trace { notify, .. } => Some(("trace", point(notify.header.subtype)?)),
    }
}

fn point(number: u8) -> Option<&'static str> {
    use ObservationPoint::{FromEndpoint, FromHost, FromNetwork, ToEndpoint, ToHost, ToNetwork, ToStack};
    [
        (ToEndpoint, "to-endpoint"),
        (ToHost, "to-host"),
        (ToStack, "to-stack"),
        (FromEndpoint, "from-endpoint"),
        (FromHost, "from-host"),
        (FromNetwork, "from-network"),
        (ToNetwork, "to-network"),
    ]
    .into_iter()
    .find(|(point, _)| *point as u8 == number)
    .map(|(_, text)| text)
}

fn reason(number: u8) -> &'static str {
    use TraceReason::{Established, New, Related, Reply};
    [
        (New, "new"),
        (Established, "established"),
        (Reply, "reply"),
        (Related, "related"),
    ]
    .into_iter()
    .find(|(reason, _)| *reason as u8 == number)
    .map_or("unknown", |(_, text)| text)
}

fn event(record: &loader::Event, kind: &str, what: &str) -> Event {
    let common = |header: &EventHeader, packet: &[u8]| Event {
        kind: kind.to_owned(),
        what: what.to_owned(),
        code: header.subtype,
        source: header.source,
        hash: header.hash,
        length: header.len_orig,
        summary: summary::of(packet),
        ..Event::default()
    };
    match record {
        loader::Event::Drop { notify, packet } => Event {
            destination: notify.dst_id,
            src_identity: notify.src_label,
            dst_identity: notify.dst_label,
            state: if notify.direction == Direction::Egress as u8 {
                "egress"
            } else {
                "ingress"
            }
            .to_owned(),
            ifindex: notify.ifindex,
            time: notify.time,
            ..common(&notify.header, packet)
        },
        loader::Event::Trace { notify, packet } => Event {
            destination: u32::from(notify.dst_id),
            src_identity: notify.src_label,
            dst_identity: notify.dst_label,
            state: reason(notify.reason).to_owned(),
            ifindex: notify.ifindex,
            time: notify.time,
            ..common(&notify.header, packet)
        },
    }
}

#[cfg(test)]
mod tests {
    use abi::{DropNotify, TraceNotify};

    use super::*;

    fn drop_record(reason: u8) -> loader::Event {
        let header = EventHeader {
            subtype: reason,
            source: 7,
            len_orig: 60,
            ..EventHeader::default()
        };
        let notify = DropNotify {
            header,
            dst_id: 9,
            direction: 2,
            ..DropNotify::default()
        };
        loader::Event::Drop {
            notify,
            packet: Box::default(),
        }
    }

    #[test]
    fn records_are_counted_and_reach_listeners() {
        let events = Events::default();
        events.record(&drop_record(132));
        let mut listener = events.listen();
        events.record(&drop_record(132));
        events.record(&drop_record(1));
        let header = EventHeader {
            subtype: 11,
            ..EventHeader::default()
        };
        let notify = TraceNotify {
            header,
            reason: 2,
            ..TraceNotify::default()
        };
        events.record(&loader::Event::Trace {
            notify,
            packet: Box::default(),
        });
        let event = listener.try_recv().expect("an event");
        assert_eq!(
            (event.what.as_str(), event.destination, event.state.as_str()),
            ("Invalid source ip", 9, "egress")
        );
        let event = listener.try_recv().expect("another event");
        assert_eq!(
            (event.what.as_str(), event.state.as_str()),
            ("to-network", "reply")
        );
        assert!(listener.try_recv().is_err());
        let counts = events.counts();
        assert_eq!(
            (counts.by_kind[&("drop", "Invalid source ip")], counts.unknown),
            (2, 1)
        );
    }

    #[test]
    fn a_slow_listener_loses_its_own_events() {
        let events = Events::default();
        let mut slow = events.listen();
        let mut fast = events.listen();
        for _ in 0..BACKLOG + 10 {
            events.record(&drop_record(132));
            assert!(fast.try_recv().is_ok());
        }
        assert!(matches!(
            slow.try_recv(),
            Err(broadcast::error::TryRecvError::Lagged(10))
        ));
    }
}
