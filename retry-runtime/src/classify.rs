//! What a failure means: the one place that knows SQLSTATEs and the texts of servers and poolers.
//!
//! The order is phase, severity, code. FATAL and PANIC end the session whatever their code says (40001 and 53100
//! come as both), and an error in reply to `COMMIT` has rules of its own.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// The class of a failure. It decides whether a call is retried, and on which budget.
///
/// [The guide](crate::guide::classes) lists every SQLSTATE. [`classify`](crate::classify()) finds the class of an error.
///
/// ```
/// use retry_runtime::{Class, Error, PoolError};
///
/// let error = Error::Pool(PoolError::timeout("no connection was free within 5 s"));
/// assert_eq!(error.class(), Class::Capacity);
/// assert_eq!(error.class().to_string(), "capacity");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Class {
    /// A serialization failure: 40001, the codes of CockroachDB and Aurora DSQL for it, and the text in which Citus
    /// reports that of a worker. Retried on `deadlock_retries`.
    Serialization,
    /// A deadlock: 40P01. Retried on `deadlock_retries`.
    Deadlock,
    /// A lock was not available: 55P03, and 55006 if another session is in the way. Retried on `deadlock_retries`.
    Lock,
    /// The connection was closed, or the server is starting up or shutting down. Retried on `retries`.
    Connection,
    /// The server or the pool has no free connection. Retried on `retries`. Also
    /// [`Error::CircuitOpen`](crate::Error::CircuitOpen), which the call that is refused does not retry.
    Capacity,
    /// A write reached a server or a transaction that is read-only: 25006. Or a hot standby refused `serializable`: 0A000,
    /// raised by the function that checks it. Retried on `retries`, on another
    /// connection, unless the function is `read_only`. The call gives up if that connection is read-only because of its
    /// settings (`default_transaction_read_only`).
    ReadOnly,
    /// A prepared statement outlived its table's definition or its connection: 26000, and 0A000 "cached plan must
    /// not change result type". Retried once, outside the budgets, with the statement cache cleared.
    StalePlan,
    /// The outcome of the commit is unknown: 08007, 40003, [`Error::CommitUnknown`](crate::Error::CommitUnknown). Never
    /// retried.
    CommitUnknown,
    /// Everything else: constraints, syntax, privileges, misuse. Never retried.
    Fatal,
}

impl Class {
    /// Whether a concurrent transaction was in the way.
    pub(crate) const fn is_conflict(self) -> bool {
        matches!(self, Self::Serialization | Self::Deadlock | Self::Lock)
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Serialization => "serialization",
            Self::Deadlock => "deadlock",
            Self::Lock => "lock",
            Self::Connection => "connection",
            Self::Capacity => "capacity",
            Self::ReadOnly => "read_only",
            Self::StalePlan => "stale_plan",
            Self::CommitUnknown => "commit_unknown",
            Self::Fatal => "fatal",
        }
    }
}

/// The name that events use: `serialization`, `stale_plan`.
impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How severe the server says an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// The statement failed. The session continues.
    Error,
    /// The session ended.
    Fatal,
    /// All sessions ended.
    Panic,
}

/// An error that a server or a pooler has sent.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) severity: Severity,
    /// Whether the severity came in its untranslated form too. Servers send it, poolers do not.
    pub(crate) is_severity_exact: bool,
    pub(crate) code: Box<str>,
    pub(crate) message: Box<str>,
    /// The server's function that raised the error. Poolers name none.
    pub(crate) routine: Option<Box<str>>,
    /// The driver's error that this was read from.
    pub(crate) error: Arc<dyn ServerError>,
}

/// A driver's error for what a server has sent.
pub(crate) trait ServerError: StdError + Send + Sync {
    /// A copy, as the source of another error.
    fn to_source(&self) -> Box<dyn StdError + Send + Sync>;
}

impl<E: StdError + Clone + Send + Sync + 'static> ServerError for E {
    fn to_source(&self) -> Box<dyn StdError + Send + Sync> {
        Box::new(self.clone())
    }
}

