//! `deadline`: limits the whole call, whatever hangs.
#![allow(missing_docs)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use retry_runtime::{Class, Error, Phase, Transaction, classify, transactional};
use retry_tests::Database;
use retry_tests::events::Events;
use retry_tests::proxy::{Cut, Fault, Proxy, redirect};
use retry_tests::rival::Rival;

const LIMIT: Duration = Duration::from_millis(300);

#[transactional(deadline = LIMIT)]
async fn sleep(tx: &mut Transaction<'_>, seconds: i32) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 1", &[]).await?;
    tx.batch_execute(&format!("SELECT pg_sleep({seconds})")).await?;
    Ok(())
}

#[track_caller]
fn assert_exceeded<T: std::fmt::Debug>(result: Result<T, Error>, expected: Phase) {
    match result {
        Err(Error::DeadlineExceeded { phase, .. }) => assert_eq!(phase, expected),
        other => panic!("{other:?}"),
    }
}

async fn database() -> Database {
    let db = Database::create().await;
    db.accounts(1, 100).await;
    db
}

#[tokio::test]
async fn the_deadline_ends_the_body() {
    let db = database().await;
    let pool = db.pool(1);
    sleep(&pool, 0).await.unwrap();
    assert_exceeded(sleep(&pool, 60).await, Phase::Body);
    assert_eq!(pool.status().available, 0, "a background task cleans up its connection");
    let rival = Rival::connect(&db).await;
    rival.run("BEGIN; UPDATE accounts SET cents = 0 WHERE id = 1").await;
    assert_exceeded(sleep(&db.pool(1), 0).await, Phase::Body); // The row is locked.
}

#[tokio::test]
async fn the_deadline_ends_the_body_on_a_client() {
    let db = database().await;
    let proxy = Proxy::start(db.config()).await.unwrap();
    let mut client = retry_tests::connect(proxy.config()).await;
    assert_exceeded(hang(&mut client).await, Phase::Body);
    assert_eq!(read(&mut client).await.unwrap(), 100, "rolled back before the next statement");
}

#[transactional(deadline = LIMIT)]
async fn hang(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = 0", &[]).await?;
    std::future::pending().await
}

#[transactional(deadline = LIMIT)]
async fn read(tx: &mut Transaction<'_>) -> Result<i64, Error> {
    Ok(tx.query_one("SELECT cents FROM accounts", &[]).await?.get(0))
}

#[tokio::test]
async fn the_deadline_ends_the_wait_for_a_connection() {
    let db = database().await;
    let pool = db.pool(1);
    let held = pool.get().await.unwrap();
    assert_exceeded(sleep(&pool, 0).await, Phase::Pool);
    drop(held);
    sleep(&pool, 0).await.unwrap();
}

#[tokio::test]
async fn the_deadline_ends_the_wait_for_a_server_that_never_replies() {
    let db = database().await;
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let pool = retry_tests::pool(&redirect(db.config(), silent.local_addr().unwrap().port()), 1);
    assert_exceeded(sleep(&pool, 0).await, Phase::Pool);
}

#[tokio::test]
async fn the_deadline_ends_the_wait_for_a_silent_connection() {
    let db = database().await;
    let proxy = Proxy::start(db.config()).await.unwrap();
    for (text, phase) in [("BEGIN", Phase::Begin), ("pg_sleep", Phase::Body)] {
        let pool = retry_tests::pool(proxy.config(), 1);
        proxy.arm(Fault { text, request: 0, reply: 0, cut: Cut::Silent });
        let events = Events::capture();
        assert_exceeded(sleep(&pool, 0).await, phase);
        // The clean-up gives up after half a second. The pool then opens another connection.
        no_deadline(&pool).await.unwrap();
        assert_eq!(events.of("connection discarded").len(), 1, "{events:?}");
    }
}

#[transactional]
async fn no_deadline(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.batch_execute("SELECT 1").await?;
    Ok(())
}

#[tokio::test]
async fn after_a_deadline_in_commit_the_outcome_is_unknown() {
    let db = database().await;
    let proxy = Proxy::start(db.config()).await.unwrap();
    let pool = retry_tests::pool(proxy.config(), 1);
    proxy.arm(Fault { text: "COMMIT", request: usize::MAX, reply: 0, cut: Cut::Silent });
    let error = sleep(&pool, 0).await.unwrap_err();
    assert!(matches!(error, Error::CommitUnknown { source: None, .. }), "{error:?}");
    assert_eq!(classify(&error), Some(Class::CommitUnknown));
    assert_eq!(db.cents(1).await, 101);
}

