//! Faults, and how the server raises them.

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
    /// The server ends the session, and with it the transaction.
    ConnectionClosed,
    /// `COMMIT` gets no reply, because the connection closes. It always happens at `COMMIT`.
    CommitUnknown {
        /// Whether the transaction is committed.
        committed: bool,
    },
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
    /// All faults.
    pub(crate) const ALL: [Self; 6] = [
        Self::SerializationFailure,
        Self::Deadlock,
        Self::LockTimeout,
        Self::ConnectionClosed,
        Self::CommitUnknown { committed: false },
        Self::CommitUnknown { committed: true },
    ];

    /// Whether it always happens at `COMMIT`.
    pub(crate) const fn is_of_commit(self) -> bool {
        matches!(self, Self::CommitUnknown { .. })
    }

    /// Its name in reports.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::SerializationFailure => "serialization failure",
            Self::Deadlock => "deadlock",
            Self::LockTimeout => "lock timeout",
            Self::ConnectionClosed => "connection closed",
            Self::CommitUnknown { committed: true } => "commit unknown, committed",
            Self::CommitUnknown { committed: false } => "commit unknown, not committed",
        }
    }

    /// What the server fails at.
    pub(crate) fn sql(self) -> &'static str {
        match self {
            Self::SerializationFailure => raise!("serialization_failure", "could not serialize access"),
            Self::Deadlock => raise!("deadlock_detected", "deadlock detected"),
            Self::LockTimeout => raise!("lock_not_available", "canceling statement due to lock timeout"),
            Self::ConnectionClosed | Self::CommitUnknown { .. } => TERMINATE,
        }
    }
}

/// Ends the session. Returns the error of a statement that is sent afterwards.
pub(crate) async fn close(client: &Client) -> Option<DriverError> {
    let _ = driver::run(client, TERMINATE).await;
    driver::run(client, "").await.err()
}
