//! The wait for other calls of a function, under many schedules.

use std::time::Duration;

use shuttle::future::{JoinHandle, block_on, spawn, yield_now};
use tokio::sync::Notify;

use super::*;
use crate::call::queue::QueueKey;
use crate::sync::atomic::AtomicUsize;
use crate::sync::schedules::{check, drop_all, results, time};

/// The time for which the gate closes after an attempt of half of it.
const CLOSED: Duration = Duration::from_secs(2);

fn shared() -> Arc<Shared> {
    PerPool::new().get(Some(1), true)
}

fn close(shared: &Shared) {
    let gate = shared.gate.as_ref().expect("it has a gate");
    let timer = gate.begin(false);
    time::pass(CLOSED / 2);
    assert_eq!(gate.deadlocked(timer), Some(CLOSED));
}

/// What the calls of a test share.
struct Test {
    shared: Arc<Shared>,
    /// How many calls run that have the turn.
    running: AtomicUsize,
    /// Whether the gate may be open by now.
    may_be_open: AtomicBool,
}

impl Test {
    fn new(is_closed: bool) -> Arc<Self> {
        let shared = shared();
        if is_closed {
            close(&shared);
        }
        Arc::new(Self { shared, running: AtomicUsize::new(0), may_be_open: AtomicBool::new(!is_closed) })
    }

    fn open(&self) {
        self.may_be_open.store(true, Ordering::SeqCst);
        time::pass(CLOSED);
    }

    async fn attempt(&self, guards: &mut QueueGuards, escalated: bool) {
        self.shared.wait(guards, escalated).await;
        if guards.has_turn() {
            let _run = Run::new(self);
            yield_now().await;
        } else {
            assert!(!escalated && self.may_be_open.load(Ordering::SeqCst), "it runs beside others");
        }
    }

    fn assert_free(&self) {
        assert_eq!(self.shared.closed_until(), None);
        let mut guards = guards(&[0]);
        block_on(self.shared.wait(&mut guards, true));
        assert!(guards.has_turn());
    }
}

/// A call that has the turn, and runs.
struct Run<'a>(&'a Test);

impl<'a> Run<'a> {
    fn new(test: &'a Test) -> Self {
        assert_eq!(test.running.fetch_add(1, Ordering::SeqCst), 0, "two calls have the turn");
        Self(test)
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

fn guards(keys: &[i64]) -> QueueGuards {
    QueueGuards::new(keys.iter().map(QueueKey::in_server).collect())
}

fn call(test: &Arc<Test>, keys: &'static [i64], escalated: bool) -> JoinHandle<()> {
    let test = test.clone();
    spawn(async move {
        let mut guards = guards(keys);
        test.attempt(&mut guards, escalated).await;
        // A retry after a conflict keeps its places.
        test.attempt(&mut guards, escalated).await;
        guards.release_all();
    })
}

#[test]
fn while_the_gate_is_closed_one_call_runs_at_a_time_until_it_opens() {
    check(|| {
        let test = Test::new(true);
        let calls = [0, 1, 2].map(|_| call(&test, &[], false));
        time::pass(CLOSED - Duration::from_millis(1));
        test.open();
        results(calls);
        test.assert_free();
    });
}

#[test]
fn a_dropped_call_does_not_keep_the_turn_or_the_gate() {
    check(|| {
        let test = Test::new(true);
        let dropped = [call(&test, &[0], false), call(&test, &[], true)];
        let others = [call(&test, &[0], false), call(&test, &[], true)];
        drop_all(dropped);
        results(others);
        test.open();
        test.assert_free();
    });
}

#[test]
fn keys_and_turns_are_waited_for_in_one_order() {
    check(|| {
        let test = Test::new(true);
        let calls = [call(&test, &[0], true), call(&test, &[0, 1], false), call(&test, &[1, 0], true)];
        test.open();
        results(calls);
        test.assert_free();
    });
}

#[test]
fn a_call_with_the_turn_does_not_wait_in_line_again() {
    check(|| {
        let test = Test::new(true);
        let calls = [0, 1].map(|_| {
            let test = test.clone();
            spawn(async move {
                let mut guards = guards(&[0]);
                guards.lock_in_server("f");
                test.attempt(&mut guards, false).await;
                guards.locked_in_server();
                test.attempt(&mut guards, false).await;
            })
        });
        results(calls);
    });
}

#[test]
fn a_call_whose_body_waits_for_another_ends_once_the_gate_opens() {
    check(|| {
        let test = Test::new(true);
        let done = Arc::new(Notify::new());
        let calls = [true, false].map(|is_outer| {
            let (test, done) = (test.clone(), done.clone());
            spawn(async move {
                let mut guards = guards(&[]);
                test.shared.wait(&mut guards, false).await;
                if is_outer {
                    done.notified().await;
                } else {
                    done.notify_one();
                }
            })
        });
        test.open();
        results(calls);
    });
}

#[test]
fn calls_at_the_same_time_share_one_gate() {
    check(|| {
        let per_pool = Arc::new(PerPool::new());
        let calls = [0, 1].map(|_| {
            let per_pool = per_pool.clone();
            spawn(async move { per_pool.get(Some(1), true) })
        });
        let [one, other] = results(calls);
        assert!(Arc::ptr_eq(&one, &other));
    });
}
