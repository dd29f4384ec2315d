//! Promise 5: a call can be dropped at any await. The next borrower of its connection never sees its transaction.
#![allow(missing_docs)]

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use bb8_postgres::PostgresConnectionManager;
use futures_util::poll;
use retry_runtime::{Error, Pool, Transaction, WithCancel, transactional};
use retry_tests::calls::dropped_after;
use retry_tests::events::Events;
use retry_tests::rival::{pid, wait_until};
use retry_tests::{Database, connect};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

#[transactional]
async fn empty_accounts(tx: &mut Transaction<'_>, nap: &str) -> Result<(), Error> {
    for id in 1..=2_i64 {
        tx.execute("UPDATE accounts SET cents = 0 WHERE id = $1", &[&id]).await?;
    }
    tx.batch_execute(&format!("SELECT pg_sleep({nap})")).await?;
    Ok(())
}

#[transactional(begin = "pipelined")]
async fn empty_accounts_pipelined(tx: &mut Transaction<'_>, nap: &str) -> Result<(), Error> {
    empty_accounts(&mut *tx, nap).await
}

#[transactional]
async fn look(tx: &mut Transaction<'_>) -> Result<(i64, i32), Error> {
    let total = tx.query_one("SELECT sum(cents)::bigint FROM accounts", &[]).await?.get(0);
    Ok((total, pid(tx).await))
}

fn bb8(db: &Database) -> bb8::Pool<PostgresConnectionManager<NoTls>> {
    let manager = PostgresConnectionManager::new(db.config().clone(), NoTls);
    bb8::Pool::builder().max_size(1).test_on_check_out(false).build_unchecked(manager)
}

async fn is_idle(client: &Client) -> bool {
    let messages = client.simple_query("SELECT now() = statement_timestamp()").await.unwrap();
    messages.iter().any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("t")))
}

