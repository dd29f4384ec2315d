//! Faults of whole servers: shutdown, crash, restart, refused logins, no free connection. Each test has its own server.
#![allow(missing_docs)]

use std::convert::Infallible;
use std::future::Ready;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, Pool};
use retry_runtime::{Class, Error, INSTALL_SQL, Transaction, classify, transactional};
use retry_tests::events::Events;
use retry_tests::proxy::Proxy;
use retry_tests::rival::{kill, pid};
use retry_tests::{
    Database, FAULT_TABLES, SLEEP, SLEEP_IN_COMMIT, Server, connect, first_attempt_runs, pool, reconnect,
};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, NoTlsStream, TlsConnect};
use tokio_postgres::{Client, Config, NoTls};

/// What was committed before a crash is still there after it.
const DURABLE: [&str; 1] = ["synchronous_commit=on"];

// The patient functions have enough retries to wait until a server has restarted.
first_attempt_runs! {
    max_delay = "2ms";
    call;
    patient, retries = 100_000, deadline = "30s";
    patient_and_resolved, retries = 100_000, deadline = "30s", unknown_commit = "resolve";
    resolved, unknown_commit = "resolve";
    by_token, unknown_commit = "token";
}

/// A server, a database on it, and a pool of one connection.
struct Fixture {
    server: Arc<Server>,
    settings: &'static [&'static str],
    config: Config,
    pool: Pool,
    events: Events,
}

