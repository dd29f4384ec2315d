//! Retry budgets: which failures are retried and how often. Promise 4: a call that sleeps before a retry holds nothing.
#![allow(missing_docs)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use retry_runtime::{Class, Error, Transaction, classify, transactional};
use retry_tests::proxy::{Cut, Fault, Proxy};
use retry_tests::rival::{Rival, pid, terminate, wait_until};
use retry_tests::{Database, connect};
use tokio_postgres::Client;

async fn database() -> Database {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    db
}

/// Counts attempts, and terminates the session of each of the first `terminations`.
struct Terminator {
    observer: Client,
    terminations: u32,
    attempts: AtomicU32,
}

impl Terminator {
    async fn new(db: &Database, terminations: u32) -> Self {
        Self { observer: db.client().await, terminations, attempts: AtomicU32::new(0) }
    }

    async fn terminate_session(&self, tx: &Transaction<'_>) {
        self.attempts.store(tx.attempt(), Ordering::Relaxed);
        if tx.attempt() <= self.terminations {
            terminate(&self.observer, pid(tx).await).await;
        }
    }

    fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed)
    }
}

#[transactional]
async fn terminated(tx: &mut Transaction<'_>, terminator: &Terminator) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 1", &[]).await?;
    terminator.terminate_session(tx).await;
    tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 2", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn a_closed_connection_is_retried_on_another_one_up_to_three_attempts() {
    let db = database().await;
    let pool = db.pool(2);
    let terminator = Terminator::new(&db, 2).await;
    terminated(&pool, &terminator).await.unwrap();
    assert_eq!(terminator.attempts(), 3);
    assert_eq!((db.cents(1).await, db.cents(2).await), (101, 101));

    let terminator = Terminator::new(&db, u32::MAX).await;
    let error = terminated(&pool, &terminator).await.unwrap_err();
    assert_eq!(classify(&error), Some(Class::Connection));
    assert_eq!(terminator.attempts(), 3, "the first attempt and 2 retries");
    assert_eq!((db.cents(1).await, db.cents(2).await), (101, 101));
}

#[tokio::test]
async fn a_client_is_not_retried_once_its_connection_is_closed() {
    let db = database().await;
    let mut client = db.client().await;
    let terminator = Terminator::new(&db, 1).await;
    let error = terminated(&mut client, &terminator).await.unwrap_err();
    assert_eq!(classify(&error), Some(Class::Connection));
    assert_eq!(terminator.attempts(), 1);
    assert_eq!(db.cents(1).await, 100);
}

#[transactional]
async fn terminated_and_swallowed(tx: &mut Transaction<'_>, terminator: &Terminator) -> Result<(), Error> {
    terminator.terminate_session(tx).await;
    let _ = tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 1", &[]).await;
    Ok(())
}

/// COMMIT is not sent on a connection that is known to be closed, so the outcome is known.
#[tokio::test]
async fn a_swallowed_connection_failure_does_not_make_the_commit_unknown() {
    let db = database().await;
    let terminator = Terminator::new(&db, 1).await;
    terminated_and_swallowed(&db.pool(2), &terminator).await.unwrap();
    assert_eq!((terminator.attempts(), db.cents(1).await), (2, 101));
    let mut client = db.client().await;
    let terminator = Terminator::new(&db, 1).await;
    let error = terminated_and_swallowed(&mut client, &terminator).await.unwrap_err();
    assert!(matches!(error, Error::Aborted { .. }), "{error:?}");
}

