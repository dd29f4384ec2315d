//! What the body holds: a transaction whose every statement is watched.

mod begin_reply;
pub(crate) mod context;
pub(crate) mod deadline;
mod forbidden;
pub(crate) mod hooks;
pub(crate) mod status;
mod stream;
mod watch;

use std::fmt;
use std::ops::Deref;

use bytes::Buf;
use tokio_postgres::types::{BorrowToSql, FromSqlOwned, ToSql, Type};
use tokio_postgres::{
    CancelToken, Client, CopyInSink, CopyOutStream, Error, Row, RowStream, SimpleQueryMessage, SimpleQueryStream,
    Statement, ToStatement,
};

pub use self::stream::Watched;
use crate::transaction::context::TxContext;
use crate::transaction::hooks::When;
use crate::transaction::status::{BlindSpots, SavepointMark};
use crate::transaction::watch::{Watch, done, done_or_nothing, noted, prepared, stream};

type Params<'p> = [&'p (dyn ToSql + Sync)];
type TypedParams<'p> = [(&'p (dyn ToSql + Sync), Type)];

/// An open transaction, or a savepoint of one: the first parameter of a `#[transactional]` function.
///
/// It has the query methods of [`tokio_postgres::Transaction`], except portals. It dereferences to
/// [`tokio_postgres::Client`], so that `&**tx` fits helpers that take `&impl GenericClient`. The retry loop sends
/// `BEGIN`, `COMMIT`, `ROLLBACK` and savepoints: the body sends none of them itself.
///
/// Each method notes how its statement ended. The retry loop decides by the first failure, whatever the body does with
/// the error.
///
/// ```
/// use retry_runtime::{Error, Transaction, transactional};
///
/// #[transactional]
/// async fn rename(tx: &mut Transaction<'_>, id: i64, name: &str) -> Result<u64, Error> {
///     Ok(tx.execute("UPDATE accounts SET name = $1 WHERE id = $2", &[&name, &id]).await?)
/// }
/// ```
///
/// # Errors
/// Each method returns the errors of the method of [`Client`] with its name.
///
/// # Cancel safety
/// A future of these methods may be dropped at any time. The server still runs a statement that was already sent.
/// A transaction that is dropped before its outcome is known is rolled back: `ROLLBACK` is sent at once, before
/// anything else on the connection.
pub struct Transaction<'a> {
    pub(crate) context: TxContext<'a>,
    /// What to restore, if this is a savepoint.
    pub(crate) savepoint: Option<SavepointMark>,
    /// Whether there is nothing left that its drop must roll back.
    pub(crate) ended: bool,
}

