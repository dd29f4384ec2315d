//! The feature `testing`: faults that tests plan, raised by a real server.
#![allow(missing_docs)]

mod environment;
mod safe;
mod suite;

use std::time::Duration;

use deadpool_postgres::Pool;
use retry_runtime::testing::{Fault, Plan, drop_after, inherit, report, with_faults, without_faults};
use retry_runtime::{Error, Source, Transaction, install, transactional};
use retry_tests::Database;
use retry_tests::events::{Events, Fields};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

const CONFLICTS: [(Fault, &str, &str); 3] = [
    (Fault::SerializationFailure, "40001", "serialization"),
    (Fault::Deadlock, "40P01", "deadlock"),
    (Fault::LockTimeout, "55P03", "lock"),
];
const COMMITTED: Fault = Fault::CommitUnknown { committed: true };
const NOT_COMMITTED: Fault = Fault::CommitUnknown { committed: false };

struct Fixture {
    db: Database,
    pool: Pool,
    client: Client,
    events: Events,
}

impl Fixture {
    async fn new() -> Self {
        let db = Database::create().await;
        db.setup("CREATE TABLE ledger (attempt int)").await;
        let (pool, client) = (db.pool(2), db.client().await);
        install(&client).await.unwrap();
        Self { db, pool, client, events: Events::capture() }
    }

