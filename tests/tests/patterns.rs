//! Common transaction patterns: transfers, optional steps, upserts, optimistic locking and job queues.
#![allow(missing_docs)]

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};

use retry_runtime::{Error, Transaction, transactional};
use retry_tests::Database;
use retry_tests::rival::Rival;
use tokio_postgres::error::SqlState;

async fn database(accounts: i64) -> Database {
    let db = Database::create().await;
    db.accounts(accounts, 1_000).await;
    db
}

#[derive(Debug, thiserror::Error)]
enum BankError {
    #[error("insufficient funds")]
    InsufficientFunds,
    #[error("account {0} was changed by another transaction")]
    Stale(i64),
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Transaction(#[from] Error),
}

#[transactional]
async fn transfer(tx: &mut Transaction<'_>, from: i64, to: i64, cents: i64) -> Result<(), BankError> {
    // Locks the paying account first, so two transfers in opposite directions deadlock.
    let locked = "SELECT cents FROM accounts WHERE id = $1 FOR UPDATE";
    let balance: i64 = tx.query_one(locked, &[&from]).await?.get(0);
    tokio::task::yield_now().await;
    tx.query_one(locked, &[&to]).await?;
    if balance < cents {
        return Err(BankError::InsufficientFunds);
    }
    tx.execute("UPDATE accounts SET cents = cents - $1 WHERE id = $2", &[&cents, &from]).await?;
    tx.execute("UPDATE accounts SET cents = cents + $1 WHERE id = $2", &[&cents, &to]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_that_lock_in_opposite_order_keep_the_total() {
    let db = database(2).await;
    let pool = db.pool(8);
    let tasks: Vec<_> = (0..8)
        .map(|worker| {
            let pool = pool.clone();
            let (from, to) = if worker % 2 == 0 { (1, 2) } else { (2, 1) };
            tokio::spawn(async move {
                let mut done = 0;
                for _ in 0..20 {
                    done += i64::from(transfer(&pool, from, to, 1).await.is_ok());
                }
                if worker % 2 == 0 { -done } else { done }
            })
        })
        .collect();
    let mut first = 1_000;
    for task in tasks {
        first += task.await.unwrap();
    }
    assert_eq!(db.cents(1).await, first, "exactly the transfers that returned Ok happened");
    assert_eq!(db.cents(1).await + db.cents(2).await, 2_000);
}

#[tokio::test]
async fn the_bodys_own_error_is_rolled_back_and_returned() {
    let db = database(2).await;
    let error = transfer(&db.pool(1), 1, 2, 5_000).await.unwrap_err();
    assert!(matches!(error, BankError::InsufficientFunds));
    assert_eq!((db.cents(1).await, db.cents(2).await), (1_000, 1_000));
}

#[transactional(isolation = "repeatable read", deadlock_retries = 100)]
async fn increment(tx: &mut Transaction<'_>) -> Result<(), Error> {
    let cents: i64 = tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?.get(0);
    tx.execute("UPDATE accounts SET cents = $1 WHERE id = 1", &[&(cents + 1)]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeatable_read_prevents_lost_updates() {
    let db = database(1).await;
    let pool = db.pool(4);
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for _ in 0..25 {
                    increment(&pool).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(db.cents(1).await, 1_100);
}

#[transactional]
async fn apply_coupon(tx: &mut Transaction<'_>, order: i64, coupon: &str) -> Result<(), Error> {
    tx.execute("UPDATE coupons SET used = used + 1 WHERE code = $1", &[&coupon]).await?;
    tx.execute("UPDATE orders SET cents = cents - 100 WHERE id = $1", &[&order]).await?;
    Ok(())
}

#[transactional]
async fn place_order(tx: &mut Transaction<'_>, order: i64, cents: i64, coupon: &str) -> Result<bool, Error> {
    tx.execute("INSERT INTO orders VALUES ($1, $2)", &[&order, &cents]).await?;
    // The coupon is optional. If it fails, only its savepoint is rolled back.
    Ok(apply_coupon(&mut *tx, order, coupon).await.is_ok())
}

#[tokio::test]
async fn an_optional_step_can_fail_without_its_transaction() {
    let db = Database::create().await;
    db.setup(
        "CREATE TABLE orders (id bigint PRIMARY KEY, cents bigint CHECK (cents >= 0));
         CREATE TABLE coupons (code text, used int); INSERT INTO coupons VALUES ('TEN', 0)",
    )
    .await;
    let pool = db.pool(1);
    assert!(place_order(&pool, 1, 500, "TEN").await.unwrap());
    assert!(!place_order(&pool, 2, 50, "TEN").await.unwrap(), "the discount would be more than the price");
    assert_eq!(db.value::<i64>("SELECT sum(cents)::bigint FROM orders").await, 450);
    assert_eq!(db.value::<i32>("SELECT used FROM coupons").await, 1, "the second use was undone");
}

#[transactional]
async fn insert(tx: &mut Transaction<'_>, id: i64, cents: i64) -> Result<(), own::Error> {
    tx.execute("INSERT INTO accounts VALUES ($1, $2)", &[&id, &cents]).await?;
    Ok(())
}

/// An error type with only the two conversions.
mod own {
    #[derive(Debug)]
    pub(crate) enum Error {
        Postgres(tokio_postgres::Error),
        Runtime,
    }

    impl From<tokio_postgres::Error> for Error {
        fn from(error: tokio_postgres::Error) -> Self {
            Self::Postgres(error)
        }
    }

    impl From<retry_runtime::Error> for Error {
        fn from(_: retry_runtime::Error) -> Self {
            Self::Runtime
        }
    }
}

#[transactional]
async fn insert_or_update(tx: &mut Transaction<'_>, id: i64, cents: i64) -> Result<&'static str, Error> {
    match insert(&mut *tx, id, cents).await {
        Ok(()) => Ok("inserted"),
        Err(own::Error::Postgres(error)) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
            tx.execute("UPDATE accounts SET cents = $2 WHERE id = $1", &[&id, &cents]).await?;
            Ok("updated")
        }
        Err(own::Error::Postgres(error)) => Err(error.into()),
        Err(own::Error::Runtime) => unreachable!("nothing else fails here"),
    }
}

#[tokio::test]
async fn a_unique_violation_becomes_an_update() {
    let db = database(1).await;
    let pool = db.pool(1);
    assert_eq!(insert_or_update(&pool, 1, 30).await.unwrap(), "updated");
    assert_eq!(insert_or_update(&pool, 2, 30).await.unwrap(), "inserted");
    assert_eq!((db.cents(1).await, db.cents(2).await), (30, 30));
}

#[transactional(retry_if = |error| matches!(error, BankError::Stale(_)))]
async fn withdraw(tx: &mut Transaction<'_>, rival: &Rival, attempts: &AtomicU32) -> Result<i64, BankError> {
    attempts.store(tx.attempt(), Ordering::Relaxed);
    let row = tx.query_one("SELECT cents, version FROM wallets WHERE id = 1", &[]).await?;
    let (cents, version): (i64, i32) = (row.get(0), row.get(1));
    if tx.attempt() == 1 {
        rival.run("UPDATE wallets SET cents = cents + 7, version = version + 1 WHERE id = 1").await;
    }
    let sql = "UPDATE wallets SET cents = $1, version = version + 1 WHERE id = 1 AND version = $2";
    match tx.execute(sql, &[&(cents - 100), &version]).await? {
        0 => Err(BankError::Stale(1)),
        _ => Ok(cents - 100),
    }
}

#[tokio::test]
async fn retry_if_retries_a_stale_version() {
    let db = Database::create().await;
    db.setup("CREATE TABLE wallets (id int, cents bigint, version int); INSERT INTO wallets VALUES (1, 1000, 0)").await;
    let (rival, attempts) = (Rival::connect(&db).await, AtomicU32::new(0));
    assert_eq!(withdraw(&db.pool(1), &rival, &attempts).await.unwrap(), 907);
    assert_eq!(attempts.load(Ordering::Relaxed), 2);
    assert_eq!(db.value::<i64>("SELECT cents FROM wallets").await, 907);
}

#[transactional]
async fn claim(tx: &mut Transaction<'_>) -> Result<Option<i64>, Error> {
    let next = "SELECT id FROM jobs WHERE state = 'queued' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED";
    let Some(row) = tx.query_opt(next, &[]).await? else { return Ok(None) };
    let id: i64 = row.get(0);
    tx.execute("UPDATE jobs SET state = 'running' WHERE id = $1", &[&id]).await?;
    Ok(Some(id))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_workers_claim_each_job_once() {
    let db = Database::create().await;
    db.setup(
        "CREATE TABLE jobs (id bigint PRIMARY KEY, state text);
         INSERT INTO jobs SELECT id, 'queued' FROM generate_series(1, 200) AS id",
    )
    .await;
    let pool = db.pool(8);
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let mut claimed = Vec::new();
                while let Some(id) = claim(&pool).await.unwrap() {
                    claimed.push(id);
                }
                claimed
            })
        })
        .collect();
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await.unwrap());
    }
    assert_eq!(all.len(), 200);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 200, "no job was claimed twice");
}
