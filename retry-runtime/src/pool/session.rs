//! What a pool and its sessions have to do.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tokio_postgres::{Client, Error as PgError, Statement};

use crate::driver;
use crate::error::PoolError;
use crate::pool::protection::Protection;

/// A boxed future, as [`Pool`] and [`Session`] return them.
///
/// ```
/// use retry_runtime::BoxFuture;
///
/// fn answer() -> BoxFuture<'static, u8> {
///     Box::pin(async { 42 })
/// }
/// ```
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A connection pool. Implemented for deadpool-postgres (feature `deadpool`) and bb8-postgres (feature `bb8`).
///
/// To use another pool, wrap it and hand out [`Session`]s:
///
/// ```
/// use retry_runtime::{BoxFuture, Pool, PoolError, Session};
/// use tokio_postgres::{Client, NoTls};
///
/// /// Opens a connection for every attempt.
/// struct Connect(tokio_postgres::Config);
/// struct Connected(Client);
///
/// impl Pool for Connect {
///     fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, PoolError>> {
///         Box::pin(async {
///             let (client, connection) = self.0.connect(NoTls).await?;
///             tokio::spawn(connection);
///             Ok(Box::new(Connected(client)) as Box<dyn Session>)
///         })
///     }
/// }
///
/// impl Session for Connected {
///     fn client(&self) -> &Client {
///         &self.0
///     }
///     fn discard(self: Box<Self>) {}
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a connection pool",
    note = "the pools of deadpool-postgres and bb8-postgres need the features `deadpool` and `bb8` of retry-runtime"
)]
pub trait Pool: Send + Sync {
    /// Takes a session out of the pool.
    ///
    /// # Errors
    /// The class of the [`PoolError`] decides whether the call is retried.
    ///
    /// # Cancel safety
    /// If the future is dropped, it must not have taken a session.
    fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, PoolError>>;

    /// Tells pools apart: clones of one pool return the same number. Queues, and what is learned from a function's
    /// deadlocks, belong to the function and the pool.
    ///
    /// The default is the address of the value, so clones count as several pools: pass references to one.
    fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// The layers that protect the pool and its server from overload. A pool that wraps another one passes on those of the
    /// inner pool.
    ///
    /// By default there are none. [`WithBreaker`](crate::WithBreaker) adds a circuit breaker to any pool, and
    /// [`WithBudget`](crate::WithBudget) a retry budget.
    fn protection(&self) -> Protection<'_> {
        Protection::default()
    }
}

/// A connection on loan from a [`Pool`]. Dropping it gives it back. See [`Pool`] for an example.
pub trait Session: Send + Sync + 'static {
    /// The connection.
    fn client(&self) -> &Client;

    /// Closes the connection instead of giving it back.
    fn discard(self: Box<Self>);

    /// Prepares a statement, or takes it from the pool's cache. The default has no cache.
    ///
    /// # Errors
    /// Those of [`Client::prepare`].
    fn prepare_cached<'a>(&'a self, sql: &'a str) -> BoxFuture<'a, Result<Statement, PgError>> {
        Box::pin(self.client().prepare(sql))
    }

    /// Asks the server to cancel what the connection is running. The future ends once the server has acted on it.
    ///
    /// `None`, the default: there is no safe way to. [`WithCancel`](crate::WithCancel) adds one to any pool.
    fn cancel(&self) -> Option<BoxFuture<'static, io::Result<()>>> {
        None
    }

    /// Whether [`Session::cancel`] returns a future.
    fn can_cancel(&self) -> bool {
        self.cancel().is_some()
    }

    /// Empties the cache of [`Session::prepare_cached`]. The default does nothing.
    fn clear_statement_cache(&self) {}
}

/// Implements [`Pool`] for a pointer to a pool.
macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<P: Pool + ?Sized> Pool for $pointer {
            fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, PoolError>> {
                (**self).get()
            }

            fn id(&self) -> usize {
                (**self).id()
            }

            fn protection(&self) -> Protection<'_> {
                (**self).protection()
            }
        }
    )*};
}

forward!(&P, Box<P>, Arc<P>);

/// A connection that a caller has: a client, a pool's connection with its statement cache, or the driver's transaction.
pub trait Connection {
    /// Whether it is the driver's transaction, which is open.
    const IN_TRANSACTION: bool = false;

    /// The client of the connection.
    fn client(&self) -> &Client;

    /// The session with the statement cache, if there is one.
    fn session(&self) -> Option<&dyn Session> {
        None
    }
}

#[diagnostic::do_not_recommend]
impl Connection for Client {
    fn client(&self) -> &Client {
        self
    }
}

#[diagnostic::do_not_recommend]
impl Connection for tokio_postgres::Transaction<'_> {
    const IN_TRANSACTION: bool = true;

    fn client(&self) -> &Client {
        self.client()
    }
}

impl PoolError {
    /// The server refused the connection, or could not be reached. The class is that of the error.
    #[must_use]
    pub fn refused(error: PgError) -> Self {
        Self::new(driver::failure_of(&error).class, error)
    }
}

impl From<PgError> for PoolError {
    fn from(error: PgError) -> Self {
        Self::refused(error)
    }
}
