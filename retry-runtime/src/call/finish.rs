//! The end of an attempt: COMMIT or ROLLBACK, and what is known afterwards.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::sync::atomic::Ordering;

use crate::call::begin;
use crate::call::outcome::{AttemptOutcome, Finished};
use crate::call::retry::RetryCause;
use crate::classify::{Class, Failure};
use crate::commit::{flush, identify};
use crate::driver::{self, CommitReply, DriverError, Flush};
use crate::error::{CommitOutcome, Error, Identity, Key, Phase};
use crate::events::{AttemptId, Event};
use crate::policy::{Policy, UnknownCommit};
use crate::transaction::Transaction;
use crate::transaction::context::SavepointName;
use crate::transaction::deadline::Expired;
#[cfg(feature = "testing")]
use crate::transaction::fault::{self, BeforeCommit};
use crate::transaction::savepoint;

/// For a transaction that is known not to be aborted. In an aborted one, COMMIT rolls back and reports success.
const COMMIT: &str = "COMMIT";
/// For any other: a probe goes before COMMIT in its message. It fails in an aborted transaction (25P02), and if the body
/// has ended the transaction itself (25P01). COMMIT does not run then.
const PROBE: &str = "SAVEPOINT transactional_commit; ";
const PROBE_AND_COMMIT: &str = "SAVEPOINT transactional_commit; COMMIT";

/// What the retry loop needs to know of the body's own error.
#[derive(Debug, Default)]
pub struct BodyError {
    /// The failure in its chain of sources.
    failure: Option<Failure>,
    /// Whether `retry_if` asks for a retry.
    retry_if: bool,
    /// Whether it is the runtime's own [`Error`].
    own: bool,
    /// The error as text, if it may be needed.
    text: Option<String>,
}

impl BodyError {
    /// Reads an error and its sources. Keeps its text if `text`.
    pub(crate) fn read(error: &(dyn StdError + 'static), text: bool) -> Self {
        let failure = driver::failure_in(error);
        Self { failure, retry_if: false, own: error.is::<Error>(), text: text.then(|| error.to_string()) }
    }

    /// An error that is only text.
    pub(crate) fn text(text: Option<String>) -> Self {
        Self { text, ..Self::default() }
    }

    /// Adds what `retry_if` returned.
    #[must_use]
    pub fn with_retry_if(self, retry_if: bool) -> Self {
        Self { retry_if, ..self }
    }
}

impl Transaction<'_> {
    /// Commits if the body returned `Ok` and no failure stands against it, and rolls back otherwise.
    #[doc(hidden)]
    pub async fn finish<T, E>(mut self, result: Result<T, E>, error: BodyError) -> Finished<T, E> {
        let outcome = if result.is_ok() && self.is_well() {
            self.send_commit(true).await
        } else {
            // Boxed, because it is rare, and every call's future would otherwise be that much larger.
            Box::pin(self.end(result.is_ok(), error)).await
        };
        // If COMMIT has no reply yet, it may fail and leave the transaction open: then the drop sends ROLLBACK after it.
        self.ended |= !self.context.status.is_in_transaction();
        Finished { result, outcome }
    }

    /// Whether nothing but COMMIT is left to do.
    fn is_well(&self) -> bool {
        self.savepoint.is_none()
            && !self.is_rollback_only()
            && !self.context.deadline.has_passed()
            && self.context.status.is_ready_to_commit()
    }

    fn is_rollback_only(&self) -> bool {
        self.rollback_only.load(Ordering::Relaxed)
    }

