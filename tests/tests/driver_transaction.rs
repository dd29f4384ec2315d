//! A transaction that other code began with tokio-postgres as the source of a call: the call is a savepoint of it.
#![allow(missing_docs)]

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use retry_runtime::{Error, Isolation, Source, Transaction, transactional};
use retry_tests::Database;
use retry_tests::calls::dropped_after;
use retry_tests::events::Events;
use retry_tests::rival::{Rival, pid, terminate};

async fn database() -> Database {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    db
}

const ADD: &str = "UPDATE accounts SET cents = cents + $1 WHERE id = 1";

/// Adds to account 1, runs `then`, and returns the number of the attempt.
#[transactional(name = "add")]
async fn add(tx: &mut Transaction<'_>, cents: i64, then: &str) -> Result<u32, Error> {
    tx.execute(ADD, &[&cents]).await?;
    tx.batch_execute(then).await?;
    Ok(tx.attempt())
}

#[transactional]
async fn add_twice(tx: &mut Transaction<'_>) -> Result<(), Error> {
    add(&mut *tx, 1, "").await?;
    let _ = add(&mut *tx, 10, "SELECT 1 / 0").await;
    add(&mut *tx, 100, "").await.map(drop)
}

#[tokio::test]
async fn what_the_call_wrote_ends_with_the_transaction() {
    let db = database().await;
    let mut client = db.client().await;
    let mut tx = client.transaction().await.unwrap();
    assert_eq!(add(&mut tx, 5, "").await.unwrap(), 1);
    add_twice(&mut tx).await.unwrap();
    assert_eq!(db.cents(1).await, 100, "nothing is committed yet");
    let mut savepoint = tx.transaction().await.unwrap();
    add(&mut savepoint, 1000, "").await.unwrap();
    savepoint.rollback().await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(db.cents(1).await, 206);

    let mut tx = client.transaction().await.unwrap();
    add(&mut tx, 5, "").await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(db.cents(1).await, 206);

    let mut pooled = db.pool(1).get().await.unwrap();
    let mut tx = pooled.transaction().await.unwrap();
    add(&mut tx, 5, "").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(db.cents(1).await, 211, "deadpool's transaction");
}

#[tokio::test]
async fn a_failed_call_undoes_what_it_wrote_and_the_transaction_goes_on() {
    let db = database().await;
    let mut client = db.client().await;
    let mut tx = client.transaction().await.unwrap();
    tx.execute(ADD, &[&1_i64]).await.unwrap();
    let error = add(&mut tx, 10, "SELECT 1 / 0").await.unwrap_err();
    assert_eq!(error.as_db_error().unwrap().code().code(), "22012");
    let panics = AssertUnwindSafe(panic_after_writing(&mut tx)).catch_unwind().await;
    assert!(panics.is_err());
    assert_eq!(roll_back(&mut tx).await.unwrap(), 1);
    tx.commit().await.unwrap();
    assert_eq!(db.cents(1).await, 101);
}

#[transactional]
async fn panic_after_writing(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute(ADD, &[&20_i64]).await?;
    panic!("the body's panic")
}

#[transactional]
async fn roll_back(tx: &mut Transaction<'_>) -> Result<u64, Error> {
    tx.set_rollback_only();
    Ok(tx.execute(ADD, &[&40_i64]).await?)
}

/// Meets a conflict. Returns `Ok` all the same if `swallow`: after a rolled-back savepoint, or at once.
#[transactional(name = "conflict")]
async fn conflict(tx: &mut Transaction<'_>, swallow: Option<bool>) -> Result<u32, Error> {
    let result = match swallow {
        Some(true) => tx.transaction().await?.execute(ADD, &[&1_i64]).await,
        _ => tx.execute(ADD, &[&1_i64]).await,
    };
    if swallow.is_none() {
        result?;
    }
    Ok(tx.attempt())
}

