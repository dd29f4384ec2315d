//! Other engines, as their documentation describes them: what is sent, and which errors are retried. A scripted server
//! replies with these errors. The tests do not show that the engines do the same.
#![allow(missing_docs)]

use std::pin::pin;

use futures_util::poll;
use retry_runtime::{Class, CommitOutcome, Error, Transaction, install, transactional};
use retry_tests::events::Events;
use retry_tests::scripted::{Reply, Scripted, error};
use retry_tests::{connect, pool};
use tokio::sync::Notify;

const BODY: &str = "UPDATE accounts SET cents = 0";
const BEGIN: &str = "BEGIN NOT DEFERRABLE";

macro_rules! functions {
    ($($name:ident $(, $option:meta)*;)*) => {$(
        #[transactional(base_delay = "250us", max_delay = "1ms" $(, $option)*)]
        async fn $name(tx: &mut Transaction<'_>) -> Result<u32, Error> {
            tx.execute_typed(BODY, &[]).await?;
            Ok(tx.attempt())
        }
    )*};
}

functions! {
    plain;
    with_options_of_the_loop, retries = 9, retry_for = "1s", retry_on = ["23505"], name = "f";
    with_deadline, deadline = "1m";
    pipelined, begin = "pipelined";
    read_committed, isolation = "read committed";
    repeatable_read, isolation = "repeatable read";
    serializable, isolation = "serializable";
    report, read_only;
    deferrable, isolation = "serializable", read_only, deferrable;
    timeouts, statement_timeout = "2s", lock_timeout = "1s", idle_timeout = "1m";
    resolved, unknown_commit = "resolve";
    by_token, unknown_commit = "token";
    conflicts_only, retries = 0, deadlock_retries = 1;
    no_conflicts, deadlock_retries = 0;
    retry_unknown, unknown_commit = "retry";
}

#[transactional]
async fn prepared(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.query("SELECT 1", &[]).await?;
    Ok(())
}

/// Each leaves in doubt whether the transaction is still open and not aborted.
#[transactional]
async fn in_doubt(tx: &mut Transaction<'_>, how: &str) -> Result<(), Error> {
    match how {
        "dropped" => assert!(poll!(pin!(tx.execute_typed(BODY, &[]))).is_pending()),
        "text" => tx.batch_execute(BODY).await?,
        "typed query" => drop(tx.query_typed(BODY, &[]).await?),
        "nothing affected" => drop(tx.execute(BODY, &[]).await?),
        _ => unreachable!("{how}"),
    }
    Ok(())
}

#[transactional]
async fn nested(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    plain(&mut *tx).await
}

#[transactional]
async fn savepoints(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.savepoint("kept").await?.commit().await?;
    tx.savepoint("undone").await?.rollback().await
}

#[transactional]
async fn fails(tx: &mut Transaction<'_>) -> Result<(), anyhow::Error> {
    tx.execute_typed(BODY, &[]).await?;
    anyhow::bail!("declined")
}

#[transactional]
async fn hangs(tx: &mut Transaction<'_>, reached: &Notify) -> Result<(), Error> {
    tx.execute_typed(BODY, &[]).await?;
    reached.notify_one();
    std::future::pending().await
}

