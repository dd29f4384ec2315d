//! What a call gets its transaction from: a pool, a client, or an open transaction.

use std::fmt;
use std::time::Duration;

use crate::call::options::Options;
use crate::driver::Client;
use crate::policy::Isolation;
use crate::pool::{Connection, Pool, Session};
use crate::transaction::Transaction;

/// What a `#[transactional]` function gets its transaction from. Callers rarely name this type. It is made from
///
/// - a reference to a [`Pool`]: each attempt takes a session from it, and gives it back before the call sleeps;
/// - a `&mut` [`Client`](tokio_postgres::Client), or a `&mut` pooled connection (of deadpool-postgres or bb8-postgres) with
///   its statement cache: every attempt runs on it, it stays the caller's, and if it is closed the call ends;
/// - a `&mut` [`Transaction`]: the call becomes a savepoint of it, and the outermost call retries;
/// - a `&mut` [`tokio_postgres::Transaction`], or deadpool-postgres's: the call becomes a savepoint of it, and is not retried,
///   because other code began the transaction. See [nested calls](crate::guide::options#nested-calls).
///
/// Your own type that holds a pool can be passed as well:
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
/// If a call that is not nested finds that other code left a transaction open on its connection, it rolls that transaction
/// back, emits a warning event, and begins its own.
///
/// # Options of one call
/// The options in the attribute are the function's defaults. A call sets its own with the methods below:
///
/// ```
/// use std::time::Duration;
///
/// use retry_runtime::{Error, Pool, Source, Transaction, transactional};
///
/// #[transactional(retries = 5)]
/// async fn delete_expired(tx: &mut Transaction<'_>) -> Result<u64, Error> {
///     Ok(tx.execute("DELETE FROM sessions WHERE expires < now()", &[]).await?)
/// }
///
/// # async fn call(pool: impl Pool) -> Result<(), Error> {
/// let source = Source::from(&pool).retries(0).deadline(Duration::from_secs(2)).named("clean_up");
/// delete_expired(source).await?;
/// # Ok(())
/// # }
/// ```
///
/// Only the outermost call retries. So in a nested call only [`named`](Self::named) and [`isolation`](Self::isolation) have
/// an effect.
pub struct Source<'a> {
    pub(crate) kind: Kind<'a>,
    pub(crate) options: Option<Box<Options>>,
}

impl<'a> Source<'a> {
    fn new(kind: Kind<'a>) -> Self {
        Self { kind, options: None }
    }

    /// A source for a call that ends before this one is used again.
    ///
    /// ```
    /// use retry_runtime::{Error, Source, Transaction, transactional};
    ///
    /// #[transactional]
    /// async fn debit(tx: &mut Transaction<'_>, id: i64) -> Result<u64, Error> {
    ///     Ok(tx.execute("UPDATE accounts SET balance = balance - 1 WHERE id = $1", &[&id]).await?)
    /// }
    ///
    /// async fn debit_both(source: impl Into<Source<'_>>) -> Result<u64, Error> {
    ///     let mut source = source.into();
    ///     Ok(debit(source.reborrow(), 1).await? + debit(source, 2).await?)
    /// }
    /// ```
    #[must_use]
    pub fn reborrow(&mut self) -> Source<'_> {
        Source { kind: self.kind, options: self.options.clone() }
    }

    /// Sets `retries` for the call: how often it is retried after transient failures.
    #[must_use]
    pub fn retries(self, retries: u32) -> Self {
        self.with(|options| options.retries = Some(retries))
    }

    /// Sets `retry_for` for the call: for how long it is retried after transient failures, beyond `retries`.
    #[must_use]
    pub fn retry_for(self, time: Duration) -> Self {
        self.with(|options| options.retry_for = Some(time))
    }

    /// Sets `deadlock_retries` for the call: how often it is retried after conflicts.
    #[must_use]
    pub fn deadlock_retries(self, retries: u32) -> Self {
        self.with(|options| options.deadlock_retries = Some(retries))
    }

    /// Sets `deadline` for the call: its wall-clock limit, from the call on. The deadline of
    /// [`with_deadline`](crate::with_deadline) around the call still counts if it is earlier.
    #[must_use]
    pub fn deadline(self, limit: Duration) -> Self {
        self.with(|options| options.deadline = Some(limit))
    }

    /// Sets `isolation` for the call. If the function's own level is stronger, that one remains.
    #[must_use]
    pub fn isolation(self, level: Isolation) -> Self {
        self.with(|options| options.isolation = Some(level))
    }

    /// Sets `name` for the call: the function's name in events and errors.
    #[must_use]
    pub fn named(self, name: &'static str) -> Self {
        self.with(|options| options.name = Some(name))
    }

    fn with(mut self, set: impl FnOnce(&mut Options)) -> Self {
        set(self.options.get_or_insert_default());
        self
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Kind<'a> {
    Pool(&'a dyn Pool),
    /// The caller's own connection. With the session that has its statement cache, if there is one.
    Client(&'a Client, Option<&'a dyn Session>),
    /// An open transaction of the driver: other code began it, and ends it.
    Driver(&'a Client),
    Nested(&'a Transaction<'a>),
}

impl Kind<'_> {
    /// Whether the call becomes a savepoint of an open transaction.
    pub(crate) fn is_savepoint(self) -> bool {
        matches!(self, Kind::Driver(_) | Kind::Nested(_))
    }
}

/// What a [`Source`] is made from. A trait of our own, because `From`'s error message cannot be customised.
#[diagnostic::on_unimplemented(
    message = "no transaction can begin on `{T}`",
    label = "pass a pool as `&pool`, a client or a pool's connection as `&mut client`, an open transaction as `&mut *tx`",
    note = "the pools of deadpool-postgres and bb8-postgres need the features `deadpool` and `bb8` of retry-runtime"
)]
pub trait MadeFrom<T> {
    /// Makes the source.
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
        Self::new(Kind::Pool(pool))
    }
}

#[diagnostic::do_not_recommend]
impl<'a, C: Connection> MadeFrom<&'a mut C> for Source<'a> {
    fn made_from(connection: &'a mut C) -> Self {
        let client = connection.client();
        Self::new(if C::IN_TRANSACTION { Kind::Driver(client) } else { Kind::Client(client, connection.session()) })
    }
}

#[diagnostic::do_not_recommend]
impl<'a> MadeFrom<&'a mut Transaction<'_>> for Source<'a> {
    fn made_from(tx: &'a mut Transaction<'_>) -> Self {
        Self::new(Kind::Nested(tx))
    }
}

impl fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Pool(_) => "Source::Pool",
            Kind::Client(..) => "Source::Client",
            Kind::Driver(_) => "Source::DriverTransaction",
            Kind::Nested(_) => "Source::Transaction",
        })
    }
}
