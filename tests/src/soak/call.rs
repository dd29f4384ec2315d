//! One call: what it is to do, what it has done, and what came of it.

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

/// A call under way.
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

/// What the caller learned.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// With the attempt that is said to be committed.
    Committed(i32),
    /// An error that says, by being another one, that nothing is committed.
    Failed(String),
    Unknown(String),
    /// The caller did not wait.
    Dropped,
    /// The caller would have waited for ever.
    Hung,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Committed(attempt) => write!(f, "ok, attempt {attempt}"),
            Self::Failed(error) | Self::Unknown(error) => write!(f, "{}: {error}", self.kind()),
            Self::Dropped | Self::Hung => f.write_str(self.kind()),
        }
    }
}

impl Verdict {
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

/// An attempt's number as the ledger has it.
pub(crate) fn number(attempt: u32) -> i32 {
    attempt.try_into().expect("few attempts")
}

/// What a call has done so far.
#[derive(Debug, Default)]
pub(crate) struct Log(Mutex<Logged>);

#[derive(Debug, Default)]
pub(crate) struct Logged {
    pub(crate) attempts: BTreeMap<i32, Attempt>,
    /// The hooks that ran: whether on commit, the attempt, the part that asked for it.
    pub(crate) hooks: Vec<(bool, i32, i32)>,
    /// What the runtime said, and when after the call began.
    pub(crate) events: Vec<String>,
}

/// What the body saw of one attempt.
#[derive(Debug, Default)]
pub(crate) struct Attempt {
    next: i32,
    /// The parts in the ledger where the attempt is committed: known once the body has returned `Ok`.
    pub(crate) parts: Option<Vec<i32>>,
    /// Those parts that have hooks.
    pub(crate) hooked: Vec<i32>,
    /// The body returned after the deadline.
    pub(crate) overran: bool,
}

impl Log {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Logged> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new part of an attempt.
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

/// Drops `work` where it is not done in time.
pub(crate) async fn patiently<T>(patience: Patience, work: impl Future<Output = T>) -> Option<T> {
    match patience {
        Patience::Endless => Some(work.await),
        Patience::Time(time) if time < Duration::from_millis(1) => {
            // Tokio's timers are not as fine.
            let polls = u32::try_from(time.as_micros() / 100).unwrap_or_default();
            some_polls(polls, false, work).await
        }
        Patience::Time(time) => tokio::time::timeout(time, work).await.ok(),
        Patience::Polls { count, at_once } => some_polls(count, at_once, work).await,
    }
}

async fn some_polls<T>(count: u32, at_once: bool, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut polls = 0;
    poll_fn(|cx| {
        if polls == count {
            return Poll::Ready(None);
        }
        polls += 1;
        let polled = work.as_mut().poll(cx).map(Some);
        if at_once && polls == count && polled.is_pending() {
            return Poll::Ready(None);
        }
        polled
    })
    .await
}
