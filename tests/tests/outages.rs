//! The fault table, second part: servers that stop, crash, hang, refuse and run out. Each test has a server of its own.
#![allow(missing_docs)]

use std::convert::Infallible;
use std::future::Ready;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, Pool};
use retry_runtime::{Class, Error, INSTALL_SQL, Transaction, classify, transactional};
use retry_tests::events::Events;
use retry_tests::first_attempt_runs;
use retry_tests::proxy::Proxy;
use retry_tests::rival::{kill, pid};
use retry_tests::{Database, FAULT_TABLES, Server, connect, pool};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, NoTlsStream, TlsConnect};
use tokio_postgres::{Client, Config, NoTls};

/// A row in `at_commit` is a statement that runs in COMMIT.
const SLEEP: &str = "SELECT pg_sleep(60)";
const SLEEP_IN_COMMIT: &str = "INSERT INTO at_commit VALUES ('SELECT pg_sleep(60)')";

/// What was committed before a crash is there after it.
const DURABLE: [&str; 1] = ["synchronous_commit=on"];

// The delays are such that a server that starts again is waited for.
first_attempt_runs! {
    max_delay = "2ms";
    call;
    patient, retries = 100_000, deadline = "30s";
    patient_and_resolved, retries = 100_000, deadline = "30s", unknown_commit = "resolve";
    resolved, unknown_commit = "resolve";
    by_token, unknown_commit = "token";
}

/// A server, a database on it, and a pool of one connection.
struct Scene {
    server: Arc<Server>,
    settings: &'static [&'static str],
    config: Config,
    pool: Pool,
    events: Events,
}

impl Scene {
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

