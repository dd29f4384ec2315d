//! The runtime's own error.

use std::error::Error as StdError;
use std::fmt;

use tokio_postgres::error::DbError;

use crate::classify::Failure;
use crate::identity::Identity;

/// Why a call failed for a reason that is not the body's own error.
///
/// What the body returns reaches the caller untouched. This error arrives where the runtime itself had to give
/// up: the function's error type is made from it by `From<retry_runtime::Error>`.
/// [`source`](StdError::source) leads to the database's own error where there is one.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The server or the connection failed, at `BEGIN` or in answer to `COMMIT`. The transaction is rolled back.
    Postgres(tokio_postgres::Error),
    /// No connection could be had: the pool is closed, or had none free in time.
    Pool(Box<dyn StdError + Send + Sync>),
    /// A statement of the body had failed, so the server had aborted the transaction. The body returned `Ok` all the
    /// same, or only the symptom: "current transaction is aborted" (25P02). Everything is rolled back.
    #[non_exhaustive]
    Aborted {
        /// The first failure in the transaction, where the runtime saw it.
        source: Option<Box<DbError>>,
    },
    /// The body ended the transaction itself, with `COMMIT`, `ROLLBACK` or `PREPARE TRANSACTION`. If it committed, what
    /// it wrote until then is committed; whatever it wrote afterwards is too, statement by statement.
    EndedByBody,
    /// The reply to a `COMMIT` was lost, of this attempt or of an earlier one: its transaction may be committed, or not.
    #[non_exhaustive]
    CommitUnknown {
        /// By what [`resolve`](crate::resolve()) may find out later: known with `unknown_commit = "resolve"` and
        /// `"token"`.
        identity: Option<Box<Identity>>,
        /// The error received instead of a reply, or the failure of a later attempt. `None` if the deadline passed
        /// first.
        source: Option<Box<dyn StdError + Send + Sync>>,
    },
    /// The call's `deadline` has passed, or the next retry would have slept past it. Nothing is committed.
    #[non_exhaustive]
    DeadlineExceeded {
        /// What the call was doing.
        phase: Phase,
        /// The last failure before, where there was one.
        source: Option<Box<dyn StdError + Send + Sync>>,
    },
    /// The server cannot tell a transaction's identity, which `unknown_commit = "resolve"` needs: it is not
    /// PostgreSQL, or older than 13, or the role may not ask. The body has not run.
    ResolveUnsupported(tokio_postgres::Error),
    /// A call was made inside another call's body, on the same pool: it would run in a transaction of its own, beside the
    /// one around it. Pass `&mut *tx` to nest it, or declare the inner function `independent`. No SQL was sent.
    #[non_exhaustive]
    NotNested {
        /// The function inside whose body the call was made.
        outer: &'static str,
        /// The function that was called.
        inner: &'static str,
    },
    /// A nested call wants a stronger isolation level than the transaction around it promises. No SQL was sent.
    #[non_exhaustive]
    NestedIsolation {
        /// The function that began the transaction.
        outer: &'static str,
        /// The nested function.
        inner: &'static str,
    },
}

/// What a call was doing when its deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Waiting for other calls of the function in this process.
    Queue,
    /// Waiting for a connection.
    Pool,
    /// Waiting for the answer to `BEGIN`.
    Begin,
    /// Running the body.
    Body,
    /// Waiting for the answer to `COMMIT`, of which it is known since that it did not commit.
    Commit,
    /// About to sleep before a retry.
    BackOff,
}

impl Phase {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "waiting for other calls",
            Self::Pool => "waiting for a connection",
            Self::Begin => "waiting for BEGIN",
            Self::Body => "running the body",
            Self::Commit => "waiting for COMMIT",
            Self::BackOff => "about to sleep before a retry",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Error {
    /// The deadline has passed.
    pub(crate) fn deadline(phase: Phase) -> Self {
        Self::DeadlineExceeded { phase, source: None }
    }

    /// The body went on in a transaction that `failure` had aborted.
    pub(crate) fn aborted(failure: Option<&Failure>) -> Self {
        Self::Aborted { source: failure.and_then(|failure| failure.db.clone()) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(_) => f.write_str("the transaction failed"),
            Self::Pool(_) => f.write_str("no connection from the pool"),
            Self::Aborted { .. } => f.write_str("a statement failed, so the transaction was rolled back"),
            Self::EndedByBody => f.write_str("the body ended the transaction itself, with COMMIT or ROLLBACK"),
            Self::CommitUnknown { .. } => f.write_str("the outcome of the commit is unknown"),
            Self::DeadlineExceeded { phase, .. } => write!(f, "the deadline passed while {phase}"),
            Self::ResolveUnsupported(_) => f.write_str(
                "`unknown_commit = \"resolve\"` needs PostgreSQL 13 or later and the right to call its functions",
            ),
            Self::NotNested { outer, inner } => write!(
                f,
                "`{inner}` was called inside the body of `{outer}`, but not in its transaction: pass `&mut *tx`, or declare \
                 `{inner}` `independent`"
            ),
            Self::NestedIsolation { outer, inner } => {
                write!(f, "`{inner}` needs a stronger isolation level than `{outer}`, which began the transaction")
            }
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Postgres(source) | Self::ResolveUnsupported(source) => Some(source),
            Self::CommitUnknown { source, .. } | Self::DeadlineExceeded { source, .. } => {
                source.as_deref().map(|source| source as _)
            }
            Self::Pool(source) => Some(&**source),
            Self::Aborted { source } => source.as_deref().map(|source| source as _),
            Self::EndedByBody | Self::NotNested { .. } | Self::NestedIsolation { .. } => None,
        }
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

/// The error and its sources in one line, for functions whose error is a text.
impl From<Error> for String {
    fn from(error: Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    }
}
