//! Hot standbys and failover: read-only servers, recovery conflicts, promotion, and look-ups of commits after a failover.
#![allow(missing_docs)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use retry_runtime::{
    BoxFuture, Class, CommitOutcome, Error, INSTALL_SQL, Identity, Pool, PoolError, Session, Transaction, classify,
    transactional,
};
use retry_tests::events::Events;
use retry_tests::proxy::{Cut, Fault, Proxy};
use retry_tests::rival::{pid, wait_until};
use retry_tests::standby::{catch_up, cut_off, promote};
use retry_tests::{Database, FAULT_TABLES, Server, connect, pool};
use tokio_postgres::config::{Host, TargetSessionAttrs};
use tokio_postgres::{Client, Config};

/// A primary and its hot standby.
struct Pair {
    primary: Server,
    standby: Server,
}

impl Pair {
    fn start() -> Self {
        let primary = Server::start_with(&["synchronous_commit=on"]).unwrap();
        let standby = primary.standby(&["max_standby_streaming_delay=0", "autovacuum=off"]).unwrap();
        Self { primary, standby }
    }

    /// The pair that is shared by the tests that do not change it.
    fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Pair>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let pair = Arc::new(Self::start());
            *shared = Arc::downgrade(&pair);
            pair
        })
    }
}

/// A database for one test, on both servers.
struct Fixture {
    pair: Arc<Pair>,
    on_primary: Config,
    on_standby: Config,
    events: Events,
}

impl Fixture {
    async fn new(pair: Arc<Pair>) -> Self {
        let db = Database::create_on(&pair.primary.config()).await;
        db.setup(FAULT_TABLES).await;
        db.setup(INSTALL_SQL).await;
        catch_up(&db.client().await, &connect(&pair.standby.config()).await).await;
        let mut on_standby = pair.standby.config();
        on_standby.dbname(db.config().get_dbname().unwrap());
        Self { pair, on_primary: db.config().clone(), on_standby, events: Events::capture() }
    }

    /// A pool whose first connection is to the standby.
    fn standby_first(&self) -> InOrder {
        InOrder::to([&self.on_standby, &self.on_primary])
    }
}

async fn rows(config: &Config) -> i64 {
    connect(config).await.query_one("SELECT count(*) FROM done", &[]).await.unwrap().get(0)
}

/// A pool that connects to each server once, in order, and then always to the last.
struct InOrder {
    configs: Vec<Config>,
    taken: AtomicUsize,
    discarded: Arc<AtomicUsize>,
}

impl InOrder {
    fn to<const N: usize>(configs: [&Config; N]) -> Self {
        Self { configs: configs.map(Config::clone).into(), taken: AtomicUsize::new(0), discarded: Arc::default() }
    }
}

struct Connected {
    client: Client,
    discarded: Arc<AtomicUsize>,
}

impl Pool for InOrder {
    fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, PoolError>> {
        Box::pin(async {
            let next = self.taken.fetch_add(1, Ordering::Relaxed).min(self.configs.len() - 1);
            let client = connect(&self.configs[next]).await;
            Ok(Box::new(Connected { client, discarded: self.discarded.clone() }) as Box<dyn Session>)
        })
    }
}

impl Session for Connected {
    fn client(&self) -> &Client {
        &self.client
    }

    fn discard(self: Box<Self>) {
        self.discarded.fetch_add(1, Ordering::Relaxed);
    }
}

macro_rules! write {
    ($($name:ident $(, $option:meta)*;)*) => {$(
        #[transactional(base_delay = "250us", max_delay = "2ms" $(, $option)*)]
        async fn $name(tx: &mut Transaction<'_>) -> Result<u32, Error> {
            tx.batch_execute("INSERT INTO done VALUES (1)").await?;
            Ok(tx.attempt())
        }
    )*};
}

write! {
    plain;
    serializable, isolation = "serializable";
    resolved, unknown_commit = "resolve";
    resolved_soon, unknown_commit = "resolve", deadline = "2s";
    by_token, unknown_commit = "token";
    patient, retries = 100_000, deadline = "30s";
}

macro_rules! read {
    ($($name:ident: $sql:literal $(, $option:meta)*;)*) => {$(
        #[transactional(base_delay = "250us", max_delay = "2ms" $(, $option)*)]
        async fn $name(tx: &mut Transaction<'_>) -> Result<u32, Error> {
            tx.batch_execute($sql).await?;
            Ok(tx.attempt())
        }
    )*};
}

read! {
    read: "SELECT FROM done", read_only;
    lock: "SELECT FROM done FOR UPDATE";
    take_an_id: "SELECT pg_current_xact_id()";
    report: "SELECT FROM done", read_only, isolation = "serializable";
}