#[tokio::test]
async fn a_conflict_is_returned_as_it_is_and_never_swallowed() {
    let db = database().await;
    let (mut client, rival, events) = (db.client().await, Rival::connect(&db).await, Events::capture());
    for swallow in [None, Some(false), Some(true)] {
        let builder = client.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead);
        let mut tx = builder.start().await.unwrap();
        tx.query("SELECT FROM accounts", &[]).await.unwrap();
        rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
        let error = conflict(&mut tx, swallow).await.unwrap_err();
        assert_eq!(error.as_db_error().unwrap().code().code(), "40001");
        assert_eq!(matches!(error, Error::Aborted { .. }), swallow.is_some(), "{error}");
        assert_eq!(tx.query("SELECT FROM accounts", &[]).await.unwrap().len(), 2, "the savepoint is rolled back");
        tx.commit().await.unwrap();
    }
    assert_eq!(events.all().len(), 0, "no retry: {events:?}");
}

#[transactional(durable, name = "durable")]
async fn durable(_tx: &mut Transaction<'_>) -> Result<(), Error> {
    Ok(())
}

#[transactional(isolation = "serializable", name = "strict")]
async fn strict(tx: &mut Transaction<'_>) -> Result<u64, Error> {
    Ok(tx.execute(ADD, &[&1_i64]).await?)
}

#[transactional(name = "lenient")]
async fn lenient(tx: &mut Transaction<'_>) -> Result<u64, Error> {
    strict(tx).await
}

#[tokio::test]
async fn what_cannot_be_promised_is_refused() {
    const OUTER: &str = "tokio_postgres::Transaction";
    let db = database().await;
    let mut client = db.client().await;
    let mut tx = client.transaction().await.unwrap();
    let error = durable(&mut tx).await.unwrap_err();
    assert!(matches!(error, Error::NestedDurable { outer: OUTER, inner: "durable", .. }), "{error}");
    for error in [strict(&mut tx).await.unwrap_err(), lenient(&mut tx).await.unwrap_err()] {
        assert!(matches!(error, Error::NestedIsolation { outer: OUTER, inner: "strict", .. }), "{error}");
    }
    let error = add(Source::from(&mut tx).isolation(Isolation::RepeatableRead), 1, "").await.unwrap_err();
    assert!(matches!(error, Error::NestedIsolation { outer: OUTER, inner: "add", .. }), "{error}");
    tx.commit().await.unwrap();
    let builder = client.build_transaction().isolation_level(tokio_postgres::IsolationLevel::Serializable);
    let mut tx = builder.start().await.unwrap();
    assert_eq!((strict(&mut tx).await.unwrap(), lenient(&mut tx).await.unwrap()), (1, 1));
    tx.commit().await.unwrap();
    assert_eq!(db.cents(1).await, 102);
}

#[transactional(name = "hook")]
async fn hook(tx: &mut Transaction<'_>, on_commit: bool, ok: bool, ran: &Arc<AtomicU32>) -> Result<u64, Error> {
    let ran = ran.clone();
    let work = async move {
        ran.fetch_add(1, Ordering::Relaxed);
    };
    if on_commit {
        tx.on_commit(work);
    } else {
        tx.on_rollback(work);
    }
    let rows = tx.execute(ADD, &[&1_i64]).await?;
    if ok { Ok(rows) } else { Err(Error::EndedByBody) }
}

#[tokio::test]
async fn work_for_a_commit_that_is_not_seen_is_refused() {
    let db = database().await;
    let (mut client, ran) = (db.client().await, Arc::new(AtomicU32::new(0)));
    let mut tx = client.transaction().await.unwrap();
    let error = hook(&mut tx, true, true, &ran).await.unwrap_err();
    assert!(matches!(error, Error::OnCommitUnseen { function: "hook", .. }), "{error}");
    assert!(error.to_string().contains("`hook` registered `on_commit`"), "{error}");
    assert!(matches!(hook(&mut tx, true, false, &ran).await, Err(Error::EndedByBody)), "the body's error remains");
    assert_eq!(hook(&mut tx, false, true, &ran).await.unwrap(), 1);
    assert_eq!(ran.load(Ordering::Relaxed), 0);
    hook(&mut tx, false, false, &ran).await.unwrap_err();
    assert_eq!(ran.load(Ordering::Relaxed), 1, "the savepoint is rolled back");
    tx.commit().await.unwrap();
    assert_eq!(db.cents(1).await, 101);
}

