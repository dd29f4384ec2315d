//! The runtime's errors, and the types that they carry.

mod cause;
mod history;
mod identity;
mod outcome;
mod phase;
mod pool;

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use tokio_postgres::error::DbError;

use crate::classify::Failure;

pub use self::cause::Cause;
pub(crate) use self::cause::{AnyError, held_by};
#[cfg(feature = "tracing")]
pub(crate) use self::history::Attempts;
pub(crate) use self::history::Failures;
pub use self::history::{FailedAttempt, History};
pub use self::identity::{Identity, ParseIdentityError};
pub(crate) use self::identity::{Incarnation, Key, Token, Transaction};
pub use self::outcome::CommitOutcome;
pub use self::phase::Phase;
pub use self::pool::PoolError;

/// Why a call failed, if the reason is not the body's own error.
///
/// An error that the body returns reaches the caller unchanged. The function's error type is made from this type by
/// `From<retry_runtime::Error>`.
///
/// # Text and source
/// The text ([`Display`](fmt::Display)) ends with the text of the cause, so a log that prints only the error says what
/// happened. [`source`](StdError::source) returns that [`Cause`], whose own text is only the SQLSTATE: a report of the whole
/// chain (`{:#}` of anyhow) says nothing twice. If the call was retried, the text says how often ([`History`]).
/// [`as_db_error`](Self::as_db_error) and [`class`](Self::class) answer the most common questions.
///
/// ```
/// use retry_runtime::{Class, Error};
///
/// fn status(error: &Error) -> u16 {
///     match error {
///         error if error.is_unknown() => 202, // it may be committed: look it up, do not repeat it
///         error if error.class() == Class::Capacity => 503,
///         Error::DeadlineExceeded { .. } => 504,
///         _ => 500,
///     }
/// }
/// # assert_eq!(status(&Error::EndedByBody), 500);
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The server or the connection failed: at `BEGIN`, in reply to `COMMIT`, or in a statement that was only
    /// [sent](crate::Transaction::send). The transaction is rolled back.
    Postgres(Cause<tokio_postgres::Error>),
    /// The pool gave no connection.
    Pool(PoolError),
    /// A statement of the body had failed, so the server had aborted the transaction. The body returned `Ok` all the
    /// same, or only the symptom: "current transaction is aborted" (25P02). Everything is rolled back.
    #[non_exhaustive]
    Aborted {
        /// The first failure in the transaction, if the runtime saw it.
        source: Option<Cause<Box<DbError>>>,
    },
    /// A statement sent with [`send_expecting`](crate::Transaction::send_expecting) affected another number of rows.
    /// Everything is rolled back.
    #[non_exhaustive]
    UnexpectedRows {
        /// How many rows the statement was to affect.
        expected: u64,
        /// How many rows it affected.
        found: u64,
    },
    /// The body ended the transaction itself, with `COMMIT`, `ROLLBACK` or `PREPARE TRANSACTION`. If it committed, what
    /// it wrote until then is committed. What it wrote afterwards is committed too, statement by statement.
    EndedByBody,
    /// The reply to a `COMMIT` did not arrive, in this attempt or in an earlier one. That transaction may be committed.
    #[non_exhaustive]
    CommitUnknown {
        /// Identifies the transaction for [`Identity::resolve`]. Known with `unknown_commit = "resolve"` and `"token"`.
        identity: Option<Box<Identity>>,
        /// The error received instead of a reply, or the failure of a later attempt. `None` if the deadline passed
        /// first.
        source: Option<Cause<AnyError>>,
    },
    /// The call's `deadline` has passed, or the next retry would have slept past it. Nothing is committed.
    #[non_exhaustive]
    DeadlineExceeded {
        /// What the call was doing.
        phase: Phase,
        /// The last failure before, if there was one.
        source: Option<Cause<AnyError>>,
    },
    /// The circuit of the pool is open, so the attempt was refused before it took a connection. Nothing is committed. See
    /// [`WithBreaker`](crate::WithBreaker).
    #[non_exhaustive]
    CircuitOpen {
        /// How long to wait before another call. While a trial is under way: how long until another one may begin.
        retry_after: Duration,
        /// Why the last attempt failed, if this was to be a retry.
        source: Option<Cause<AnyError>>,
    },
    /// The server cannot identify a transaction, which `unknown_commit = "resolve"` needs. It is not PostgreSQL, or
    /// older than 13, or the role may not ask. The body has not run.
    ResolveUnsupported(Cause<tokio_postgres::Error>),
    /// The server cannot release locks before it flushes, which `early_release` needs. It is not PostgreSQL, or the role
    /// may not call `pg_logical_emit_message`. The body has not run.
    EarlyReleaseUnsupported(Cause<tokio_postgres::Error>),
    /// A table of `queue = "server"` does not exist, or the role may not lock it.
    /// [`install_queues`](crate::install_queues()) creates the tables and names the privileges. Nothing is committed. The body
    /// has not run, unless `begin = "pipelined"` let it begin.
    QueueUnsupported(Cause<tokio_postgres::Error>),
    /// A call was made inside another call's body, on the same pool. It would run in a transaction of its own, beside
    /// the one around it. Pass `&mut *tx` to nest it, or declare the inner function `independent`. A function with `source`
    /// takes no `&mut *tx`: give it a twin with `within`. No SQL was sent.
    #[non_exhaustive]
    NotNested {
        /// The function whose body made the call.
        outer: &'static str,
        /// The function that was called.
        inner: &'static str,
    },
    /// A nested call needs a stronger isolation level than the transaction around it has. The body has not run.
    #[non_exhaustive]
    NestedIsolation {
        /// The function that began the transaction. In a transaction of the driver's: `tokio_postgres::Transaction`.
        outer: &'static str,
        /// The nested function.
        inner: &'static str,
    },
    /// A function with the option `durable` was called with an open transaction. Its `Ok` would not mean that anything is
    /// committed. No SQL was sent.
    #[non_exhaustive]
    NestedDurable {
        /// The function whose body made the call.
        outer: &'static str,
        /// The function that was called.
        inner: &'static str,
    },
    /// The body registered work with [`on_commit`](crate::Transaction::on_commit) in a transaction that other code began
    /// with tokio-postgres. The runtime does not see that commit, so the work could never run. What the call did is rolled
    /// back.
    #[non_exhaustive]
    OnCommitUnseen {
        /// The function that was called.
        function: &'static str,
    },
}

