//! What a call went through before it gave up.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use crate::error::phase::Phase;

/// The attempts of a call that was retried, and gave up.
///
/// Its text is one line, such as `6 attempts in 85.3ms (6x serialization)`. The text of the [`Error`](crate::Error) has it.
/// [`last_attempts`](Self::last_attempts) has the details.
///
/// ```
/// use retry_runtime::Error;
///
/// fn report(error: &Error) {
///     let Some(history) = error.history() else { return };
///     println!("{history}");
///     for attempt in history.last_attempts() {
///         println!("  {attempt}"); // serialization 40001 in body after 1.2ms, delay 0.8ms
///     }
/// }
/// # report(&Error::EndedByBody);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    pub(crate) attempts: u32,
    pub(crate) elapsed: Duration,
    pub(crate) failures: Failures,
}

impl History {
    /// How many attempts began.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The time from the call on, with all waits and delays.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Why attempts failed, and how often: the names of [`Class`](crate::Class), `retry_if` or `retry_on`. The last attempt
    /// counts if it failed for a reason that is retried.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, u32)> {
        self.failures.counts.iter().copied()
    }

    /// The attempts that failed, in order: the last 16 of them.
    pub fn last_attempts(&self) -> impl Iterator<Item = &FailedAttempt> {
        self.failures.last.iter()
    }

    /// How many attempts failed before those in [`last_attempts`](Self::last_attempts).
    #[must_use]
    pub fn omitted_attempts(&self) -> u32 {
        self.failures.omitted
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} attempts in {:.1?} ({})", self.attempts, self.elapsed, self.failures)
    }
}

/// An attempt that failed. Its text is `serialization 40001 in body after 1.2ms, delay 0.8ms`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedAttempt {
    pub(crate) reason: &'static str,
    pub(crate) sqlstate: Option<Box<str>>,
    pub(crate) phase: Phase,
    pub(crate) duration: Duration,
    pub(crate) delay: Option<Duration>,
}

impl FailedAttempt {
    /// Why it failed: the name of a [`Class`](crate::Class), `retry_if`, `retry_on`, `body_error` for an error of the body
    /// alone, or the kind of the runtime's error, such as `deadline_exceeded`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// The SQLSTATE, if a server or a pooler sent one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        self.sqlstate.as_deref()
    }

    /// What the call was doing when the attempt failed.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How long the attempt had its connection. If it got none: how long it waited.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// The delay before the next attempt. `None`: there was none.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        self.delay
    }
}

impl fmt::Display for FailedAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason)?;
        if let Some(sqlstate) = &self.sqlstate {
            write!(f, " {sqlstate}")?;
        }
        write!(f, " in {} after {:.1?}", self.phase.name(), self.duration)?;
        match self.delay {
            Some(delay) => write!(f, ", delay {delay:.1?}"),
            None => Ok(()),
        }
    }
}

/// How many attempts a call remembers.
const REMEMBERED: usize = 16;

/// How often an attempt failed, for each reason that is retried, and the last attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    counts: Vec<(&'static str, u32)>,
    last: VecDeque<FailedAttempt>,
    omitted: u32,
}

impl Failures {
    /// Counts a failure that is retried.
    pub(crate) fn add(&mut self, reason: &'static str) {
        match self.counts.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => self.counts.push((reason, 1)),
        }
    }

    /// Remembers an attempt that failed.
    pub(crate) fn remember(&mut self, attempt: FailedAttempt) {
        if self.last.len() == REMEMBERED {
            self.last.pop_front();
            self.omitted = self.omitted.saturating_add(1);
        }
        self.last.push_back(attempt);
    }

    /// Sets the delay after the last attempt.
    pub(crate) fn set_delay(&mut self, delay: Duration) {
        if let Some(attempt) = self.last.back_mut() {
            attempt.delay = Some(delay);
        }
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (reason, count)) in self.counts.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{count}x {reason}")?;
        }
        Ok(())
    }
}

/// Its text lists the attempts, for events.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "tracing"), allow(dead_code, reason = "read by listeners only"))]
pub(crate) struct Attempts<'a>(pub(crate) &'a Failures);

impl fmt::Display for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.omitted > 0 {
            write!(f, "{} more; ", self.0.omitted)?;
        }
        for (i, attempt) in self.0.last.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}{attempt}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(reason: &'static str, sqlstate: Option<&str>, delay: Option<Duration>) -> FailedAttempt {
        let (phase, duration) = (Phase::Body, Duration::from_micros(1_240));
        FailedAttempt { reason, sqlstate: sqlstate.map(Into::into), phase, duration, delay }
    }

    #[test]
    fn the_text_counts_each_reason() {
        let mut failures = Failures::default();
        for reason in ["serialization", "connection", "serialization"] {
            failures.add(reason);
        }
        let history = History { attempts: 4, elapsed: Duration::from_micros(85_340), failures };
        assert_eq!(history.to_string(), "4 attempts in 85.3ms (2x serialization, 1x connection)");
    }

    #[test]
    fn the_last_attempts_are_remembered() {
        let mut failures = Failures::default();
        failures.remember(attempt("serialization", Some("40001"), Some(Duration::from_micros(810))));
        failures.remember(attempt("connection", None, None));
        let text = "serialization 40001 in body after 1.2ms, delay 810.0µs; connection in body after 1.2ms";
        assert_eq!(Attempts(&failures).to_string(), text);
        for _ in 0..REMEMBERED {
            failures.remember(attempt("deadlock", Some("40P01"), None));
        }
        let history = History { attempts: 18, elapsed: Duration::ZERO, failures };
        assert_eq!((history.omitted_attempts(), history.last_attempts().count()), (2, REMEMBERED));
        assert!(history.last_attempts().all(|attempt| attempt.reason() == "deadlock"));
        assert!(Attempts(&history.failures).to_string().starts_with("2 more; deadlock 40P01 in body"));
    }
}
