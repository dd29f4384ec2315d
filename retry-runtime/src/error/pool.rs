//! Why a pool gave no connection.

use std::error::Error as StdError;
use std::fmt;

use crate::classify::Class;
use crate::error::cause::{AnyError, Cause, message_of};

/// Why a [`Pool`](crate::Pool) gave no connection, and of which class that failure is.
///
/// The class decides whether the call is retried. There is a constructor for each common case:
///
/// ```
/// use retry_runtime::{Class, PoolError};
///
/// assert_eq!(PoolError::timeout("no connection was free within 5 s").class(), Class::Capacity);
/// assert_eq!(PoolError::closed("the pool is closed").class(), Class::Fatal);
/// ```
///
/// If the server refused the connection, [`PoolError::refused`] (or `?`) takes the error of tokio-postgres.
#[derive(Debug)]
pub struct PoolError {
    pub(crate) class: Class,
    pub(crate) source: Cause<AnyError>,
}

impl PoolError {
    /// A failure of this class.
    pub fn new(class: Class, source: impl Into<AnyError>) -> Self {
        Self { class, source: Cause::from(source.into()) }
    }

    /// No connection was free in time: [`Class::Capacity`], retried on `retries`.
    pub fn timeout(source: impl Into<AnyError>) -> Self {
        Self::new(Class::Capacity, source)
    }

    /// The pool is closed, or not usable for another reason: [`Class::Fatal`], not retried.
    pub fn closed(source: impl Into<AnyError>) -> Self {
        Self::new(Class::Fatal, source)
    }

    /// The class of the failure.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }

    /// The pool's own error, or that of tokio-postgres. The text of this error is its text.
    #[must_use]
    pub fn get_ref(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &**self.source
    }
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", message_of(self.get_ref()))
    }
}

impl StdError for PoolError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.source)
    }
}