/// Each row of the table in `engines.md`.
#[tokio::test]
async fn each_function_sends_what_the_guide_lists_and_nothing_else() {
    let server = Scripted::start().await;
    let pool = pool(server.config(), 1);
    // A message that ends with `…` is compared up to there.
    macro_rules! sends {
        ($call:expr, $expected:expr) => {{
            let result = $call.await;
            assert_sent(stringify!($call), &server.received(), &$expected);
            result
        }};
    }
    sends!(plain(&pool), [BEGIN, BODY, "COMMIT"]).unwrap();
    sends!(with_options_of_the_loop(&pool), [BEGIN, BODY, "COMMIT"]).unwrap();
    sends!(pipelined(&pool), [BEGIN, BODY, "COMMIT"]).unwrap();
    sends!(fails(&pool), [BEGIN, BODY, "ROLLBACK"]).unwrap_err();
    sends!(prepared(&pool), [BEGIN, "SELECT 1", "COMMIT"]).unwrap();

    let begin = "BEGIN ISOLATION LEVEL READ COMMITTED NOT DEFERRABLE";
    sends!(read_committed(&pool), [begin, BODY, "COMMIT"]).unwrap();
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ NOT DEFERRABLE";
    sends!(repeatable_read(&pool), [begin, BODY, "COMMIT"]).unwrap();
    let begin = "BEGIN ISOLATION LEVEL SERIALIZABLE NOT DEFERRABLE";
    sends!(serializable(&pool), [begin, BODY, "COMMIT"]).unwrap();
    sends!(report(&pool), ["BEGIN READ ONLY NOT DEFERRABLE", BODY, "COMMIT"]).unwrap();
    let begin = "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE";
    sends!(deferrable(&pool), [begin, BODY, "COMMIT"]).unwrap();

    let (ask, set) = ("SHOW statement_timeout", "SET LOCAL statement_timeout = ");
    server.once("SHOW", Reply::Row(&["0"]));
    sends!(with_deadline(&pool), [&format!("{BEGIN}; {ask}; {set}…"), BODY, "COMMIT"]).unwrap();
    sends!(with_deadline(&pool), [&format!("{BEGIN}; {set}…"), BODY, "COMMIT"]).unwrap();

    let (savepoint, release) = ("SAVEPOINT transactional_1", "RELEASE transactional_1");
    sends!(nested(&pool), [BEGIN, savepoint, BODY, release, "COMMIT"]).unwrap();
    let undone = "ROLLBACK TO undone; RELEASE undone";
    sends!(savepoints(&pool), [BEGIN, "SAVEPOINT kept", "RELEASE kept", "SAVEPOINT undone", undone, "COMMIT"]).unwrap();
    for how in ["dropped", "text", "typed query", "nothing affected"] {
        if how == "nothing affected" {
            server.once(BODY, Reply::Done("UPDATE 0"));
        }
        sends!(in_doubt(&pool, how), [BEGIN, BODY, "SAVEPOINT transactional_commit; COMMIT"]).unwrap();
    }

    let begin = "BEGIN NOT DEFERRABLE; SET LOCAL statement_timeout = 2000; SET LOCAL lock_timeout = 1000; \
                 SET LOCAL idle_in_transaction_session_timeout = 60000";
    sends!(timeouts(&pool), [begin, BODY, "COMMIT"]).unwrap();
    let begin = "BEGIN NOT DEFERRABLE; SELECT pg_catalog.pg_current_xact_id()…";
    server.always("SELECT pg_catalog.pg_current_xact_id()", Reply::Row(&["7", "1", "00000001", "0", "1"]));
    sends!(resolved(&pool), [begin, BODY, "COMMIT"]).unwrap();
    let commit = "INSERT INTO transactional.commits (token) VALUES ('…";
    sends!(by_token(&pool), [BEGIN, BODY, commit]).unwrap();

    server.once("SHOW", Reply::Row(&["serializable"]));
    let mut client = connect(server.config()).await;
    let mut tx = client.transaction().await.unwrap();
    let _ = server.received();
    sends!(serializable(&mut tx), ["SHOW transaction_isolation", savepoint, BODY, release]).unwrap();
    tx.rollback().await.unwrap();
    let _ = server.received();

    for _ in 0..2 {
        server.once(BODY, error("25006", "cannot execute UPDATE in a read-only transaction"));
    }
    let refused = [BEGIN, BODY, "ROLLBACK", BEGIN, BODY, "ROLLBACK", "SHOW default_transaction_read_only"];
    server.once("SHOW", Reply::Row(&["on"]));
    sends!(plain(&pool), refused).unwrap_err();

    // A dropped call. The next request waits until the session is clean.
    server.always("SELECT pg_catalog.now()", Reply::Row(&["t"]));
    let reached = Notify::new();
    tokio::select! {
        result = hangs(&pool, &reached) => panic!("{result:?}"),
        () = reached.notified() => {}
    }
    drop(pool.get().await.unwrap());
    let is_idle = "SELECT pg_catalog.now() OPERATOR(pg_catalog.=) pg_catalog.statement_timestamp()";
    assert_sent("a dropped call", &server.received(), &[BEGIN, BODY, "ROLLBACK", is_idle]);
}

/// As Aurora DSQL does.
#[tokio::test]
async fn a_deadline_stays_on_this_side_if_the_server_refuses_it() {
    let server = Scripted::start().await;
    server.always("SET LOCAL", error("0A000", "setting configuration parameter \"statement_timeout\" not supported"));
    let pool = pool(server.config(), 1);
    with_deadline(&pool).await.unwrap();
    let asked = format!("{BEGIN}; SHOW statement_timeout; SET LOCAL statement_timeout = …");
    assert_sent("the first call", &server.received(), &[&asked, "ROLLBACK", BEGIN, BODY, "COMMIT"]);
    with_deadline(&pool).await.unwrap();
    assert_sent("the second call", &server.received(), &[BEGIN, BODY, "COMMIT"]);
}

