//! Hooks under many schedules.

use std::sync::{Arc, Mutex as Record};

use shuttle::future::{JoinHandle, block_on, spawn, yield_now};

use super::*;
use crate::error::CommitOutcome;
use crate::sync::schedules::{check, drop_all, results};
use crate::transaction::hooks::{self, When};

/// A hook: its task, and its number there.
type Hook = (usize, usize);

/// The hooks of a call, and what they have done.
#[derive(Debug, Default)]
struct Test {
    status: AttemptStatus,
    registered: Record<Vec<Hook>>,
    begun: Record<Vec<Hook>>,
    ended: Record<Vec<Hook>>,
}

impl Test {
    fn register(self: &Arc<Self>, hook: Hook) {
        let test = self.clone();
        self.status.with_hooks(|hooks| {
            record(&self.registered, hook);
            hooks.add(When::Committed, async move {
                assert_eq!(*lock(&test.begun), *lock(&test.ended), "two hooks run");
                record(&test.begun, hook);
                yield_now().await;
                record(&test.ended, hook);
            });
        });
    }

    /// The end of a call that is committed.
    fn run(self: &Arc<Self>) -> JoinHandle<()> {
        let test = self.clone();
        spawn(async move {
            let due = test.status.with_hooks(|hooks| hooks.take(CommitOutcome::Committed));
            yield_now().await;
            hooks::run(due).await;
        })
    }
}

fn lock(hooks: &Record<Vec<Hook>>) -> std::sync::MutexGuard<'_, Vec<Hook>> {
    hooks.lock().expect("no task panics")
}

fn record(hooks: &Record<Vec<Hook>>, hook: Hook) {
    lock(hooks).push(hook);
}

/// A body that registers hooks from two threads.
fn body() -> Arc<Test> {
    let test = Arc::new(Test::default());
    results([0, 1].map(|task| {
        let test = test.clone();
        spawn(async move { (0..2).for_each(|number| test.register((task, number))) })
    }));
    test
}

#[test]
fn hooks_run_once_and_in_order_of_registration() {
    check(|| {
        let test = body();
        results([test.run()]);
        assert_eq!(lock(&test.ended).len(), 4);
        assert_eq!(*lock(&test.registered), *lock(&test.ended));
    });
}

#[test]
fn a_dropped_call_runs_no_further_hooks() {
    check(|| {
        let test = body();
        let call = test.run();
        block_on(yield_now());
        drop_all([call]);
        let begun = lock(&test.begun).clone();
        assert!(lock(&test.registered).starts_with(&begun), "a hook was skipped");
        assert!(test.status.with_hooks(|hooks| hooks.len()) == 0 || begun.is_empty());
        block_on(yield_now());
        assert_eq!(*lock(&test.begun), begun, "a hook runs after the call");
    });
}
