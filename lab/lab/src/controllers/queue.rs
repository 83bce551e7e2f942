//! The work queue of a controller: which objects to look at, each at most once, and when. No clock: the caller says what
//! time it is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// First and longest waiting time after failures; it doubles in between, as in client-go.
const FIRST_DELAY: Duration = Duration::from_millis(5);
const LAST_DELAY: Duration = Duration::from_secs(30);

/// Names an object of the kind that a controller works on.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// Its namespace; empty where the kind has none.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
}

impl Key {
    /// A key from its two parts.
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// The namespace in the form that API calls take.
    pub(crate) fn namespace(&self) -> Option<&str> {
        (!self.namespace.is_empty()).then_some(self.namespace.as_str())
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespace() {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

/// Keys in the order in which they are due. It holds a key once, however often it is added, so it is bounded by the
/// number of objects.
#[derive(Debug, Default)]
pub(crate) struct WorkQueue {
    order: BTreeSet<(Instant, Key)>,
    due: BTreeMap<Key, Instant>,
    failures: HashMap<Key, u32>,
}

impl WorkQueue {
    /// Asks for a look at `key` not before `when`. The earliest wish counts.
    pub(crate) fn add(&mut self, key: Key, when: Instant) {
        if let Some(earlier) = self.due.get(&key).copied() {
            if earlier <= when {
                return;
            }
            self.order.remove(&(earlier, key.clone()));
        }
        self.due.insert(key.clone(), when);
        self.order.insert((when, key));
    }

    /// Takes a key that is due.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Key> {
        if self.order.first()?.0 > now {
            return None;
        }
        let (_, key) = self.order.pop_first()?;
        self.due.remove(&key);
        Some(key)
    }

    /// When the next key is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.order.first().map(|(when, _)| *when)
    }

    /// Notes that the work on `key` succeeded.
    pub(crate) fn forget(&mut self, key: &Key) {
        self.failures.remove(key);
    }

    /// Notes that the work on `key` failed, and asks for another look after a while; answers how often it failed.
    pub(crate) fn retry(&mut self, key: Key, now: Instant) -> u32 {
        let failures = self.failures.entry(key.clone()).or_default();
        *failures = failures.saturating_add(1);
        let count = *failures;
        self.add(key, now + delay(count));
        count
    }
}

/// The waiting time after the `failures`-th failure in a row.
fn delay(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_DELAY * (1 << doublings)).min(LAST_DELAY)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(name: &str) -> Key {
        Key::new("", name)
    }

    #[test]
    fn a_key_is_there_once_at_its_earliest_time() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut queue = WorkQueue::default();
        queue.add(key("a"), later);
        queue.add(key("a"), now);
        queue.add(key("a"), later);
        queue.add(key("b"), later);
        assert_eq!(queue.pop(now), Some(key("a")));
        assert_eq!(queue.pop(now), None);
        assert_eq!(queue.next_due(), Some(later));
        assert_eq!(queue.pop(later), Some(key("b")));
        assert_eq!(queue.next_due(), None);
    }

    #[test]
    fn failures_wait_longer_and_longer_until_success() {
        let now = Instant::now();
        let mut queue = WorkQueue::default();
        for (attempt, expected) in [(1, FIRST_DELAY), (2, FIRST_DELAY * 2), (3, FIRST_DELAY * 4)] {
            assert_eq!(queue.retry(key("a"), now), attempt);
            assert_eq!(queue.next_due(), Some(now + expected));
            assert_eq!(queue.pop(now + expected), Some(key("a")));
        }
        queue.forget(&key("a"));
        assert_eq!(queue.retry(key("a"), now), 1);
    }

    #[test]
    fn the_longest_delay_is_bounded() {
        assert_eq!(delay(1), FIRST_DELAY);
        assert_eq!(delay(u32::MAX), LAST_DELAY);
    }

    proptest! {
        #[test]
        fn every_key_comes_out_once_and_in_order(adds in prop::collection::vec((0u8..8, 0u64..8), 0..64)) {
            let start = Instant::now();
            let mut queue = WorkQueue::default();
            let mut earliest: BTreeMap<Key, Instant> = BTreeMap::new();
            for (name, seconds) in adds {
                let (key, when) = (key(&name.to_string()), start + Duration::from_secs(seconds));
                queue.add(key.clone(), when);
                earliest.entry(key).and_modify(|known| *known = when.min(*known)).or_insert(when);
            }
            let mut expected: Vec<_> = earliest.into_iter().map(|(key, when)| (when, key)).collect();
            expected.sort();
            let mut seen = Vec::new();
            while let Some(when) = queue.next_due() {
                prop_assert_eq!(queue.pop(when - Duration::from_nanos(1)), None);
                seen.push((when, queue.pop(when).unwrap()));
            }
            prop_assert_eq!(seen, expected);
        }
    }
}
