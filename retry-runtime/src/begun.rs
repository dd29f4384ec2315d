//! The answer to BEGIN: awaited, or read while the body's first statement is on its way already.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio_postgres::Error as PgError;

use crate::answer::Answer;
use crate::identity::Identity;

/// What is known of an attempt's BEGIN.
#[derive(Debug, Default)]
pub(crate) struct Begun {
    /// Whether BEGIN is unanswered, or has failed.
    pending: AtomicBool,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    answer: Option<Answer>,
    error: Option<PgError>,
    identity: Option<Box<Identity>>,
    /// The statements that wait for the answer.
    waiting: Vec<Waker>,
}

impl Begun {
    /// BEGIN is on its way.
    pub(crate) fn sent(&self, answer: Answer) {
        self.notes().answer = Some(answer);
        self.pending.store(true, Ordering::Relaxed);
    }

    /// Whether BEGIN is unanswered, or has failed: nothing that relies on it may leave.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Relaxed)
    }

    /// Reads the answer, and wakes what waits for it. `false`: BEGIN has failed.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut notes = self.notes();
        let notes = &mut *notes;
        while let Some(answer) = &mut notes.answer {
            match ready!(answer.poll_row(cx)) {
                Some(Ok(row)) => notes.identity = Identity::read(&row).map(Box::new),
                Some(Err(error)) => {
                    notes.answer = None;
                    notes.error = Some(error);
                }
                None => {
                    notes.answer = None;
                    self.pending.store(false, Ordering::Relaxed);
                    notes.waiting.drain(..).for_each(Waker::wake);
                }
            }
        }
        Poll::Ready(!self.is_pending())
    }

    /// Wakes this task once BEGIN has succeeded.
    pub(crate) fn wait(&self, cx: &Context<'_>) {
        let waiting = &mut self.notes().waiting;
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
    }

    /// Why BEGIN has failed.
    pub(crate) fn take_error(&self) -> Option<PgError> {
        self.notes().error.take()
    }

    /// The transaction's identity, where BEGIN asked for it.
    pub(crate) fn take_identity(&self) -> Option<Box<Identity>> {
        self.notes().identity.take()
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
