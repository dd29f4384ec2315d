//! Faults behind `PgBouncer` in transaction pooling mode.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use deadpool_postgres::{Hook, Manager, Pool};
use retry_runtime::{Class, Error, INSTALL_SQL, Transaction, WithCancel, classify, transactional};
use retry_tests::events::{Events, Fields};
use retry_tests::pgbouncer::PgBouncer;
use retry_tests::rival::kill;
use retry_tests::{Database, FAULT_TABLES, SLEEP, SLEEP_IN_COMMIT, Server, connect, first_attempt_runs, pool};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// A pooler with a single server connection, a pool of one connection to it, and a configuration that connects directly.
struct Fixture {
    server: Option<Arc<Server>>,
    direct: Config,
    bouncer: PgBouncer,
    pool: Pool,
    events: Events,
    // The database is dropped last.
    _db: Database,
}

impl Fixture {
    async fn new(settings: &[&str]) -> Self {
        Self::of(Database::create().await, None, settings).await
    }

    /// With its own server, which a test can crash.
    async fn with_server(settings: &[&str], pooler: &[&str]) -> Self {
        let server = Arc::new(Server::start_with(settings).unwrap());
        let db = Database::create_on(&server.config()).await;
        Self::of(db, Some(server), pooler).await
    }

    async fn of(db: Database, server: Option<Arc<Server>>, settings: &[&str]) -> Self {
        db.setup(FAULT_TABLES).await;
        db.setup(INSTALL_SQL).await;
        let settings: Vec<_> = ["default_pool_size = 1"].iter().chain(settings).copied().collect();
        let bouncer = PgBouncer::start(db.config(), &settings).unwrap_or_else(|error| panic!("{error}"));
        let pool = pool(bouncer.config(), 1);
        Self { server, direct: db.config().clone(), bouncer, pool, events: Events::capture(), _db: db }
    }

    async fn rows(&self) -> i64 {
        connect(&self.direct).await.query_one("SELECT count(*) FROM done", &[]).await.unwrap().get(0)
    }