#[transactional]
async fn hang(tx: &mut Transaction<'_>, sql: &str) -> Result<(), Error> {
    tx.execute(ADD, &[&1_i64]).await?;
    tx.batch_execute(sql).await?;
    std::future::pending().await
}

#[tokio::test]
async fn the_deadline_ends_the_call_and_not_the_transaction() {
    let db = database().await;
    let mut client = db.client().await;
    let mut tx = client.transaction().await.unwrap();
    for sql in ["", "SELECT pg_sleep(0.2)"] {
        let source = Source::from(&mut tx).deadline(Duration::from_millis(50));
        let error = hang(source, sql).await.unwrap_err();
        assert!(matches!(error, Error::DeadlineExceeded { .. }), "{error}");
    }
    add(&mut tx, 10, "").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(db.cents(1).await, 110);
}

#[transactional]
async fn nested_and_inline(tx: &mut Transaction<'_>) -> Result<(), Error> {
    add(&mut *tx, 1, "").await?;
    let mut savepoint = tx.transaction().await?;
    add(&mut *savepoint, 2, "").await?;
    savepoint.commit().await
}

#[tokio::test]
async fn a_call_dropped_at_any_poll_is_kept_whole_or_undone() {
    let db = database().await;
    let mut client = db.client().await;
    let (mut polls, mut kept) = (0, 100);
    loop {
        let mut tx = client.transaction().await.unwrap();
        let is_complete = dropped_after(nested_and_inline(&mut tx), polls).await;
        if is_complete {
            tx.commit().await.unwrap();
            kept += 3;
            break assert_eq!(db.cents(1).await, kept);
        }
        // If it was dropped while its savepoint was released, the rollback to it fails, and so does all that follows.
        let goes_on = add(&mut tx, 10, "").await;
        match tx.commit().await {
            Ok(()) if goes_on.is_ok() => kept += 10,
            _ => {}
        }
        assert_eq!(db.cents(1).await, kept, "after {polls} polls: {goes_on:?}");
        polls += 1;
    }
    assert!(polls > 5, "only {polls} polls");
}

#[tokio::test]
async fn the_end_of_the_connection_is_an_error() {
    let db = database().await;
    let (mut client, observer) = (db.client().await, db.client().await);
    let id = pid(&client).await;
    let mut tx = client.transaction().await.unwrap();
    terminate(&observer, id).await;
    assert!(matches!(add(&mut tx, 1, "").await, Err(Error::Postgres(_))));
}

/// One at a time, if they waited for each other.
#[transactional(queue_by = ())]
async fn queued(tx: &mut Transaction<'_>, inner: Option<&str>) -> Result<u32, Error> {
    tx.batch_execute(inner.unwrap_or("SELECT 1")).await?;
    Ok(tx.attempt())
}

#[tokio::test]
async fn a_call_in_an_open_transaction_waits_in_no_queue() {
    let db = database().await;
    let (pool, mut client) = (db.pool(1), db.client().await);
    let mut tx = client.transaction().await.unwrap();
    tx.execute(ADD, &[&1_i64]).await.unwrap();
    // It is first in the queue, and waits for the row that the open transaction has locked.
    let first = tokio::spawn(async move { queued(&pool, Some("UPDATE accounts SET cents = 0 WHERE id = 1")).await });
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while db.value::<i64>(waiting).await == 0 {}
    queued(&mut tx, None).await.unwrap();
    tx.commit().await.unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(db.cents(1).await, 0);
}
