//! What follows a deadlock that cost more than running at once gained: for a while, a function's calls on that pool go one
//! at a time.
//!
//! The server takes its `deadlock_timeout` (1 s by default) to find a deadlock. Calls that lock rows in any order spend
//! nearly all their time in the next one, whatever they wait before a retry. One at a time they cannot meet another.
//!
//! It shuts if during the deadlock fewer calls were committed than could have been one after the other: for twice as long
//! as the deadlock took, and twice that each time that it soon comes to it again. So a deadlock now and then costs little,
//! and a function that lives in deadlocks runs one at a time nearly always.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The longest time, in deadlocks.
const LONGEST: u32 = 64;

/// Watches the attempts of one function on one pool.
#[derive(Debug)]
pub(crate) struct Damper {
    commits: AtomicU64,
    /// What a transaction takes where it meets no other, in microseconds. 0: unknown.
    takes: AtomicU64,
    /// Whether `takes` was measured one at a time, and is not just the shortest seen.
    measured: AtomicBool,
    shut: AtomicBool,
    plan: Mutex<Plan>,
}

#[derive(Debug)]
struct Plan {
    until: Option<Instant>,
    /// How long it was shut last.
    span: Duration,
}

/// An attempt that is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lap {
    began: Instant,
    /// The commits before it.
    commits: u64,
    /// Whether it has the turn among the calls that go one at a time.
    alone: bool,
}

impl Damper {
    pub(crate) fn new() -> Self {
        Self {
            commits: AtomicU64::new(0),
            takes: AtomicU64::new(0),
            measured: AtomicBool::new(false),
            shut: AtomicBool::new(false),
            plan: Mutex::new(Plan { until: None, span: Duration::ZERO }),
        }
    }

    /// For how much longer calls go one at a time, if they do.
    pub(crate) fn shut_for(&self) -> Option<Duration> {
        if !self.shut.load(Ordering::Relaxed) {
            return None;
        }
        let left = self.plan().until?.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        self.shut.store(left.is_some(), Ordering::Relaxed);
        left
    }

    /// An attempt begins.
    pub(crate) fn begin(&self, alone: bool) -> Lap {
        Lap { began: Instant::now(), commits: self.commits.load(Ordering::Relaxed), alone }
    }

