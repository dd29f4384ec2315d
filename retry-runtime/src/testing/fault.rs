//! Faults, and how the server raises them.

use std::borrow::Cow;
use std::time::Duration;

use crate::driver::{self, Client, DriverError};

/// What goes wrong in an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Fault {
    /// A serialization failure (40001).
    SerializationFailure,
    /// A deadlock (40P01).
    Deadlock,
    /// A lock that is not available in time (55P03).
    LockTimeout,
    /// The connection closes while no statement runs, and the server rolls back. The next statement fails.
    ConnectionClosed,
    /// The server ends the session while it runs a statement (57P01), and rolls back.
    SessionTerminated,
    /// `COMMIT` gets no reply, because the connection closes. It always happens at `COMMIT`.
    CommitUnknown {
        /// Whether the transaction is committed.
        committed: bool,
    },
    /// The pool has no free connection in time. The call gets the error of a pool's timeout in place of a connection. If an
    /// attempt keeps the connection of the one before, it does not ask the pool, and there is no fault.
    PoolExhausted,
    /// The server is slow: it waits this long before the statement or `COMMIT`.
    Slow(Duration),
}

/// When a fault comes in an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Before `BEGIN`.
    Begin,
    /// In place of this statement, or before it: 1 for the first.
    Statement(u32),
    /// Just before `COMMIT`, or at `COMMIT`.
    Commit,
}

/// Ends the session.
const TERMINATE: &str = "SELECT pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid())";

/// A statement that raises a condition of PL/pgSQL.
macro_rules! raise {
    ($condition:literal, $message:literal) => {
        concat!(
            "DO LANGUAGE plpgsql $$BEGIN RAISE ",
            $condition,
            " USING MESSAGE = '",
            $message,
            " (a fault of retry_runtime::testing)'; END$$"
        )
    };
}

impl Fault {
    /// All faults that make an attempt fail.
    pub(crate) const FAILURES: [Self; 8] = [
        Self::SerializationFailure,
        Self::Deadlock,
        Self::LockTimeout,
        Self::ConnectionClosed,
        Self::SessionTerminated,
        Self::CommitUnknown { committed: false },
        Self::CommitUnknown { committed: true },
        Self::PoolExhausted,
    ];

    /// When it comes if the plan does not say so.
    pub(crate) const fn default_place(self) -> Place {
        match self {
            Self::PoolExhausted => Place::Begin,
            Self::SessionTerminated => Place::Statement(1),
            _ => Place::Commit,
        }
    }

    /// Whether it can come there.
    pub(crate) const fn fits(self, place: Place) -> bool {
        match self {
            Self::ConnectionClosed => true,
            Self::CommitUnknown { .. } => matches!(place, Place::Commit),
            Self::PoolExhausted => matches!(place, Place::Begin),
            Self::SessionTerminated => matches!(place, Place::Statement(_)),
            _ => matches!(place, Place::Statement(_) | Place::Commit),
        }
    }

    /// Its name in reports.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::SerializationFailure => "serialization failure",
            Self::Deadlock => "deadlock",
            Self::LockTimeout => "lock timeout",
            Self::ConnectionClosed => "connection closed",
            Self::SessionTerminated => "session terminated",
            Self::CommitUnknown { committed: true } => "commit unknown, committed",
            Self::CommitUnknown { committed: false } => "commit unknown, not committed",
            Self::PoolExhausted => "pool exhausted",
            Self::Slow(_) => "slow",
        }
    }

    /// What the server fails at, or waits in.
    pub(crate) fn sql(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::SerializationFailure => raise!("serialization_failure", "could not serialize access"),
            Self::Deadlock => raise!("deadlock_detected", "deadlock detected"),
            Self::LockTimeout => raise!("lock_not_available", "canceling statement due to lock timeout"),
            Self::Slow(time) => return format!("SELECT pg_catalog.pg_sleep({})", time.as_secs_f64()).into(),
            Self::ConnectionClosed | Self::SessionTerminated | Self::CommitUnknown { .. } => TERMINATE,
            // It does not come from the server.
            Self::PoolExhausted => "",
        })
    }
}

/// Ends the session. Returns the error of a statement that is sent afterwards.
pub(crate) async fn close(client: &Client) -> Option<DriverError> {
    let _ = driver::run(client, TERMINATE).await;
    driver::run(client, "").await.err()
}
