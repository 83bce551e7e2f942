//! Waiting with a deadline.

use std::time::{Duration, Instant};

/// How often a condition is looked at: short against what people notice, long against what a look costs.
const INTERVAL: Duration = Duration::from_millis(5);

/// Looks at a condition until it holds or `patience` is over; answers whether it held.
///
/// # Errors
/// The first error of `condition`.
pub(crate) fn poll_until<E>(
    patience: Duration,
    mut condition: impl FnMut() -> Result<bool, E>,
) -> Result<bool, E> {
    let deadline = Instant::now() + patience;
    loop {
        if condition()? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_at_the_first_of_truth_error_and_deadline() {
        let mut looks = 0;
        let held = poll_until::<()>(Duration::from_secs(60), || {
            looks += 1;
            Ok(looks == 3)
        });
        assert_eq!((held, looks), (Ok(true), 3));
        assert_eq!(
            poll_until(Duration::from_secs(60), || Err::<bool, _>("no")),
            Err("no")
        );
        assert_eq!(poll_until::<()>(Duration::ZERO, || Ok(false)), Ok(false));
    }
}