#[track_caller]
fn assert_sent(call: &str, received: &[String], expected: &[&str]) {
    let is_expected = |(received, expected): (&String, &&str)| match expected.strip_suffix('…') {
        Some(prefix) => received.starts_with(prefix),
        None => received == expected,
    };
    let same = received.len() == expected.len() && received.iter().zip(expected).all(is_expected);
    assert!(same, "{call}\nreceived {received:#?}\nexpected {expected:#?}");
}

const RESTART: &str = "restart transaction: TransactionRetryWithProtoRefreshError: WriteTooOldError: write too old";
const AMBIGUOUS: &str = "result is ambiguous: error=rpc error: code = Unavailable";
const EXHAUSTED: &str = "All transparent retries exhausted. could not serialize access due to concurrent update";
const EXPIRED: &str = "Operation expired: Transaction expired or aborted by a conflict";
const OC000: &str = "mutation conflicts with another transaction, retry as needed (OC000)";
const OC001: &str = "schema has been updated by another transaction, please retry: (OC001)";

/// `Ok`: the number of attempts. `Err`: the class of the error that the first attempt returned.
type Outcome = Result<u32, Class>;

/// What each engine's documentation says of its errors.
const ERRORS: &[(&str, &str, &str, &str, Outcome)] = &[
    ("CockroachDB", BODY, "40001", RESTART, Ok(2)),
    ("CockroachDB", "COMMIT", "40001", RESTART, Ok(2)),
    ("CockroachDB", BODY, "CR000", RESTART, Ok(2)),
    ("CockroachDB", "COMMIT", "CR000", RESTART, Ok(2)),
    ("CockroachDB", BODY, "40003", AMBIGUOUS, Err(Class::CommitUnknown)),
    ("CockroachDB", "COMMIT", "40003", AMBIGUOUS, Err(Class::CommitUnknown)),
    ("YugabyteDB", BODY, "40001", EXHAUSTED, Ok(2)),
    ("YugabyteDB", BODY, "40001", "Restart read required at: { read: { physical: 1 } }", Ok(2)),
    ("YugabyteDB", BODY, "40P01", "deadlock detected", Ok(2)),
    ("YugabyteDB", "COMMIT", "40001", EXPIRED, Ok(2)),
    ("YugabyteDB", BODY, "25001", "SET TRANSACTION must be called before any query", Err(Class::Fatal)),
    ("YugabyteDB", BODY, "25006", "cannot execute UPDATE in a read-only transaction", Ok(2)),
    ("YugabyteDB", BODY, "XX000", "Internal error", Err(Class::Fatal)),
    ("Aurora DSQL", "COMMIT", "40001", OC000, Ok(2)),
    ("Aurora DSQL", "COMMIT", "40001", OC001, Ok(2)),
    ("Aurora DSQL", BODY, "40001", OC001, Ok(2)),
    ("Aurora DSQL", "COMMIT", "OC000", OC000, Ok(2)),
    ("Aurora DSQL", BODY, "0A000", "unsupported statement", Err(Class::Fatal)),
];

#[tokio::test]
async fn errors_are_retried_or_returned() {
    for &(engine, at, code, message, expected) in ERRORS {
        let case = format!("{engine}: {code} {message} in reply to {at}");
        let server = Scripted::start().await;
        server.once(at, error(code, message));
        let result = plain(&pool(server.config(), 1)).await;
        assert_eq!(result.as_ref().map(|attempt| *attempt).map_err(Error::class), expected, "{case}: {result:?}");
        let is_unknown = matches!(result, Err(Error::CommitUnknown { .. }));
        assert_eq!(is_unknown, code == "40003" && at == "COMMIT", "{case}: {result:?}");
        let attempts = server.received().iter().filter(|message| *message == BEGIN).count();
        assert_eq!(attempts, expected.unwrap_or(1) as usize, "{case}");
    }
}

