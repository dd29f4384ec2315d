//! Promise 6: a nested call is a savepoint, and only the outermost call retries.
#![allow(missing_docs)]

use std::sync::atomic::{AtomicU32, Ordering};

use retry_runtime::{Class, Error, Transaction, classify, transactional};
use retry_tests::Database;
use retry_tests::rival::Rival;

async fn database() -> Database {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    db
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("declined")]
    Declined,
    #[error(transparent)]
    Runtime(#[from] Error),
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
}

#[transactional]
async fn deposit(tx: &mut Transaction<'_>, id: i64, cents: i64, decline: bool) -> Result<(), Refusal> {
    tx.execute("UPDATE accounts SET cents = cents + $1 WHERE id = $2", &[&cents, &id]).await?;
    if decline { Err(Refusal::Declined) } else { Ok(()) }
}

#[transactional]
async fn with_optional_bonus(tx: &mut Transaction<'_>, decline: bool) -> Result<bool, Refusal> {
    deposit(&mut *tx, 1, 10, false).await?;
    let bonus = deposit(&mut *tx, 2, 20, decline).await;
    Ok(bonus.is_ok())
}

#[tokio::test]
async fn a_nested_failure_is_undone_by_its_savepoint() {
    let db = database().await;
    let pool = db.pool(1);
    assert!(!with_optional_bonus(&pool, true).await.unwrap());
    assert_eq!((db.cents(1).await, db.cents(2).await), (110, 100));
    assert!(with_optional_bonus(&pool, false).await.unwrap());
    assert_eq!((db.cents(1).await, db.cents(2).await), (120, 120));
}

#[transactional]
async fn insert(tx: &mut Transaction<'_>, id: i64) -> Result<(), Error> {
    tx.execute("INSERT INTO accounts VALUES ($1, 1)", &[&id]).await?;
    Ok(())
}

#[transactional]
async fn insert_and_swallow(tx: &mut Transaction<'_>, id: i64) -> Result<(), Error> {
    let _ = tx.execute("INSERT INTO accounts VALUES ($1, 1)", &[&id]).await;
    Ok(())
}

