//! Functions that do not survive a retry, found by `assert_retry_safe`, and the mended functions.
//!
//! Each faulty function passes a test in which its first attempt commits. `assert_retry_safe` makes attempts fail on the
//! server, and panics if a retry has other effects than a first attempt. In a test, call it without `check`. To run a whole
//! test suite with faults as it is, set `RETRY_FAULTS=conflict-once` or `RETRY_FAULTS=commit-lost-once`.
//!
//! Prints, with `--features testing`:
//!
//! ```text
//! a mail sent in the body: not safe to retry: after a fault (serialization failure before COMMIT), the call returned 2 instead of 1
//! what a body does outside of its transaction happens in each attempt: defer it with `on_commit`, or return it
//! a mail sent by on_commit: safe
//! a static counter: not safe to retry: after a fault (serialization failure before COMMIT), the call returned 2 instead of 1
//! what a body does outside of its transaction happens in each attempt: defer it with `on_commit`, or return it
//! a static counter in on_commit: safe
//! allow_mut: not safe to retry: after a fault (serialization failure before COMMIT), the call returned 2 instead of 1
//! what a body does outside of its transaction happens in each attempt: defer it with `on_commit`, or return it
//! a returned value: safe
//! unknown_commit = "retry": not safe to retry: after a fault (commit unknown, committed), table payments has 2 rows instead of 1
//! the body was applied twice: use `unknown_commit = "token"` or `"resolve"`, or make it idempotent
//! unknown_commit = "token": safe
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use deadpool_postgres::Pool;
use retry_runtime::testing::assert_retry_safe;
use retry_runtime::{Error, Transaction, install, transactional};
use retry_tests::Database;

const INSERT: &str = "INSERT INTO payments DEFAULT VALUES";

static PAYMENTS: AtomicU64 = AtomicU64::new(0);

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

fn take(count: &AtomicU64) -> u64 {
    count.swap(0, Ordering::Relaxed)
}

#[transactional]
async fn mail_in_body(tx: &mut Transaction<'_>, mails: &AtomicU64) -> Result<u64, Error> {
    add(mails); // stands for SMTP: sent, even if the attempt is rolled back
    Ok(tx.execute(INSERT, &[]).await?)
}

#[transactional]
async fn mail_after_commit(tx: &mut Transaction<'_>, mails: &Arc<AtomicU64>) -> Result<u64, Error> {
    let mails = mails.clone();
    tx.on_commit(async move { add(&mails) });
    Ok(tx.execute(INSERT, &[]).await?)
}

#[transactional]
async fn counted(tx: &mut Transaction<'_>) -> Result<u64, Error> {
    add(&PAYMENTS); // an atomic is not rolled back
    Ok(tx.execute(INSERT, &[]).await?)
}

#[transactional]
async fn counted_after_commit(tx: &mut Transaction<'_>) -> Result<u64, Error> {
    tx.on_commit(async { add(&PAYMENTS) });
    Ok(tx.execute(INSERT, &[]).await?)
}

#[transactional(allow_mut)]
async fn add_rows(tx: &mut Transaction<'_>, rows: &mut u64) -> Result<u64, Error> {
    *rows += tx.execute(INSERT, &[]).await?; // an attempt that is rolled back leaves its rows in the sum
    Ok(*rows)
}

#[transactional(unknown_commit = "retry")] // for bodies that may be applied twice, and this one may not
async fn paid_twice(tx: &mut Transaction<'_>) -> Result<u64, Error> {
    Ok(tx.execute(INSERT, &[]).await?)
}

#[transactional(unknown_commit = "token")]
async fn paid_once(tx: &mut Transaction<'_>) -> Result<u64, Error> {
    Ok(tx.execute(INSERT, &[]).await?)
}

/// Prints whether a call is safe to retry. The call returns what it counts.
async fn check<F>(name: &str, pool: &Pool, call: impl Fn(Pool) -> F + Send + Sync + 'static)
where
    F: Future<Output = Result<u64, Error>> + Send,
{
    let pool = pool.clone();
    let check = async move { assert_retry_safe(&pool, &["payments"], || call(pool.clone())).await };
    let panic = tokio::spawn(check).await.map_err(tokio::task::JoinError::into_panic);
    let found = panic.map_err(|panic| panic.downcast_ref().cloned().unwrap_or_else(String::new));
    println!("{name}: {}", found.map_or_else(|found| found.replace("; ", "\n"), |()| "safe".to_owned()));
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    std::panic::set_hook(Box::new(|_| {})); // `check` prints the panics
    let db = Database::create().await;
    db.setup("CREATE TABLE payments (id bigint GENERATED ALWAYS AS IDENTITY)").await;
    install(&db.client().await).await?;
    let pool = &db.pool(2);
    check("a mail sent in the body", pool, |pool| async move {
        let mails = AtomicU64::new(0);
        mail_in_body(&pool, &mails).await.map(|_| take(&mails))
    })
    .await;
    let mail_after_commit = |pool, mails| async move { mail_after_commit(&pool, &mails).await.map(|_| take(&mails)) };
    check("a mail sent by on_commit", pool, move |pool| mail_after_commit(pool, Arc::default())).await;
    check("a static counter", pool, |pool| async move { counted(&pool).await.map(|_| take(&PAYMENTS)) }).await;
    let counted = |pool| async move { counted_after_commit(&pool).await.map(|_| take(&PAYMENTS)) };
    check("a static counter in on_commit", pool, counted).await;
    check("allow_mut", pool, |pool| async move { add_rows(&pool, &mut 0).await }).await;
    check("a returned value", pool, |pool| async move { paid_once(&pool).await }).await;
    check("unknown_commit = \"retry\"", pool, |pool| async move { paid_twice(&pool).await }).await;
    check("unknown_commit = \"token\"", pool, |pool| async move { paid_once(&pool).await }).await;
    Ok(())
}