/// Conflicts of every engine spend `deadlock_retries`, and nothing else does.
#[tokio::test]
async fn conflicts_are_retried_on_their_own_budget() {
    for &(engine, at, code, message, expected) in ERRORS {
        let case = format!("{engine}: {code} {message} in reply to {at}");
        let is_conflict = expected.is_ok() && !code.starts_with("25");
        let server = Scripted::start().await;
        server.once(at, error(code, message));
        let result = conflicts_only(&pool(server.config(), 1)).await;
        assert_eq!(result.is_ok(), is_conflict, "{case}: {result:?}");
        server.once(at, error(code, message));
        let result = no_conflicts(&pool(server.config(), 1)).await;
        assert_eq!(result.is_ok(), expected.is_ok() && !is_conflict, "{case}: {result:?}");
    }
}

/// A node of `CockroachDB` that shuts down ends its sessions.
#[tokio::test]
async fn a_session_that_the_server_ends_is_replaced() {
    let server = Scripted::start().await;
    let pool = pool(server.config(), 1);
    let message = "server is shutting down";
    server.once(BODY, Reply::Error { severity: "FATAL", code: "57P01", message, routine: None });
    assert_eq!(plain(&pool).await.unwrap(), 2);
    assert_sent("57P01", &server.received(), &[BEGIN, BODY, BEGIN, BODY, "COMMIT"]);
}

#[tokio::test]
async fn an_ambiguous_result_is_retried_only_if_the_function_asks() {
    let server = Scripted::start().await;
    let pool = pool(server.config(), 1);
    let events = Events::capture();
    server.once("COMMIT", error("40003", AMBIGUOUS));
    assert_eq!(retry_unknown(&pool).await.unwrap(), 2);
    let message = "server is shutting down";
    server.once("COMMIT", Reply::Error { severity: "FATAL", code: "57P01", message, routine: None });
    assert_eq!(report(&pool).await.unwrap(), 2, "it writes nothing");
    let retries: Vec<_> = events.of("retrying").into_iter().map(|retry| retry["sqlstate"].clone()).collect();
    assert_eq!(retries, ["40003", "57P01"]);
    server.once("COMMIT", Reply::Close);
    assert!(matches!(plain(&pool).await, Err(Error::CommitUnknown { identity: None, .. })));
}

/// `CockroachDB` refuses `ROLLBACK` outside of a transaction. It is sent if an error does not name the function of the
/// server that raised it.
#[tokio::test]
async fn a_refused_rollback_costs_the_connection_only() {
    let server = Scripted::start().await;
    let pool = pool(server.config(), 1);
    server.once("COMMIT", error("40001", RESTART));
    server.once("ROLLBACK", error("25P01", "there is no transaction in progress"));
    let events = Events::capture();
    assert_eq!(plain(&pool).await.unwrap(), 2);
    assert_eq!(events.of("connection discarded").len(), 1, "{events:?}");
    assert_sent("no routine", &server.received(), &[BEGIN, BODY, "COMMIT", "ROLLBACK", BEGIN, BODY, "COMMIT"]);

    let routine = Some("PrepareTransactionForRetry");
    server.once("COMMIT", Reply::Error { severity: "ERROR", code: "40001", message: RESTART, routine });
    assert_eq!(plain(&pool).await.unwrap(), 2);
    assert_sent("a routine", &server.received(), &[BEGIN, BODY, "COMMIT", BEGIN, BODY, "COMMIT"]);
    assert_eq!(events.of("connection discarded").len(), 1, "{events:?}");
}

/// `CockroachDB` and Aurora DSQL lack the functions of transaction ids.
#[tokio::test]
async fn resolve_is_refused_before_the_body_runs() {
    let server = Scripted::start().await;
    server.always("SELECT pg_catalog.pg_current_xact_id", error("42883", "unknown function: pg_current_xact_id()"));
    let result = resolved(&pool(server.config(), 1)).await;
    assert!(matches!(result, Err(Error::ResolveUnsupported(_))), "{result:?}");
    let begin = "BEGIN NOT DEFERRABLE; SELECT pg_catalog.pg_current_xact_id()…";
    assert_sent("resolve", &server.received(), &[begin, "ROLLBACK"]);
}

#[transactional(base_delay = "250us", max_delay = "1ms")]
async fn goes_on(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    let _ = tx.execute(BODY, &[]).await;
    tx.execute("DELETE FROM accounts", &[]).await?;
    Ok(tx.attempt())
}

#[tokio::test]
async fn after_25p02_the_statement_that_failed_first_decides() {
    let server = Scripted::start().await;
    let pool = pool(server.config(), 1);
    server.once(BODY, error("40001", EXHAUSTED));
    assert_eq!(goes_on(&pool).await.unwrap(), 2);
    server.once(BODY, error("23505", "duplicate key value violates unique constraint"));
    let error = goes_on(&pool).await.unwrap_err();
    assert_eq!(error.as_db_error().unwrap().code().code(), "23505", "{error:?}");
}

