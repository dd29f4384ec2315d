//! The deadlock gate under many schedules.

use std::sync::Arc;

use shuttle::future::spawn;

use super::*;
use crate::sync::schedules::{check, results, time};

const TOOK: Duration = Duration::from_secs(1);

/// An attempt that began a second ago.
fn timer(gate: &DeadlockGate) -> AttemptTimer {
    let timer = gate.begin(false);
    AttemptTimer { began: timer.began.checked_sub(TOOK).expect("long ago"), ..timer }
}

#[test]
fn of_deadlocks_at_the_same_time_one_closes_it() {
    check(|| {
        let gate = Arc::new(DeadlockGate::new());
        let attempts = [(), ()].map(|()| {
            let (gate, timer) = (gate.clone(), timer(&gate));
            spawn(async move { gate.deadlocked(timer) })
        });
        let closed: Vec<_> = results(attempts).into_iter().flatten().collect();
        assert_eq!(closed, [TOOK * 2]);
        assert_eq!(gate.closed_until(), Some(Instant::now() + TOOK * 2));
        time::pass(TOOK * 2);
        assert_eq!(gate.closed_until(), None);
    });
}

#[test]
fn it_stays_closed_if_it_is_closed_again_when_it_is_seen_to_open() {
    check(|| {
        let gate = Arc::new(DeadlockGate::new());
        gate.deadlocked(timer(&gate)).expect("it closes");
        let (other, attempt, timer) = (gate.clone(), gate.clone(), timer(&gate));
        let other = spawn(async move {
            let _ = other.closed_until();
        });
        let attempt = spawn(async move { attempt.deadlocked(timer) });
        time::pass(TOOK * 2);
        results([other]);
        let [closed] = results([attempt]);
        assert!(closed.is_none() || gate.closed_until().is_some(), "it is open");
    });
}

#[test]
fn an_attempt_under_way_is_told_of_each_deadlock() {
    check(|| {
        let gate = Arc::new(DeadlockGate::new());
        let waiting = spawn(async move {
            // The first deadlock closes the gate.
            for _ in 0..2 {
                let closing = gate.closing.notified();
                let (gate, timer) = (gate.clone(), timer(&gate));
                let victim = spawn(async move { gate.deadlocked(timer) });
                closing.await;
                results([victim]);
            }
        });
        results([waiting]);
    });
}

#[test]
fn a_time_measured_one_at_a_time_is_kept_beside_shorter_ones() {
    check(|| {
        let gate = Arc::new(DeadlockGate::new());
        let attempts = [false, true, false].map(|alone| {
            let gate = gate.clone();
            spawn(async move {
                let timer = if alone { AttemptTimer { alone, ..timer(&gate) } } else { gate.begin(alone) };
                gate.committed(timer);
            })
        });
        results(attempts);
        assert_eq!(gate.commits.load(Ordering::Relaxed), 3);
        assert_eq!(gate.takes(), micros(TOOK));
    });
}