#[tokio::test]
async fn a_transaction_that_a_standby_refuses_is_retried_on_another_connection() {
    let fixture = Fixture::new(Pair::shared()).await;
    macro_rules! check {
        ($($function:ident: $code:literal),*) => {$(
            let (pool, before) = (fixture.standby_first(), fixture.events.of("retrying").len());
            assert_eq!($function(&pool).await.expect(stringify!($function)), 2);
            assert_eq!(pool.discarded.load(Ordering::Relaxed), 1, "the standby's connection is not given back");
            let retry = &fixture.events.of("retrying")[before];
            assert_eq!((&*retry["class"], &*retry["sqlstate"]), ("read_only", $code), stringify!($function));
        )*};
    }
    check!(plain: "25006", by_token: "25006", lock: "25006", take_an_id: "25006");
    // On a standby, these fail at BEGIN.
    check!(resolved: "25006", serializable: "0A000");
    assert_eq!(rows(&fixture.on_primary).await, 4);
    assert_eq!(read(&fixture.standby_first()).await.unwrap(), 1, "it can read");

    let before = fixture.events.of("retrying").len();
    let error = plain(&pool(&fixture.on_standby, 1)).await.unwrap_err();
    assert_eq!(classify(&error), Some(Class::ReadOnly), "{error:?}");
    assert_eq!(fixture.events.of("retrying").len(), before + 2, "it may be promoted meanwhile");
}