#[tokio::test]
async fn a_refused_write_is_retried_unless_the_function_only_reads() {
    let server = Scripted::start().await;
    server.always(BODY, error("25006", "cannot execute UPDATE in a read-only transaction"));
    let error = report(&pool(server.config(), 1)).await.unwrap_err();
    assert_eq!(error.class(), Class::ReadOnly);
    assert_sent("report", &server.received(), &["BEGIN READ ONLY NOT DEFERRABLE", BODY, "ROLLBACK"]);
}

/// Aurora DSQL has no savepoints.
#[tokio::test]
async fn without_savepoints_a_call_fails_at_once_and_its_outcome_is_known() {
    let server = Scripted::start().await;
    let pool = pool(server.config(), 1);
    server.always("SAVEPOINT", error("0A000", "unsupported statement: Savepoint"));
    let errors = [
        (nested(&pool).await.map(drop), &[BEGIN, "SAVEPOINT transactional_1", "ROLLBACK"][..], server.received()),
        (
            in_doubt(&pool, "text").await,
            &[BEGIN, BODY, "SAVEPOINT transactional_commit; COMMIT", "ROLLBACK"],
            server.received(),
        ),
    ];
    for (result, expected, received) in errors {
        let error = result.unwrap_err();
        assert_eq!(error.as_db_error().map(|error| error.code().code()), Some("0A000"), "{error:?}");
        assert!(matches!(error, Error::Postgres(_)), "{error:?}");
        assert_sent("a savepoint", &received, expected);
    }
}

/// Aurora DSQL has one isolation level, and not all settings. A hot standby refuses `serializable` with the same SQLSTATE:
/// see `standby.rs`.
#[tokio::test]
async fn an_option_that_the_server_lacks_is_refused_once() {
    let server = Scripted::start().await;
    let pool = pool(server.config(), 1);
    server.always("BEGIN ISOLATION LEVEL SERIALIZABLE", error("0A000", "unsupported isolation level: SERIALIZABLE"));
    server.always("SET LOCAL", error("0A000", "setting configuration parameter not supported"));
    let errors = [(serializable(&pool).await, server.received()), (timeouts(&pool).await, server.received())];
    for (result, received) in errors {
        let error = result.unwrap_err();
        assert_eq!(error.class(), Class::Fatal, "{error:?}");
        assert_sent("0A000", &received, &["BEGIN …", "ROLLBACK"]);
    }
}

/// Aurora DSQL refuses two such statements in one transaction.
#[tokio::test]
async fn install_creates_one_thing_per_message() {
    let server = Scripted::start().await;
    server.always("SELECT pg_catalog.to_regnamespace", Reply::Done("SELECT 0"));
    install(&connect(server.config()).await).await.unwrap();
    let received: Vec<String> = server.received().iter().map(|message| message.trim().to_owned()).collect();
    let schema = "CREATE SCHEMA IF NOT EXISTS transactional;";
    let table = "CREATE TABLE IF NOT EXISTS transactional.commits (…";
    assert_sent("install", &received, &["SELECT pg_catalog.to_regnamespace(…", schema, table]);
}

/// Aurora DSQL has one isolation level, and finds conflicts at `COMMIT`.
#[tokio::test]
async fn the_look_up_of_a_token_names_no_level_and_is_repeated_after_conflicts() {
    let server = Scripted::start().await;
    let claim = "BEGIN; INSERT INTO transactional.commits (token, committed) VALUES (…";
    let ask = "SELECT committed FROM transactional.commits WHERE token OPERATOR(pg_catalog.=) '…";
    for (found, outcome) in [(&["t"], CommitOutcome::Committed), (&["f"], CommitOutcome::RolledBack)] {
        server.once("COMMIT", Reply::Close);
        let unknown = by_token(&mut connect(server.config()).await).await.unwrap_err();
        let Error::CommitUnknown { identity: Some(identity), .. } = unknown else { panic!("{unknown:?}") };
        drop(server.received());
        server.once("COMMIT", error("40001", OC000));
        server.once("SELECT committed", Reply::Row(found));
        assert_eq!(identity.resolve(&connect(server.config()).await).await.unwrap(), outcome);
        assert_sent(found[0], &server.received(), &[claim, "ROLLBACK", claim, ask]);
    }
}