#[transactional]
async fn insert_or_update(tx: &mut Transaction<'_>, id: i64, swallow: bool) -> Result<(), Error> {
    let inserted = if swallow { insert_and_swallow(&mut *tx, id).await } else { insert(&mut *tx, id).await };
    if let Err(error) = inserted {
        assert_eq!(matches!(error, Error::Aborted { .. }), swallow, "{error:?}");
        tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = $1", &[&id]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_nested_constraint_violation_leaves_the_outer_transaction_usable() {
    let db = database().await;
    let pool = db.pool(1);
    insert_or_update(&pool, 1, false).await.unwrap();
    insert_or_update(&pool, 2, true).await.unwrap();
    insert_or_update(&pool, 3, false).await.unwrap();
    assert_eq!((db.cents(1).await, db.cents(2).await, db.cents(3).await), (101, 101, 1));
}

#[transactional(retry_on = ["23505"])]
async fn decline_after_all(tx: &mut Transaction<'_>, attempts: &AtomicU32) -> Result<(), Refusal> {
    attempts.store(tx.attempt(), Ordering::Relaxed);
    let _ = insert(&mut *tx, 1).await;
    Err(Refusal::Declined)
}

#[tokio::test]
async fn a_nested_failure_that_was_undone_causes_no_retry() {
    let db = database().await;
    let attempts = AtomicU32::new(0);
    assert!(matches!(decline_after_all(&db.pool(1), &attempts).await, Err(Refusal::Declined)));
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
}

/// A nested call with its own budget, which does not apply.
#[transactional(deadlock_retries = 50)]
async fn conflict(tx: &mut Transaction<'_>, rival: &Rival, conflicts: u32) -> Result<(), Error> {
    if tx.attempt() <= conflicts {
        rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    }
    tx.execute("UPDATE accounts SET cents = cents + 10 WHERE id = 1", &[]).await?;
    Ok(())
}

#[transactional(isolation = "repeatable read", deadlock_retries = 2)]
async fn outer(
    tx: &mut Transaction<'_>,
    rival: &Rival,
    conflicts: u32,
    swallow: bool,
    attempts: &AtomicU32,
) -> Result<(), Error> {
    attempts.store(tx.attempt(), Ordering::Relaxed);
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    let result = conflict(&mut *tx, rival, conflicts).await;
    if swallow {
        return Ok(());
    }
    result
}

#[tokio::test]
async fn a_nested_conflict_is_retried_by_the_outermost_call_only() {
    for swallow in [false, true] {
        let db = database().await;
        let (pool, rival, attempts) = (db.pool(1), Rival::connect(&db).await, AtomicU32::new(0));
        outer(&pool, &rival, 2, swallow, &attempts).await.unwrap();
        assert_eq!(attempts.load(Ordering::Relaxed), 3);
        assert_eq!(db.cents(1).await, 112, "swallowed: {swallow}");

        let error = outer(&pool, &rival, u32::MAX, swallow, &attempts).await.unwrap_err();
        assert_eq!(classify(&error), Some(Class::Serialization));
        assert_eq!(attempts.load(Ordering::Relaxed), 3, "one budget: the first attempt and 2 retries");
    }
}

#[transactional]
async fn depth(tx: &mut Transaction<'_>, levels: u32) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 1", &[]).await?;
    if levels > 0 {
        Box::pin(depth(&mut *tx, levels - 1)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn savepoints_nest() {
    let db = database().await;
    depth(&db.pool(1), 5).await.unwrap();
    assert_eq!(db.cents(1).await, 106);
}

#[transactional]
async fn release_once_more(tx: &mut Transaction<'_>, decline: bool) -> Result<(), Refusal> {
    let _ = deposit(&mut *tx, 1, 1, decline).await;
    tx.batch_execute("RELEASE transactional_1").await?;
    Ok(())
}

/// Thousands of open savepoints are slow, and `ROLLBACK TO` alone leaves its savepoint open.
#[tokio::test]
async fn no_savepoint_stays_open() {
    let db = database().await;
    for decline in [false, true] {
        let error = release_once_more(&db.pool(1), decline).await.unwrap_err();
        let Refusal::Postgres(source) = &error else { panic!("{error:?}") };
        assert_eq!(source.code().unwrap().code(), "3B001", "there is no such savepoint");
    }
}

macro_rules! isolated {
    ($outer:ident, $inner:ident $(, $option:meta)*) => {
        #[transactional($($option),*)]
        async fn $inner(tx: &mut Transaction<'_>) -> Result<(), Error> {
            tx.batch_execute("SELECT 1").await?;
            Ok(())
        }

        #[transactional($($option),*)]
        async fn $outer(tx: &mut Transaction<'_>, inner: u8) -> Result<(), Error> {
            match inner {
                0 => unstated(&mut *tx).await,
                1 => read_committed(&mut *tx).await,
                2 => repeatable_read(&mut *tx).await,
                _ => serializable(&mut *tx).await,
            }
        }
    };
}

isolated!(outer_unstated, unstated);
isolated!(outer_read_committed, read_committed, isolation = "read committed");
isolated!(outer_repeatable_read, repeatable_read, isolation = "repeatable read");
isolated!(outer_serializable, serializable, isolation = "serializable");

#[tokio::test]
async fn a_nested_call_that_needs_a_stronger_isolation_level_is_an_error() {
    let db = database().await;
    let pool = db.pool(1);
    for inner in 0..4 {
        for (outer, allowed, result) in [
            ("outer_unstated", 1, outer_unstated(&pool, inner).await),
            ("outer_read_committed", 1, outer_read_committed(&pool, inner).await),
            ("outer_repeatable_read", 2, outer_repeatable_read(&pool, inner).await),
            ("outer_serializable", 3, outer_serializable(&pool, inner).await),
        ] {
            let Err(error) = result else {
                assert!(inner <= allowed, "{inner} in {outer}");
                continue;
            };
            assert!(inner > allowed, "{inner} in {outer}: {error}");
            let Error::NestedIsolation { outer: named, inner: wants, .. } = error else { panic!("{error:?}") };
            assert!(
                named.ends_with(outer) && wants.ends_with(["", "", "repeatable_read", "serializable"][inner as usize])
            );
        }
    }
}

#[transactional]
async fn slow(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = 0 WHERE id = 2", &[]).await?;
    tx.batch_execute("SELECT pg_sleep(0.2)").await?;
    Ok(())
}

#[transactional]
async fn drops_a_nested_call(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = 1 WHERE id = 1", &[]).await?;
    let limit = std::time::Duration::from_millis(50);
    assert!(tokio::time::timeout(limit, slow(&mut *tx)).await.is_err());
    tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 1", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn a_dropped_nested_call_is_rolled_back_to_its_savepoint() {
    let db = database().await;
    drops_a_nested_call(&db.pool(1)).await.unwrap();
    assert_eq!((db.cents(1).await, db.cents(2).await), (2, 100));
}

#[transactional(durable)]
async fn record(tx: &mut Transaction<'_>) -> Result<u64, Error> {
    Ok(tx.execute("UPDATE accounts SET cents = 0", &[]).await?)
}

#[transactional]
async fn nests_a_durable_call(tx: &mut Transaction<'_>, swallow: bool) -> Result<u32, Error> {
    match record(&mut *tx).await {
        Err(_) if swallow => Ok(tx.attempt()),
        result => result.map(|_| tx.attempt()),
    }
}

#[tokio::test]
async fn a_durable_call_refuses_to_be_nested() {
    let db = database().await;
    let pool = db.pool(1);
    let before = (db.cents(1).await, db.cents(2).await);
    let error = nests_a_durable_call(&pool, false).await.unwrap_err();
    let Error::NestedDurable { outer, inner, .. } = error else { panic!("{error:?}") };
    assert!(outer.ends_with("::nests_a_durable_call") && inner.ends_with("::record"), "{error}");
    assert_eq!(classify(&error), Some(Class::Fatal));
    assert_eq!(nests_a_durable_call(&pool, true).await.unwrap(), 1, "the transaction around it goes on");
    assert_eq!((db.cents(1).await, db.cents(2).await), before);
    assert_eq!(record(&pool).await.unwrap(), 2, "by itself it runs");
    assert_eq!((db.cents(1).await, db.cents(2).await), (0, 0));
}
