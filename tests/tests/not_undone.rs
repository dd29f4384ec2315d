//! What a rollback does not undo, as the guide's page on writing functions says, and the traps of the page on converting.
#![allow(missing_docs)]

use std::sync::atomic::{AtomicU32, Ordering};

use deadpool_postgres::Pool;
use retry_runtime::{Class, Error, Transaction, classify, transactional};
use retry_tests::rival::Rival;
use retry_tests::{Database, NO_PARAMS};
use tokio_postgres::{GenericClient, Statement};

/// The error of a body whose first attempt is to be rolled back and retried.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("again")]
    Again,
    #[error("{0}")]
    Text(String),
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Transaction(#[from] Error),
}

impl Failure {
    fn is_again(&self) -> bool {
        matches!(self, Self::Again)
    }
}

/// Runs `sql` in each attempt. The first attempt is rolled back. Returns what `query` then returns in the second one, before
/// `sql` runs again.
#[transactional(retry_if = Failure::is_again)]
async fn second_attempt(tx: &mut Transaction<'_>, sql: &str, query: &str) -> Result<String, Failure> {
    let found = if tx.attempt() == 1 { String::new() } else { value(tx, query).await? };
    tx.batch_execute(sql).await?;
    if tx.attempt() == 1 { Err(Failure::Again) } else { Ok(found) }
}

#[transactional]
async fn value_of(tx: &mut Transaction<'_>, query: &str) -> Result<String, Failure> {
    value(tx, query).await
}

async fn value(tx: &Transaction<'_>, query: &str) -> Result<String, Failure> {
    Ok(tx.query_typed_one(&format!("SELECT ({query})::text"), &[]).await?.get(0))
}

const LOCKS: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
const TABLES: &str = "SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND relname = 'scratch'";
const SETTING: &str = "SELECT current_setting('lock_timeout')";

#[tokio::test]
async fn some_effects_outlive_a_rollback_or_the_commit() {
    let db = Database::create().await;
    db.setup("CREATE SEQUENCE numbers").await;
    // What the second attempt finds, and what the next call on the connection finds after the commit.
    for (sql, query, second, next) in [
        ("SELECT nextval('numbers')", "SELECT last_value FROM numbers", "1", "2"),
        ("SELECT pg_advisory_lock(1)", LOCKS, "1", "1"),
        ("SELECT pg_advisory_xact_lock(2)", LOCKS, "0", "0"),
        ("SET lock_timeout = '1h'", SETTING, "0", "1h"),
        ("SET LOCAL lock_timeout = '1h'", SETTING, "0", "0"),
        ("CREATE TEMPORARY TABLE scratch (id int)", TABLES, "0", "1"),
        ("CREATE TEMPORARY TABLE scratch (id int) ON COMMIT DROP", TABLES, "0", "0"),
    ] {
        let pool = db.pool(1);
        assert_eq!(second_attempt(&pool, sql, query).await.unwrap(), second, "the second attempt: {sql}");
        assert_eq!(value_of(&pool, query).await.unwrap(), next, "the next call: {sql}");
    }
}

#[transactional]
async fn execute(tx: &mut Transaction<'_>, statement: &Statement) -> Result<u64, Failure> {
    Ok(tx.execute_raw(statement, NO_PARAMS).await?)
}

#[tokio::test]
async fn a_statement_from_another_connection_fails() {
    let db = Database::create().await;
    let other = db.client().await;
    let statement = other.prepare("SELECT 1").await.unwrap();
    let error = execute(&db.pool(1), &statement).await.unwrap_err();
    assert_eq!(classify(&error), Some(Class::StalePlan), "{error:?}");
}

/// A helper that loses the cause of its error, on a client whose statements are not watched.
async fn add(client: &impl GenericClient) -> Result<u64, Failure> {
    let add = client.execute("UPDATE accounts SET cents = cents + 10 WHERE id = 1", &[]).await;
    add.map_err(|error| Failure::Text(error.to_string()))
}

/// The same helper, with one `use` line changed.
async fn add_watched(client: &impl retry_runtime::GenericClient) -> Result<u64, Failure> {
    let add = client.execute("UPDATE accounts SET cents = cents + 10 WHERE id = 1", &[]).await;
    add.map_err(|error| Failure::Text(error.to_string()))
}

/// The first attempt meets a conflict.
#[transactional(isolation = "repeatable read")]
async fn conflict(
    tx: &mut Transaction<'_>,
    rival: &Rival,
    watched: bool,
    attempts: &AtomicU32,
) -> Result<u64, Failure> {
    attempts.store(tx.attempt(), Ordering::Relaxed);
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    if tx.attempt() == 1 {
        rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    }
    if watched { add_watched(tx).await } else { add(&**tx).await }
}

#[tokio::test]
async fn a_helper_that_loses_the_cause_must_be_watched() {
    let db = Database::create().await;
    db.accounts(1, 100).await;
    let (pool, rival, attempts): (Pool, _, _) = (db.pool(1), Rival::connect(&db).await, AtomicU32::new(0));
    let error = conflict(&pool, &rival, false, &attempts).await.unwrap_err();
    assert!(matches!(error, Failure::Text(_)), "{error:?}");
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
    conflict(&pool, &rival, true, &attempts).await.unwrap();
    assert_eq!((attempts.load(Ordering::Relaxed), db.cents(1).await), (2, 112));
}
