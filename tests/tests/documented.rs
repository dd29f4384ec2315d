//! The sleeps that the macro states in a function's documentation are those of the runtime.

use std::time::Duration;

use retry_runtime::__private::{Jitter, Policy};

use crate::promised::longest_sleep;
use crate::runtime::Schedule;

// Both modules are private to their crates, so this test includes their files, unit tests and all.
#[path = "../../retry-macros/src/backoff.rs"]
mod promised;
#[allow(dead_code)]
#[path = "../../retry-runtime/src/backoff.rs"]
mod runtime;
mod policy {
    pub(crate) use retry_runtime::__private::{Jitter, Policy};
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn the_macro_repeats_the_defaults_of_the_runtime() {
    assert_eq!(Policy::DEFAULT.retries, promised::RETRIES);
    assert_eq!(Policy::DEFAULT.deadlock_retries(), promised::DEADLOCK_RETRIES);
    assert_eq!(Policy::DEFAULT.base_delay, promised::BASE_DELAY);
    assert_eq!(Policy::DEFAULT.max_delay(), promised::MAX_DELAY);
}

#[test]
fn no_call_sleeps_longer_than_documented() {
    for base in [MS / 4, MS, 7 * MS, 50 * MS, 60_000 * MS] {
        for max in [base, 3 * base, 10 * base, 1000 * base] {
            for budget in [0, 1, 2, 3, 5, 8, 50, 1000] {
                let policy = Policy { base_delay: base, max_delay: Some(max), jitter: Jitter::None, ..Policy::DEFAULT };
                for (schedule, factor) in [(Schedule::Conflict, 1), (Schedule::Transient, promised::TRANSIENT_FACTOR)] {
                    let delays = (1..=budget).map(|n| runtime::delay(&policy, schedule, n, budget, &mut rand::rng()));
                    let sleeps: Duration = delays.sum();
                    let documented = longest_sleep(factor * base, factor * max, budget);
                    // Each delay is rounded to a nanosecond.
                    let rounding = Duration::from_nanos(budget.into());
                    assert!(
                        sleeps.abs_diff(documented) <= rounding,
                        "{policy:?}, {budget}: {sleeps:?}, {documented:?}"
                    );
                }
            }
        }
    }
    // 1, 2, 4, 8, 16, 32, and 50 for all others.
    assert_eq!(longest_sleep(MS, 50 * MS, u32::MAX), 63 * MS + 50 * MS * (u32::MAX - 6));
}
