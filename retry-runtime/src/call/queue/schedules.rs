//! The queues under many schedules.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Mutex as Record;

use shuttle::future::{JoinHandle, block_on, spawn, yield_now};
use tokio::sync::Notify;

use super::*;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::schedules::{check, drop_all, results};

fn guards(keys: &[u64]) -> QueueGuards {
    QueueGuards::new(keys.iter().map(|key| QueueKey([*key, 0])).collect())
}

/// The keys whose calls run. Those of a call are given back when it ends or is dropped.
#[derive(Debug, Default)]
struct Running([AtomicBool; 2]);

struct Run(Arc<Running>, &'static [u64]);

impl Run {
    fn new(running: &Arc<Running>, keys: &'static [u64]) -> Self {
        for key in keys {
            let is_taken = running.0[usize::try_from(*key).expect("small")].swap(true, Ordering::SeqCst);
            assert!(!is_taken, "two calls with the key {key} run");
        }
        Self(running.clone(), keys)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        for key in self.1 {
            self.0.0[usize::try_from(*key).expect("small")].store(false, Ordering::SeqCst);
        }
    }
}

/// A call that waits for its keys, and runs for a while.
fn call(queues: &Arc<Queues>, running: &Arc<Running>, keys: &'static [u64]) -> JoinHandle<()> {
    let (queues, running) = (queues.clone(), running.clone());
    spawn(async move {
        let mut guards = guards(keys);
        guards.wait_in_line(&queues).await;
        let run = Run::new(&running, keys);
        yield_now().await;
        drop(run);
        guards.release_all();
    })
}

fn assert_unused(queues: &Queues) {
    assert!(queues.by_key().is_empty(), "a queue without calls is kept");
    assert_eq!(Arc::strong_count(&queues.alone), 1, "a call without a turn is kept");
}

#[test]
fn per_key_one_call_runs_and_none_waits_forever() {
    check(|| {
        let (queues, running) = (Arc::default(), Arc::default());
        let calls = [&[0][..], &[0, 1], &[1, 0], &[1]].map(|keys| call(&queues, &running, keys));
        results(calls);
        assert_unused(&queues);
    });
}

#[test]
fn a_call_dropped_while_it_waits_or_runs_leaves_the_queues() {
    check(|| {
        let (queues, running) = (Arc::default(), Arc::default());
        let dropped = [&[0, 1][..], &[0]].map(|keys| call(&queues, &running, keys));
        let others = [&[1, 0][..], &[0]].map(|keys| call(&queues, &running, keys));
        drop_all(dropped);
        results(others);
        assert_unused(&queues);
    });
}

#[derive(Clone, Copy, PartialEq)]
enum Step {
    Comes,
    IsInLine,
    Runs,
}

#[test]
fn calls_run_in_order_of_arrival() {
    check(|| {
        let queues = Arc::<Queues>::default();
        let record = Arc::<Record<Vec<(usize, Step)>>>::default();
        let calls = [0, 1, 2].map(|call| {
            let (queues, record) = (queues.clone(), record.clone());
            spawn(async move {
                let note = |step| record.lock().expect("not poisoned").push((call, step));
                let mut guards = guards(&[0]);
                let mut is_first = true;
                let mut wait = pin!(guards.wait_in_line(&queues));
                note(Step::Comes);
                poll_fn(|cx| {
                    let poll = wait.as_mut().poll(cx);
                    if std::mem::take(&mut is_first) {
                        note(Step::IsInLine);
                    }
                    poll
                })
                .await;
                note(Step::Runs);
            })
        });
        results(calls);
        let record = record.lock().expect("not poisoned");
        let at = |call, step| record.iter().position(|noted| *noted == (call, step)).expect("noted");
        for (one, other) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
            if at(one, Step::IsInLine) < at(other, Step::Comes) {
                assert!(at(one, Step::Runs) < at(other, Step::Runs), "a later call went first");
            }
        }
    });
}

#[test]
fn one_call_has_the_turn_to_run_alone() {
    check(|| {
        let (queues, running) = (Arc::<Queues>::default(), Arc::<Running>::default());
        let calls = [0, 1, 2].map(|_| {
            let (queues, running) = (queues.clone(), running.clone());
            spawn(async move {
                let mut guards = guards(&[]);
                // Two attempts, with a sleep in between.
                for _ in 0..2 {
                    guards.wait_for_turn(&queues).await;
                    let run = Run::new(&running, &[0]);
                    yield_now().await;
                    drop(run);
                    guards.release_turn();
                    yield_now().await;
                }
            })
        });
        calls[0].abort();
        let ends = calls.map(block_on);
        assert!(ends[1].is_ok() && ends[2].is_ok());
        assert_unused(&queues);
    });
}

/// The lock of a key in the server.
#[derive(Debug, Default)]
struct Server {
    lock: Arc<Queue<()>>,
    /// How many calls hold it or wait for it.
    calls: AtomicUsize,
    /// How many calls have come, and held it.
    have_come: AtomicUsize,
    have_run: AtomicUsize,
    another_has_come: Notify,
}

#[test]
fn while_a_call_runs_the_next_one_waits_in_the_server() {
    const CALLS: usize = 3;
    check(|| {
        let (queues, server) = (Arc::<Queues>::default(), Arc::<Server>::default());
        let calls = [(); CALLS].map(|()| {
            let (queues, server) = (queues.clone(), server.clone());
            spawn(async move {
                let mut guards = guards(&[0]);
                guards.lock_in_server("f");
                guards.wait_in_line(&queues).await;
                assert!(server.calls.fetch_add(1, Ordering::SeqCst) < 2, "two calls wait in the server");
                if server.have_come.fetch_add(1, Ordering::SeqCst) > 0 {
                    server.another_has_come.notify_one();
                }
                let lock = server.lock.clone().lock_owned().await;
                guards.locked_in_server();
                if server.have_run.fetch_add(1, Ordering::SeqCst) < CALLS - 1 {
                    server.another_has_come.notified().await;
                }
                server.calls.fetch_sub(1, Ordering::SeqCst);
                drop(lock);
            })
        });
        results(calls);
        assert_unused(&queues);
    });
}
