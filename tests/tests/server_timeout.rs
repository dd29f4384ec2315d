//! The deadline on the server: a statement whose caller is gone ends by itself.
#![allow(missing_docs)]

use std::pin::pin;
use std::time::Duration;

use deadpool_postgres::Pool;
use futures_util::poll;
use retry_runtime::{Error, Phase, Pool as _, Source, Transaction, WithBreaker, transactional, with_deadline};
use retry_tests::Database;
use retry_tests::calls::dropped_after;
use retry_tests::rival::pid;
use tokio::time::Instant;

const SHOW: &str = "SELECT setting::int8 FROM pg_settings WHERE name = 'statement_timeout'";

macro_rules! functions {
    ($($name:ident $(, $option:meta)*;)*) => {$(
        /// The server's timeout in the transaction, in milliseconds.
        #[transactional($($option),*)]
        async fn $name(tx: &mut Transaction<'_>) -> Result<i64, Error> {
            Ok(tx.query_one(SHOW, &[]).await?.get(0))
        }
    )*};
}

functions! {
    without;
    in_10_s, deadline = "10s";
    serializable, deadline = "10s", isolation = "serializable", unknown_commit = "resolve";
    pipelined, deadline = "10s", begin = "pipelined";
    shorter_option, deadline = "10s", statement_timeout = "2s";
    longer_option, deadline = "10s", statement_timeout = "20s";
}

/// A pool of sessions with a `statement_timeout` of their own.
fn pool(db: &Database, own: &str) -> Pool {
    let mut config = db.config().clone();
    config.options(format!("-c statement_timeout={own}"));
    retry_tests::pool(&config, 1)
}

fn is_left(millis: i64) -> bool {
    (5_000..=10_000).contains(&millis)
}

#[tokio::test]
async fn the_time_that_is_left_is_the_timeout_unless_the_users_own_is_shorter() {
    let db = Database::create().await;
    // The first call on a pool asks for the session's own. The second uses the reply.
    for (own, pool) in [0, 2_000, 20_000].map(|own| (own, pool(&db, &own.to_string()))) {
        let is_right = |millis| if own == 2_000 { millis == own } else { is_left(millis) };
        for call in 1..=2 {
            assert!(is_right(in_10_s(&pool).await.unwrap()), "own timeout {own}, call {call}");
            assert!(is_right(serializable(&pool).await.unwrap()), "own timeout {own}, call {call}");
            assert!(is_right(pipelined(&pool).await.unwrap()), "own timeout {own}, call {call}");
            assert_eq!(shorter_option(&pool).await.unwrap(), 2_000);
            assert!(is_left(longer_option(&pool).await.unwrap()));
            assert_eq!(without(&pool).await.unwrap(), own, "it ends with the transaction");
        }
    }
}

#[tokio::test]
async fn every_deadline_counts_and_every_source() {
    let db = Database::create().await;
    let (pool, mut client) = (db.pool(1), db.client().await);
    let limit = Duration::from_secs(10);
    assert!(is_left(without(Source::from(&pool).deadline(limit)).await.unwrap()));
    assert!(is_left(with_deadline(Instant::now() + limit, without(&pool)).await.unwrap()));
    assert!(is_left(in_10_s(&mut client).await.unwrap()));
    client.batch_execute("SET statement_timeout = '3s'").await.unwrap();
    assert_eq!(in_10_s(&mut client).await.unwrap(), 3_000);
    assert_eq!(pipelined(&mut client).await.unwrap(), 3_000, "its own: that is not known in time");
    assert_eq!(without(Source::from(&pool).deadline(Duration::from_secs(1 << 40))).await.unwrap(), 0, "too long");
}

/// Fails with a conflict after a while. Records the timeout of each attempt.
#[transactional(deadline = "30s", base_delay = "50ms", max_delay = "50ms", jitter = "none")]
async fn conflict_twice(tx: &mut Transaction<'_>, timeouts: &std::sync::Mutex<Vec<i64>>) -> Result<(), Error> {
    let timeout = tx.query_one(SHOW, &[]).await?.get(0);
    timeouts.lock().unwrap().push(timeout);
    if tx.attempt() < 3 {
        tx.batch_execute("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$").await?;
    }
    Ok(())
}

#[tokio::test]
async fn each_attempt_has_what_is_left_by_then() {
    let db = Database::create().await;
    let timeouts = std::sync::Mutex::default();
    conflict_twice(&db.pool(1), &timeouts).await.unwrap();
    let timeouts = timeouts.into_inner().unwrap();
    assert_eq!(timeouts.len(), 3);
    assert!(timeouts[0] >= timeouts[1] + 50 && timeouts[1] >= timeouts[2] + 50, "{timeouts:?}");
}

/// Sleeps longer than any test waits.
#[transactional(deadline = "300ms")]
async fn sleep_for_an_hour(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.batch_execute("SELECT pg_sleep(3600)").await?;
    Ok(())
}

#[tokio::test]
async fn a_statement_ends_on_the_server_when_its_caller_is_gone() {
    const RUNNING: &str =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_sleep(3600)'
         AND state = 'active'";
    let db = Database::create().await;
    for attempt in 1..=2 {
        let pool = db.pool(1);
        if attempt == 1 {
            sleep_for_an_hour(&pool).await.unwrap_err();
        } else {
            // Dropped long before the deadline. The clean-up closes the connection, which the server does not notice.
            assert!(!dropped_after(sleep_for_an_hour(&pool), 50).await);
        }
        let ended = async { while db.value::<i64>(RUNNING).await > 0 {} };
        tokio::time::timeout(Duration::from_secs(60), ended).await.expect("the statement still runs");
    }
}

/// Sleeps on the server until the deadline has passed, and notices nothing of that before the server's error arrives.
#[transactional(deadline = "300ms")]
async fn overslept(tx: &mut Transaction<'_>) -> Result<(), Error> {
    let mut sleep = pin!(tx.batch_execute("SELECT pg_sleep(3600)"));
    assert!(poll!(sleep.as_mut()).is_pending());
    tokio::task::block_in_place(|| std::thread::sleep(Duration::from_millis(800)));
    sleep.await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_timeout_at_the_deadline_is_the_deadline() {
    let db = Database::create().await;
    let pool = WithBreaker::new(db.pool(1));
    drop(pool.get().await.unwrap());
    for _ in 0..5 {
        let pool = pool.clone();
        let error = tokio::spawn(async move { overslept(&pool).await }).await.unwrap().unwrap_err();
        assert!(matches!(error, Error::DeadlineExceeded { phase: Phase::Body, .. }), "{error}");
        assert_eq!(error.to_string(), "the deadline passed while running the body", "whichever side was faster");
    }
    let error = without(&pool).await.unwrap_err();
    assert!(matches!(error, Error::CircuitOpen { .. }), "the server has not answered in time: {error}");
}

#[tokio::test]
async fn a_call_dropped_at_any_poll_leaves_a_clean_pool() {
    let db = Database::create().await;
    let mut polls = 0;
    loop {
        // A new pool each time, so that the call asks for the session's timeout.
        let pool = pool(&db, "2s");
        let before = pid(&pool.get().await.unwrap()).await;
        if dropped_after(in_10_s(&pool), polls).await {
            break;
        }
        let session = pool.get().await.unwrap();
        assert_eq!(session.query_one(SHOW, &[]).await.unwrap().get::<_, i64>(0), 2_000, "after {polls} polls");
        assert_eq!(pid(&session).await, before, "after {polls} polls");
        assert_eq!(db.open_transactions().await, 0, "after {polls} polls");
        polls += 1;
    }
    assert!(polls > 2, "only {polls} polls");
}
