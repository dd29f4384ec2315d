//! Promise 1: `Ok` means committed. Also what an error in reply to COMMIT means.
#![allow(missing_docs)]

use futures_util::StreamExt;
use retry_runtime::{Class, Error, Transaction, classify, transactional};
use retry_tests::events::Events;
use retry_tests::{Database, FAULT_TABLES, NO_PARAMS, first_attempt_runs};
use tokio_postgres::error::SqlState;

async fn database() -> Database {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    db
}

fn assert_aborted_by(error: &Error, code: &SqlState) {
    assert!(matches!(error, Error::Aborted { .. }), "{error:?}");
    assert_eq!(error.as_db_error().expect("the server's error").code(), code);
}

/// The problem that this library solves: with tokio-postgres alone the writes are gone, and `commit` returns `Ok`.
#[tokio::test]
async fn tokio_postgres_alone_reports_success_for_a_rolled_back_commit() {
    let db = database().await;
    let mut client = db.client().await;
    let tx = client.transaction().await.unwrap();
    tx.execute("UPDATE accounts SET cents = 0 WHERE id = 1", &[]).await.unwrap();
    let _ = tx.execute("INSERT INTO accounts VALUES (1, 5)", &[]).await;
    assert!(tx.commit().await.is_ok());
    assert_eq!(db.cents(1).await, 100);
}

#[transactional]
async fn swallow(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = 0 WHERE id = 1", &[]).await?;
    let _ = tx.execute("INSERT INTO accounts VALUES (1, 5)", &[]).await;
    Ok(())
}

#[tokio::test]
async fn ok_means_committed_if_an_error_was_swallowed() {
    let db = database().await;
    let pool = db.pool(1);
    let error = swallow(&pool).await.unwrap_err();
    assert_aborted_by(&error, &SqlState::UNIQUE_VIOLATION);
    assert_eq!(classify(&error), Some(Class::Fatal));
    assert_eq!(db.cents(1).await, 100);
    assert_eq!(db.open_transactions().await, 0);
    assert_eq!(pool.status().available, 1, "the session is back in the pool");
}

#[transactional]
async fn swallow_on_the_drivers_client(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = 0 WHERE id = 1", &[]).await?;
    let client: &tokio_postgres::Client = tx;
    let _ = client.execute("SELECT 1 / 0", &[]).await;
    Ok(())
}

#[tokio::test]
async fn ok_means_committed_if_the_runtime_did_not_see_the_failure() {
    let db = database().await;
    let error = swallow_on_the_drivers_client(&db.pool(1)).await.unwrap_err();
    assert_aborted_by(&error, &SqlState::IN_FAILED_SQL_TRANSACTION);
    assert_eq!(db.cents(1).await, 100);
}

#[transactional]
async fn drop_rows_unread(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = 0 WHERE id = 1", &[]).await?;
    let rows = tx.query_raw("SELECT 10 / (3 - n) FROM generate_series(1, 1000) AS n", NO_PARAMS).await?;
    let mut rows = std::pin::pin!(rows);
    assert!(rows.next().await.expect("a row").is_ok());
    Ok(())
}

/// The first row arrived and the third failed, but the body stopped reading before it. The runtime sees only the symptom.
#[tokio::test]
async fn ok_means_committed_if_rows_were_left_unread() {
    let db = database().await;
    let error = drop_rows_unread(&db.pool(1)).await.unwrap_err();
    assert_aborted_by(&error, &SqlState::IN_FAILED_SQL_TRANSACTION);
    assert_eq!(db.cents(1).await, 100);
}

#[transactional]
async fn insert_deferred(tx: &mut Transaction<'_>, id: i32) -> Result<(), Error> {
    tx.execute("INSERT INTO slots VALUES ($1)", &[&id]).await?;
    Ok(())
}

#[tokio::test]
async fn a_constraint_violation_at_commit_is_returned() {
    let db = database().await;
    db.setup("CREATE TABLE slots (id int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO slots VALUES (1)").await;
    let pool = db.pool(1);
    let error = insert_deferred(&pool, 1).await.unwrap_err();
    let Error::Postgres(source) = &error else { panic!("{error:?}") };
    assert_eq!(source.code(), Some(&SqlState::UNIQUE_VIOLATION));
    assert_eq!(error.into_postgres().unwrap().code(), Some(&SqlState::UNIQUE_VIOLATION));
    assert!(Error::EndedByBody.into_postgres().is_err());
    insert_deferred(&pool, 2).await.unwrap();
    assert_eq!(db.value::<i64>("SELECT count(*) FROM slots").await, 2);
}

