//! Events for everything that would otherwise go unnoticed: retries, give-ups, unknown outcomes, closed connections, and
//! the end of each attempt and call.
//!
//! [`stats`] always listens. The features `tracing` and `metrics` add listeners.

pub(crate) mod counters;
#[cfg(any(feature = "tracing", feature = "metrics"))]
mod isolated;
#[cfg(feature = "metrics")]
pub(crate) mod metrics;
pub(crate) mod signal;
#[cfg_attr(not(feature = "tracing"), path = "events/no_spans.rs")]
pub(crate) mod spans;
pub(crate) mod stats;
#[cfg(feature = "tracing")]
mod trace;

use std::time::Duration;

use crate::classify::Failure;
use crate::error::{CommitOutcome, History, Phase};
use crate::events::counters::Counters;
#[cfg(any(feature = "tracing", feature = "metrics"))]
use crate::events::isolated::isolated;
pub(crate) use crate::events::signal::{AttemptEnd, CallEnd, CallResult};
use crate::events::spans::SpanId;

/// What has happened to a call.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "read by listeners only")]
pub(crate) enum Event<'a> {
    /// Another attempt follows after `delay`.
    Retrying { cause: &'static str, delay: Duration },
    /// The failure is of a kind that is retried, but no retry is left, or the layer of the pool `refused_by` allows none.
    GivingUp { cause: &'static str, refused_by: Option<&'static str>, history: &'a History },
    /// A deadlock cost more than concurrency gains: for `time`, the function's calls on this pool run one at a time.
    OneAtATime { time: Duration },
    /// The deadline has passed, or a sleep would cross it.
    DeadlineExceeded { phase: Phase, history: &'a History },
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
    /// The body returned `Ok` although a statement had failed. The attempt is not committed.
    IgnoredFailure,
    /// The attempt had to wait in the function's queues.
    Queued { time: Duration },
    /// An attempt has ended, in any way.
    AttemptEnded(&'a AttemptEnd),
    /// The call has ended, in any way.
    CallEnded(&'a CallEnd),
}

impl Event<'_> {
    /// Whether it is one of the events of every call. They are no `tracing` events.
    #[cfg(feature = "tracing")]
    fn is_end(&self) -> bool {
        matches!(self, Self::AttemptEnded(_) | Self::CallEnded(_))
    }
}

/// The attempt that an event is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptId {
    pub(crate) function: &'static str,
    /// 1 for the first. 0 before the first.
    pub(crate) attempt: u32,
    /// The function's counters.
    pub(crate) counters: &'static Counters,
    /// The span that its events are in.
    #[allow(dead_code, reason = "read by listeners only")]
    pub(crate) span: SpanId,
}

impl AttemptId {
    /// For work that goes on after the call, when its spans are closed.
    pub(crate) fn after_call(self) -> Self {
        Self { span: SpanId::default(), ..self }
    }

    /// Tells every listener of `event`, and of the failure that brought it about.
    #[cfg_attr(not(feature = "tracing"), allow(unused_variables, reason = "read by listeners only"))]
    #[inline]
    pub(crate) fn emit(self, event: Event<'_>, failure: Option<&Failure>) {
        stats::record(self.counters, &event);
        #[cfg(feature = "tracing")]
        if !event.is_end() {
            isolated(|| trace::record(self, event, failure));
        }
        #[cfg(feature = "metrics")]
        isolated(|| metrics::record(self, &event));
    }
}
