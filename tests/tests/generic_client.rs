//! Helpers that take `&impl GenericClient`: on which clients they run, and that a transaction watches their statements.
#![allow(missing_docs)]

use bb8_postgres::PostgresConnectionManager;
use retry_runtime::{Error, GenericClient, Transaction, transactional};
use retry_tests::Database;
use retry_tests::rival::Rival;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error as PgError, NoTls};

async fn database() -> Database {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    db
}

async fn balance(client: &impl GenericClient, id: i64) -> Result<i64, PgError> {
    Ok(client.query_one("SELECT cents FROM accounts WHERE id = $1", &[&id]).await?.get(0))
}

/// The error is swallowed.
async fn try_execute(client: &impl GenericClient, sql: &str) {
    let _ = client.execute(sql, &[]).await;
}

/// Calls each method. Adds 5 to the balance of account 1, which it returns.
async fn all_methods(client: &impl GenericClient) -> Result<i64, PgError> {
    const ADD: &str = "UPDATE accounts SET cents = cents + 1 WHERE id = $1";
    const CENTS: &str = "SELECT cents FROM accounts WHERE id = $1";
    let typed: [(&(dyn ToSql + Sync), Type); 1] = [(&1_i64, Type::INT8)];
    let absent: [(&(dyn ToSql + Sync), Type); 1] = [(&0_i64, Type::INT8)];
    assert!(!client.is_closed());
    let add = client.prepare(ADD).await?;
    assert_eq!(client.execute(&add, &[&1_i64]).await?, 1);
    assert_eq!(client.execute_raw(ADD, [1_i64]).await?, 1);
    assert_eq!(client.execute_typed(ADD, &typed).await?, 1);
    client.batch_execute("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await?;
    assert_eq!(client.simple_query("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await?.len(), 1);
    let cached = client.prepare_cached(CENTS).await?;
    assert_eq!(client.query(&cached, &[&1_i64]).await?.len(), 1);
    let cents = client.prepare_typed(CENTS, &[Type::INT8]).await?;
    assert_eq!(client.query(&cents, &[&1_i64]).await?.len(), 1);
    assert!(client.query_opt(CENTS, &[&0_i64]).await?.is_none());
    assert_eq!(client.query_typed(CENTS, &typed).await?.len(), 1);
    assert!(client.query_typed_opt(CENTS, &absent).await?.is_none());
    let by_type: i64 = client.query_typed_one(CENTS, &typed).await?.get(0);
    assert_eq!(balance(client, 1).await?, by_type);
    Ok(by_type)
}

#[transactional]
async fn all_methods_in_a_body(tx: &mut Transaction<'_>) -> Result<i64, Error> {
    let _ = balance(&*tx, 1).await?;
    Ok(all_methods(tx).await?)
}

#[tokio::test]
async fn a_helper_runs_on_transactions_clients_and_pooled_connections() {
    let db = database().await;
    let pool = db.pool(1);
    assert_eq!(all_methods_in_a_body(&pool).await.unwrap(), 105);

    let mut client = db.client().await;
    assert_eq!(all_methods(&client).await.unwrap(), 110);
    let tx = client.transaction().await.unwrap();
    assert_eq!(all_methods(&tx).await.unwrap(), 115);
    tx.rollback().await.unwrap();

    let mut object = pool.get().await.unwrap();
    assert_eq!(object.statement_cache.size(), 1, "the body used it");
    object.statement_cache.clear();
    assert_eq!(all_methods(&object).await.unwrap(), 115);
    assert_eq!(object.statement_cache.size(), 1);
    assert_eq!(all_methods(&*object).await.unwrap(), 120);
    let tx = object.transaction().await.unwrap();
    assert_eq!(all_methods(&tx).await.unwrap(), 125);
    tx.rollback().await.unwrap();

    let manager = PostgresConnectionManager::new(db.config().clone(), NoTls);
    let bb8 = bb8::Pool::builder().max_size(1).build(manager).await.unwrap();
    let connection = bb8.get().await.unwrap();
    assert_eq!(all_methods(&connection).await.unwrap(), 125);
    assert_eq!(db.cents(1).await, 125);
}

/// Returns the attempt that committed.
#[transactional(isolation = "repeatable read")]
async fn conflict_in_a_helper(tx: &mut Transaction<'_>, rival: &Rival) -> Result<u32, Error> {
    balance(tx, 1).await?;
    if tx.attempt() == 1 {
        rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    }
    try_execute(tx, "UPDATE accounts SET cents = cents + 10 WHERE id = 1").await;
    Ok(tx.attempt())
}

#[tokio::test]
async fn a_conflict_that_a_helper_swallows_is_retried() {
    let db = database().await;
    let rival = Rival::connect(&db).await;
    assert_eq!(conflict_in_a_helper(&db.pool(1), &rival).await.unwrap(), 2);
    assert_eq!(db.cents(1).await, 111);
}

#[transactional]
async fn failure_in_a_helper(tx: &mut Transaction<'_>) -> Result<(), Error> {
    try_execute(tx, "UPDATE accounts SET cents = 0 WHERE id = 1").await;
    try_execute(tx, "INSERT INTO accounts VALUES (1, 5)").await;
    Ok(())
}

/// Unwatched, the failure would show only as its symptom (25P02) when `COMMIT` is due.
#[tokio::test]
async fn another_failure_that_a_helper_swallows_is_the_cause_of_the_error() {
    let db = database().await;
    let error = failure_in_a_helper(&db.pool(1)).await.unwrap_err();
    assert!(matches!(error, Error::Aborted { .. }), "{error:?}");
    assert_eq!(error.as_db_error().unwrap().code(), &SqlState::UNIQUE_VIOLATION);
    assert_eq!(db.cents(1).await, 100);
}

/// Returns the process id of its session.
#[transactional]
async fn helper_that_succeeds(tx: &mut Transaction<'_>, directly: bool) -> Result<i32, Error> {
    if directly {
        balance(&**tx, 1).await?
    } else {
        balance(tx, 1).await?
    };
    Ok(tx.query_one("SELECT pg_backend_pid()", &[]).await?.get(0))
}

#[tokio::test]
async fn a_helper_that_succeeds_adds_no_probe_to_commit() {
    let db = database().await;
    let pool = db.pool(1);
    for (directly, last) in [(false, "COMMIT"), (true, "SAVEPOINT transactional_commit; COMMIT")] {
        let pid = helper_that_succeeds(&pool, directly).await.unwrap();
        let sql = format!("SELECT query FROM pg_stat_activity WHERE pid = {pid}");
        assert_eq!(db.value::<String>(&sql).await, last);
    }
}

/// The future is `Send` for any client.
fn spawn_balance<C: GenericClient + Send + 'static>(client: C) -> tokio::task::JoinHandle<Result<i64, PgError>> {
    tokio::spawn(async move { balance(&client, 1).await })
}

#[tokio::test]
async fn a_generic_helper_can_be_spawned() {
    let db = database().await;
    let pool = db.pool(1);
    assert_eq!(spawn_balance(db.client().await).await.unwrap().unwrap(), 100);
    assert_eq!(spawn_balance(pool.get().await.unwrap()).await.unwrap().unwrap(), 100);
    let body = tokio::spawn(async move { all_methods_in_a_body(&pool).await });
    assert_eq!(body.await.unwrap().unwrap(), 105);
}