/// Swallows a failure that the runtime does not see, so the server rolls back at COMMIT.
#[transactional(deadline = LIMIT)]
async fn abort(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = 0", &[]).await?;
    let client: &tokio_postgres::Client = tx;
    let _ = client.batch_execute("SELECT 1 / 0").await;
    Ok(())
}

#[tokio::test]
async fn a_client_is_outside_any_transaction_after_a_deadline_in_commit() {
    let db = database().await;
    let proxy = Proxy::start(db.config()).await.unwrap();
    let mut client = retry_tests::connect(proxy.config()).await;
    proxy.delay("COMMIT", 2 * LIMIT);
    let error = abort(&mut client).await.unwrap_err();
    assert!(matches!(error, Error::CommitUnknown { source: None, .. }), "{error:?}");
    let events = Events::capture();
    no_deadline(&mut client).await.unwrap();
    let reports = events.of("call dropped in commit");
    assert_eq!(events.all().len(), reports.len(), "no transaction was left open: {events:?}");
    assert!(reports.iter().all(|report| report["outcome"] == "rolled back"), "{events:?}");
    assert_eq!(db.cents(1).await, 100);
}

#[transactional(deadline = "20s", isolation = "repeatable read", base_delay = "20s", jitter = "none")]
async fn conflict(tx: &mut Transaction<'_>, rival: &Rival, attempts: &AtomicU32) -> Result<(), Error> {
    attempts.store(tx.attempt(), Ordering::Relaxed);
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 1", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn a_sleep_that_would_cross_the_deadline_does_not_start() {
    let db = database().await;
    let (pool, rival, attempts) = (db.pool(1), Rival::connect(&db).await, AtomicU32::new(0));
    drop(pool.get().await.unwrap());
    let events = Events::capture();
    let error = conflict(&pool, &rival, &attempts).await.unwrap_err();
    let Error::DeadlineExceeded { phase: Phase::BackOff, .. } = &error else { panic!("{error:?}") };
    assert_eq!(error.as_db_error().expect("the last failure").code().code(), "40001");
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
    let exceeded = events.of("deadline exceeded");
    assert_eq!((exceeded.len(), exceeded[0]["sqlstate"].as_str()), (1, "40001"), "{events:?}");
}

/// The first attempt fails, and the second one only runs out of time.
#[transactional(deadline = LIMIT, isolation = "repeatable read")]
async fn conflict_then_hang(tx: &mut Transaction<'_>, rival: &Rival) -> Result<(), Error> {
    if tx.attempt() > 1 {
        return std::future::pending().await;
    }
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 1", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn the_source_of_the_error_is_the_last_failure() {
    let db = database().await;
    let rival = Rival::connect(&db).await;
    let error = conflict_then_hang(&db.pool(1), &rival).await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { phase: Phase::Body, .. }), "{error:?}");
    assert_eq!(error.as_db_error().unwrap().code().code(), "40001");
    assert_eq!(classify(&error), Some(Class::Fatal));
}

#[transactional(deadline = LIMIT)]
async fn ignore_then_hang(tx: &mut Transaction<'_>) -> Result<(), Error> {
    let _ = tx.execute("INSERT INTO accounts VALUES (1, 0)", &[]).await;
    std::future::pending().await
}

#[tokio::test]
async fn the_source_of_the_error_may_be_a_failure_that_the_body_ignored() {
    let db = database().await;
    let error = ignore_then_hang(&db.pool(1)).await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { phase: Phase::Body, .. }), "{error:?}");
    assert_eq!(error.as_db_error().expect("the failure").code().code(), "23505");
}

/// Blocks its thread past the deadline, so it cannot be interrupted.
#[transactional(deadline = LIMIT)]
async fn block_the_thread(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = 0", &[]).await?;
    std::thread::sleep(LIMIT);
    Ok(())
}

#[tokio::test]
async fn no_commit_is_sent_after_the_deadline() {
    let db = database().await;
    let (pool, mut client) = (db.pool(1), db.client().await);
    let events = Events::capture();
    assert_exceeded(block_the_thread(&pool).await, Phase::Body);
    drop(pool.get().await.unwrap());
    assert_exceeded(block_the_thread(&mut client).await, Phase::Body);
    no_deadline(&mut client).await.unwrap();
    assert_eq!(db.cents(1).await, 100);
    assert_eq!(db.open_transactions().await, 0);
    assert_eq!(events.of("deadline exceeded").len(), 2, "{events:?}");
}
