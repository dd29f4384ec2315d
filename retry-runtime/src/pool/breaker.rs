//! A circuit breaker around a pool.

use std::sync::Arc;
use std::time::Duration;

use crate::error::PoolError;
use crate::pool::protection::{Circuit, OPEN_FOR, Protection};
use crate::pool::session::{BoxFuture, Pool, Session};

/// A [`Pool`] with a circuit breaker: if many attempts fail, calls are refused for a while.
///
/// The circuit opens if at least half of the results of the last ten seconds are failures, and there are at least five. While
/// it is open, a call takes no connection and gets [`Error::CircuitOpen`](crate::Error::CircuitOpen) at once. After five seconds
/// one call is admitted as a trial. If the server answers it, the circuit closes. If it fails too, the circuit stays open
/// for another five seconds. If it is dropped, panics, or is not done within that time, another call is admitted.
///
/// The result of each attempt counts:
///
/// - A failure is a closed connection ([`Class::Connection`](crate::Class::Connection)), a lack of connections
///   ([`Class::Capacity`](crate::Class::Capacity)), an unknown commit, or a deadline that passed while the call waited for a
///   connection or for the server's reply.
/// - Every answer of the server counts as a success: a commit, a conflict, a violated constraint, an error of the body.
/// - A dropped call does not count, nor a deadline that passed while the body waited for something else, the failure of
///   another database, or a pool that is closed. They say nothing of the server.
///
/// So give the function a `deadline`: a call that waits forever has no result.
///
/// Clones share the circuit. Calls on a single connection and nested calls are not affected. [The
/// guide](crate::guide::overload) says when to use it.
///
/// ```
/// use retry_runtime::{Error, Pool, Transaction, WithBreaker, transactional};
///
/// #[transactional(deadline = "2s")]
/// async fn total(tx: &mut Transaction<'_>) -> Result<i64, Error> {
///     Ok(tx.query_one("SELECT sum(cents)::bigint FROM accounts", &[]).await?.get(0))
/// }
///
/// async fn handle(pool: &WithBreaker<impl Pool>) -> Result<String, u16> {
///     match total(pool).await {
///         Ok(total) => Ok(total.to_string()),
///         Err(Error::CircuitOpen { retry_after: _, .. }) => Err(503), // with the header Retry-After
///         Err(_) => Err(500),
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct WithBreaker<P> {
    pool: P,
    circuit: Arc<Circuit>,
}

impl<P> WithBreaker<P> {
    /// A breaker around `pool`.
    pub fn new(pool: P) -> Self {
        Self { pool, circuit: Arc::new(Circuit::new(OPEN_FOR)) }
    }

    /// Sets how long the circuit stays open before a trial, for this value and later clones of it. Five seconds by default,
    /// and a day at most.
    #[must_use]
    pub fn open_for(self, time: Duration) -> Self {
        Self { circuit: Arc::new(Circuit::new(time)), ..self }
    }
}

impl<P: Pool> Pool for WithBreaker<P> {
    fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, PoolError>> {
        self.pool.get()
    }

    fn id(&self) -> usize {
        self.pool.id()
    }

    fn protection(&self) -> Protection<'_> {
        self.pool.protection().with_circuit(&self.circuit)
    }
}
