//! What one attempt has seen: its first failure, statements left unanswered, and hooks to run at its end.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio_postgres::Error as PgError;

use crate::answer::Answer;
use crate::begun::Begun;
use crate::classify::Failure;
use crate::hooks::Hooks;

/// Shared by the handles of an attempt: the transaction's and those of its savepoints.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Statements sent so far.
    sent: AtomicU32,
    /// How many of them nobody has seen the end of, or let go.
    open: AtomicU32,
    /// How often the transaction may have been aborted unseen.
    doubts: AtomicU32,
    /// How many of these doubts, counted from the first, a later statement has dispelled.
    dispelled: AtomicU32,
    /// Whether the body has taken the driver's own client, whose statements nobody watches.
    escaped: AtomicBool,
    /// Whether a statement that the body sent may have ended the transaction: `COMMIT`, `ROLLBACK`.
    may_have_ended: AtomicBool,
    /// Whether the session is in the middle of something: from before BEGIN is sent until COMMIT or ROLLBACK is
    /// acknowledged.
    dirty: AtomicBool,
    /// Whether the deadline has cut the body off.
    expired: AtomicBool,
    pub(crate) begun: Begun,
    notes: Mutex<Notes>,
}

/// What a savepoint can put back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    failure: Option<Recorded>,
    /// The first statement whose answer nobody waited for.
    unanswered: Option<u32>,
}

#[derive(Debug, Default)]
struct Notes {
    seen: Seen,
    hooks: Hooks,
    /// The answer to COMMIT, while it is waited for.
    commit: Option<Answer>,
}

#[derive(Clone, Debug)]
struct Recorded {
    statement: u32,
    failure: Failure,
}

impl State {
    /// Notes that a statement leaves. The ticket must be told how it ended.
    pub(crate) fn send(&self, unseen: Unseen) -> Ticket<'_> {
        let statement = self.sent.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Ticket { state: self, statement, doubts: self.doubts.load(Ordering::Relaxed), open: true, unseen }
    }

    /// Whether the next statement may leave: the first need not wait for the answer to BEGIN.
    pub(crate) fn poll_may_send(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.begun.is_pending() || self.sent.load(Ordering::Relaxed) == 0 {
            return Poll::Ready(());
        }
        self.begun.wait(cx);
        Poll::Pending
    }

    /// Whether every statement was seen to end well: the transaction is open and not aborted, and COMMIT commits it.
    pub(crate) fn all_is_well(&self) -> bool {
        let count = |counter: &AtomicU32| counter.load(Ordering::Relaxed);
        count(&self.open) == 0
            && count(&self.doubts) == count(&self.dispelled)
            && !self.may_have_ended()
            && self.notes().seen.failure.is_none()
    }

    /// Whether the body may have ended the transaction itself.
    pub(crate) fn may_have_ended(&self) -> bool {
        self.escaped.load(Ordering::Relaxed) || self.may_have_ended.load(Ordering::Relaxed)
    }

    /// Notes that the transaction may have been aborted unseen.
    pub(crate) fn doubt(&self) {
        self.doubts.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that the body uses the driver's own client.
    pub(crate) fn escape(&self) {
        self.escaped.store(true, Ordering::Relaxed);
    }

    /// Records a failure found outside the watched statements.
    pub(crate) fn record(&self, failure: Failure) {
        let statement = self.sent.load(Ordering::Relaxed);
        self.notes().seen.record(Recorded { statement, failure });
    }

    /// The failure that decides: the first, unless a later one was a conflict, or the first only a symptom.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.notes().seen.failure.as_ref().map(|recorded| recorded.failure.clone())
    }

    /// Whether the only failure seen is a symptom (25P02), and a statement before it went unanswered: that one's
    /// failure is the cause, and nobody saw it.
    pub(crate) fn cause_unseen(&self) -> bool {
        self.notes().seen.cause_unseen()
    }

    /// What was seen up to now, to go back to with [`State::forgive`].
    pub(crate) fn seen(&self) -> Seen {
        self.notes().seen.clone()
    }

    /// Forgets what a savepoint undid, unless it was, or may have been, a conflict: that ends the whole attempt.
    pub(crate) fn forgive(&self, seen: Seen) {
        let mut notes = self.notes();
        let is_final = |recorded: &Recorded| recorded.failure.class.is_conflict() || recorded.failure.lost;
        if !notes.seen.failure.as_ref().is_some_and(is_final) && !notes.seen.cause_unseen() {
            notes.seen = seen;
        }
    }

    pub(crate) fn with_hooks<T>(&self, with: impl FnOnce(&mut Hooks) -> T) -> T {
        with(&mut self.notes().hooks)
    }

    pub(crate) fn set_dirty(&self, dirty: bool) {
        self.dirty.store(dirty, Ordering::Relaxed);
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Relaxed)
    }

    pub(crate) fn expire(&self) {
        self.expired.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_expired(&self) -> bool {
        self.expired.load(Ordering::Relaxed)
    }

    /// Waits for the answer to COMMIT, and counts the statements of its message that succeeded. The answer is kept here,
    /// where it outlives a wait that is dropped.
    pub(crate) async fn commit(&self, answer: Answer) -> (Result<(), PgError>, u32) {
        self.notes().commit = Some(answer);
        let end = poll_fn(|cx| match &mut self.notes().commit {
            Some(answer) => answer.poll_end(cx),
            None => unreachable!("put there above, and taken below"),
        })
        .await;
        (end, self.take_commit().map_or(0, |answer| answer.completed()))
    }

    /// The answer to COMMIT, where nobody waits for it any more.
    pub(crate) fn take_commit(&self) -> Option<Answer> {
        self.notes().commit.take()
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn cause_unseen(&self) -> bool {
        match (&self.failure, self.unanswered) {
            (Some(recorded), Some(unanswered)) => recorded.failure.is_symptom() && unanswered <= recorded.statement,
            _ => false,
        }
    }

    fn leave_unanswered(&mut self, statement: u32) {
        let first = self.unanswered.map_or(statement, |first| first.min(statement));
        self.unanswered = Some(first);
    }

    fn record(&mut self, new: Recorded) {
        let replaces = match &self.failure {
            None => true,
            Some(old) if old.failure.class.is_conflict() => false,
            Some(old) => new.failure.class.is_conflict() || (old.failure.is_symptom() && !new.failure.is_symptom()),
        };
        if replaces {
            self.failure = Some(new);
        }
    }
}

/// What the driver does not show of a statement.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unseen {
    /// It stops reading before the server's last word on the statement.
    pub(crate) end: bool,
    /// It looks up unknown types of the columns after it has sent the statement. A failure of the statement then shows
    /// only as the look-up's symptom (25P02), and one of the look-up may not show at all.
    pub(crate) types: bool,
    /// It tells `COMMIT` and `ROLLBACK` from other statements that have no parameters and give nothing as little.
    pub(crate) command: bool,
}

