//! The counters of one function, and the list of functions that have been called.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The reasons for retries, in the order of the counters.
pub(crate) const REASONS: [&str; 13] = [
    "serialization",
    "deadlock",
    "lock",
    "connection",
    "capacity",
    "read_only",
    "stale_plan",
    "retry_on",
    "retry_if",
    "unseen",
    "begin_canceled",
    "left_open",
    "other",
];

/// The functions that have been called, in order of their first call.
static FUNCTIONS: Mutex<Vec<&'static Counters>> = Mutex::new(Vec::new());

/// What is counted of a function. Relaxed, because the counters do not depend on each other.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(super) function: &'static str,
    is_listed: AtomicBool,
    pub(super) calls: AtomicU64,
    pub(super) committed: AtomicU64,
    pub(super) body_errors: AtomicU64,
    pub(super) attempts: AtomicU64,
    pub(super) retries: [AtomicU64; REASONS.len()],
    pub(super) give_ups: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) unanswered_commits: AtomicU64,
    pub(super) ignored_failures: AtomicU64,
    pub(super) discarded_connections: AtomicU64,
    pub(super) queue_waits: AtomicU64,
    pub(super) nanos: AtomicU64,
    pub(super) wasted_nanos: AtomicU64,
    pub(super) waiting_nanos: AtomicU64,
}

impl Counters {
    pub(crate) const fn new(function: &'static str) -> Self {
        Self {
            function,
            is_listed: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            body_errors: AtomicU64::new(0),
            attempts: AtomicU64::new(0),
            retries: [const { AtomicU64::new(0) }; REASONS.len()],
            give_ups: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            unanswered_commits: AtomicU64::new(0),
            ignored_failures: AtomicU64::new(0),
            discarded_connections: AtomicU64::new(0),
            queue_waits: AtomicU64::new(0),
            nanos: AtomicU64::new(0),
            wasted_nanos: AtomicU64::new(0),
            waiting_nanos: AtomicU64::new(0),
        }
    }

    /// Lists the function, the first time.
    pub(super) fn list(&'static self) {
        if !self.is_listed.load(Ordering::Relaxed) && !self.is_listed.swap(true, Ordering::Relaxed) {
            FUNCTIONS.lock().unwrap_or_else(PoisonError::into_inner).push(self);
        }
    }
}

/// The functions that have been called, in order of their first call.
pub(super) fn listed() -> Vec<&'static Counters> {
    FUNCTIONS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
