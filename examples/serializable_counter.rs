//! Many tasks read a counter, add 1 and write the result. Every increment must count.
//!
//! At `SERIALIZABLE`, only one of the transactions that have read the same value can write the next one. The server
//! aborts the others with a serialization failure (SQLSTATE 40001), and their calls are retried. Here all calls want
//! the same row, so the budget is large. For a plain counter, `SET value = value + 1` is shorter and needs no retries;
//! read first if your code decides what to write.
//!
//! Prints (… is a number that varies):
//!
//! ```text
//! 8 tasks made 200 increments: the counter is 200
//! attempts: 200 committed, … ended in a conflict and were retried
//! ```

use retry_runtime::{Error, Transaction, transactional};
use retry_tests::Database;
use tokio::task::JoinSet;

const TASKS: u32 = 8;
const INCREMENTS: u32 = 25;

/// Returns the number of the attempt that committed.
#[transactional(isolation = "serializable", deadlock_retries = 100)]
async fn increment(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    let value: i64 = tx.query_one("SELECT value FROM counter", &[]).await?.get(0);
    tx.execute("UPDATE counter SET value = $1", &[&(value + 1)]).await?;
    Ok(tx.attempt())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let database = Database::create().await;
    database.setup("CREATE TABLE counter (value bigint); INSERT INTO counter VALUES (0)").await;
    let pool = database.pool(8);

    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let pool = pool.clone();
        tasks.spawn(async move {
            let mut attempts = 0;
            for _ in 0..INCREMENTS {
                attempts += increment(&pool).await?;
            }
            Ok::<_, Error>(attempts)
        });
    }
    let mut attempts = 0;
    for task in tasks.join_all().await {
        attempts += task?;
    }

    let committed = TASKS * INCREMENTS;
    let value: i64 = database.value("SELECT value FROM counter").await;
    println!("{TASKS} tasks made {committed} increments: the counter is {value}");
    println!("attempts: {committed} committed, {} ended in a conflict and were retried", attempts - committed);
    Ok(())
}
