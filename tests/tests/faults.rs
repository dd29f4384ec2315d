//! The fault table, first part: what happens to one session of a server that goes on. See `outages.rs` for whole
//! servers, `standby.rs` for failovers and `pgbouncer.rs` for a pooler in between.
#![allow(missing_docs)]

use std::time::Duration;

use deadpool_postgres::Pool;
use retry_runtime::{Class, Error, Phase, Transaction, classify, transactional};
use retry_tests::events::Events;
use retry_tests::first_attempt_runs;
use retry_tests::proxy::{Cut, Fault, Proxy};
use retry_tests::rival::{Rival, pid, terminate};
use retry_tests::{Database, pool};
use tokio_postgres::Client;

/// A row in `at_commit` is a statement that runs in COMMIT.
const TABLES: &str = "
    CREATE TABLE done (attempt int);
    CREATE TABLE slots (id int UNIQUE DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE at_commit (sql text);
    CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN EXECUTE NEW.sql; RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON at_commit DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION at_commit()";

const SLEEP: &str = "SELECT pg_sleep(60)";
const SLEEP_IN_COMMIT: &str = "INSERT INTO at_commit VALUES ('SELECT pg_sleep(60)')";

/// Two accounts, a pool of one connection, and somebody who looks on.
struct Scene {
    db: Database,
    pool: Pool,
    observer: Client,
    events: Events,
}

impl Scene {
    async fn new() -> Self {
        let db = Database::create().await;
        db.accounts(2, 100).await;
        db.setup(TABLES).await;
        let (pool, observer) = (db.pool(1), db.client().await);
        Self { db, pool, observer, events: Events::capture() }
    }

    /// Runs a call, and a function of the server on its session once that waits for `event`.
    async fn strike<T>(&self, call: impl Future<Output = T>, event: &str, function: &str) -> T {
        let strike = async {
            let sql = format!(
                "SELECT {function}(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event = '{event}'"
            );
            while self.observer.query_opt(&sql, &[]).await.unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let both = async { tokio::join!(call, strike).0 };
        tokio::time::timeout(Duration::from_secs(30), both).await.expect("a call that ends")
    }

    async fn rows(&self) -> i64 {
        self.db.value("SELECT count(*) FROM done").await
    }

    /// The second attempt has succeeded, on another connection; the first one's was not given back.
    async fn assert_healed_elsewhere(&self, attempt: Result<u32, Error>) {
        assert_eq!((attempt.unwrap(), self.rows().await), (2, 1));
        assert_eq!(self.events.of("retrying")[0]["class"], "connection");
        assert_eq!(self.events.of("connection discarded").len(), 1, "{:?}", self.events);
        assert_eq!((self.pool.status().size, self.pool.status().available), (1, 1));
    }

    /// The call has failed once and for all with this code; nothing is committed, and its session is as good as new.
    async fn assert_refused(&self, attempt: Result<u32, Error>, code: &str, class: Class) {
        let error = attempt.unwrap_err();
        let Error::Postgres(source) = &error else { panic!("{error:?}") };
        assert_eq!(source.code().expect(code).code(), code);
        assert_eq!(classify(&error), Some(class));
        assert_eq!(self.events.of("retrying").len(), 0, "{:?}", self.events);
        assert_eq!(self.rows().await, 0);
        let kept = pid(&self.pool.get().await.unwrap()).await;
        assert_eq!(once(&self.pool, "SELECT 1").await.unwrap(), 1);
        assert_eq!(pid(&self.pool.get().await.unwrap()).await, kept);
        assert_eq!(self.events.of("connection discarded").len(), 0, "{:?}", self.events);
        assert_eq!(self.rows().await, 1);
    }
}

first_attempt_runs! {
    max_delay = "1ms";
    call;
    once, retries = 0, deadlock_retries = 0;
    in_time, statement_timeout = "60ms";
    with_deadline, deadline = "150ms";
}

#[tokio::test]
async fn a_session_that_is_ended_in_a_statement_is_replaced() {
    let scene = Scene::new().await;
    let attempt = scene.strike(call(&scene.pool, SLEEP), "PgSleep", "pg_terminate_backend").await;
    scene.assert_healed_elsewhere(attempt).await;
    assert_eq!(scene.events.of("retrying")[0]["sqlstate"], "57P01");
}

#[transactional]
async fn ended_before_commit(tx: &mut Transaction<'_>, observer: &Client) -> Result<u32, Error> {
    tx.batch_execute("INSERT INTO done VALUES (1)").await?;
    if tx.attempt() == 1 {
        terminate(observer, pid(tx).await).await;
        // Until the driver knows, COMMIT could still leave, and its outcome would be unknown.
        while !tx.is_closed() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    Ok(tx.attempt())
}

#[tokio::test]
async fn a_session_that_is_ended_before_commit_is_replaced() {
    let scene = Scene::new().await;
    let attempt = ended_before_commit(&scene.pool, &scene.observer).await;
    scene.assert_healed_elsewhere(attempt).await;
}

/// The server says so itself: nothing is unknown about this COMMIT.
#[tokio::test]
async fn a_session_that_is_ended_in_commit_is_replaced() {
    let scene = Scene::new().await;
    let attempt = scene.strike(call(&scene.pool, SLEEP_IN_COMMIT), "PgSleep", "pg_terminate_backend").await;
    scene.assert_healed_elsewhere(attempt).await;
    assert_eq!(scene.events.of("retrying")[0]["sqlstate"], "57P01");
    assert_eq!(scene.events.of("commit outcome unknown").len(), 0, "{:?}", scene.events);
}

#[tokio::test]
async fn a_commit_that_is_cancelled_is_rolled_back_and_final() {
    let scene = Scene::new().await;
    let attempt = scene.strike(call(&scene.pool, SLEEP_IN_COMMIT), "PgSleep", "pg_cancel_backend").await;
    scene.assert_refused(attempt, "57014", Class::Fatal).await;
}

/// At any time around COMMIT: `Ok` where it is committed, and only there.
#[tokio::test]
async fn sessions_that_are_ended_at_random_commit_once() {
    let scene = Scene::new().await;
    let mut committed = 0;
    for round in 0..50 {
        let victim = pid(&scene.pool.get().await.unwrap()).await;
        let ended = async {
            // A timer is too coarse.
            for _ in 0..round * 16 {
                tokio::task::yield_now().await;
            }
            terminate(&scene.observer, victim).await;
        };
        let before = scene.rows().await;
        let (called, ()) = tokio::join!(call(&scene.pool, "SELECT 1"), ended);
        let rows = scene.rows().await - before;
        match called {
            Ok(_) => committed += 1,
            // The table's "Closed": rare, and right either way.
            Err(Error::CommitUnknown { .. }) => assert!(rows <= 1, "{rows}"),
            Err(error) => panic!("{error:?}"),
        }
        assert!(called.is_err() || rows == 1, "round {round}: {rows}");
    }
    assert!(committed > 40, "{committed}");
}

#[tokio::test]
async fn a_statement_timeout_is_final_and_does_not_bound_commit() {
    let scene = Scene::new().await;
    let attempt = in_time(&scene.pool, SLEEP).await;
    scene.assert_refused(attempt, "57014", Class::Fatal).await;
    let slow_commit = "INSERT INTO at_commit VALUES ('SELECT pg_sleep(0.2)')";
    assert_eq!(in_time(&scene.pool, slow_commit).await.unwrap(), 1);
}

#[transactional(lock_timeout = "20ms")]
async fn take_a_slot(tx: &mut Transaction<'_>, rival: &Rival) -> Result<u32, Error> {
    if tx.attempt() == 2 {
        rival.run("ROLLBACK").await;
    }
    tx.execute("INSERT INTO slots VALUES (1)", &[]).await?;
    Ok(tx.attempt())
}

/// A deferred constraint waits in COMMIT for the transaction that has the same key.
#[tokio::test]
async fn a_lock_that_commit_cannot_have_is_retried() {
    let scene = Scene::new().await;
    let rival = Rival::connect(&scene.db).await;
    rival.run("BEGIN; INSERT INTO slots VALUES (1)").await;
    assert_eq!(take_a_slot(&scene.pool, &rival).await.unwrap(), 2);
    assert_eq!(scene.events.of("retrying")[0]["sqlstate"], "55P03");
    assert_eq!(scene.events.of("connection discarded").len(), 0, "{:?}", scene.events);
    assert_eq!(scene.db.value::<i64>("SELECT count(*) FROM slots").await, 1);
}

#[transactional]
async fn deadlock_in_commit(tx: &mut Transaction<'_>, rival: &Rival) -> Result<u32, Error> {
    tx.execute("UPDATE accounts SET cents = cents + 10 WHERE id = 1", &[]).await?;
    tx.batch_execute("INSERT INTO at_commit VALUES ('UPDATE accounts SET cents = cents + 10 WHERE id = 2')").await?;
    if tx.attempt() == 1 {
        rival.run("BEGIN; UPDATE accounts SET cents = 0 WHERE id = 2").await;
        rival.block_on("UPDATE accounts SET cents = 0 WHERE id = 1; ROLLBACK").await;
    }
    Ok(tx.attempt())
}

#[tokio::test]
async fn a_deadlock_in_commit_is_retried() {
    let scene = Scene::new().await;
    let rival = Rival::connect(&scene.db).await;
    assert_eq!(deadlock_in_commit(&scene.pool, &rival).await.unwrap(), 2);
    assert_eq!(scene.events.of("retrying")[0]["sqlstate"], "40P01");
    assert_eq!((scene.db.cents(1).await, scene.db.cents(2).await), (110, 110));
}

/// The rival reads what this writes and writes what this has read, and commits first.
#[transactional(isolation = "serializable")]
async fn pivot(tx: &mut Transaction<'_>, rival: &Rival) -> Result<u32, Error> {
    let sum: i64 = tx.query_one("SELECT sum(cents)::bigint FROM accounts", &[]).await?.get(0);
    if tx.attempt() == 1 {
        rival.run("BEGIN ISOLATION LEVEL SERIALIZABLE; UPDATE accounts SET cents = cents + 1 WHERE id = 2").await;
        rival.run("SELECT sum(cents) FROM accounts").await;
    }
    tx.execute("UPDATE accounts SET cents = $1 WHERE id = 1", &[&sum]).await?;
    if tx.attempt() == 1 {
        rival.run("COMMIT").await;
    }
    Ok(tx.attempt())
}

#[tokio::test]
async fn a_serialization_failure_in_commit_is_retried() {
    let scene = Scene::new().await;
    let rival = Rival::connect(&scene.db).await;
    assert_eq!(pivot(&scene.pool, &rival).await.unwrap(), 2);
    let retry = &scene.events.of("retrying")[0];
    assert_eq!(retry["sqlstate"], "40001");
    assert_eq!((scene.db.cents(1).await, scene.db.cents(2).await), (201, 101));
}

/// Inserts a row unless this snapshot has it, as does somebody else in between.
macro_rules! upsert {
    ($($name:ident: $insert:literal $(, $option:meta)*;)*) => {$(
        #[transactional(isolation = "repeatable read" $(, $option)*)]
        async fn $name(tx: &mut Transaction<'_>, rival: &Rival) -> Result<u32, Error> {
            let known = tx.query_opt("SELECT FROM accounts WHERE id = 9", &[]).await?.is_some();
            if tx.attempt() == 1 {
                rival.run("INSERT INTO accounts VALUES (9, 1)").await;
            }
            let sql = if known { "UPDATE accounts SET cents = cents + 10 WHERE id = 9" } else { $insert };
            tx.execute(sql, &[]).await?;
            Ok(tx.attempt())
        }
    )*};
}

upsert! {
    insert: "INSERT INTO accounts VALUES (9, 10)";
    insert_again: "INSERT INTO accounts VALUES (9, 10)", retry_on = ["23505"];
    on_conflict: "INSERT INTO accounts VALUES (9, 10) ON CONFLICT (id) DO UPDATE SET cents = 0";
}

#[tokio::test]
async fn a_key_that_was_inserted_meanwhile_is_final_unless_asked_for() {
    let scene = Scene::new().await;
    let rival = Rival::connect(&scene.db).await;
    let attempt = insert(&scene.pool, &rival).await;
    scene.assert_refused(attempt, "23505", Class::Fatal).await;
    scene.db.setup("DELETE FROM accounts WHERE id = 9").await;
    assert_eq!(insert_again(&scene.pool, &rival).await.unwrap(), 2);
    scene.db.setup("DELETE FROM accounts WHERE id = 9").await;
    assert_eq!(on_conflict(&scene.pool, &rival).await.unwrap(), 2);
    assert_eq!(scene.events.of("retrying")[1]["sqlstate"], "40001");
    assert_eq!(scene.db.cents(9).await, 11);
}

#[transactional(idle_timeout = "20ms")]
async fn idles(tx: &mut Transaction<'_>, then: &str) -> Result<u32, Error> {
    tx.batch_execute("INSERT INTO done VALUES (1)").await?;
    while tx.attempt() == 1 && !tx.is_closed() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    if !then.is_empty() {
        tx.batch_execute(then).await?;
    }
    Ok(tx.attempt())
}

#[tokio::test]
async fn a_transaction_that_idles_too_long_is_retried() {
    for then in ["SELECT 1", ""] {
        let scene = Scene::new().await;
        let attempt = idles(&scene.pool, then).await;
        scene.assert_healed_elsewhere(attempt).await;
    }
}

#[tokio::test]
async fn a_session_that_idled_too_long_costs_no_retry() {
    let scene = Scene::new().await;
    let mut config = scene.db.config().clone();
    config.options("-c idle_session_timeout=20");
    let pool = pool(&config, 1);
    assert_eq!(call(&pool, "SELECT 1").await.unwrap(), 1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(call(&pool, "SELECT 1").await.unwrap(), 1);
    assert_eq!(scene.rows().await, 2);
}

/// `/dev/full` is a disk that is always full.
#[tokio::test]
async fn resources_that_run_out_are_final() {
    for (sql, code) in [
        ("SET LOCAL work_mem = 64; SET LOCAL temp_file_limit = 64; SELECT * FROM generate_series(1, 99999)", "53400"),
        ("COPY (SELECT generate_series(1, 99999)) TO '/dev/full'", "53100"),
        ("INSERT INTO at_commit VALUES ('COPY (SELECT generate_series(1, 99999)) TO ''/dev/full''')", "53100"),
    ] {
        let scene = Scene::new().await;
        let attempt = call(&scene.pool, sql).await;
        scene.assert_refused(attempt, code, Class::Fatal).await;
    }
}

const CUT: Fault = Fault { text: "SELECT 'cut here'", request: usize::MAX, reply: 0, cut: Cut::Close };

#[tokio::test]
async fn a_connection_that_is_cut_in_a_statement_is_replaced() {
    for (request, reply) in [(0, 0), (9, 0), (usize::MAX, 0), (usize::MAX, 9)] {
        for cut in [Cut::Close, Cut::Reset] {
            let scene = Scene::new().await;
            let proxy = Proxy::start(scene.db.config()).await.unwrap();
            let proxied = Scene { pool: pool(proxy.config(), 1), ..scene };
            proxy.arm(Fault { request, reply, cut, ..CUT });
            let attempt = call(&proxied.pool, CUT.text).await;
            proxied.assert_healed_elsewhere(attempt).await;
        }
    }
}

#[tokio::test]
async fn a_connection_that_falls_silent_ends_at_the_deadline_and_is_not_given_back() {
    let scene = Scene::new().await;
    let proxy = Proxy::start(scene.db.config()).await.unwrap();
    let silent = pool(proxy.config(), 1);
    proxy.arm(Fault { request: 0, cut: Cut::Silent, ..CUT });
    let error = with_deadline(&silent, CUT.text).await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { phase: Phase::Body, .. }), "{error:?}");
    // The pool has no other connection, and waits until this one is closed.
    let next = tokio::time::timeout(Duration::from_secs(20), call(&silent, "SELECT 1")).await;
    assert_eq!(next.expect("it was not given back as it was").unwrap(), 1);
    assert_eq!(scene.events.of("connection discarded").len(), 1, "{:?}", scene.events);
    assert_eq!(scene.rows().await, 1);
}

const STARTUP: Fault = Fault { text: "user", request: usize::MAX, reply: 0, cut: Cut::Close };

#[tokio::test]
async fn a_handshake_that_is_cut_is_retried_and_one_that_hangs_ends_at_the_deadline() {
    let scene = Scene::new().await;
    let proxy = Proxy::start(scene.db.config()).await.unwrap();
    for (request, reply) in [(0, 0), (usize::MAX, 0), (usize::MAX, 20)] {
        for cut in [Cut::Close, Cut::Reset] {
            let before = scene.events.of("retrying").len();
            proxy.arm(Fault { request, reply, cut, ..STARTUP });
            assert_eq!(call(&pool(proxy.config(), 1), "SELECT 1").await.unwrap(), 2);
            assert_eq!(scene.events.of("retrying")[before]["class"], "connection");
        }
    }
    proxy.arm(Fault { cut: Cut::Silent, ..STARTUP });
    let silent = pool(proxy.config(), 1);
    let called = tokio::time::timeout(Duration::from_secs(20), with_deadline(&silent, "SELECT 1")).await;
    let error = called.expect("the deadline").unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { phase: Phase::Pool, .. }), "{error:?}");
}