/// The variants whose cause is an error of the driver.
macro_rules! of_driver {
    ($cause:ident) => {
        $crate::error::Error::Postgres($cause)
            | $crate::error::Error::ResolveUnsupported($cause)
            | $crate::error::Error::EarlyReleaseUnsupported($cause)
            | $crate::error::Error::QueueUnsupported($cause)
    };
}
pub(crate) use of_driver;

impl Error {
    /// The driver's error, for a function's error type that has a variant for it.
    ///
    /// An error that arrives from `COMMIT`, such as a deferred unique violation, is an [`Error::Postgres`]. With this
    /// conversion it arrives where the errors of statements do:
    ///
    /// ```
    /// #[derive(Debug)]
    /// enum BankError {
    ///     Postgres(tokio_postgres::Error),
    ///     Transaction(retry_runtime::Error),
    /// }
    ///
    /// impl From<retry_runtime::Error> for BankError {
    ///     fn from(error: retry_runtime::Error) -> Self {
    ///         error.into_postgres().map_or_else(Self::Transaction, Self::Postgres)
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// This error itself, if it is not an [`Error::Postgres`].
    pub fn into_postgres(self) -> Result<tokio_postgres::Error, Self> {
        match self {
            Self::Postgres(cause) => Ok(cause.into_inner()),
            error => Err(error),
        }
    }

