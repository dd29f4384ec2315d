//! The end of an attempt: COMMIT or ROLLBACK, and what is known afterwards.

use std::borrow::Cow;
use std::error::Error as StdError;

use tokio_postgres::Error as PgError;

use crate::answer::Answer;
use crate::begin;
use crate::classify::{Class, Failure};
use crate::deadline::Expired;
use crate::decide::Cause;
use crate::error::{Error, Phase};
use crate::events;
use crate::handle::{Handle, Savepoint};
use crate::hooks::When;
use crate::identity::Identity;
use crate::policy::UnknownCommit;
use crate::transaction::Transaction;

/// For a transaction that is known to be well: in an aborted one, COMMIT rolls back and reports success.
const COMMIT: &str = "COMMIT";
/// For one that is not: a probe goes before COMMIT in its message. It fails in an aborted transaction (25P02), and if the
/// body has ended the transaction itself (25P01). COMMIT does not run then.
const PROBE: &str = "SAVEPOINT transactional_commit; ";
const PROBE_AND_COMMIT: &str = "SAVEPOINT transactional_commit; COMMIT";

/// What the expansion saw of the body's own error.
#[derive(Debug, Default)]
pub struct Seen {
    /// The failure in its chain of sources.
    failure: Option<Failure>,
    /// What `retry_if` says of it.
    retry_if: bool,
    /// Whether it is the runtime's own [`Error`].
    own: bool,
    /// The error as text, if that may be needed.
    text: Option<String>,
}

impl Seen {
    /// Looks at an error and its sources.
    pub(crate) fn of(error: &(dyn StdError + 'static), text: bool) -> Self {
        let failure = Failure::find(error);
        Self { failure, retry_if: false, own: error.is::<Error>(), text: text.then(|| error.to_string()) }
    }

    /// Looks at an error that is only text.
    pub(crate) fn of_text(text: Option<String>) -> Self {
        Self { text, ..Self::default() }
    }

    /// And what `retry_if` says.
    #[must_use]
    pub fn with_retry_if(self, retry_if: bool) -> Self {
        Self { retry_if, ..self }
    }
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
    /// Whether the body's error shows only that failure's symptom.
    pub(crate) is_hidden: bool,
    /// The body's error as text, if that may be needed.
    pub(crate) text: Option<String>,
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
        // A body that does not yield cannot be cut off. Its COMMIT is not sent, so nothing about it is unknown.
        let too_late = ok && self.savepoint.is_none() && self.handle.deadline.has_passed();
        if state.has_expired() || too_late {
            // A statement may be running that nothing waits for: the session's next holder rolls back.
            let error = Some(Error::deadline(Phase::Body));
            return End { outcome: Some(When::RolledBack), failure: state.failure(), error, ..End::default() };
        }
        if let Err(refused) = begin::answered(&self.handle).await {
            self.ended |= !state.is_dirty();
            return refused.into();
        }
        let mut hidden = None;
        if let Some(failure) = seen.failure {
            hidden = state.failure().filter(|first| failure.is_symptom() && !first.is_symptom());
            // Perhaps of another connection than ours: whether ours is lost, ROLLBACK will tell.
            state.record(Failure { lost: false, ..failure });
        }
        let mut end = match (ok, self.savepoint.is_some()) {
            (true, false) => self.commit_or_abort().await,
            (false, false) => self.roll_back(seen.retry_if).await,
            (true, true) => self.release().await,
            (false, true) => self.roll_back_savepoint().await,
        };
        // A COMMIT that is still on its way may leave the transaction open: a rollback goes after it.
        self.ended |= !state.is_dirty();
        end.is_hidden = hidden.is_some();
        if seen.own && hidden.is_some() {
            end.error = Some(Error::aborted(hidden.as_ref()));
        }
        End { text: seen.text, ..end }
    }

    async fn commit_or_abort(&mut self) -> End {
        let state = self.handle.state;
        let stands_against = |failure: &Failure| failure.class.is_conflict() || failure.lost;
        if state.failure().as_ref().is_some_and(stands_against) {
            return self.abort().await;
        }
        let (before, sql, identity) = self.commit_sql();
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
        match deadline.bound(state.commit(answer)).await {
            Ok((Ok(()), _)) => {
                state.set_dirty(false);
                End { outcome: Some(When::Committed), ..End::default() }
            }
            Ok((Err(error), completed)) => self.commit_failed(error, completed >= before, identity).await,
            Err(Expired) => self.commit_lost(None, identity),
        }
    }

