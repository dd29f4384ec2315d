//! Cleans up sessions left mid-transaction: a background task rolls back, or closes the connection, before the pool can
//! hand it out again.

use std::future::poll_fn;
use std::time::Duration;

use tokio::runtime::Handle as Runtime;
use tokio::time::timeout;

use crate::driver::{self, Client, CommitReply, DriverError, Reply};
use crate::error::CommitOutcome;
use crate::events::{AttemptId, Event};
use crate::pool::session::Session;

/// How long the clean-up of a session may take if its statement cannot be cancelled.
const CLEAN_UP_TIMEOUT: Duration = Duration::from_millis(500);
/// How long it may take otherwise.
const CLEAN_UP_TIMEOUT_WITH_CANCEL: Duration = Duration::from_secs(2);
/// How long a COMMIT may take whose caller has gone.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long ROLLBACK may take before the statement in front of it is cancelled. Most are done sooner than a cancel.
const BEFORE_CANCEL: Duration = Duration::from_millis(5);
/// The time between cancels. One may arrive before the statement that it is meant for.
const BETWEEN_CANCELS: Duration = Duration::from_millis(50);
/// How long the server may take to act on a cancel.
const CANCEL_TIMEOUT: Duration = Duration::from_millis(500);

/// A session that is closed unless it is given back, however its holder ends. So the pool gets no dirty one.
pub(crate) struct SessionGuard(Option<Box<dyn Session>>);

impl SessionGuard {
    pub(crate) fn new(session: Box<dyn Session>) -> Self {
        Self(Some(session))
    }

    pub(crate) fn client(&self) -> &Client {
        self.session().client()
    }

    fn session(&self) -> &dyn Session {
        self.0.as_deref().expect("held until it is given back")
    }

    pub(crate) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        if let Some(session) = self.0.take() {
            session.discard();
        }
    }
}

/// Takes over a session with an open transaction, or with a COMMIT that has no reply yet. In the first case, ROLLBACK
/// is sent at once. Outside of a runtime, the connection is closed. `reusable`: the pool may get it back.
pub(crate) fn hand_over(session: Box<dyn Session>, commit: Option<CommitReply>, reusable: bool, id: AttemptId) {
    let (session, id) = (SessionGuard::new(session), id.after_call());
    let rollback = if commit.is_none() { Some(Reply::send(session.client(), "ROLLBACK")) } else { None };
    let commit = commit.map(|reply| Commit { reply: Some(reply), id });
    let Ok(runtime) = Runtime::try_current() else { return id.emit(Event::ConnectionDiscarded, None) };
    runtime.spawn(async move {
        if let Some(commit) = commit {
            commit.finish().await;
        }
        let limit = if session.session().can_cancel() { CLEAN_UP_TIMEOUT_WITH_CANCEL } else { CLEAN_UP_TIMEOUT };
        let clean = timeout(limit, clean(&session, rollback)).await;
        if reusable && clean.unwrap_or(false) {
            session.give_back();
        } else {
            id.emit(Event::ConnectionDiscarded, None);
        }
    });
}

/// Waits for the reply to a COMMIT that a dropped call has sent on the caller's own client.
pub(crate) fn wait_for_commit(reply: CommitReply, id: AttemptId) {
    let commit = Commit { reply: Some(reply), id: id.after_call() };
    if let Ok(runtime) = Runtime::try_current() {
        runtime.spawn(commit.finish());
    }
}

/// A COMMIT whose caller has gone. An event says how it ended; if this is dropped before, that the outcome is unknown.
struct Commit {
    reply: Option<CommitReply>,
    id: AttemptId,
}

impl Commit {
    async fn finish(mut self) {
        let Some(reply) = &mut self.reply else { return };
        let outcome = async {
            match poll_fn(|cx| reply.poll_commit(cx)).await {
                // An error of the flush says nothing about the commit.
                Ok(()) => poll_fn(|cx| reply.poll_flush(cx))
                    .await
                    .map_or(CommitOutcome::Unknown, |()| CommitOutcome::Committed),
                Err(error) if driver::failure_of(&error).proves_rollback() => CommitOutcome::RolledBack,
                Err(_) => CommitOutcome::Unknown,
            }
        };
        let outcome = timeout(COMMIT_TIMEOUT, outcome).await.unwrap_or(CommitOutcome::Unknown);
        self.reply = None;
        self.id.emit(Event::DroppedInCommit { outcome }, None);
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        if self.reply.is_some() {
            self.id.emit(Event::DroppedInCommit { outcome: CommitOutcome::Unknown }, None);
        }
    }
}

/// Rolls back, and checks that the session is idle and outside of a transaction.
async fn clean(session: &SessionGuard, rollback: Option<Result<Reply, DriverError>>) -> bool {
    // A COMMIT that failed at its probe left the transaction open.
    let rollback = rollback.unwrap_or_else(|| Reply::send(session.client(), "ROLLBACK"));
    let Ok(rollback) = rollback else { return false };
    roll_back(session, rollback).await && is_idle(session.client()).await
}

/// Waits for ROLLBACK, and cancels the statement in front of it. `false`: the state of the session is not known.
async fn roll_back(session: &SessionGuard, mut rollback: Reply) -> bool {
    for _ in 0..3 {
        let mut patience = BEFORE_CANCEL;
        let end = loop {
            if let Ok(end) = timeout(patience, rollback.end()).await {
                break end;
            }
            patience = BETWEEN_CANCELS;
            // If the server has not acted on a cancel by now, that cancel could hit the next holder of the session.
            if let Some(cancel) = session.session().cancel() {
                if !matches!(timeout(CANCEL_TIMEOUT, cancel).await, Ok(Ok(()))) {
                    return false;
                }
            }
        };
        match end {
            Ok(()) => return true,
            // A cancel can hit the ROLLBACK itself. The transaction is still open then.
            Err(error) if driver::failure_of(&error).is_canceled() => match Reply::send(session.client(), "ROLLBACK") {
                Ok(again) => rollback = again,
                Err(_) => return false,
            },
            Err(_) => return false,
        }
    }
    false
}

/// Whether no transaction is open: if one is, `now()` is the time of its beginning.
async fn is_idle(client: &Client) -> bool {
    let sql = "SELECT pg_catalog.now() OPERATOR(pg_catalog.=) pg_catalog.statement_timestamp()";
    driver::ask(client, sql).await.is_ok_and(|row| row.is_some_and(|row| row.get(0) == Some("t")))
}