    /// The deadline has passed.
    pub(crate) const fn deadline(phase: Phase) -> Self {
        Self::DeadlineExceeded { phase, source: None }
    }

    /// The transaction may be committed.
    pub(crate) fn commit_unknown(identity: Option<Box<Identity>>, source: Option<AnyError>) -> Self {
        Self::CommitUnknown { identity, source: source.map(Cause::from) }
    }

    /// The body went on in a transaction that `failure` had aborted.
    pub(crate) fn aborted(failure: Option<&Failure>) -> Self {
        let db = failure.and_then(Failure::to_source).and_then(|source| source.downcast::<DbError>().ok());
        Self::Aborted { source: db.map(Cause::from) }
    }

    /// The kind of error, in events, statistics and metrics.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Pool(_) => "pool",
            Self::Aborted { .. } => "aborted",
            Self::UnexpectedRows { .. } => "unexpected_rows",
            Self::EndedByBody => "ended_by_body",
            Self::CommitUnknown { .. } => "commit_unknown",
            Self::DeadlineExceeded { .. } => "deadline_exceeded",
            Self::CircuitOpen { .. } => "circuit_open",
            Self::ResolveUnsupported(_) => "resolve_unsupported",
            Self::EarlyReleaseUnsupported(_) => "early_release_unsupported",
            Self::QueueUnsupported(_) => "queue_unsupported",
            Self::NotNested { .. } => "not_nested",
            Self::NestedIsolation { .. } => "nested_isolation",
            Self::NestedDurable { .. } => "nested_durable",
            Self::OnCommitUnseen { .. } => "on_commit_unseen",
        }
    }

    /// Whether the transaction may be committed: [`Error::CommitUnknown`]. After every other error it is not, except
    /// for what the body itself has committed ([`Error::EndedByBody`]).
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::CommitUnknown { .. })
    }

    /// What the call went through, if it was retried.
    #[must_use]
    pub fn history(&self) -> Option<&History> {
        match self {
            of_driver!(cause) => cause.history.as_deref(),
            Self::Pool(error) => error.source.history.as_deref(),
            Self::Aborted { source } => source.as_ref()?.history.as_deref(),
            Self::CommitUnknown { source, .. }
            | Self::DeadlineExceeded { source, .. }
            | Self::CircuitOpen { source, .. } => source.as_ref()?.history.as_deref(),
            _ => None,
        }
    }

    pub(crate) fn with_history(mut self, history: History) -> Self {
        let place = match &mut self {
            of_driver!(cause) => Some(&mut cause.history),
            Self::Pool(error) => Some(&mut error.source.history),
            Self::Aborted { source } => source.as_mut().map(|cause| &mut cause.history),
            Self::CommitUnknown { source, .. }
            | Self::DeadlineExceeded { source, .. }
            | Self::CircuitOpen { source, .. } => source.as_mut().map(|cause| &mut cause.history),
            _ => None,
        };
        if let Some(place) = place {
            *place = Some(Box::new(history));
        }
        self
    }

    /// The server's error behind this one, if the server sent one.
    #[must_use]
    pub fn as_db_error(&self) -> Option<&DbError> {
        self.source().and_then(cause::db_error_in)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(cause) if cause.as_db_error().is_some() => f.write_str("the database reported an error"),
            Self::Postgres(_) => f.write_str("the connection failed"),
            Self::Pool(_) => f.write_str("could not get a connection from the pool"),
            Self::Aborted { .. } => f.write_str("a statement failed, so the transaction was rolled back"),
            Self::UnexpectedRows { expected, found } => {
                write!(f, "a statement affected {found} rows instead of {expected}, so the transaction was rolled back")
            }
            Self::EndedByBody => f.write_str("the body ended the transaction itself, with COMMIT or ROLLBACK"),
            Self::CommitUnknown { .. } => f.write_str("the outcome of the commit is unknown"),
            Self::DeadlineExceeded { phase, .. } => write!(f, "the deadline passed while {phase}"),
            Self::CircuitOpen { retry_after, .. } => {
                write!(f, "the circuit of the pool is open for another {retry_after:.1?}, so the call was refused")
            }
            Self::ResolveUnsupported(_) => f.write_str(
                "`unknown_commit = \"resolve\"` needs PostgreSQL 13 or later and the right to call its functions",
            ),
            Self::EarlyReleaseUnsupported(_) => {
                f.write_str("`early_release` needs PostgreSQL and the right to call `pg_logical_emit_message`")
            }
            Self::QueueUnsupported(_) => f.write_str(
                "`queue = \"server\"` needs the tables that `install_queues` creates, and the right to lock them",
            ),
            Self::NotNested { outer, inner } => write!(
                f,
                "`{inner}` was called inside the body of `{outer}`, but not in its transaction: pass `&mut *tx` (if it \
                 has a `source`, to its twin: see `within`), or declare `{inner}` `independent`"
            ),
            Self::NestedIsolation { outer, inner } => {
                write!(f, "`{inner}` needs a stronger isolation level than `{outer}`, which began the transaction")
            }
            Self::NestedDurable { outer, inner } => {
                write!(f, "`{inner}` is `durable`, but was called in the transaction of `{outer}`: call it outside")
            }
            Self::OnCommitUnseen { function } => write!(
                f,
                "`{function}` registered `on_commit` work in a transaction of tokio-postgres, whose commit is not seen: \
                 make the function that begins that transaction `#[transactional]` too"
            ),
        }?;
        if let Some(history) = self.history() {
            write!(f, ", after {history}")?;
        }
        match self.source().and_then(held_by).map(cause::message_of) {
            Some(message) => write!(f, ": {message}"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            of_driver!(cause) => Some(cause),
            Self::Pool(error) => error.source(),
            Self::Aborted { source } => source.as_ref().map(|cause| cause as _),
            Self::CommitUnknown { source, .. }
            | Self::DeadlineExceeded { source, .. }
            | Self::CircuitOpen { source, .. } => source.as_ref().map(|cause| cause as _),
            Self::UnexpectedRows { .. }
            | Self::EndedByBody
            | Self::NotNested { .. }
            | Self::NestedIsolation { .. }
            | Self::NestedDurable { .. }
            | Self::OnCommitUnseen { .. } => None,
        }
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error.into())
    }
}

