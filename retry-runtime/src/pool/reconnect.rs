//! A pool that opens a connection for every attempt.

use std::fmt;
use std::sync::Arc;

use tokio_postgres::{Client, Error as PgError};

use crate::error::PoolError;
use crate::pool::session::{BoxFuture, Pool, Session};

/// A [`Pool`] that opens a connection for every attempt, and closes it afterwards.
///
/// For programs without a pool that need more than a single `&mut Client` can do: survive a closed connection, and look
/// up the outcome of a commit.
///
/// ```no_run
/// use retry_runtime::Reconnect;
/// use tokio_postgres::NoTls;
///
/// let source = Reconnect::new(|| async {
///     let (client, connection) = tokio_postgres::connect("host=localhost user=bank", NoTls).await?;
///     tokio::spawn(connection);
///     Ok(client)
/// });
/// # async fn transfer(source: impl Into<retry_runtime::Source<'_>>) {}
/// # async {
/// transfer(&source).await;
/// # };
/// ```
#[derive(Clone)]
pub struct Reconnect<F> {
    connect: F,
    /// An address that clones share.
    id: Arc<()>,
}

impl<F, C> Reconnect<F>
where
    F: Fn() -> C + Send + Sync,
    C: Future<Output = Result<Client, PgError>> + Send,
{
    /// Connects with `connect`, which must also spawn the task that drives the connection.
    pub fn new(connect: F) -> Self {
        Self { connect, id: Arc::new(()) }
    }
}

impl<F, C> Pool for Reconnect<F>
where
    F: Fn() -> C + Send + Sync,
    C: Future<Output = Result<Client, PgError>> + Send,
{
    fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, PoolError>> {
        Box::pin(async { Ok(Box::new(Connected((self.connect)().await?)) as Box<dyn Session>) })
    }

    fn id(&self) -> usize {
        Arc::as_ptr(&self.id).addr()
    }
}

struct Connected(Client);

impl Session for Connected {
    fn client(&self) -> &Client {
        &self.0
    }

    fn discard(self: Box<Self>) {}
}

impl<F> fmt::Debug for Reconnect<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reconnect")
    }
}