    async fn end(&mut self, ok: bool, body_error: BodyError) -> AttemptOutcome {
        let status = self.context.status;
        self.pipeline.read();
        // A body that does not yield may return after the deadline. Then COMMIT is not sent, so the outcome is known.
        let commits = ok && !self.is_rollback_only();
        let is_outermost = self.savepoint.is_none() || self.is_in_driver_transaction();
        let too_late = commits && is_outermost && self.context.deadline.has_passed();
        if !ok && self.was_canceled_at_deadline() {
            status.expire_in_statement();
        }
        if status.has_expired() || too_late {
            return self.cut_off();
        }
        if let Err(outcome) = begin::wait_for_reply(&self.context).await {
            return outcome;
        }
        // Those that were held back leave now.
        self.pipeline.read();
        // COMMIT, or what the body returns although it is rolled back, depends on the replies.
        if ok && (self.is_rollback_only() || (is_outermost && self.pipeline.delays_commit())) {
            if let Err(Expired) = self.context.deadline.bound(self.pipeline.end()).await {
                status.expire();
                return self.cut_off();
            }
        }
        let mut hidden = None;
        if let Some(failure) = body_error.failure {
            hidden = status.failure().filter(|first| failure.is_symptom() && !first.is_symptom());
            // It may come from another connection, so it does not prove that this session has ended.
            status.record_of_body(Failure { ends_session: false, ..failure });
        }
        // The caller gets the error of a sent statement itself: then nothing is hidden.
        let replaces = (ok && !commits) || (body_error.own && hidden.is_some());
        let sent_error = if replaces { self.take_sent_error() } else { None };
        let is_hidden = hidden.is_some() && sent_error.is_none();
        let own = (body_error.own && is_hidden).then(|| Error::aborted(hidden.as_ref()));
        let name = SavepointName(self.context.depth);
        let outcome = match (commits, self.savepoint.is_some()) {
            (true, false) => self.commit_or_abort().await,
            (false, false) if self.is_rollback_only() => AttemptOutcome { retry: None, ..self.roll_back(false).await },
            (false, false) => self.roll_back(body_error.retry_if).await,
            (_, true) if self.is_in_driver_transaction() => self.end_in_driver_transaction(commits).await,
            (true, true) => AttemptOutcome::undecided(savepoint::release(self, &name).await.err()),
            (false, true) => {
                // If it fails, the status records it.
                let _ = savepoint::roll_back(self, &name).await;
                AttemptOutcome::undecided(None)
            }
        };
        let error = sent_error.or(own).or(outcome.error);
        AttemptOutcome { is_hidden, error, text: body_error.text, ..outcome }
    }

    fn was_canceled_at_deadline(&self) -> bool {
        self.context.status.failure().is_some_and(|failure| self.context.was_canceled_at_deadline(&failure))
    }

    /// The deadline has passed before COMMIT was sent, or before it ran.
    fn cut_off(&self) -> AttemptOutcome {
        // A statement may still be running. The clean-up rolls back, without this call waiting for it.
        // The server's own timeout at the deadline says nothing more than the deadline.
        let failure = self.context.status.failure().filter(|failure| !failure.is_canceled());
        AttemptOutcome { failure, ..AttemptOutcome::new(CommitOutcome::RolledBack) }
            .with_error(Error::deadline(Phase::Body))
    }

    /// Whether it is the outermost call's savepoint in a transaction of the driver's.
    pub(super) fn is_in_driver_transaction(&self) -> bool {
        self.context.in_driver_transaction && self.context.depth == 1
    }

    /// Ends the outermost call's savepoint in a transaction of the driver's. Other code commits that transaction.
    async fn end_in_driver_transaction(&mut self, commits: bool) -> AttemptOutcome {
        let deadline = self.context.deadline;
        let result = deadline.bound(self.release_or_roll_back(commits)).await;
        AttemptOutcome::undecided(result.unwrap_or_else(|Expired| Err(Error::deadline(Phase::Body))).err())
    }

    /// `commits`: the body asks for what it did to be kept.
    async fn release_or_roll_back(&mut self, commits: bool) -> Result<(), Error> {
        let (status, name) = (self.context.status, SavepointName(self.context.depth));
        let error = if self.forbids_commit() {
            Some(self.take_sent_error().unwrap_or_else(|| Error::aborted(status.failure().as_ref())))
        } else if status.with_hooks(|hooks| hooks.wait_for_commit()) {
            Some(Error::OnCommitUnseen { function: self.context.function })
        } else {
            None
        };
        match (commits, error) {
            (true, None) => savepoint::release(self, &name).await,
            (_, error) => {
                // If it fails, the driver's transaction is aborted, or its connection is closed.
                let _ = savepoint::roll_back(self, &name).await;
                error.filter(|_| commits).map_or(Ok(()), Err)
            }
        }
    }

    /// Whether a failure of the body stands against a commit, even if a savepoint has undone it.
    fn forbids_commit(&self) -> bool {
        let failure = self.context.status.failure();
        failure.is_some_and(|failure| failure.class.is_conflict() || failure.ends_session)
    }

