//! The spans of calls and attempts.
#![allow(missing_docs)]

use std::time::Duration;

use retry_runtime::{Error, Source, Transaction, transactional};
use retry_tests::Database;
use retry_tests::calls::dropped_after;
use retry_tests::events::Events;
use tokio::sync::Notify;
use tracing::Instrument;

fn raise(sqlstate: &str) -> String {
    format!("DO $do$ BEGIN RAISE EXCEPTION USING MESSAGE = 's3cret', ERRCODE = '{sqlstate}'; END $do$")
}

#[transactional(
    name = "spans",
    deadlock_retries = 2,
    base_delay = "250us",
    max_delay = "1ms",
    jitter = "none",
    damping = "off"
)]
async fn fails(tx: &mut Transaction<'_>, sqlstates: &[&str]) -> Result<u32, Error> {
    let statement = async {
        match sqlstates.get(tx.attempt() as usize - 1) {
            Some(sqlstate) => tx.batch_execute(&raise(sqlstate)).await,
            None => Ok(()),
        }
    };
    statement.instrument(tracing::info_span!("the body's own")).await?;
    nested(&mut *tx).await?;
    Ok(tx.attempt())
}

#[transactional]
async fn nested(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.batch_execute("SELECT 1").instrument(tracing::info_span!("in a nested call")).await?;
    Ok(())
}

#[tokio::test]
async fn a_call_has_a_span_and_each_attempt_one_in_it() {
    let db = Database::create().await;
    let (pool, events) = (db.pool(1), Events::capture());
    let call = fails(&pool, &["40001", "40P01"]).instrument(tracing::info_span!("the caller's"));
    assert_eq!(call.await.unwrap(), 3);
    assert_eq!(
        events.tree(),
        "\
the caller's
  transaction db.system.name=postgresql otel.kind=client otel.name=spans transactional.attempts=3 \
transactional.function=spans transactional.outcome=ok
    attempt db.response.status_code=40001 error.type=40001 otel.status_code=ERROR transactional.attempt=1 \
transactional.class=serialization transactional.delay_ms=0.25 transactional.phase=body
      the body's own
      info: retrying
    attempt db.response.status_code=40P01 error.type=40P01 otel.status_code=ERROR transactional.attempt=2 \
transactional.class=deadlock transactional.delay_ms=1.0 transactional.phase=body
      the body's own
      info: retrying
    attempt transactional.attempt=3
      the body's own
      in a nested call
"
    );
}

#[tokio::test]
async fn a_failed_call_says_why() {
    let db = Database::create().await;
    let pool = db.pool(1);
    let events = Events::capture();
    fails(Source::from(&pool).deadlock_retries(0).named("gives up"), &["40001"]).await.unwrap_err();
    assert_eq!(
        events.tree(),
        "\
transaction db.response.status_code=40001 db.system.name=postgresql error.type=40001 otel.kind=client \
otel.name=gives up otel.status_code=ERROR transactional.attempts=1 transactional.function=gives up \
transactional.outcome=body_error
  attempt db.response.status_code=40001 error.type=40001 otel.status_code=ERROR transactional.attempt=1 \
transactional.class=serialization transactional.phase=body
    the body's own
    warn: giving up
"
    );
    assert!(!events.tree().contains("s3cret"));

    let events = Events::capture();
    let held = pool.get().await.unwrap();
    fails(Source::from(&pool).deadline(Duration::from_millis(20)).named("no connection"), &[]).await.unwrap_err();
    drop(held);
    assert_eq!(
        events.tree(),
        "\
transaction db.system.name=postgresql error.type=deadline_exceeded otel.kind=client otel.name=no connection \
otel.status_code=ERROR transactional.attempts=1 transactional.function=no connection \
transactional.outcome=deadline_exceeded
  attempt error.type=deadline_exceeded otel.status_code=ERROR transactional.attempt=1 \
transactional.class=deadline_exceeded transactional.phase=pool
    warn: deadline exceeded
"
    );
}

#[transactional(name = "hangs")]
async fn hangs(_tx: &mut Transaction<'_>) -> Result<(), Error> {
    std::future::pending().await
}

#[tokio::test]
async fn a_dropped_call_closes_its_spans() {
    let db = Database::create().await;
    let events = Events::capture();
    assert!(!dropped_after(hangs(&db.pool(1)), 20).await);
    let tree = events.tree();
    assert!(tree.contains("transactional.outcome=dropped"), "{tree}");
    assert!(tracing::Span::current().is_none(), "the attempt's span is left");
}

#[transactional(name = "waits")]
async fn waits(_tx: &mut Transaction<'_>, reached: &Notify, go: &Notify) -> Result<(), Error> {
    reached.notify_one();
    go.notified().await;
    Ok(())
}

#[tokio::test]
async fn a_waiting_body_is_not_in_its_span() {
    let db = Database::create().await;
    let (pool, events) = (db.pool(1), Events::capture());
    let (reached, go) = (Notify::new(), Notify::new());
    let meanwhile = async {
        reached.notified().await;
        drop(tracing::info_span!("of other work on this thread"));
        go.notify_one();
    };
    tokio::join!(waits(&pool, &reached, &go), meanwhile).0.unwrap();
    let tree = events.tree();
    assert!(tree.lines().any(|line| line == "of other work on this thread"), "{tree}");
}
