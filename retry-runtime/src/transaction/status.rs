//! What one attempt has seen: its first failure, statements without a reply, and hooks to run at its end.
//!
//! Plain data ([`Status`], in `state`) behind one lock ([`AttemptStatus`]).

use std::future::poll_fn;
use std::sync::PoisonError;
use std::task::{Context, Poll};

use crate::classify::Failure;
use crate::driver::{self, CommitReply, DriverError, Reply, Row};
use crate::error::Error;
use crate::sync::{Mutex, MutexGuard};
#[cfg(feature = "testing")]
use crate::testing::attempt::AttemptFaults;
use crate::transaction::begin_reply::BeginReply;
use crate::transaction::hooks::Hooks;
use crate::transaction::state::{Interrupt, SavepointMark, Status, Suspect};

/// Shared by an attempt's transaction and its savepoints.
#[derive(Debug, Default)]
pub(crate) struct AttemptStatus(Mutex<Status>);

impl AttemptStatus {
    /// Notes that a statement leaves. The guard must be told how it ended.
    pub(crate) fn send(&self, blind_spots: BlindSpots) -> StatementGuard<'_> {
        StatementGuard { status: self, statement: self.lock().send(), open: true, blind_spots }
    }

    /// Like [`AttemptStatus::send`], once the statement may leave. The first one need not wait for the reply to BEGIN.
    pub(crate) fn poll_send(&self, cx: &Context<'_>, blind_spots: BlindSpots) -> Poll<StatementGuard<'_>> {
        let mut status = self.lock();
        if status.begin.is_pending() && (status.sent > 0 || status.begin.has_held_back) {
            status.begin.wait(cx);
            return Poll::Pending;
        }
        Poll::Ready(StatementGuard { status: self, statement: status.send(), open: true, blind_spots })
    }

    /// Whether every statement was seen to succeed: the transaction is open and not aborted, so COMMIT commits it.
    pub(crate) fn all_is_well(&self) -> bool {
        self.lock().all_is_well()
    }

    /// Whether every statement was seen to succeed, BEGIN included, and the deadline has not cut the body off.
    pub(crate) fn is_ready_to_commit(&self) -> bool {
        let status = self.lock();
        status.all_is_well() && !status.begin.is_pending() && status.expired_in_statement.is_none()
    }

    /// Notes that the body uses the driver's own client.
    pub(crate) fn use_raw_client(&self) {
        self.lock().suspect = Some(Suspect::RawClient);
    }

    /// Records a failure found outside of the watched statements.
    pub(crate) fn record(&self, failure: Failure) {
        let mut status = self.lock();
        let statement = status.sent;
        status.record(statement, failure);
    }

    /// The body has returned an error with this failure.
    pub(crate) fn record_of_body(&self, failure: Failure) {
        self.lock().record_of_body(failure);
    }

    /// The failure that decides: the first, unless a later one was a conflict, or the first was only a symptom.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.lock().seen.failure.as_ref().map(|recorded| recorded.failure.clone())
    }

    /// Whether only a symptom (25P02) was seen, after a statement whose reply was not waited for. The failure of that
    /// statement is the cause.
    pub(crate) fn cause_unseen(&self) -> bool {
        self.lock().seen.cause_unseen()
    }

    /// Takes the error of the first sent statement that failed. In a savepoint: since this mark.
    pub(crate) fn take_sent_error(&self, since: Option<&SavepointMark>) -> Option<Error> {
        let since = since.map_or(0, |mark| mark.sent);
        self.lock().sent_error.take_if(|sent_error| sent_error.0 >= since).map(|sent_error| sent_error.1)
    }

    /// Whether a sent statement has failed.
    pub(crate) fn has_sent_error(&self) -> bool {
        self.lock().sent_error.is_some()
    }

    /// What to restore with [`AttemptStatus::roll_back_to`].
    pub(crate) fn mark(&self) -> SavepointMark {
        self.lock().mark()
    }

    /// Forgets what happened since the mark, unless it was, or may have been, a conflict: that ends the whole attempt.
    pub(crate) fn roll_back_to(&self, mark: SavepointMark) {
        let undone = self.lock().roll_back_to(mark);
        // Not under the lock: a hook's own drop may do anything.
        drop(undone);
    }

    pub(crate) fn with_hooks<T>(&self, with: impl FnOnce(&mut Hooks) -> T) -> T {
        with(&mut self.lock().hooks)
    }

    #[cfg(feature = "testing")]
    pub(crate) fn with_faults<T>(&self, with: impl FnOnce(&mut AttemptFaults) -> T) -> T {
        with(&mut self.lock().faults)
    }

    pub(crate) fn set_in_transaction(&self, in_transaction: bool) {
        self.lock().in_transaction = in_transaction;
    }

    pub(crate) fn is_in_transaction(&self) -> bool {
        self.lock().in_transaction
    }

    pub(crate) fn expire(&self) {
        let mut status = self.lock();
        status.expired_in_statement = Some(status.open > 0 || status.begin.is_pending());
    }

    /// The server has ended a statement at the deadline.
    pub(crate) fn expire_in_statement(&self) {
        self.lock().expired_in_statement = Some(true);
    }

    /// Whether the deadline has cut the body off while it waited for the server.
    pub(crate) fn has_expired_in_statement(&self) -> bool {
        self.lock().expired_in_statement == Some(true)
    }

    pub(crate) fn has_expired(&self) -> bool {
        self.lock().expired_in_statement.is_some()
    }

    /// Notes that a cancel request follows. `false`: no statement is waited for.
    pub(crate) fn begin_interrupt(&self) -> bool {
        let mut status = self.lock();
        let waits = status.open > 0;
        if waits {
            status.interrupt = Interrupt::Sent;
        }
        waits
    }

    /// The server has acted on the cancel request.
    pub(crate) fn end_interrupt(&self) {
        self.lock().interrupt = Interrupt::Done;
    }

    /// Whether the runtime has cancelled a statement.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.lock().interrupt != Interrupt::None
    }

    /// Whether a cancel request may still hit whatever the session runs next.
    pub(crate) fn has_cancel_on_its_way(&self) -> bool {
        self.lock().interrupt == Interrupt::Sent
    }

    /// BEGIN was sent.
    pub(crate) fn begin_sent(&self, reply: Reply) {
        self.lock().begin = BeginReply::sent(reply);
    }

    /// Whether BEGIN has no reply yet, or has failed.
    pub(crate) fn is_begin_pending(&self) -> bool {
        self.lock().begin.is_pending()
    }

    /// Whether a sent statement must be held back: BEGIN has no reply yet, or has failed.
    pub(crate) fn holds_back(&self) -> bool {
        let begin = &mut self.lock().begin;
        begin.has_held_back |= begin.is_pending();
        begin.is_pending()
    }

    /// Reads the reply to BEGIN and wakes the statements that wait for it. `false`: BEGIN has failed.
    pub(crate) fn poll_begin(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut status = self.lock();
        let poll = status.begin.poll(cx);
        let woken = status.begin.take_woken();
        drop(status);
        woken.into_iter().for_each(std::task::Waker::wake);
        poll
    }

    /// Why BEGIN has failed.
    pub(crate) fn take_begin_error(&self) -> Option<DriverError> {
        self.lock().begin.error.take()
    }

    /// The first row in the reply to BEGIN that was not taken: the reply to the first question in its message.
    pub(crate) fn take_begin_row(&self) -> Option<Row> {
        let rows = &mut self.lock().begin.rows;
        (!rows.is_empty()).then(|| rows.remove(0))
    }

    /// Waits for the reply to COMMIT, and counts the statements of its message that succeeded. If the future is dropped,
    /// or a flush follows, the reply stays here.
    pub(crate) async fn commit(&self, reply: CommitReply) -> (Result<(), DriverError>, u32) {
        self.lock().commit = Some(reply);
        let end = self.poll_commit(CommitReply::poll_commit).await;
        let mut status = self.lock();
        let completed = status.commit.as_ref().map_or(0, CommitReply::completed);
        status.commit.take_if(|reply| !reply.is_flush_pending());
        (end, completed)
    }

    /// Whether COMMIT has succeeded, and its flush has no reply yet, or has failed.
    pub(crate) fn is_flush_pending(&self) -> bool {
        self.lock().commit.as_ref().is_some_and(CommitReply::is_flush_pending)
    }

    /// Waits for the reply to the flush. If the future is dropped, the reply stays here.
    pub(crate) async fn flush(&self) -> Result<(), DriverError> {
        let end = self.poll_commit(CommitReply::poll_flush).await;
        self.take_commit();
        end
    }

    async fn poll_commit(
        &self,
        mut poll: impl FnMut(&mut CommitReply, &mut Context<'_>) -> Poll<Result<(), DriverError>>,
    ) -> Result<(), DriverError> {
        poll_fn(|cx| match &mut self.lock().commit {
            Some(reply) => poll(reply, cx),
            None => unreachable!("it is taken only after the wait"),
        })
        .await
    }

    /// The reply to COMMIT, if the wait for it or its flush was dropped.
    pub(crate) fn take_commit(&self) -> Option<CommitReply> {
        self.lock().commit.take()
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the driver does not show of a statement.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BlindSpots {
    /// It stops reading before the end of the reply.
    pub(crate) end: bool,
    /// It looks up unknown types of the columns after it has sent the statement. A failure of the statement then shows
    /// only as the symptom (25P02) of the look-up, and a failure of the look-up may not show at all.
    pub(crate) types: bool,
    /// It does not tell `COMMIT` and `ROLLBACK` from other statements that have no parameters and return nothing.
    pub(crate) command: bool,
}

/// A statement on its way. If dropped before the reply, it marks the transaction's status as unproven.
#[derive(Debug)]
pub(crate) struct StatementGuard<'a> {
    status: &'a AttemptStatus,
    statement: u32,
    open: bool,
    blind_spots: BlindSpots,
}

impl StatementGuard<'_> {
    /// The statement has ended. A second call only records.
    pub(crate) fn answered(&mut self, error: Option<&DriverError>) {
        let mut status = self.status.lock();
        let Some(error) = error else {
            if !self.blind_spots.end {
                close(&mut self.open, &mut status);
            }
            if self.blind_spots.types {
                status.doubt();
            }
            return;
        };
        let failure = driver::failure_of(error);
        // The driver's own complaints (a wrong number of rows or parameters) do not concern the transaction. But the
        // driver stops reading then, so the statement stays without its reply.
        if failure.report.is_some() || failure.ends_session {
            close(&mut self.open, &mut status);
            if self.blind_spots.types && failure.is_symptom() {
                status.seen.leave_unanswered(self.statement);
            }
            status.record(self.statement, failure);
        }
    }

    /// Notes that the attempt must end with this error, unless a savepoint undoes the statement. A symptom says nothing:
    /// an earlier statement is the reason.
    pub(crate) fn stands_against_commit(&self, error: Error) {
        let mut status = self.status.lock();
        let is_symptom = matches!(&error, Error::Postgres(cause) if driver::failure_of(cause).is_symptom());
        if !is_symptom && self.statement >= status.forgiven && status.sent_error.is_none() {
            status.sent_error = Some(Box::new((self.statement, error)));
        }
    }

    /// The statement returned no rows and changed none: it may have ended the transaction.
    pub(crate) fn gave_nothing(&self) {
        if self.blind_spots.command {
            self.status.lock().suspect.get_or_insert(Suspect::Command);
        }
    }

    /// The statement has succeeded, by the extended protocol. In an aborted transaction it could not have, so whatever
    /// was unproven when it was sent had succeeded too.
    pub(crate) fn proves_all_before(&mut self) {
        let mut status = self.status.lock();
        close(&mut self.open, &mut status);
        status.prove(self.statement);
        if self.blind_spots.types {
            status.doubt();
        }
    }

    /// A statement was prepared: `at_once` if it came from a cache and nothing was sent. Otherwise the driver may have
    /// looked up its types, and it does not read those replies to their ends.
    pub(crate) fn prepared(&mut self, at_once: bool) {
        let mut status = self.status.lock();
        close(&mut self.open, &mut status);
        if at_once {
            status.sent -= 1;
        } else {
            status.doubt();
        }
    }
}

fn close(open: &mut bool, status: &mut Status) {
    if std::mem::take(open) {
        status.open -= 1;
    }
}

impl Drop for StatementGuard<'_> {
    fn drop(&mut self) {
        if self.open {
            self.gave_nothing();
            let mut status = self.status.lock();
            close(&mut self.open, &mut status);
            status.doubt();
            status.seen.leave_unanswered(self.statement);
        }
    }
}

#[cfg(all(test, shuttle))]
mod schedules;
#[cfg(test)]
mod tests;
