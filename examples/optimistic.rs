//! Optimistic locking: a version column finds out that a row has changed since it was read.
//!
//! `deposit` reads, computes and writes in one call. If the version has changed, reading again is right: `retry_if`
//! names the function's own error `StaleVersion`, and the call is retried on `deadlock_retries`. `rename` gets the
//! version that a user saw on a page. A retry could not help, so it has no `retry_if`, and the caller shows the page
//! again.
//!
//! Prints (… is a number that varies):
//!
//! ```text
//! 8 tasks deposited 160 times: 160 cents, version 160
//! attempts: 160 committed, … found a newer version and were retried
//! Ann renames version 160: done
//! Bob renames version 160: account 1 has changed
//! ```

use retry_runtime::{Error, Transaction, transactional};
use retry_tests::Database;
use tokio::task::JoinSet;

#[derive(Debug, thiserror::Error)]
enum AccountError {
    #[error("account {0} has changed")]
    StaleVersion(i64),
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Transaction(#[from] Error),
}

fn is_stale(error: &AccountError) -> bool {
    matches!(error, AccountError::StaleVersion(_))
}

/// Returns the number of the attempt that committed.
#[transactional(retry_if = is_stale, deadlock_retries = 100)]
async fn deposit(tx: &mut Transaction<'_>, id: i64, cents: i64) -> Result<u32, AccountError> {
    let row = tx.query_one("SELECT cents, version FROM accounts WHERE id = $1", &[&id]).await?;
    let (balance, version): (i64, i64) = (row.get(0), row.get(1));
    let update = "UPDATE accounts SET cents = $3, version = version + 1 WHERE id = $1 AND version = $2";
    match tx.execute(update, &[&id, &version, &(balance + cents)]).await? {
        0 => Err(AccountError::StaleVersion(id)),
        _ => Ok(tx.attempt()),
    }
}

#[transactional]
async fn rename(tx: &mut Transaction<'_>, id: i64, version: i64, name: &str) -> Result<(), AccountError> {
    let update = "UPDATE accounts SET name = $3, version = version + 1 WHERE id = $1 AND version = $2";
    match tx.execute(update, &[&id, &version, &name]).await? {
        0 => Err(AccountError::StaleVersion(id)),
        _ => Ok(()),
    }
}

#[tokio::main]
async fn main() -> Result<(), AccountError> {
    let database = Database::create().await;
    database
        .setup(
            "CREATE TABLE accounts (id bigint PRIMARY KEY, name text, cents bigint, version bigint);
             INSERT INTO accounts VALUES (1, 'holiday', 0, 0)",
        )
        .await;
    let pool = database.pool(8);

    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let pool = pool.clone();
        tasks.spawn(async move {
            let mut attempts = 0;
            for _ in 0..20 {
                attempts += deposit(&pool, 1, 1).await?;
            }
            Ok::<_, AccountError>(attempts)
        });
    }
    let mut attempts = 0;
    for task in tasks.join_all().await {
        attempts += task?;
    }
    let cents: i64 = database.value("SELECT cents FROM accounts").await;
    let seen: i64 = database.value("SELECT version FROM accounts").await;
    println!("8 tasks deposited 160 times: {cents} cents, version {seen}");
    println!("attempts: 160 committed, {} found a newer version and were retried", attempts - 160);

    for (user, name) in [("Ann", "summer"), ("Bob", "winter")] {
        match rename(&pool, 1, seen, name).await {
            Ok(()) => println!("{user} renames version {seen}: done"),
            Err(error) => println!("{user} renames version {seen}: {error}"),
        }
    }
    Ok(())
}
