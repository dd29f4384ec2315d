//! Events for everything that would otherwise go unnoticed: retries, give-ups, unknown outcomes, closed connections.
//!
//! [`tracing`](mod@trace) is the listener. Without the feature `tracing` an event has none.

use std::time::Duration;

use crate::classify::Failure;
use crate::error::{CommitOutcome, History, Phase};

/// What has happened to a call.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "tracing"), expect(dead_code, reason = "read by listeners only"))]
pub(crate) enum Event<'a> {
    /// Another attempt follows after `delay`.
    Retrying { cause: &'static str, delay: Duration },
    /// The failure is of a kind that is retried, but no retry is left.
    GivingUp { cause: &'static str, history: &'a History },
    /// A deadlock cost more than concurrency gains: for `time`, the function's calls on this pool run one at a time.
    OneAtATime { time: Duration },
    /// The deadline has passed, or a sleep would cross it.
    DeadlineExceeded { phase: Phase, history: &'a History },
    /// The failure is of a kind that is retried, and a retry is left, but the pool does not allow it, for this `reason`.
    RetryRefused { cause: &'static str, reason: &'static str, history: &'a History },
    /// The circuit of the pool is open, so the attempt takes no connection.
    CircuitOpen { retry_after: Duration },
    /// Too many attempts have failed: the circuit of the pool opens.
    CircuitOpened { pool: Option<usize> },
    /// The server has answered the trial: the circuit of the pool closes.
    CircuitClosed { pool: Option<usize> },
    /// A connection is closed instead of given back to its pool.
    ConnectionDiscarded,
    /// `BEGIN` found a transaction that other code had left open. It was rolled back.
    RolledBackLeftOpen,
    /// The body's error shows only the symptom of an earlier failure: the one reported here.
    EarlierFailure,
    /// A call inside the body of `outer` has a transaction of its own, or would have.
    NotNested { outer: &'static str, independent: bool },
    /// The body sent `COMMIT` or `ROLLBACK` itself.
    EndedByBody,
    /// The reply to `COMMIT` did not arrive.
    CommitUnknown,
    /// The outcome of a commit without a reply was looked up.
    CommitResolved { outcome: CommitOutcome },
    /// A call was dropped while it waited for the reply to `COMMIT`. This is how the commit ended.
    DroppedInCommit { outcome: CommitOutcome },
}

/// The attempt that an event is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptId {
    pub(crate) function: &'static str,
    /// 1 for the first. 0 before the first.
    pub(crate) attempt: u32,
}

impl AttemptId {
    /// Tells every listener of `event`, and of the failure that brought it about.
    #[cfg_attr(not(feature = "tracing"), expect(unused_variables, clippy::unused_self, reason = "no listener"))]
    pub(crate) fn emit(self, event: Event<'_>, failure: Option<&Failure>) {
        #[cfg(feature = "tracing")]
        trace::record(self, event, failure);
    }
}

/// Events of the crate `tracing`, with the target `retry_runtime`.
#[cfg(feature = "tracing")]
mod trace {
    use super::{AttemptId, Duration, Event, Failure};

    macro_rules! event {
        ($level:ident, $id:expr, $failure:expr, $($field:tt)*) => {
            tracing::$level!(
                target: "retry_runtime",
                sqlstate = $failure.and_then(Failure::code),
                error = $failure.and_then(Failure::public_message),
                function = $id.function,
                attempt = $id.attempt,
                $($field)*
            )
        };
    }

    fn micros(time: Duration) -> u64 {
        u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
    }

    pub(super) fn record(id: AttemptId, event: Event<'_>, failure: Option<&Failure>) {
        match event {
            Event::Retrying { cause, delay } => {
                event!(info, id, failure, class = cause, delay_us = micros(delay), "retrying");
            }
            Event::GivingUp { cause, history } => {
                let (elapsed_us, failures) = (micros(history.elapsed), &history.failures);
                event!(warn, id, failure, class = cause, elapsed_us, %failures, "giving up");
            }
            Event::OneAtATime { time } => {
                let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                event!(warn, id, failure, time_ms, "running calls one at a time");
            }
            Event::DeadlineExceeded { phase, history } => {
                let (elapsed_us, failures) = (micros(history.elapsed), &history.failures);
                event!(warn, id, failure, phase = phase.as_str(), elapsed_us, %failures, "deadline exceeded");
            }
            Event::RetryRefused { cause, reason, history } => {
                let (elapsed_us, failures) = (micros(history.elapsed), &history.failures);
                event!(warn, id, failure, class = cause, reason, elapsed_us, %failures, "giving up");
            }
            Event::CircuitOpen { retry_after } => {
                event!(warn, id, failure, retry_after_us = micros(retry_after), "circuit open");
            }
            Event::CircuitOpened { pool } => event!(info, id, failure, pool, "circuit opened"),
            Event::CircuitClosed { pool } => event!(info, id, failure, pool, "circuit closed"),
            Event::ConnectionDiscarded => event!(warn, id, failure, "connection discarded"),
            Event::RolledBackLeftOpen => {
                event!(warn, id, failure, "rolled back a transaction that was left open");
            }
            Event::EarlierFailure => event!(warn, id, failure, "an earlier statement had failed"),
            Event::NotNested { outer, independent: true } => {
                event!(info, id, failure, outer, "a call inside a body is not in its transaction");
            }
            Event::NotNested { outer, independent: false } => {
                event!(warn, id, failure, outer, "a call inside a body is not in its transaction");
            }
            Event::EndedByBody => event!(warn, id, failure, "the body ended the transaction itself"),
            Event::CommitUnknown => event!(warn, id, failure, "commit outcome unknown"),
            Event::CommitResolved { outcome } => {
                event!(warn, id, failure, outcome = outcome.as_str(), "commit outcome looked up");
            }
            Event::DroppedInCommit { outcome } => {
                event!(warn, id, failure, outcome = outcome.as_str(), "call dropped in commit");
            }
        }
    }
}
