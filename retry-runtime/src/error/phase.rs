//! The phases of an attempt.

use std::fmt;

/// What a call was doing when its deadline passed, or when an attempt failed.
///
/// ```
/// use retry_runtime::Phase;
///
/// assert_eq!(Phase::Body.to_string(), "running the body");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Waiting for other calls of the function in this process.
    Queue,
    /// Waiting for a connection.
    Pool,
    /// Waiting for the reply to `BEGIN`.
    Begin,
    /// Running the body.
    Body,
    /// Waiting for the reply to `COMMIT`. The transaction was later found not to have committed.
    Commit,
    /// About to sleep before a retry.
    BackOff,
}

impl Phase {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "waiting for other calls",
            Self::Pool => "waiting for a connection",
            Self::Begin => "waiting for BEGIN",
            Self::Body => "running the body",
            Self::Commit => "waiting for COMMIT",
            Self::BackOff => "about to sleep before a retry",
        }
    }
}

impl Phase {
    /// The name in histories, spans and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Pool => "pool",
            Self::Begin => "begin",
            Self::Body => "body",
            Self::Commit => "commit",
            Self::BackOff => "back_off",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