/// A statement on its way. Dropped without an answer, it leaves a note, and a doubt.
#[derive(Debug)]
pub(crate) struct Ticket<'a> {
    state: &'a State,
    statement: u32,
    /// The doubts when it was sent.
    doubts: u32,
    open: bool,
    unseen: Unseen,
}

impl Ticket<'_> {
    /// The statement has ended. A second call changes nothing but what is recorded.
    pub(crate) fn answered(&mut self, error: Option<&PgError>) {
        let Some(error) = error else {
            if !self.unseen.end {
                self.close();
            }
            if self.unseen.types {
                self.state.doubt();
            }
            return;
        };
        let failure = Failure::from_driver(error);
        // The driver's own complaints (a wrong number of rows or parameters) are none of the transaction's. But the
        // driver reads no further then: the statement stays unanswered.
        if failure.db.is_some() || failure.lost {
            self.close();
            let mut notes = self.state.notes();
            if self.unseen.types && failure.is_symptom() {
                notes.seen.leave_unanswered(self.statement);
            }
            notes.seen.record(Recorded { statement: self.statement, failure });
        }
    }

    /// The statement gives no rows and changes none: it may have ended the transaction.
    pub(crate) fn gave_nothing(&self) {
        if self.unseen.command {
            self.state.may_have_ended.store(true, Ordering::Relaxed);
        }
    }

    /// The statement has ended well, and by the extended protocol. In an aborted transaction it could not have: what
    /// was in doubt when it was sent had gone well too.
    pub(crate) fn proves_all_before(&mut self) {
        self.answered(None);
        self.state.dispelled.fetch_max(self.doubts, Ordering::Relaxed);
    }

    /// A statement was prepared: `at_once`, if it came out of a cache and nothing was sent. Otherwise the driver may
    /// have asked for its types, and it does not read those answers to their ends.
    pub(crate) fn prepared(&mut self, at_once: bool) {
        self.close();
        if at_once {
            self.state.sent.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.state.doubt();
        }
    }

    fn close(&mut self) {
        if std::mem::take(&mut self.open) {
            self.state.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.open {
            self.close();
            self.gave_nothing();
            self.state.doubt();
            self.state.notes().seen.leave_unanswered(self.statement);
        }
    }
}
