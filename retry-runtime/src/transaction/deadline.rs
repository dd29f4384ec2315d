//! The wall-clock limit of a call.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;

use crate::sync::{Instant, Sleep, sleep_until};
use crate::transaction::scoped::Scoped;

/// When a call must be over, if it has a limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

/// The limit has passed.
#[derive(Debug)]
pub(crate) struct Expired;

thread_local! {
    /// The earliest deadline of the [`WithDeadline`] futures that this thread is polling.
    static AROUND: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Gives every transactional call in `future` this deadline, if it is earlier than the function's own.
///
/// For a request that has a limited time: set it once, around the handler. A call that exceeds it ends with
/// [`Error::DeadlineExceeded`](crate::Error::DeadlineExceeded). Everything else in `future` goes on. A nested call has the
/// deadline of the outermost call. Calls in tasks that `future` spawns do not see the deadline.
///
/// ```
/// use std::time::Duration;
///
/// use retry_runtime::{Error, Pool, Transaction, transactional, with_deadline};
/// use tokio::time::Instant;
///
/// #[transactional]
/// async fn debit(tx: &mut Transaction<'_>, id: i64) -> Result<u64, Error> {
///     Ok(tx.execute("UPDATE accounts SET balance = balance - 1 WHERE id = $1", &[&id]).await?)
/// }
///
/// async fn handle(pool: &impl Pool, id: i64) -> Result<u64, Error> {
///     with_deadline(Instant::now() + Duration::from_secs(2), debit(pool, id)).await
/// }
/// ```
///
/// # Cancel safety
/// As for `future`.
pub fn with_deadline<F: Future>(deadline: Instant, future: F) -> WithDeadline<F> {
    WithDeadline { future, deadline }
}

pin_project! {
    /// The future of [`with_deadline`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless they are awaited"]
    pub struct WithDeadline<F> {
        #[pin]
        future: F,
        deadline: Instant,
    }
}

impl<F: Future> Future for WithDeadline<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _around = Scoped::set(&AROUND, Deadline(Some(*this.deadline)).or(Deadline(AROUND.get())).0);
        this.future.poll(cx)
    }
}

impl Deadline {
    /// The deadline of a call: the earlier of `limit` from now and that of [`with_deadline`] around the call.
    pub(crate) fn of_call(limit: Option<Duration>) -> Self {
        Self::after(limit).or(Self(AROUND.get()))
    }

    pub(crate) fn at(time: Instant) -> Self {
        Self(Some(time))
    }

    pub(crate) fn after(limit: Option<Duration>) -> Self {
        Self(limit.and_then(|limit| Instant::now().checked_add(limit)))
    }

    /// The earlier of this and `limit` from now.
    pub(crate) fn or_after(self, limit: Duration) -> Self {
        self.or(Self::after(Some(limit)))
    }

    /// The earlier of the two.
    fn or(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(this), Some(other)) => Self(Some(this.min(other))),
            _ => Self(self.0.or(other.0)),
        }
    }

    /// The time that is left, if there is a limit.
    pub(crate) fn left(self) -> Option<Duration> {
        self.0.map(|deadline| deadline.saturating_duration_since(Instant::now()))
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
