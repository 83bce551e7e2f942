//! Clearing expired connections and translations away. The tables drop their oldest entries by themselves when they are
//! full, and the programs take an expired entry for none; this only keeps the tables, and what people see of them, small.

use abi::{CtEntry, NatEntry};
use nix::time::{ClockId, clock_gettime};

use crate::table::{Batches, Layout, Table, TableError};

/// An entry that ends at some time.
pub trait Expires {
    /// When it may be removed, by [`monotonic_ns`].
    fn expires(&self) -> u64;
}

impl Expires for CtEntry {
    fn expires(&self) -> u64 {
        self.expires
    }
}

impl Expires for NatEntry {
    fn expires(&self) -> u64 {
        self.expires
    }
}

/// The clock of [`Expires::expires`]: nanoseconds since boot without sleep, as `bpf_ktime_get_ns` counts them.
#[must_use]
pub fn monotonic_ns() -> u64 {
    // The clock exists on every Linux; 0 would only mean that nothing has expired.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(u64::try_from(time.tv_nsec()).unwrap_or(0))
    })
}

/// What a pass has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Entries looked at.
    pub seen: usize,
    /// Expired ones, removed.
    pub removed: usize,
}

/// A pass over a table, a batch at a time, so that the caller can breathe in between.
pub struct Collection<'a, K, V> {
    table: &'a Table<K, V>,
    batches: Batches<'a, K, V>,
    report: GcReport,
}

impl<'a, K: Layout, V: Layout + Expires> Collection<'a, K, V> {
    /// Begins a pass with at most `batch` entries per step (more only where a single hash bucket has more).
    #[must_use]
    pub fn new(table: &'a Table<K, V>, batch: usize) -> Self {
        Self {
            table,
            batches: table.batches_of(batch),
            report: GcReport::default(),
        }
    }

    /// Looks at the next entries and removes those that expired before `now` ([`monotonic_ns`]).
    /// `Ok(false)`: the pass is over.
    ///
    /// # Errors
    /// [`TableError`]; the pass is over then.
    pub fn step(&mut self, now: u64) -> Result<bool, TableError> {
        let Some(entries) = self.batches.next().transpose()? else {
            return Ok(false);
        };
        self.report.seen += entries.len();
        for (key, _) in entries.iter().filter(|(_, entry)| entry.expires() < now) {
            // A packet may have come since it was read. One that comes right now makes a new entry.
            let expired = self.table.get(key)?.is_some_and(|entry| entry.expires() < now);
            if expired && self.table.remove(key)? {
                self.report.removed += 1;
            }
        }
        Ok(true)
    }

    /// What the pass has done so far.
    #[must_use]
    pub fn report(&self) -> GcReport {
        self.report
    }
}
