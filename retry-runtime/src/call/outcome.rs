//! How an attempt ended, and what follows for its session.

use crate::call::retry::RetryCause;
use crate::classify::{Class, Failure};
use crate::driver::DriverError;
use crate::error::{CommitOutcome, Error, Identity, Phase, PoolError};
use crate::pool::protection::Health;

/// An attempt that `finish` has ended.
#[derive(Debug)]
pub struct Finished<T, E> {
    /// What the body returned.
    pub(crate) result: Result<T, E>,
    pub(crate) outcome: AttemptOutcome,
}

/// What the loop needs to know of an attempt's end.
#[derive(Debug)]
pub struct AttemptOutcome {
    pub(crate) commit: CommitOutcome,
    /// What the attempt was doing when it ended.
    pub(crate) phase: Phase,
    /// Why another attempt is worth while, if it is.
    pub(crate) retry: Option<RetryCause>,
    /// Whether the session must not be used again.
    pub(crate) session_broken: bool,
    /// The failure that decided over a retry.
    pub(crate) failure: Option<Failure>,
    /// What the caller gets instead of the body's result.
    pub(crate) error: Option<Error>,
    /// Whether the body's error is only a symptom (25P02) of `failure`.
    pub(crate) is_hidden: bool,
    /// The text of the body's error, if it may be needed.
    pub(crate) text: Option<String>,
    /// Identifies the transaction, if it is committed and its flush has no reply yet.
    pub(crate) identity: Option<Box<Identity>>,
}

impl AttemptOutcome {
    pub(crate) fn new(commit: CommitOutcome) -> Self {
        let (retry, failure, error, text, identity) = (None, None, None, None, None);
        let (phase, session_broken, is_hidden) = (Phase::Body, false, false);
        Self { commit, phase, retry, session_broken, failure, error, is_hidden, text, identity }
    }

    /// A nested call has ended. The outermost call commits or rolls back.
    pub(crate) fn undecided(error: Option<Error>) -> Self {
        Self { error, ..Self::new(CommitOutcome::Unknown) }
    }

    /// The transaction is rolled back.
    pub(crate) fn rolled_back(failure: Option<Failure>, retry: Option<RetryCause>) -> Self {
        let session_broken = retry.is_some_and(RetryCause::needs_another_session);
        Self { retry, session_broken, failure, ..Self::new(CommitOutcome::RolledBack) }
    }

    /// The transaction did not begin.
    pub(crate) fn not_begun(error: Error, failure: Option<Failure>, retry: Option<RetryCause>) -> Self {
        let ends_session = failure.as_ref().is_some_and(|failure| failure.ends_session);
        let phase = match &error {
            Error::DeadlineExceeded { phase, .. } => *phase,
            Error::Pool(_) => Phase::Pool,
            _ => Phase::Begin,
        };
        let outcome = Self::rolled_back(failure, retry).with_error(error);
        let session_broken = outcome.session_broken || ends_session;
        Self { phase, session_broken, ..outcome }
    }

    pub(crate) fn with_error(self, error: Error) -> Self {
        Self { error: Some(error), ..self }
    }

    pub(crate) fn in_commit(self) -> Self {
        Self { phase: Phase::Commit, ..self }
    }

    /// Why the attempt failed, in one word. `None`: nothing but the body's own error is known.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        match (self.retry, &self.error, &self.failure) {
            (Some(cause), ..) => Some(cause.as_str()),
            (_, Some(error @ (Error::DeadlineExceeded { .. } | Error::CommitUnknown { .. })), _) => Some(error.kind()),
            (_, _, Some(failure)) => Some(failure.class.as_str()),
            (_, error, None) => error.as_ref().map(Error::kind),
        }
    }

    pub(crate) fn is_committed(&self) -> bool {
        self.commit == CommitOutcome::Committed
    }

    /// The look-up of a commit without a reply has ended.
    pub(crate) fn resolved(&mut self, commit: CommitOutcome) {
        match commit {
            CommitOutcome::Committed => (self.retry, self.error) = (None, None),
            CommitOutcome::RolledBack => {
                self.retry = Some(RetryCause::Class(Class::Connection));
                self.error = Some(match self.error.take() {
                    Some(Error::CommitUnknown { source: Some(source), .. }) => {
                        match source.into_inner().downcast::<DriverError>() {
                            Ok(error) => Error::from(*error),
                            Err(source) => Error::Pool(PoolError::new(Class::Connection, source)),
                        }
                    }
                    _ => Error::deadline(Phase::Commit),
                });
            }
            CommitOutcome::Unknown => return,
        }
        self.commit = commit;
    }

    /// What the attempt says of the server. `None`: nothing. `in_statement`: the deadline passed while the body waited for
    /// the server.
    pub(crate) fn health(&self, in_statement: bool) -> Option<Health> {
        match (&self.error, &self.failure) {
            (Some(Error::CommitUnknown { .. }), _) => Some(Health::Failed),
            (Some(Error::DeadlineExceeded { phase, .. }), _) => match phase {
                Phase::Pool | Phase::Begin | Phase::Commit => Some(Health::Failed),
                Phase::Body => in_statement.then_some(Health::Failed),
                Phase::Queue | Phase::BackOff => None,
            },
            // If this session has not ended, the failure may come from another database.
            (_, Some(failure)) if matches!(failure.class, Class::Connection | Class::Capacity) => {
                failure.ends_session.then_some(Health::Failed)
            }
            // The pool is closed, or the login is refused.
            (Some(Error::Pool(_)), _) => None,
            _ => Some(Health::Answered),
        }
    }

    /// What happens to the session. `in_transaction`: its transaction may still be open.
    pub(crate) fn session(&self, in_transaction: bool) -> SessionFate {
        match (self.session_broken, in_transaction, self.retry) {
            (true, ..) => SessionFate::Discard,
            (false, true, _) => SessionFate::CleanUp,
            (false, false, Some(cause)) if cause.keeps_session() => SessionFate::Keep,
            (false, false, _) => SessionFate::GiveBack,
        }
    }
}

/// What happens to a pool's session after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionFate {
    /// The next attempt uses it.
    Keep,
    /// The pool gets it back.
    GiveBack,
    /// A background task rolls back, and then gives it back.
    CleanUp,
    /// It is closed.
    Discard,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fate_of_a_session() {
        let rolled_back = |retry| AttemptOutcome::rolled_back(None, retry);
        let broken = AttemptOutcome { session_broken: true, ..rolled_back(Some(RetryCause::LeftOpen)) };
        assert_eq!(broken.session(true), SessionFate::Discard);
        assert_eq!(rolled_back(None).session(true), SessionFate::CleanUp);
        assert_eq!(rolled_back(Some(RetryCause::LeftOpen)).session(true), SessionFate::CleanUp);
        assert_eq!(rolled_back(Some(RetryCause::LeftOpen)).session(false), SessionFate::Keep);
        assert_eq!(rolled_back(Some(RetryCause::Asked)).session(false), SessionFate::GiveBack);
        assert_eq!(rolled_back(Some(RetryCause::Class(Class::ReadOnly))).session(false), SessionFate::Discard);
        assert_eq!(AttemptOutcome::new(CommitOutcome::Committed).session(false), SessionFate::GiveBack);
    }
}
