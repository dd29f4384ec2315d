//! What a call went through before it gave up.

use std::fmt;
use std::time::Duration;

/// The attempts of a call that was retried, and gave up.
///
/// Its text is one line, such as `6 attempts in 85.3ms (6x serialization)`. The text of the [`Error`](crate::Error) has it.
///
/// ```
/// use retry_runtime::Error;
///
/// fn attempts(error: &Error) -> u32 {
///     error.history().map_or(1, |history| history.attempts())
/// }
/// # assert_eq!(attempts(&Error::EndedByBody), 1);
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
        self.failures.0.iter().copied()
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} attempts in {:.1?} ({})", self.attempts, self.elapsed, self.failures)
    }
}

/// How often an attempt failed, for each reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures(Vec<(&'static str, u32)>);

impl Failures {
    pub(crate) fn add(&mut self, reason: &'static str) {
        match self.0.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => self.0.push((reason, 1)),
        }
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (reason, count)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{count}x {reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_counts_each_reason() {
        let mut failures = Failures::default();
        for reason in ["serialization", "connection", "serialization"] {
            failures.add(reason);
        }
        let history = History { attempts: 4, elapsed: Duration::from_micros(85_340), failures };
        assert_eq!(history.to_string(), "4 attempts in 85.3ms (2x serialization, 1x connection)");
    }
}
