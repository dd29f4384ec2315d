//! What a call gets its transaction from: a pool, a client, or an open transaction.

use std::fmt;

use crate::driver::Client;
use crate::pool::{Connection, Pool, Session};
use crate::transaction::Transaction;
use crate::transaction::context::TxContext;

/// What a `#[transactional]` function gets its transaction from. Callers rarely name this type. It is made from
///
/// - a reference to a [`Pool`]: each attempt takes a session from it, and gives it back before the call sleeps;
/// - a `&mut` [`Client`](tokio_postgres::Client), or a `&mut` pooled connection (of deadpool-postgres or bb8-postgres) with
///   its statement cache: every attempt runs on it, it stays the caller's, and if it is closed the call ends;
/// - a `&mut` [`Transaction`]: the call becomes a savepoint of it, and the outermost call retries.
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
pub struct Source<'a>(pub(crate) Kind<'a>);

impl Source<'_> {
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
        Source(match self.0 {
            Kind::Pool(pool) => Kind::Pool(pool),
            Kind::Client(client, session) => Kind::Client(client, session),
            Kind::Nested(context) => Kind::Nested(context),
        })
    }
}

pub(crate) enum Kind<'a> {
    Pool(&'a dyn Pool),
    /// The caller's own connection. With the session that has its statement cache, if there is one.
    Client(&'a Client, Option<&'a dyn Session>),
    Nested(&'a TxContext<'a>),
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
        Self(Kind::Pool(pool))
    }
}

#[diagnostic::do_not_recommend]
impl<'a, C: Connection> MadeFrom<&'a mut C> for Source<'a> {
    fn made_from(connection: &'a mut C) -> Self {
        Self(Kind::Client(connection.client(), connection.session()))
    }
}

#[diagnostic::do_not_recommend]
impl<'a> MadeFrom<&'a mut Transaction<'_>> for Source<'a> {
    fn made_from(tx: &'a mut Transaction<'_>) -> Self {
        Self(Kind::Nested(&tx.context))
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
