//! `set_rollback_only`: the call rolls back and returns what the body returns.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use retry_runtime::{Error, Transaction, transactional};
use retry_tests::Database;
use retry_tests::calls::dropped_after;
use retry_tests::events::Events;
use retry_tests::rival::Rival;

async fn database() -> Database {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    db
}

/// Writes, asks for the rollback, and returns the number of rows or the error of `then`.
#[transactional(isolation = "repeatable read")]
async fn dry_run(tx: &mut Transaction<'_>, then: &str, hooks: &Arc<AtomicU32>) -> Result<u64, Error> {
    for (on_commit, value) in [(true, 1), (false, 10)] {
        let hooks = hooks.clone();
        let count = async move {
            hooks.fetch_add(value, Ordering::Relaxed);
        };
        if on_commit { tx.on_commit(count) } else { tx.on_rollback(count) }
    }
    let rows = tx.execute("UPDATE accounts SET cents = 0", &[]).await?;
    tx.set_rollback_only();
    tx.batch_execute(then).await?;
    Ok(rows)
}

#[tokio::test]
async fn ok_is_returned_and_nothing_is_committed() {
    let db = database().await;
    let (pool, hooks, events) = (db.pool(1), Arc::default(), Events::capture());
    assert_eq!(dry_run(&pool, "SELECT 1", &hooks).await.unwrap(), 2);
    assert_eq!(dry_run(&mut db.client().await, "SELECT 1", &hooks).await.unwrap(), 2);
    assert_eq!((db.cents(1).await, db.cents(2).await), (100, 100));
    assert_eq!(hooks.load(Ordering::Relaxed), 20, "each call ran its rollback hook only");
    assert_eq!((pool.status().size, pool.status().available), (1, 1), "the connection is kept");
    assert_eq!((db.open_transactions().await, events.all().len()), (0, 0), "{events:?}");
}

#[tokio::test]
async fn an_error_is_returned_without_a_retry() {
    let db = database().await;
    let (pool, hooks) = (db.pool(1), Arc::default());
    let conflict = "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$";
    let error = dry_run(&pool, conflict, &hooks).await.unwrap_err();
    assert_eq!(error.as_db_error().unwrap().code().code(), "40001");
    assert_eq!(hooks.load(Ordering::Relaxed), 10, "one attempt");
    assert_eq!(db.cents(1).await, 100);
}

/// Loses the first attempt before it asks for the rollback.
#[transactional(isolation = "repeatable read")]
async fn after_a_conflict(tx: &mut Transaction<'_>, rival: &Rival) -> Result<u32, Error> {
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    if tx.attempt() == 1 {
        rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    }
    tx.execute("UPDATE accounts SET cents = 0 WHERE id = 1", &[]).await?;
    tx.set_rollback_only();
    Ok(tx.attempt())
}

#[tokio::test]
async fn a_retry_before_it_was_asked_for_starts_anew() {
    let db = database().await;
    let rival = Rival::connect(&db).await;
    assert_eq!(after_a_conflict(&db.pool(1), &rival).await.unwrap(), 2);
    assert_eq!(db.cents(1).await, 101);
}

#[transactional]
async fn set_cents(tx: &mut Transaction<'_>, id: i64, keep: bool) -> Result<u64, Error> {
    if !keep {
        tx.set_rollback_only();
    }
    Ok(tx.execute("UPDATE accounts SET cents = 7 WHERE id = $1", &[&id]).await?)
}

#[transactional]
async fn set_both(tx: &mut Transaction<'_>, whole: bool) -> Result<u64, Error> {
    let rows = set_cents(&mut *tx, 1, false).await? + set_cents(&mut *tx, 2, true).await?;
    if whole {
        tx.set_rollback_only();
    }
    Ok(rows)
}

#[tokio::test]
async fn in_a_nested_call_it_rolls_back_the_savepoint_alone() {
    let db = database().await;
    let pool = db.pool(1);
    assert_eq!(set_both(&pool, true).await.unwrap(), 2);
    assert_eq!((db.cents(1).await, db.cents(2).await), (100, 100));
    assert_eq!(set_both(&pool, false).await.unwrap(), 2);
    assert_eq!((db.cents(1).await, db.cents(2).await), (100, 7));
}

#[transactional(begin = "pipelined")]
async fn without_a_statement(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.set_rollback_only();
    Ok(())
}

#[tokio::test]
async fn a_begin_that_is_still_on_its_way_is_waited_for() {
    let db = database().await;
    let pool = db.pool(1);
    without_a_statement(&pool).await.unwrap();
    assert_eq!((db.open_transactions().await, pool.status().available), (0, 1));
}

#[tokio::test]
async fn a_call_dropped_at_any_poll_leaves_a_clean_pool() {
    let db = database().await;
    let (pool, hooks) = (db.pool(1), Arc::default());
    let mut polls = 0;
    while !dropped_after(dry_run(&pool, "SELECT 1", &hooks), polls).await {
        polls += 1;
        drop(pool.get().await.unwrap());
        assert_eq!(db.open_transactions().await, 0, "after {polls} polls");
        assert_eq!((db.cents(1).await, db.cents(2).await), (100, 100));
    }
    assert!(polls > 3, "only {polls} polls");
}
