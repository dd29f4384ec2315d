//! Runs a function's calls on a pool one at a time for a while, after deadlocks that cost more than concurrency gains.
//!
//! The server takes its `deadlock_timeout` (1 s by default) to find a deadlock. Calls that lock rows in any order spend
//! nearly all their time in deadlocks, however long they sleep before a retry. One at a time, they cannot deadlock.
//!
//! The gate closes if fewer calls committed during the deadlocked attempt than would have if they had run one after the
//! other. It stays closed for twice as long as that attempt took. If the next costly deadlock follows soon, that time
//! doubles. So an occasional deadlock costs little, and a function that deadlocks all the time runs one at a time nearly
//! always.
//!
//! Attempts that began before are still in deadlocks with each other, and the server would find these one after the other.
//! If their sessions can be cancelled, `interrupt` cancels the statements that they wait for.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::sync::Notify;

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Instant, Mutex, MutexGuard};

/// The longest time that the gate is closed, as a multiple of how long the deadlocked attempt took.
const LONGEST: u32 = 64;

/// The gate of one function on one pool.
#[derive(Debug)]
pub(crate) struct DeadlockGate {
    commits: AtomicU64,
    /// How long a transaction takes without any conflict, in half microseconds. 0: unknown. Odd: it was measured one at a
    /// time. Even: it is the shortest time seen.
    takes: AtomicU64,
    closed: AtomicBool,
    /// Tells the attempts under way that the gate closes.
    pub(crate) closing: Notify,
    plan: Mutex<Plan>,
}

#[derive(Debug)]
struct Plan {
    until: Option<Instant>,
    /// How long the gate was last closed.
    span: Duration,
}

impl Plan {
    fn closed_until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| now < *until)
    }
}

/// An attempt that is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptTimer {
    began: Instant,
    /// The commits before it.
    commits: u64,
    /// Whether it has the turn among the calls that run one at a time.
    alone: bool,
}

impl DeadlockGate {
    pub(crate) fn new() -> Self {
        Self {
            commits: AtomicU64::new(0),
            takes: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            closing: Notify::const_new(),
            plan: Mutex::new(Plan { until: None, span: Duration::ZERO }),
        }
    }

    /// Until when calls run one at a time, if they do.
    pub(crate) fn closed_until(&self) -> Option<Instant> {
        if !self.closed.load(Ordering::Relaxed) {
            return None;
        }
        let plan = self.plan();
        let until = plan.closed_until(Instant::now());
        // Under the lock: a deadlock may close it at this time.
        self.closed.store(until.is_some(), Ordering::Relaxed);
        until
    }

    /// An attempt begins.
    pub(crate) fn begin(&self, alone: bool) -> AttemptTimer {
        AttemptTimer { began: Instant::now(), commits: self.commits.load(Ordering::Relaxed), alone }
    }

    /// It is committed.
    pub(crate) fn committed(&self, timer: AttemptTimer) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        if timer.alone || self.takes.load(Ordering::Relaxed) % 2 == 0 {
            self.measure(timer.alone, micros(timer.began.elapsed()));
        }
    }

    /// The server ended it because of a deadlock. `Some`: from now on, and for this time, calls run one at a time.
    pub(crate) fn deadlocked(&self, timer: AttemptTimer) -> Option<Duration> {
        let commits = self.commits.load(Ordering::Relaxed).wrapping_sub(timer.commits);
        let took = timer.began.elapsed();
        // One lock for all: of deadlocks at the same time, one closes the gate.
        let mut plan = self.plan();
        let now = Instant::now();
        if plan.closed_until(now).is_some() {
            // Calls that began before the gate closed are still in deadlocks with each other.
            if !timer.alone {
                plan.until = Some(now + plan.span);
                self.closing.notify_waiters();
            }
            return None;
        }
        // The other transaction of the deadlock may be committed by now. So one commit is not progress.
        let one_by_one = micros(took) / self.takes().max(1);
        if commits > one_by_one.max(1) {
            return None;
        }
        let soon = plan.until.is_some_and(|until| now < until + plan.span + took * 2);
        plan.span = if soon { (plan.span * 2).min(took * LONGEST) } else { took * 2 };
        plan.until = Some(now + plan.span);
        self.closed.store(true, Ordering::Relaxed);
        self.closing.notify_waiters();
        Some(plan.span)
    }

    /// How long a transaction takes without any conflict, in microseconds. 0: unknown.
    fn takes(&self) -> u64 {
        self.takes.load(Ordering::Relaxed) / 2
    }

    /// A moving average of the times measured one at a time. Until there is one, the shortest time seen.
    fn measure(&self, alone: bool, took: u64) {
        let took = took.max(1);
        // Most find a shorter time, and only read.
        let _ = self.takes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |takes| {
            let (known, measured) = (takes / 2, takes % 2 == 1);
            match (alone, measured) {
                (true, true) => Some((known * 7 + took) / 8 * 2 + 1),
                (true, false) => Some(took * 2 + 1),
                (false, false) if known == 0 || took < known => Some(took * 2),
                (false, _) => None,
            }
        });
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(all(test, shuttle))]
mod schedules;

