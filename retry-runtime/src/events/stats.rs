//! The statistics of each function, kept without any feature.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::events::counters::{Counters, REASONS, listed};
use crate::events::{CallEnd, CallResult, Event};

/// Counts an event.
#[inline]
pub(super) fn record(counters: &'static Counters, event: &Event<'_>) {
    match event {
        Event::CallEnded(end) => call_ended(counters, end),
        Event::AttemptEnded(_) => {}
        event => count(counters, event),
    }
}

fn count(counters: &'static Counters, event: &Event<'_>) {
    match event {
        Event::Retrying { cause, .. } => {
            let index = REASONS.iter().position(|reason| reason == cause).unwrap_or(REASONS.len() - 1);
            add(&counters.retries[index], 1);
        }
        Event::GivingUp { .. } => add(&counters.give_ups, 1),
        Event::CircuitOpen { .. } => add(&counters.refused, 1),
        Event::CommitUnknown => add(&counters.unanswered_commits, 1),
        Event::IgnoredFailure => add(&counters.ignored_failures, 1),
        Event::ConnectionDiscarded => add(&counters.discarded_connections, 1),
        Event::Queued { .. } => add(&counters.queue_waits, 1),
        _ => return,
    }
    counters.list();
}

fn call_ended(counters: &'static Counters, end: &CallEnd) {
    counters.list();
    add(&counters.calls, 1);
    add(&counters.attempts, end.attempts.into());
    add(&counters.nanos, nanos(end.time));
    if end.is_committed {
        add(&counters.committed, 1);
    }
    if end.result == CallResult::BodyError {
        add(&counters.body_errors, 1);
    }
    if !end.wasted.is_zero() {
        add(&counters.wasted_nanos, nanos(end.wasted));
    }
    if !end.waiting.is_zero() {
        add(&counters.waiting_nanos, nanos(end.waiting));
    }
}

fn read(counters: &Counters) -> FunctionStats {
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let time = |counter| Duration::from_nanos(get(counter));
    FunctionStats {
        function: counters.function,
        calls: get(&counters.calls),
        committed: get(&counters.committed),
        body_errors: get(&counters.body_errors),
        attempts: get(&counters.attempts),
        retries: counters.retries.each_ref().map(get),
        give_ups: get(&counters.give_ups),
        refused: get(&counters.refused),
        unanswered_commits: get(&counters.unanswered_commits),
        ignored_failures: get(&counters.ignored_failures),
        discarded_connections: get(&counters.discarded_connections),
        queue_waits: get(&counters.queue_waits),
        time: time(&counters.nanos),
        wasted: time(&counters.wasted_nanos),
        waiting: time(&counters.waiting_nanos),
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Cheaper than [`Duration::as_nanos`], which computes in 128 bits. Enough for 584 years.
fn nanos(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000_000).saturating_add(time.subsec_nanos().into())
}

/// What the calls of each function in this process have come to so far.
///
/// The counters need no feature and no subscriber, and count from the start of the process. A function is in them from the
/// end of its first call on. A nested call is a part of the call around it, and is not counted.
///
/// ```
/// println!("{}", retry_runtime::stats());
/// ```
#[must_use]
pub fn stats() -> Stats {
    let mut functions: Vec<_> = listed().into_iter().map(read).collect();
    functions.sort_by_key(|function| function.function);
    Stats { functions }
}

/// The counters of all functions, from [`stats`]. Its text is a table.
#[derive(Clone, Debug)]
pub struct Stats {
    functions: Vec<FunctionStats>,
}

impl Stats {
    /// The functions, by name.
    pub fn functions(&self) -> impl Iterator<Item = &FunctionStats> {
        self.functions.iter()
    }

    /// The function with this name: its path, or its option `name`.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<&FunctionStats> {
        self.functions.iter().find(|function| function.function == name)
    }
}

/// The counters of one function.
///
/// Calls that [name themselves](crate::Source::named) count as calls of their function.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FunctionStats {
    /// Its path, or its option `name`.
    pub function: &'static str,
    /// Calls that have ended, in any way: returned, dropped, or with a panic.
    pub calls: u64,
    /// Calls whose transaction is known to be committed.
    pub committed: u64,
    /// Calls that returned the body's own error.
    pub body_errors: u64,
    /// Attempts of the calls that have ended.
    pub attempts: u64,
    retries: [u64; REASONS.len()],
    /// Calls that gave up: the failure is of a kind that is retried, but no retry was left, or the pool's layers refused it.
    pub give_ups: u64,
    /// Attempts that an open circuit refused: see [`WithBreaker`](crate::WithBreaker).
    pub refused: u64,
    /// `COMMIT`s without a reply. With `unknown_commit`, the call may have found the outcome later.
    pub unanswered_commits: u64,
    /// Attempts whose body returned `Ok` although a statement had failed. They are never committed.
    pub ignored_failures: u64,
    /// Connections that were closed instead of given back to their pool.
    pub discarded_connections: u64,
    /// How often an attempt had to wait in a queue of the function.
    pub queue_waits: u64,
    /// The time of the calls, with all waits and delays.
    pub time: Duration,
    /// The time of attempts that failed for a reason that is retried, without their waits.
    pub wasted: Duration,
    /// The time that calls waited in queues, for a connection, and before retries.
    pub waiting: Duration,
}

impl FunctionStats {
    /// How often the function was retried, by reason: the names of [`Class`](crate::Class), `retry_if` or `retry_on`.
    pub fn retries(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REASONS.into_iter().zip(self.retries).filter(|(_, count)| *count > 0)
    }

    fn cells(&self) -> [String; TITLES.len()] {
        let retries: Vec<_> = self.retries().map(|(reason, count)| format!("{count} {reason}")).collect();
        [
            self.function.to_owned(),
            self.calls.to_string(),
            self.committed.to_string(),
            self.body_errors.to_string(),
            self.attempts.to_string(),
            self.give_ups.to_string(),
            self.refused.to_string(),
            self.unanswered_commits.to_string(),
            self.ignored_failures.to_string(),
            self.discarded_connections.to_string(),
            self.queue_waits.to_string(),
            format!("{:.1?}", self.time),
            format!("{:.1?}", self.wasted),
            format!("{:.1?}", self.waiting),
            retries.join(", "),
        ]
    }
}

/// The columns of the table. The first and the last contain texts.
const TITLES: [&str; 15] = [
    "function",
    "calls",
    "committed",
    "body errors",
    "attempts",
    "give-ups",
    "refused",
    "unanswered",
    "ignored",
    "discarded",
    "queued",
    "time",
    "wasted",
    "waiting",
    "retries",
];

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<_> = self.functions.iter().map(FunctionStats::cells).collect();
        let mut widths = TITLES.map(str::len);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        write_row(f, TITLES, widths)?;
        for row in &rows {
            f.write_str("\n")?;
            write_row(f, row.each_ref().map(String::as_str), widths)?;
        }
        Ok(())
    }
}

fn write_row<const N: usize>(f: &mut fmt::Formatter<'_>, cells: [&str; N], widths: [usize; N]) -> fmt::Result {
    for (i, (cell, width)) in cells.into_iter().zip(widths).enumerate() {
        match i {
            0 => write!(f, "{cell:width$}")?,
            _ if i + 1 == N => write!(f, "  {cell}")?,
            _ => write!(f, "  {cell:>width$}")?,
        }
    }
    Ok(())
}