impl From<PoolError> for Error {
    fn from(error: PoolError) -> Self {
        Self::Pool(error)
    }
}

/// The error and its sources in one line, without SQLSTATEs, for functions whose error is a text.
impl From<Error> for String {
    fn from(error: Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            if held_by(error).is_none() {
                text.push_str(": ");
                text.push_str(&error.to_string());
            }
            source = error.source();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_ends_with_the_cause_and_the_chain_does_not_repeat_it() {
        let pool = Error::Pool(PoolError::closed(std::io::Error::other("reset by peer")));
        let text = "could not get a connection from the pool: reset by peer";
        assert_eq!(pool.to_string(), text);
        assert_eq!(format!("{:#}", anyhow::Error::new(pool)), format!("{text}: no SQLSTATE"));

        let pool = Error::Pool(PoolError::closed("the pool is closed"));
        let unknown = Error::CommitUnknown { identity: None, source: Some(Cause::from(AnyError::from(pool))) };
        let text = "the outcome of the commit is unknown: could not get a connection from the pool: the pool is closed";
        assert_eq!(unknown.to_string(), text);
        assert_eq!(format!("{:#}", anyhow::Error::new(unknown)), format!("{text}: no SQLSTATE"));
    }

    #[test]
    fn only_an_unknown_commit_is_unknown() {
        assert!(Error::CommitUnknown { identity: None, source: None }.is_unknown());
        assert!(!Error::EndedByBody.is_unknown());
    }
}