    /// Runs a call, and `strike` with an observer and the call's process once that waits for `event`.
    async fn strike<T>(&self, call: impl Future<Output = T>, event: &str, strike: impl AsyncFnOnce(Client, i32)) -> T {
        let observer = connect(&self.config).await;
        let strike = async {
            let sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = $1";
            let pid = loop {
                match observer.query_opt(sql, &[&event]).await.unwrap() {
                    Some(row) => break row.get(0),
                    None => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            };
            strike(observer, pid).await;
        };
        let both = async { tokio::join!(call, strike).0 };
        tokio::time::timeout(Duration::from_secs(40), both).await.expect("a call that ends")
    }

    async fn restart(&self, mode: &'static str) {
        let (server, settings) = (self.server.clone(), self.settings);
        let restart = move || server.stop(mode).and_then(|()| server.start_again(settings));
        tokio::task::spawn_blocking(restart).await.unwrap().unwrap();
    }

    /// Connects until that succeeds; the SQLSTATEs and texts of the refusals, all of the class `Connection`.
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

/// Runs a call; a moment later, ends the session of this stopped process, which finds both when it goes on.
async fn end_stopped<T>(observer: &Client, victim: i32, call: impl Future<Output = T>) -> T {
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
    anyhow::bail!("the body's own")
}

#[tokio::test]
async fn a_session_that_is_ended_in_begin_or_rollback_is_replaced() {
    let scene = Scene::new(&[]).await;
    let observer = connect(&scene.config).await;
    let victim = pid(&scene.pool.get().await.unwrap()).await;
    signal("-STOP", victim);
    assert_eq!(end_stopped(&observer, victim, call(&scene.pool, "SELECT 1")).await.unwrap(), 2);
    assert_eq!(scene.events.of("retrying")[0]["class"], "connection");

    let victim = pid(&scene.pool.get().await.unwrap()).await;
    let error = end_stopped(&observer, victim, fails_on_a_stopped_session(&scene.pool, victim)).await.unwrap_err();
    assert_eq!(error.to_string(), "the body's own");
    assert_eq!(scene.events.of("connection discarded").len(), 2);
    assert_eq!((scene.rows().await, scene.events.of("retrying").len()), (1, 1));
}

async fn end(observer: Client, pid: i32) {
    observer.execute("SELECT pg_terminate_backend($1)", &[&pid]).await.unwrap();
}

/// The commit is on the primary's disk before the wait begins: nothing can take it back.
#[tokio::test]
async fn a_commit_that_waits_for_a_standby_is_committed_however_the_wait_ends() {
    let scene = Scene::new(&["synchronous_standby_names=nobody"]).await;
    let mut config = scene.config.clone();
    config.options("-c synchronous_commit=on");
    let pool = pool(&config, 1);
    let error = scene.strike(call(&pool, "SELECT 1"), "SyncRep", end).await.unwrap_err();
    assert!(matches!(error, Error::CommitUnknown { identity: None, source: Some(_), .. }), "{error:?}");
    assert_eq!(scene.rows().await, 1);
    assert_eq!(scene.strike(resolved(&pool, "SELECT 1"), "SyncRep", end).await.unwrap(), 1);
    assert_eq!(scene.strike(by_token(&pool, "SELECT 1"), "SyncRep", end).await.unwrap(), 1);
    assert_eq!((scene.rows().await, scene.events.of("retrying").len()), (3, 0));
    let cancelled = scene.strike(call(&pool, "SELECT 1"), "SyncRep", async |observer, pid| {
        observer.execute("SELECT pg_cancel_backend($1)", &[&pid]).await.unwrap();
    });
    assert_eq!(cancelled.await.unwrap(), 1);
    assert_eq!(scene.rows().await, 4);
}

#[tokio::test]
async fn a_crash_is_waited_for_and_its_commit_is_not_guessed() {
    let scene = Scene::new(&DURABLE).await;
    let crash = async |observer: Client, pid: i32| {
        kill(pid);
        // The other sessions end too.
        let error = observer.batch_execute(SLEEP).await.unwrap_err();
        assert_eq!((error.is_closed(), classify(&error)), (true, Some(Class::Connection)));
        let refusals = scene.refusals().await;
        assert!(refusals.iter().any(|refusal| refusal.starts_with("57P03")), "{refusals:?}");
    };
    assert!(scene.strike(patient(&scene.pool, SLEEP), "PgSleep", crash).await.unwrap() >= 2);
    let crash_of_another = async |observer: Client, _| kill(pid(&observer).await);
    assert!(scene.strike(patient(&scene.pool, SLEEP), "PgSleep", crash_of_another).await.unwrap() >= 2);
    assert_eq!((scene.refusals().await.len(), scene.rows().await), (0, 2));

    let error = scene.strike(call(&scene.pool, SLEEP_IN_COMMIT), "PgSleep", crash).await.unwrap_err();
    assert!(matches!(error, Error::CommitUnknown { .. }), "{error:?}");
    assert_eq!(scene.rows().await, 2);
    let attempt = scene.strike(patient_and_resolved(&scene.pool, SLEEP_IN_COMMIT), "PgSleep", crash).await;
    assert!(attempt.unwrap() >= 2);
    assert_eq!(scene.rows().await, 3);
    assert_eq!(scene.events.of("commit outcome looked up")[0]["outcome"], "rolled back");
}

#[tokio::test]
async fn a_server_that_is_stopped_fast_rolls_back_and_says_so() {
    let scene = Scene::new(&DURABLE).await;
    for sql in [SLEEP, SLEEP_IN_COMMIT] {
        let restart = async |_, _| scene.restart("fast").await;
        assert!(scene.strike(patient(&scene.pool, sql), "PgSleep", restart).await.unwrap() >= 2);
    }
    assert_eq!(scene.rows().await, 2);
    assert_eq!(scene.events.of("commit outcome unknown").len(), 0, "{:?}", scene.events);
    assert_eq!(scene.events.of("retrying")[0]["sqlstate"], "57P01");
}

#[tokio::test]
async fn a_server_that_is_stopped_at_once_leaves_its_commit_unknown() {
    let scene = Scene::new(&DURABLE).await;
    let restart = async |_, _| scene.restart("immediate").await;
    assert!(scene.strike(patient(&scene.pool, SLEEP), "PgSleep", restart).await.unwrap() >= 2);
    let error = scene.strike(call(&scene.pool, SLEEP_IN_COMMIT), "PgSleep", restart).await.unwrap_err();
    assert!(matches!(error, Error::CommitUnknown { .. }), "{error:?}");
    assert_eq!(scene.rows().await, 1);
    let attempt = scene.strike(patient_and_resolved(&scene.pool, SLEEP_IN_COMMIT), "PgSleep", restart).await;
    assert!(attempt.unwrap() >= 2);
    assert_eq!(scene.rows().await, 2);
}

#[tokio::test]
async fn a_server_that_is_stopped_smartly_lets_a_transaction_finish_and_nobody_in() {
    let scene = Scene::new(&[]).await;
    let mut stopped = None;
    let stop = async |observer: Client, _| {
        drop(observer);
        let server = scene.server.clone();
        stopped = Some(tokio::task::spawn_blocking(move || server.stop("smart")));
        let refusal = loop {
            match scene.config.connect(NoTls).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => break error,
            }
        };
        assert_eq!(refusal.code().unwrap().code(), "57P03");
        assert_eq!(classify(&refusal), Some(Class::Connection));
    };
    let finishes = call(&scene.pool, "SELECT pg_sleep(0.3)");
    assert_eq!(scene.strike(finishes, "PgSleep", stop).await.unwrap(), 1);
    scene.pool.close();
    stopped.unwrap().await.unwrap().unwrap();
    let error = call(&pool(&scene.config, 1), "SELECT 1").await.unwrap_err();
    assert_eq!(classify(&error), Some(Class::Connection), "{error:?}");
    assert_eq!(scene.events.of("retrying").len(), 2);
}

/// A recovery from an archive that is slow to say that it has nothing.
#[tokio::test]
async fn a_server_that_starts_up_is_waited_for() {
    let scene = Scene::new(&[]).await;
    scene.server.stop("fast").unwrap();
    std::fs::write(scene.server.data().join("recovery.signal"), "").unwrap();
    let server = scene.server.clone();
    let started = tokio::task::spawn_blocking(move || server.start_again(&["restore_command='sleep 0.1; false'"]));
    let (attempt, refusals) = tokio::join!(patient(&scene.pool, "SELECT 1"), scene.refusals());
    assert!(attempt.unwrap() >= 2);
    assert!(refusals.contains(&"57P03 the database system is starting up".to_owned()), "{refusals:?}");
    started.await.unwrap().unwrap();
}

/// The code, or else the driver's words, of the error that a call through `pool` returns without a retry.
async fn refused_at_once(scene: &Scene, pool: Pool) -> String {
    let error = call(&pool, "SELECT 1").await.unwrap_err();
    let Error::Pool(source) = &error else { panic!("{error:?}") };
    assert_eq!(classify(&error), Some(Class::Fatal), "{error:?}");
    assert_eq!(scene.events.all().len(), 0, "no retry: {:?}", scene.events);
    error.as_db_error().map_or_else(|| source.to_string(), |db| db.code().code().to_owned())
}

#[tokio::test]
async fn a_login_that_can_never_succeed_is_final() {
    let scene = Scene::new(&[]).await;
    connect(&scene.config).await.batch_execute("CREATE ROLE known LOGIN PASSWORD 'secret'").await.unwrap();
    let mut known = scene.config.clone();
    known.user("known").password("guess");
    let hba = "local all postgres trust\nlocal all known scram-sha-256\nhost all all 127.0.0.1/32 trust\n";
    std::fs::write(scene.server.data().join("pg_hba.conf"), hba).unwrap();
    connect(&scene.config).await.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    while known.connect(NoTls).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(refused_at_once(&scene, pool(&known, 1)).await, "28P01");
    let mut without_password = scene.config.clone();
    without_password.user("known");
    assert_eq!(refused_at_once(&scene, pool(&without_password, 1)).await, "invalid configuration");
    let mut unlisted = scene.config.clone();
    unlisted.user("guest");
    assert_eq!(refused_at_once(&scene, pool(&unlisted, 1)).await, "28000");

    let proxy = Proxy::start(&scene.config).await.unwrap();
    let mut with_tls = proxy.config().clone();
    with_tls.ssl_mode(SslMode::Require);
    let pool = Pool::builder(Manager::new(with_tls, Tls)).build().unwrap();
    assert_eq!(refused_at_once(&scene, pool).await, "error performing TLS handshake");
}

/// A client that could do TLS, were the server able to.
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

/// No name is that long, so that nobody is asked for it.
#[tokio::test]
async fn a_name_that_cannot_be_resolved_is_retried() {
    let events = Events::capture();
    let mut config = Config::new();
    config.host("x".repeat(64)).user("postgres");
    let error = call(&pool(&config, 1), "SELECT 1").await.unwrap_err();
    assert_eq!(classify(&error), Some(Class::Connection), "{error:?}");
    assert_eq!(events.of("retrying").len(), 2);
}

/// Connects, again where somebody who left is still on the way out.
async fn squeeze_in(config: &Config) -> Client {
    loop {
        if let Ok((client, connection)) = config.connect(NoTls).await {
            tokio::spawn(connection);
            return client;
        }
    }
}

#[tokio::test]
async fn a_crowded_server_is_tried_again_until_somebody_leaves() {
    let scene = Scene::new(&["max_connections=4", "superuser_reserved_connections=1", "max_wal_senders=0"]).await;
    connect(&scene.config).await.batch_execute("CREATE ROLE guest LOGIN").await.unwrap();
    let mut guest = scene.config.clone();
    guest.user("guest");
    let mut crowd = Vec::new();
    for (config, size, refusal) in
        [(&guest, 3, "remaining connection slots are reserved"), (&scene.config, 4, "sorry, too many clients already")]
    {
        while crowd.len() < size {
            crowd.push(squeeze_in(config).await);
        }
        let error = call(&pool(config, 1), "SELECT 1").await.unwrap_err();
        assert!(matches!(error, Error::Pool(_)), "{error:?}");
        assert!(error.as_db_error().unwrap().message().starts_with(refusal), "{error}");
        assert_eq!(classify(&error), Some(Class::Capacity));
    }
    assert_eq!(scene.events.of("retrying").len(), 4, "two for each");
    let leave = async {
        while scene.events.of("retrying").len() < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        crowd.pop();
    };
    let (attempt, ()) = tokio::join!(patient(&scene.pool, "SELECT 1"), leave);
    assert!(attempt.unwrap() >= 2);
}

#[tokio::test]
async fn a_full_lock_table_is_final() {
    let scene = Scene::new(&["max_connections=10", "max_locks_per_transaction=10"]).await;
    let lock = "SELECT pg_advisory_xact_lock(n) FROM generate_series(1, 100000) AS n";
    let error = call(&scene.pool, lock).await.unwrap_err();
    let Error::Postgres(source) = &error else { panic!("{error:?}") };
    assert_eq!(source.code().unwrap().code(), "53200");
    assert_eq!(classify(&error), Some(Class::Fatal));
    assert_eq!(scene.events.all().len(), 0, "{:?}", scene.events);
    assert_eq!(call(&scene.pool, "SELECT 1").await.unwrap(), 1, "the session is as good as new");
    assert_eq!(scene.rows().await, 1);
}
