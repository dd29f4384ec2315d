//! Statements sent without waiting for their replies, which are read later.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use pin_project_lite::pin_project;
use tokio_postgres::Client;

use crate::error::Error;
#[cfg(feature = "testing")]
use crate::transaction::fault::Replaceable;
use crate::transaction::request::Request;
use crate::transaction::status::{AttemptStatus, BlindSpots};

/// The sent statements of an attempt, shared by its transaction and its savepoints.
///
/// A trait, because it hides the lifetime of the connection: savepoints have a shorter one.
pub(crate) trait Pipeline: fmt::Debug + Send + Sync {
    /// Sends a statement. If BEGIN has no reply yet, the statement is held back until then. `expected`: how many rows it
    /// must affect.
    fn send(&self, request: Request, expected: Option<u64>);

    /// Reads replies, and lets the statements leave that were held back. Ready: all that have left have their replies.
    ///
    /// It must be polled while anything else is waited for. The driver reads no reply before the previous one is taken.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Makes COMMIT wait for the replies that are missing now. The server would accept COMMIT before, although one of these
    /// failures may forbid it.
    fn delay_commit(&self);

    /// Whether COMMIT must wait for missing replies.
    fn delays_commit(&self) -> bool;
}

impl dyn Pipeline + '_ {
    /// Waits for all replies.
    pub(crate) async fn end(&self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    /// Reads the replies that have arrived.
    pub(crate) fn read(&self) {
        let _ = self.poll(&mut Context::from_waker(Waker::noop()));
    }

    /// Reads replies while `future` waits for the reply to a later statement. When it has that reply, all earlier ones have
    /// arrived too, and are read.
    pub(crate) fn during<F: Future>(&self, future: F) -> During<'_, F> {
        During { pipeline: self, future }
    }
}

// A hand-written future: an async function would hold what it waits for twice.
pin_project! {
    /// The future of `during`.
    pub(crate) struct During<'p, F> {
        pipeline: &'p (dyn Pipeline + 'p),
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for During<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _ = this.pipeline.poll(cx);
        let output = ready!(this.future.poll(cx));
        let _ = this.pipeline.poll(cx);
        Poll::Ready(output)
    }
}

/// The pipeline of one connection.
pub(crate) struct SentStatements<'a> {
    client: &'a Client,
    status: &'a AttemptStatus,
    /// Whether any may be without a reply. Most attempts send none, and need not lock.
    is_used: AtomicBool,
    queues: Mutex<Queues<'a>>,
}

/// Waits for a reply, and notes it. The statement leaves at the first poll.
type Exchange<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

#[derive(Default)]
struct Queues<'a> {
    /// Wait for the reply to BEGIN: if BEGIN fails, they would run outside of the transaction.
    held: VecDeque<Exchange<'a>>,
    /// Have left.
    sent: VecDeque<Exchange<'a>>,
    /// Whether COMMIT must wait for the replies.
    delays_commit: bool,
}

impl<'a> SentStatements<'a> {
    pub(crate) fn new(client: &'a Client, status: &'a AttemptStatus) -> Self {
        Self { client, status, is_used: AtomicBool::new(false), queues: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Queues<'a>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pipeline for SentStatements<'_> {
    fn send(&self, request: Request, expected: Option<u64>) {
        let exchange = Box::pin(exchange(self.client, self.status, request, expected));
        let mut queues = self.lock();
        self.is_used.store(true, Ordering::Relaxed);
        queues.held.push_back(exchange);
        queues.delays_commit |= expected.is_some();
        if !self.status.holds_back() {
            queues.leave();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_used.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        let mut queues = self.lock();
        if !queues.held.is_empty() && !self.status.is_begin_pending() {
            queues.leave();
        }
        while let Some(first) = queues.sent.front_mut() {
            ready!(first.as_mut().poll(cx));
            queues.sent.pop_front();
        }
        queues.delays_commit &= !queues.held.is_empty();
        Poll::Ready(())
    }

    fn delay_commit(&self) {
        let mut queues = self.lock();
        queues.delays_commit |= !queues.sent.is_empty();
    }

    fn delays_commit(&self) -> bool {
        self.is_used.load(Ordering::Relaxed) && self.lock().delays_commit
    }
}

impl Queues<'_> {
    fn leave(&mut self) {
        for mut exchange in self.held.drain(..) {
            if exchange.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                self.sent.push_back(exchange);
            }
        }
    }
}

async fn exchange(client: &Client, status: &AttemptStatus, request: Request, expected: Option<u64>) {
    let blind_spots = BlindSpots { command: !request.has_params(), ..BlindSpots::default() };
    let mut statement = status.send(blind_spots);
    #[cfg(feature = "testing")]
    let executed = Replaceable::new(request.execute(client), client, status);
    #[cfg(not(feature = "testing"))]
    let executed = request.execute(client);
    match executed.await {
        Ok(rows) => {
            if rows == 0 {
                statement.gave_nothing();
            }
            statement.proves_all_before();
            if let Some(expected) = expected.filter(|expected| *expected != rows) {
                statement.stands_against_commit(Error::UnexpectedRows { expected, found: rows });
            }
        }
        Err(error) => {
            statement.answered(Some(&error));
            statement.stands_against_commit(Error::from(error));
        }
    }
}

impl fmt::Debug for SentStatements<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SentStatements")
    }
}
