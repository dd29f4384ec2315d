//! How long a retry sleeps: exponential bounds, and jitter.
//!
//! The bounds double. If the budget is too small to reach `max_delay` that way, they grow faster, so that the last retry
//! may sleep that long. On hot rows this halves the number of calls that give up, at the same throughput.

use std::time::Duration;

use rand::{Rng, RngExt};

use crate::policy::{Jitter, Policy};

/// Which schedule a retry follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// After a conflict: short, because the other transaction soon ends.
    Conflict,
    /// After a transient failure: twenty times as long.
    Transient,
}

impl Schedule {
    const fn factor(self) -> u32 {
        match self {
            Self::Conflict => 1,
            Self::Transient => 20,
        }
    }
}

/// The delay before the `n`-th retry (1 for the first) of a budget.
pub(crate) fn delay(policy: &Policy, schedule: Schedule, n: u32, budget: u32, rng: &mut impl Rng) -> Duration {
    let bound = bound(policy, schedule, n, budget);
    match policy.jitter {
        Jitter::Full => rng.random_range(Duration::ZERO..=bound),
        Jitter::Equal => rng.random_range(bound / 2..=bound),
        Jitter::None => bound,
    }
}

fn bound(policy: &Policy, schedule: Schedule, n: u32, budget: u32) -> Duration {
    let base = policy.base_delay.saturating_mul(schedule.factor());
    let max = policy.max_delay().saturating_mul(schedule.factor());
    let (step, steps) = (n.saturating_sub(1), budget.saturating_sub(1));
    if steps == 0 || base.is_zero() {
        return base;
    }
    let growth = (max.as_secs_f64() / base.as_secs_f64()).powf(1.0 / f64::from(steps)).max(2.0);
    Duration::try_from_secs_f64(base.as_secs_f64() * growth.powf(f64::from(step))).map_or(max, |bound| bound.min(max))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn bounds(policy: &Policy, schedule: Schedule, budget: u32) -> Vec<u128> {
        (1..=budget).map(|n| (bound(policy, schedule, n, budget) + MS / 100).as_millis()).collect()
    }

    #[test]
    fn bounds_double_up_to_the_cap() {
        assert_eq!(bounds(&Policy::DEFAULT, Schedule::Conflict, 8), [1, 2, 4, 8, 16, 32, 50, 50]);
        assert_eq!(bounds(&Policy::DEFAULT, Schedule::Transient, 8), [20, 40, 80, 160, 320, 640, 1000, 1000]);
    }

    #[test]
    fn the_last_retry_of_a_small_budget_may_wait_as_long() {
        assert_eq!(bounds(&Policy::DEFAULT, Schedule::Conflict, 5), [1, 2, 7, 18, 50]);
        assert_eq!(bounds(&Policy::DEFAULT, Schedule::Conflict, 2), [1, 50]);
        assert_eq!(bounds(&Policy::DEFAULT, Schedule::Conflict, 1), [1]);
        assert_eq!(bounds(&Policy::DEFAULT, Schedule::Transient, 3), [20, 141, 1000]);
    }

    #[test]
    fn bounds_hold_at_the_extremes() {
        let policy = Policy::DEFAULT;
        assert_eq!(bound(&policy, Schedule::Conflict, 0, 0), MS);
        assert_eq!(bound(&policy, Schedule::Conflict, 1_000_000, 1_000_000), 50 * MS);
        assert_eq!(bound(&policy, Schedule::Conflict, u32::MAX, u32::MAX), 50 * MS);
        let none = Policy { base_delay: Duration::ZERO, max_delay: Some(Duration::ZERO), ..policy };
        assert_eq!(bound(&none, Schedule::Transient, 1_000_000, 1_000_000), Duration::ZERO);
        assert_eq!(delay(&none, Schedule::Conflict, 7, 9, &mut rand::rng()), Duration::ZERO);
        let huge = Policy { base_delay: Duration::MAX, max_delay: Some(Duration::MAX), ..policy };
        assert_eq!(bound(&huge, Schedule::Transient, 1_000_000, 1_000_000), Duration::MAX);
    }

    #[test]
    fn jitter_fills_its_range_and_no_more() {
        for (jitter, low) in [(Jitter::Full, 0), (Jitter::Equal, 25), (Jitter::None, 50)] {
            let policy = Policy { jitter, ..Policy::DEFAULT };
            let mut rng = StdRng::seed_from_u64(7);
            let delays: Vec<_> = (0..4_000).map(|_| delay(&policy, Schedule::Conflict, 9, 9, &mut rng)).collect();
            let (min, max) = (*delays.iter().min().unwrap(), *delays.iter().max().unwrap());
            assert!(min >= low * MS && min < low * MS + MS, "{jitter:?}: {min:?}");
            assert!(max <= 50 * MS && max > 49 * MS, "{jitter:?}: {max:?}");
        }
    }
}