/// A failure as the retry loop needs to know it. It outlives the error, which belongs to the body.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) class: Class,
    /// Whether the session can no longer be used.
    pub(crate) ends_session: bool,
    /// What the server sent, if it sent anything.
    pub(crate) report: Option<Arc<Report>>,
}

impl Failure {
    /// A failure that the server has reported.
    pub(crate) fn reported(report: Report) -> Self {
        let ends_session = report.severity != Severity::Error;
        let class = if ends_session { class_of_fatal(&report) } else { class_of_error(&report) };
        Self { class, ends_session, report: Some(Arc::new(report)) }
    }

    /// A failure after which the session cannot be used.
    pub(crate) fn of_session(class: Class) -> Self {
        Self { class, ends_session: true, report: None }
    }

    /// A failure that leaves the session as it is.
    pub(crate) fn of_statement(class: Class) -> Self {
        Self { class, ends_session: false, report: None }
    }

    /// The server's error, as the source of another error.
    pub(crate) fn to_source(&self) -> Option<Box<dyn StdError + Send + Sync>> {
        // Dereferenced: an `Arc` of an error is an error too.
        self.report.as_ref().map(|report| (*report.error).to_source())
    }

    /// The SQLSTATE, if the server sent one.
    pub(crate) fn code(&self) -> Option<&str> {
        self.report.as_ref().map(|report| &*report.code)
    }

    /// The server's message, unless it may quote data, as that of 22P02 does. Never the detail and the hint: they
    /// quote data and have several lines.
    #[cfg(feature = "tracing")]
    pub(crate) fn public_message(&self) -> Option<&str> {
        let may_quote = matches!(self.class, Class::Fatal | Class::CommitUnknown);
        self.report.as_ref().filter(|_| !may_quote).map(|report| &*report.message)
    }

    fn has_code(&self, code: &str) -> bool {
        self.code() == Some(code)
    }

    /// Whether this only says that an earlier statement failed (25P02).
    pub(crate) fn is_symptom(&self) -> bool {
        self.has_code("25P02")
    }

    /// Whether a statement tried to write in a read-only transaction (25006).
    pub(crate) fn is_refused_write(&self) -> bool {
        self.has_code("25006")
    }

    /// Whether `BEGIN` found an open transaction: 25001, or 25P02 if it was aborted.
    pub(crate) fn is_open_transaction(&self) -> bool {
        self.has_code("25001") || self.is_symptom()
    }

    /// Whether the server lacks a function or table (42883, 42P01), or the role may not use it (42501).
    pub(crate) fn is_unsupported(&self) -> bool {
        matches!(self.code(), Some("42883" | "42P01" | "42501"))
    }

    /// Whether the server does not know a setting or a function, or the role may not use it.
    pub(crate) fn is_unknown_to_server(&self) -> bool {
        self.class == Class::Fatal && matches!(self.code(), Some("0A000" | "42704" | "42883" | "42501"))
    }

    /// Whether the server lacks a table or its schema (42P01, 3F000), or the role may not use it (42501).
    pub(crate) fn is_missing_table(&self) -> bool {
        matches!(self.code(), Some("42P01" | "3F000" | "42501"))
    }

    /// Whether no transaction is open (25P01).
    pub(crate) fn is_no_transaction(&self) -> bool {
        self.has_code("25P01")
    }

    /// Whether a value is out of range for a function (22023).
    pub(crate) fn is_invalid_value(&self) -> bool {
        self.has_code("22023")
    }

    /// Whether a cancel request or a timeout ended the statement (57014).
    pub(crate) fn is_canceled(&self) -> bool {
        self.has_code("57014")
    }

    /// Whether this error in reply to `COMMIT` came from `COMMIT` itself, and so ended the transaction. A cancel
    /// request or a conflict with a standby's recovery may have come before `COMMIT` ran. The transaction is still open
    /// then.
    pub(crate) fn is_of_commit(&self) -> bool {
        let Some(routine) = self.report.as_ref().and_then(|report| report.routine.as_deref()) else { return false };
        !self.ends_session
            && !routine.starts_with("ProcessInterrupts")
            && !routine.starts_with("ProcessRecoveryConflict")
    }

