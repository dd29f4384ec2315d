//! A trait for helpers that run on a transaction, a client or a pooled connection.

use tokio_postgres::types::{BorrowToSql, Type};
use tokio_postgres::{Client, Error, Row, SimpleQueryMessage, Statement, ToStatement};

use crate::transaction::Transaction;
use crate::transaction::queries::{Params, TypedParams};

mod private {
    pub trait Sealed {}
}

/// The query methods that clients, pooled connections and transactions share, for helpers that run on any of them.
///
/// It is implemented for [`Transaction`], and for `Client` and `Transaction` of tokio-postgres. With the feature `deadpool`
/// it is implemented for `Object`, `ClientWrapper` and `Transaction` of deadpool-postgres, and with the feature `bb8` for
/// `PooledConnection` of bb8.
///
/// It replaces [`tokio_postgres::GenericClient`] in a helper: only the `use` line changes. In a transactional function pass
/// `tx`, not `&**tx`. The retry loop then sees how each statement of the helper ended, whatever the helper does with the
/// error.
///
/// ```
/// use retry_runtime::{Error, GenericClient, Transaction, transactional};
///
/// async fn balance(client: &impl GenericClient, id: i64) -> Result<i64, tokio_postgres::Error> {
///     Ok(client.query_one("SELECT cents FROM accounts WHERE id = $1", &[&id]).await?.get(0))
/// }
///
/// #[transactional]
/// async fn total(tx: &mut Transaction<'_>) -> Result<i64, Error> {
///     Ok(balance(tx, 1).await? + balance(tx, 2).await?)
/// }
///
/// async fn report(client: &tokio_postgres::Client) -> Result<(), tokio_postgres::Error> {
///     println!("{}", balance(client, 1).await?);
///     Ok(())
/// }
/// ```
///
/// The futures are `Send`, and every implementation is `Sync`, so a generic helper can be spawned. The trait is not dyn
/// compatible: there is no `dyn GenericClient`. It is sealed: other crates cannot implement it.
///
/// It leaves out `query_raw` and `query_typed_raw`, because the stream of a [`Transaction`] is
/// [`Watched`](crate::Watched) and that of a client is not. It also leaves out `transaction` and `client`: a helper that
/// needs a savepoint takes `&mut Transaction<'_>`, and statements sent through the driver's client are not watched.
///
/// # Errors
/// Each method returns the errors of the method of [`Client`] with its name.
///
/// # Cancel safety
/// A future of these methods may be dropped at any time. The server still runs a statement that was already sent.
pub trait GenericClient: Sync + private::Sealed {
    /// Like [`Client::execute`].
    fn execute<T>(&self, query: &T, params: &Params<'_>) -> impl Future<Output = Result<u64, Error>> + Send
    where
        T: ?Sized + ToStatement + Sync + Send;

    /// Like [`Client::execute_raw`].
    fn execute_raw<P, I, T>(&self, statement: &T, params: I) -> impl Future<Output = Result<u64, Error>> + Send
    where
        T: ?Sized + ToStatement + Sync + Send,
        P: BorrowToSql,
        I: IntoIterator<Item = P> + Sync + Send,
        I::IntoIter: ExactSizeIterator + Send;

    /// Like [`Client::execute_typed`].
    fn execute_typed(
        &self,
        statement: &str,
        params: &TypedParams<'_>,
    ) -> impl Future<Output = Result<u64, Error>> + Send;

    /// Like [`Client::query`].
    fn query<T>(&self, query: &T, params: &Params<'_>) -> impl Future<Output = Result<Vec<Row>, Error>> + Send
    where
        T: ?Sized + ToStatement + Sync + Send;

    /// Like [`Client::query_one`].
    fn query_one<T>(&self, statement: &T, params: &Params<'_>) -> impl Future<Output = Result<Row, Error>> + Send
    where
        T: ?Sized + ToStatement + Sync + Send;

    /// Like [`Client::query_opt`].
    fn query_opt<T>(
        &self,
        statement: &T,
        params: &Params<'_>,
    ) -> impl Future<Output = Result<Option<Row>, Error>> + Send
    where
        T: ?Sized + ToStatement + Sync + Send;

    /// Like [`Client::query_typed`].
    fn query_typed(
        &self,
        statement: &str,
        params: &TypedParams<'_>,
    ) -> impl Future<Output = Result<Vec<Row>, Error>> + Send;

    /// Like [`Client::query_typed_one`].
    fn query_typed_one(
        &self,
        statement: &str,
        params: &TypedParams<'_>,
    ) -> impl Future<Output = Result<Row, Error>> + Send;

    /// Like [`Client::query_typed_opt`].
    fn query_typed_opt(
        &self,
        statement: &str,
        params: &TypedParams<'_>,
    ) -> impl Future<Output = Result<Option<Row>, Error>> + Send;

    /// Like [`Client::prepare`].
    fn prepare(&self, query: &str) -> impl Future<Output = Result<Statement, Error>> + Send;

    /// Prepares a statement, or takes it from the statement cache if the client has one, as those of deadpool do.
    fn prepare_cached(&self, query: &str) -> impl Future<Output = Result<Statement, Error>> + Send;

    /// Like [`Client::prepare_typed`].
    fn prepare_typed(
        &self,
        query: &str,
        parameter_types: &[Type],
    ) -> impl Future<Output = Result<Statement, Error>> + Send;

    /// Like [`Client::batch_execute`].
    fn batch_execute(&self, query: &str) -> impl Future<Output = Result<(), Error>> + Send;

    /// Like [`Client::simple_query`].
    fn simple_query(&self, query: &str) -> impl Future<Output = Result<Vec<SimpleQueryMessage>, Error>> + Send;

    /// Like [`Client::is_closed`].
    fn is_closed(&self) -> bool;
}

/// Implements the trait for `$type` with the methods of `$target` that have the same names, and `prepare_cached` with
/// `$prepare_cached`.
macro_rules! forward {
    ([$($generics:tt)*] $type:ty, |$this:ident| $client:expr, $target:ty, $prepare_cached:expr) => {
        impl<$($generics)*> private::Sealed for $type {}

        impl<$($generics)*> GenericClient for $type {
            fn execute<T>(&self, query: &T, params: &Params<'_>) -> impl Future<Output = Result<u64, Error>> + Send
            where
                T: ?Sized + ToStatement + Sync + Send,
            {
                let $this = self;
                <$target>::execute($client, query, params)
            }

            fn execute_raw<P, I, T>(&self, statement: &T, params: I) -> impl Future<Output = Result<u64, Error>> + Send
            where
                T: ?Sized + ToStatement + Sync + Send,
                P: BorrowToSql,
                I: IntoIterator<Item = P> + Sync + Send,
                I::IntoIter: ExactSizeIterator + Send,
            {
                let $this = self;
                <$target>::execute_raw($client, statement, params)
            }

            fn execute_typed(
                &self,
                statement: &str,
                params: &TypedParams<'_>,
            ) -> impl Future<Output = Result<u64, Error>> + Send {
                let $this = self;
                <$target>::execute_typed($client, statement, params)
            }

            fn query<T>(&self, query: &T, params: &Params<'_>) -> impl Future<Output = Result<Vec<Row>, Error>> + Send
            where
                T: ?Sized + ToStatement + Sync + Send,
            {
                let $this = self;
                <$target>::query($client, query, params)
            }

            fn query_one<T>(
                &self,
                statement: &T,
                params: &Params<'_>,
            ) -> impl Future<Output = Result<Row, Error>> + Send
            where
                T: ?Sized + ToStatement + Sync + Send,
            {
                let $this = self;
                <$target>::query_one($client, statement, params)
            }

            fn query_opt<T>(
                &self,
                statement: &T,
                params: &Params<'_>,
            ) -> impl Future<Output = Result<Option<Row>, Error>> + Send
            where
                T: ?Sized + ToStatement + Sync + Send,
            {
                let $this = self;
                <$target>::query_opt($client, statement, params)
            }

            fn query_typed(
                &self,
                statement: &str,
                params: &TypedParams<'_>,
            ) -> impl Future<Output = Result<Vec<Row>, Error>> + Send {
                let $this = self;
                <$target>::query_typed($client, statement, params)
            }

            fn query_typed_one(
                &self,
                statement: &str,
                params: &TypedParams<'_>,
            ) -> impl Future<Output = Result<Row, Error>> + Send {
                let $this = self;
                <$target>::query_typed_one($client, statement, params)
            }

            fn query_typed_opt(
                &self,
                statement: &str,
                params: &TypedParams<'_>,
            ) -> impl Future<Output = Result<Option<Row>, Error>> + Send {
                let $this = self;
                <$target>::query_typed_opt($client, statement, params)
            }

            fn prepare(&self, query: &str) -> impl Future<Output = Result<Statement, Error>> + Send {
                let $this = self;
                <$target>::prepare($client, query)
            }

            fn prepare_cached(&self, query: &str) -> impl Future<Output = Result<Statement, Error>> + Send {
                $prepare_cached(self, query)
            }

            fn prepare_typed(
                &self,
                query: &str,
                parameter_types: &[Type],
            ) -> impl Future<Output = Result<Statement, Error>> + Send {
                let $this = self;
                <$target>::prepare_typed($client, query, parameter_types)
            }

            fn batch_execute(&self, query: &str) -> impl Future<Output = Result<(), Error>> + Send {
                let $this = self;
                <$target>::batch_execute($client, query)
            }

            fn simple_query(&self, query: &str) -> impl Future<Output = Result<Vec<SimpleQueryMessage>, Error>> + Send {
                let $this = self;
                <$target>::simple_query($client, query)
            }

            fn is_closed(&self) -> bool {
                let $this = self;
                <$target>::is_closed($client)
            }
        }
    };
}

// A path such as `Transaction::query` means the type's own method, which watches the statement, before the trait's.
forward!([] Transaction<'_>, |tx| tx, Transaction<'_>, Transaction::prepare_cached);
forward!([] Client, |client| client, Client, Client::prepare);
forward!([] tokio_postgres::Transaction<'_>, |tx| tx.client(), Client, tokio_postgres::Transaction::prepare);
#[cfg(feature = "deadpool")]
forward!([] deadpool_postgres::Object, |object| object, Client, deadpool_postgres::ClientWrapper::prepare_cached);
#[cfg(feature = "deadpool")]
forward!([] deadpool_postgres::ClientWrapper, |client| client, Client, Self::prepare_cached);
#[cfg(feature = "deadpool")]
forward!([] deadpool_postgres::Transaction<'_>, |tx| tx.client(), Client, Self::prepare_cached);
#[cfg(feature = "bb8")]
forward!(
    [M: bb8::ManageConnection<Connection = Client>] bb8::PooledConnection<'_, M>,
    |connection| connection,
    Client,
    Client::prepare
);
