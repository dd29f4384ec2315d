//! `tx.send(…)`: a statement whose reply nothing waits for ends its attempt as an awaited one would.
#![allow(missing_docs)]

mod rows;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use retry_runtime::{Error, PoolError, Transaction, transactional};
use retry_tests::events::Events;
use retry_tests::{Database, pool};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

const SOON: Duration = Duration::from_secs(20);
const ADD: &str = "UPDATE accounts SET cents = cents + $1 WHERE id = $2";
const INSERT: &str = "INSERT INTO accounts VALUES ($1, 0)";

async fn database() -> Database {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    db
}

async fn cents(db: &Database) -> (i64, i64) {
    (db.cents(1).await, db.cents(2).await)
}

/// Adds 10 to account 1.
async fn add(tx: &Transaction<'_>) -> Result<(), Error> {
    let add = tx.prepare_cached(ADD).await?;
    Ok(tx.send(&add, &[&10_i64, &1_i64])?)
}

/// Inserts a row that exists.
async fn insert(tx: &Transaction<'_>) -> Result<(), Error> {
    let insert = tx.prepare_cached(INSERT).await?;
    Ok(tx.send(&insert, &[&1_i64])?)
}

fn own_error() -> Error {
    Error::Pool(PoolError::closed("not a failure of the server"))
}

fn is_unique_violation(error: &Error) -> bool {
    matches!(error, Error::Postgres(cause) if cause.code() == Some(&SqlState::UNIQUE_VIOLATION))
}

#[transactional]
async fn nested(tx: &mut Transaction<'_>, how: &str) -> Result<(), Error> {
    add(tx).await?;
    match how {
        "well" => Ok(()),
        "fails" => insert(tx).await,
        "fails and returns an error" => {
            insert(tx).await?;
            Err(own_error())
        }
        _ => unreachable!("{how}"),
    }
}

/// What the body does after it has added 10 to account 2. Returns what it has seen.
#[transactional(retries = 9)]
async fn body(tx: &mut Transaction<'_>, how: &str) -> Result<i64, Error> {
    tx.send_typed(ADD, &[(&10_i64, Type::INT8), (&2_i64, Type::INT8)])?;
    let sum = "SELECT sum(cents)::bigint FROM accounts";
    match how {
        "one" => add(tx).await?,
        "many" => {
            let statement = tx.prepare_cached(ADD).await?;
            for cents in 0..1000_i64 {
                tx.send(&statement, &[&cents, &1_i64])?;
            }
        }
        "then awaited" => {
            add(tx).await?;
            return Ok(tx.query_one(sum, &[]).await?.get(0));
        }
        "then the driver's client" => {
            add(tx).await?;
            return Ok((**tx).query_one(sum, &[]).await?.get(0));
        }
        "null" => {
            tx.send_typed("UPDATE accounts SET cents = coalesce($1, 7) WHERE id = 1", &[(&None::<i64>, Type::INT8)])?;
        }
        "nested" => nested(&mut *tx, "well").await?,
        "savepoint" => {
            let savepoint = tx.transaction().await?;
            add(&savepoint).await?;
            savepoint.commit().await?;
        }
        "nested fails" => nested(&mut *tx, "fails").await?,
        "forgiven" => {
            let error = nested(&mut *tx, "fails").await.expect_err("the row exists");
            assert!(is_unique_violation(&error), "{error:?}");
        }
        "forgiven with an error of its own" => {
            let error = nested(&mut *tx, "fails and returns an error").await;
            assert!(matches!(error, Err(Error::Pool(_))), "{error:?}");
        }
        "savepoint fails" => {
            let savepoint = tx.transaction().await?;
            insert(&savepoint).await?;
            let error = savepoint.commit().await.expect_err("the row exists");
            assert!(is_unique_violation(&error), "{error:?}");
        }
        "savepoint dropped" => {
            let savepoint = tx.transaction().await?;
            insert(&savepoint).await?;
        }
        "savepoint rolled back" => {
            let savepoint = tx.transaction().await?;
            insert(&savepoint).await?;
            savepoint.rollback().await?;
        }
        "fails" => insert(tx).await?,
        "fails before others" => {
            let (insert, add) = (tx.prepare_cached(INSERT).await?, tx.prepare_cached(ADD).await?);
            tx.send(&insert, &[&1_i64])?;
            tx.send(&add, &[&1_i64, &1_i64])?;
            tx.send(&add, &[&1_i64, &1_i64])?;
        }
        "fails, then one is ignored" => {
            insert(tx).await?;
            let _ = tx.query_one(sum, &[]).await;
        }
        "fails, then one is awaited" => {
            insert(tx).await?;
            return Ok(tx.query_one(sum, &[]).await?.get(0));
        }
        "fails in a dry run" => {
            tx.set_rollback_only();
            insert(tx).await?;
        }
        "fails, then own error" => {
            insert(tx).await?;
            return Err(own_error());
        }
        "fails and is seen to, then own error" => {
            insert(tx).await?;
            let _ = tx.query_one(sum, &[]).await;
            return Err(own_error());
        }
        "ended" => {
            let commit = tx.prepare("COMMIT").await?;
            tx.send(&commit, &[])?;
        }
        "ended, then awaited" => {
            tx.send_typed("COMMIT", &[])?;
            return Ok(tx.query_one(sum, &[]).await?.get(0));
        }
        "panic" => {
            add(tx).await?;
            panic!("after a send");
        }
        _ => unreachable!("{how}"),
    }
    Ok(0)
}