#[transactional(retries = 0, deadlock_retries = 0)]
async fn once(tx: &mut Transaction<'_>, terminator: &Terminator) -> Result<(), Error> {
    terminator.terminate_session(tx).await;
    tx.execute("SELECT 1", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn budgets_of_zero_mean_one_attempt() {
    let db = database().await;
    let terminator = Terminator::new(&db, 1).await;
    once(&db.pool(1), &terminator).await.unwrap_err();
    assert_eq!(terminator.attempts(), 1);
}

#[derive(Debug, thiserror::Error)]
enum Stale {
    #[error("another transaction changed it")]
    Version,
    #[error(transparent)]
    Runtime(#[from] Error),
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
}

impl Stale {
    fn is_version(&self) -> bool {
        matches!(self, Self::Version)
    }
}

#[transactional(retry_if = Stale::is_version, deadlock_retries = 3)]
async fn always_stale(tx: &mut Transaction<'_>, attempts: &AtomicU32) -> Result<(), Stale> {
    attempts.store(tx.attempt(), Ordering::Relaxed);
    tx.execute("UPDATE accounts SET cents = 0", &[]).await?;
    Err(Stale::Version)
}

#[transactional(retry_if = |error| matches!(error, Stale::Postgres(_)))]
async fn stale_but_not_matched(tx: &mut Transaction<'_>, attempts: &AtomicU32) -> Result<(), Stale> {
    attempts.store(tx.attempt(), Ordering::Relaxed);
    Err(Stale::Version)
}

#[tokio::test]
async fn retry_if_retries_the_bodys_own_errors_on_the_conflict_budget() {
    let db = database().await;
    let attempts = AtomicU32::new(0);
    let error = always_stale(&db.pool(1), &attempts).await.unwrap_err();
    assert!(matches!(error, Stale::Version));
    assert_eq!(attempts.load(Ordering::Relaxed), 4);
    assert_eq!(db.cents(1).await, 100);
    stale_but_not_matched(&db.pool(1), &attempts).await.unwrap_err();
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
}

#[transactional(retry_on = ["23505", "23P01"])]
async fn insert(tx: &mut Transaction<'_>, id: i64, attempts: &AtomicU32) -> Result<(), Error> {
    attempts.store(tx.attempt(), Ordering::Relaxed);
    tx.execute("INSERT INTO accounts VALUES ($1, 0)", &[&id]).await?;
    Ok(())
}

#[tokio::test]
async fn retry_on_retries_its_codes_on_the_budget_for_transient_failures() {
    let db = database().await;
    let attempts = AtomicU32::new(0);
    let error = insert(&db.pool(1), 1, &attempts).await.unwrap_err();
    assert_eq!(error.as_db_error().unwrap().code().code(), "23505");
    assert_eq!(attempts.load(Ordering::Relaxed), 3);
}

#[transactional]
async fn runs(tx: &mut Transaction<'_>, sql: &str, attempts: &AtomicU32) -> Result<(), Error> {
    attempts.store(tx.attempt(), Ordering::Relaxed);
    tx.batch_execute("SELECT 1").await?;
    tx.batch_execute(sql).await?;
    Ok(())
}

#[transactional(read_only)]
async fn writes_in_read_only(tx: &mut Transaction<'_>, attempts: &AtomicU32) -> Result<(), Error> {
    attempts.store(tx.attempt(), Ordering::Relaxed);
    tx.batch_execute("UPDATE accounts SET cents = 0").await?;
    Ok(())
}

#[tokio::test]
async fn mistakes_are_not_retried() {
    let db = database().await;
    let pool = db.pool(1);
    for (sql, code) in [
        ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "25001"),
        ("INVALID TXN STATEMENT", "42601"),
        ("INSERT INTO accounts VALUES (1, 0)", "23505"),
        ("SELECT FROM nowhere", "42P01"),
        ("SELECT 1 / 0", "22012"),
        // It says that an earlier statement has failed. But none has, and none is without a reply.
        ("DO $$BEGIN RAISE SQLSTATE '25P02'; END$$", "25P02"),
        ("SET LOCAL statement_timeout = 1; SELECT pg_sleep(10)", "57014"),
    ] {
        let attempts = AtomicU32::new(0);
        let error = runs(&pool, sql, &attempts).await.unwrap_err();
        let Error::Postgres(source) = &error else { panic!("{error:?}") };
        assert_eq!(source.code().expect(sql).code(), code);
        assert_eq!(attempts.load(Ordering::Relaxed), 1, "{sql}");
        assert_eq!(classify(&error), Some(Class::Fatal), "{sql}");
    }
    let attempts = AtomicU32::new(0);
    let error = writes_in_read_only(&pool, &attempts).await.unwrap_err();
    assert_eq!(classify(&error), Some(Class::ReadOnly));
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
}

#[transactional]
async fn continues_after_a_failure(tx: &mut Transaction<'_>, attempts: &AtomicU32) -> Result<(), Error> {
    attempts.store(tx.attempt(), Ordering::Relaxed);
    let _ = tx.batch_execute("INVALID TXN STATEMENT").await;
    tx.batch_execute("SELECT 1").await?;
    Ok(())
}

#[tokio::test]
async fn a_body_that_continues_after_a_permanent_failure_is_not_retried() {
    let db = database().await;
    let attempts = AtomicU32::new(0);
    let error = continues_after_a_failure(&db.pool(1), &attempts).await.unwrap_err();
    let Error::Aborted { source: Some(first), .. } = &error else { panic!("{error:?}") };
    assert_eq!(first.code().code(), "42601", "the failure, not its symptom");
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
}

#[transactional(
    deadlock_retries = 1,
    base_delay = "400ms",
    max_delay = "400ms",
    jitter = "none",
    isolation = "repeatable read"
)]
async fn sleeps_after_a_conflict(tx: &mut Transaction<'_>, rival: &Rival) -> Result<(), Error> {
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    if tx.attempt() == 1 {
        rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    }
    tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 1", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn a_call_that_sleeps_before_a_retry_holds_nothing() {
    let db = database().await;
    let (pool, rival) = (db.pool(1), Rival::connect(&db).await);
    let mut call = std::pin::pin!(sleeps_after_a_conflict(&pool, &rival));
    let began = std::time::Instant::now();
    assert!(tokio::time::timeout(Duration::from_millis(200), call.as_mut()).await.is_err(), "it sleeps");
    assert_eq!(pool.status().available, 1, "no pooled connection");
    assert_eq!(db.open_transactions().await, 0, "no transaction");
    let locks = "SELECT count(*) FROM pg_locks JOIN pg_class ON pg_class.oid = relation WHERE relname = 'accounts'";
    assert_eq!(db.value::<i64>(locks).await, 0, "no lock");
    call.await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(400), "the delay is the one of the policy");
    assert_eq!(db.cents(1).await, 102);
}

