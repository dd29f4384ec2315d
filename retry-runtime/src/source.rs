//! Where a transaction can begin: a pool, a client, or a transaction that is already open.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tokio_postgres::{Client, Statement};

use crate::error::Error;
use crate::handle::Handle;
use crate::transaction::Transaction;

/// A boxed future, as [`Pool`] and [`Session`] return them.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where a `#[transactional]` function gets its transaction from. Callers rarely name it: it is made from
///
/// - a reference to a [`Pool`]: each attempt takes a session from it, and gives it back before it sleeps;
/// - a `&mut` [`Client`], or `&mut` a pool's connection (of deadpool-postgres or bb8-postgres), with its statement cache:
///   every attempt runs on it, it stays the caller's, and a lost connection ends the call;
/// - a `&mut` [`Transaction`]: the call becomes a savepoint of it, and the outermost call does the retrying.
///
/// A type of one's own that holds a pool can be passed as well:
///
/// ```
/// use retry_runtime::{Pool, Source};
///
/// struct App<P> {
///     pool: P,
/// }
///
/// impl<'a, P: Pool> From<&'a App<P>> for Source<'a> {
///     fn from(app: &'a App<P>) -> Self {
///         Source::from(&app.pool)
///     }
/// }
/// ```
///
/// Where a call that is not nested finds its connection inside a transaction that somebody left open, that transaction
/// is rolled back and the call's own begun, with a warning event.
pub struct Source<'a>(pub(crate) Kind<'a>);

pub(crate) enum Kind<'a> {
    Pool(&'a dyn Pool),
    /// The caller's own. With the session that has its statement cache, if there is one.
    Client(&'a Client, Option<&'a dyn Session>),
    Nested(&'a Handle<'a>),
}

/// A pool of connections. Implemented for deadpool-postgres (feature `deadpool`) and bb8-postgres (feature `bb8`).
///
/// To use another pool, wrap it and hand out [`Session`]s:
///
/// ```
/// use retry_runtime::{BoxFuture, Error, Pool, Session};
/// use tokio_postgres::{Client, NoTls};
///
/// /// Opens a connection for every attempt.
/// struct Connect(tokio_postgres::Config);
/// struct Connected(Client);
///
/// impl Pool for Connect {
///     fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, Error>> {
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
    message = "`{Self}` is no pool of connections",
    note = "the pools of deadpool-postgres and bb8-postgres need the features `deadpool` and `bb8` of retry-runtime"
)]
pub trait Pool: Send + Sync {
    /// Takes a session out of the pool. Dropping the future takes none.
    ///
    /// # Errors
    /// [`Error::Postgres`] where the server refused the connection or could not be reached: its class decides.
    /// [`Error::Pool`] for the pool's own failures: retried where the source is a timeout (of a known pool, or
    /// [`tokio::time::error::Elapsed`]), final otherwise.
    fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, Error>>;

    /// Tells pools apart: clones of one pool have the same. What is learned of a function's calls, and the queues that
    /// they wait in, belong to the function and the pool.
    ///
    /// The default is the address of the value, so that clones count as several pools: pass references to one.
    fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

/// A connection on loan from a [`Pool`]. Dropping it gives it back.
pub trait Session: Send + Sync + 'static {
    /// The connection.
    fn client(&self) -> &Client;

    /// Closes the connection instead of giving it back.
    fn discard(self: Box<Self>);

    /// Prepares a statement, or takes it from the pool's cache. The default has no cache.
    fn prepare_cached<'a>(&'a self, sql: &'a str) -> BoxFuture<'a, Result<Statement, tokio_postgres::Error>> {
        Box::pin(self.client().prepare(sql))
    }

    /// Asks the server to cancel what the connection is running. The future ends once the server has acted on it.
    ///
    /// `None`, the default: there is no safe way to. [`WithCancel`](crate::WithCancel) adds one to any pool.
    fn cancel(&self) -> Option<BoxFuture<'static, io::Result<()>>> {
        None
    }

    /// Forgets what [`Session::prepare_cached`] has cached. The default does nothing.
    fn clear_statement_cache(&self) {}
}

impl<P: Pool + ?Sized> Pool for &P {
    fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, Error>> {
        (**self).get()
    }

    fn id(&self) -> usize {
        (**self).id()
    }
}

impl<P: Pool + ?Sized> Pool for Arc<P> {
    fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, Error>> {
        (**self).get()
    }

    fn id(&self) -> usize {
        (**self).id()
    }
}

/// What a [`Source`] is made from. A trait of our own, as what rustc says of [`From`] is not ours to word.
#[diagnostic::on_unimplemented(
    message = "no transaction can begin on `{T}`",
    label = "pass a pool as `&pool`, a client or a pool's connection as `&mut client`, an open transaction as `&mut *tx`",
    note = "the pools of deadpool-postgres and bb8-postgres need the features `deadpool` and `bb8` of retry-runtime"
)]
pub trait MadeFrom<T> {
    /// Makes it.
    fn made_from(value: T) -> Self;
}

impl<'a, T> From<T> for Source<'a>
where
    Source<'a>: MadeFrom<T>,
{
    fn from(value: T) -> Self {
        Self::made_from(value)
    }
}

#[diagnostic::do_not_recommend]
impl<'a, P: Pool> MadeFrom<&'a P> for Source<'a> {
    fn made_from(pool: &'a P) -> Self {
        Self(Kind::Pool(pool))
    }
}

#[diagnostic::do_not_recommend]
impl<'a> MadeFrom<&'a mut Client> for Source<'a> {
    fn made_from(client: &'a mut Client) -> Self {
        Self(Kind::Client(client, None))
    }
}

#[diagnostic::do_not_recommend]
impl<'a> MadeFrom<&'a mut Transaction<'_>> for Source<'a> {
    fn made_from(tx: &'a mut Transaction<'_>) -> Self {
        Self(Kind::Nested(&tx.handle))
    }
}

impl fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Pool(_) => "Source::Pool",
            Kind::Client(..) => "Source::Client",
            Kind::Nested(_) => "Source::Transaction",
        })
    }
}
