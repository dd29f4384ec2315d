//! The wall-clock limit of a call.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::error::{Error, Phase};
use crate::state::State;

/// When a call must be over, if it has a limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

/// The limit has passed.
#[derive(Debug)]
pub(crate) struct Expired;

impl Deadline {
    pub(crate) fn after(limit: Option<Duration>) -> Self {
        Self(limit.and_then(|limit| Instant::now().checked_add(limit)))
    }

    /// The earlier of this and `limit` from now.
    pub(crate) fn or_after(self, limit: Duration) -> Self {
        let limit = Self::after(Some(limit));
        match (self.0, limit.0) {
            (Some(this), Some(other)) => Self(Some(this.min(other))),
            _ => Self(self.0.or(limit.0)),
        }
    }

    /// Three quarters of what is left.
    pub(crate) fn most(self) -> Self {
        let now = Instant::now();
        Self(self.0.map(|deadline| now + deadline.saturating_duration_since(now) * 3 / 4))
    }

    /// Drops `work` where it is not done in time.
    pub(crate) async fn bound<F: Future>(self, work: F) -> Result<F::Output, Expired> {
        match self.0 {
            Some(deadline) => timeout_at(deadline, work).await.map_err(|_| Expired),
            None => Ok(work.await),
        }
    }

    /// Whether a sleep of this length ends in time.
    pub(crate) fn allows(self, sleep: Duration) -> bool {
        self.0.is_none_or(|deadline| deadline.saturating_duration_since(Instant::now()) > sleep)
    }
}

/// Bounds the body of an attempt.
#[derive(Debug)]
pub struct Limit<'a> {
    pub(crate) deadline: Deadline,
    pub(crate) state: &'a State,
}

impl Limit<'_> {
    /// Runs the body; cut off, it has failed with [`Error::DeadlineExceeded`].
    pub async fn body<T, E: From<Error>>(self, body: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        if let Ok(outcome) = self.deadline.bound(body).await {
            return outcome;
        }
        self.state.expire();
        Err(E::from(Error::deadline(Phase::Body)))
    }
}