    /// Whether this error in reply to `COMMIT` proves that the transaction was rolled back.
    ///
    /// An ERROR does, unless it says that the outcome is unknown. If it reports a closed connection, it must come
    /// straight from the server: then it is about a connection that a trigger or a foreign table had opened. FATAL proves
    /// it only straight from the server, and only if the server ends sessions with it before it writes the commit record.
    pub(crate) fn proves_rollback(&self) -> bool {
        let Some(report) = &self.report else { return false };
        let code = &*report.code;
        if !self.ends_session {
            let of_server = report.is_severity_exact && report.routine.is_some();
            return self.class != Class::CommitUnknown && (of_server || !code.starts_with("08"));
        }
        report.severity == Severity::Fatal && report.is_severity_exact && matches!(code, "57P01" | "25P03" | "25P04")
    }
}

/// The class of an ERROR. The session continues, and its transaction is aborted.
fn class_of_error(report: &Report) -> Class {
    match &*report.code {
        "40001" | "CR000" | "OC000" | "OC001" => Class::Serialization,
        "40P01" => Class::Deadlock,
        // A cursor of this session, or a trigger that has yet to fire.
        "55006" if report.routine.as_deref() == Some("CheckTableNotInUse") => Class::Fatal,
        "55P03" | "55006" => Class::Lock,
        "08000" | "08001" | "08003" | "08004" | "08006" | "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => {
            Class::Connection
        }
        "53300" => Class::Capacity,
        "08P01" => class_of_protocol_violation(&report.message),
        "25006" => Class::ReadOnly,
        "0A000" if is_refused_level(report.routine.as_deref()) => Class::ReadOnly,
        "26000" => Class::StalePlan,
        // The message may be translated; the name of the server's function is not.
        "0A000" if report.routine.as_deref() == Some("RevalidateCachedQuery") => Class::StalePlan,
        "0A000" if report.message.contains("cached plan must not change result type") => Class::StalePlan,
        "08007" | "40003" => Class::CommitUnknown,
        "XX000" if is_failed_worker(&report.message) => Class::Serialization,
        _ => Class::Fatal,
    }
}

/// How a hot standby refuses `serializable`: as the level of a transaction, or as the default of the session. The message
/// may be translated, and other servers refuse whatever they lack with the same code.
fn is_refused_level(routine: Option<&str>) -> bool {
    matches!(routine, Some("call_enum_check_hook" | "GetSerializableTransactionSnapshot"))
}

/// How Citus reports a serialization failure in the COMMIT of a worker.
fn is_failed_worker(message: &str) -> bool {
    message.starts_with("could not commit transaction for shard ") && message.ends_with(" on at least one active node")
}

/// The class of a FATAL or PANIC. The session has ended. A new one may succeed, unless the server refuses this login or
/// this request as such.
fn class_of_fatal(report: &Report) -> Class {
    match &*report.code {
        "53300" => Class::Capacity,
        "08P01" => class_of_protocol_violation(&report.message),
        "08007" | "40003" => Class::CommitUnknown,
        // `transaction_timeout`: the next attempt would take as long.
        "25P04" => Class::Fatal,
        code if ["0A", "22", "28", "3D", "42"].iter().any(|class| code.starts_with(class)) => Class::Fatal,
        _ => Class::Connection,
    }
}

/// PgBouncer uses 08P01 for nearly everything, so the text decides.
fn class_of_protocol_violation(message: &str) -> Class {
    const CAPACITY: [&str; 2] = ["query_wait_timeout", "no more connections allowed"];
    const CONNECTION: [&str; 6] = [
        "server conn crashed",
        "server login has been failing",
        "server shutting down",
        "pooler is shutting down",
        "client_login_timeout",
        "query_timeout",
    ];
    let is_one_of = |texts: &[&str]| texts.iter().any(|text| message.contains(text));
    if is_one_of(&CAPACITY) {
        Class::Capacity
    } else if is_one_of(&CONNECTION) {
        Class::Connection
    } else {
        Class::Fatal
    }
}

#[cfg(test)]
mod tests;
