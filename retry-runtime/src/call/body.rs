//! Runs a body: knows which calls are made inside it, and ends it at the deadline.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::call::interrupt::{Interruption, interruption};
use crate::error::{Error, Phase};
use crate::events::spans::SpanRef;
use crate::transaction::Transaction;
use crate::transaction::context::TxContext;
use crate::transaction::deadline::{Bounded, Deadline, Expired};
use crate::transaction::pipeline::Pipeline;
use crate::transaction::scoped::Scoped;
use crate::transaction::status::AttemptStatus;

/// What the body returns: a `Result`, or an alias of one.
#[diagnostic::on_unimplemented(
    message = "`#[transactional]` needs a function that returns a `Result`, not `{Self}`",
    label = "not a `Result`"
)]
pub trait Outcome {
    /// The type in `Ok`.
    type Ok;
    /// The type in `Err`.
    type Err;

    /// The `Result`.
    fn into_result(self) -> Result<Self::Ok, Self::Err>;

    /// Makes the type from a `Result`.
    fn from_result(result: Result<Self::Ok, Self::Err>) -> Self;
}

#[diagnostic::do_not_recommend]
impl<T, E> Outcome for Result<T, E> {
    type Ok = T;
    type Err = E;

    fn into_result(self) -> Self {
        self
    }

    fn from_result(result: Self) -> Self {
        result
    }
}

/// The function's error: any type made from [`Error`].
#[diagnostic::on_unimplemented(
    message = "the function's error `{Self}` cannot be made from `retry_runtime::Error`",
    label = "needs `From<retry_runtime::Error>`",
    note = "with thiserror, add a variant: `#[error(transparent)] Transaction(#[from] retry_runtime::Error)`",
    note = "or return `retry_runtime::Error` itself, `anyhow::Error`, or `Box<dyn std::error::Error + Send + Sync>`",
    note = "a type parameter needs the bound `From<retry_runtime::Error>`"
)]
pub trait FromError {
    /// Makes it from the runtime's error.
    fn from_error(error: Error) -> Self;
}

#[diagnostic::do_not_recommend]
impl<E: From<Error>> FromError for E {
    fn from_error(error: Error) -> Self {
        Self::from(error)
    }
}

thread_local! {
    /// The innermost call whose body this thread is polling.
    static INNERMOST: Cell<Option<RunningCall>> = const { Cell::new(None) };
}

/// A call whose body is running.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunningCall {
    /// The name of its function.
    pub(crate) function: &'static str,
    /// The id of its pool, if it has a pool.
    pub(crate) pool: Option<usize>,
}

impl RunningCall {
    /// The innermost call whose body is being polled.
    pub(crate) fn innermost() -> Option<Self> {
        INNERMOST.get()
    }
}

/// Runs the body of an attempt. Ends it at the deadline, or if a pipelined BEGIN fails.
pub struct Scope<'a> {
    call: RunningCall,
    deadline: Deadline,
    status: &'a AttemptStatus,
    span: SpanRef<'a>,
    is_outermost: bool,
    interruption: Option<Interruption<'a>>,
    /// The sent statements. A nested body has none: the outermost body reads their replies.
    pipeline: Option<Arc<dyn Pipeline + 'a>>,
}

impl<'a> Transaction<'a> {
    /// The scope that the body runs in.
    #[doc(hidden)]
    #[must_use]
    pub fn scope(&self) -> Scope<'a> {
        let TxContext { function, pool, deadline, status, span, depth, .. } = self.context;
        let (call, interruption) = (RunningCall { function, pool }, interruption(&self.context));
        let pipeline = (depth == 0 || self.is_in_driver_transaction()).then(|| self.pipeline.clone());
        Scope { call, deadline, status, span, is_outermost: depth == 0, interruption, pipeline }
    }

    /// Whether an earlier attempt may be committed.
    #[doc(hidden)]
    #[must_use]
    pub fn is_after_unknown(&self) -> bool {
        self.context.after_unknown
    }
}

impl<'a> Scope<'a> {
    /// Runs the body. If it is ended early, it returns a placeholder of its error type, and the call returns the reason.
    #[must_use]
    pub fn body<O: Outcome<Err: FromError>, F: Future<Output = O>>(self, body: F) -> Body<'a, F> {
        let Self { call, deadline, status, span, is_outermost, interruption, pipeline } = self;
        let cut_off = |phase| O::from_result(Err(FromError::from_error(Error::deadline(phase))));
        Body { work: deadline.bound(body), cut_off, call, status, span, is_outermost, interruption, pipeline }
    }

    /// [`Scope::body`] for an error that is a type parameter: rustc then suggests the bound to write, `From<Error>`.
    #[must_use]
    pub fn body_from<O: Outcome<Err: From<Error>>, F: Future<Output = O>>(self, body: F) -> Body<'a, F> {
        self.body(body)
    }
}

pin_project! {
    /// A body in its scope.
    pub struct Body<'a, F: Future> {
        #[pin]
        work: Bounded<F>,
        cut_off: fn(Phase) -> F::Output,
        call: RunningCall,
        status: &'a AttemptStatus,
        span: SpanRef<'a>,
        is_outermost: bool,
        interruption: Option<Interruption<'a>>,
        pipeline: Option<Arc<dyn Pipeline + 'a>>,
    }
}

impl<F: Future> Future for Body<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let status = this.status;
        if *this.is_outermost && status.is_begin_pending() {
            match (status.poll_begin(cx), &this.pipeline) {
                (Poll::Ready(false), _) => return Poll::Ready((this.cut_off)(Phase::Begin)),
                // The statements that were held back leave before any other.
                (Poll::Ready(true), Some(pipeline)) => drop(pipeline.poll(cx)),
                _ => {}
            }
        }
        let _entered = this.span.enter();
        let _innermost = Scoped::set(&INNERMOST, Some(*this.call));
        match this.work.poll(cx) {
            Poll::Ready(Ok(outcome)) => Poll::Ready(outcome),
            Poll::Ready(Err(Expired)) => {
                status.expire();
                Poll::Ready((this.cut_off)(Phase::Body))
            }
            Poll::Pending => {
                if this.interruption.as_mut().is_some_and(|interruption| interruption.as_mut().poll(cx).is_ready()) {
                    *this.interruption = None;
                }
                // What the body waits for may be behind their replies.
                if let Some(pipeline) = this.pipeline {
                    let _ = pipeline.poll(cx);
                }
                Poll::Pending
            }
        }
    }
}

impl std::fmt::Debug for Scope<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scope")
    }
}

impl<F: Future> std::fmt::Debug for Body<'_, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Body")
    }
}