#[cfg(test)]
mod tests {
    use super::*;

    /// An attempt that began `ago_ms` ago, with this many commits since.
    fn timer(gate: &DeadlockGate, ago_ms: u64, commits: u64, alone: bool) -> AttemptTimer {
        let began = Instant::now().checked_sub(Duration::from_millis(ago_ms)).expect("long up");
        AttemptTimer { began, commits: gate.commits.load(Ordering::Relaxed).wrapping_sub(commits), alone }
    }

    /// Whether the time is about `secs`. On a busy machine, more time passes than the test asks for.
    fn about(time: Option<Duration>, secs: f64) -> bool {
        time.is_some_and(|time| (secs..secs * 1.4).contains(&time.as_secs_f64()))
    }

    /// Makes the time pass after which the gate opens.
    fn pass(gate: &DeadlockGate, then_secs: u64) {
        let ago = Instant::now().checked_sub(Duration::from_secs(then_secs));
        gate.plan().until = ago;
    }

    #[test]
    fn it_closes_if_one_at_a_time_had_committed_more() {
        let gate = DeadlockGate::new();
        gate.committed(timer(&gate, 10, 0, false));
        assert_eq!(gate.deadlocked(timer(&gate, 1_000, 101, false)), None, "a hundred could have been committed");
        assert_eq!(gate.closed_until(), None);
        assert!(about(gate.deadlocked(timer(&gate, 1_000, 90, false)), 2.0));
        assert!(gate.closed_until().is_some());
        pass(&gate, 0);
        assert_eq!(gate.closed_until(), None);
    }

    #[test]
    fn times_measured_one_at_a_time_replace_the_shortest() {
        let gate = DeadlockGate::new();
        gate.committed(timer(&gate, 10, 0, false));
        gate.committed(timer(&gate, 100, 0, true));
        gate.committed(timer(&gate, 10, 0, false));
        assert_eq!(gate.deadlocked(timer(&gate, 1_000, 11, false)), None, "ten could have been committed");
        assert!(gate.deadlocked(timer(&gate, 1_000, 8, false)).is_some());
    }

    #[test]
    fn waiting_for_others_is_not_taken_for_work() {
        let gate = DeadlockGate::new();
        gate.committed(timer(&gate, 10, 0, false));
        gate.committed(timer(&gate, 900, 0, false));
        assert!(gate.deadlocked(timer(&gate, 1_000, 50, false)).is_some(), "a hundred could have been committed");
    }

    #[test]
    fn the_measured_time_follows_the_function() {
        let gate = DeadlockGate::new();
        gate.committed(timer(&gate, 500, 0, true));
        for _ in 0..60 {
            gate.committed(timer(&gate, 10, 0, true));
        }
        assert!(
            gate.deadlocked(timer(&gate, 1_000, 50, false)).is_some(),
            "nearly a hundred could have been committed"
        );
    }

    #[test]
    fn the_survivor_of_a_deadlock_does_not_count_as_progress() {
        let gate = DeadlockGate::new();
        let victim = timer(&gate, 1_000, 0, false);
        gate.committed(timer(&gate, 1_100, 0, false));
        assert!(gate.deadlocked(victim).is_some());
    }

    #[test]
    fn it_closes_for_longer_if_deadlocks_soon_follow() {
        let gate = DeadlockGate::new();
        for secs in [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 64.0] {
            let time = gate.deadlocked(timer(&gate, 1_000, 0, false));
            assert!(about(time, secs), "no commits at all, and closed for {time:?}, not {secs} s");
            pass(&gate, 0);
        }
        pass(&gate, 100);
        assert!(about(gate.deadlocked(timer(&gate, 1_000, 0, false)), 2.0), "it went well for a while");
    }

    #[test]
    fn it_stays_closed_until_earlier_calls_have_ended() {
        let gate = DeadlockGate::new();
        assert!(gate.deadlocked(timer(&gate, 1_000, 0, false)).is_some());
        let until = Some(Instant::now() + Duration::from_secs(60));
        gate.plan().until = until;
        assert_eq!(gate.deadlocked(timer(&gate, 1_000, 0, true)), None);
        assert_eq!(gate.plan().until, until, "a call that ran alone met other code");
        assert_eq!(gate.deadlocked(timer(&gate, 1_000, 0, false)), None);
        assert!(gate.plan().until < until, "by now, it is another two seconds");
        assert!(gate.closed_until().is_some());
    }
}
