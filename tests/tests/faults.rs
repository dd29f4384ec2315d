//! Faults of a single session while its server keeps running: terminated and cancelled sessions, timeouts, conflicts in
//! COMMIT, cut connections. See `outages.rs` for faults of servers, `standby.rs` for failover and `pgbouncer.rs` for a
//! pooler in between.
#![allow(missing_docs)]

use std::time::Duration;

use deadpool_postgres::Pool;
use retry_runtime::{Class, Error, Phase, Transaction, classify, transactional};
use retry_tests::events::Events;
use retry_tests::proxy::{Cut, Fault, Proxy};
use retry_tests::rival::{Rival, pid, terminate};
use retry_tests::{Database, FAULT_TABLES, SLEEP, SLEEP_IN_COMMIT, first_attempt_runs, pool};
use tokio_postgres::Client;

/// The constraint is checked in COMMIT.
const SLOTS: &str = "CREATE TABLE slots (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)";

/// Two accounts, a pool of one connection, and a connection that observes.
struct Fixture {
    db: Database,
    pool: Pool,
    observer: Client,
    events: Events,
}

impl Fixture {
    async fn new() -> Self {
        let db = Database::create().await;
        db.accounts(2, 100).await;
        db.setup(FAULT_TABLES).await;
        db.setup(SLOTS).await;
        let (pool, observer) = (db.pool(1), db.client().await);
        Self { db, pool, observer, events: Events::capture() }
    }