    /// The attempts whose rows are committed.
    async fn committed(&self) -> Vec<i32> {
        let rows = self.db.client().await.query("SELECT attempt FROM ledger ORDER BY attempt", &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// The single retry since the last call of this.
    fn the_retry(&self) -> Fields {
        let mut retries = self.events.of("retrying");
        assert_eq!(retries.len(), 1, "{:?}", self.events);
        retries.remove(0)
    }
}

/// Writes two rows, which say which attempt wrote them.
async fn write_rows(tx: &Transaction<'_>) -> Result<u32, Error> {
    let attempt = i32::try_from(tx.attempt()).unwrap();
    tx.execute("INSERT INTO ledger VALUES ($1)", &[&attempt]).await?;
    tx.batch_execute(&format!("INSERT INTO ledger VALUES ({attempt})")).await?;
    Ok(tx.attempt())
}

macro_rules! write {
    ($($name:ident $(, $option:meta)*;)*) => {$(
        #[transactional(base_delay = "250us", max_delay = "1ms" $(, $option)*)]
        async fn $name(tx: &mut Transaction<'_>) -> Result<u32, Error> {
            write_rows(tx).await
        }
    )*};
}

write! {
    write;
    write_pipelined, begin = "pipelined";
    write_released_early, early_release;
    apply_twice, unknown_commit = "retry";
    look_up, unknown_commit = "resolve";
    look_up_token, unknown_commit = "token";
    write_in_time, deadline = "300ms";
    write_without_retries, retries = 0;
}

#[transactional]
async fn outer(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    write(&mut *tx).await
}

#[transactional(read_only)]
async fn read(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    tx.query("SELECT FROM ledger", &[]).await?;
    Ok(tx.attempt())
}

/// Ignores the errors of its statements.
#[transactional(base_delay = "250us", max_delay = "1ms")]
async fn write_carelessly(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    let attempt = i32::try_from(tx.attempt()).unwrap();
    let _ = tx.execute("INSERT INTO ledger VALUES ($1)", &[&attempt]).await;
    Ok(tx.attempt())
}

/// Waits for no reply to its second statement.
#[transactional(base_delay = "250us", max_delay = "1ms")]
async fn send(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    let attempt = i32::try_from(tx.attempt()).unwrap();
    let insert = tx.prepare("INSERT INTO ledger VALUES ($1)").await?;
    tx.send(&insert, &[&attempt])?;
    Ok(tx.attempt())
}

#[tokio::test]
async fn a_conflict_before_commit_is_retried_as_a_real_one() {
    for (fault, sqlstate, class) in CONFLICTS {
        let f = Fixture::new().await;
        assert_eq!(with_faults(Plan::new(fault), write(&f.pool)).await.unwrap(), 2);
        let retry = f.the_retry();
        assert_eq!((&*retry["sqlstate"], &*retry["class"]), (sqlstate, class));
        assert!(retry["error"].contains("a fault of retry_runtime::testing"), "{retry:?}");
        assert_eq!(f.committed().await, [2, 2]);
        assert_eq!(f.db.open_transactions().await, 0);
    }
}

#[tokio::test]
async fn a_statement_fails_in_place_of_the_bodys_own() {
    for (fault, sqlstate, _) in CONFLICTS {
        let f = Fixture::new().await;
        for statement in 1..=2 {
            f.client.batch_execute("TRUNCATE ledger").await.unwrap();
            let (plan, events) = (Plan::new(fault).before_statement(statement), Events::capture());
            assert_eq!(with_faults(plan, write(&f.pool)).await.unwrap(), 2);
            assert_eq!(events.of("retrying")[0]["sqlstate"], sqlstate);
            assert_eq!(f.committed().await, [2, 2]);
        }
        let plan = Plan::new(fault).before_statement(3);
        assert_eq!(with_faults(plan, write(&f.pool)).await.unwrap(), 1, "there are two statements");
    }
}

#[tokio::test]
async fn the_body_sees_the_failure_and_cannot_ignore_it() {
    let f = Fixture::new().await;
    let plan = Plan::new(Fault::Deadlock).before_statement(1);
    assert_eq!(with_faults(plan, write_carelessly(&f.pool)).await.unwrap(), 2);
    assert_eq!(f.committed().await, [2]);
}

#[tokio::test]
async fn a_sent_statement_can_fail() {
    let f = Fixture::new().await;
    let plan = Plan::new(Fault::SerializationFailure).before_statement(2);
    assert_eq!(with_faults(plan, send(&f.pool)).await.unwrap(), 2);
    assert_eq!(f.the_retry()["sqlstate"], "40001");
    assert_eq!(f.committed().await, [2]);
}

#[tokio::test]
async fn every_way_to_begin_and_commit_has_faults() {
    let f = Fixture::new().await;
    let plans = [Plan::new(Fault::SerializationFailure), Plan::new(Fault::Deadlock).before_statement(1)];
    for plan in plans.iter().chain(&[Plan::new(Fault::ConnectionClosed)]) {
        assert_eq!(with_faults(plan.clone(), write_pipelined(&f.pool)).await.unwrap(), 2);
        assert_eq!(with_faults(plan.clone(), write_released_early(&f.pool)).await.unwrap(), 2);
        assert_eq!(with_faults(plan.clone(), look_up(&f.pool)).await.unwrap(), 2);
        assert_eq!(with_faults(plan.clone(), look_up_token(&f.pool)).await.unwrap(), 2);
        assert_eq!(with_faults(plan.clone(), read(&f.pool)).await.unwrap(), 2);
        assert_eq!(with_faults(plan.clone(), send(&f.pool)).await.unwrap(), 2);
    }
    for plan in plans {
        let mut client = f.db.client().await;
        assert_eq!(with_faults(plan, write(&mut client)).await.unwrap(), 2);
    }
    assert!(f.committed().await.iter().all(|attempt| *attempt == 2));
    assert_eq!(f.db.open_transactions().await, 0);
}

#[tokio::test]
async fn a_closed_connection_is_retried_on_another() {
    let f = Fixture::new().await;
    let closed = Plan::new(Fault::ConnectionClosed);
    let terminated = Plan::new(Fault::SessionTerminated);
    let plans = [closed.clone(), closed.before_statement(2), terminated.clone(), terminated.before_statement(2)];
    for plan in plans {
        f.client.batch_execute("TRUNCATE ledger").await.unwrap();
        let events = Events::capture();
        assert_eq!(with_faults(plan, write(&f.pool)).await.unwrap(), 2);
        assert_eq!(events.of("retrying")[0]["class"], "connection");
        assert_eq!(events.of("connection discarded").len(), 1);
        assert_eq!(f.committed().await, [2, 2]);
    }
    let mut client = f.db.client().await;
    let error = with_faults(Plan::new(Fault::ConnectionClosed), write(&mut client)).await.unwrap_err();
    assert!(matches!(error, Error::Postgres(_)), "{error:?}: the caller's own connection is closed");
    assert!(client.is_closed());
}

#[tokio::test]
async fn the_error_says_whether_a_statement_ran_when_the_session_ended() {
    let f = Fixture::new().await;
    for (fault, sqlstate) in [(Fault::SessionTerminated, Some("57P01")), (Fault::ConnectionClosed, None)] {
        let plan = Plan::new(fault).before_statement(2);
        let Error::Postgres(error) = with_faults(plan, write_without_retries(&f.pool)).await.unwrap_err() else {
            panic!("it is the driver's error");
        };
        assert_eq!(error.code().map(SqlState::code), sqlstate, "{error:?}");
    }
    assert!(f.committed().await.is_empty());
}

#[tokio::test]
async fn an_idle_connection_closes() {
    let f = Fixture::new().await;
    let plan = Plan::new(Fault::ConnectionClosed).before_begin();
    for pipelined in [false, true] {
        f.client.batch_execute("TRUNCATE ledger").await.unwrap();
        let events = Events::capture();
        let call = async { if pipelined { write_pipelined(&f.pool).await } else { write(&f.pool).await } };
        assert_eq!(with_faults(plan.clone(), call).await.unwrap(), 2);
        assert_eq!(events.of("retrying")[0]["class"], "connection");
        assert_eq!(f.committed().await, [2, 2]);
    }
}

#[tokio::test]
async fn the_pool_is_exhausted() {
    let f = Fixture::new().await;
    let plan = Plan::new(Fault::PoolExhausted);
    assert_eq!(with_faults(plan.clone(), write(&f.pool)).await.unwrap(), 2);
    assert_eq!(f.the_retry()["class"], "capacity");
    assert_eq!(f.committed().await, [2, 2]);
    let error = with_faults(plan.clone(), write_without_retries(&f.pool)).await.unwrap_err();
    assert!(matches!(error, Error::Pool(_)), "{error:?}");
    assert_eq!(with_faults(plan, write(&mut f.db.client().await)).await.unwrap(), 1, "it has no pool");
}

#[tokio::test]
async fn a_slow_server_lets_the_deadline_pass() {
    let f = Fixture::new().await;
    let slow = Plan::new(Fault::Slow(Duration::from_secs(60)));
    for plan in [slow.clone(), slow.before_statement(2)] {
        let error = with_faults(plan, write_in_time(&f.pool)).await.unwrap_err();
        assert!(matches!(error, Error::DeadlineExceeded { .. } | Error::CommitUnknown { .. }), "{error:?}");
        assert!(f.committed().await.is_empty());
    }
    let slow = Plan::new(Fault::Slow(Duration::from_millis(1)));
    for plan in [slow.clone(), slow.before_statement(2)] {
        assert_eq!(with_faults(plan, write(&f.pool)).await.unwrap(), 1);
    }
    assert_eq!(f.committed().await, [1, 1, 1, 1]);
}

#[tokio::test]
async fn a_call_is_dropped_while_it_runs() {
    let f = Fixture::new().await;
    assert_eq!(drop_after(2, write(&f.pool)).await.map(Result::unwrap), None);
    assert_eq!(drop_after(1_000, write(&f.pool)).await.map(Result::unwrap), Some(1));
    assert_eq!(f.committed().await, [1, 1]);
}

#[tokio::test]
async fn a_commit_gets_no_reply() {
    let f = Fixture::new().await;
    for (fault, committed) in [(NOT_COMMITTED, vec![]), (COMMITTED, vec![1, 1])] {
        let error = with_faults(Plan::new(fault), write(&f.pool)).await.unwrap_err();
        assert!(error.is_unknown(), "{error:?}");
        assert_eq!(f.committed().await, committed);
    }
    f.client.batch_execute("TRUNCATE ledger").await.unwrap();
    let error = with_faults(Plan::new(COMMITTED), write_released_early(&f.pool)).await.unwrap_err();
    assert!(error.is_unknown(), "{error:?}");
    assert_eq!(f.committed().await, [1, 1]);
    assert_eq!(with_faults(Plan::new(COMMITTED), read(&f.pool)).await.unwrap(), 2, "it wrote nothing");
}

#[tokio::test]
async fn a_commit_without_a_reply_is_retried_or_looked_up() {
    let f = Fixture::new().await;
    assert_eq!(with_faults(Plan::new(NOT_COMMITTED), apply_twice(&f.pool)).await.unwrap(), 2);
    assert_eq!(f.committed().await, [2, 2]);
    f.client.batch_execute("TRUNCATE ledger").await.unwrap();
    assert_eq!(with_faults(Plan::new(COMMITTED), apply_twice(&f.pool)).await.unwrap(), 2);
    assert_eq!(f.committed().await, [1, 1, 2, 2], "it is not idempotent");

    for (fault, attempt, outcome) in [(COMMITTED, 1, "committed"), (NOT_COMMITTED, 2, "rolled back")] {
        f.client.batch_execute("TRUNCATE ledger").await.unwrap();
        let events = Events::capture();
        assert_eq!(with_faults(Plan::new(fault), look_up(&f.pool)).await.unwrap(), attempt);
        assert_eq!(with_faults(Plan::new(fault), look_up_token(&f.pool)).await.unwrap(), attempt);
        let looked_up = events.of("commit outcome looked up");
        assert_eq!(looked_up.len(), 2, "{events:?}");
        assert!(looked_up.iter().all(|event| event["outcome"] == outcome), "{events:?}");
        assert_eq!(f.committed().await, [i32::try_from(attempt).unwrap(); 4]);
    }
}

#[tokio::test]
async fn a_plan_aims_at_attempts_and_functions() {
    let f = Fixture::new().await;
    let plan = Plan::new(Fault::Deadlock);
    assert_eq!(with_faults(plan.clone().on_attempt(2), write(&f.pool)).await.unwrap(), 1);
    assert_eq!(with_faults(plan.clone().of(&["read"]), write(&f.pool)).await.unwrap(), 1);
    assert_eq!(with_faults(plan.clone().of(&["testing::write", "read"]), write(&f.pool)).await.unwrap(), 2);
    let named = Source::from(&f.pool).named("nightly");
    assert_eq!(with_faults(plan.clone().of(&["nightly"]), write(named)).await.unwrap(), 2);
    assert_eq!(with_faults(plan.clone(), outer(&f.pool)).await.unwrap(), 2, "the nested call is a part of it");
    assert_eq!(with_faults(plan.of(&["write"]), outer(&f.pool)).await.unwrap(), 1);
    let both = async { (write(&f.pool).await.unwrap(), read(&f.pool).await.unwrap()) };
    assert_eq!(with_faults(Plan::new(Fault::LockTimeout), both).await, (2, 2));
}

#[tokio::test]
async fn a_spawned_task_inherits_the_plan_only_if_it_asks() {
    let f = Fixture::new().await;
    let call = || {
        let pool = f.pool.clone();
        async move { write(&pool).await.unwrap() }
    };
    let spawned = async { (tokio::spawn(call()).await.unwrap(), tokio::spawn(inherit(call())).await.unwrap()) };
    assert_eq!(with_faults(Plan::new(Fault::Deadlock), spawned).await, (1, 2));
    assert_eq!(tokio::spawn(inherit(call())).await.unwrap(), 1);
    assert_eq!(with_faults(Plan::new(Fault::Deadlock), without_faults(call())).await, 1);
}

#[transactional]
async fn reported(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    write(&mut *tx).await
}

#[tokio::test]
async fn a_report_says_which_faults_a_function_has_met() {
    let f = Fixture::new().await;
    reported(&f.pool).await.unwrap();
    assert!(report().without_faults().any(|function| function == "testing::reported"));
    with_faults(Plan::new(Fault::LockTimeout).before_statement(2), reported(&f.pool)).await.unwrap();
    with_faults(Plan::new(Fault::Deadlock).before_statement(9), reported(&f.pool)).await.unwrap();
    assert!(report().without_faults().all(|function| function != "testing::reported"));
    assert!(report().to_json().contains(r#""testing::reported":["lock timeout"]"#), "{}", report());
}
