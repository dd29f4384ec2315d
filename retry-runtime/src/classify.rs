//! What a failure means: the one place that knows an SQLSTATE.
//!
//! The order is phase, severity, code. FATAL and PANIC end the session whatever their code says (40001 and 53100
//! come as both), and an answer to `COMMIT` has rules of its own.

use std::error::Error as StdError;

use tokio_postgres::Error as PgError;
use tokio_postgres::error::{DbError, Severity, SqlState};

use crate::error::Error;

/// What kind of failure an error is. It decides whether a call is retried, and on which budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Class {
    /// A serialization failure: 40001, CockroachDB's and Aurora DSQL's codes for it, and what Citus makes of a worker's
    /// (XX000 "could not commit transaction for shard … on at least one active node"). Retried on `deadlock_retries`.
    Serialization,
    /// Deadlock detected: 40P01. Retried on `deadlock_retries`.
    Deadlock,
    /// A lock could not be had in time: 55P03, and 55006 unless it is the session itself that is in the way. Retried on
    /// `deadlock_retries`.
    Lock,
    /// The connection is lost, or the server is starting up or shutting down. Retried on `retries`.
    Connection,
    /// The server or the pool has no connection to give. Retried on `retries`.
    Capacity,
    /// A write met a server or a transaction that only reads: 25006. Retried on `retries`, on another connection,
    /// where the function is not `read_only`. If it is the settings of that connection too that only allow reading
    /// (`default_transaction_read_only`, of the role, say), the call gives up.
    ReadOnly,
    /// A prepared statement outlived its table's definition or its connection: 26000, and 0A000 "cached plan must
    /// not change result type". Retried once, outside the budgets, with the statement cache cleared.
    StalePlan,
    /// The transaction may be committed, or not: 08007, 40003, [`Error::CommitUnknown`]. Never retried.
    CommitUnknown,
    /// Everything else: constraints, syntax, privileges, misuse. Never retried.
    Fatal,
}

impl Class {
    /// Whether the transaction lost to a concurrent one.
    pub(crate) const fn is_conflict(self) -> bool {
        matches!(self, Self::Serialization | Self::Deadlock | Self::Lock)
    }
}

/// Classifies an error by the first failure of a database, a connection or a pool in its chain of sources.
///
/// `None` where the chain has none: an error of the caller's own. For tests and for loops written by hand; the
/// retry loop of `#[transactional]` uses the same table.
#[must_use]
pub fn classify(error: &(dyn StdError + 'static)) -> Option<Class> {
    Failure::find(error).map(|failure| failure.class)
}

/// A failure as the loop needs to know it. It outlives the error, which belongs to the body.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) class: Class,
    /// Whether the session can no longer be used.
    pub(crate) lost: bool,
    /// The server's error, where it sent one.
    pub(crate) db: Option<Box<DbError>>,
}

