//! The methods of tokio-postgres' client, watched.

use std::fmt;

use bytes::Buf;
use tokio_postgres::types::{BorrowToSql, FromSqlOwned, ToSql, Type};
use tokio_postgres::{
    CancelToken, CopyInSink, CopyOutStream, Error, Row, RowStream, SimpleQueryMessage, SimpleQueryStream, Statement,
    ToStatement,
};

use crate::transaction::Transaction;
#[cfg(feature = "testing")]
use crate::transaction::fault::Replaceable;
use crate::transaction::status::BlindSpots;
use crate::transaction::stream::Watched;
use crate::transaction::watch::{Answered, Watch, done, done_or_nothing, noted, prepared, stream};

pub(crate) type Params<'p> = [&'p (dyn ToSql + Sync)];
pub(crate) type TypedParams<'p> = [(&'p (dyn ToSql + Sync), Type)];

impl Transaction<'_> {
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

    /// Like [`Client::prepare`](tokio_postgres::Client::prepare).
    pub async fn prepare(&self, query: &str) -> Result<Statement, Error> {
        self.watch(self.context.client.prepare(query)).await.map(prepared)
    }

    /// Like [`Client::prepare_typed`](tokio_postgres::Client::prepare_typed).
    pub async fn prepare_typed(&self, query: &str, parameter_types: &[Type]) -> Result<Statement, Error> {
        self.watch(self.context.client.prepare_typed(query, parameter_types)).await.map(prepared)
    }

    /// Like [`Client::query`](tokio_postgres::Client::query).
    pub async fn query<T>(&self, statement: &T, params: &Params<'_>) -> Result<Vec<Row>, Error>
    where
        T: ?Sized + ToStatement,
    {
        self.watch_command(params.len(), self.context.client.query(statement, params)).await.map(done_or_nothing)
    }

    /// Like [`Client::query_scalar`](tokio_postgres::Client::query_scalar).
    pub async fn query_scalar<R, T>(&self, statement: &T, params: &Params<'_>) -> Result<Vec<R>, Error>
    where
        R: FromSqlOwned,
        T: ?Sized + ToStatement + fmt::Debug,
    {
        self.watch(self.context.client.query_scalar(statement, params)).await.map(done)
    }

    /// Like [`Client::query_one`](tokio_postgres::Client::query_one).
    pub async fn query_one<T>(&self, statement: &T, params: &Params<'_>) -> Result<Row, Error>
    where
        T: ?Sized + ToStatement,
    {
        self.watch(self.context.client.query_one(statement, params)).await.map(done)
    }

    /// Like [`Client::query_one_scalar`](tokio_postgres::Client::query_one_scalar).
    pub async fn query_one_scalar<R, T>(&self, statement: &T, params: &Params<'_>) -> Result<R, Error>
    where
        R: FromSqlOwned,
        T: ?Sized + ToStatement + fmt::Debug,
    {
        self.watch(self.context.client.query_one_scalar(statement, params)).await.map(done)
    }

    /// Like [`Client::query_opt`](tokio_postgres::Client::query_opt).
    pub async fn query_opt<T>(&self, statement: &T, params: &Params<'_>) -> Result<Option<Row>, Error>
    where
        T: ?Sized + ToStatement,
    {
        self.watch_command(params.len(), self.context.client.query_opt(statement, params)).await.map(done_or_nothing)
    }

    /// Like [`Client::query_opt_scalar`](tokio_postgres::Client::query_opt_scalar).
    pub async fn query_opt_scalar<R, T>(&self, statement: &T, params: &Params<'_>) -> Result<Option<R>, Error>
    where
        R: FromSqlOwned,
        T: ?Sized + ToStatement + fmt::Debug,
    {
        self.watch(self.context.client.query_opt_scalar(statement, params)).await.map(done)
    }

    /// Like [`Client::query_raw`](tokio_postgres::Client::query_raw).
    pub async fn query_raw<T, P, I>(&self, statement: &T, params: I) -> Result<Watched<'_, RowStream>, Error>
    where
        T: ?Sized + ToStatement,
        P: BorrowToSql,
        I: IntoIterator<Item = P>,
        I::IntoIter: ExactSizeIterator,
    {
        self.watch(self.context.client.query_raw(statement, params)).await.map(stream)
    }

    /// Like [`Client::query_typed`](tokio_postgres::Client::query_typed).
    pub async fn query_typed(&self, query: &str, params: &TypedParams<'_>) -> Result<Vec<Row>, Error> {
        self.watch_typed(self.context.client.query_typed(query, params)).await.map(done_or_nothing)
    }

    /// Like [`Client::query_typed_one`](tokio_postgres::Client::query_typed_one).
    pub async fn query_typed_one(&self, query: &str, params: &TypedParams<'_>) -> Result<Row, Error> {
        self.watch_typed(self.context.client.query_typed_one(query, params)).await.map(done)
    }

    /// Like [`Client::query_typed_opt`](tokio_postgres::Client::query_typed_opt).
    pub async fn query_typed_opt(&self, query: &str, params: &TypedParams<'_>) -> Result<Option<Row>, Error> {
        self.watch_typed(self.context.client.query_typed_opt(query, params)).await.map(done_or_nothing)
    }

    /// Like [`Client::query_typed_raw`](tokio_postgres::Client::query_typed_raw).
    pub async fn query_typed_raw<P, I>(&self, query: &str, params: I) -> Result<Watched<'_, RowStream>, Error>
    where
        P: BorrowToSql,
        I: IntoIterator<Item = (P, Type)>,
    {
        self.watch_typed(self.context.client.query_typed_raw(query, params)).await.map(stream)
    }

    /// Like [`Client::execute`](tokio_postgres::Client::execute).
    pub async fn execute<T>(&self, statement: &T, params: &Params<'_>) -> Result<u64, Error>
    where
        T: ?Sized + ToStatement,
    {
        self.watch_command(params.len(), self.context.client.execute(statement, params)).await.map(done_or_nothing)
    }

    /// Like [`Client::execute_typed`](tokio_postgres::Client::execute_typed).
    pub async fn execute_typed(&self, statement: &str, params: &TypedParams<'_>) -> Result<u64, Error> {
        let executing = self.context.client.execute_typed(statement, params);
        self.watch_command(params.len(), executing).await.map(done_or_nothing)
    }

    /// Like [`Client::execute_raw`](tokio_postgres::Client::execute_raw).
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

    /// Like [`Client::copy_in`](tokio_postgres::Client::copy_in).
    pub async fn copy_in<T, U>(&self, statement: &T) -> Result<Watched<'_, CopyInSink<U>>, Error>
    where
        T: ?Sized + ToStatement,
        U: Buf + 'static + Send,
    {
        self.watch(self.context.client.copy_in(statement)).await.map(stream)
    }

    /// Like [`Client::copy_out`](tokio_postgres::Client::copy_out).
    pub async fn copy_out<T>(&self, statement: &T) -> Result<Watched<'_, CopyOutStream>, Error>
    where
        T: ?Sized + ToStatement,
    {
        // The driver stops at the end of the data. The statement may still fail: its triggers fire after that.
        let blind_spots = BlindSpots { end: true, ..BlindSpots::default() };
        self.watch_with(blind_spots, self.context.client.copy_out(statement)).await.map(stream)
    }

    /// Like [`Client::simple_query`](tokio_postgres::Client::simple_query).
    pub async fn simple_query(&self, query: &str) -> Result<Vec<SimpleQueryMessage>, Error> {
        self.watch_command(0, self.context.client.simple_query(query)).await.map(noted)
    }

    /// Like [`Client::simple_query_raw`](tokio_postgres::Client::simple_query_raw).
    pub async fn simple_query_raw(&self, query: &str) -> Result<Watched<'_, SimpleQueryStream>, Error> {
        self.watch_command(0, self.context.client.simple_query_raw(query)).await.map(stream)
    }

    /// Like [`Client::batch_execute`](tokio_postgres::Client::batch_execute).
    pub async fn batch_execute(&self, query: &str) -> Result<(), Error> {
        self.watch_command(0, self.context.client.batch_execute(query)).await.map(noted)
    }

    /// Like [`Client::check_connection`](tokio_postgres::Client::check_connection).
    pub async fn check_connection(&self) -> Result<(), Error> {
        self.watch(self.context.client.check_connection()).await.map(noted)
    }

    /// Like [`Client::cancel_token`](tokio_postgres::Client::cancel_token).
    #[must_use]
    pub fn cancel_token(&self) -> CancelToken {
        self.context.client.cancel_token()
    }

    /// Like [`Client::clear_type_cache`](tokio_postgres::Client::clear_type_cache).
    pub fn clear_type_cache(&self) {
        self.context.client.clear_type_cache();
    }

    /// Like [`Client::is_closed`](tokio_postgres::Client::is_closed).
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.context.client.is_closed()
    }

    /// Watches a statement. Its failure is noted; its success is for the caller to note.
    fn watch<T, F>(&self, statement: F) -> impl Future<Output = Result<Answered<'_, T>, Error>>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.watch_with(BlindSpots::default(), statement)
    }

    /// Watches what may be `COMMIT` or `ROLLBACK` if it has no parameters.
    fn watch_command<T, F>(&self, params: usize, statement: F) -> impl Future<Output = Result<Answered<'_, T>, Error>>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.watch_with(BlindSpots { command: params == 0, ..BlindSpots::default() }, statement)
    }

    /// Watches a statement whose columns' types the driver may look up afterwards.
    fn watch_typed<T, F>(&self, statement: F) -> impl Future<Output = Result<Answered<'_, T>, Error>>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.watch_with(BlindSpots { types: true, command: true, ..BlindSpots::default() }, statement)
    }

    fn watch_with<T, F>(
        &self,
        blind_spots: BlindSpots,
        statement: F,
    ) -> impl Future<Output = Result<Answered<'_, T>, Error>>
    where
        F: Future<Output = Result<T, Error>>,
    {
        #[cfg(feature = "testing")]
        let statement = Replaceable::new(statement, self.context.client, self.context.status);
        Watch::new(statement, self.context.status, blind_spots)
    }
}
