//! What a call went through: on its error, and in its last event.
#![allow(missing_docs)]

use std::time::Duration;

use retry_runtime::{Error, FailedAttempt, History, Phase, Source, Transaction, transactional};
use retry_tests::events::Events;
use retry_tests::{Database, FAULT_TABLES};

/// Raises the SQLSTATE of each attempt: in the body, or in COMMIT.
#[transactional(
    base_delay = "100us",
    max_delay = "200us",
    jitter = "none",
    retries = 1,
    deadlock_retries = 2,
    damping = "off"
)]
async fn fail(tx: &mut Transaction<'_>, sqlstates: &[&str], in_commit: bool) -> Result<(), Error> {
    let Some(sqlstate) = sqlstates.get(tx.attempt() as usize - 1) else { return Ok(()) };
    let raise = format!("DO $do$ BEGIN RAISE EXCEPTION USING MESSAGE = 'the cause', ERRCODE = '{sqlstate}'; END $do$");
    if in_commit {
        tx.execute("INSERT INTO at_commit VALUES ($1)", &[&raise]).await?;
    } else if tx.batch_execute(&raise).await.is_err() {
        // The call returns `Error::Aborted`.
    }
    Ok(())
}

#[transactional(max_delay = "2ms")]
async fn hang(tx: &mut Transaction<'_>) -> Result<(), Error> {
    if tx.attempt() > 1 {
        std::future::pending::<()>().await;
    }
    tx.batch_execute("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40P01'; END $$").await?;
    Ok(())
}

fn parts(error: &Error) -> (u32, Vec<(&'static str, u32)>) {
    let history = error.history().expect("the call was retried");
    assert!(error.to_string().contains(&format!(", after {history}: ")), "{error}");
    (history.attempts(), history.failures().collect())
}

type Details<'a> = (&'static str, Option<&'a str>, Phase, Option<Duration>);

fn last_attempts(error: &Error) -> Vec<Details<'_>> {
    let history = error.history().expect("the call was retried");
    assert_eq!(history.omitted_attempts(), 0);
    assert!(history.last_attempts().map(FailedAttempt::duration).sum::<Duration>() < history.elapsed());
    let attempts = history.last_attempts();
    attempts.map(|attempt| (attempt.reason(), attempt.sqlstate(), attempt.phase(), attempt.delay())).collect()
}

#[tokio::test]
async fn an_error_of_a_retried_call_says_what_happened_before() {
    let db = Database::create().await;
    db.setup(FAULT_TABLES).await;
    let (pool, events) = (db.pool(1), Events::capture());
    for in_commit in [false, true] {
        let error = fail(&pool, &["40001", "53300", "40P01", "40001"], in_commit).await.unwrap_err();
        assert_eq!(matches!(error, Error::Postgres(_)), in_commit, "{error:?}");
        assert_eq!(parts(&error), (4, vec![("serialization", 2), ("capacity", 1), ("deadlock", 1)]));
        let phase = if in_commit { Phase::Commit } else { Phase::Body };
        assert_eq!(
            last_attempts(&error),
            [
                ("serialization", Some("40001"), phase, Some(Duration::from_micros(100))),
                ("capacity", Some("53300"), phase, Some(Duration::from_millis(2))),
                ("deadlock", Some("40P01"), phase, Some(Duration::from_micros(200))),
                ("serialization", Some("40001"), phase, None),
            ]
        );
        let elapsed = error.history().map(History::elapsed);
        assert!(elapsed > Some(Duration::from_micros(300)), "the delays are a part: {elapsed:?}");
        assert!(
            error.to_string().ends_with("(2x serialization, 1x capacity, 1x deadlock): ERROR: the cause"),
            "{error}"
        );
    }
    let given_up = events.of("giving up");
    assert_eq!(given_up.len(), 2, "{events:?}");
    for event in given_up {
        assert_eq!(event["failures"], "2x serialization, 1x capacity, 1x deadlock");
        assert_eq!(event["attempt"], "4");
        let attempts: Vec<&str> = event["attempts"].split("; ").collect();
        assert!(attempts[2].starts_with("deadlock 40P01 in ") && attempts[2].ends_with(", delay 200.0µs"), "{event:?}");
        assert!(event["elapsed_us"].parse::<u64>().unwrap() > 300, "{event:?}");
    }
}

#[tokio::test]
async fn so_does_one_of_the_deadline_and_of_the_pool() {
    let db = Database::create().await;
    let (pool, events) = (db.pool(1), Events::capture());
    let error = hang(Source::from(&pool).deadline(Duration::from_secs(1))).await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { phase: Phase::Body, .. }), "{error:?}");
    assert_eq!(parts(&error), (2, vec![("deadlock", 1)]));
    assert_eq!(events.of("deadline exceeded")[0]["failures"], "1x deadlock");
    let last = error.history().and_then(|history| history.last_attempts().last()).expect("it is remembered");
    assert_eq!((last.reason(), last.phase(), last.sqlstate()), ("deadline_exceeded", Phase::Body, None));
    pool.close();
    assert!(hang(&pool).await.unwrap_err().history().is_none(), "it was not retried");
    let no_server = retry_tests::pool(&"host=/nonexistent user=test".parse().unwrap(), 1);
    let error = hang(Source::from(&no_server).retries(1)).await.unwrap_err();
    assert!(matches!(error, Error::Pool(_)), "{error:?}");
    assert_eq!(parts(&error), (2, vec![("connection", 2)]));
    assert!(error.history().is_some_and(|history| history.last_attempts().all(|last| last.phase() == Phase::Pool)));
}