    async fn commit_or_abort(&mut self) -> AttemptOutcome {
        if self.forbids_commit() || self.context.status.has_sent_error() {
            return self.abort().await;
        }
        let is_well = self.context.status.all_is_well();
        self.send_commit(is_well).await
    }

    /// Sends COMMIT and waits for its reply. `is_well`: no probe is needed.
    async fn send_commit(&mut self, is_well: bool) -> AttemptOutcome {
        let status = self.context.status;
        let Message { sql, statements_before, identity } = self.commit_message(is_well);
        #[cfg(feature = "testing")]
        let (sql, statements_before) = match self.pipeline.during(self.context.fault_before_commit()).await {
            None => (sql, statements_before),
            Some(BeforeCommit::Statement(statement)) => {
                (fault::add_before_commit(&sql, &statement), statements_before + 1)
            }
            Some(BeforeCommit::Closed(error)) => return Box::pin(self.commit_not_sent(error)).await,
            Some(BeforeCommit::NoReply(error)) => {
                return no_reply(self.context.id, self.context.policy, Some(error), identity);
            }
        };
        let reply = match CommitReply::send(self.context.client, &sql, statements_before + 1, self.flush()) {
            Ok(reply) => reply,
            Err(error) => return Box::pin(self.commit_not_sent(error)).await,
        };
        let deadline = self.context.deadline;
        let deadline = if identity.is_some() { deadline.leaving_time_for_a_lookup() } else { deadline };
        match deadline.bound(self.pipeline.during(status.commit(reply))).await {
            Ok((Ok(()), _)) => {
                #[cfg(feature = "testing")]
                if let Some(error) = self.context.fault_after_commit().await {
                    return no_reply(self.context.id, self.context.policy, Some(error), identity);
                }
                // The session is in use until the reply to the flush arrives. The call waits for it, not this.
                status.set_in_transaction(status.is_flush_pending());
                self.ended = true;
                AttemptOutcome { identity, ..AttemptOutcome::new(CommitOutcome::Committed) }
            }
            Ok((Err(error), completed)) => {
                Box::pin(self.commit_failed(error, completed >= statements_before, identity)).await
            }
            Err(Expired) => no_reply(self.context.id, self.context.policy, None, identity),
        }
    }

    /// The connection is closed. COMMIT was not sent, so its outcome is known.
    async fn commit_not_sent(&mut self, error: DriverError) -> AttemptOutcome {
        self.context.status.record(driver::failure_of(&error));
        self.roll_back(false).await.in_commit().with_error(Error::from(error))
    }

