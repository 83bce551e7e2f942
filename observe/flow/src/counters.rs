//! What was seen, in numbers.

use crate::decode::DecodeError;
use crate::event::Event;
use crate::flow::{Time, Verdict};

const SECONDS: usize = 60;

/// Counts of one node.
#[derive(Clone, Debug)]
pub struct Counters {
    verdicts: [u64; Verdict::ALL.len()],
    malformed: u64,
    lost: u64,
    agent: u64,
    debug: u64,
    /// Flows of the last minute by second, and which second that was.
    recent: [(i64, u64); SECONDS],
    started: Option<i64>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            verdicts: Default::default(),
            malformed: 0,
            lost: 0,
            agent: 0,
            debug: 0,
            recent: [(i64::MIN, 0); SECONDS],
            started: None,
        }
    }
}

impl Counters {
    /// Counts an item of the ring.
    pub fn event(&mut self, event: &Event, now: Time) {
        match event {
            Event::Flow(flow) => {
                if let Some(count) = self.verdicts.get_mut(flow.verdict as usize) {
                    *count += 1;
                }
                let second = now.0.div_euclid(1_000_000_000);
                self.started.get_or_insert(second);
                let slot = usize::try_from(second.rem_euclid(SECONDS as i64)).unwrap_or_default();
                let (of, count) = &mut self.recent[slot];
                if *of != second {
                    (*of, *count) = (second, 0);
                }
                *count += 1;
            }
            Event::Lost(lost) => self.lost = self.lost.saturating_add(lost.count),
            Event::Agent(..) => self.agent += 1,
            Event::Debug(..) => self.debug += 1,
        }
    }

    /// Counts a record that could not be decoded.
    pub const fn malformed(&mut self, _: &DecodeError) {
        self.malformed += 1;
    }

    /// Flows by verdict.
    pub fn verdicts(&self) -> impl Iterator<Item = (Verdict, u64)> + '_ {
        Verdict::ALL.iter().copied().zip(self.verdicts)
    }

    /// All flows.
    #[must_use]
    pub fn flows(&self) -> u64 {
        self.verdicts.iter().sum()
    }

    /// Records that could not be decoded.
    #[must_use]
    pub const fn undecoded(&self) -> u64 {
        self.malformed
    }

    /// Events that nobody saw, agent events, debug messages.
    #[must_use]
    pub const fn others(&self) -> (u64, u64, u64) {
        (self.lost, self.agent, self.debug)
    }

    /// Flows per second over the last minute, or since the first flow if that was later.
    #[must_use]
    pub fn rate(&self, now: Time) -> f64 {
        let Some(started) = self.started else { return 0.0 };
        let second = now.0.div_euclid(1_000_000_000);
        let from = second.saturating_sub(SECONDS as i64 - 1);
        let flows: u64 = self
            .recent
            .iter()
            .filter(|(of, _)| (from..=second).contains(of))
            .map(|(_, count)| count)
            .sum();
        let over = second
            .saturating_sub(started.max(from))
            .saturating_add(1)
            .clamp(1, SECONDS as i64);
        flows as f64 / over as f64
    }
}
