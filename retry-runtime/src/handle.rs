//! What a transaction and its savepoints share: the connection, the attempt, and the statements that end them.

use std::borrow::Cow;
use std::pin::pin;
use std::task::{Context, Waker};

use tokio_postgres::{Client, Error as PgError};

use crate::classify::Failure;
use crate::deadline::Deadline;
use crate::run::Site;
use crate::source::Session;
use crate::state::State;

/// An open transaction (depth 0) or savepoint, by reference.
#[derive(Clone, Copy)]
pub(crate) struct Handle<'a> {
    pub(crate) client: &'a Client,
    /// The pool's session behind `client`, where there is one.
    pub(crate) session: Option<&'a dyn Session>,
    pub(crate) state: &'a State,
    /// The function that began the transaction.
    pub(crate) site: &'static Site,
    pub(crate) deadline: Deadline,
    pub(crate) attempt: u32,
    pub(crate) depth: u32,
}

impl Handle<'_> {
    /// Rolls back, and says whether the server confirmed it.
    pub(crate) async fn rollback(&self) -> Result<(), PgError> {
        let sql = self.rollback_sql();
        for _ in 0..2 {
            match self.client.batch_execute(&sql).await {
                // A late cancel request can hit the ROLLBACK itself, and then the transaction is still open.
                Err(error) if Failure::from_driver(&error).is_canceled() => {}
                result => return result,
            }
        }
        self.client.batch_execute(&sql).await
    }

    /// Sends the rollback and waits for nothing: a future of tokio-postgres sends its message when first polled.
    pub(crate) fn queue_rollback(&self) {
        let sql = self.rollback_sql();
        let rollback = pin!(self.client.batch_execute(&sql));
        let _ = rollback.poll(&mut Context::from_waker(Waker::noop()));
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