#[transactional(read_only)]
async fn forbidden_write(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = 0", &[]).await?;
    Ok(())
}

#[transactional]
async fn not_sql(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.batch_execute("INVALID TXN STATEMENT").await?;
    Ok(())
}

#[tokio::test]
async fn a_failed_body_returns_its_own_error_and_leaves_nothing() {
    let db = database().await;
    let pool = db.pool(1);
    for (error, code) in [
        (forbidden_write(&pool).await.unwrap_err(), SqlState::READ_ONLY_SQL_TRANSACTION),
        (not_sql(&pool).await.unwrap_err(), SqlState::SYNTAX_ERROR),
    ] {
        let Error::Postgres(source) = &error else { panic!("{error:?}") };
        assert_eq!(source.code(), Some(&code));
    }
    assert_eq!(db.open_transactions().await, 0);
    assert_eq!(pool.status().available, 1);
}

#[transactional]
async fn panic_half_way(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = 0 WHERE id = 1", &[]).await?;
    panic!("a bug");
}

#[tokio::test]
async fn a_panic_rolls_back_and_the_pool_stays_usable() {
    let db = database().await;
    let pool = db.pool(1);
    let shared = pool.clone();
    assert!(tokio::spawn(async move { panic_half_way(&shared).await }).await.unwrap_err().is_panic());
    let error = swallow(&pool).await.unwrap_err();
    assert_aborted_by(&error, &SqlState::UNIQUE_VIOLATION);
    assert_eq!(db.cents(1).await, 100);
}

/// Ends its transaction itself, and returns `Ok`.
#[transactional]
async fn end(tx: &mut Transaction<'_>, how: &str, command: &str) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = $1", &[&1_i64]).await?;
    match how {
        "batch_execute" => tx.batch_execute(command).await?,
        "simple_query" => drop(tx.simple_query(command).await?),
        "execute" => drop(tx.execute(command, &[]).await?),
        "query" => drop(tx.query(command, &[]).await?),
        "execute_raw" => drop(tx.execute_raw(command, NO_PARAMS).await?),
        "query_typed" => drop(tx.query_typed(command, &[]).await?),
        "prepared" => drop(tx.execute(&tx.prepare(command).await?, &[]).await?),
        "dropped" => {
            let mut end = Box::pin(tx.batch_execute(command));
            assert!(futures_util::poll!(end.as_mut()).is_pending());
        }
        "the driver's client" => drop((**tx).execute(command, &[]).await?),
        _ => unreachable!("{how}"),
    }
    // This succeeds outside the transaction, so success proves nothing.
    assert_eq!(tx.execute("UPDATE accounts SET cents = cents + 10 WHERE id = $1", &[&1_i64]).await?, 1);
    Ok(())
}

#[transactional(unknown_commit = "token")]
async fn end_by_token(tx: &mut Transaction<'_>, command: &str) -> Result<(), Error> {
    tx.batch_execute(command).await?;
    Ok(())
}

#[tokio::test]
async fn a_body_that_ends_its_transaction_itself_is_an_error() {
    let db = database().await;
    let pool = db.pool(1);
    let mut cents = 100;
    for how in [
        "batch_execute",
        "simple_query",
        "execute",
        "query",
        "execute_raw",
        "query_typed",
        "prepared",
        "dropped",
        "the driver's client",
    ] {
        for (command, kept) in [("ROLLBACK", 0), ("COMMIT", 1)] {
            let events = Events::capture();
            let error = end(&pool, how, command).await.unwrap_err();
            assert!(matches!(error, Error::EndedByBody), "{how}: {error:?}");
            assert_eq!(classify(&error), Some(Class::Fatal));
            assert_eq!(events.of("the body ended the transaction itself").len(), 1, "{how}: {events:?}");
            cents += kept + 10;
            assert_eq!(db.cents(1).await, cents, "{how}, {command}");
        }
    }
    assert!(matches!(end_by_token(&pool, "ROLLBACK").await, Err(Error::EndedByBody)));
    assert_eq!((db.open_transactions().await, pool.status().available), (0, 1));
}

