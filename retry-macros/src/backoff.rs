//! The longest total sleep of a retry budget, for the documentation of public functions.
//!
//! Rustdoc cannot calculate, so these numbers repeat the runtime's defaults. Only `document` uses them.
//! `tests/tests/documented.rs` compares them with the runtime.

use std::time::Duration;

/// The default of `retries`.
pub(crate) const RETRIES: u32 = 2;
/// The default of `deadlock_retries`, unless `retries` is greater.
pub(crate) const DEADLOCK_RETRIES: u32 = 5;
/// The default of `base_delay`.
pub(crate) const BASE_DELAY: Duration = Duration::from_millis(1);
/// The default of `max_delay`, unless `base_delay` is longer.
pub(crate) const MAX_DELAY: Duration = Duration::from_millis(50);
/// Delays after a transient failure are this many times as long as after a conflict.
pub(crate) const TRANSIENT_FACTOR: u32 = 20;

/// The sum of the longest delays of a budget: the first is `base`, and none is longer than `max`.
pub(crate) fn longest_sleep(base: Duration, max: Duration, budget: u32) -> Duration {
    let steps = f64::from(budget.max(2) - 1);
    let growth = (max.as_secs_f64() / base.as_secs_f64()).powf(1.0 / steps).max(2.0);
    let mut sum = Duration::ZERO;
    for step in 0..budget {
        let delay = base.as_secs_f64() * growth.powf(f64::from(step));
        match Duration::try_from_secs_f64(delay) {
            Ok(delay) if delay < max => sum = sum.saturating_add(delay),
            // All the rest are as long.
            _ => return sum.saturating_add(max.saturating_mul(budget - step)),
        }
    }
    sum
}