#[transactional(lock_timeout = "50ms", deadlock_retries = 0)]
async fn short_lock_timeout(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = 0 WHERE id = 1", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn a_lock_timeout_is_a_lock_conflict() {
    let db = database().await;
    let rival = connect(db.config()).await;
    rival.batch_execute("BEGIN; UPDATE accounts SET cents = 7 WHERE id = 1").await.unwrap();
    let error = short_lock_timeout(&db.pool(1)).await.unwrap_err();
    assert_eq!(classify(&error), Some(Class::Lock));
}

#[tokio::test]
async fn a_conflict_is_not_retried_on_a_client_whose_connection_fails_in_the_rollback() {
    let db = database().await;
    let proxy = Proxy::start(db.config()).await.unwrap();
    let (mut client, attempts) = (connect(proxy.config()).await, AtomicU32::new(0));
    proxy.arm(Fault { text: "ROLLBACK", request: 0, reply: 0, cut: Cut::Close });
    let sql = "DO $$BEGIN RAISE SQLSTATE '40001'; END$$";
    let error = runs(&mut client, sql, &attempts).await.unwrap_err();
    assert_eq!(classify(&error), Some(Class::Serialization));
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_cancel_request_is_not_retried() {
    let db = database().await;
    let (pool, attempts) = (db.pool(1), AtomicU32::new(0));
    let observer = db.client().await;
    let call = runs(&pool, "SELECT pg_sleep(60)", &attempts);
    let cancel = async {
        let pid: i32 = loop {
            let sql = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)' AND pid <> pg_backend_pid()";
            match observer.query_opt(sql, &[]).await.unwrap() {
                Some(row) => break row.get(0),
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        wait_until(&observer, "wait_event = 'PgSleep'", pid).await;
        observer.execute("SELECT pg_cancel_backend($1)", &[&pid]).await.unwrap();
    };
    let (called, ()) = tokio::join!(call, cancel);
    assert_eq!(classify(&called.unwrap_err()), Some(Class::Fatal));
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
}
