//! What a transaction and its savepoints share: the connection, the attempt, and the statements that end them.

use std::borrow::Cow;
use std::pin::pin;
use std::task::{Context, Waker};

use tokio_postgres::{Client, Error as PgError};

use crate::classify::Failure;
use crate::deadline::Deadline;
use crate::run::Site;
use crate::source::Session;
use crate::state::{State, Unseen};

/// An open transaction (depth 0) or savepoint, by reference.
#[derive(Clone, Copy)]
pub(crate) struct Handle<'a> {
    pub(crate) client: &'a Client,
    /// The session behind `client`, where there is one.
    pub(crate) session: Option<&'a dyn Session>,
    /// Whether the call has taken the session out of a pool, and not the caller.
    pub(crate) pooled: bool,
    pub(crate) state: &'a State,
    /// The function that began the transaction.
    pub(crate) site: &'static Site,
    /// The name of the function whose body has this handle.
    pub(crate) function: &'static str,
    /// The id of the call's pool, if it has one.
    pub(crate) pool: Option<usize>,
    pub(crate) deadline: Deadline,
    pub(crate) attempt: u32,
    /// Whether it is unknown if an earlier attempt was committed.
    pub(crate) after_unknown: bool,
    pub(crate) depth: u32,
}

impl Handle<'_> {
    /// Sends a statement of the runtime's own, watched as those of the body are. It leaves at the first poll.
    pub(crate) async fn execute(&self, sql: &str) -> Result<(), PgError> {
        let mut ticket = self.state.send(Unseen::default());
        let result = self.client.batch_execute(sql).await;
        ticket.answered(result.as_ref().err());
        result
    }

    /// Rolls back, and says whether the server confirmed it.
    pub(crate) async fn rollback(&self) -> Result<(), PgError> {
        let sql = self.rollback_sql();
        // No COMMIT follows a ROLLBACK of the whole transaction, so only one to a savepoint is watched.
        let mut ticket = (self.depth > 0).then(|| self.state.send(Unseen::default()));
        let mut result = self.client.batch_execute(&sql).await;
        for _ in 0..2 {
            match &result {
                // A late cancel request can hit the ROLLBACK itself, and then the transaction is still open.
                Err(error) if Failure::from_driver(error).is_canceled() => {}
                _ => break,
            }
            result = self.client.batch_execute(&sql).await;
        }
        if let Some(ticket) = &mut ticket {
            ticket.answered(result.as_ref().err());
        }
        result
    }

    /// Sends the rollback and waits for nothing: a future of tokio-postgres sends its message when first polled.
    pub(crate) fn queue_rollback(&self) {
        let _ = pin!(self.rollback()).poll(&mut Context::from_waker(Waker::noop()));
    }

    fn rollback_sql(&self) -> Cow<'static, str> {
        match self.depth {
            0 => Cow::Borrowed("ROLLBACK"),
            // `ROLLBACK TO` keeps the savepoint, and thousands of open ones are slow.
            depth => Cow::Owned(format!("ROLLBACK TO {name}; RELEASE {name}", name = Savepoint(depth))),
        }
    }
}

/// The name of the savepoint at a depth.
pub(crate) struct Savepoint(pub(crate) u32);

impl std::fmt::Display for Savepoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "transactional_{}", self.0)
    }
}
