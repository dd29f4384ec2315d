//! The runtime's own error.

use std::error::Error as StdError;
use std::fmt;

use tokio_postgres::error::DbError;

use crate::classify::Failure;

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
    /// The body returned `Ok`, but a statement of it had failed and the server had aborted the transaction.
    /// Everything is rolled back.
    #[non_exhaustive]
    Aborted {
        /// The first failure in the transaction, where the runtime saw it.
        source: Option<Box<DbError>>,
    },
    /// The connection was lost while `COMMIT` was on its way: the transaction may be committed, or not.
    #[non_exhaustive]
    CommitUnknown {
        /// The transaction's id (the server's `xid8`), where it is known.
        xid: Option<u64>,
        /// What was seen instead of the answer.
        source: tokio_postgres::Error,
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

impl Error {
    /// The body returned `Ok` in a transaction that `failure` had aborted.
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
            Self::CommitUnknown { .. } => f.write_str("the outcome of the commit is unknown"),
            Self::NestedIsolation { outer, inner } => {
                write!(f, "`{inner}` needs a stronger isolation level than `{outer}`, which began the transaction")
            }
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Postgres(source) | Self::CommitUnknown { source, .. } => Some(source),
            Self::Pool(source) => Some(&**source),
            Self::Aborted { source } => source.as_deref().map(|source| source as _),
            Self::NestedIsolation { .. } => None,
        }
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}
