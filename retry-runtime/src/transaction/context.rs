//! What a transaction and its savepoints share: the connection, the attempt, and the statements that end them.

use std::borrow::Cow;
use std::fmt;
use std::pin::pin;
use std::task::{Context, Waker};

use tokio::sync::Notify;

use crate::classify::Failure;
use crate::driver::{self, Client, DriverError};
use crate::events::AttemptId;
use crate::events::spans::SpanRef;
use crate::policy::Policy;
use crate::pool::Session;
use crate::transaction::deadline::Deadline;
use crate::transaction::status::{AttemptStatus, BlindSpots, StatementGuard};

/// An open transaction (depth 0) or savepoint, by reference.
#[derive(Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the call")]
pub(crate) struct TxContext<'a> {
    pub(crate) client: &'a Client,
    /// The session behind `client`, if there is one.
    pub(crate) session: Option<&'a dyn Session>,
    /// Whether the call took the session out of a pool. Otherwise the connection is the caller's.
    pub(crate) pooled: bool,
    pub(crate) status: &'a AttemptStatus,
    /// Whether the transaction is the driver's: other code began it, and the outermost call is a savepoint of it.
    pub(crate) in_driver_transaction: bool,
    /// What the function asks for that began the transaction.
    pub(crate) policy: &'a Policy,
    /// That function, and which attempt this is.
    pub(crate) id: AttemptId,
    /// The attempt's span, for the outermost body. A nested body is polled inside it.
    pub(crate) span: SpanRef<'a>,
    /// The function whose body has this context. It differs from that of `id` in a nested call.
    pub(crate) function: &'static str,
    /// The id of the call's pool, if it has one.
    pub(crate) pool: Option<usize>,
    pub(crate) deadline: Deadline,
    /// Tells the attempt that its function's calls begin to run one at a time, if it is not yet one of these.
    pub(crate) closing: Option<&'a Notify>,
    /// Whether calls in queues may wait for this one.
    pub(crate) queued: bool,
    /// Whether an earlier attempt may be committed.
    pub(crate) after_unknown: bool,
    pub(crate) depth: u32,
}

impl TxContext<'_> {
    /// Sends a statement of the runtime's own, watched like those of the body. It leaves at the first poll.
    pub(crate) async fn execute(&self, sql: &str) -> Result<(), DriverError> {
        self.run(self.status.send(BlindSpots::default()), sql).await
    }

    /// Like [`TxContext::execute`], with the guard of a statement that may leave.
    pub(crate) async fn run(&self, mut statement: StatementGuard<'_>, sql: &str) -> Result<(), DriverError> {
        let result = driver::run(self.client, sql).await;
        statement.answered(result.as_ref().err());
        result
    }

    /// Whether the server has ended a statement at the deadline, faster than this side.
    pub(crate) fn was_canceled_at_deadline(&self, failure: &Failure) -> bool {
        failure.is_canceled() && self.deadline.has_passed()
    }

    /// Rolls back. `Ok`: the server has confirmed it.
    pub(crate) async fn roll_back(&self) -> Result<(), DriverError> {
        self.roll_back_with(&self.rollback_sql()).await
    }

    /// Like [`TxContext::roll_back`], with this SQL.
    pub(crate) async fn roll_back_with(&self, sql: &str) -> Result<(), DriverError> {
        // No COMMIT follows a ROLLBACK of the whole transaction, so only one to a savepoint is watched.
        let mut statement = (self.depth > 0).then(|| self.status.send(BlindSpots::default()));
        let mut result = driver::run(self.client, sql).await;
        for _ in 0..2 {
            match &result {
                // A late cancel request can hit the ROLLBACK itself. The transaction is still open then.
                Err(error) if driver::failure_of(error).is_canceled() => {}
                _ => break,
            }
            result = driver::run(self.client, sql).await;
        }
        if let Some(statement) = &mut statement {
            statement.answered(result.as_ref().err());
        }
        result
    }

    /// Sends a rollback without waiting for it: the driver sends its message when the future is first polled.
    pub(crate) fn queue_rollback(&self, sql: &str) {
        let _ = pin!(self.roll_back_with(sql)).poll(&mut Context::from_waker(Waker::noop()));
    }

    /// What rolls back this transaction, or the savepoint of a nested call.
    pub(crate) fn rollback_sql(&self) -> Cow<'static, str> {
        match self.depth {
            0 => Cow::Borrowed("ROLLBACK"),
            depth => Cow::Owned(rollback_sql(&SavepointName(depth))),
        }
    }
}

/// What rolls back a savepoint. `ROLLBACK TO` keeps it, and thousands of open savepoints are slow.
pub(crate) fn rollback_sql(savepoint: &impl fmt::Display) -> String {
    format!("ROLLBACK TO {savepoint}; RELEASE {savepoint}")
}

/// The name of a nested call's savepoint, by its depth.
pub(crate) struct SavepointName(pub(crate) u32);

impl fmt::Display for SavepointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "transactional_{}", self.0)
    }
}