/// Drops calls at every point. The next borrower must find a session that is idle and outside any transaction, and nothing
/// that a dropped call wrote.
async fn drop_calls(db: &Database, pool: &impl Pool, nap: &str, rounds: u32) {
    for round in 0..rounds {
        let polls = round / 2 % 12;
        db.setup("UPDATE accounts SET cents = 100").await;
        let done = if round % 2 == 0 {
            dropped_after(empty_accounts(pool, nap), polls).await
        } else {
            dropped_after(empty_accounts_pipelined(pool, nap), polls).await
        };
        let session = pool.get().await.unwrap();
        assert!(is_idle(session.client()).await, "the next borrower is inside a transaction after {polls} polls");
        drop(session);
        let (total, _) = look(pool).await.unwrap();
        assert!(if done { total == 0 } else { total == 200 || total == 0 }, "{total} after {polls} polls");
        assert_eq!(db.open_transactions().await, 0, "after {polls} polls");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_borrower_from_deadpool_never_sees_a_dropped_transaction() {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    drop_calls(&db, &db.pool(1), "0.004", 48).await;
    let with_cancel = WithCancel::new(db.pool(1), db.config().clone(), NoTls);
    drop_calls(&db, &with_cancel, "0.004", 48).await;
    drop_calls(&db, &with_cancel, "0.02", 48).await;
}

#[tokio::test]
async fn the_next_borrower_from_bb8_never_sees_a_dropped_transaction() {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    drop_calls(&db, &bb8(&db), "0.004", 48).await;
    drop_calls(&db, &WithCancel::new(bb8(&db), db.config().clone(), NoTls), "0.02", 48).await;
}

/// Drops a call while it sleeps for an hour on the server.
async fn drop_in_a_long_statement(db: &Database, pool: &impl Pool) {
    let observer = db.client().await;
    let mut call = pin!(empty_accounts(pool, "3600"));
    loop {
        assert!(poll!(call.as_mut()).is_pending());
        let sleeping = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
        if observer.query_opt(sleeping, &[]).await.unwrap().is_some() {
            break;
        }
    }
}

#[tokio::test]
async fn with_cancel_a_long_statement_is_cancelled_and_its_connection_kept() {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    for bb8_pool in [false, true] {
        let events = Events::capture();
        let pool: std::sync::Arc<dyn Pool> = if bb8_pool {
            std::sync::Arc::new(WithCancel::new(bb8(&db), db.config().clone(), NoTls))
        } else {
            std::sync::Arc::new(WithCancel::new(db.pool(1), db.config().clone(), NoTls))
        };
        let (_, before) = look(&pool).await.unwrap();
        drop_in_a_long_statement(&db, &pool).await;
        assert_eq!(look(&pool).await.unwrap(), (200, before), "the same connection");
        assert_eq!(db.open_transactions().await, 0, "no lock is left");
        assert_eq!(events.all().len(), 0, "{events:?}");
    }
}

#[tokio::test]
async fn without_cancel_the_connection_of_a_long_statement_is_closed() {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    for bb8_pool in [false, true] {
        let events = Events::capture();
        let pool: std::sync::Arc<dyn Pool> =
            if bb8_pool { std::sync::Arc::new(bb8(&db)) } else { std::sync::Arc::new(db.pool(1)) };
        let (_, before) = look(&pool).await.unwrap();
        drop_in_a_long_statement(&db, &pool).await;
        // This runs on another connection, and does not see what is not committed.
        let (total, after) = look(&pool).await.unwrap();
        assert_eq!(total, 200);
        assert_ne!(before, after);
        assert_eq!(events.of("connection discarded").len(), 1, "{events:?}");
        // The server has not noticed, and still sleeps.
        retry_tests::rival::terminate(&db.client().await, before).await;
    }
}

/// `client_connection_check_interval` in the connection's options. deadpool closes a discarded connection at once. bb8 does
/// not: tokio-postgres waits for the reply to the statement.
#[tokio::test]
async fn a_server_that_checks_the_connection_ends_the_statement_of_a_dropped_call() {
    let db = Database::create().await;
    if db.server_version().await < 14 {
        return; // It does not have the setting.
    }
    db.accounts(2, 100).await;
    let mut config = db.config().clone();
    config.options("-c client_connection_check_interval=10ms");
    let pool = retry_tests::pool(&config, 1);
    let (_, pid) = look(&pool).await.unwrap();
    drop_in_a_long_statement(&db, &pool).await;
    let observer = db.client().await;
    let ended = async {
        let session = "SELECT 1 FROM pg_stat_activity WHERE pid = $1";
        while observer.query_opt(session, &[&pid]).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(40), ended).await.expect("the statement is still running");
    assert_eq!(db.cents(1).await, 100);
}

#[tokio::test]
async fn a_session_that_is_terminated_during_the_clean_up_is_closed() {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    let pool = db.pool(1);
    let (_, before) = look(&pool).await.unwrap();
    drop_in_a_long_statement(&db, &pool).await;
    retry_tests::rival::terminate(&db.client().await, before).await;
    let (total, after) = look(&pool).await.unwrap();
    assert_eq!(total, 200);
    assert_ne!(before, after);
}

#[transactional]
async fn slow_commit(tx: &mut Transaction<'_>, id: i64) -> Result<(), Error> {
    tx.execute("INSERT INTO slow VALUES ($1)", &[&id]).await?;
    Ok(())
}

async fn slow_commits(db: &Database) {
    db.setup(
        "CREATE TABLE slow (id bigint);
         CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN PERFORM pg_sleep(0.2); IF new.id < 0 THEN RAISE 'negative'; END IF; RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER nap AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION nap()",
    )
    .await;
}

async fn drop_in_commit(pool: &impl Pool, observer: &Client, id: i64) {
    let mut call = pin!(slow_commit(pool, id));
    while !is_committing(observer).await {
        assert!(poll!(call.as_mut()).is_pending());
    }
}

/// Whether a COMMIT of [`slow_commit`] is running.
async fn is_committing(observer: &Client) -> bool {
    let committing = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%COMMIT' AND wait_event = 'PgSleep'
                      AND datname = current_database()";
    observer.query_opt(committing, &[]).await.unwrap().is_some()
}

#[tokio::test]
async fn the_commit_of_a_dropped_call_runs_to_its_end_and_is_reported() {
    let db = Database::create().await;
    slow_commits(&db).await;
    let observer = db.client().await;
    // Even though this source could cancel it.
    let pool = WithCancel::new(db.pool(1), db.config().clone(), NoTls);
    let backend = pid(pool.get().await.unwrap().client()).await;
    for (id, outcome, rows) in [(1, "committed", 1_i64), (-1, "rolled back", 1), (2, "committed", 2)] {
        let events = Events::capture();
        drop_in_commit(&pool, &observer, id).await;
        let session = pool.get().await.unwrap();
        assert_eq!(pid(session.client()).await, backend, "the connection is kept");
        let reports = events.of("call dropped in commit");
        assert_eq!((reports.len(), reports[0]["outcome"].as_str()), (1, outcome), "{events:?}");
        assert_eq!(db.value::<i64>("SELECT count(*) FROM slow").await, rows);
    }
}

#[transactional]
async fn stall(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.batch_execute("UPDATE accounts SET cents = 0").await?;
    std::future::pending().await
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Drops a call in its body, outside any Tokio runtime. The runtime that ran it is `gone`, or is not running. No task can
/// clean up, so the connection must be closed, and the server rolls back.
fn drop_outside_of_a_runtime<P: Pool>(make_pool: impl FnOnce(&Database) -> P, gone: bool, check: impl FnOnce(&P)) {
    let (outer, mut inner) = (runtime(), Some(runtime()));
    let db = outer.block_on(async {
        let db = Database::create().await;
        db.accounts(2, 100).await;
        db
    });
    let in_inner = inner.as_ref().map(Runtime::enter);
    let pool = make_pool(&db);
    drop(in_inner);
    let events = Events::capture();
    let mut call = Box::pin(stall(&pool));
    let backend = inner.as_ref().unwrap().block_on(async {
        let observer = connect(db.config()).await;
        let stalled = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
                       AND state = 'idle in transaction' AND query LIKE 'UPDATE%'";
        loop {
            assert!(poll!(call.as_mut()).is_pending());
            if let Some(row) = observer.query_opt(stalled, &[]).await.unwrap() {
                break row.get::<_, i32>(0);
            }
        }
    });
    if gone {
        inner = None;
    }
    drop(call);
    assert_eq!(events.of("connection discarded").len(), 1, "{events:?}");
    // If the runtime still exists, the connection's own task has to end too.
    inner.as_ref().unwrap_or(&outer).block_on(async {
        let observer = db.client().await;
        let ended = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)";
        while !observer.query_one(ended, &[&backend]).await.unwrap().get::<_, bool>(0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(db.cents(1).await, 100);
    });
    check(&pool);
}

#[test]
fn a_call_dropped_outside_its_runtime_closes_the_connection() {
    for gone in [true, false] {
        drop_outside_of_a_runtime(
            |db| db.pool(1),
            gone,
            |pool| {
                assert_eq!(pool.status().size, 0, "the pool has dropped it too");
            },
        );
    }
}

/// A pool of bb8 spawns a task to replace a closed connection.
#[test]
fn a_call_dropped_outside_its_runtime_does_not_panic_if_the_pool_spawns() {
    for gone in [true, false] {
        let with_min_idle = |db: &Database| {
            let manager = PostgresConnectionManager::new(db.config().clone(), NoTls);
            bb8::Pool::builder().max_size(1).min_idle(1).build_unchecked(manager)
        };
        drop_outside_of_a_runtime(with_min_idle, gone, |pool| {
            // Replaced if the runtime exists, in a task.
            for _ in 0..10_000 {
                if pool.state().connections == u32::from(!gone) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            panic!("{:?}", pool.state());
        });
    }
}

#[transactional]
async fn outer_that_continues(tx: &mut Transaction<'_>, observer: &Client) -> Result<(), Error> {
    let own = pid(tx).await;
    {
        let mut inner = pin!(empty_accounts(&mut *tx, "30"));
        let sleeping = wait_until(observer, "wait_event = 'PgSleep'", own);
        tokio::select! {
            _ = &mut inner => unreachable!("it sleeps longer than the test"),
            () = sleeping => {}
        }
    }
    observer.execute("SELECT pg_cancel_backend($1)", &[&own]).await.unwrap();
    tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 1", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn a_dropped_nested_call_leaves_the_outer_one_usable() {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    outer_that_continues(&db.pool(1), &db.client().await).await.unwrap();
    assert_eq!((db.cents(1).await, db.cents(2).await), (101, 100));
}

#[tokio::test]
async fn a_call_dropped_in_commit_on_a_client_is_reported() {
    let db = Database::create().await;
    slow_commits(&db).await;
    let (mut client, observer) = (db.client().await, db.client().await);
    for (id, outcome) in [(1, "committed"), (-1, "rolled back")] {
        let events = Events::capture();
        {
            let mut call = pin!(slow_commit(&mut client, id));
            while !is_committing(&observer).await {
                assert!(poll!(call.as_mut()).is_pending());
            }
        }
        assert!(is_idle(&client).await, "every earlier statement has its reply");
        let reports = events.of("call dropped in commit");
        assert_eq!((reports.len(), reports[0]["outcome"].as_str()), (1, outcome), "{events:?}");
    }
}

/// No runtime is left to wait for the reply, so the outcome is reported as unknown.
#[test]
fn a_call_dropped_in_commit_after_its_runtime_is_reported_as_unknown() {
    let outer = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let db = outer.block_on(async {
        let db = Database::create().await;
        slow_commits(&db).await;
        db
    });
    for on_client in [false, true] {
        let inner = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (pool, mut client) = (db.pool(1), inner.block_on(db.client()));
        let mut call: std::pin::Pin<Box<dyn Future<Output = _>>> =
            if on_client { Box::pin(slow_commit(&mut client, 1)) } else { Box::pin(slow_commit(&pool, 1)) };
        inner.block_on(async {
            let observer = connect(db.config()).await;
            // The previous commit may still be running on the server.
            while is_committing(&observer).await {}
            while !is_committing(&observer).await {
                assert!(poll!(call.as_mut()).is_pending());
            }
        });
        drop(inner);
        let events = Events::capture();
        drop(call);
        let reports = events.of("call dropped in commit");
        assert_eq!(
            (reports.len(), reports[0]["outcome"].as_str()),
            (1, "unknown"),
            "on a client: {on_client}: {events:?}"
        );
    }
}
