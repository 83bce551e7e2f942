//! How the background work of the agent goes: one line of counts per name, shown in `status` and as metrics.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::status::{ControllerCounts, ControllerStatus};

/// Counts per name. Names are constants of the program, which bounds the table. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Controllers(Arc<Mutex<BTreeMap<&'static str, ControllerCounts>>>);

impl Controllers {
    /// Counts one run.
    pub(crate) fn report<T, E: Display>(&self, name: &'static str, outcome: &Result<T, E>) {
        match outcome {
            Ok(_) => self.success(name),
            Err(error) => self.failure(name, error),
        }
    }

    /// Counts a run that worked.
    pub(crate) fn success(&self, name: &'static str) {
        let mut all = self.lock();
        let counts = all.entry(name).or_default();
        counts.success_count += 1;
        counts.consecutive_failure_count = 0;
        counts.last_failure_msg.clear();
        counts.last_success_timestamp = now();
    }

    /// Counts a run that did not. The first of a row of failures is logged as a warning, the others are counted.
    pub(crate) fn failure(&self, name: &'static str, error: impl Display) {
        let message = format!("{error:#}");
        let mut all = self.lock();
        let counts = all.entry(name).or_default();
        counts.failure_count += 1;
        counts.consecutive_failure_count += 1;
        counts.last_failure_timestamp = now();
        if counts.last_failure_msg != message {
            tracing::warn!(controller = name, error = message, "failed, will be tried again");
            counts.last_failure_msg = message;
        }
    }

    /// All of them by name.
    #[must_use]
    pub(crate) fn snapshot(&self) -> Vec<ControllerStatus> {
        let all = self.lock();
        all.iter()
            .map(|(name, counts)| ControllerStatus {
                name: (*name).to_owned(),
                status: counts.clone(),
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, ControllerCounts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// RFC 3339, whole seconds.
fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_ends_a_row_of_failures() {
        let controllers = Controllers::default();
        controllers.failure("x", "no");
        controllers.failure("x", "no");
        let counts = |controllers: &Controllers| controllers.snapshot()[0].status.clone();
        assert_eq!(
            (
                counts(&controllers).failure_count,
                counts(&controllers).consecutive_failure_count
            ),
            (2, 2)
        );
        assert_eq!(counts(&controllers).last_failure_msg, "no");
        controllers.success("x");
        assert_eq!(
            (
                counts(&controllers).failure_count,
                counts(&controllers).consecutive_failure_count
            ),
            (2, 0)
        );
        assert!(counts(&controllers).last_failure_msg.is_empty());
    }
}
