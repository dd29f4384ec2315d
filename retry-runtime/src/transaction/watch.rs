//! Watches a statement from when it leaves to the end of its reply.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio_postgres::Error;

use crate::transaction::status::{AttemptStatus, BlindSpots, StatementGuard};
use crate::transaction::stream::Watched;

// A hand-written future: an async function would hold what it waits for twice.
pin_project! {
    /// A future of the driver, watched.
    pub(crate) struct Watch<'a, F> {
        #[pin]
        future: F,
        status: &'a AttemptStatus,
        blind_spots: BlindSpots,
        // From when the statement leaves.
        statement: Option<StatementGuard<'a>>,
    }
}

impl<'a, F> Watch<'a, F> {
    pub(crate) fn new(future: F, status: &'a AttemptStatus, blind_spots: BlindSpots) -> Self {
        Self { future, status, blind_spots, statement: None }
    }
}

impl<'a, T, F: Future<Output = Result<T, Error>>> Future for Watch<'a, F> {
    type Output = Result<Answered<'a, T>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let status: &'a AttemptStatus = this.status;
        let at_once = this.statement.is_none();
        if at_once {
            *this.statement = Some(ready!(status.poll_send(cx, *this.blind_spots)));
        }
        let result = ready!(this.future.poll(cx));
        let mut statement = this.statement.take().expect("put there at the first poll");
        Poll::Ready(match result {
            Ok(value) => Ok(Answered { value, statement, at_once }),
            Err(error) => {
                statement.answered(Some(&error));
                Err(error)
            }
        })
    }
}

/// What the driver's future returned.
pub(crate) struct Answered<'a, T> {
    value: T,
    statement: StatementGuard<'a>,
    /// Whether it was ready when first polled.
    at_once: bool,
}

/// The statement has succeeded.
pub(crate) fn done<T>(mut answered: Answered<'_, T>) -> T {
    answered.statement.proves_all_before();
    answered.value
}

/// The statement has succeeded, perhaps without a result, as `COMMIT` does.
pub(crate) fn done_or_nothing<T: Yield>(answered: Answered<'_, T>) -> T {
    if answered.value.is_nothing() {
        answered.statement.gave_nothing();
    }
    done(answered)
}

/// The result of a statement.
pub(crate) trait Yield {
    fn is_nothing(&self) -> bool;
}

impl Yield for u64 {
    fn is_nothing(&self) -> bool {
        *self == 0
    }
}

impl<T> Yield for Vec<T> {
    fn is_nothing(&self) -> bool {
        self.is_empty()
    }
}

impl<T> Yield for Option<T> {
    fn is_nothing(&self) -> bool {
        self.is_none()
    }
}

/// The statements of a simple query have succeeded. That proves nothing: an empty one succeeds in any transaction.
pub(crate) fn noted<T>(mut answered: Answered<'_, T>) -> T {
    answered.statement.gave_nothing();
    answered.statement.answered(None);
    answered.value
}

/// The statement was prepared.
pub(crate) fn prepared<T>(mut answered: Answered<'_, T>) -> T {
    answered.statement.prepared(answered.at_once);
    answered.value
}

/// The reply to the statement has begun.
pub(crate) fn stream<S>(answered: Answered<'_, S>) -> Watched<'_, S> {
    answered.statement.gave_nothing();
    Watched::new(answered.value, answered.statement)
}
