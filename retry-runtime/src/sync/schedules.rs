//! Runs a test under many schedules: `scripts/schedules`.
//!
//! Shuttle runs the tasks of a test on one thread. At each access to a lock or an atomic, and at each pending future, a
//! scheduler chooses the task that goes on. A test fails if it panics, or if all tasks wait.

pub(crate) mod queue;
pub(crate) mod time;

use std::time::Instant;

use shuttle::future::{JoinHandle, block_on};
use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::{Config, Runner};

/// How many preemptions PCT tries.
const PREEMPTIONS: usize = 3;

/// Runs `test` under random schedules, under random ones with few preemptions, and under all in order, as many of each as
/// `SCHEDULES` says. With `SCHEDULE`, under this one only.
pub(crate) fn check(test: impl Fn() + Clone + Send + Sync + 'static) {
    if let Ok(schedule) = std::env::var("SCHEDULE") {
        run(ReplayScheduler::new_from_encoded(&schedule), test);
        return;
    }
    let schedules = std::env::var("SCHEDULES").map_or(1_000, |number| number.parse().expect("a number"));
    let start = Instant::now();
    let random = run(RandomScheduler::new(schedules), test.clone());
    let preempted = run(PctScheduler::new(PREEMPTIONS, schedules), test.clone());
    let ordered = run(DfsScheduler::new(Some(schedules), false), test);
    let all = if ordered < schedules { ", which is all" } else { "" };
    let time = start.elapsed().as_secs_f64();
    println!("{random} random, {preempted} with few preemptions, {ordered} in order{all}: {time:.1} s");
}

fn run(scheduler: impl Scheduler + 'static, test: impl Fn() + Send + Sync + 'static) -> usize {
    let mut config = Config::new();
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(test)
}

/// Waits for the ends of calls.
pub(crate) fn results<T, const N: usize>(calls: [JoinHandle<T>; N]) -> [T; N] {
    calls.map(|call| block_on(call).expect("it is not dropped"))
}

/// Drops calls, if they have not ended by then.
pub(crate) fn drop_all<const N: usize>(calls: [JoinHandle<()>; N]) {
    for call in &calls {
        call.abort();
    }
    for call in calls {
        let _ = block_on(call);
    }
}

/// Lets the scheduler choose another task.
pub(crate) fn switch() {
    AtomicBool::new(false).load(Ordering::SeqCst);
}