/// Swallows the first failure, and returns only its symptom.
macro_rules! continue_after_failure {
    ($($name:ident: $Error:ty;)*) => {$(
        #[transactional]
        async fn $name(tx: &mut Transaction<'_>) -> Result<(), $Error> {
            let _ = tx.execute("INSERT INTO accounts VALUES (1, 5)", &[]).await;
            tx.execute("UPDATE accounts SET cents = 0 WHERE id = 1", &[]).await?;
            Ok(())
        }
    )*};
}

continue_after_failure! {
    symptom: Error;
    symptom_as_enum: Chained;
}

#[derive(Debug, thiserror::Error)]
enum Chained {
    #[error(transparent)]
    Runtime(#[from] Error),
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
}

#[transactional]
async fn symptom_nested(tx: &mut Transaction<'_>) -> Result<(), Error> {
    symptom(&mut *tx).await
}

#[tokio::test]
async fn the_first_failure_is_reported_if_the_body_returns_only_its_symptom() {
    let db = database().await;
    let pool = db.pool(1);
    for nested in [false, true] {
        let events = Events::capture();
        let error = if nested { symptom_nested(&pool).await } else { symptom(&pool).await }.unwrap_err();
        assert_aborted_by(&error, &SqlState::UNIQUE_VIOLATION);
        if !nested {
            assert_eq!(events.of("an earlier statement had failed")[0]["sqlstate"], "23505", "{events:?}");
        }
    }
    let events = Events::capture();
    let error = symptom_as_enum(&pool).await.unwrap_err();
    let Chained::Postgres(returned) = error else { panic!("the body's own error: {error:?}") };
    assert_eq!(returned.code(), Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
    assert_eq!(events.of("an earlier statement had failed")[0]["sqlstate"], "23505", "{events:?}");
    assert_eq!(db.cents(1).await, 100);
}

#[transactional]
async fn refused_at_commit(tx: &mut Transaction<'_>, probed: bool) -> Result<(), Error> {
    if probed {
        tx.batch_execute("SELECT 1").await?;
    }
    tx.execute("INSERT INTO refused VALUES (1)", &[]).await?;
    Ok(())
}

/// The last message of a session, once the session is idle: it replies with an error shortly before.
async fn last_message(db: &Database, pid: i32) -> String {
    let sql = format!("SELECT coalesce(min(query), '') FROM pg_stat_activity WHERE pid = {pid} AND state LIKE 'idle%'");
    loop {
        let message = db.value::<String>(&sql).await;
        if !message.is_empty() {
            return message;
        }
    }
}

/// The server warns of a ROLLBACK outside a transaction.
#[tokio::test]
async fn no_rollback_is_sent_after_a_failed_commit() {
    let db = database().await;
    db.setup(
        "CREATE TABLE refused (id int);
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$;
         CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON refused DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .await;
    let pool = db.pool(1);
    let pid = pool.get().await.unwrap().query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    for (probed, last) in [(false, "COMMIT"), (true, "SAVEPOINT transactional_commit; COMMIT")] {
        let error = refused_at_commit(&pool, probed).await.unwrap_err();
        assert!(matches!(error, Error::Postgres(_)), "{error:?}");
        assert_eq!(last_message(&db, pid).await, last);
    }
    // If the probe before COMMIT fails, the transaction is still open, and ROLLBACK is sent.
    swallow_on_the_drivers_client(&pool).await.unwrap_err();
    assert_eq!((db.open_transactions().await, pool.status().available), (0, 1));
}

/// Asks the client, either through the transaction or directly.
#[transactional]
async fn asks(tx: &mut Transaction<'_>, directly: bool) -> Result<bool, Error> {
    tx.execute("UPDATE accounts SET cents = cents", &[]).await?;
    tx.clear_type_cache();
    let _ = tx.cancel_token();
    Ok(if directly { (**tx).is_closed() } else { tx.is_closed() })
}

#[tokio::test]
async fn only_direct_use_of_the_client_adds_a_probe_to_commit() {
    let db = database().await;
    let pool = db.pool(1);
    let pid = pool.get().await.unwrap().query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    for (directly, last) in [(false, "COMMIT"), (true, "SAVEPOINT transactional_commit; COMMIT")] {
        assert!(!asks(&pool, directly).await.unwrap());
        assert_eq!(last_message(&db, pid).await, last);
    }
}

first_attempt_runs! {
    max_delay = "1ms";
    call;
    once, retries = 0, deadlock_retries = 0;
}

/// A statement that raises `code`.
fn raise(code: &str, text: &str) -> String {
    format!("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}', MESSAGE = '{text}'; END $$")
}

/// Makes COMMIT raise `code`.
fn raise_in_commit(code: &str, text: &str) -> String {
    format!("INSERT INTO at_commit VALUES ('{}')", raise(code, text).replace('\'', "''"))
}

/// A database with the fault tables, a pool of one connection, and the events from now on.
async fn faults() -> (Database, deadpool_postgres::Pool, Events) {
    let db = Database::create().await;
    db.setup(FAULT_TABLES).await;
    let pool = db.pool(1);
    (db, pool, Events::capture())
}

async fn rows(db: &Database) -> i64 {
    db.value("SELECT count(*) FROM done").await
}

/// In PostgreSQL 17 and later, `transaction_timeout` ends the session with this code. Another attempt would take as long.
#[tokio::test]
async fn a_transaction_timeout_is_not_retried() {
    for sql in [raise("25P04", "transaction timeout"), raise_in_commit("25P04", "transaction timeout")] {
        let (db, pool, events) = faults().await;
        let attempt = call(&pool, &format!("SET LOCAL exit_on_error = on; {sql}")).await;
        let error = attempt.unwrap_err();
        assert!(matches!(error, Error::Postgres(_)), "{error:?}");
        assert_eq!(classify(&error), Some(Class::Fatal), "{error:?}");
        assert_eq!(events.of("retrying").len(), 0, "{events:?}");
        assert_eq!(events.of("connection discarded").len(), 1, "{events:?}");
        assert_eq!(rows(&db).await, 0);
    }
}

/// A deferred trigger reports that its own connection, to a foreign server, has failed. The call's connection is open, and
/// its transaction is rolled back.
#[tokio::test]
async fn a_connection_failure_inside_commit_is_not_an_unknown_outcome() {
    for code in ["08000", "08003", "08006"] {
        let (db, pool, events) = faults().await;
        let error = once(&pool, &raise_in_commit(code, "connection failure")).await.unwrap_err();
        assert!(matches!(error, Error::Postgres(_)), "{error:?}");
        assert_eq!(rows(&db).await, 0);
        let attempt = call(&pool, &raise_in_commit(code, "connection failure")).await;
        assert_eq!((attempt.unwrap(), rows(&db).await), (2, 1));
        assert_eq!(events.of("commit outcome unknown").len(), 0, "{events:?}");
    }
}

/// The first two codes say that the outcome is unknown. In the third case, the session may have committed before it ended.
#[tokio::test]
async fn an_unknown_outcome_is_reported_as_unknown() {
    for sql in [
        raise_in_commit("08007", "transaction resolution unknown"),
        raise_in_commit("40003", "result is ambiguous"),
        format!("SET LOCAL exit_on_error = on; {}", raise_in_commit("08006", "connection failure")),
    ] {
        let (_db, pool, events) = faults().await;
        let error = call(&pool, &sql).await.unwrap_err();
        assert!(matches!(error, Error::CommitUnknown { .. }), "{error:?}");
        assert_eq!(events.of("commit outcome unknown").len(), 1, "{events:?}");
    }
}

/// Citus reports a serialization failure in a worker's COMMIT with this code and text.
#[tokio::test]
async fn a_serialization_failure_reported_by_citus_is_retried() {
    let (db, pool, events) = faults().await;
    let hidden = raise_in_commit("XX000", "could not commit transaction for shard 102008 on at least one active node");
    assert_eq!(call(&pool, &hidden).await.unwrap(), 2);
    let retry = &events.of("retrying")[0];
    assert_eq!((&*retry["class"], &*retry["sqlstate"]), ("serialization", "XX000"));
    assert_eq!(events.of("connection discarded").len(), 0, "{events:?}");
    assert_eq!(rows(&db).await, 1);
}
