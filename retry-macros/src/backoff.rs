//! How long the retries of a budget sleep at most, for what a function's documentation says of it.
//!
//! This is all that the macro knows of the runtime's policy. `tests/tests/documented.rs` compares the two.

use std::time::Duration;

/// `retries`, where the attribute does not state it.
pub(crate) const RETRIES: u32 = 2;
/// `deadlock_retries`, unless `retries` is greater.
pub(crate) const DEADLOCK_RETRIES: u32 = 5;
pub(crate) const BASE_DELAY: Duration = Duration::from_millis(1);
/// `max_delay`, unless `base_delay` is longer.
pub(crate) const MAX_DELAY: Duration = Duration::from_millis(50);
/// How many times as long a retry waits after a failure of the surroundings.
pub(crate) const SURROUNDINGS: u32 = 20;

/// The sum of a budget's longest delays, the first of which is `base`, and none longer than `max`.
pub(crate) fn longest_sleep(base: Duration, max: Duration, budget: u32) -> Duration {
    let steps = f64::from(budget.max(2) - 1);
    let growth = (max.as_secs_f64() / base.as_secs_f64()).powf(1.0 / steps).max(2.0);
    let mut sum = Duration::ZERO;
    for step in 0..budget {
        let delay = base.as_secs_f64() * growth.powf(f64::from(step));
        match Duration::try_from_secs_f64(delay) {
            Ok(delay) if delay < max => sum = sum.saturating_add(delay),
            // And so are all that follow.
            _ => return sum.saturating_add(max.saturating_mul(budget - step)),
        }
    }
    sum
}
