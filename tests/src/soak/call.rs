//! One call: its plan, a log of what happened, and its outcome.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt::{self, Write};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use retry_runtime::Error;

use super::plan::{Patience, Plan};

/// A call that is running.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) id: i64,
    pub(crate) plan: Plan,
    pub(crate) log: Arc<Log>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    #[error("declined")]
    Declined,
    #[error("as a text: {0}")]
    Text(String),
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Runtime(#[from] Error),
}

/// The result that the caller got.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// `Ok`, with the number of the attempt that committed.
    Committed(i32),
    /// Any error but `CommitUnknown`. It means that nothing is committed.
    Failed(String),
    /// `CommitUnknown`.
    Unknown(String),
    /// The caller dropped the call.
    Dropped,
    /// The call did not end.
    Hung,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Committed(attempt) => write!(f, "ok, attempt {attempt}"),
            Self::Failed(error) | Self::Unknown(error) => write!(f, "{}: {error}", self.kind()),
            Self::Dropped | Self::Hung => f.write_str(self.kind()),
        }
    }
}

impl Outcome {
    pub(crate) fn of(result: Option<Result<u32, Failed>>) -> Self {
        match result {
            None => Self::Dropped,
            Some(Ok(attempt)) => Self::Committed(number(attempt)),
            Some(Err(error @ Failed::Runtime(Error::CommitUnknown { .. }))) => Self::Unknown(with_sources(&error)),
            Some(Err(error)) => Self::Failed(with_sources(&error)),
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Committed(_) => "ok",
            Self::Failed(_) => "definite error",
            Self::Unknown(_) => "unknown",
            Self::Dropped => "dropped",
            Self::Hung => "hung",
        }
    }
}

fn with_sources(error: &Failed) -> String {
    let mut text = format!("{error:?}: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(text, " <- {error}");
        source = error.source();
    }
    text
}

/// The number of an attempt, in the ledger's type.
pub(crate) fn number(attempt: u32) -> i32 {
    attempt.try_into().expect("few attempts")
}

/// What has happened to a call so far.
#[derive(Debug, Default)]
pub(crate) struct Log(Mutex<Logged>);

#[derive(Debug, Default)]
pub(crate) struct Logged {
    pub(crate) attempts: BTreeMap<i32, Attempt>,
    /// The hooks that ran: whether `on_commit`, in which attempt, and for which part.
    pub(crate) hooks: Vec<(bool, i32, i32)>,
    /// The runtime's events, each with the time since the call began.
    pub(crate) events: Vec<String>,
}

/// What the body noted in one attempt.
#[derive(Debug, Default)]
pub(crate) struct Attempt {
    next: i32,
    /// The parts that the ledger must have if the attempt commits. Known once the body has returned `Ok`.
    pub(crate) parts: Option<Vec<i32>>,
    /// The parts that have hooks.
    pub(crate) hooked: Vec<i32>,
    /// Whether the body returned after the deadline.
    pub(crate) overran: bool,
}

impl Log {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Logged> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a new part of an attempt.
    pub(crate) fn part(&self, attempt: i32) -> i32 {
        let mut logged = self.lock();
        let attempt = logged.attempts.entry(attempt).or_default();
        attempt.next += 1;
        attempt.next
    }

    pub(crate) fn change(&self, attempt: i32, change: impl FnOnce(&mut Attempt)) {
        change(self.lock().attempts.entry(attempt).or_default());
    }
}

/// Runs `work`, and drops it once the patience is exhausted.
pub(crate) async fn with_patience<T>(patience: Patience, work: impl Future<Output = T>) -> Option<T> {
    match patience {
        Patience::Endless => Some(work.await),
        Patience::Time(time) if time < Duration::from_millis(1) => {
            // Tokio's timers are too coarse for this.
            let polls = u32::try_from(time.as_micros() / 100).unwrap_or_default();
            some_polls(polls, false, work).await
        }
        Patience::Time(time) => tokio::time::timeout(time, work).await.ok(),
        Patience::Polls { count, immediately } => some_polls(count, immediately, work).await,
    }
}

async fn some_polls<T>(count: u32, immediately: bool, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut polls = 0;
    poll_fn(|cx| {
        if polls == count {
            return Poll::Ready(None);
        }
        polls += 1;
        let polled = work.as_mut().poll(cx).map(Some);
        if immediately && polls == count && polled.is_pending() {
            return Poll::Ready(None);
        }
        polled
    })
    .await
}
