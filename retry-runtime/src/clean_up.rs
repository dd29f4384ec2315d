//! What becomes of a session that a call left in the middle of something: a task of its own makes it clean, or closes
//! it, before the pool can hand it out again.

use std::time::Duration;

use tokio::runtime::Handle as Runtime;
use tokio::time::timeout;
use tokio_postgres::{Client, Error as PgError};

use crate::answer::Answer;
use crate::classify::Failure;
use crate::events;
use crate::identity::last_row;
use crate::resolve::CommitOutcome;
use crate::run::Site;
use crate::source::Session;

/// How long a session may take to become clean.
const LIMIT: Duration = Duration::from_secs(2);
/// How long a COMMIT that nobody waits for may take.
const COMMIT_LIMIT: Duration = Duration::from_secs(30);
/// How long ROLLBACK may take before the statement in front of it is cancelled: most are done sooner than a cancel.
const BEFORE_CANCEL: Duration = Duration::from_millis(5);
/// Between cancels: each can come before the statement that it is meant for.
const BETWEEN_CANCELS: Duration = Duration::from_millis(50);
/// How long a cancel may take to be acted on.
const CANCEL_LIMIT: Duration = Duration::from_millis(500);

/// A session that is closed unless it is given back: however its holder ends, the pool gets no dirty one.
pub(crate) struct Borrowed(Option<Box<dyn Session>>);

impl Borrowed {
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

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(session) = self.0.take() {
            session.discard();
        }
    }
}

/// Takes over a session whose transaction is open, or whose COMMIT is on its way. Sends ROLLBACK at once, unless it is
/// COMMIT that was left. Outside of a runtime, the connection is closed.
pub(crate) fn hand_over(session: Box<dyn Session>, commit: Option<Answer>, site: &'static Site, attempt: u32) {
    let session = Borrowed::new(session);
    let rollback = if commit.is_none() { Some(Answer::send(session.client(), "ROLLBACK")) } else { None };
    let commit = commit.map(|answer| Commit { answer: Some(answer), site, attempt });
    let Ok(runtime) = Runtime::try_current() else { return events::discard(site, attempt, None) };
    runtime.spawn(async move {
        if let Some(commit) = commit {
            commit.finish().await;
        }
        let clean = timeout(LIMIT, clean(&session, rollback)).await;
        if clean.unwrap_or(false) {
            session.give_back();
        } else {
            events::discard(site, attempt, None);
        }
    });
}

/// Waits for a COMMIT that was left on a client of the caller's own.
pub(crate) fn wait_for_commit(answer: Answer, site: &'static Site, attempt: u32) {
    let commit = Commit { answer: Some(answer), site, attempt };
    if let Ok(runtime) = Runtime::try_current() {
        runtime.spawn(commit.finish());
    }
}

/// A COMMIT whose caller will not learn how it ends: an event tells it. Dropped before that, the event says unknown.
struct Commit {
    answer: Option<Answer>,
    site: &'static Site,
    attempt: u32,
}

impl Commit {
    async fn finish(mut self) {
        let Some(answer) = &mut self.answer else { return };
        let outcome = match timeout(COMMIT_LIMIT, answer.end()).await {
            Ok(Ok(())) => CommitOutcome::Committed,
            Ok(Err(error)) if Failure::from_driver(&error).proves_rollback() => CommitOutcome::RolledBack,
            Ok(Err(_)) | Err(_) => CommitOutcome::Unknown,
        };
        self.answer = None;
        events::left_in_commit(self.site, self.attempt, outcome);
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        if self.answer.is_some() {
            events::left_in_commit(self.site, self.attempt, CommitOutcome::Unknown);
        }
    }
}

/// Rolls back and makes sure that the session is idle and outside of any transaction.
async fn clean(session: &Borrowed, rollback: Option<Result<Answer, PgError>>) -> bool {
    // A COMMIT that failed at its probe left the transaction open.
    let rollback = rollback.unwrap_or_else(|| Answer::send(session.client(), "ROLLBACK"));
    let Ok(rollback) = rollback else { return false };
    roll_back(session, rollback).await && is_idle(session.client()).await
}

/// Waits for ROLLBACK, cancelling what runs in front of it. `false`: the session cannot be trusted.
async fn roll_back(session: &Borrowed, mut rollback: Answer) -> bool {
    for _ in 0..3 {
        let mut patience = BEFORE_CANCEL;
        let answer = loop {
            if let Ok(answer) = timeout(patience, rollback.end()).await {
                break answer;
            }
            patience = BETWEEN_CANCELS;
            // A cancel that was not acted on before this goes on could hit the next borrower.
            if let Some(cancel) = session.session().cancel() {
                if !matches!(timeout(CANCEL_LIMIT, cancel).await, Ok(Ok(()))) {
                    return false;
                }
            }
        };
        match answer {
            Ok(()) => return true,
            // A cancel can hit the ROLLBACK itself, and then the transaction is still open.
            Err(error) if Failure::from_driver(&error).is_canceled() => {
                match Answer::send(session.client(), "ROLLBACK") {
                    Ok(again) => rollback = again,
                    Err(_) => return false,
                }
            }
            Err(_) => return false,
        }
    }
    false
}

/// Whether it is the session's settings that forbid to write, and not the server.
pub(crate) async fn is_set_to_read(client: &Client) -> bool {
    let answer = client.simple_query("SHOW default_transaction_read_only").await;
    answer.is_ok_and(|messages| last_row(&messages).and_then(|row| row.get(0)) == Some("on"))
}

/// Outside of a transaction, a statement's own beginning is the transaction's.
async fn is_idle(client: &Client) -> bool {
    let answer =
        client.simple_query("SELECT pg_catalog.now() OPERATOR(pg_catalog.=) pg_catalog.statement_timestamp()").await;
    answer.is_ok_and(|messages| last_row(&messages).and_then(|row| row.get(0)) == Some("t"))
}
