//! `BEGIN`: the transaction's options, and a transaction that other code left open on the connection.
#![allow(missing_docs)]

use retry_runtime::{Error, Transaction, transactional};
use retry_tests::Database;
use retry_tests::events::Events;
use tokio_postgres::Client;

async fn setting(client: &Client, name: &str) -> Result<String, Error> {
    Ok(client.query_one(&format!("SHOW {name}"), &[]).await?.get(0))
}

macro_rules! settings {
    ($function:ident, [$($name:literal),*] $(, $option:meta)*) => {
        #[transactional($($option),*)]
        async fn $function(tx: &mut Transaction<'_>) -> Result<Vec<String>, Error> {
            Ok(vec![$(setting(tx, $name).await?),*])
        }
    };
}

settings!(defaults, ["transaction_isolation", "transaction_read_only", "transaction_deferrable", "lock_timeout"]);
settings!(read_committed, ["transaction_isolation"], isolation = "read committed");
settings!(repeatable_read, ["transaction_isolation"], isolation = "repeatable read");
settings!(serializable, ["transaction_isolation"], isolation = "serializable");
settings!(
    report,
    ["transaction_isolation", "transaction_read_only", "transaction_deferrable"],
    isolation = "serializable",
    read_only,
    deferrable
);
settings!(
    timeouts,
    ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"],
    statement_timeout = "2s",
    lock_timeout = "1500us",
    idle_timeout = "1m"
);

#[tokio::test]
async fn options_apply_to_the_transaction_only() {
    let db = Database::create().await;
    let mut client = db.client().await;
    client
        .batch_execute("SET default_transaction_isolation = 'repeatable read'; SET lock_timeout = '7s'")
        .await
        .unwrap();
    assert_eq!(defaults(&mut client).await.unwrap(), ["repeatable read", "off", "off", "7s"]);
    assert_eq!(read_committed(&mut client).await.unwrap(), ["read committed"]);
    assert_eq!(repeatable_read(&mut client).await.unwrap(), ["repeatable read"]);
    assert_eq!(serializable(&mut client).await.unwrap(), ["serializable"]);
    assert_eq!(report(&mut client).await.unwrap(), ["serializable", "on", "on"]);
    assert_eq!(timeouts(&mut client).await.unwrap(), ["2s", "2ms", "1min"]);
    assert_eq!(setting(&client, "statement_timeout").await.unwrap(), "0");
    assert_eq!(setting(&client, "lock_timeout").await.unwrap(), "7s");
}

#[transactional]
async fn add(tx: &mut Transaction<'_>, cents: i64) -> Result<u32, Error> {
    tx.execute("UPDATE accounts SET cents = cents + $1 WHERE id = 1", &[&cents]).await?;
    Ok(tx.attempt())
}

#[transactional(isolation = "serializable")]
async fn add_serializable(tx: &mut Transaction<'_>, cents: i64) -> Result<u32, Error> {
    tx.execute("UPDATE accounts SET cents = cents + $1 WHERE id = 1", &[&cents]).await?;
    Ok(tx.attempt())
}

/// What the open transaction wrote must not be committed with the call's own writes.
#[tokio::test]
async fn a_transaction_that_was_left_open_is_rolled_back_before_the_call_begins_its_own() {
    for left in [
        "BEGIN; UPDATE accounts SET cents = 0",
        "BEGIN ISOLATION LEVEL SERIALIZABLE; UPDATE accounts SET cents = 0",
        "BEGIN; UPDATE accounts SET cents = 0; SAVEPOINT a; UPDATE accounts SET cents = 1",
        "BEGIN; UPDATE accounts SET cents = 0; SELECT 1 / 0",
    ] {
        let db = Database::create().await;
        db.accounts(2, 100).await;
        let pool = db.pool(1);
        for serializable in [false, true] {
            let _ = pool.get().await.unwrap().batch_execute(left).await;
            let events = Events::capture();
            let attempt = if serializable { add_serializable(&pool, 5).await } else { add(&pool, 5).await };
            assert_eq!(attempt.unwrap(), 1, "it costs no retry: {left}");
            let warnings = events.of("rolled back a transaction that was left open");
            assert_eq!(warnings.len(), 1, "{left}: {events:?}");
            assert_eq!(warnings[0]["level"], "WARN");
        }
        assert_eq!((db.cents(1).await, db.cents(2).await), (110, 100), "{left}");
        assert_eq!(db.open_transactions().await, 0);
    }
}

#[transactional(name = "quick")]
async fn named(tx: &mut Transaction<'_>) -> Result<String, Error> {
    Ok(format!("{tx:?}"))
}

#[tokio::test]
async fn a_function_is_named_by_its_path_or_by_its_option() {
    let db = Database::create().await;
    let pool = db.pool(1);
    assert!(named(&pool).await.unwrap().contains(r#"function: "quick""#));
    assert!(by_path(&pool).await.unwrap().contains(r#"function: "begin::by_path""#));
}

#[transactional]
async fn by_path(tx: &mut Transaction<'_>) -> Result<String, Error> {
    Ok(format!("{tx:?}"))
}
