//! Promise 10: every retry, give-up, unknown outcome and discarded connection is an event.
#![allow(missing_docs)]

use retry_runtime::{Error, Transaction, transactional};
use retry_tests::events::Events;
use retry_tests::rival::{Rival, pid, terminate};
use retry_tests::{Database, FAULT_TABLES};

#[transactional(isolation = "repeatable read", deadlock_retries = 1, jitter = "none", name = "conflict")]
#[tracing::instrument(name = "the body's span", skip_all)]
async fn conflict(tx: &mut Transaction<'_>, rival: &Rival) -> Result<(), Error> {
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 1", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn retries_and_give_ups_are_events() {
    let db = Database::create().await;
    db.accounts(1, 100).await;
    let rival = Rival::connect(&db).await;
    let events = Events::capture();
    conflict(&db.pool(1), &rival).await.unwrap_err();
    let all = events.all();
    assert_eq!(all.len(), 2, "{all:?}");
    let expect = |event: &retry_tests::events::Fields, expected: &[(&str, &str)]| {
        for (field, value) in expected {
            assert_eq!(event.get(field).map(String::as_str), Some(*value), "{field} in {event:?}");
        }
    };
    let common = [("function", "conflict"), ("class", "serialization"), ("sqlstate", "40001"), ("span", "attempt")];
    expect(&all[0], &common);
    expect(&all[0], &[("message", "retrying"), ("level", "INFO"), ("attempt", "1"), ("delay_us", "1000")]);
    expect(&all[1], &common);
    expect(&all[1], &[("message", "giving up"), ("level", "WARN"), ("attempt", "2")]);
    assert!(all[0]["error"].contains("could not serialize access"), "{all:?}");
}

#[transactional(retries = 0, name = "cut")]
async fn cut(tx: &mut Transaction<'_>, observer: &tokio_postgres::Client) -> Result<(), Error> {
    terminate(observer, pid(tx).await).await;
    tx.execute("SELECT 1", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn a_discarded_connection_is_an_event() {
    let db = Database::create().await;
    let observer = db.client().await;
    let events = Events::capture();
    cut(&db.pool(1), &observer).await.unwrap_err();
    let discarded = events.of("connection discarded");
    assert_eq!(discarded.len(), 1, "{events:?}");
    assert_eq!((discarded[0]["function"].as_str(), discarded[0]["level"].as_str()), ("cut", "WARN"));
    assert_eq!(events.of("giving up")[0]["class"], "connection");
}

#[transactional(name = "symptom")]
async fn symptom(tx: &mut Transaction<'_>) -> Result<(), Error> {
    if tx.attempt() == 1 {
        let failing = std::pin::pin!(tx.batch_execute("SELECT 1 / 0"));
        assert!(futures_util::poll!(failing).is_pending());
    }
    tx.query("SELECT 1", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn a_retry_after_an_unseen_cause_has_its_own_class() {
    let db = Database::create().await;
    let events = Events::capture();
    symptom(&db.pool(1)).await.unwrap();
    let retries = events.of("retrying");
    assert_eq!(retries.len(), 1, "{events:?}");
    assert_eq!((retries[0]["class"].as_str(), retries[0]["sqlstate"].as_str()), ("unseen", "25P02"));
}

/// Fails with a message that quotes a value.
#[transactional(retries = 1, retry_on = ["22P02", "P0001"], base_delay = "250us", max_delay = "1ms")]
async fn quotes(tx: &mut Transaction<'_>, sql: &str) -> Result<(), Error> {
    tx.batch_execute(sql).await?;
    Ok(())
}

#[transactional(deadline = "1s", retries = 1, retry_on = ["22P02"], base_delay = "1s", max_delay = "2s", jitter = "none")]
async fn quotes_too_late(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.batch_execute("SELECT 's3cret'::int").await?;
    Ok(())
}

#[transactional]
async fn quotes_and_ends_the_session(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.batch_execute("SET LOCAL exit_on_error = on; SELECT 's3cret'::int").await?;
    Ok(())
}

#[tokio::test]
async fn no_event_contains_a_message_that_may_quote_values() {
    let db = Database::create().await;
    db.setup(FAULT_TABLES).await;
    let events = Events::capture();
    let raise = "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'P0001', MESSAGE = 's3cret'; END $$";
    let at_commit = format!("INSERT INTO at_commit VALUES ('{}')", raise.replace('\'', "''"));
    let unknown = at_commit.replace("P0001", "40003");
    for sql in ["SELECT 's3cret'::int", raise, &at_commit, &unknown] {
        quotes(&db.pool(1), sql).await.unwrap_err();
    }
    quotes_too_late(&db.pool(1)).await.unwrap_err();
    quotes_and_ends_the_session(&db.pool(1)).await.unwrap_err();
    for message in ["retrying", "giving up", "deadline exceeded", "commit outcome unknown", "connection discarded"] {
        assert_ne!(events.of(message).len(), 0, "{message}: {events:?}");
    }
    for event in events.all() {
        assert!(!event.values().any(|value| value.contains("s3cret")), "{event:?}");
        assert!(event.contains_key("sqlstate"), "{event:?}");
    }
}

#[transactional]
async fn fine(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.query("SELECT 1", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn success_at_the_first_attempt_emits_no_event() {
    let db = Database::create().await;
    let events = Events::capture();
    fine(&db.pool(1)).await.unwrap();
    assert_eq!(events.all().len(), 0, "{events:?}");
}
