//! The end of an attempt: COMMIT or ROLLBACK, and what is known afterwards.

use std::borrow::Cow;

use tokio_postgres::Error as PgError;

use crate::answer::Answer;
use crate::begin;
use crate::classify::{Class, Failure};
use crate::deadline::Expired;
use crate::decide::Cause;
use crate::error::{Error, Phase};
use crate::events;
use crate::handle::Savepoint;
use crate::hooks::When;
use crate::identity::Identity;
use crate::policy::UnknownCommit;
use crate::transaction::Transaction;

/// For a transaction that is known to be well: in an aborted one, COMMIT rolls back and reports success.
const COMMIT: &str = "COMMIT";
/// For one that is not: a probe goes before COMMIT in its message. In an aborted transaction it fails (25P02), and
/// COMMIT does not run.
const PROBE_AND_COMMIT: &str = "SELECT 1; COMMIT";

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
    /// What the caller gets instead of the body's outcome.
    pub(crate) error: Option<Error>,
}

impl End {
    fn with_error(self, error: Error) -> Self {
        Self { error: Some(error), ..self }
    }
}

impl Transaction<'_> {
    /// Commits where the body returned `Ok` and nothing stands against it, and rolls back otherwise.
    pub async fn settle<T, E>(mut self, outcome: Result<T, E>, seen: Seen) -> Ended<T, E> {
        let end = self.end(outcome.is_ok(), seen).await;
        Ended { outcome, end }
    }

    async fn end(&mut self, ok: bool, seen: Seen) -> End {
        let state = self.handle.state;
        if state.has_expired() {
            // A statement may be running that nobody waits for: whoever takes the session over rolls back.
            let error = Some(Error::deadline(Phase::Body));
            return End { outcome: Some(When::RolledBack), failure: state.failure(), error, ..End::default() };
        }
        if let Err(refused) = begin::answered(&self.handle).await {
            self.ended |= !state.is_dirty();
            return refused.into();
        }
        if let Some(failure) = seen.failure {
            // Perhaps of another connection than ours: whether ours is lost, ROLLBACK will tell.
            state.record(Failure { lost: false, ..failure });
        }
        let end = match (ok, self.savepoint.is_some()) {
            (true, false) => self.commit_or_abort().await,
            (false, false) => self.roll_back(seen.retry_if).await,
            (true, true) => self.release().await,
            (false, true) => self.roll_back_savepoint().await,
        };
        // A COMMIT that is still on its way may leave the transaction open: a rollback goes after it.
        self.ended |= !state.is_dirty();
        end
    }

    async fn commit_or_abort(&mut self) -> End {
        let state = self.handle.state;
        let stands_against = |failure: &Failure| failure.class.is_conflict() || failure.lost;
        if state.failure().as_ref().is_some_and(stands_against) {
            return self.abort().await;
        }
        let (sql, identity) = self.commit_sql();
        let answer = match Answer::send(self.handle.client, &sql) {
            Ok(answer) => answer,
            // It was not sent, so there is nothing unknown about it.
            Err(error) => {
                state.record(Failure::from_driver(&error));
                return self.roll_back(false).await.with_error(Error::Postgres(error));
            }
        };
        // Where the outcome can be looked up, that takes time too.
        let deadline = self.handle.deadline;
        let deadline = if identity.is_some() { deadline.most() } else { deadline };
        let error = match deadline.bound(state.commit(answer)).await {
            Ok(Ok(())) => {
                state.set_dirty(false);
                return End { outcome: Some(When::Committed), ..End::default() };
            }
            Ok(Err(error)) => error,
            Err(Expired) => return self.commit_lost(None, identity),
        };
        let failure = Failure::from_driver(&error);
        if failure.is_symptom() {
            state.record(failure);
            self.abort().await
        } else if failure.proves_rollback() {
            state.record(failure);
            self.roll_back(false).await.with_error(Error::Postgres(error))
        } else {
            self.commit_lost(Some(error), identity)
        }
    }

    /// The message that commits, and by what the outcome can be found out where its answer is lost.
    fn commit_sql(&self) -> (Cow<'static, str>, Option<Box<Identity>>) {
        let policy = &self.handle.site.policy;
        if policy.read_only || policy.unknown_commit != UnknownCommit::Token {
            let sql = if self.handle.state.all_is_well() { COMMIT } else { PROBE_AND_COMMIT };
            return (Cow::Borrowed(sql), self.handle.state.begun.take_identity());
        }
        let (token, identity) = Identity::new_token();
        // In an aborted transaction this INSERT fails as the probe does.
        let sql = format!("INSERT INTO transactional_commits (token) VALUES ('{token}'); COMMIT");
        (Cow::Owned(sql), Some(Box::new(identity)))
    }

    /// The body returned `Ok` in a transaction that must not, or cannot, be committed.
    async fn abort(&mut self) -> End {
        let end = self.roll_back(false).await;
        let error = Error::aborted(end.failure.as_ref());
        end.with_error(error)
    }

    /// The answer to COMMIT is missing, for good (`Some`) or until the deadline. A transaction that only read has
    /// nothing to lose by it.
    fn commit_lost(&self, error: Option<PgError>, identity: Option<Box<Identity>>) -> End {
        let policy = &self.handle.site.policy;
        let failure = error.as_ref().map(Failure::from_driver);
        // Where the outcome is looked up, nobody need wait for the answer any more.
        let discard = error.is_some() || identity.is_some();
        if policy.read_only {
            let cause = failure.as_ref().and_then(|failure| Cause::of(failure, policy));
            let error = error.map_or_else(|| Error::deadline(Phase::Commit), Error::Postgres);
            return End { outcome: None, cause, failure, discard, error: Some(error) };
        }
        events::commit_unknown(self.handle.site, self.handle.attempt, failure.as_ref());
        let again = policy.unknown_commit == UnknownCommit::Retry;
        let cause = again.then_some(Cause::Class(Class::Connection));
        End { outcome: None, cause, failure, discard, error: Some(Error::CommitUnknown { identity, source: error }) }
    }

    /// Rolls the transaction back and finds out whether it deserves another attempt.
    async fn roll_back(&mut self, retry_if: bool) -> End {
        let state = self.handle.state;
        let policy = &self.handle.site.policy;
        let lost = state.failure().is_some_and(|failure| failure.lost);
        let discard = lost
            || match self.handle.deadline.bound(self.handle.rollback()).await {
                Ok(Ok(())) => {
                    state.set_dirty(false);
                    false
                }
                Ok(Err(_)) => true,
                // It is on its way; the session goes to its clean-up.
                Err(Expired) => false,
            };
        let failure = state.failure();
        let cause = failure.as_ref().and_then(|failure| Cause::of(failure, policy));
        let cause = cause
            .or_else(|| state.cause_unseen().then_some(Cause::Unseen))
            .or_else(|| retry_if.then_some(Cause::Asked));
        let discard = discard || cause.is_some_and(Cause::needs_another_session);
        End { outcome: Some(When::RolledBack), cause, failure, discard, error: None }
    }

    /// Ends a savepoint whose body returned `Ok`.
    async fn release(&mut self) -> End {
        let state = self.handle.state;
        let release = format!("RELEASE {}", Savepoint(self.handle.depth));
        // From here on a rollback to the savepoint would fail, and abort the transaction around it.
        self.ended = true;
        let Err(error) = self.batch_execute(&release).await else { return End::default() };
        let aborted = Failure::from_driver(&error).is_symptom();
        let failure = state.failure();
        let end = self.roll_back_savepoint().await;
        end.with_error(if aborted { Error::aborted(failure.as_ref()) } else { Error::Postgres(error) })
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
