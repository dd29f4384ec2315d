//! Events of the crate `tracing`, with the target `retry_runtime`.

use std::time::Duration;

use crate::classify::Failure;
use crate::error::Attempts;
use crate::events::{AttemptId, Event};

macro_rules! event {
    ($level:ident, $id:expr, $failure:expr, $($field:tt)*) => {
        tracing::$level!(
            target: "retry_runtime",
            parent: $id.span.or_current(),
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
        Event::GivingUp { cause, refused_by: reason, history } => {
            let (elapsed_us, failures) = (micros(history.elapsed), &history.failures);
            let attempts = Attempts(failures);
            event!(warn, id, failure, class = cause, reason, elapsed_us, %failures, %attempts, "giving up");
        }
        Event::OneAtATime { time } => {
            let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            event!(warn, id, failure, time_ms, "running calls one at a time");
        }
        Event::DeadlineExceeded { phase, history } => {
            let (elapsed_us, failures) = (micros(history.elapsed), &history.failures);
            let attempts = Attempts(failures);
            event!(warn, id, failure, phase = phase.as_str(), elapsed_us, %failures, %attempts, "deadline exceeded");
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
        Event::IgnoredFailure => event!(info, id, failure, "the body ignored a failed statement"),
        Event::Queued { .. } | Event::AttemptEnded(_) | Event::CallEnded(_) => {}
        Event::CommitUnknown => event!(warn, id, failure, "commit outcome unknown"),
        Event::CommitResolved { outcome } => {
            event!(warn, id, failure, outcome = outcome.as_str(), "commit outcome looked up");
        }
        Event::DroppedInCommit { outcome } => {
            event!(warn, id, failure, outcome = outcome.as_str(), "call dropped in commit");
        }
    }
}
