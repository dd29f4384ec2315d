//! `with_deadline`: calls inside have the earlier of two deadlines.
#![allow(missing_docs)]

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use retry_runtime::{Error, Phase, Source, Transaction, transactional, with_deadline};
use retry_tests::Database;
use retry_tests::calls::dropped_after;
use tokio::time::Instant;

const SOON: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_secs(3600);

fn after(time: Duration) -> Instant {
    Instant::now() + time
}

#[transactional]
async fn hang(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("SELECT 1", &[]).await?;
    std::future::pending().await
}

#[transactional(deadline = "100ms")]
async fn hang_shortly(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("SELECT 1", &[]).await?;
    std::future::pending().await
}

#[transactional]
async fn one(tx: &mut Transaction<'_>) -> Result<i32, Error> {
    Ok(tx.query_one("SELECT 1", &[]).await?.get(0))
}

#[transactional]
async fn nest(tx: &mut Transaction<'_>) -> Result<i32, Error> {
    with_deadline(after(Duration::ZERO), one(&mut *tx)).await
}

fn is_exceeded(result: &Result<(), Error>) -> bool {
    matches!(result, Err(Error::DeadlineExceeded { phase: Phase::Body | Phase::Begin | Phase::Pool, .. }))
}

#[tokio::test]
async fn the_earlier_deadline_counts() {
    let db = Database::create().await;
    let pool = db.pool(1);
    assert!(is_exceeded(&with_deadline(after(SOON), hang(&pool)).await));
    assert!(is_exceeded(&with_deadline(after(LATE), hang_shortly(&pool)).await));
    assert!(is_exceeded(&with_deadline(after(LATE), with_deadline(after(SOON), hang(&pool))).await));
    assert!(is_exceeded(&with_deadline(after(SOON), with_deadline(after(LATE), hang(&pool))).await));
    assert!(is_exceeded(&with_deadline(after(SOON), hang(&mut db.client().await)).await));
    let spawned = tokio::spawn(async move { with_deadline(after(SOON), hang(&pool)).await });
    assert!(is_exceeded(&spawned.await.unwrap()));
    assert_eq!(db.open_transactions().await, 0);
}

#[tokio::test]
async fn it_ends_with_its_future() {
    let db = Database::create().await;
    let pool = db.pool(1);
    let passed = after(Duration::ZERO);
    assert!(with_deadline(passed, one(&pool)).await.is_err());
    assert_eq!(one(&pool).await.unwrap(), 1);
    let panics = with_deadline(passed, async { panic!("the body of a handler") });
    assert!(AssertUnwindSafe(panics).catch_unwind().await.is_err());
    assert_eq!(one(&pool).await.unwrap(), 1);
    let (inside, outside) = tokio::join!(with_deadline(passed, one(&pool)), one(&pool));
    assert!(inside.is_err() && outside.is_ok(), "{inside:?} {outside:?}");
}

#[tokio::test]
async fn a_nested_call_has_the_deadline_of_the_outermost_call() {
    let db = Database::create().await;
    assert_eq!(nest(&db.pool(1)).await.unwrap(), 1);
}

#[tokio::test]
async fn a_call_dropped_at_any_poll_leaves_a_clean_pool() {
    let db = Database::create().await;
    let pool = db.pool(1);
    let mut polls = 0;
    while !dropped_after(with_deadline(after(LATE), one(&pool)), polls).await {
        polls += 1;
        drop(pool.get().await.unwrap());
        assert_eq!(db.open_transactions().await, 0, "after {polls} polls");
    }
    assert!(polls > 1, "only {polls} polls");
}

/// Two calls on one source.
async fn twice(source: impl Into<Source<'_>>) -> Result<i32, Error> {
    let mut source = source.into();
    Ok(one(source.reborrow()).await? + one(source).await?)
}

#[transactional]
async fn twice_nested(tx: &mut Transaction<'_>) -> Result<i32, Error> {
    twice(&mut *tx).await
}

#[tokio::test]
async fn a_source_can_be_used_again() {
    let db = Database::create().await;
    let pool = db.pool(1);
    assert_eq!(twice(&pool).await.unwrap(), 2);
    assert_eq!(twice(&mut db.client().await).await.unwrap(), 2);
    assert_eq!(twice_nested(&pool).await.unwrap(), 2);
}
