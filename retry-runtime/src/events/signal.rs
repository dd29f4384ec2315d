//! How attempts and calls end.

use std::time::Duration;

use crate::error::Phase;

/// How an attempt ended.
#[derive(Debug)]
#[allow(dead_code, reason = "read by listeners only")]
pub(crate) struct AttemptEnd {
    /// Why it failed, if it failed.
    pub(crate) reason: Option<&'static str>,
    pub(crate) phase: Phase,
    /// How long it had its connection. If it got none: how long it waited.
    pub(crate) time: Duration,
}

/// How a call ended.
#[derive(Debug)]
pub(crate) struct CallEnd {
    pub(crate) result: CallResult,
    /// Whether its transaction is known to be committed.
    pub(crate) is_committed: bool,
    pub(crate) attempts: u32,
    /// From the call on.
    pub(crate) time: Duration,
    /// In attempts that failed for a reason that is retried.
    pub(crate) wasted: Duration,
    /// In queues, for connections, and in delays.
    pub(crate) waiting: Duration,
}

/// What a call returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallResult {
    Ok,
    /// The body's own error.
    BodyError,
    /// The runtime's error, by its kind.
    Error(&'static str),
    /// Nothing: the call was dropped, or the body panicked.
    Dropped,
}

impl CallResult {
    #[allow(dead_code, reason = "read by listeners only")]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::BodyError => "body_error",
            Self::Error(kind) => kind,
            Self::Dropped => "dropped",
        }
    }
}