    /// The statement that flushes, if locks are released early. Calls that wait for this one can go ahead before its reply.
    fn flush(&self) -> Flush<'static> {
        let sql = if self.context.policy.read_only { flush::FLUSH_AFTER_READ } else { flush::FLUSH };
        match (self.context.policy.early_release, self.context.queued) {
            (false, _) => Flush::None,
            (true, false) => Flush::SameMessage(sql),
            (true, true) => Flush::NextMessage(sql),
        }
    }

    /// The message that commits.
    fn commit_message(&self, is_well: bool) -> Message {
        let (status, policy) = (self.context.status, self.context.policy);
        let identity = |key| Box::new(Identity { key, early_release: policy.early_release });
        if policy.read_only || policy.unknown_commit != UnknownCommit::Token {
            let (statements_before, sql) = if is_well { (0, COMMIT) } else { (1, PROBE_AND_COMMIT) };
            let identity = status.take_begin_row().and_then(|row| identify::read(&row)).map(identity);
            return Message { sql: Cow::Borrowed(sql), statements_before, identity };
        }
        let token = identify::new_token();
        let (statements_before, probe) = if is_well { (1, "") } else { (2, PROBE) };
        let sql = format!("{probe}INSERT INTO transactional.commits (token) VALUES ('{token}'); COMMIT");
        Message { sql: Cow::Owned(sql), statements_before, identity: Some(identity(Key::Token(token))) }
    }

    /// The reply to the message that commits is an error: of COMMIT itself, or of a statement before it.
    async fn commit_failed(
        &mut self,
        error: DriverError,
        is_of_commit: bool,
        identity: Option<Box<Identity>>,
    ) -> AttemptOutcome {
        let status = self.context.status;
        let failure = driver::failure_of(&error);
        if failure.is_symptom() {
            status.record(failure);
            self.abort().await
        } else if !is_of_commit && failure.is_no_transaction() {
            status.set_in_transaction(false);
            self.context.id.emit(Event::EndedByBody, None);
            AttemptOutcome::new(CommitOutcome::Unknown).with_error(Error::EndedByBody)
        } else if failure.proves_rollback() {
            let is_over = is_of_commit && failure.is_of_commit();
            status.record(failure);
            let outcome = if is_over {
                status.set_in_transaction(false);
                self.rolled_back(false)
            } else {
                self.roll_back(false).await
            };
            outcome.in_commit().with_error(Error::from(error))
        } else {
            no_reply(self.context.id, self.context.policy, Some(error), identity)
        }
    }

    /// The body returned `Ok` in a transaction that must not, or cannot, be committed.
    async fn abort(&mut self) -> AttemptOutcome {
        let sent_error = self.take_sent_error();
        if sent_error.is_some() && self.was_canceled_at_deadline() {
            self.context.status.expire_in_statement();
            return self.cut_off();
        }
        if sent_error.is_none() {
            self.context.id.emit(Event::IgnoredFailure, self.context.status.failure().as_ref());
        }
        let outcome = self.roll_back(false).await;
        let error = sent_error.unwrap_or_else(|| Error::aborted(outcome.failure.as_ref()));
        outcome.with_error(error)
    }

    /// Rolls the transaction back.
    async fn roll_back(&mut self, retry_if: bool) -> AttemptOutcome {
        let status = self.context.status;
        let ends_session = status.failure().is_some_and(|failure| failure.ends_session);
        let broken = ends_session
            || match self.context.deadline.bound(self.pipeline.during(self.context.roll_back())).await {
                Ok(Ok(())) => {
                    status.set_in_transaction(false);
                    false
                }
                Ok(Err(_)) => true,
                // ROLLBACK is on its way. The clean-up waits for it.
                Err(Expired) => false,
            };
        let outcome = self.rolled_back(retry_if);
        AttemptOutcome { session_broken: outcome.session_broken || broken, ..outcome }
    }

    /// The transaction is rolled back: says whether another attempt is worth while.
    fn rolled_back(&self, retry_if: bool) -> AttemptOutcome {
        let status = self.context.status;
        let failure = status.failure();
        let cause = failure.as_ref().and_then(|failure| RetryCause::of(failure, self.context.policy));
        let is_interrupted = || status.is_interrupted() && failure.as_ref().is_some_and(Failure::is_canceled);
        let cause = cause
            .or_else(|| is_interrupted().then_some(RetryCause::Class(Class::Deadlock)))
            .or_else(|| status.cause_unseen().then_some(RetryCause::Unseen))
            .or_else(|| retry_if.then_some(RetryCause::Asked));
        AttemptOutcome::rolled_back(failure, cause)
    }
}

/// There is no reply to COMMIT, or to its flush: the connection failed with `error`, or the deadline passed (`None`).
pub(crate) fn no_reply(
    id: AttemptId,
    policy: &Policy,
    error: Option<DriverError>,
    identity: Option<Box<Identity>>,
) -> AttemptOutcome {
    let failure = error.as_ref().map(driver::failure_of);
    // If the outcome is looked up, the call does not wait for the reply any longer.
    let session_broken = error.is_some() || identity.is_some();
    let unknown = AttemptOutcome { session_broken, ..AttemptOutcome::new(CommitOutcome::Unknown) }.in_commit();
    if policy.read_only {
        // It wrote nothing, so its outcome does not matter.
        let retry = failure.as_ref().and_then(|failure| RetryCause::of(failure, policy));
        let error = error.map_or_else(|| Error::deadline(Phase::Commit), Error::from);
        return AttemptOutcome { retry, failure, ..unknown }.with_error(error);
    }
    id.emit(Event::CommitUnknown, failure.as_ref());
    let again = policy.unknown_commit == UnknownCommit::Retry;
    let retry = again.then_some(RetryCause::Class(Class::Connection));
    let error = Error::commit_unknown(identity, error.map(Into::into));
    AttemptOutcome { retry, failure, ..unknown }.with_error(error)
}

/// The message that commits.
struct Message {
    sql: Cow<'static, str>,
    /// How many statements it has before COMMIT.
    statements_before: u32,
    /// Identifies the transaction if the reply does not arrive.
    identity: Option<Box<Identity>>,
}
