//! The counters of functions, from `retry_runtime::stats`.
#![allow(missing_docs)]

use std::time::Duration;

use retry_runtime::{Error, FunctionStats, Source, Transaction, stats, transactional};
use retry_tests::calls::dropped_after;
use retry_tests::{Database, FAULT_TABLES, first_attempt_runs};

fn of(name: &str) -> FunctionStats {
    stats().function(name).unwrap_or_else(|| panic!("{name} is not in\n{}", stats())).clone()
}

first_attempt_runs! {
    max_delay = "1ms";
    conflicts, name = "stats: conflicts";
    cuts_its_connection, name = "stats: cut";
    swallows, name = "stats: give up", deadlock_retries = 0, retries = 0;
}

fn raise(sqlstate: &str) -> String {
    format!("DO $do$ BEGIN RAISE EXCEPTION USING ERRCODE = '{sqlstate}'; END $do$")
}

#[tokio::test]
async fn calls_attempts_retries_and_times_are_counted() {
    let db = Database::create().await;
    db.setup(FAULT_TABLES).await;
    let pool = db.pool(1);
    assert!(stats().function("stats: conflicts").is_none(), "it has not been called");
    conflicts(&pool, "SELECT 1").await.unwrap();
    let well = of("stats: conflicts");
    assert_eq!((well.calls, well.committed, well.attempts, well.retries().count()), (1, 1, 1, 0));
    assert_eq!((well.wasted, well.time > Duration::ZERO), (Duration::ZERO, true));

    conflicts(&pool, &raise("40001")).await.unwrap();
    conflicts(Source::from(&pool).named("another"), &raise("40P01")).await.unwrap();
    conflicts(&pool, &raise("23505")).await.unwrap_err();
    let stats = of("stats: conflicts");
    assert_eq!((stats.calls, stats.committed, stats.body_errors, stats.attempts), (4, 3, 1, 6));
    assert_eq!(stats.retries().collect::<Vec<_>>(), [("serialization", 1), ("deadlock", 1)]);
    assert_eq!((stats.give_ups, stats.discarded_connections, stats.ignored_failures), (0, 0, 0));
    assert!(stats.time > stats.wasted + stats.waiting, "{stats:?}");
    assert!(stats.wasted > Duration::ZERO && stats.waiting > well.waiting, "{stats:?}");

    cuts_its_connection(&pool, "SELECT pg_terminate_backend(pg_backend_pid())").await.unwrap();
    let stats = of("stats: cut");
    assert_eq!((stats.calls, stats.attempts, stats.discarded_connections), (1, 2, 1));
    swallows(&pool, &raise("40001")).await.unwrap_err();
    assert_eq!((of("stats: give up").give_ups, of("stats: give up").committed), (1, 0));
}

#[transactional(name = "stats: ignores", deadlock_retries = 1, base_delay = "250us", max_delay = "1ms")]
async fn ignores(tx: &mut Transaction<'_>) -> Result<(), Error> {
    let _ = tx.batch_execute(&raise("40001")).await;
    Ok(())
}

#[transactional(name = "stats: unanswered")]
async fn unanswered(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("INSERT INTO at_commit VALUES ($1)", &[&raise("40003")]).await?;
    Ok(())
}

#[transactional(name = "stats: dropped")]
async fn hangs(tx: &mut Transaction<'_>) -> Result<(), Error> {
    inner(&mut *tx).await?;
    std::future::pending().await
}

#[transactional(name = "stats: nested")]
async fn inner(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.batch_execute("SELECT 1").await?;
    Ok(())
}

#[transactional(name = "stats: queued", queue_by = ())]
async fn queued(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.batch_execute("SELECT 1").await?;
    Ok(())
}

#[tokio::test]
async fn so_is_everything_that_would_go_unnoticed() {
    let db = Database::create().await;
    db.setup(FAULT_TABLES).await;
    let pool = db.pool(2);
    ignores(&pool).await.unwrap_err();
    let ignored = of("stats: ignores");
    assert_eq!((ignored.ignored_failures, ignored.body_errors, ignored.attempts), (2, 0, 2));
    assert!(unanswered(&pool).await.unwrap_err().is_unknown());
    assert_eq!(of("stats: unanswered").unanswered_commits, 1);
    assert!(!dropped_after(hangs(&pool), 30).await);
    let dropped = of("stats: dropped");
    assert_eq!((dropped.calls, dropped.committed, dropped.body_errors, dropped.attempts), (1, 0, 0, 1));
    assert!(stats().function("stats: nested").is_none(), "it is a part of the call around it");
    let (one, other) = tokio::join!(queued(&pool), queued(&pool));
    one.and(other).unwrap();
    assert_eq!((of("stats: queued").queue_waits, of("stats: queued").calls), (1, 2));
    assert!(of("stats: queued").waiting > Duration::ZERO);
}

#[tokio::test]
async fn the_text_is_a_table() {
    let db = Database::create().await;
    queued(&db.pool(1)).await.unwrap();
    let text = stats().to_string();
    let lines: Vec<&str> = text.lines().collect();
    let at = |line: &str, title: &str| lines[0].find(title).map(|start| line[..start + title.len()].to_owned());
    let row = lines.iter().find(|line| line.starts_with("stats: queued ")).expect("a row");
    for title in ["calls", "committed", "body errors", "queued"] {
        let cells = at(row, title).expect("a column");
        assert!(cells.ends_with(|last: char| last.is_ascii_digit()), "{title} is not aligned in\n{text}");
    }
}
