//! Options that a call sets on its source, instead of the function's attribute.
#![allow(missing_docs)]

use std::time::Duration;

use retry_runtime::{Error, Isolation, Phase, Source, Transaction, transactional, with_deadline};
use retry_tests::Database;
use retry_tests::events::Events;
use tokio::time::Instant;

const CONFLICT: &str = "40001";
const TRANSIENT: &str = "53300";
const SOON: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_secs(3600);

/// Fails with `sqlstate` until an attempt, whose number it returns.
#[transactional(base_delay = "10us", max_delay = "20us", name = "fail")]
async fn fail(tx: &mut Transaction<'_>, sqlstate: &str, until: u32) -> Result<u32, Error> {
    if tx.attempt() < until {
        tx.batch_execute(&format!("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{sqlstate}'; END $$")).await?;
    }
    Ok(tx.attempt())
}

#[tokio::test]
async fn a_call_sets_its_own_retries() {
    let db = Database::create().await;
    let pool = db.pool(1);
    let source = || Source::from(&pool);
    assert_eq!(fail(source(), TRANSIENT, 3).await.unwrap(), 3, "the default is 2");
    assert!(fail(source(), TRANSIENT, 4).await.is_err());
    assert!(fail(source().retries(0), TRANSIENT, 2).await.is_err());
    assert_eq!(fail(source().retries(4), TRANSIENT, 5).await.unwrap(), 5);
    assert_eq!(fail(source().retry_for(LATE), TRANSIENT, 6).await.unwrap(), 6);
    assert_eq!(fail(source(), CONFLICT, 6).await.unwrap(), 6, "the default is 5");
    assert!(fail(source(), CONFLICT, 7).await.is_err());
    assert!(fail(source().deadlock_retries(1), CONFLICT, 3).await.is_err());
    assert_eq!(fail(source().deadlock_retries(7), CONFLICT, 8).await.unwrap(), 8);
    assert_eq!(fail(source().retries(7), CONFLICT, 8).await.unwrap(), 8, "conflicts have at least as many");
    assert_eq!(fail(&pool, CONFLICT, 6).await.unwrap(), 6, "other calls keep those of the function");
}

#[transactional(deadline = "60m")]
async fn hang(_tx: &mut Transaction<'_>) -> Result<(), Error> {
    std::future::pending().await
}

#[tokio::test]
async fn a_call_sets_its_own_deadline() {
    let db = Database::create().await;
    let pool = db.pool(1);
    let error = hang(Source::from(&pool).deadline(SOON)).await.unwrap_err();
    assert!(
        matches!(error, Error::DeadlineExceeded { phase: Phase::Body | Phase::Begin | Phase::Pool, .. }),
        "{error}"
    );
    let error = with_deadline(Instant::now() + SOON, hang(Source::from(&pool).deadline(LATE))).await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { .. }), "{error}");
}

#[tokio::test]
async fn a_deadline_that_has_passed_takes_no_connection() {
    let db = Database::create().await;
    let pool = db.pool(1);
    // It has an idle connection, which it would give at once.
    drop(pool.get().await.unwrap());
    let error = hang(Source::from(&pool).deadline(Duration::ZERO)).await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { phase: Phase::Pool, .. }), "{error}");
    let error = hang(Source::from(&mut db.client().await).deadline(Duration::ZERO)).await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { phase: Phase::Begin, .. }), "{error}");
}

#[transactional]
async fn any_level(tx: &mut Transaction<'_>) -> Result<String, Error> {
    Ok(tx.query_one("SHOW transaction_isolation", &[]).await?.get(0))
}

#[transactional(isolation = "repeatable read")]
async fn repeatable_read(tx: &mut Transaction<'_>) -> Result<String, Error> {
    Ok(tx.query_one("SHOW transaction_isolation", &[]).await?.get(0))
}

#[transactional(isolation = "repeatable read", name = "outer")]
async fn nest(tx: &mut Transaction<'_>, level: Isolation) -> Result<String, Error> {
    any_level(Source::from(tx).isolation(level).named("inner")).await
}

#[tokio::test]
async fn a_call_asks_for_a_level_and_keeps_a_stronger_one_of_the_function() {
    let db = Database::create().await;
    let pool = db.pool(1);
    let source = || Source::from(&pool);
    let levels = [Isolation::ReadCommitted, Isolation::RepeatableRead, Isolation::Serializable];
    for (level, strongest) in levels.into_iter().zip(["repeatable read", "repeatable read", "serializable"]) {
        assert_eq!(any_level(source().isolation(level)).await.unwrap(), level.as_sql().to_lowercase());
        assert_eq!(repeatable_read(source().isolation(level)).await.unwrap(), strongest);
    }
    assert_eq!(any_level(&pool).await.unwrap(), "read committed", "the session's");
}

#[tokio::test]
async fn a_nested_call_cannot_ask_for_a_stronger_level() {
    let db = Database::create().await;
    let pool = db.pool(1);
    assert_eq!(nest(&pool, Isolation::ReadCommitted).await.unwrap(), "repeatable read");
    let error = nest(&pool, Isolation::Serializable).await.unwrap_err();
    assert!(matches!(error, Error::NestedIsolation { outer: "outer", inner: "inner", .. }), "{error}");
    let serializable = Source::from(&pool).isolation(Isolation::Serializable);
    assert_eq!(nest(serializable, Isolation::Serializable).await.unwrap(), "serializable", "the outer call asks too");
}

#[tokio::test]
async fn events_name_the_call() {
    let db = Database::create().await;
    let (pool, events) = (db.pool(1), Events::capture());
    fail(Source::from(&pool).named("gc"), CONFLICT, 2).await.unwrap();
    fail(&pool, CONFLICT, 2).await.unwrap();
    let names: Vec<_> = events.of("retrying").into_iter().map(|mut fields| fields.remove("function")).collect();
    assert_eq!(names, [Some("gc".to_owned()), Some("fail".to_owned())]);
}

#[tokio::test]
async fn a_source_that_is_used_again_keeps_its_options() {
    let db = Database::create().await;
    let mut client = db.client().await;
    let mut source = Source::from(&mut client).deadlock_retries(0);
    assert!(fail(source.reborrow(), CONFLICT, 2).await.is_err());
    assert!(fail(source.reborrow().deadlock_retries(1), CONFLICT, 2).await.is_ok());
    assert!(fail(source, CONFLICT, 2).await.is_err());
}