impl Failure {
    /// The first failure in the chain of `error`.
    pub(crate) fn find(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut next = Some(error);
        let mut from_pool = false;
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref::<PgError>() {
                return Some(Self::from_driver(error));
            }
            if let Some(db) = error.downcast_ref::<DbError>() {
                return Some(Self::from_server(db));
            }
            match error.downcast_ref::<Error>() {
                Some(Error::CommitUnknown { .. }) => return Some(Self::lost(Class::CommitUnknown)),
                Some(
                    Error::Aborted { source: None }
                    | Error::EndedByBody
                    | Error::NotNested { .. }
                    | Error::NestedIsolation { .. }
                    | Error::DeadlineExceeded { .. },
                ) => return Some(Self::kept(Class::Fatal)),
                Some(Error::Pool(_)) => from_pool = true,
                _ => {}
            }
            if let Some(class) = crate::pools::classify(error) {
                return Some(Self::lost(class));
            }
            if from_pool && error.is::<tokio::time::error::Elapsed>() {
                return Some(Self::lost(Class::Capacity));
            }
            next = error.source();
        }
        from_pool.then(|| Self::kept(Class::Fatal))
    }

    /// A failure that the driver reported.
    pub(crate) fn from_driver(error: &PgError) -> Self {
        if let Some(db) = error.as_db_error() {
            return Self::from_server(db);
        }
        if error.is_closed() {
            return Self::lost(Class::Connection);
        }
        // The driver tells its other kinds apart only by their texts, which are constants of it.
        match error.to_string().as_str() {
            "error communicating with the server" | "error connecting to server" | "timeout waiting for server" => {
                Self::lost(Class::Connection)
            }
            "unexpected message from server" | "error parsing response from server" => Self::lost(Class::Fatal),
            _ => Self::kept(Class::Fatal),
        }
    }

    /// A failure in answer to `BEGIN`: a hot standby refuses some of its options with 0A000.
    pub(crate) fn at_begin(error: &PgError) -> Self {
        let mut failure = Self::from_driver(error);
        if failure.class == Class::Fatal && failure.has_code(&SqlState::FEATURE_NOT_SUPPORTED) {
            failure.class = Class::ReadOnly;
        }
        failure
    }

    fn from_server(db: &DbError) -> Self {
        let fatal = is_fatal(db);
        let class = if fatal { fatal_class(db) } else { error_class(db) };
        Self { class, lost: fatal, db: Some(Box::new(db.clone())) }
    }

    fn lost(class: Class) -> Self {
        Self { class, lost: true, db: None }
    }

    fn kept(class: Class) -> Self {
        Self { class, lost: false, db: None }
    }

    /// The server's error, as the source of another one.
    pub(crate) fn to_source(&self) -> Option<Box<dyn StdError + Send + Sync>> {
        self.db.clone().map(|db| db as _)
    }

    /// The SQLSTATE, where the server sent one.
    pub(crate) fn code(&self) -> Option<&str> {
        self.db.as_ref().map(|db| db.code().code())
    }

    /// The server's message, unless it may quote data, as 22P02 does. Never the detail and the hint, which hold data and
    /// several lines.
    #[cfg(feature = "tracing")]
    pub(crate) fn public_message(&self) -> Option<&str> {
        let may_quote = matches!(self.class, Class::Fatal | Class::CommitUnknown);
        self.db.as_ref().filter(|_| !may_quote).map(|db| db.message())
    }

    fn has_code(&self, code: &SqlState) -> bool {
        self.db.as_ref().is_some_and(|db| db.code() == code)
    }

    /// Whether this only says that an earlier statement failed (25P02).
    pub(crate) fn is_symptom(&self) -> bool {
        self.has_code(&SqlState::IN_FAILED_SQL_TRANSACTION)
    }

    /// Whether a statement wanted to write where that is not allowed.
    pub(crate) fn is_refused_write(&self) -> bool {
        self.has_code(&SqlState::READ_ONLY_SQL_TRANSACTION)
    }

    /// Whether a `BEGIN` answered like this found a transaction already open.
    pub(crate) fn is_open_transaction(&self) -> bool {
        self.has_code(&SqlState::ACTIVE_SQL_TRANSACTION) || self.is_symptom()
    }

    /// Whether the server lacks a function or table, or the role may not use it.
    pub(crate) fn is_unsupported(&self) -> bool {
        let codes = [&SqlState::UNDEFINED_FUNCTION, &SqlState::UNDEFINED_TABLE, &SqlState::INSUFFICIENT_PRIVILEGE];
        codes.into_iter().any(|code| self.has_code(code))
    }

    /// Whether this says that no transaction is open (25P01).
    pub(crate) fn is_no_transaction(&self) -> bool {
        self.has_code(&SqlState::NO_ACTIVE_SQL_TRANSACTION)
    }

    /// Whether this answer to `COMMIT` came from `COMMIT` itself, and so ended the transaction. A cancel or a conflict
    /// with a standby's recovery may have hit before it began; the transaction is then still open.
    pub(crate) fn is_of_commit(&self) -> bool {
        let Some(routine) = self.db.as_ref().and_then(|db| db.routine()) else { return false };
        !self.lost && !routine.starts_with("ProcessInterrupts") && !routine.starts_with("ProcessRecoveryConflict")
    }

    /// Whether the server takes a value for none of its own, as an id that it has not given out.
    pub(crate) fn is_invalid_value(&self) -> bool {
        self.has_code(&SqlState::INVALID_PARAMETER_VALUE)
    }

    /// Whether a cancel request, or a timeout of the server, hit the statement.
    pub(crate) fn is_canceled(&self) -> bool {
        self.has_code(&SqlState::QUERY_CANCELED)
    }

    /// Whether this answer to `COMMIT` proves that the transaction was rolled back.
    ///
    /// An ERROR does, unless it says that it does not know. Of a lost connection it must come straight from the server:
    /// a trigger or a foreign table has lost one of its own then. (A pooler names no function that raised it.) FATAL
    /// does only straight from the server, and only if the server ends sessions before it writes the commit record.
    pub(crate) fn proves_rollback(&self) -> bool {
        let Some(db) = &self.db else { return false };
        let code = db.code().code();
        if !self.lost {
            let of_server = db.parsed_severity().is_some() && db.routine().is_some();
            return self.class != Class::CommitUnknown && (of_server || !code.starts_with("08"));
        }
        db.parsed_severity() == Some(Severity::Fatal) && matches!(code, "57P01" | "25P03" | "25P04")
    }
}

