//! A bot that stores data for each issue.
//!
//! Before: `load` begins a transaction, locks the row, and returns a handle that owns the transaction and the data. The
//! caller changes the data, and `save` writes it and commits:
//!
//! ```text
//! let mut state = IssueData::load(&mut client, issue).await?;   // BEGIN; SELECT … FOR UPDATE
//! state.data.push(label);
//! state.save().await?;                                           // INSERT … ON CONFLICT DO UPDATE; COMMIT
//! ```
//!
//! After: one function does all three, and takes the change as a closure. It calls the closure once per attempt. What the
//! change awaits, such as a request to another service, happens before the call. The lock becomes `repeatable read`: a
//! concurrent change of the row is a conflict, also if the row is new, when there is nothing to lock yet.

use std::sync::atomic::{AtomicU32, Ordering};

use deadpool_postgres::Pool;
use retry_runtime::{Error, Transaction, transactional};
use retry_tests::Database;
use retry_tests::rival::Rival;
use tokio::runtime::Handle;
use tokio::task::block_in_place;

/// Returns what the change returns.
#[transactional(isolation = "repeatable read", deadlock_retries = 100)]
async fn update<R>(tx: &mut Transaction<'_>, issue: i32, change: impl Fn(&mut Vec<String>) -> R) -> Result<R, Error> {
    let row = tx.query_opt("SELECT labels FROM issue_data WHERE issue = $1", &[&issue]).await?;
    let mut labels = row.map(|row| row.get(0)).unwrap_or_default();
    let result = change(&mut labels);
    let save = "INSERT INTO issue_data VALUES ($1, $2) ON CONFLICT (issue) DO UPDATE SET labels = excluded.labels";
    tx.execute(save, &[&issue, &labels]).await?;
    Ok(result)
}

async fn database() -> (Database, Pool) {
    let db = Database::create().await;
    db.setup("CREATE TABLE issue_data (issue int PRIMARY KEY, labels text[] NOT NULL)").await;
    let pool = db.pool(4);
    (db, pool)
}

async fn labels(db: &Database) -> Vec<String> {
    db.value("SELECT labels FROM issue_data WHERE issue = 1").await
}

/// A rival commits between load and save: first a new row, then a change of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_change_is_called_once_per_attempt_with_fresh_data() {
    let (db, pool) = database().await;
    let (rival, calls) = (Rival::connect(&db).await, AtomicU32::new(0));
    let insert = "INSERT INTO issue_data VALUES (1, '{a}')";
    let append = "UPDATE issue_data SET labels = labels || '{c}'";
    for (rivals, ours, expected) in [(insert, "b", 1), (append, "d", 3)] {
        calls.store(0, Ordering::Relaxed);
        let before = update(&pool, 1, |labels| {
            if calls.fetch_add(1, Ordering::Relaxed) == 0 {
                block_in_place(|| Handle::current().block_on(rival.run(rivals)));
            }
            let before = labels.len();
            labels.push(ours.to_owned());
            before
        });
        assert_eq!(before.await.unwrap(), expected, "from the attempt that committed");
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }
    assert_eq!(labels(&db).await, ["a", "b", "c", "d"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_updates_lose_nothing() {
    let (db, pool) = database().await;
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for n in 0..10 {
                    update(&pool, 1, |labels| labels.push(format!("{task}-{n}"))).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let mut labels = labels(&db).await;
    labels.sort();
    labels.dedup();
    assert_eq!(labels.len(), 40);
}