impl Transaction<'_> {
    /// Which attempt this is: 1 for the first.
    ///
    /// ```
    /// # use retry_runtime::Transaction;
    /// fn is_retry(tx: &Transaction<'_>) -> bool {
    ///     tx.attempt() > 1
    /// }
    /// ```
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.context.id.attempt
    }

    /// Defers `work` until the transaction is committed.
    ///
    /// It runs after the connection was given back and before the call returns. Hooks run in the order of registration.
    /// It is dropped without running if this attempt, or the savepoint that registered it, is rolled back, if the outcome
    /// of the commit is unknown, or if the caller drops the call.
    ///
    /// ```
    /// use retry_runtime::{Error, Transaction, transactional};
    ///
    /// #[transactional]
    /// async fn register(tx: &mut Transaction<'_>, address: &str) -> Result<(), Error> {
    ///     tx.execute("INSERT INTO users (address) VALUES ($1)", &[&address]).await?;
    ///     let address = address.to_owned();
    ///     tx.on_commit(async move { println!("welcome, {address}") });
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Panics
    /// A panic of `work` reaches the caller, after the other hooks have run. The transaction stays committed.
    pub fn on_commit(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.context.status.with_hooks(|hooks| hooks.add(When::Committed, work));
    }

    /// Defers `work` until this attempt, or the savepoint that registered it, is rolled back.
    ///
    /// It runs after every such attempt, when the connection was given back, and before the next attempt begins or the
    /// call returns. It is dropped without running if the outcome of the commit is unknown, or if the caller drops the
    /// call.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU32, Ordering};
    ///
    /// use retry_runtime::{Error, Transaction, transactional};
    ///
    /// #[transactional]
    /// async fn reserve(tx: &mut Transaction<'_>, free: &Arc<AtomicU32>) -> Result<(), Error> {
    ///     free.fetch_sub(1, Ordering::Relaxed);
    ///     let undo = free.clone();
    ///     tx.on_rollback(async move {
    ///         undo.fetch_add(1, Ordering::Relaxed);
    ///     });
    ///     tx.execute("INSERT INTO reservations DEFAULT VALUES", &[]).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Panics
    /// As for [`on_commit`](Self::on_commit).
    pub fn on_rollback(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.context.status.with_hooks(|hooks| hooks.add(When::RolledBack, work));
    }

    /// Prepares a statement, or takes it from the pool's statement cache if the pool has one.
    ///
    /// ```
    /// use retry_runtime::{Error, Transaction, transactional};
    ///
    /// #[transactional]
    /// async fn debit(tx: &mut Transaction<'_>, id: i64, cents: i64) -> Result<(), Error> {
    ///     let debit = tx.prepare_cached("UPDATE accounts SET balance = balance - $1 WHERE id = $2").await?;
    ///     tx.execute(&debit, &[&cents, &id]).await?;
    ///     Ok(())
    /// }
    /// ```
    pub async fn prepare_cached(&self, sql: &str) -> Result<Statement, Error> {
        match self.context.session {
            Some(session) => self.watch(session.prepare_cached(sql)).await.map(prepared),
            None => self.prepare(sql).await,
        }
    }

    /// Like [`Client::prepare`].
    pub async fn prepare(&self, query: &str) -> Result<Statement, Error> {
        self.watch(self.context.client.prepare(query)).await.map(prepared)
    }

    /// Like [`Client::prepare_typed`].
    pub async fn prepare_typed(&self, query: &str, parameter_types: &[Type]) -> Result<Statement, Error> {
        self.watch(self.context.client.prepare_typed(query, parameter_types)).await.map(prepared)
    }

    /// Like [`Client::query`].
    pub async fn query<T>(&self, statement: &T, params: &Params<'_>) -> Result<Vec<Row>, Error>
    where
        T: ?Sized + ToStatement,
    {
        self.watch_command(params.len(), self.context.client.query(statement, params)).await.map(done_or_nothing)
    }

    /// Like [`Client::query_scalar`].
    pub async fn query_scalar<R, T>(&self, statement: &T, params: &Params<'_>) -> Result<Vec<R>, Error>
    where
        R: FromSqlOwned,
        T: ?Sized + ToStatement + fmt::Debug,
    {
        self.watch(self.context.client.query_scalar(statement, params)).await.map(done)
    }

    /// Like [`Client::query_one`].
    pub async fn query_one<T>(&self, statement: &T, params: &Params<'_>) -> Result<Row, Error>
    where
        T: ?Sized + ToStatement,
    {
        self.watch(self.context.client.query_one(statement, params)).await.map(done)
    }

    /// Like [`Client::query_one_scalar`].
    pub async fn query_one_scalar<R, T>(&self, statement: &T, params: &Params<'_>) -> Result<R, Error>
    where
        R: FromSqlOwned,
        T: ?Sized + ToStatement + fmt::Debug,
    {
        self.watch(self.context.client.query_one_scalar(statement, params)).await.map(done)
    }

    /// Like [`Client::query_opt`].
    pub async fn query_opt<T>(&self, statement: &T, params: &Params<'_>) -> Result<Option<Row>, Error>
    where
        T: ?Sized + ToStatement,
    {
        self.watch_command(params.len(), self.context.client.query_opt(statement, params)).await.map(done_or_nothing)
    }

    /// Like [`Client::query_opt_scalar`].
    pub async fn query_opt_scalar<R, T>(&self, statement: &T, params: &Params<'_>) -> Result<Option<R>, Error>
    where
        R: FromSqlOwned,
        T: ?Sized + ToStatement + fmt::Debug,
    {
        self.watch(self.context.client.query_opt_scalar(statement, params)).await.map(done)
    }

    /// Like [`Client::query_raw`].
    pub async fn query_raw<T, P, I>(&self, statement: &T, params: I) -> Result<Watched<'_, RowStream>, Error>
    where
        T: ?Sized + ToStatement,
        P: BorrowToSql,
        I: IntoIterator<Item = P>,
        I::IntoIter: ExactSizeIterator,
    {
        self.watch(self.context.client.query_raw(statement, params)).await.map(stream)
    }

    /// Like [`Client::query_typed`].
    pub async fn query_typed(&self, query: &str, params: &TypedParams<'_>) -> Result<Vec<Row>, Error> {
        self.watch_typed(self.context.client.query_typed(query, params)).await.map(done_or_nothing)
    }

    /// Like [`Client::query_typed_one`].
    pub async fn query_typed_one(&self, query: &str, params: &TypedParams<'_>) -> Result<Row, Error> {
        self.watch_typed(self.context.client.query_typed_one(query, params)).await.map(done)
    }

    /// Like [`Client::query_typed_opt`].
    pub async fn query_typed_opt(&self, query: &str, params: &TypedParams<'_>) -> Result<Option<Row>, Error> {
        self.watch_typed(self.context.client.query_typed_opt(query, params)).await.map(done_or_nothing)
    }

    /// Like [`Client::query_typed_raw`].
    pub async fn query_typed_raw<P, I>(&self, query: &str, params: I) -> Result<Watched<'_, RowStream>, Error>
    where
        P: BorrowToSql,
        I: IntoIterator<Item = (P, Type)>,
    {
        self.watch_typed(self.context.client.query_typed_raw(query, params)).await.map(stream)
    }

    /// Like [`Client::execute`].
    pub async fn execute<T>(&self, statement: &T, params: &Params<'_>) -> Result<u64, Error>
    where
        T: ?Sized + ToStatement,
    {
        self.watch_command(params.len(), self.context.client.execute(statement, params)).await.map(done_or_nothing)
    }

    /// Like [`Client::execute_typed`].
    pub async fn execute_typed(&self, statement: &str, params: &TypedParams<'_>) -> Result<u64, Error> {
        let executing = self.context.client.execute_typed(statement, params);
        self.watch_command(params.len(), executing).await.map(done_or_nothing)
    }

    /// Like [`Client::execute_raw`].
    pub async fn execute_raw<T, P, I>(&self, statement: &T, params: I) -> Result<u64, Error>
    where
        T: ?Sized + ToStatement,
        P: BorrowToSql,
        I: IntoIterator<Item = P>,
        I::IntoIter: ExactSizeIterator,
    {
        let params = params.into_iter();
        self.watch_command(params.len(), self.context.client.execute_raw(statement, params)).await.map(done_or_nothing)
    }

    /// Like [`Client::copy_in`].
    pub async fn copy_in<T, U>(&self, statement: &T) -> Result<Watched<'_, CopyInSink<U>>, Error>
    where
        T: ?Sized + ToStatement,
        U: Buf + 'static + Send,
    {
        self.watch(self.context.client.copy_in(statement)).await.map(stream)
    }

    /// Like [`Client::copy_out`].
    pub async fn copy_out<T>(&self, statement: &T) -> Result<Watched<'_, CopyOutStream>, Error>
    where
        T: ?Sized + ToStatement,
    {
        // The driver stops at the end of the data. The statement may still fail: its triggers fire after that.
        let blind_spots = BlindSpots { end: true, ..BlindSpots::default() };
        self.watch_with(blind_spots, self.context.client.copy_out(statement)).await.map(stream)
    }

    /// Like [`Client::simple_query`].
    pub async fn simple_query(&self, query: &str) -> Result<Vec<SimpleQueryMessage>, Error> {
        self.watch_command(0, self.context.client.simple_query(query)).await.map(noted)
    }

    /// Like [`Client::simple_query_raw`].
    pub async fn simple_query_raw(&self, query: &str) -> Result<Watched<'_, SimpleQueryStream>, Error> {
        self.watch_command(0, self.context.client.simple_query_raw(query)).await.map(stream)
    }

    /// Like [`Client::batch_execute`].
    pub async fn batch_execute(&self, query: &str) -> Result<(), Error> {
        self.watch_command(0, self.context.client.batch_execute(query)).await.map(noted)
    }

    /// Like [`Client::check_connection`].
    pub async fn check_connection(&self) -> Result<(), Error> {
        self.watch(self.context.client.check_connection()).await.map(noted)
    }

    /// Like [`Client::cancel_token`].
    #[must_use]
    pub fn cancel_token(&self) -> CancelToken {
        self.context.client.cancel_token()
    }

    /// Like [`Client::clear_type_cache`].
    pub fn clear_type_cache(&self) {
        self.context.client.clear_type_cache();
    }

    /// Like [`Client::is_closed`].
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.context.client.is_closed()
    }

    /// Watches a statement. Its failure is noted; its success is for the caller to note.
    fn watch<F>(&self, statement: F) -> Watch<'_, F> {
        self.watch_with(BlindSpots::default(), statement)
    }

    /// Watches what may be `COMMIT` or `ROLLBACK` if it has no parameters.
    fn watch_command<F>(&self, params: usize, statement: F) -> Watch<'_, F> {
        self.watch_with(BlindSpots { command: params == 0, ..BlindSpots::default() }, statement)
    }

    /// Watches a statement whose columns' types the driver may look up afterwards.
    fn watch_typed<F>(&self, statement: F) -> Watch<'_, F> {
        self.watch_with(BlindSpots { types: true, command: true, ..BlindSpots::default() }, statement)
    }

    fn watch_with<F>(&self, blind_spots: BlindSpots, statement: F) -> Watch<'_, F> {
        Watch::new(statement, self.context.status, blind_spots)
    }
}

impl Transaction<'_> {
    /// Forgets what the savepoint has seen and registered.
    pub(crate) fn undo_savepoint(&mut self) {
        if let Some(mark) = self.savepoint.take() {
            self.context.status.roll_back_to(mark);
        }
    }
}

/// For helpers that take `&impl GenericClient`: `helper(&**tx)`. Their statements are not watched, so `COMMIT` is sent
/// with a check in front of it.
impl Deref for Transaction<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.context.status.use_raw_client();
        self.context.client
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        // The clean-up of a pooled session begins with the rollback.
        let is_cleaned_up = self.savepoint.is_none() && self.context.pooled;
        if !self.ended && !is_cleaned_up {
            self.undo_savepoint();
            self.context.queue_rollback();
        }
    }
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("function", &self.context.id.function)
            .field("attempt", &self.context.id.attempt)
            .field("depth", &self.context.depth)
            .finish_non_exhaustive()
    }
}