/// A pooler's own errors have no parsed severity, only its text.
fn is_fatal(db: &DbError) -> bool {
    match db.parsed_severity() {
        Some(severity) => matches!(severity, Severity::Fatal | Severity::Panic),
        None => matches!(db.severity(), "FATAL" | "PANIC"),
    }
}

/// The session goes on; its transaction is aborted.
fn error_class(db: &DbError) -> Class {
    match db.code().code() {
        "40001" | "CR000" | "OC000" | "OC001" => Class::Serialization,
        "40P01" => Class::Deadlock,
        // A cursor or a trigger that is still to fire, of this very session.
        "55006" if db.routine() == Some("CheckTableNotInUse") => Class::Fatal,
        "55P03" | "55006" => Class::Lock,
        "08000" | "08001" | "08003" | "08004" | "08006" | "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => {
            Class::Connection
        }
        "53300" => Class::Capacity,
        "08P01" => protocol_class(db),
        "25006" => Class::ReadOnly,
        "26000" => Class::StalePlan,
        // The message may be translated; the server's function name is not.
        "0A000" if db.routine() == Some("RevalidateCachedQuery") => Class::StalePlan,
        "0A000" if db.message().contains("cached plan must not change result type") => Class::StalePlan,
        "08007" | "40003" => Class::CommitUnknown,
        "XX000" if is_failed_worker(db.message()) => Class::Serialization,
        _ => Class::Fatal,
    }
}

/// What Citus makes of a serialization failure in a worker's COMMIT.
fn is_failed_worker(message: &str) -> bool {
    message.starts_with("could not commit transaction for shard ") && message.ends_with(" on at least one active node")
}

/// The session is over. A new one may do better, unless the server refuses this login or this request as such.
fn fatal_class(db: &DbError) -> Class {
    match db.code().code() {
        "53300" => Class::Capacity,
        "08P01" => protocol_class(db),
        "08007" | "40003" => Class::CommitUnknown,
        // `transaction_timeout`: the next attempt would take as long.
        "25P04" => Class::Fatal,
        code if ["0A", "22", "28", "3D", "42"].iter().any(|class| code.starts_with(class)) => Class::Fatal,
        _ => Class::Connection,
    }
}

/// 08P01 is PgBouncer's code for nearly everything: its text decides.
fn protocol_class(db: &DbError) -> Class {
    const CAPACITY: [&str; 2] = ["query_wait_timeout", "no more connections allowed"];
    const CONNECTION: [&str; 6] = [
        "server conn crashed",
        "server login has been failing",
        "server shutting down",
        "pooler is shutting down",
        "client_login_timeout",
        "query_timeout",
    ];
    let is = |texts: &[&str]| texts.iter().any(|text| db.message().contains(text));
    if is(&CAPACITY) {
        Class::Capacity
    } else if is(&CONNECTION) {
        Class::Connection
    } else {
        Class::Fatal
    }
}
