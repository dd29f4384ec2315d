//! The scope that a body runs in. It knows which calls are made inside the body, and ends a body that runs for too long.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::__private::{FromError, Outcome};
use crate::deadline::{Bounded, Deadline, Expired};
use crate::error::{Error, Phase};
use crate::state::State;

thread_local! {
    /// The innermost call whose body this thread is polling.
    static INNERMOST: Cell<Option<Outer>> = const { Cell::new(None) };
}

/// A call inside whose body another one is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outer {
    /// Its function's name.
    pub(crate) function: &'static str,
    /// Its pool's id, if it has a pool.
    pub(crate) pool: Option<usize>,
}

impl Outer {
    /// The innermost call whose body is being polled.
    pub(crate) fn innermost() -> Option<Self> {
        INNERMOST.get()
    }
}

/// Restores what was there before, also if the body panics.
struct Restore(Option<Outer>);

impl Drop for Restore {
    fn drop(&mut self) {
        INNERMOST.set(self.0);
    }
}

/// What bounds the body of an attempt: the call's deadline, and the answer to a pipelined BEGIN.
#[derive(Debug)]
pub struct Scope<'a> {
    pub(crate) outer: Outer,
    pub(crate) deadline: Deadline,
    pub(crate) state: &'a State,
    pub(crate) outermost: bool,
}

impl<'a> Scope<'a> {
    /// Runs the body; cut off, it has failed with [`Error::DeadlineExceeded`]. What BEGIN said is the call's to tell.
    #[must_use]
    pub fn body<O: Outcome<Err: FromError>, F: Future<Output = O>>(self, body: F) -> Body<'a, F> {
        let Self { outer, deadline, state, outermost } = self;
        let cut_off = |phase| O::from_result(Err(FromError::from_error(Error::deadline(phase))));
        Body { work: deadline.bound(body), cut_off, outer, state, outermost }
    }
}

pin_project! {
    /// A body in its scope.
    pub struct Body<'a, F: Future> {
        #[pin]
        work: Bounded<F>,
        cut_off: fn(Phase) -> F::Output,
        outer: Outer,
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
        let _restore = Restore(INNERMOST.replace(Some(*this.outer)));
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