/// If a second connection is read-only too, the setting is that of the role or the database, and no other will help.
#[tokio::test]
async fn a_setting_that_forbids_writes_is_final_on_the_second_connection() {
    let db = Database::create().await;
    db.setup(FAULT_TABLES).await;
    let pool = db.pool(2);
    let events = Events::capture();
    let (one, other) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    one.batch_execute("SET default_transaction_read_only = on").await.unwrap();
    drop((one, other));
    assert_eq!(patient(&pool).await.unwrap(), 2, "the other connection may write");
    assert_eq!(events.of("connection discarded").len(), 1, "{events:?}");

    let name = db.config().get_dbname().unwrap();
    db.setup(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    let (pool, events) = (db.pool(2), Events::capture());
    let error = patient(&pool).await.unwrap_err();
    assert_eq!(classify(&error), Some(Class::ReadOnly), "{error:?}");
    assert_eq!(events.of("retrying").len(), 1, "{events:?}");
    assert_eq!(events.of("connection discarded").len(), 1, "{events:?}");
    let given_up = &events.of("giving up")[0];
    assert_eq!((&*given_up["class"], &*given_up["sqlstate"], &*given_up["attempt"]), ("read_only", "25006", "2"));
    assert_eq!((pool.status().size, pool.status().available), (1, 1), "the second connection is given back");
}

/// A standby cannot run a serializable transaction, even if it only reads. If the level is the session's default, the first
/// statement fails.
#[tokio::test]
async fn a_serializable_report_is_retried_on_another_connection() {
    let mut fixture = Fixture::new(Pair::shared()).await;
    let pool = fixture.standby_first();
    assert_eq!(report(&pool).await.unwrap(), 2);
    assert_eq!(pool.discarded.load(Ordering::Relaxed), 1);

    fixture.on_standby.options("-c default_transaction_isolation=serializable");
    let pool = fixture.standby_first();
    assert_eq!(read(&pool).await.unwrap(), 2);
    assert_eq!(pool.discarded.load(Ordering::Relaxed), 1);

    for (config, sql, routine) in [
        (&fixture.pair.standby.config(), "BEGIN ISOLATION LEVEL SERIALIZABLE", "call_enum_check_hook"),
        (&fixture.on_standby, "SELECT 1", "GetSerializableTransactionSnapshot"),
    ] {
        let error = connect(config).await.batch_execute(sql).await.unwrap_err();
        assert_eq!(error.as_db_error().unwrap().routine(), Some(routine), "{error:?}");
        assert_eq!(classify(&error), Some(Class::ReadOnly), "{error:?}");
    }
}

#[transactional(read_only, base_delay = "250us", max_delay = "2ms")]
async fn read_slowly(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    tx.batch_execute("SELECT FROM done").await?;
    if tx.attempt() == 1 {
        tx.batch_execute("SELECT pg_sleep(60)").await?;
    }
    Ok(tx.attempt())
}

#[transactional(read_only, base_delay = "250us", max_delay = "2ms")]
async fn read_and_idle(tx: &mut Transaction<'_>, primary: &Client) -> Result<u32, Error> {
    tx.batch_execute("SELECT FROM done").await?;
    if tx.attempt() == 1 {
        primary.batch_execute("TRUNCATE done").await?;
        while !tx.is_closed() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    tx.batch_execute("SELECT FROM done").await?;
    Ok(tx.attempt())
}

/// Runs a statement on the primary once a session sleeps on the standby.
async fn disturb(standby: &Config, primary: &Config, sql: &str) {
    let (standby, primary) = (connect(standby).await, connect(primary).await);
    let sleeper = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    while standby.query_opt(sleeper, &[]).await.unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(standby);
    primary.batch_execute(sql).await.unwrap();
}

#[tokio::test]
async fn a_recovery_conflict_is_retried() {
    let fixture = Fixture::new(Pair::shared()).await;
    let pool = pool(&fixture.on_standby, 1);
    let truncate = disturb(&fixture.on_standby, &fixture.on_primary, "TRUNCATE done");
    assert_eq!(tokio::join!(read_slowly(&pool), truncate).0.unwrap(), 2);
    let retry = &fixture.events.of("retrying")[0];
    assert_eq!((&*retry["class"], &*retry["sqlstate"]), ("serialization", "40001"));
    assert_eq!(fixture.events.of("connection discarded").len(), 0, "{:?}", fixture.events);

    // If no statement is running, the same conflict is FATAL.
    assert_eq!(read_and_idle(&pool, &connect(&fixture.on_primary).await).await.unwrap(), 2);
    assert_eq!(fixture.events.of("retrying")[1]["class"], "connection");
    assert_eq!(fixture.events.of("connection discarded").len(), 1, "{:?}", fixture.events);

    // The database is gone, so the retry cannot connect.
    let admin = fixture.pair.primary.config();
    let drop_it = format!("DROP DATABASE {}", fixture.on_primary.get_dbname().unwrap());
    let drop_it = disturb(&fixture.on_standby, &admin, &drop_it);
    let error = tokio::join!(read_slowly(&pool), drop_it).0.unwrap_err();
    let retry = &fixture.events.of("retrying")[2];
    assert_eq!((&*retry["class"], &*retry["sqlstate"]), ("connection", "57P04"));
    assert_eq!(error.as_db_error().unwrap().code().code(), "3D000", "{error:?}");
}

#[transactional(base_delay = "250us", max_delay = "2ms")]
async fn promote_half_way(tx: &mut Transaction<'_>, standby: &Config) -> Result<u32, Error> {
    tx.batch_execute("SELECT FROM done").await?;
    if tx.attempt() == 1 {
        promote(standby).await;
    }
    tx.batch_execute("INSERT INTO done VALUES (1)").await?;
    Ok(tx.attempt())
}

const NOWHERE: &str = "/nowhere";

/// Connects to the first of two hosts that accepts writes. If none does, the driver returns the error of the last.
fn writable(config: &Config, hosts: [&str; 2]) -> Config {
    let mut writable = Config::new();
    writable.user("postgres").dbname(config.get_dbname().unwrap());
    writable.host(hosts[0]).host(hosts[1]).target_session_attrs(TargetSessionAttrs::ReadWrite);
    writable
}

#[tokio::test]
async fn a_promoted_standby_takes_the_next_transaction() {
    let fixture = Fixture::new(Pair::start().into()).await;
    let mut survivor = connect(&fixture.on_standby).await;
    let Some(Host::Unix(socket)) = fixture.on_standby.get_hosts().first() else { panic!("a socket") };
    let socket = socket.to_string_lossy();
    for hosts in [[&*socket, NOWHERE], [NOWHERE, &*socket]] {
        let error = plain(&pool(&writable(&fixture.on_standby, hosts), 1)).await.unwrap_err();
        assert_eq!(classify(&error), Some(Class::Connection), "{error:?}");
    }

    let writable = pool(&writable(&fixture.on_standby, [&*socket, NOWHERE]), 1);
    let standby_only = pool(&fixture.on_standby, 1);
    let (promoted, written) = tokio::join!(promote_half_way(&standby_only, &fixture.on_standby), patient(&writable));
    assert_eq!(promoted.unwrap(), 2, "the transaction that was open stays read-only");
    assert!(written.unwrap() >= 2);
    assert_eq!(plain(&mut survivor).await.unwrap(), 1);
    assert_eq!(rows(&fixture.on_standby).await, 3);
}

const REPLY_CUT: Fault = Fault { text: "COMMIT", request: usize::MAX, reply: 0, cut: Cut::Close };

/// The identity of a transaction that is committed, but whose reply to COMMIT did not arrive.
macro_rules! commit_unknown {
    ($function:ident, $proxy:expr) => {{
        let mut client = connect($proxy.config()).await;
        $proxy.arm(REPLY_CUT);
        match $function(&mut client).await.unwrap_err() {
            Error::CommitUnknown { identity: Some(identity), .. } => *identity,
            error => panic!("{error:?}"),
        }
    }};
}

#[tokio::test]
async fn a_standby_is_not_asked_for_outcomes() {
    let fixture = Fixture::new(Pair::shared()).await;
    let proxy = Proxy::start(&fixture.on_primary).await.unwrap();
    for committed in 1..=2 {
        let pool = InOrder::to([proxy.config(), &fixture.on_standby, &fixture.on_primary]);
        proxy.arm(REPLY_CUT);
        let attempt = if committed == 1 { resolved(&pool).await } else { by_token(&pool).await };
        assert_eq!(attempt.unwrap(), 1);
        assert_eq!(pool.discarded.load(Ordering::Relaxed), 2, "the closed connection, and the standby's");
        assert_eq!(rows(&fixture.on_primary).await, committed);
    }
}

/// By id, a commit that survived the failover cannot be told from a later one with the same id. By token it can.
#[tokio::test]
async fn a_commit_is_looked_up_on_the_promoted_standby_and_never_guessed() {
    let fixture = Fixture::new(Pair::start().into()).await;
    let proxy = Proxy::start(&fixture.on_primary).await.unwrap();
    let survived: [Identity; 2] = [commit_unknown!(resolved, proxy), commit_unknown!(by_token, proxy)];
    let standby = connect(&fixture.on_standby).await;
    catch_up(&connect(&fixture.on_primary).await, &standby).await;
    cut_off(&standby).await;
    let gone: [Identity; 2] = [commit_unknown!(resolved, proxy), commit_unknown!(by_token, proxy)];
    assert_eq!(rows(&fixture.on_primary).await, 4);
    fixture.pair.primary.stop("immediate").unwrap();
    promote(&fixture.on_standby).await;

    assert_eq!(survived[0].resolve(&standby).await.unwrap(), CommitOutcome::Unknown);
    assert_eq!(gone[0].resolve(&standby).await.unwrap(), CommitOutcome::RolledBack);
    assert_eq!(survived[1].resolve(&standby).await.unwrap(), CommitOutcome::Committed);
    assert_eq!(gone[1].resolve(&standby).await.unwrap(), CommitOutcome::RolledBack);
    while xid(&standby).await < gone[0].xid().unwrap() {}
    assert_eq!(
        gone[0].resolve(&standby).await.unwrap(),
        CommitOutcome::Unknown,
        "the id now belongs to another transaction"
    );
    assert_eq!(rows(&fixture.on_standby).await, 2);
}

/// How many commits wait for a standby.
async fn waiting(observer: &Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    observer.query_one(sql, &[]).await.unwrap().get(0)
}

/// The server replies after the standby has confirmed. To end that wait would commit on this server only.
#[tokio::test]
async fn a_look_up_does_not_end_a_commit_that_waits_for_its_standby() {
    let server = Server::start_with(&["synchronous_commit=on"]).unwrap();
    let mut config = server.config();
    let observer = connect(config.options("-c synchronous_commit=local")).await;
    observer.batch_execute("CREATE TABLE done (attempt int); CREATE TABLE probes ()").await.unwrap();
    observer.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'absent'").await.unwrap();
    observer.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let prober = connect(&server.config()).await;
    let probing = pid(&prober).await;
    let probe = async { while prober.batch_execute("INSERT INTO probes DEFAULT VALUES").await.is_ok() {} };
    tokio::select! {
        () = probe => panic!("the connection is closed"),
        () = wait_until(&observer, "wait_event = 'SyncRep'", probing) => {}
    }

    let proxy = Proxy::start(&server.config()).await.unwrap();
    proxy.arm(REPLY_CUT);
    let error = resolved_soon(&pool(proxy.config(), 2)).await.unwrap_err();
    let Error::CommitUnknown { identity: Some(identity), .. } = error else { panic!("{error:?}") };
    assert_eq!(waiting(&observer).await, 2, "the commit waits, and so does the probe");
    let asked = tokio::time::timeout(Duration::from_millis(500), identity.resolve(&observer)).await;
    assert!(asked.is_err(), "nothing is known yet: {asked:?}");
    assert_eq!(waiting(&observer).await, 2);

    // A transaction whose COMMIT has not arrived does not wait for the standby.
    let mut client = connect(proxy.config()).await;
    proxy.arm(Fault { request: 9, cut: Cut::Silent, ..REPLY_CUT });
    let error = resolved_soon(&mut client).await.unwrap_err();
    let Error::CommitUnknown { identity: Some(left), .. } = error else { panic!("{error:?}") };
    assert_eq!(left.resolve(&observer).await.unwrap(), CommitOutcome::RolledBack);

    observer.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    observer.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    assert_eq!(identity.resolve(&observer).await.unwrap(), CommitOutcome::Committed);
    assert_eq!(rows(&server.config()).await, 1);
}

async fn xid(client: &Client) -> u64 {
    let xid: String = client.query_one("SELECT pg_current_xact_id()::text", &[]).await.unwrap().get(0);
    xid.parse().unwrap()
}