    /// The message that commits, how many statements it has before COMMIT, and by what the outcome can be looked up if
    /// the answer is lost.
    fn commit_sql(&self) -> (u32, Cow<'static, str>, Option<Box<Identity>>) {
        let Handle { state, site, .. } = self.handle;
        let is_well = state.all_is_well();
        if site.policy.read_only || site.policy.unknown_commit != UnknownCommit::Token {
            let (before, sql) = if is_well { (0, COMMIT) } else { (1, PROBE_AND_COMMIT) };
            return (before, Cow::Borrowed(sql), state.begun.take_identity());
        }
        let (token, identity) = Identity::new_token();
        let (before, probe) = if is_well { (1, "") } else { (2, PROBE) };
        let sql = format!("{probe}INSERT INTO transactional.commits (token) VALUES ('{token}'); COMMIT");
        (before, Cow::Owned(sql), Some(Box::new(identity)))
    }

    /// The message that commits was answered with an error: to COMMIT itself, or to what stands before it.
    async fn commit_failed(&mut self, error: PgError, is_of_commit: bool, identity: Option<Box<Identity>>) -> End {
        let state = self.handle.state;
        let failure = Failure::from_driver(&error);
        if failure.is_symptom() {
            state.record(failure);
            self.abort().await
        } else if !is_of_commit && failure.is_no_transaction() {
            state.set_dirty(false);
            events::ended_by_body(self.handle.site, self.handle.attempt);
            End { error: Some(Error::EndedByBody), ..End::default() }
        } else if failure.proves_rollback() {
            let is_over = is_of_commit && failure.is_of_commit();
            state.record(failure);
            let end = if is_over {
                state.set_dirty(false);
                self.rolled_back(false, false)
            } else {
                self.roll_back(false).await
            };
            end.with_error(Error::Postgres(error))
        } else {
            self.commit_lost(Some(error), identity)
        }
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
            return End { cause, failure, discard, error: Some(error), ..End::default() };
        }
        events::commit_unknown(self.handle.site, self.handle.attempt, failure.as_ref());
        let again = policy.unknown_commit == UnknownCommit::Retry;
        let cause = again.then_some(Cause::Class(Class::Connection));
        let error = Error::CommitUnknown { identity, source: error.map(Into::into) };
        End { cause, failure, discard, error: Some(error), ..End::default() }
    }

    /// Rolls the transaction back.
    async fn roll_back(&mut self, retry_if: bool) -> End {
        let state = self.handle.state;
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
        self.rolled_back(discard, retry_if)
    }

    /// The transaction is rolled back. Finds out whether it deserves another attempt.
    fn rolled_back(&self, discard: bool, retry_if: bool) -> End {
        let state = self.handle.state;
        let failure = state.failure();
        let cause = failure.as_ref().and_then(|failure| Cause::of(failure, &self.handle.site.policy));
        let cause = cause
            .or_else(|| state.cause_unseen().then_some(Cause::Unseen))
            .or_else(|| retry_if.then_some(Cause::Asked));
        let discard = discard || cause.is_some_and(Cause::needs_another_session);
        End { outcome: Some(When::RolledBack), cause, failure, discard, ..End::default() }
    }

    /// Ends a savepoint whose body returned `Ok`.
    async fn release(&mut self) -> End {
        // Dropped in this wait, a rollback follows. It fails if the savepoint is released by then, and so aborts the
        // transaction: what the caller gave up is not committed.
        let released = self.handle.execute(&format!("RELEASE {}", Savepoint(self.handle.depth))).await;
        let Err(error) = released else {
            self.ended = true;
            return End::default();
        };
        let aborted = Failure::from_driver(&error).is_symptom();
        let failure = self.handle.state.failure();
        let end = self.roll_back_savepoint().await;
        end.with_error(if aborted { Error::aborted(failure.as_ref()) } else { Error::Postgres(error) })
    }

    /// Rolls back to the savepoint. A conflict stays recorded: the outermost call retries, whatever happens between.
    async fn roll_back_savepoint(&mut self) -> End {
        // Now: dropped in this wait, its hooks must not run either.
        self.undo_savepoint();
        self.ended = true;
        // If it fails, the state knows.
        let _ = self.handle.rollback().await;
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