    /// It is committed.
    pub(crate) fn committed(&self, lap: Lap) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        if lap.alone || !self.measured.load(Ordering::Relaxed) {
            self.measure(lap.alone, micros(lap.began.elapsed()));
        }
    }

    /// It fell victim to a deadlock. `Some`: from now on, and for so long, calls go one at a time.
    pub(crate) fn deadlocked(&self, lap: Lap) -> Option<Duration> {
        let commits = self.commits.load(Ordering::Relaxed).wrapping_sub(lap.commits);
        let (now, took) = (Instant::now(), lap.began.elapsed());
        if self.shut_for().is_some() {
            // Calls from before are still in deadlocks with each other.
            let mut plan = self.plan();
            if !lap.alone {
                plan.until = Some(now + plan.span);
            }
            return None;
        }
        // The other side of the deadlock may be committed by now: that one is no sign of life.
        let one_by_one = micros(took) / self.takes.load(Ordering::Relaxed).max(1);
        if commits > one_by_one.max(1) {
            return None;
        }
        let mut plan = self.plan();
        let soon = plan.until.is_some_and(|until| now < until + plan.span + took * 2);
        plan.span = if soon { (plan.span * 2).min(took * LONGEST) } else { took * 2 };
        plan.until = Some(now + plan.span);
        self.shut.store(true, Ordering::Relaxed);
        Some(plan.span)
    }

    /// A moving average of what was measured, or else the shortest.
    fn measure(&self, alone: bool, took: u64) {
        let known = self.takes.load(Ordering::Relaxed);
        let takes = match (alone, self.measured.swap(alone, Ordering::Relaxed)) {
            (true, true) => (known * 7 + took) / 8,
            (false, _) if known > 0 => known.min(took),
            _ => took,
        };
        self.takes.store(takes.max(1), Ordering::Relaxed);
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attempt that began a while ago, with so many commits since.
    fn lap(damper: &Damper, ago_ms: u64, commits: u64, alone: bool) -> Lap {
        let began = Instant::now().checked_sub(Duration::from_millis(ago_ms)).expect("long up");
        Lap { began, commits: damper.commits.load(Ordering::Relaxed).wrapping_sub(commits), alone }
    }

    /// Whether that is so many seconds. On a busy machine, more time has passed than a test made pass.
    fn about(time: Option<Duration>, secs: f64) -> bool {
        time.is_some_and(|time| (secs..secs * 1.4).contains(&time.as_secs_f64()))
    }

    /// Makes the time pass after which it was to open.
    fn pass(damper: &Damper, then_secs: u64) {
        let ago = Instant::now().checked_sub(Duration::from_secs(then_secs));
        damper.plan().until = ago;
    }

    #[test]
    fn it_shuts_where_one_at_a_time_had_done_more() {
        let damper = Damper::new();
        damper.committed(lap(&damper, 10, 0, false));
        assert_eq!(damper.deadlocked(lap(&damper, 1_000, 101, false)), None, "a hundred could have been committed");
        assert_eq!(damper.shut_for(), None);
        assert!(about(damper.deadlocked(lap(&damper, 1_000, 90, false)), 2.0));
        assert!(damper.shut_for().is_some());
        pass(&damper, 0);
        assert_eq!(damper.shut_for(), None);
    }

    #[test]
    fn what_was_measured_one_at_a_time_is_worth_more_than_the_shortest() {
        let damper = Damper::new();
        damper.committed(lap(&damper, 10, 0, false));
        damper.committed(lap(&damper, 100, 0, true));
        damper.committed(lap(&damper, 10, 0, false));
        assert_eq!(damper.deadlocked(lap(&damper, 1_000, 11, false)), None, "ten could have been committed");
        assert!(damper.deadlocked(lap(&damper, 1_000, 8, false)).is_some());
    }

    #[test]
    fn waiting_for_others_is_not_taken_for_work() {
        let damper = Damper::new();
        damper.committed(lap(&damper, 10, 0, false));
        damper.committed(lap(&damper, 900, 0, false));
        assert!(damper.deadlocked(lap(&damper, 1_000, 50, false)).is_some(), "a hundred could have been committed");
    }

    #[test]
    fn what_is_measured_follows_the_function() {
        let damper = Damper::new();
        damper.committed(lap(&damper, 500, 0, true));
        for _ in 0..60 {
            damper.committed(lap(&damper, 10, 0, true));
        }
        assert!(
            damper.deadlocked(lap(&damper, 1_000, 50, false)).is_some(),
            "nearly a hundred could have been committed"
        );
    }

    #[test]
    fn the_survivor_of_a_deadlock_is_no_sign_of_life() {
        let damper = Damper::new();
        let victim = lap(&damper, 1_000, 0, false);
        damper.committed(lap(&damper, 1_100, 0, false));
        assert!(damper.deadlocked(victim).is_some());
    }

    #[test]
    fn it_shuts_for_longer_where_it_soon_comes_to_it_again() {
        let damper = Damper::new();
        for secs in [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 64.0] {
            let time = damper.deadlocked(lap(&damper, 1_000, 0, false));
            assert!(about(time, secs), "no commits at all, and shut for {time:?}, not {secs} s");
            pass(&damper, 0);
        }
        pass(&damper, 100);
        assert!(about(damper.deadlocked(lap(&damper, 1_000, 0, false)), 2.0), "it went well for a while");
    }

    #[test]
    fn it_stays_shut_until_the_calls_from_before_are_through() {
        let damper = Damper::new();
        assert!(damper.deadlocked(lap(&damper, 1_000, 0, false)).is_some());
        let until = Some(Instant::now() + Duration::from_secs(60));
        damper.plan().until = until;
        assert_eq!(damper.deadlocked(lap(&damper, 1_000, 0, true)), None);
        assert_eq!(damper.plan().until, until, "one that ran alone met somebody else");
        assert_eq!(damper.deadlocked(lap(&damper, 1_000, 0, false)), None);
        assert!(damper.plan().until < until, "by now, it is another two seconds");
        assert!(damper.shut_for().is_some());
    }
}
