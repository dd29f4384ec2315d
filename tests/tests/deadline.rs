//! `deadline` bounds the whole call, whatever hangs.
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
async fn nap(tx: &mut Transaction<'_>, seconds: i32) -> Result<(), Error> {
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
async fn it_bounds_the_body() {
    let db = database().await;
    let pool = db.pool(1);
    nap(&pool, 0).await.unwrap();
    assert_exceeded(nap(&pool, 60).await, Phase::Body);
    assert_eq!(pool.status().available, 0, "its connection is being cleaned up");
    assert_exceeded(nap(&db.pool(1), 0).await, Phase::Body); // The row is locked.
}

#[tokio::test]
async fn it_bounds_the_body_on_a_lone_client() {
    let db = database().await;
    let proxy = Proxy::start(db.config()).await.unwrap();
    let mut client = retry_tests::connect(proxy.config()).await;
    assert_exceeded(naps_without_the_server(&mut client).await, Phase::Body);
    assert_eq!(naps_and_reads(&mut client).await.unwrap(), 100, "rolled back before anything else");
}

#[transactional(deadline = LIMIT)]
async fn naps_without_the_server(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = 0", &[]).await?;
    std::future::pending().await
}

#[transactional(deadline = LIMIT)]
async fn naps_and_reads(tx: &mut Transaction<'_>) -> Result<i64, Error> {
    Ok(tx.query_one("SELECT cents FROM accounts", &[]).await?.get(0))
}

#[tokio::test]
async fn it_bounds_the_wait_for_the_pool() {
    let db = database().await;
    let pool = db.pool(1);
    let held = pool.get().await.unwrap();
    assert_exceeded(nap(&pool, 0).await, Phase::Pool);
    drop(held);
    nap(&pool, 0).await.unwrap();
}

#[tokio::test]
async fn it_bounds_a_server_that_accepts_and_says_nothing() {
    let db = database().await;
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let pool = retry_tests::pool(&redirect(db.config(), silent.local_addr().unwrap().port()), 1);
    assert_exceeded(nap(&pool, 0).await, Phase::Pool);
}

#[tokio::test]
async fn it_bounds_a_connection_that_answers_no_more() {
    let db = database().await;
    let proxy = Proxy::start(db.config()).await.unwrap();
    for (text, phase) in [("BEGIN", Phase::Begin), ("pg_sleep", Phase::Body)] {
        let pool = retry_tests::pool(proxy.config(), 1);
        proxy.arm(Fault { text, request: 0, reply: 0, cut: Cut::Silent });
        let events = Events::capture();
        assert_exceeded(nap(&pool, 0).await, phase);
        // The clean-up waits its two seconds in vain; the pool then connects anew.
        nap_without_limit(&pool).await.unwrap();
        assert_eq!(events.of("connection discarded").len(), 1, "{events:?}");
    }
}

#[transactional]
async fn nap_without_limit(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.batch_execute("SELECT 1").await?;
    Ok(())
}

#[tokio::test]
async fn in_commit_the_outcome_is_unknown() {
    let db = database().await;
    let proxy = Proxy::start(db.config()).await.unwrap();
    let pool = retry_tests::pool(proxy.config(), 1);
    proxy.arm(Fault { text: "COMMIT", request: usize::MAX, reply: 0, cut: Cut::Silent });
    let error = nap(&pool, 0).await.unwrap_err();
    assert!(matches!(error, Error::CommitUnknown { source: None, .. }), "{error:?}");
    assert_eq!(classify(&error), Some(Class::CommitUnknown));
    assert_eq!(db.cents(1).await, 101);
}

/// The body swallows a failure, so that COMMIT will not run; nobody waits for that any more.
#[transactional(deadline = LIMIT)]
async fn abort(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = 0", &[]).await?;
    let client: &tokio_postgres::Client = tx;
    let _ = client.batch_execute("SELECT 1 / 0").await;
    Ok(())
}

#[tokio::test]
async fn a_lone_client_is_outside_of_a_transaction_after_a_deadline_in_commit() {
    let db = database().await;
    let proxy = Proxy::start(db.config()).await.unwrap();
    let mut client = retry_tests::connect(proxy.config()).await;
    proxy.delay("COMMIT", 2 * LIMIT);
    let error = abort(&mut client).await.unwrap_err();
    assert!(matches!(error, Error::CommitUnknown { source: None, .. }), "{error:?}");
    let events = Events::capture();
    nap_without_limit(&mut client).await.unwrap();
    let reports = events.of("call dropped in commit");
    assert_eq!(events.all().len(), reports.len(), "no transaction was left open: {events:?}");
    assert!(reports.iter().all(|report| report["outcome"] == "rolled back"), "{events:?}");
    assert_eq!(db.cents(1).await, 100);
}

#[transactional(deadline = "20s", isolation = "repeatable read", base_delay = "20s", jitter = "none")]
async fn lose(tx: &mut Transaction<'_>, rival: &Rival, attempts: &AtomicU32) -> Result<(), Error> {
    attempts.store(tx.attempt(), Ordering::Relaxed);
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 1", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn no_sleep_starts_that_would_cross_it() {
    let db = database().await;
    let (pool, rival, attempts) = (db.pool(1), Rival::connect(&db).await, AtomicU32::new(0));
    drop(pool.get().await.unwrap());
    let events = Events::capture();
    let error = lose(&pool, &rival, &attempts).await.unwrap_err();
    let Error::DeadlineExceeded { phase: Phase::BackOff, .. } = &error else { panic!("{error:?}") };
    assert_eq!(error.as_db_error().expect("the last failure").code().code(), "40001");
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
    let exceeded = events.of("deadline exceeded");
    assert_eq!((exceeded.len(), exceeded[0]["sqlstate"].as_str()), (1, "40001"), "{events:?}");
}

/// The failure of an earlier attempt is the source where the last one only ran out of time.
#[transactional(deadline = LIMIT, isolation = "repeatable read")]
async fn lose_and_hang(tx: &mut Transaction<'_>, rival: &Rival) -> Result<(), Error> {
    if tx.attempt() > 1 {
        return std::future::pending().await;
    }
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 1", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn its_source_is_the_last_failure() {
    let db = database().await;
    let rival = Rival::connect(&db).await;
    let error = lose_and_hang(&db.pool(1), &rival).await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { phase: Phase::Body, .. }), "{error:?}");
    assert_eq!(error.as_db_error().unwrap().code().code(), "40001");
    assert_eq!(classify(&error), Some(Class::Fatal));
}

/// Overruns without a moment at which it could be cut off.
#[transactional(deadline = LIMIT)]
async fn block_the_thread(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = 0", &[]).await?;
    std::thread::sleep(LIMIT);
    Ok(())
}

#[tokio::test]
async fn no_commit_leaves_after_it() {
    let db = database().await;
    let (pool, mut client) = (db.pool(1), db.client().await);
    let events = Events::capture();
    assert_exceeded(block_the_thread(&pool).await, Phase::Body);
    drop(pool.get().await.unwrap());
    assert_exceeded(block_the_thread(&mut client).await, Phase::Body);
    nap_without_limit(&mut client).await.unwrap();
    assert_eq!(db.cents(1).await, 100);
    assert_eq!(db.open_transactions().await, 0);
    assert_eq!(events.of("deadline exceeded").len(), 2, "{events:?}");
}