#[transactional(begin = "pipelined")]
async fn pipelined(tx: &mut Transaction<'_>, how: &str) -> Result<i64, Error> {
    body(&mut *tx, how).await
}

/// On a pool, a client, a nested call with a pipelined BEGIN, and a transaction of the driver's.
const SOURCES: [&str; 4] = ["pool", "client", "nested", "driver"];

async fn run(db: &Database, source: &str, how: &str) -> Result<i64, Error> {
    let call = async {
        let mut client = db.client().await;
        match source {
            "pool" => body(&db.pool(1), how).await,
            "client" => body(&mut client, how).await,
            "nested" => pipelined(&db.pool(1), how).await,
            _ => {
                let mut tx = client.transaction().await.unwrap();
                let result = body(&mut tx, how).await;
                tx.commit().await.unwrap();
                result
            }
        }
    };
    timeout(SOON, call).await.expect("the call hangs")
}

#[tokio::test]
async fn what_was_sent_is_committed() {
    let db = database().await;
    for source in SOURCES {
        for (how, one, seen) in [
            ("one", 110, 0),
            ("many", 100 + 499_500, 0),
            ("then awaited", 110, 220),
            ("then the driver's client", 110, 220),
            ("null", 7, 0),
            ("nested", 110, 0),
            ("savepoint", 110, 0),
        ] {
            db.setup("UPDATE accounts SET cents = 100").await;
            assert_eq!(run(&db, source, how).await.unwrap(), seen, "{how} on {source}");
            assert_eq!(cents(&db).await, (one, 110), "{how} on {source}");
        }
    }
}

#[tokio::test]
async fn a_failure_is_that_of_the_call() {
    let db = database().await;
    for source in SOURCES {
        for how in [
            "fails",
            "fails before others",
            "fails, then one is ignored",
            "fails, then one is awaited",
            "fails in a dry run",
            "nested fails",
        ] {
            let events = Events::capture();
            let Err(error) = run(&db, source, how).await else { panic!("{how} on {source}") };
            assert!(is_unique_violation(&error), "{how} on {source}: {error:?}");
            assert_eq!(events.all().len(), 0, "{how} on {source}: {events:?}");
            assert_eq!(cents(&db).await, (100, 100), "{how} on {source}");
        }
        for how in ["fails, then own error", "fails and is seen to, then own error"] {
            let error = run(&db, source, how).await.unwrap_err();
            assert!(matches!(error, Error::Pool(_)), "{how} on {source}: {error:?}");
            assert_eq!(cents(&db).await, (100, 100), "{how} on {source}");
        }
    }
    assert_eq!(db.open_transactions().await, 0);
}

