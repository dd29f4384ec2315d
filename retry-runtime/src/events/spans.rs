//! Spans of the crate `tracing`: one per call, and in it one per attempt.
//!
//! Their fields follow OpenTelemetry's conventions for database clients. What those do not name is `transactional.*`. A
//! span is entered while the body is polled, and never over an await.

use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use tracing::field::Empty;
use tracing::span::{Entered as Guard, Id, Span};

use crate::classify::Failure;
use crate::events::isolated::isolated;
use crate::events::signal::{AttemptEnd, CallEnd, CallResult};

/// The spans of a call, if a subscriber wants them.
#[derive(Debug, Default)]
pub(crate) struct Spans(Option<Box<Open>>);

#[derive(Debug)]
struct Open {
    call: Span,
    attempt: Span,
    /// That of the last attempt.
    sqlstate: Option<Box<str>>,
}

impl Spans {
    /// A call begins.
    pub(crate) fn of_call(function: &'static str) -> Self {
        let begin = || {
            tracing::debug_span!(
                target: "retry_runtime",
                "transaction",
                otel.name = function,
                otel.kind = "client",
                otel.status_code = Empty,
                db.system.name = "postgresql",
                db.response.status_code = Empty,
                "error.type" = Empty,
                transactional.function = function,
                transactional.attempts = Empty,
                transactional.outcome = Empty,
            )
        };
        let call = isolated(begin).filter(|span| !span.is_disabled());
        Self(call.map(|call| Box::new(Open { call, attempt: Span::none(), sqlstate: None })))
    }

    /// An attempt begins.
    pub(crate) fn begin_attempt(&mut self, attempt: u32) {
        self.tell(|open| {
            open.attempt = tracing::debug_span!(
                target: "retry_runtime",
                parent: &open.call,
                "attempt",
                otel.status_code = Empty,
                db.response.status_code = Empty,
                "error.type" = Empty,
                transactional.attempt = attempt,
                transactional.class = Empty,
                transactional.phase = Empty,
                transactional.delay_ms = Empty,
            );
        });
    }

    /// An attempt has ended. Its span stays open for the events that follow.
    pub(crate) fn end_attempt(&mut self, end: &AttemptEnd, failure: Option<&Failure>) {
        self.tell(|open| {
            open.sqlstate = failure.and_then(Failure::code).map(Into::into);
            if let Some(reason) = end.reason {
                open.attempt.record("transactional.class", reason);
                open.attempt.record("transactional.phase", end.phase.name());
                fail(&open.attempt, open.sqlstate.as_deref(), reason);
            }
        });
    }

    /// Another attempt follows.
    pub(crate) fn retry(&mut self, delay: Duration) {
        self.tell(|open| {
            open.attempt.record("transactional.delay_ms", delay.as_secs_f64() * 1_000.0);
            open.attempt = Span::none();
        });
    }

    /// The call has ended.
    pub(crate) fn end_call(&mut self, end: &CallEnd) {
        self.tell(|open| {
            open.call.record("transactional.attempts", end.attempts);
            open.call.record("transactional.outcome", end.result.as_str());
            if end.result != CallResult::Ok {
                fail(&open.call, open.sqlstate.as_deref(), end.result.as_str());
            }
        });
        self.close();
    }

    /// The attempt, for its body.
    #[inline]
    pub(crate) fn attempt(&self) -> SpanRef<'_> {
        SpanRef(self.0.as_ref().map(|open| &open.attempt))
    }

    /// The parent of events: the attempt, or between attempts the call.
    #[inline]
    pub(crate) fn id(&self) -> SpanId {
        let id = |open: &Open| isolated(|| open.attempt.id().or_else(|| open.call.id())).flatten();
        SpanId(self.0.as_deref().and_then(id).map(|id| id.into_non_zero_u64()))
    }

    #[inline]
    fn tell(&mut self, change: impl FnOnce(&mut Open)) {
        if let Some(open) = &mut self.0 {
            isolated(|| change(open));
        }
    }

    #[inline]
    fn close(&mut self) {
        if let Some(open) = self.0.take() {
            let open = *open;
            isolated(|| drop(open.attempt));
            isolated(|| drop(open.call));
        }
    }
}

impl Drop for Spans {
    #[inline]
    fn drop(&mut self) {
        self.close();
    }
}

fn fail(span: &Span, sqlstate: Option<&str>, kind: &str) {
    span.record("otel.status_code", "ERROR");
    span.record("error.type", sqlstate.unwrap_or(kind));
    if let Some(sqlstate) = sqlstate {
        span.record("db.response.status_code", sqlstate);
    }
}

/// A span by its id.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SpanId(Option<NonZeroU64>);

impl SpanId {
    /// This span, or the one around the caller.
    pub(crate) fn or_current(self) -> Option<Id> {
        self.0.map(Id::from_non_zero_u64).or_else(|| Span::current().id())
    }
}

/// A span that the polls of a body enter, if there is one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SpanRef<'a>(Option<&'a Span>);

impl<'a> SpanRef<'a> {
    /// Enters the span until the guard is dropped.
    #[inline]
    pub(crate) fn enter(self) -> Entered<'a> {
        Entered(self.0.and_then(|span| isolated(|| span.enter())))
    }
}

/// Leaves the span when dropped.
pub(crate) struct Entered<'a>(Option<Guard<'a>>);

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(guard) = self.0.take() {
            isolated(|| drop(guard));
        }
    }
}

impl fmt::Debug for Entered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entered")
    }
}
