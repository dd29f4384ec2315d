//! The circuit breaker under many schedules.

use std::sync::Arc;

use shuttle::future::{JoinHandle, spawn};

use super::*;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::schedules::{check, results, time};

/// A circuit that five failures have opened.
fn open() -> Arc<Circuit> {
    let circuit = Arc::new(Circuit::new(OPEN_FOR));
    let changes: Vec<_> = (0..5).map(|_| circuit.admit().expect("closed").end(Health::Failed)).collect();
    assert_eq!(changes, [None, None, None, None, Some(Change::Opened)]);
    circuit
}

/// A call whose attempt ends like this. `None`: it is dropped. Returns the change, if it was admitted.
fn call(circuit: &Arc<Circuit>, trials: &Arc<AtomicUsize>, health: Option<Health>) -> JoinHandle<Option<Change>> {
    let (circuit, trials) = (circuit.clone(), trials.clone());
    spawn(async move {
        let admission = circuit.admit().ok()?;
        if admission.pass.trial.is_some() {
            assert_eq!(trials.fetch_add(1, Ordering::SeqCst), 0, "two trials at once");
            trials.fetch_sub(1, Ordering::SeqCst);
        }
        health.and_then(|health| admission.end(health))
    })
}

#[test]
fn one_call_at_a_time_is_the_trial() {
    check(|| {
        let (circuit, trials) = (open(), Arc::default());
        time::pass(OPEN_FOR);
        let healths = [None, Some(Health::Answered), Some(Health::Failed), None];
        let calls = healths.map(|health| call(&circuit, &trials, health));
        let changes = results(calls);
        // A failure counts if the call was the trial. Of a closed circuit, one failure is too few.
        assert!(matches!(changes, [None, None | Some(Change::Closed), None | Some(Change::Opened), None]));
        assert!(changes[1].is_none() || changes[2].is_none(), "{changes:?}");
        time::pass(OPEN_FOR);
        assert!(circuit.admit().is_ok(), "it stays open");
    });
}

#[test]
fn a_dropped_trial_leaves_its_place_at_once() {
    check(|| {
        let (circuit, trials) = (open(), Arc::default());
        time::pass(OPEN_FOR);
        let calls = [0, 1, 2].map(|_| call(&circuit, &trials, None));
        results(calls);
        let trial = circuit.admit().expect("the place of the trial is free");
        assert_eq!(trial.end(Health::Answered), Some(Change::Closed));
    });
}

#[test]
fn failures_at_once_open_it_once_and_earlier_results_do_not_count() {
    check(|| {
        let circuit = Arc::new(Circuit::new(OPEN_FOR));
        for _ in 0..3 {
            circuit.admit().expect("closed").end(Health::Failed);
        }
        let calls = [Health::Failed; 3].map(|health| call(&circuit, &Arc::default(), Some(health)));
        let changes = results(calls);
        let openings = changes.iter().flatten().filter(|change| **change == Change::Opened).count();
        assert_eq!(openings, 1, "{changes:?}");
        assert_eq!(circuit.admit().err(), Some(OPEN_FOR));
    });
}

#[test]
fn a_trial_that_never_ends_is_replaced_and_its_late_result_counts() {
    check(|| {
        let circuit = open();
        time::pass(OPEN_FOR);
        let trial = circuit.admit().expect("it is the first");
        let other = call(&circuit, &Arc::default(), Some(Health::Failed));
        time::pass(OPEN_FOR);
        let late = trial.end(Health::Answered);
        let [other] = results([other]);
        let is_open = circuit.admit().is_err();
        match (late, other) {
            (Some(Change::Closed), None) => assert!(!is_open),
            (None, Some(Change::Opened)) => assert!(is_open),
            changes => panic!("{changes:?}"),
        }
    });
}