    /// Waits until a session waits for `event`. Returns an observer and the session's process id.
    async fn waiting_for(&self, event: &str) -> (Client, i32) {
        let observer = connect(&self.direct).await;
        let sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = $1";
        loop {
            match observer.query_opt(sql, &[&event]).await.unwrap() {
                Some(row) => return (observer, row.get(0)),
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }

    /// Runs a call. Once its session waits for `event`, kills the session's process, and waits until the server is back.
    async fn kill_in<T>(&self, event: &str, call: impl Future<Output = T>) -> T {
        self.kill_after(Duration::ZERO, event, call).await
    }

    async fn kill_after<T>(&self, delay: Duration, event: &str, call: impl Future<Output = T>) -> T {
        let kill_it = async {
            let (observer, victim) = self.waiting_for(event).await;
            tokio::time::sleep(delay).await;
            kill(victim);
            // A crash ends all sessions.
            observer.batch_execute(SLEEP).await.unwrap_err();
            while self.direct.connect(NoTls).await.is_err() {}
        };
        let both = async { tokio::join!(call, kill_it).0 };
        tokio::time::timeout(Duration::from_secs(40), both).await.expect("the call hangs")
    }
}

first_attempt_runs! {
    max_delay = "2ms";
    call;
    patient, retries = 100_000, deadline = "30s";
    resolved, retries = 100_000, deadline = "30s", unknown_commit = "resolve";
    by_token, retries = 100_000, deadline = "30s", unknown_commit = "token";
}

const SETTINGS: &str = "SELECT concat_ws(' ', current_setting('transaction_isolation'),
     current_setting('statement_timeout'), current_setting('lock_timeout'),
     current_setting('idle_in_transaction_session_timeout'))";

macro_rules! everything {
    ($($name:ident $(, $option:meta)*;)*) => {$(
        #[transactional($($option),*)]
        async fn $name(tx: &mut Transaction<'_>) -> Result<String, Error> {
            tx.execute_typed("INSERT INTO done VALUES ($1)", &[(&1, Type::INT4)]).await?;
            nested(&mut *tx).await?;
            let messages = tx.simple_query("SELECT 1; INSERT INTO done VALUES (3)").await?;
            assert!(matches!(messages.last(), Some(SimpleQueryMessage::CommandComplete(1))));
            Ok(tx.query_typed_one(SETTINGS, &[]).await?.get(0))
        }
    )*};
}

everything! {
    without_options;
    with_id, isolation = "serializable", statement_timeout = "2s", unknown_commit = "resolve";
    with_token, isolation = "repeatable read", lock_timeout = "3s", idle_timeout = "1m", unknown_commit = "token";
}

#[transactional]
async fn nested(tx: &mut Transaction<'_>) -> Result<(), Error> {
    tx.batch_execute("INSERT INTO done VALUES (2)").await?;
    Ok(())
}

#[tokio::test]
async fn every_option_works_and_applies_to_its_transaction_only() {
    let fixture = Fixture::new(&[]).await;
    let other = pool(fixture.bouncer.config(), 1);
    for _ in 0..10 {
        for pool in [&fixture.pool, &other] {
            assert_eq!(with_id(pool).await.unwrap(), "serializable 2s 0 0");
            assert_eq!(with_token(pool).await.unwrap(), "repeatable read 0 3s 1min");
            assert_eq!(without_options(pool).await.unwrap(), "read committed 0 0 0");
        }
    }
    assert_eq!((fixture.rows().await, fixture.events.all().len()), (180, 0), "{:?}", fixture.events);
}

/// Makes a call that gives up, and a second one that succeeds once `other` has disconnected. Returns the first one's class.
async fn blocked_by(fixture: &Fixture, other: Client) -> Option<Class> {
    let error = call(&fixture.pool, "SELECT 1").await.unwrap_err();
    assert_eq!(fixture.events.of("retrying").len(), 2, "{error:?}");
    let leave = async {
        while fixture.events.of("retrying").len() < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(other);
    };
    let (attempt, ()) = tokio::join!(patient(&fixture.pool, "SELECT 1"), leave);
    assert!(attempt.unwrap() >= 2);
    assert_eq!(fixture.rows().await, 1);
    classify(&error)
}

#[tokio::test]
async fn a_query_wait_timeout_of_the_pooler_is_retried() {
    let fixture = Fixture::new(&["query_wait_timeout = 0.1"]).await;
    let other = connect(fixture.bouncer.config()).await;
    other.batch_execute("BEGIN").await.unwrap();
    assert_eq!(blocked_by(&fixture, other).await, Some(Class::Capacity));
}

#[tokio::test]
async fn a_full_pooler_is_retried_until_a_connection_is_free() {
    let fixture = Fixture::new(&["max_client_conn = 1"]).await;
    let other = connect(fixture.bouncer.config()).await;
    assert_eq!(blocked_by(&fixture, other).await, Some(Class::Capacity));
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_not_retried() {
    let fixture = Fixture::new(&[]).await;
    for name in ["unlisted", "ghost"] {
        let mut config = fixture.bouncer.config().clone();
        config.dbname(name);
        let error = call(&pool(&config, 1), "SELECT 1").await.unwrap_err();
        assert_eq!(classify(&error), Some(Class::Fatal), "{error:?}");
        assert_eq!(fixture.events.all().len(), 0, "no retry: {:?}", fixture.events);
    }
}

#[tokio::test]
async fn a_session_terminated_behind_the_pooler_is_replaced() {
    let fixture = Fixture::new(&[]).await;
    for sql in [SLEEP, SLEEP_IN_COMMIT] {
        let end = async {
            let (observer, victim) = fixture.waiting_for("PgSleep").await;
            observer.execute("SELECT pg_terminate_backend($1)", &[&victim]).await.unwrap();
        };
        assert_eq!(tokio::join!(call(&fixture.pool, sql), end).0.unwrap(), 2);
    }
    assert_eq!(fixture.rows().await, 2);
    let retries = fixture.events.of("retrying");
    assert!(retries.iter().all(|retry| retry["sqlstate"] == "57P01"), "{retries:?}");
    assert_eq!(fixture.events.of("commit outcome unknown").len(), 0);

    // Between transactions, the client does not notice, if the pooler noticed before.
    let end_all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()";
    connect(&fixture.direct).await.batch_execute(end_all).await.unwrap();
    let mut console = fixture.bouncer.config().clone();
    let console = connect(console.dbname("pgbouncer")).await;
    let is_row = |message: &SimpleQueryMessage| matches!(message, SimpleQueryMessage::Row(_));
    while console.simple_query("SHOW SERVERS").await.unwrap().iter().any(is_row) {}
    assert_eq!(call(&fixture.pool, "SELECT 1").await.unwrap(), 1);
}

#[tokio::test]
async fn a_call_waits_for_a_server_that_restarts_behind_the_pooler() {
    let fixture = Fixture::with_server(&[], &["query_wait_timeout = 0.2"]).await;
    let restart = async {
        drop(fixture.waiting_for("PgSleep").await);
        let server = fixture.server.clone().unwrap();
        let stopping = server.clone();
        tokio::task::spawn_blocking(move || stopping.stop("fast")).await.unwrap().unwrap();
        let failing = |retry: &Fields| retry.get("error").is_some_and(|text| text.contains("login has been failing"));
        while !fixture.events.of("retrying").iter().any(failing) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::task::spawn_blocking(move || server.start_again(&[])).await.unwrap().unwrap();
    };
    assert!(tokio::join!(patient(&fixture.pool, SLEEP), restart).0.unwrap() >= 2);
    assert_eq!(fixture.rows().await, 1);
    assert!(fixture.bouncer.is_running());
}

const COMMITTED: &str = "SET LOCAL synchronous_commit = on";

fn assert_unknown(attempt: Result<u32, Error>) {
    let error = attempt.unwrap_err();
    let Error::CommitUnknown { source: Some(source), .. } = &error else { panic!("{error:?}") };
    assert_eq!(
        source.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::as_db_error).unwrap().message(),
        "server conn crashed?"
    );
}

/// The pooler sends the same error, whether it is committed or not.
#[tokio::test]
async fn a_commit_is_never_guessed_if_the_server_crashes_behind_the_pooler() {
    let fixture = Fixture::with_server(&["synchronous_commit=local", "synchronous_standby_names=absent"], &[]).await;
    assert_unknown(fixture.kill_in("PgSleep", call(&fixture.pool, SLEEP_IN_COMMIT)).await);
    assert_eq!(fixture.rows().await, 0);
    assert!(fixture.kill_in("PgSleep", resolved(&fixture.pool, SLEEP_IN_COMMIT)).await.unwrap() >= 2);
    assert!(fixture.kill_in("PgSleep", by_token(&fixture.pool, SLEEP_IN_COMMIT)).await.unwrap() >= 2);
    assert_eq!(fixture.rows().await, 2);

    // These commits are on disk, and wait for a standby.
    assert_unknown(fixture.kill_in("SyncRep", call(&fixture.pool, COMMITTED)).await);
    assert_eq!(fixture.rows().await, 3);
    // After the crash, the id may belong to another transaction.
    assert_unknown(fixture.kill_in("SyncRep", resolved(&fixture.pool, COMMITTED)).await);
    assert_eq!(fixture.rows().await, 4);
    assert_eq!(fixture.kill_in("SyncRep", by_token(&fixture.pool, COMMITTED)).await.unwrap(), 1);
    assert_eq!(fixture.rows().await, 5);
}

/// Kills the session's process shortly before, at or after the end of a slow COMMIT.
#[tokio::test]
async fn calls_commit_once_if_the_server_crashes_at_random_behind_the_pooler() {
    let fixture = Fixture::with_server(&["synchronous_commit=local"], &[]).await;
    let slow = "INSERT INTO at_commit VALUES ('SELECT pg_sleep(0.2)')";
    for round in 0..8 {
        let before = fixture.rows().await;
        let delay = Duration::from_millis(193 + round);
        let attempt = match round % 2 {
            0 => fixture.kill_after(delay, "PgSleep", resolved(&fixture.pool, slow)).await,
            _ => fixture.kill_after(delay, "PgSleep", by_token(&fixture.pool, slow)).await,
        };
        let rows = fixture.rows().await - before;
        match attempt {
            Ok(_) => assert_eq!(rows, 1, "round {round}"),
            Err(Error::CommitUnknown { .. }) if round % 2 == 0 => assert!(rows <= 1, "round {round}"),
            Err(error) => panic!("round {round}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn a_commit_is_unknown_if_the_pooler_dies() {
    let fixture = Fixture::new(&[]).await;
    let slow = "INSERT INTO at_commit VALUES ('SELECT pg_sleep(0.2)')";
    let die = async {
        fixture.waiting_for("PgSleep").await;
        kill(fixture.bouncer.pid());
    };
    let error = tokio::join!(call(&fixture.pool, slow), die).0.unwrap_err();
    assert!(matches!(error, Error::CommitUnknown { .. }), "{error:?}");
    while fixture.rows().await == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let error = call(&fixture.pool, "SELECT 1").await.unwrap_err();
    assert_eq!(classify(&error), Some(Class::Connection), "{error:?}");
}

/// The cancel request of tokio-postgres makes `PgBouncer` 1.18 exit.
#[tokio::test]
async fn a_call_dropped_behind_the_pooler_is_cancelled_and_its_connection_kept() {
    let fixture = Fixture::new(&[]).await;
    let connections = Arc::new(AtomicU32::new(0));
    let counted = connections.clone();
    let pool = Pool::builder(Manager::new(fixture.bouncer.config().clone(), NoTls))
        .max_size(1)
        .post_create(Hook::sync_fn(move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }))
        .build()
        .unwrap();
    let source = WithCancel::new(pool, fixture.bouncer.config().clone(), NoTls);
    for _ in 0..5 {
        tokio::select! {
            done = call(&source, SLEEP) => panic!("{done:?}"),
            _ = fixture.waiting_for("PgSleep") => {}
        }
        let began = Instant::now();
        assert_eq!(call(&source, "SELECT 1").await.unwrap(), 1);
        assert!(began.elapsed() < Duration::from_secs(1), "the call waited for the statement: {:?}", began.elapsed());
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    assert_eq!(fixture.events.of("connection discarded").len(), 0, "{:?}", fixture.events);
    assert!(fixture.bouncer.is_running());
    assert_eq!(fixture.rows().await, 5);
}
