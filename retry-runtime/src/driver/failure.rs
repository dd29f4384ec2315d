//! Reads the failure out of an error: the driver's own, or one that has it among its sources.

use std::error::Error as StdError;
use std::sync::Arc;

use tokio_postgres::Error as PgError;
use tokio_postgres::error::{DbError, Severity as PgSeverity};

use crate::classify::{Class, Failure, Report, Severity};
use crate::error::{Error, PoolError, held_by, of_driver};

/// Classifies an error by the first failure of a database, a connection or a pool in its chain of sources.
///
/// `None` if the chain has none, as for an error of your own. This is the table that the retry loop uses, for tests and
/// for loops written by hand.
///
/// ```
/// use retry_runtime::{Class, classify};
///
/// async fn is_worth_a_retry(client: &tokio_postgres::Client) -> bool {
///     match client.batch_execute("LOCK accounts NOWAIT").await {
///         Ok(()) => false,
///         Err(error) => classify(&error) == Some(Class::Lock),
///     }
/// }
/// ```
#[must_use]
pub fn classify(error: &(dyn StdError + 'static)) -> Option<Class> {
    failure_in(error).map(|failure| failure.class)
}

impl Error {
    /// The class of the failure.
    #[must_use]
    pub fn class(&self) -> Class {
        failure_of_call(self).class
    }
}

/// The first failure in the chain of `error`.
pub(crate) fn failure_in(error: &(dyn StdError + 'static)) -> Option<Failure> {
    let mut next = Some(error);
    while let Some(error) = next {
        let failure = failure_of_one(error);
        if failure.is_some() {
            return failure;
        }
        next = error.source();
    }
    None
}

/// The failure that this error is, without its sources.
fn failure_of_one(error: &(dyn StdError + 'static)) -> Option<Failure> {
    if let Some(error) = error.downcast_ref::<PgError>() {
        Some(failure_of(error))
    } else if let Some(db) = error.downcast_ref::<DbError>() {
        Some(Failure::reported(report(db)))
    } else if let Some(error) = error.downcast_ref::<Error>() {
        Some(failure_of_call(error))
    } else if let Some(error) = error.downcast_ref::<PoolError>() {
        Some(failure_of_pool(error))
    } else if let Some(held) = held_by(error) {
        failure_in(held)
    } else {
        class_of_pool(error).map(Failure::of_session)
    }
}

/// The failure that the driver reports.
pub(crate) fn failure_of(error: &PgError) -> Failure {
    if let Some(db) = error.as_db_error() {
        return Failure::reported(report(db));
    }
    if error.is_closed() {
        return Failure::of_session(Class::Connection);
    }
    // The driver tells its other kinds apart only by their texts, which are constants of it.
    match error.to_string().as_str() {
        "error communicating with the server" | "error connecting to server" | "timeout waiting for server" => {
            Failure::of_session(Class::Connection)
        }
        "unexpected message from server" | "error parsing response from server" => Failure::of_session(Class::Fatal),
        _ => Failure::of_statement(Class::Fatal),
    }
}

fn failure_of_call(error: &Error) -> Failure {
    match error {
        of_driver!(error) => failure_of(error),
        Error::Pool(error) => failure_of_pool(error),
        Error::Aborted { source: Some(db) } => Failure::reported(report(db)),
        Error::CommitUnknown { .. } => Failure::of_session(Class::CommitUnknown),
        Error::CircuitOpen { .. } => Failure::of_statement(Class::Capacity),
        _ => Failure::of_statement(Class::Fatal),
    }
}

/// The pool says the class. What the server reported, if anything, is among the sources.
fn failure_of_pool(error: &PoolError) -> Failure {
    let found = failure_in(&**error.source);
    let report = found.and_then(|failure| failure.report);
    Failure { report, ..Failure::of_session(error.class) }
}

/// The class of an error of a pool that a feature names, if it was not the retry loop that asked the pool.
#[cfg_attr(not(any(feature = "deadpool", feature = "bb8")), expect(unused_variables))]
pub(crate) fn class_of_pool(error: &(dyn StdError + 'static)) -> Option<Class> {
    #[cfg(feature = "deadpool")]
    if let Some(error) = error.downcast_ref::<deadpool_postgres::PoolError>() {
        use deadpool_postgres::{PoolError, TimeoutType};
        return Some(match error {
            PoolError::Timeout(TimeoutType::Wait) => Class::Capacity,
            PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle) => Class::Connection,
            PoolError::Backend(error) => failure_of(error).class,
            _ => Class::Fatal,
        });
    }
    #[cfg(feature = "bb8")]
    if let Some(error) = error.downcast_ref::<bb8::RunError<PgError>>() {
        return Some(match error {
            bb8::RunError::TimedOut => Class::Capacity,
            bb8::RunError::User(error) => failure_of(error).class,
        });
    }
    None
}

fn report(db: &DbError) -> Report {
    let severity = match (db.parsed_severity(), db.severity()) {
        (Some(PgSeverity::Fatal), _) | (None, "FATAL") => Severity::Fatal,
        (Some(PgSeverity::Panic), _) | (None, "PANIC") => Severity::Panic,
        _ => Severity::Error,
    };
    Report {
        severity,
        is_severity_exact: db.parsed_severity().is_some(),
        code: db.code().code().into(),
        message: db.message().into(),
        routine: db.routine().map(Into::into),
        error: Arc::new(db.clone()),
    }
}
