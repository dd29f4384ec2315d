//! A retry budget around a pool.

use std::sync::Arc;

use crate::error::PoolError;
use crate::pool::protection::{Budget, Protection};
use crate::pool::session::{BoxFuture, Pool, Session};

/// A [`Pool`] with a retry budget: if many calls fail, few of them are retried.
///
/// Each retry takes a token, and each commit adds a tenth of a token, up to three. At first there is one. So over time, at
/// most a tenth as many retries are made as transactions are committed. A call that finds no token gives up with its last
/// error, as if its `retries` were spent. The event "giving up" then has the reason "retry budget".
///
/// Retries after conflicts (those that `deadlock_retries` counts) and all others (those that `retries` counts) have tokens
/// of their own: an outage leaves the retries after conflicts as they are. Retries outside of both counts take no token.
///
/// Clones share the tokens. Calls on a single connection and nested calls are not affected. [The
/// guide](crate::guide::overload) says when to use it.
///
/// ```
/// use retry_runtime::{WithBreaker, WithBudget};
///
/// fn protect(pool: deadpool_postgres::Pool) -> WithBreaker<WithBudget<deadpool_postgres::Pool>> {
///     WithBreaker::new(WithBudget::new(pool))
/// }
/// ```
#[derive(Clone, Debug)]
pub struct WithBudget<P> {
    pool: P,
    budget: Arc<Budget>,
}

impl<P> WithBudget<P> {
    /// A retry budget around `pool`.
    pub fn new(pool: P) -> Self {
        Self { pool, budget: Arc::new(Budget::new()) }
    }

    /// Sets how many retries of each kind can be saved up, for this value and later clones of it. Three by default.
    ///
    /// A program with few processes can save up more. The retries that all processes have saved up can reach the server at
    /// the same time.
    #[must_use]
    pub fn cap(self, retries: u32) -> Self {
        Self { budget: Arc::new(Budget::with_cap(retries)), ..self }
    }
}

impl<P: Pool> Pool for WithBudget<P> {
    fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, PoolError>> {
        self.pool.get()
    }

    fn id(&self) -> usize {
        self.pool.id()
    }

    fn protection(&self) -> Protection<'_> {
        self.pool.protection().with_budget(&self.budget)
    }
}
