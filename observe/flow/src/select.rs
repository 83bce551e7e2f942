//! One subscriber's stream: what `GetFlows` asks of the ring (`reference/cilium.md` §1.4).

use crate::event::{Event, LostEvent, LostSource};
use crate::filter::Filters;
use crate::flow::Time;
use crate::ring::{Read, Reader, Ring, Start};

/// Losses are told once in so many nanoseconds at most.
const LOST_INTERVAL: i64 = 1_000_000_000;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// How many that match; 0: no limit.
    pub number: u64,
    /// The first of the ring instead of the last.
    pub first: bool,
    /// Go on with what is written later.
    pub follow: bool,
    /// Not before.
    pub since: Option<Time>,
    /// Not after.
    pub until: Option<Time>,
}

/// A selection that contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// The first of a stream that does not end.
    #[error("first cannot be specified with follow")]
    FirstFollow,
}

/// What a subscriber is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next item.
    Item(Event),
    /// Nothing before the ring is written again (or, if something was lost, before a second is over).
    Wait,
    /// The end.
    End,
}

/// Which items of the ring are meant.
#[derive(Debug)]
pub enum Wanted {
    /// Flows, and losses.
    Flows(Filters),
    /// Events of the agent, and losses.
    Agent,
    /// Debug messages, and losses.
    Debug,
}

impl Wanted {
    fn admits(&self, event: &Event) -> bool {
        match self {
            Self::Flows(filters) => filters.admits(event),
            Self::Agent => matches!(event, Event::Agent(..) | Event::Lost(_)),
            Self::Debug => matches!(event, Event::Debug(..) | Event::Lost(_)),
        }
    }
}

/// One subscriber's stream.
#[derive(Debug)]
pub struct Subscription {
    reader: Reader,
    wanted: Wanted,
    /// Items still to be given; none: no limit.
    left: Option<u64>,
    follow: bool,
    since: Option<Time>,
    until: Option<Time>,
    lost: Option<LostEvent>,
    told: Option<Time>,
}

impl Subscription {
    /// Begins.
    ///
    /// # Errors
    /// [`SelectionError`].
    pub fn new(ring: &Ring, selection: &Selection, wanted: Wanted) -> Result<Self, SelectionError> {
        let Selection {
            number,
            first,
            follow,
            since,
            until,
        } = *selection;
        if first && follow {
            return Err(SelectionError::FirstFollow);
        }
        let before_end =
            |event: &Event| until.is_none_or(|until| event.time().is_none_or(|time| time <= until));
        let counted =
            |event: &Event| !matches!(event, Event::Lost(_)) && wanted.admits(event) && before_end(event);
        let reader = match since {
            Some(since) => ring.reader(Start::Since(since)),
            None if first => ring.reader(Start::Oldest),
            None if number > 0 => ring.last(number, counted),
            None if follow => ring.reader(Start::Next),
            None => ring.reader(Start::Oldest),
        };
        // With `follow` the number says how far back to begin, and `since` begins where it says.
        let left = (number > 0 && !follow).then_some(number);
        Ok(Self {
            reader,
            wanted,
            left,
            follow,
            since,
            until,
            lost: None,
            told: None,
        })
    }

    /// What comes next; never waits.
    #[must_use]
    pub fn next(&mut self, now: Time) -> Step {
        if let Some(lost) = self.lost
            && self
                .told
                .is_none_or(|told| now.0.saturating_sub(told.0) >= LOST_INTERVAL)
        {
            return self.tell(lost, now);
        }
        while self.left != Some(0) {
            match self.reader.read() {
                Read::Lost(count) => {
                    let lost = self.lost.get_or_insert(LostEvent {
                        source: LostSource::HubbleRing,
                        first: Some(now),
                        ..LostEvent::default()
                    });
                    lost.count += count;
                    lost.last = Some(now);
                    let lost = *lost;
                    if self
                        .told
                        .is_none_or(|told| now.0.saturating_sub(told.0) >= LOST_INTERVAL)
                    {
                        return self.tell(lost, now);
                    }
                }
                Read::Empty if self.follow => return Step::Wait,
                Read::Empty => break,
                Read::Event(event) => {
                    let lost = matches!(event, Event::Lost(_));
                    if !lost && let Some(time) = event.time() {
                        if self.since.is_some_and(|since| time < since) {
                            continue;
                        }
                        if self.until.is_some_and(|until| time > until) {
                            self.left = Some(0);
                            break;
                        }
                    }
                    if self.wanted.admits(&event) {
                        if !lost && let Some(left) = &mut self.left {
                            *left -= 1;
                        }
                        return Step::Item(event);
                    }
                }
            }
        }
        // Nobody goes without having been told of what was lost.
        match self.lost {
            Some(lost) => self.tell(lost, now),
            None => Step::End,
        }
    }

    fn tell(&mut self, lost: LostEvent, now: Time) -> Step {
        self.lost = None;
        self.told = Some(now);
        Step::Item(Event::Lost(lost))
    }
}
