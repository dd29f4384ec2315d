//! The retry budget under many schedules.

use std::sync::Arc;

use shuttle::future::spawn;

use super::*;
use crate::sync::schedules::{check, results};

fn tenths(budget: &Budget) -> u32 {
    budget.others.tenths.load(Ordering::Relaxed)
}

#[test]
fn no_token_is_taken_twice_and_no_commit_is_lost() {
    check(|| {
        let budget = Arc::new(Budget::new());
        let calls = [0, 1, 2].map(|_| {
            let budget = budget.clone();
            spawn(async move {
                budget.committed();
                let is_taken = budget.take(false);
                budget.committed();
                u32::from(is_taken)
            })
        });
        let taken: u32 = results(calls).into_iter().sum();
        assert_eq!(taken, 1, "there was one token, and a tenth for each commit");
        assert_eq!(tenths(&budget), START + 6 * COMMIT - RETRY);
        assert_eq!(budget.conflicts.tenths.load(Ordering::Relaxed), START + 6 * COMMIT);
    });
}

#[test]
fn it_never_holds_more_than_its_cap() {
    check(|| {
        let budget = Arc::new(Budget::with_cap(1));
        let calls = [0, 1, 2].map(|call| {
            let budget = budget.clone();
            spawn(async move {
                if call == 0 {
                    budget.take(false);
                }
                for _ in 0..4 {
                    budget.committed();
                    assert!(tenths(&budget) <= RETRY, "more than the cap");
                }
            })
        });
        results(calls);
        assert!(tenths(&budget) <= RETRY);
    });
}