    /// Runs a call. Once its session waits for `event`, applies a function such as `pg_terminate_backend` to the session.
    async fn interrupt<T>(&self, call: impl Future<Output = T>, event: &str, function: &str) -> T {
        let interrupt = async {
            let sql = format!(
                "SELECT {function}(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event = '{event}'"
            );
            while self.observer.query_opt(&sql, &[]).await.unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let both = async { tokio::join!(call, interrupt).0 };
        tokio::time::timeout(Duration::from_secs(30), both).await.expect("the call hangs")
    }

    async fn rows(&self) -> i64 {
        self.db.value("SELECT count(*) FROM done").await
    }

    /// The second attempt succeeded on another connection, and the connection of the first was discarded.
    async fn assert_replaced(&self, attempt: Result<u32, Error>) {
        assert_eq!((attempt.unwrap(), self.rows().await), (2, 1));
        assert_eq!(self.events.of("retrying")[0]["class"], "connection");
        assert_eq!(self.events.of("connection discarded").len(), 1, "{:?}", self.events);
        assert_eq!((self.pool.status().size, self.pool.status().available), (1, 1));
    }

    /// The call failed with this code and was not retried. Nothing is committed, and its connection is still usable.
    async fn assert_final(&self, attempt: Result<u32, Error>, code: &str, class: Class) {
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
async fn a_session_terminated_in_a_statement_is_replaced() {
    let fixture = Fixture::new().await;
    let attempt = fixture.interrupt(call(&fixture.pool, SLEEP), "PgSleep", "pg_terminate_backend").await;
    fixture.assert_replaced(attempt).await;
    assert_eq!(fixture.events.of("retrying")[0]["sqlstate"], "57P01");
}

#[transactional]
async fn terminated_before_commit(tx: &mut Transaction<'_>, observer: &Client) -> Result<u32, Error> {
    tx.batch_execute("INSERT INTO done VALUES (1)").await?;
    if tx.attempt() == 1 {
        terminate(observer, pid(tx).await).await;
        // Until the driver notices, COMMIT could still be sent, and its outcome would be unknown.
        while !tx.is_closed() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    Ok(tx.attempt())
}

#[tokio::test]
async fn a_session_terminated_before_commit_is_replaced() {
    let fixture = Fixture::new().await;
    let attempt = terminated_before_commit(&fixture.pool, &fixture.observer).await;
    fixture.assert_replaced(attempt).await;
}

/// The server reports the termination, so the outcome of this COMMIT is known.
#[tokio::test]
async fn a_session_terminated_in_commit_is_replaced() {
    let fixture = Fixture::new().await;
    let attempt = fixture.interrupt(call(&fixture.pool, SLEEP_IN_COMMIT), "PgSleep", "pg_terminate_backend").await;
    fixture.assert_replaced(attempt).await;
    assert_eq!(fixture.events.of("retrying")[0]["sqlstate"], "57P01");
    assert_eq!(fixture.events.of("commit outcome unknown").len(), 0, "{:?}", fixture.events);
}

#[tokio::test]
async fn a_cancelled_commit_is_rolled_back_and_not_retried() {
    let fixture = Fixture::new().await;
    let attempt = fixture.interrupt(call(&fixture.pool, SLEEP_IN_COMMIT), "PgSleep", "pg_cancel_backend").await;
    fixture.assert_final(attempt, "57014", Class::Fatal).await;
}

/// Sessions are terminated at random times around COMMIT. A call that returns `Ok` is committed, and once.
#[tokio::test]
async fn calls_whose_sessions_are_terminated_at_random_commit_once() {
    let fixture = Fixture::new().await;
    let mut committed = 0;
    for round in 0..50 {
        let victim = pid(&fixture.pool.get().await.unwrap()).await;
        let ended = async {
            // A timer is too coarse.
            for _ in 0..round * 16 {
                tokio::task::yield_now().await;
            }
            terminate(&fixture.observer, victim).await;
        };
        let before = fixture.rows().await;
        let (called, ()) = tokio::join!(call(&fixture.pool, "SELECT 1"), ended);
        let rows = fixture.rows().await - before;
        match called {
            Ok(_) => committed += 1,
            // The connection closed without a reply. Rare, and right in either case.
            Err(Error::CommitUnknown { .. }) => assert!(rows <= 1, "{rows}"),
            Err(error) => panic!("{error:?}"),
        }
        assert!(called.is_err() || rows == 1, "round {round}: {rows}");
    }
    assert!(committed > 40, "{committed}");
}

#[tokio::test]
async fn a_statement_timeout_is_not_retried_and_does_not_limit_commit() {
    let fixture = Fixture::new().await;
    let attempt = in_time(&fixture.pool, SLEEP).await;
    fixture.assert_final(attempt, "57014", Class::Fatal).await;
    let slow_commit = "INSERT INTO at_commit VALUES ('SELECT pg_sleep(0.2)')";
    assert_eq!(in_time(&fixture.pool, slow_commit).await.unwrap(), 1);
}

#[transactional(lock_timeout = "20ms")]
async fn take_a_slot(tx: &mut Transaction<'_>, rival: &Rival) -> Result<u32, Error> {
    if tx.attempt() == 2 {
        rival.run("ROLLBACK").await;
    }
    tx.execute("INSERT INTO slots VALUES (1)", &[]).await?;
    Ok(tx.attempt())
}

/// A deferred constraint waits in COMMIT for the transaction that inserted the same key.
#[tokio::test]
async fn a_lock_timeout_in_commit_is_retried() {
    let fixture = Fixture::new().await;
    let rival = Rival::connect(&fixture.db).await;
    rival.run("BEGIN; INSERT INTO slots VALUES (1)").await;
    assert_eq!(take_a_slot(&fixture.pool, &rival).await.unwrap(), 2);
    assert_eq!(fixture.events.of("retrying")[0]["sqlstate"], "55P03");
    assert_eq!(fixture.events.of("connection discarded").len(), 0, "{:?}", fixture.events);
    assert_eq!(fixture.db.value::<i64>("SELECT count(*) FROM slots").await, 1);
}

#[transactional]
async fn deadlock_in_commit(tx: &mut Transaction<'_>, rival: &Rival) -> Result<u32, Error> {
    if tx.attempt() > 1 {
        // Waits until the rival has rolled back: otherwise this attempt could deadlock too.
        rival.run("SELECT 1").await;
    }
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
    let fixture = Fixture::new().await;
    let rival = Rival::connect(&fixture.db).await;
    assert_eq!(deadlock_in_commit(&fixture.pool, &rival).await.unwrap(), 2);
    assert_eq!(fixture.events.of("retrying")[0]["sqlstate"], "40P01");
    assert_eq!((fixture.db.cents(1).await, fixture.db.cents(2).await), (110, 110));
}

/// The rival reads what this function writes, writes what it has read, and commits first.
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
    let fixture = Fixture::new().await;
    let rival = Rival::connect(&fixture.db).await;
    assert_eq!(pivot(&fixture.pool, &rival).await.unwrap(), 2);
    let retry = &fixture.events.of("retrying")[0];
    assert_eq!(retry["sqlstate"], "40001");
    assert_eq!((fixture.db.cents(1).await, fixture.db.cents(2).await), (201, 101));
}

/// Inserts a row that this snapshot does not have. Meanwhile the rival inserts the same row.
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
async fn a_key_inserted_meanwhile_is_retried_only_if_an_option_asks_for_it() {
    let fixture = Fixture::new().await;
    let rival = Rival::connect(&fixture.db).await;
    let attempt = insert(&fixture.pool, &rival).await;
    fixture.assert_final(attempt, "23505", Class::Fatal).await;
    fixture.db.setup("DELETE FROM accounts WHERE id = 9").await;
    assert_eq!(insert_again(&fixture.pool, &rival).await.unwrap(), 2);
    fixture.db.setup("DELETE FROM accounts WHERE id = 9").await;
    assert_eq!(on_conflict(&fixture.pool, &rival).await.unwrap(), 2);
    assert_eq!(fixture.events.of("retrying")[1]["sqlstate"], "40001");
    assert_eq!(fixture.db.cents(9).await, 11);
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
async fn an_idle_timeout_is_retried() {
    for then in ["SELECT 1", ""] {
        let fixture = Fixture::new().await;
        let attempt = idles(&fixture.pool, then).await;
        fixture.assert_replaced(attempt).await;
    }
}

#[tokio::test]
async fn a_pooled_session_that_timed_out_costs_no_retry() {
    let fixture = Fixture::new().await;
    if fixture.db.server_version().await < 14 {
        return; // It does not have the setting.
    }
    let mut config = fixture.db.config().clone();
    config.options("-c idle_session_timeout=20");
    let pool = pool(&config, 1);
    assert_eq!(call(&pool, "SELECT 1").await.unwrap(), 1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(call(&pool, "SELECT 1").await.unwrap(), 1);
    assert_eq!(fixture.rows().await, 2);
}

/// `/dev/full` is a disk that is always full.
#[tokio::test]
async fn exhausted_resources_are_not_retried() {
    for (sql, code) in [
        ("SET LOCAL work_mem = 64; SET LOCAL temp_file_limit = 64; SELECT * FROM generate_series(1, 99999)", "53400"),
        ("COPY (SELECT generate_series(1, 99999)) TO '/dev/full'", "53100"),
        ("INSERT INTO at_commit VALUES ('COPY (SELECT generate_series(1, 99999)) TO ''/dev/full''')", "53100"),
    ] {
        let fixture = Fixture::new().await;
        let attempt = call(&fixture.pool, sql).await;
        fixture.assert_final(attempt, code, Class::Fatal).await;
    }
}

const CUT: Fault = Fault { text: "SELECT 'cut here'", request: usize::MAX, reply: 0, cut: Cut::Close };

#[tokio::test]
async fn a_connection_cut_in_a_statement_is_replaced() {
    for (request, reply) in [(0, 0), (9, 0), (usize::MAX, 0), (usize::MAX, 9)] {
        for cut in [Cut::Close, Cut::Reset] {
            let fixture = Fixture::new().await;
            let proxy = Proxy::start(fixture.db.config()).await.unwrap();
            let proxied = Fixture { pool: pool(proxy.config(), 1), ..fixture };
            proxy.arm(Fault { request, reply, cut, ..CUT });
            let attempt = call(&proxied.pool, CUT.text).await;
            proxied.assert_replaced(attempt).await;
        }
    }
}

#[tokio::test]
async fn a_silent_connection_fails_at_the_deadline_and_is_discarded() {
    let fixture = Fixture::new().await;
    let proxy = Proxy::start(fixture.db.config()).await.unwrap();
    let silent = pool(proxy.config(), 1);
    proxy.arm(Fault { request: 0, cut: Cut::Silent, ..CUT });
    let error = with_deadline(&silent, CUT.text).await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { phase: Phase::Body, .. }), "{error:?}");
    // The pool's only connection has to be closed first.
    let next = tokio::time::timeout(Duration::from_secs(20), call(&silent, "SELECT 1")).await;
    assert_eq!(next.expect("the pool hangs").unwrap(), 1);
    assert_eq!(fixture.events.of("connection discarded").len(), 1, "{:?}", fixture.events);
    assert_eq!(fixture.rows().await, 1);
}

const STARTUP: Fault = Fault { text: "user", request: usize::MAX, reply: 0, cut: Cut::Close };

#[tokio::test]
async fn a_cut_handshake_is_retried_and_a_silent_one_fails_at_the_deadline() {
    let fixture = Fixture::new().await;
    let proxy = Proxy::start(fixture.db.config()).await.unwrap();
    for (request, reply) in [(0, 0), (usize::MAX, 0), (usize::MAX, 20)] {
        for cut in [Cut::Close, Cut::Reset] {
            let before = fixture.events.of("retrying").len();
            proxy.arm(Fault { request, reply, cut, ..STARTUP });
            assert_eq!(call(&pool(proxy.config(), 1), "SELECT 1").await.unwrap(), 2);
            assert_eq!(fixture.events.of("retrying")[before]["class"], "connection");
        }
    }
    proxy.arm(Fault { cut: Cut::Silent, ..STARTUP });
    let silent = pool(proxy.config(), 1);
    let called = tokio::time::timeout(Duration::from_secs(20), with_deadline(&silent, "SELECT 1")).await;
    let error = called.expect("the deadline does not end the call").unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { phase: Phase::Pool, .. }), "{error:?}");
}
