//! What ends a body before it returns: the wall-clock limit of the call, and a BEGIN that failed.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::__private::{FromError, Outcome};
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
        Self(self.0.map(|deadline| now + deadline.saturating_duration_since(now) / 4 * 3))
    }

    /// Drops `work` where it is not done in time.
    pub(crate) fn bound<F: Future>(self, work: F) -> Bounded<F> {
        Bounded { work, limit: self.0.map(sleep_until) }
    }

    /// Whether it is too late to begin anything.
    pub(crate) fn has_passed(self) -> bool {
        self.0.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Whether a sleep of this length ends in time.
    pub(crate) fn allows(self, sleep: Duration) -> bool {
        self.0.is_none_or(|deadline| deadline.saturating_duration_since(Instant::now()) > sleep)
    }
}

// Futures of their own, as an async function would hold what it bounds twice.
pin_project! {
    /// Work with an end.
    pub(crate) struct Bounded<F> {
        #[pin]
        work: F,
        #[pin]
        limit: Option<Sleep>,
    }
}

impl<F: Future> Future for Bounded<F> {
    type Output = Result<F::Output, Expired>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(done) = this.work.poll(cx) {
            return Poll::Ready(Ok(done));
        }
        match this.limit.as_pin_mut() {
            Some(limit) => limit.poll(cx).map(|()| Err(Expired)),
            None => Poll::Pending,
        }
    }
}

/// Bounds the body of an attempt.
#[derive(Debug)]
pub struct Limit<'a> {
    pub(crate) deadline: Deadline,
    pub(crate) state: &'a State,
    pub(crate) outermost: bool,
}

impl<'a> Limit<'a> {
    /// Runs the body; cut off, it has failed with [`Error::DeadlineExceeded`]. What BEGIN said is the call's to tell.
    #[must_use]
    pub fn body<O: Outcome<Err: FromError>, F: Future<Output = O>>(self, body: F) -> Body<'a, F> {
        let cut_off = |phase| O::from_result(Err(FromError::from_error(Error::deadline(phase))));
        Body { work: self.deadline.bound(body), cut_off, state: self.state, outermost: self.outermost }
    }
}

pin_project! {
    /// A body with an end.
    pub struct Body<'a, F: Future> {
        #[pin]
        work: Bounded<F>,
        cut_off: fn(Phase) -> F::Output,
        state: &'a State,
        outermost: bool,
    }
}

impl<F: Future> Future for Body<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let begun = &this.state.begun;
        if *this.outermost && begun.is_pending() && begun.poll(cx) == Poll::Ready(false) {
            return Poll::Ready((this.cut_off)(Phase::Begin));
        }
        match this.work.poll(cx) {
            Poll::Ready(Ok(outcome)) => Poll::Ready(outcome),
            Poll::Ready(Err(Expired)) => {
                this.state.expire();
                Poll::Ready((this.cut_off)(Phase::Body))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<F: Future> std::fmt::Debug for Body<'_, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Body")
    }
}
