//! The error behind an [`Error`](crate::Error).

use std::error::Error as StdError;
use std::fmt;
use std::ops::Deref;

use tokio_postgres::error::DbError;

use crate::error::history::History;

/// The error behind an [`Error`](crate::Error). It dereferences to that error.
///
/// The text of [`Error`](crate::Error) ends with the text of its cause. So that a report of the whole chain of sources
/// (`{:#}` of anyhow) does not say it twice, the text of this type is only the SQLSTATE: `SQLSTATE 40001`, or
/// `no SQLSTATE`. Its source is that of the cause.
///
/// ```
/// use retry_runtime::Error;
/// use tokio_postgres::error::SqlState;
///
/// fn is_taken(error: &Error) -> bool {
///     matches!(error, Error::Postgres(cause) if cause.code() == Some(&SqlState::UNIQUE_VIOLATION))
/// }
/// # assert!(!is_taken(&Error::EndedByBody));
/// ```
pub struct Cause<E> {
    error: E,
    /// How the call came to it. Boxed, because most calls have none.
    pub(super) history: Option<Box<History>>,
}

impl<E> Cause<E> {
    /// The error itself.
    pub fn into_inner(self) -> E {
        self.error
    }
}

impl<E> From<E> for Cause<E> {
    fn from(error: E) -> Self {
        Self { error, history: None }
    }
}

impl<E> Deref for Cause<E> {
    type Target = E;

    fn deref(&self) -> &E {
        &self.error
    }
}

/// Any error.
pub(crate) type AnyError = Box<dyn StdError + Send + Sync>;

/// The kinds of errors that a [`Cause`] holds.
pub trait AsError {
    /// The error.
    fn as_error(&self) -> &(dyn StdError + 'static);
}

impl AsError for tokio_postgres::Error {
    fn as_error(&self) -> &(dyn StdError + 'static) {
        self
    }
}

impl AsError for Box<DbError> {
    fn as_error(&self) -> &(dyn StdError + 'static) {
        &**self
    }
}

impl AsError for AnyError {
    fn as_error(&self) -> &(dyn StdError + 'static) {
        &**self
    }
}

/// The error that a [`Cause`] of any kind holds. `None`: it is no [`Cause`].
pub(crate) fn held_by<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e (dyn StdError + 'static)> {
    if let Some(cause) = error.downcast_ref::<Cause<tokio_postgres::Error>>() {
        Some(cause.as_error())
    } else if let Some(cause) = error.downcast_ref::<Cause<Box<DbError>>>() {
        Some(cause.as_error())
    } else {
        error.downcast_ref::<Cause<AnyError>>().map(|cause| cause.as_error())
    }
}

/// The error that has the message: the driver's text for an error of the server is only "db error".
pub(crate) fn message_of<'e>(error: &'e (dyn StdError + 'static)) -> &'e (dyn StdError + 'static) {
    match error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::as_db_error) {
        Some(db) => db,
        None => error,
    }
}

/// The server's error in a chain of sources, if the server sent one.
pub(crate) fn db_error_in<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e DbError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(db) = error.downcast_ref::<DbError>() {
            return Some(db);
        }
        next = held_by(error).or_else(|| error.source());
    }
    None
}

impl<E: AsError> fmt::Display for Cause<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match db_error_in(self.error.as_error()) {
            Some(db) => write!(f, "SQLSTATE {}", db.code().code()),
            None => f.write_str("no SQLSTATE"),
        }
    }
}

impl<E: fmt::Debug> fmt::Debug for Cause<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<E: AsError + fmt::Debug> StdError for Cause<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = message_of(self.error.as_error()).source();
        // If the cause is itself an `Error`, its own cause would say the SQLSTATE again.
        if source.is_some_and(|source| held_by(source).is_some()) { source?.source() } else { source }
    }
}
