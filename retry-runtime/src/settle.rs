//! The end of an attempt: COMMIT or ROLLBACK, and what is known afterwards.

use tokio_postgres::Error as PgError;

use crate::classify::Failure;
use crate::decide::Cause;
use crate::error::Error;
use crate::events;
use crate::handle::Savepoint;
use crate::hooks::When;
use crate::transaction::Transaction;

/// COMMIT with a probe before it, in one message. In an aborted transaction the probe fails (25P02) and COMMIT does
/// not run; alone, it would roll back and report success.
const COMMIT: &str = "SELECT 1; COMMIT";

/// What the expansion saw of the body's own error.
#[derive(Debug, Default)]
pub struct Seen {
    /// The failure in its chain of sources.
    pub failure: Option<Failure>,
    /// What `retry_if` says of it.
    pub retry_if: bool,
}

/// An attempt whose transaction has ended.
#[derive(Debug)]
pub struct Ended<T, E> {
    pub(crate) outcome: Result<T, E>,
    pub(crate) end: End,
}

/// What the loop needs to know of an attempt's end.
#[derive(Debug, Default)]
pub(crate) struct End {
    /// `None`: unknown.
    pub(crate) outcome: Option<When>,
    /// Why another attempt is worth while, if it is.
    pub(crate) cause: Option<Cause>,
    /// The failure that decided.
    pub(crate) failure: Option<Failure>,
    /// Whether the session must not be used again.
    pub(crate) discard: bool,
}

impl Transaction<'_> {
    /// Commits where the body returned `Ok` and nothing stands against it, and rolls back otherwise.
    pub async fn settle<T, E: From<Error>>(mut self, outcome: Result<T, E>, seen: Seen) -> Ended<T, E> {
        let (end, error) = self.end(outcome.is_ok(), seen).await;
        self.ended = true;
        let outcome = match error {
            Some(error) => Err(E::from(error)),
            None => outcome,
        };
        Ended { outcome, end }
    }

    /// Ends the transaction. An error replaces the body's `Ok`, never its own error.
    async fn end(&mut self, ok: bool, seen: Seen) -> (End, Option<Error>) {
        if let Some(failure) = seen.failure {
            // Perhaps of another connection than ours: whether ours is lost, ROLLBACK will tell.
            self.handle.state.record(Failure { lost: false, ..failure });
        }
        match (ok, self.savepoint.is_some()) {
            (true, false) => self.commit().await,
            (false, false) => (self.roll_back(seen.retry_if).await, None),
            (true, true) => self.release().await,
            (false, true) => (self.roll_back_savepoint().await, None),
        }
    }

    async fn commit(&mut self) -> (End, Option<Error>) {
        let state = self.handle.state;
        let stands_against = |failure: &Failure| failure.class.is_conflict() || failure.lost;
        if state.failure().as_ref().is_some_and(stands_against) {
            let end = self.roll_back(false).await;
            let error = Error::aborted(end.failure.as_ref());
            return (end, Some(error));
        }
        let Err(error) = self.handle.client.batch_execute(COMMIT).await else {
            return (End { outcome: Some(When::Committed), ..End::default() }, None);
        };
        let failure = Failure::from_driver(&error);
        if failure.is_symptom() {
            state.record(failure);
            let end = self.roll_back(false).await;
            let error = Error::aborted(end.failure.as_ref());
            return (end, Some(error));
        }
        if failure.proves_rollback() {
            state.record(failure);
            return (self.roll_back(false).await, Some(Error::Postgres(error)));
        }
        self.commit_lost(error, failure)
    }

    /// The answer to COMMIT is missing. A transaction that only read has nothing to lose by it.
    fn commit_lost(&self, error: PgError, failure: Failure) -> (End, Option<Error>) {
        let policy = &self.handle.site.policy;
        if policy.read_only {
            let cause = Cause::of(&failure, policy);
            let end = End { outcome: None, cause, failure: Some(failure), discard: true };
            return (end, Some(Error::Postgres(error)));
        }
        events::commit_unknown(&self.handle, &failure);
        let end = End { outcome: None, cause: None, failure: Some(failure), discard: true };
        (end, Some(Error::CommitUnknown { xid: None, source: error }))
    }

    /// Rolls the transaction back and finds out whether it deserves another attempt.
    async fn roll_back(&mut self, retry_if: bool) -> End {
        let state = self.handle.state;
        let lost = state.failure().is_some_and(|failure| failure.lost);
        let discard = lost || self.handle.rollback().await.is_err();
        let policy = &self.handle.site.policy;
        let failure = state.failure();
        let mut cause = failure.as_ref().and_then(|failure| Cause::of(failure, policy));
        if !discard && failure.as_ref().is_some_and(Failure::is_hearsay) {
            cause = Some(Cause::Unseen);
        }
        let cause = cause
            .or_else(|| state.cause_unseen().then_some(Cause::Unseen))
            .or_else(|| retry_if.then_some(Cause::Asked));
        let discard = discard || cause.is_some_and(Cause::needs_another_session);
        End { outcome: Some(When::RolledBack), cause, failure, discard }
    }

    /// Ends a savepoint whose body returned `Ok`.
    async fn release(&mut self) -> (End, Option<Error>) {
        let state = self.handle.state;
        let release = format!("RELEASE {}", Savepoint(self.handle.depth));
        // From here on a rollback to the savepoint would fail, and abort the transaction around it.
        self.ended = true;
        let mut ticket = state.send();
        let Err(error) = self.handle.client.batch_execute(&release).await else {
            ticket.answered(None);
            return (End::default(), None);
        };
        ticket.answered(Some(&error));
        let aborted = Failure::from_driver(&error).is_symptom();
        let failure = state.failure();
        let end = self.roll_back_savepoint().await;
        let error = if aborted { Error::aborted(failure.as_ref()) } else { Error::Postgres(error) };
        (end, Some(error))
    }

    /// Rolls back to the savepoint. A conflict stays recorded: the outermost call retries, whatever happens between.
    async fn roll_back_savepoint(&mut self) -> End {
        self.ended = true;
        match self.handle.rollback().await {
            Ok(()) => self.undo_savepoint(),
            Err(error) => self.handle.state.record(Failure::from_driver(&error)),
        }
        End::default()
    }

    /// Forgets what the rolled back savepoint had seen and asked for.
    pub(crate) fn undo_savepoint(&mut self) {
        if let Some(mark) = self.savepoint.take() {
            self.handle.state.forgive(mark.seen);
            self.handle.state.with_hooks(|hooks| hooks.roll_back_to(mark.hooks));
        }
    }
}
