//! What the loop tells the outside: one event for everything that would else pass in silence.
//!
//! Without the feature `tracing` these do nothing.

use std::time::Duration;

use crate::classify::Failure;
use crate::decide::Cause;
use crate::error::Phase;
use crate::resolve::CommitOutcome;
use crate::run::Site;

#[cfg(feature = "tracing")]
macro_rules! event {
    ($level:ident, $failure:expr, $($field:tt)*) => {
        tracing::$level!(
            target: "retry_runtime",
            sqlstate = $failure.and_then(Failure::code),
            error = $failure.and_then(Failure::public_message),
            $($field)*
        )
    };
}

#[cfg(not(feature = "tracing"))]
macro_rules! event {
    ($level:ident, $failure:expr, $($name:ident = $value:expr,)* $message:literal) => {
        { let _ = ($failure, $($value,)*); }
    };
}

/// Another attempt follows after `delay`.
pub(crate) fn retry(site: &Site, attempt: u32, cause: Cause, failure: Option<&Failure>, delay: Duration) {
    let delay_us = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
    event!(
        info,
        failure,
        function = site.name,
        attempt = attempt,
        class = cause.as_str(),
        delay_us = delay_us,
        "retrying"
    );
}

/// The failure deserves another attempt, and there is none left.
pub(crate) fn give_up(site: &Site, attempt: u32, cause: Cause, failure: Option<&Failure>) {
    event!(warn, failure, function = site.name, attempt = attempt, class = cause.as_str(), "giving up");
}

/// A deadlock cost more than running at once gained.
pub(crate) fn one_at_a_time(site: &Site, attempt: u32, failure: Option<&Failure>, time: Duration) {
    let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    event!(warn, failure, function = site.name, attempt = attempt, time_ms = time_ms, "calls go one at a time");
}

/// The deadline has passed, or a sleep would cross it.
pub(crate) fn deadline_exceeded(site: &Site, attempt: u32, phase: Phase, failure: Option<&Failure>) {
    let phase = phase.as_str();
    event!(warn, failure, function = site.name, attempt = attempt, phase = phase, "deadline exceeded");
}

/// A session is closed instead of given back.
pub(crate) fn discard(site: &Site, attempt: u32, failure: Option<&Failure>) {
    event!(warn, failure, function = site.name, attempt = attempt, "connection discarded");
}

/// A transaction that somebody had left open was rolled back.
pub(crate) fn left_open(site: &Site, attempt: u32, failure: &Failure) {
    let failure = Some(failure);
    event!(warn, failure, function = site.name, attempt = attempt, "rolled back a transaction that was left open");
}

/// The body returned only the symptom of an earlier failure, which this is.
pub(crate) fn hidden(site: &Site, attempt: u32, failure: Option<&Failure>) {
    event!(warn, failure, function = site.name, attempt = attempt, "an earlier statement had failed");
}

/// A call inside another call's body has a transaction of its own, or would have: `independent` if that is declared.
pub(crate) fn not_nested(outer: &'static str, inner: &'static str, independent: bool) {
    let failure = None::<&Failure>;
    if independent {
        event!(info, failure, function = inner, outer = outer, "a call inside a body is not in its transaction");
    }
    if !independent {
        event!(warn, failure, function = inner, outer = outer, "a call inside a body is not in its transaction");
    }
}

/// The body sent COMMIT or ROLLBACK itself.
pub(crate) fn ended_by_body(site: &Site, attempt: u32) {
    let failure = None::<&Failure>;
    event!(warn, failure, function = site.name, attempt = attempt, "the body ended the transaction itself");
}

/// The answer to COMMIT never came.
pub(crate) fn commit_unknown(site: &Site, attempt: u32, failure: Option<&Failure>) {
    event!(warn, failure, function = site.name, attempt = attempt, "commit outcome unknown");
}

/// It was found out what became of a transaction whose COMMIT was not answered.
pub(crate) fn commit_resolved(site: &Site, attempt: u32, outcome: CommitOutcome) {
    let failure = None::<&Failure>;
    let outcome = outcome.as_str();
    event!(warn, failure, function = site.name, attempt = attempt, outcome = outcome, "commit outcome looked up");
}

/// A call was dropped while its COMMIT was on its way. This is how that ended.
pub(crate) fn left_in_commit(site: &Site, attempt: u32, outcome: CommitOutcome) {
    let failure = None::<&Failure>;
    let outcome = outcome.as_str();
    event!(warn, failure, function = site.name, attempt = attempt, outcome = outcome, "call dropped in commit");
}