#[derive(Debug, thiserror::Error)]
#[error("the sum is not known")]
enum SumError {
    Query(#[source] tokio_postgres::Error),
    Call(#[from] Error),
}

#[transactional]
async fn sum_after_a_failure(tx: &mut Transaction<'_>) -> Result<i64, SumError> {
    insert(tx).await?;
    let row = tx.query_one("SELECT sum(cents)::bigint FROM accounts", &[]).await.map_err(SumError::Query)?;
    Ok(row.get(0))
}

#[tokio::test]
async fn an_error_of_another_type_reaches_the_caller_unchanged() {
    let db = database().await;
    let events = Events::capture();
    let error = sum_after_a_failure(&db.pool(1)).await.unwrap_err();
    let SumError::Query(error) = error else { panic!("{error:?}") };
    assert_eq!(error.code(), Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
    assert_eq!(events.of("an earlier statement had failed").len(), 1, "{events:?}");
}

#[tokio::test]
async fn a_savepoint_forgives_a_failure() {
    let db = database().await;
    for source in SOURCES {
        for how in [
            "forgiven",
            "forgiven with an error of its own",
            "savepoint fails",
            "savepoint dropped",
            "savepoint rolled back",
        ] {
            db.setup("UPDATE accounts SET cents = 100").await;
            let events = Events::capture();
            run(&db, source, how).await.unwrap();
            assert_eq!(cents(&db).await, (100, 110), "{how} on {source}");
            assert_eq!(events.all().len(), 0, "{how} on {source}: {events:?}");
        }
    }
}

#[tokio::test]
async fn a_sent_commit_is_detected() {
    let db = database().await;
    for how in ["ended", "ended, then awaited"] {
        db.setup("UPDATE accounts SET cents = 100").await;
        let error = body(&db.pool(1), how).await.unwrap_err();
        assert!(matches!(error, Error::EndedByBody), "{how}: {error:?}");
        assert_eq!(cents(&db).await, (100, 110), "{how}");
    }
}

#[tokio::test]
async fn a_panic_after_a_send_rolls_back() {
    let db = database().await;
    let (pool, mut client) = (db.pool(1), db.client().await);
    assert!(AssertUnwindSafe(body(&pool, "panic")).catch_unwind().await.is_err());
    assert!(AssertUnwindSafe(body(&mut client, "panic")).catch_unwind().await.is_err());
    client.batch_execute("SELECT 1").await.unwrap();
    pool.get().await.unwrap().batch_execute("SELECT 1").await.unwrap();
    assert_eq!((cents(&db).await, db.open_transactions().await), ((100, 100), 0));
}

#[transactional]
async fn with_faulty_parameters(tx: &mut Transaction<'_>) -> Result<(), Error> {
    let add = tx.prepare_cached(ADD).await?;
    tx.send(&add, &[&1_i64, &1_i64])?;
    let sent = tx.send(&add, &[&1_i64]).unwrap_err().to_string();
    assert_eq!(sent, tx.execute(&add, &[&1_i64]).await.unwrap_err().to_string());
    let sent = tx.send(&add, &[&1_i64, &1_i64, &1_i64]).unwrap_err().to_string();
    assert_eq!(sent, tx.execute(&add, &[&1_i64, &1_i64, &1_i64]).await.unwrap_err().to_string());
    let sent = tx.send_expecting(1, &add, &[&1_i64, &"text"]).unwrap_err().to_string();
    assert_eq!(sent, tx.execute(&add, &[&1_i64, &"text"]).await.unwrap_err().to_string());
    let typed = [(&1_i64 as _, Type::INT8), (&"text" as _, Type::INT8)];
    let sent = tx.send_typed(ADD, &typed).unwrap_err().to_string();
    assert_eq!(sent, tx.execute_typed(ADD, &typed).await.unwrap_err().to_string());
    tx.send(&add, &[&1_i64, &2_i64])?;
    Ok(())
}

#[tokio::test]
async fn a_faulty_parameter_is_an_error_of_the_send_and_the_transaction_goes_on() {
    let db = database().await;
    with_faulty_parameters(&db.pool(1)).await.unwrap();
    assert_eq!(cents(&db).await, (101, 101));
}

#[tokio::test]
async fn a_statement_sent_on_a_closed_connection_fails_the_attempt() {
    let db = database().await;
    let pool = pool(db.config(), 1);
    assert_eq!(close_and_add(&pool, &db).await.unwrap(), 2);
    assert_eq!(cents(&db).await, (110, 100));
}

#[transactional]
async fn close_and_add(tx: &mut Transaction<'_>, db: &Database) -> Result<u32, Error> {
    let add = tx.prepare_cached(ADD).await?;
    if tx.attempt() == 1 {
        let pid = retry_tests::rival::pid(tx).await;
        retry_tests::rival::terminate(&db.client().await, pid).await;
        while !tx.is_closed() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    tx.send(&add, &[&10_i64, &1_i64])?;
    Ok(tx.attempt())
}
