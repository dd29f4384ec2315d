//! The retry budget of a pool: how many retries its calls may make.

use crate::sync::atomic::{AtomicU32, Ordering};

/// Tenths of a token: what a retry takes, what a commit adds, and what a bucket holds at first and at most.
const RETRY: u32 = 10;
const COMMIT: u32 = 1;
const START: u32 = RETRY;
const CAP: u32 = 3 * RETRY;

/// Tokens for the retries of a pool. Clones of the pool share them.
#[derive(Debug)]
pub(crate) struct Budget {
    /// For retries that `deadlock_retries` pays for.
    conflicts: Bucket,
    /// For retries that `retries` pays for.
    others: Bucket,
}

impl Budget {
    pub(crate) const fn new() -> Self {
        Self { conflicts: Bucket::new(START, CAP), others: Bucket::new(START, CAP) }
    }

    /// A new budget that saves up so many retries.
    pub(crate) const fn with_cap(retries: u32) -> Self {
        let cap = retries.saturating_mul(RETRY);
        let start = if cap < START { cap } else { START };
        Self { conflicts: Bucket::new(start, cap), others: Bucket::new(start, cap) }
    }

    /// Takes the token of a retry. `false`: there is none.
    pub(crate) fn take(&self, is_conflict: bool) -> bool {
        if is_conflict { self.conflicts.take() } else { self.others.take() }
    }

    /// A transaction was committed.
    pub(crate) fn committed(&self) {
        self.conflicts.add();
        self.others.add();
    }
}

#[derive(Debug)]
struct Bucket {
    tenths: AtomicU32,
    cap: u32,
}

impl Bucket {
    const fn new(start: u32, cap: u32) -> Self {
        Self { tenths: AtomicU32::new(start), cap }
    }

    fn take(&self) -> bool {
        self.update(|tenths| tenths.checked_sub(RETRY))
    }

    fn add(&self) {
        // Most calls find it full, and only read.
        self.update(|tenths| (tenths < self.cap).then(|| tenths + COMMIT));
    }

    fn update(&self, change: impl FnMut(u32) -> Option<u32>) -> bool {
        self.tenths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change).is_ok()
    }
}

#[cfg(all(test, shuttle))]
mod schedules;

#[cfg(test)]
mod tests {
    use super::*;

    fn retries(budget: &Budget, is_conflict: bool) -> usize {
        std::iter::repeat_with(|| budget.take(is_conflict)).take_while(|taken| *taken).count()
    }

    #[test]
    fn ten_commits_pay_for_a_retry_of_each_kind_up_to_the_cap() {
        let budget = Budget::new();
        assert_eq!((retries(&budget, true), retries(&budget, false)), (1, 1), "the start");
        for _ in 0..9 {
            budget.committed();
        }
        assert_eq!(retries(&budget, true), 0);
        budget.committed();
        assert_eq!((retries(&budget, true), retries(&budget, true)), (1, 0));
        assert_eq!(retries(&budget, false), 1);
        for _ in 0..100 {
            budget.committed();
        }
        assert_eq!((retries(&budget, true), retries(&budget, false)), (3, 3));
    }

    #[test]
    fn the_cap_bounds_the_start_too() {
        for (cap, start) in [(0, 0), (1, 1), (50, 1), (u32::MAX, 1)] {
            let budget = Budget::with_cap(cap);
            assert_eq!(retries(&budget, true), start);
            for _ in 0..1_000 {
                budget.committed();
            }
            assert_eq!(retries(&budget, true), cap.min(100) as usize);
        }
    }
}
