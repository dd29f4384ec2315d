//! Queries that clorinde generates from SQL files. They take any client of the generated trait `GenericClient`.
//!
//! Before: `cents().bind(&tx, &id).one().await?`, with a transaction of tokio-postgres or deadpool-postgres.
//!
//! After: `cents().bind(&Queries(tx), &id).one().await?`, with the adapter below. It sends each statement through the
//! transaction, so conflicts are seen whatever the caller does with the error.
//!
//! `all()` and `iter()` are the exception. The generated trait demands the driver's own `RowStream`, which cannot be watched.
//! After a conflict in such a stream, the call is still retried if the body returns the error with its source, or `Ok`. If
//! the body turns the error into text, the function needs `retry_if`.

use retry_runtime::{Error, Transaction, transactional};
use retry_tests::rival::Rival;
use tokio_postgres::types::{BorrowToSql, ToSql};
use tokio_postgres::{Error as PgError, Row, RowStream, Statement, ToStatement};

use crate::generated::client::GenericClient;
use crate::generated::queries::{add, cents};
use crate::{CHANGE, bank};

type Params<'p> = [&'p (dyn ToSql + Sync)];

/// The adapter: a type of this crate, because neither the trait nor the transaction is.
struct Queries<'a, 't>(&'a Transaction<'t>);

impl GenericClient for Queries<'_, '_> {
    fn stmt_cache() -> bool {
        true
    }

    async fn prepare(&self, query: &str) -> Result<Statement, PgError> {
        self.0.prepare_cached(query).await
    }

    async fn execute<T: ?Sized + ToStatement + Sync>(&self, query: &T, params: &Params<'_>) -> Result<u64, PgError> {
        self.0.execute(query, params).await
    }

    async fn query_one<T: ?Sized + ToStatement + Sync>(&self, query: &T, params: &Params<'_>) -> Result<Row, PgError> {
        self.0.query_one(query, params).await
    }

    async fn query_opt<T>(&self, query: &T, params: &Params<'_>) -> Result<Option<Row>, PgError>
    where
        T: ?Sized + ToStatement + Sync,
    {
        self.0.query_opt(query, params).await
    }

    async fn query<T: ?Sized + ToStatement + Sync>(&self, query: &T, params: &Params<'_>) -> Result<Vec<Row>, PgError> {
        self.0.query(query, params).await
    }

    async fn query_raw<T, I>(&self, query: &T, params: I) -> Result<RowStream, PgError>
    where
        T: ?Sized + ToStatement + Sync,
        I: IntoIterator<Item: BorrowToSql, IntoIter: ExactSizeIterator> + Send,
    {
        (**self.0).query_raw(query, params).await
    }
}

#[derive(Debug, thiserror::Error)]
enum ServiceError {
    #[error("{0}")]
    Text(String),
    #[error(transparent)]
    Postgres(#[from] PgError),
    #[error(transparent)]
    Transaction(#[from] Error),
}

#[derive(Clone, Copy, Debug)]
enum Query {
    One,
    Opt,
    Execute,
    All,
}

/// What the caller does with the error.
#[derive(Clone, Copy, Debug)]
enum Caller {
    Returns,
    Maps,
    Swallows,
}

/// Conflicts with the rival in its first attempt. Returns the attempt that committed.
async fn conflict(tx: &Transaction<'_>, rival: &Rival, query: Query, caller: Caller) -> Result<u32, ServiceError> {
    let client = &Queries(tx);
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    if tx.attempt() == 1 {
        rival.run(CHANGE).await;
    }
    let result = match query {
        Query::One => cents().bind(client, &1).one().await.map(drop),
        Query::Opt => cents().bind(client, &1).opt().await.map(drop),
        Query::All => cents().bind(client, &1).all().await.map(drop),
        Query::Execute => add().bind(client, &10, &1).await.map(drop),
    };
    match caller {
        Caller::Returns => result?,
        Caller::Maps => result.map_err(|error| ServiceError::Text(error.to_string()))?,
        Caller::Swallows => {}
    }
    Ok(tx.attempt())
}

/// `retries = 0`: nothing is retried because of a failure that was not seen.
#[transactional(isolation = "repeatable read", retries = 0)]
async fn watched(tx: &mut Transaction<'_>, rival: &Rival, query: Query, caller: Caller) -> Result<u32, ServiceError> {
    conflict(tx, rival, query, caller).await
}

#[transactional(isolation = "repeatable read", retry_if = |error| matches!(error, ServiceError::Text(_)))]
async fn streamed(tx: &mut Transaction<'_>, rival: &Rival, caller: Caller) -> Result<u32, ServiceError> {
    conflict(tx, rival, Query::All, caller).await
}

#[tokio::test]
async fn a_conflict_in_a_generated_query_is_retried_whatever_the_caller_does() {
    let (db, pool) = bank(1).await;
    let rival = Rival::connect(&db).await;
    for caller in [Caller::Returns, Caller::Maps, Caller::Swallows] {
        for query in [Query::One, Query::Opt, Query::Execute] {
            let attempt = watched(&pool, &rival, query, caller).await;
            assert!(matches!(attempt, Ok(2)), "{query:?} {caller:?}: {attempt:?}");
        }
    }
    assert_eq!(db.cents(1).await, 139, "nine changes of the rival, and three of its own");
}

#[tokio::test]
async fn a_conflict_in_a_generated_stream_is_retried() {
    let (db, pool) = bank(1).await;
    let rival = Rival::connect(&db).await;
    for caller in [Caller::Returns, Caller::Maps, Caller::Swallows] {
        let attempt = streamed(&pool, &rival, caller).await;
        assert!(matches!(attempt, Ok(2)), "{caller:?}: {attempt:?}");
    }
}

#[tokio::test]
async fn generated_queries_run_on_transactions_and_clients() {
    #[transactional]
    async fn move_ten(tx: &mut Transaction<'_>) -> Result<i64, ServiceError> {
        let client = &Queries(tx);
        add().bind(client, &-10, &1).await?;
        add().bind(client, &10, &2).await?;
        let (one, two) = (cents().bind(client, &1).one().await?, cents().bind(client, &2).all().await?);
        Ok(one + two.iter().sum::<i64>())
    }

    let (db, pool) = bank(1).await;
    assert_eq!(move_ten(&pool).await.unwrap(), 200);
    assert_eq!(pool.get().await.unwrap().statement_cache.size(), 1, "the connection keeps the query");
    assert_eq!(move_ten(&mut db.client().await).await.unwrap(), 200);
    let client = db.client().await;
    add().bind(&client, &5, &1).await.unwrap();
    assert_eq!(cents().bind(&client, &1).one().await.unwrap(), 85);
    assert_eq!(cents().bind(&client, &2).all().await.unwrap(), [120]);
    assert_eq!(cents().bind(&client, &3).opt().await.unwrap(), None);
}