impl Fixture {
    async fn new(settings: &'static [&'static str]) -> Self {
        let server = Arc::new(Server::start_with(settings).unwrap());
        let db = Database::create_on(&server.config()).await;
        db.setup(FAULT_TABLES).await;
        db.setup(INSTALL_SQL).await;
        Self { server, settings, config: db.config().clone(), pool: db.pool(1), events: Events::capture() }
    }

    async fn rows(&self) -> i64 {
        let client = connect(&self.config).await;
        client.query_one("SELECT count(*) FROM done", &[]).await.unwrap().get(0)
    }

    /// Runs a call. Once its session waits for `event`, runs `interrupt` with an observer and the session's process id.
    async fn interrupt<T>(
        &self,
        call: impl Future<Output = T>,
        event: &str,
        interrupt: impl AsyncFnOnce(Client, i32),
    ) -> T {
        let observer = connect(&self.config).await;
        let interrupt = async {
            let sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = $1";
            let pid = loop {
                match observer.query_opt(sql, &[&event]).await.unwrap() {
                    Some(row) => break row.get(0),
                    None => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            };
            interrupt(observer, pid).await;
        };
        let both = async { tokio::join!(call, interrupt).0 };
        tokio::time::timeout(Duration::from_secs(40), both).await.expect("the call hangs")
    }

    async fn restart(&self, mode: &'static str) {
        let (server, settings) = (self.server.clone(), self.settings);
        let restart = move || server.stop(mode).and_then(|()| server.start_again(settings));
        tokio::task::spawn_blocking(restart).await.unwrap().unwrap();
    }

    /// Connects until that succeeds. Returns the SQLSTATEs and texts of the refusals, all of the class `Connection`.
    async fn refusals(&self) -> Vec<String> {
        let mut refusals = Vec::new();
        loop {
            let Some(error) = self.config.connect(NoTls).await.err() else { return refusals };
            assert_eq!(classify(&error), Some(Class::Connection), "{error:?}");
            refusals.extend(error.as_db_error().map(|db| format!("{} {}", db.code().code(), db.message())));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn signal(name: &str, pid: i32) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

/// Runs a call on a session whose process is stopped, and terminates that session. When the process continues, it finds
/// both.
async fn terminate_stopped<T>(observer: &Client, victim: i32, call: impl Future<Output = T>) -> T {
    let end = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        observer.execute("SELECT pg_terminate_backend($1)", &[&victim]).await.unwrap();
        signal("-CONT", victim);
    };
    tokio::join!(call, end).0
}

#[transactional]
async fn fails_on_a_stopped_session(tx: &mut Transaction<'_>, victim: i32) -> anyhow::Result<()> {
    tx.batch_execute("INSERT INTO done VALUES (1)").await?;
    signal("-STOP", victim);
    anyhow::bail!("the body's own error")
}

#[tokio::test]
async fn a_session_terminated_in_begin_or_rollback_is_replaced() {
    let fixture = Fixture::new(&[]).await;
    let observer = connect(&fixture.config).await;
    let victim = pid(&fixture.pool.get().await.unwrap()).await;
    signal("-STOP", victim);
    assert_eq!(terminate_stopped(&observer, victim, call(&fixture.pool, "SELECT 1")).await.unwrap(), 2);
    assert_eq!(fixture.events.of("retrying")[0]["class"], "connection");

    let victim = pid(&fixture.pool.get().await.unwrap()).await;
    let error =
        terminate_stopped(&observer, victim, fails_on_a_stopped_session(&fixture.pool, victim)).await.unwrap_err();
    assert_eq!(error.to_string(), "the body's own error");
    assert_eq!(fixture.events.of("connection discarded").len(), 2);
    assert_eq!((fixture.rows().await, fixture.events.of("retrying").len()), (1, 1));
}

async fn terminate(observer: Client, pid: i32) {
    observer.execute("SELECT pg_terminate_backend($1)", &[&pid]).await.unwrap();
}

/// The commit is on the primary's disk before the wait begins, so it cannot be undone.
#[tokio::test]
async fn a_commit_that_waits_for_a_standby_is_committed_however_the_wait_ends() {
    let fixture = Fixture::new(&["synchronous_standby_names=absent"]).await;
    let mut config = fixture.config.clone();
    config.options("-c synchronous_commit=on");
    let pool = pool(&config, 1);
    let error = fixture.interrupt(call(&pool, "SELECT 1"), "SyncRep", terminate).await.unwrap_err();
    assert!(matches!(error, Error::CommitUnknown { identity: None, source: Some(_), .. }), "{error:?}");
    assert_eq!(fixture.rows().await, 1);
    assert_eq!(fixture.interrupt(resolved(&pool, "SELECT 1"), "SyncRep", terminate).await.unwrap(), 1);
    assert_eq!(fixture.interrupt(by_token(&pool, "SELECT 1"), "SyncRep", terminate).await.unwrap(), 1);
    assert_eq!((fixture.rows().await, fixture.events.of("retrying").len()), (3, 0));
    let cancelled = fixture.interrupt(call(&pool, "SELECT 1"), "SyncRep", async |observer, pid| {
        observer.execute("SELECT pg_cancel_backend($1)", &[&pid]).await.unwrap();
    });
    assert_eq!(cancelled.await.unwrap(), 1);
    assert_eq!(fixture.rows().await, 4);
}

#[tokio::test]
async fn a_call_waits_for_a_crashed_server_and_never_guesses_its_commit() {
    let fixture = Fixture::new(&DURABLE).await;
    let crash = async |observer: Client, pid: i32| {
        kill(pid);
        // A crash ends all sessions.
        let error = observer.batch_execute(SLEEP).await.unwrap_err();
        assert_eq!((error.is_closed(), classify(&error)), (true, Some(Class::Connection)));
        let refusals = fixture.refusals().await;
        assert!(refusals.iter().any(|refusal| refusal.starts_with("57P03")), "{refusals:?}");
    };
    assert!(fixture.interrupt(patient(&fixture.pool, SLEEP), "PgSleep", crash).await.unwrap() >= 2);
    let crash_elsewhere = async |observer: Client, _| kill(pid(&observer).await);
    assert!(fixture.interrupt(patient(&fixture.pool, SLEEP), "PgSleep", crash_elsewhere).await.unwrap() >= 2);
    assert_eq!((fixture.refusals().await.len(), fixture.rows().await), (0, 2));

    let error = fixture.interrupt(call(&fixture.pool, SLEEP_IN_COMMIT), "PgSleep", crash).await.unwrap_err();
    assert!(matches!(error, Error::CommitUnknown { .. }), "{error:?}");
    assert_eq!(fixture.rows().await, 2);
    let attempt = fixture.interrupt(patient_and_resolved(&fixture.pool, SLEEP_IN_COMMIT), "PgSleep", crash).await;
    assert!(attempt.unwrap() >= 2);
    assert_eq!(fixture.rows().await, 3);
    assert_eq!(fixture.events.of("commit outcome looked up")[0]["outcome"], "rolled back");
}

#[tokio::test]
async fn a_fast_shutdown_rolls_back_and_reports_it() {
    let fixture = Fixture::new(&DURABLE).await;
    for sql in [SLEEP, SLEEP_IN_COMMIT] {
        let restart = async |_, _| fixture.restart("fast").await;
        assert!(fixture.interrupt(patient(&fixture.pool, sql), "PgSleep", restart).await.unwrap() >= 2);
    }
    assert_eq!(fixture.rows().await, 2);
    assert_eq!(fixture.events.of("commit outcome unknown").len(), 0, "{:?}", fixture.events);
    assert_eq!(fixture.events.of("retrying")[0]["sqlstate"], "57P01");
}

#[tokio::test]
async fn an_immediate_shutdown_leaves_the_commit_unknown() {
    let fixture = Fixture::new(&DURABLE).await;
    let restart = async |_, _| fixture.restart("immediate").await;
    assert!(fixture.interrupt(patient(&fixture.pool, SLEEP), "PgSleep", restart).await.unwrap() >= 2);
    let error = fixture.interrupt(call(&fixture.pool, SLEEP_IN_COMMIT), "PgSleep", restart).await.unwrap_err();
    assert!(matches!(error, Error::CommitUnknown { .. }), "{error:?}");
    assert_eq!(fixture.rows().await, 1);
    let attempt = fixture.interrupt(patient_and_resolved(&fixture.pool, SLEEP_IN_COMMIT), "PgSleep", restart).await;
    assert!(attempt.unwrap() >= 2);
    assert_eq!(fixture.rows().await, 2);
}

#[tokio::test]
async fn a_smart_shutdown_lets_a_transaction_finish_and_refuses_new_connections() {
    let fixture = Fixture::new(&[]).await;
    let mut stopped = None;
    let stop = async |observer: Client, _| {
        drop(observer);
        let server = fixture.server.clone();
        stopped = Some(tokio::task::spawn_blocking(move || server.stop("smart")));
        let refusal = loop {
            match fixture.config.connect(NoTls).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => break error,
            }
        };
        assert_eq!(refusal.code().unwrap().code(), "57P03");
        assert_eq!(classify(&refusal), Some(Class::Connection));
    };
    let finishes = call(&fixture.pool, "SELECT pg_sleep(0.3)");
    assert_eq!(fixture.interrupt(finishes, "PgSleep", stop).await.unwrap(), 1);
    fixture.pool.close();
    stopped.unwrap().await.unwrap().unwrap();
    let error = call(&pool(&fixture.config, 1), "SELECT 1").await.unwrap_err();
    assert_eq!(classify(&error), Some(Class::Connection), "{error:?}");
    assert_eq!(fixture.events.of("retrying").len(), 2);
}

/// The server recovers from an empty archive, and its command for that is slow.
#[tokio::test]
async fn a_call_waits_for_a_server_that_is_starting_up() {
    let fixture = Fixture::new(&[]).await;
    fixture.server.stop("fast").unwrap();
    std::fs::write(fixture.server.data().join("recovery.signal"), "").unwrap();
    let server = fixture.server.clone();
    let started = tokio::task::spawn_blocking(move || server.start_again(&["restore_command='sleep 0.1; false'"]));
    let (attempt, refusals) = tokio::join!(patient(&fixture.pool, "SELECT 1"), fixture.refusals());
    assert!(attempt.unwrap() >= 2);
    assert!(refusals.contains(&"57P03 the database system is starting up".to_owned()), "{refusals:?}");
    started.await.unwrap().unwrap();
}

/// Checks that a call on `pool` fails without a retry. Returns the error's SQLSTATE, or else the driver's text.
async fn refused_without_retry(fixture: &Fixture, pool: Pool) -> String {
    let error = call(&pool, "SELECT 1").await.unwrap_err();
    let Error::Pool(source) = &error else { panic!("{error:?}") };
    assert_eq!(classify(&error), Some(Class::Fatal), "{error:?}");
    assert_eq!(fixture.events.all().len(), 0, "no retry: {:?}", fixture.events);
    error.as_db_error().map_or_else(|| source.to_string(), |db| db.code().code().to_owned())
}

#[tokio::test]
async fn a_login_that_cannot_succeed_is_not_retried() {
    let fixture = Fixture::new(&[]).await;
    connect(&fixture.config).await.batch_execute("CREATE ROLE known LOGIN PASSWORD 'secret'").await.unwrap();
    let mut known = fixture.config.clone();
    known.user("known").password("guess");
    let hba = "local all postgres trust\nlocal all known scram-sha-256\nhost all all 127.0.0.1/32 trust\n";
    std::fs::write(fixture.server.data().join("pg_hba.conf"), hba).unwrap();
    connect(&fixture.config).await.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    while known.connect(NoTls).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(refused_without_retry(&fixture, pool(&known, 1)).await, "28P01");
    let mut without_password = fixture.config.clone();
    without_password.user("known");
    assert_eq!(refused_without_retry(&fixture, pool(&without_password, 1)).await, "invalid configuration");
    let mut unlisted = fixture.config.clone();
    unlisted.user("guest");
    assert_eq!(refused_without_retry(&fixture, pool(&unlisted, 1)).await, "28000");

    let proxy = Proxy::start(&fixture.config).await.unwrap();
    let mut with_tls = proxy.config().clone();
    with_tls.ssl_mode(SslMode::Require);
    let pool = Pool::builder(Manager::new(with_tls, Tls)).build().unwrap();
    assert_eq!(refused_without_retry(&fixture, pool).await, "error performing TLS handshake");
}

/// Asks for TLS, which the server does not support.
#[derive(Clone)]
struct Tls;

impl<S> MakeTlsConnect<S> for Tls {
    type Stream = NoTlsStream;
    type TlsConnect = Self;
    type Error = Infallible;

    fn make_tls_connect(&mut self, _: &str) -> Result<Self, Infallible> {
        Ok(Self)
    }
}

impl<S> TlsConnect<S> for Tls {
    type Stream = NoTlsStream;
    type Error = Infallible;
    type Future = Ready<Result<NoTlsStream, Infallible>>;

    fn connect(self, _: S) -> Self::Future {
        unreachable!("the server has no TLS")
    }
}

/// A host name of this length is invalid, so no name server is asked.
#[tokio::test]
async fn a_host_name_that_cannot_be_resolved_is_retried() {
    let events = Events::capture();
    let mut config = Config::new();
    config.host("x".repeat(64)).user("postgres");
    let error = call(&pool(&config, 1), "SELECT 1").await.unwrap_err();
    assert_eq!(classify(&error), Some(Class::Connection), "{error:?}");
    assert_eq!(events.of("retrying").len(), 2);
}

#[tokio::test]
async fn a_full_server_is_retried_until_a_connection_is_free() {
    let fixture = Fixture::new(&["max_connections=4", "superuser_reserved_connections=1", "max_wal_senders=0"]).await;
    connect(&fixture.config).await.batch_execute("CREATE ROLE guest LOGIN").await.unwrap();
    let mut guest = fixture.config.clone();
    guest.user("guest");
    let mut others = Vec::new();
    for (config, size, refusal) in [
        (&guest, 3, "remaining connection slots are reserved"),
        (&fixture.config, 4, "sorry, too many clients already"),
    ] {
        while others.len() < size {
            // Another session may still be ending.
            others.push(reconnect(config).await);
        }
        let error = call(&pool(config, 1), "SELECT 1").await.unwrap_err();
        assert!(matches!(error, Error::Pool(_)), "{error:?}");
        assert!(error.as_db_error().unwrap().message().starts_with(refusal), "{error}");
        assert_eq!(classify(&error), Some(Class::Capacity));
    }
    assert_eq!(fixture.events.of("retrying").len(), 4, "two for each");
    let leave = async {
        while fixture.events.of("retrying").len() < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        others.pop();
    };
    let (attempt, ()) = tokio::join!(patient(&fixture.pool, "SELECT 1"), leave);
    assert!(attempt.unwrap() >= 2);
}

#[tokio::test]
async fn a_full_lock_table_is_not_retried() {
    let fixture = Fixture::new(&["max_connections=10", "max_locks_per_transaction=10"]).await;
    let lock = "SELECT pg_advisory_xact_lock(n) FROM generate_series(1, 100000) AS n";
    let error = call(&fixture.pool, lock).await.unwrap_err();
    let Error::Postgres(source) = &error else { panic!("{error:?}") };
    assert_eq!(source.code().unwrap().code(), "53200");
    assert_eq!(classify(&error), Some(Class::Fatal));
    assert_eq!(fixture.events.all().len(), 0, "{:?}", fixture.events);
    assert_eq!(call(&fixture.pool, "SELECT 1").await.unwrap(), 1, "the connection is still usable");
    assert_eq!(fixture.rows().await, 1);
}

#[transactional(retries = 0, retry_for = "60s", base_delay = "1ms", max_delay = "2ms")]
async fn survive(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    tx.execute("SELECT 1", &[]).await?;
    Ok(tx.attempt())
}

#[transactional(retries = 1, retry_for = "300ms", base_delay = "1ms", max_delay = "2ms")]
async fn survive_shortly(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    tx.execute("SELECT 1", &[]).await?;
    Ok(tx.attempt())
}

#[tokio::test]
async fn an_outage_is_survived_if_it_is_shorter_than_retry_for() {
    let fixture = Fixture::new(&[]).await;
    fixture.server.stop("fast").unwrap();
    let error = survive_shortly(&fixture.pool).await.unwrap_err();
    assert_eq!(classify(&error), Some(Class::Connection), "{error:?}");
    assert!(fixture.events.of("retrying").len() > 1, "more than `retries`");
    let server = fixture.server.clone();
    let restarted = async {
        while fixture.events.of("retrying").len() < 20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::task::spawn_blocking(move || server.start_again(&[])).await.unwrap().unwrap();
    };
    let (attempt, ()) = tokio::join!(survive(&fixture.pool), restarted);
    assert!(attempt.unwrap() > 1);
}
