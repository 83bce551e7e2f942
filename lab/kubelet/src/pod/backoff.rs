//! How long to wait before the next attempt: doubling, forgotten after a good while. Pure.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

const FIRST: SignedDuration = SignedDuration::from_secs(10);
const LONGEST: SignedDuration = SignedDuration::from_mins(5);
/// A container that ran this long starts afresh.
const FORGET_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// The back-off of one thing that is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Backoff {
    seconds: i64,
}

impl Backoff {
    /// Counts a failure of something that ran for `ran`; returns how long to wait now. The first failure of a container
    /// costs nothing when `free_first` is set: it is restarted at once, as the kubelet does.
    pub(crate) fn fail(&mut self, ran: SignedDuration, free_first: bool) -> SignedDuration {
        if ran >= FORGET_AFTER {
            self.seconds = 0;
        }
        let wait = SignedDuration::from_secs(self.seconds);
        let next = if self.seconds == 0 {
            FIRST
        } else {
            (wait * 2).min(LONGEST)
        };
        self.seconds = next.as_secs();
        if free_first { wait } else { next }
    }

    /// Until when to wait, counted from `at`.
    pub(crate) fn until(&mut self, at: Timestamp, ran: SignedDuration, free_first: bool) -> Timestamp {
        let wait = self.fail(ran, free_first);
        at.checked_add(wait).unwrap_or(Timestamp::MAX)
    }

    /// Success: the next failure is the first again.
    pub(crate) fn reset(&mut self) {
        self.seconds = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_five_minutes_and_forgets() {
        let mut backoff = Backoff::default();
        let short = SignedDuration::from_secs(1);
        let waits = (0..8)
            .map(|_| backoff.fail(short, true).as_secs())
            .collect::<Vec<_>>();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.fail(SignedDuration::from_mins(10), true).as_secs(), 0);
        assert_eq!(backoff.fail(short, true).as_secs(), 10);
        let mut backoff = Backoff::default();
        let waits = (0..3)
            .map(|_| backoff.fail(short, false).as_secs())
            .collect::<Vec<_>>();
        assert_eq!(waits, [10, 20, 40]);
    }
}
