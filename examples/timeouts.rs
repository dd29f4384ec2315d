//! The time limits of a call: what each of them limits, and how a caller tells them apart.
//!
//! `statement_timeout` and `lock_timeout` are limits of the server. A statement that takes too long (SQLSTATE 57014)
//! would take as long again, so it is not retried. A lock that is not free in time (55P03) is a conflict, and is
//! retried. `deadline` limits the whole call: its attempts, its delays and the wait for a connection. `with_deadline`
//! limits all calls in a future. After each of them, the pool lends a usable connection.
//!
//! Prints:
//!
//! ```text
//! statement_timeout: the statement takes too long (attempts: 1)
//! lock_timeout: another transaction holds the row (attempts: 3)
//! with_deadline: the deadline passed while waiting for a connection (attempts: 0)
//! deadline: the deadline passed while running the body (attempts: 1)
//! afterwards: 1 row updated (attempts: 1)
//! ```

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use retry_runtime::{Class, Error, Transaction, transactional, with_deadline};
use retry_tests::Database;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

const UPDATE: &str = "UPDATE accounts SET cents = cents + 1 WHERE id = 1";

#[transactional(statement_timeout = "50ms")]
async fn slow(tx: &mut Transaction<'_>, attempts: &AtomicU32) -> Result<u64, Error> {
    attempts.store(tx.attempt(), Ordering::Relaxed);
    Ok(tx.execute("SELECT pg_sleep(60)", &[]).await?)
}

#[transactional(lock_timeout = "20ms", deadlock_retries = 2)]
async fn impatient(tx: &mut Transaction<'_>, attempts: &AtomicU32) -> Result<u64, Error> {
    attempts.store(tx.attempt(), Ordering::Relaxed);
    Ok(tx.execute(UPDATE, &[]).await?)
}

#[transactional(deadline = "1s")]
async fn limited(tx: &mut Transaction<'_>, attempts: &AtomicU32) -> Result<u64, Error> {
    attempts.store(tx.attempt(), Ordering::Relaxed);
    Ok(tx.execute(UPDATE, &[]).await?)
}

#[transactional]
async fn unlimited(tx: &mut Transaction<'_>, attempts: &AtomicU32) -> Result<u64, Error> {
    attempts.store(tx.attempt(), Ordering::Relaxed);
    Ok(tx.execute(UPDATE, &[]).await?)
}

/// Tells errors apart by variant, by class and by SQLSTATE.
fn explain(error: &Error) -> String {
    match error {
        Error::DeadlineExceeded { phase, .. } => format!("the deadline passed while {phase}"),
        error if error.class() == Class::Lock => "another transaction holds the row".to_owned(),
        error if error.as_db_error().is_some_and(|cause| *cause.code() == SqlState::QUERY_CANCELED) => {
            "the statement takes too long".to_owned()
        }
        error => error.to_string(),
    }
}

fn print(limit: &str, result: Result<u64, Error>, attempts: &AtomicU32) {
    let result = result.map_or_else(|error| explain(&error), |rows| format!("{rows} row updated"));
    println!("{limit}: {result} (attempts: {})", attempts.swap(0, Ordering::Relaxed));
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let database = Database::create().await;
    database.setup("CREATE TABLE accounts (id int, cents int); INSERT INTO accounts VALUES (1, 0)").await;
    let (pool, attempts) = (database.pool(1), AtomicU32::new(0));

    print("statement_timeout", slow(&pool, &attempts).await, &attempts);

    let mut client = database.client().await;
    let other = client.transaction().await?;
    other.execute(UPDATE, &[]).await?; // holds the row until it ends
    print("lock_timeout", impatient(&pool, &attempts).await, &attempts);

    let only = pool.get().await.expect("it is free");
    let soon = Instant::now() + Duration::from_millis(50);
    print("with_deadline", with_deadline(soon, unlimited(&pool, &attempts)).await, &attempts);
    drop(only);

    print("deadline", limited(&pool, &attempts).await, &attempts);

    other.rollback().await?;
    print("afterwards", unlimited(&pool, &attempts).await, &attempts);
    Ok(())
}
