//! The wall-clock limit of a call.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

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

    /// Three quarters of the time that is left: the rest is for the look-up of a commit's outcome.
    pub(crate) fn leaving_time_for_a_lookup(self) -> Self {
        let now = Instant::now();
        Self(self.0.map(|deadline| now + deadline.saturating_duration_since(now) / 4 * 3))
    }

    /// Drops `work` if it has not ended in time.
    pub(crate) fn bound<F: Future>(self, work: F) -> Bounded<F> {
        Bounded { work, deadline: self, timer: None }
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

// A hand-written future: an async function would hold what it bounds twice.
pin_project! {
    /// Work that is dropped at the deadline.
    pub(crate) struct Bounded<F> {
        #[pin]
        work: F,
        deadline: Deadline,
        // Made when the work is first pending. Boxed, because most calls have no deadline.
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F: Future> Future for Bounded<F> {
    type Output = Result<F::Output, Expired>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(done) = this.work.poll(cx) {
            return Poll::Ready(Ok(done));
        }
        let Some(deadline) = this.deadline.0 else { return Poll::Pending };
        this.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline))).as_mut().poll(cx).map(|()| Err(Expired))
    }
}
