//! Connection sources: deadpool, bb8, a custom pool, a client and a pooled connection, and how each can fail.
#![allow(missing_docs)]

use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bb8_postgres::PostgresConnectionManager;
use deadpool_postgres::{Manager, PoolError as DeadpoolError, Runtime};
use retry_runtime::{BoxFuture, Class, Error, Pool, PoolError, Session, Transaction, classify, transactional};
use retry_tests::events::Events;
use retry_tests::rival::{pid, terminate};
use retry_tests::{Database, connect};
use tokio::sync::Notify;
use tokio_postgres::{Client, Config, NoTls};

#[transactional(base_delay = "1ms", max_delay = "2ms")]
async fn backend(tx: &mut Transaction<'_>) -> Result<i32, Error> {
    Ok(pid(tx).await)
}

#[transactional(base_delay = "1ms", max_delay = "2ms")]
async fn cut_once(tx: &mut Transaction<'_>, observer: &Client) -> Result<(i32, u32), Error> {
    let own = pid(tx).await;
    if tx.attempt() == 1 {
        terminate(observer, own).await;
    }
    tx.execute("SELECT 1", &[]).await?;
    Ok((own, tx.attempt()))
}

fn bb8(db: &Database) -> bb8::Pool<PostgresConnectionManager<NoTls>> {
    let manager = PostgresConnectionManager::new(db.config().clone(), NoTls);
    bb8::Pool::builder()
        .max_size(1)
        // Connections are lent again untested, so a closed one that was given back would show.
        .test_on_check_out(false)
        .connection_timeout(Duration::from_millis(300))
        .build_unchecked(manager)
}

#[tokio::test]
async fn a_closed_connection_is_never_given_back() {
    let db = Database::create().await;
    let observer = db.client().await;
    for _ in 0..20 {
        let deadpool = db.pool(1);
        let bb8 = bb8(&db);
        let first = backend(&deadpool).await.unwrap();
        let (second, attempts) = cut_once(&deadpool, &observer).await.unwrap();
        assert_eq!(attempts, 2);
        assert_ne!(first, second);
        assert_eq!(backend(&deadpool).await.unwrap(), second, "a good connection is kept");
        let first = backend(&bb8).await.unwrap();
        let (second, attempts) = cut_once(&bb8, &observer).await.unwrap();
        assert_eq!(attempts, 2);
        assert_ne!(first, second);
        assert_eq!(backend(&bb8).await.unwrap(), second, "a good connection is kept");
    }
}

#[transactional(retries = 0)]
async fn no_retries(tx: &mut Transaction<'_>) -> Result<i32, Error> {
    Ok(pid(tx).await)
}

/// Lends connections that have closed, as a pool does after the server restarted. After these it opens new ones.
struct ClosedFirst {
    closed: std::sync::Mutex<Vec<Client>>,
    open: Connect,
}

impl Pool for ClosedFirst {
    fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, PoolError>> {
        match self.closed.lock().unwrap().pop() {
            Some(client) => {
                let (given_back, discarded) = (self.open.given_back.clone(), self.open.discarded.clone());
                Box::pin(async { Ok(Box::new(Connected { client, given_back, discarded }) as Box<dyn Session>) })
            }
            None => self.open.get(),
        }
    }
}

#[tokio::test]
async fn connections_that_closed_in_the_pool_cost_no_retry() {
    let db = Database::create().await;
    let observer = db.client().await;
    let mut closed = Vec::new();
    for _ in 0..5 {
        let client = db.client().await;
        terminate(&observer, pid(&client).await).await;
        while !client.is_closed() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        closed.push(client);
    }
    let open = Connect { config: db.config().clone(), given_back: <_>::default(), discarded: <_>::default() };
    let pool = ClosedFirst { closed: closed.into(), open };
    no_retries(&pool).await.unwrap();
    assert_eq!(pool.open.discarded.load(Ordering::Relaxed), 5);
}

#[tokio::test]
async fn a_closed_pool_is_not_retried() {
    let db = Database::create().await;
    let pool = db.pool(1);
    pool.close();
    let events = Events::capture();
    let error = backend(&pool).await.unwrap_err();
    let Error::Pool(pool_error) = &error else { panic!("{error:?}") };
    assert!(matches!(pool_error.get_ref().downcast_ref(), Some(DeadpoolError::Closed)));
    assert_eq!(classify(&error), Some(Class::Fatal));
    assert_eq!(events.all().len(), 0, "no retry: {events:?}");
}

#[tokio::test]
async fn an_exhausted_pool_is_retried_and_then_an_error() {
    let db = Database::create().await;
    let pool = deadpool_postgres::Pool::builder(Manager::new(db.config().clone(), NoTls))
        .max_size(1)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(Duration::from_millis(20)))
        .build()
        .unwrap();
    let held = pool.get().await.unwrap();
    let events = Events::capture();
    let error = backend(&pool).await.unwrap_err();
    assert!(matches!(error, Error::Pool(_)), "{error:?}");
    assert_eq!(classify(&error), Some(Class::Capacity));
    assert_eq!(events.of("retrying").len(), 2);
    assert_eq!(events.of("giving up")[0]["class"], "capacity");
    let release = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        drop(held);
    };
    let (called, ()) = tokio::join!(backend(&pool), release);
    called.unwrap();

    let pool = bb8(&db);
    let _held = pool.get().await.unwrap();
    let error = backend(&pool).await.unwrap_err();
    assert_eq!(classify(&error), Some(Class::Capacity));
}

#[tokio::test]
async fn a_server_that_does_not_listen_is_retried_and_then_an_error() {
    let db = Database::create().await;
    let mut nowhere = Config::new();
    nowhere.host("127.0.0.1").port(1).user("postgres").connect_timeout(Duration::from_secs(1));
    let events = Events::capture();
    let error = backend(&retry_tests::pool(&nowhere, 1)).await.unwrap_err();
    let Error::Pool(source) = &error else { panic!("{error:?}") };
    assert!(source.get_ref().is::<tokio_postgres::Error>(), "{source:?}");
    assert!(source.source().unwrap().source().unwrap().is::<std::io::Error>(), "{source:?}");
    assert_eq!(classify(&error), Some(Class::Connection));
    assert_eq!(events.of("retrying").len(), 2);
    drop(db);
}

#[tokio::test]
async fn a_refused_login_is_not_retried() {
    let db = Database::create().await;
    let mut no_user = db.config().clone();
    no_user.user("no_such_user");
    let mut no_database = db.config().clone();
    no_database.dbname("no_such_database");
    for (config, code) in [(no_user, "28000"), (no_database, "3D000")] {
        let events = Events::capture();
        let error = backend(&retry_tests::pool(&config, 1)).await.unwrap_err();
        assert!(matches!(error, Error::Pool(_)), "{error:?}");
        assert_eq!(error.as_db_error().unwrap().code().code(), code);
        assert_eq!(classify(&error), Some(Class::Fatal));
        assert_eq!(events.all().len(), 0, "no retry: {events:?}");
    }
}

/// A pool that opens a connection for every attempt. It counts those given back and those discarded.
struct Connect {
    config: Config,
    given_back: std::sync::Arc<AtomicUsize>,
    discarded: std::sync::Arc<AtomicUsize>,
}

struct Connected {
    client: Client,
    given_back: std::sync::Arc<AtomicUsize>,
    discarded: std::sync::Arc<AtomicUsize>,
}

impl Pool for Connect {
    fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, PoolError>> {
        Box::pin(async {
            let client = connect(&self.config).await;
            let (given_back, discarded) = (self.given_back.clone(), self.discarded.clone());
            Ok(Box::new(Connected { client, given_back, discarded }) as Box<dyn Session>)
        })
    }
}

impl Session for Connected {
    fn client(&self) -> &Client {
        &self.client
    }

    fn discard(self: Box<Self>) {
        self.given_back.fetch_sub(1, Ordering::Relaxed);
        self.discarded.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.given_back.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_custom_pool_works_by_value_and_behind_pointers() {
    let db = Database::create().await;
    let observer = db.client().await;
    let pool = Connect { config: db.config().clone(), given_back: <_>::default(), discarded: <_>::default() };
    cut_once(&pool, &observer).await.unwrap();
    assert_eq!(pool.given_back.load(Ordering::Relaxed), 1);
    assert_eq!(pool.discarded.load(Ordering::Relaxed), 1);
    let shared: std::sync::Arc<dyn Pool> = std::sync::Arc::new(pool);
    cut_once(&shared, &observer).await.unwrap();
    let borrowed: &dyn Pool = &shared;
    cut_once(&borrowed, &observer).await.unwrap();
}

struct Slow(Duration);

impl Pool for Slow {
    fn get(&self) -> BoxFuture<'_, Result<Box<dyn Session>, PoolError>> {
        Box::pin(async {
            let never = std::future::pending::<Box<dyn Session>>();
            tokio::time::timeout(self.0, never).await.map_err(PoolError::timeout)
        })
    }
}

#[tokio::test]
async fn a_timeout_of_a_custom_pool_has_the_class_capacity() {
    let error = backend(&Slow(Duration::from_millis(1))).await.unwrap_err();
    assert_eq!(classify(&error), Some(Class::Capacity));
}

#[transactional]
async fn cached(tx: &mut Transaction<'_>) -> Result<(usize, u32), Error> {
    let statement = tx.prepare_cached("SELECT * FROM things").await?;
    let columns = tx.query_one(&statement, &[]).await?.len();
    Ok((columns, tx.attempt()))
}

#[tokio::test]
async fn a_stale_plan_is_prepared_anew_and_retried_without_delay() {
    let db = Database::create().await;
    db.setup("CREATE TABLE things (a int); INSERT INTO things VALUES (1)").await;
    let pool = db.pool(2);
    // Two sessions, each with a cached statement that becomes stale.
    let (one, two) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    for session in [&one, &two] {
        let statement = session.prepare_cached("SELECT * FROM things").await.unwrap();
        session.query_one(&statement, &[]).await.unwrap();
    }
    drop((one, two));
    assert_eq!(cached(&pool).await.unwrap(), (1, 1));
    db.setup("ALTER TABLE things ADD COLUMN b int").await;
    let events = Events::capture();
    assert_eq!(cached(&pool).await.unwrap(), (2, 2));
    assert_eq!(cached(&pool).await.unwrap(), (2, 2), "the other session");
    assert_eq!(cached(&pool).await.unwrap(), (2, 1));
    let retries = events.of("retrying");
    assert_eq!((retries.len(), retries[0]["class"].as_str(), retries[0]["delay_us"].as_str()), (2, "stale_plan", "0"));
}

#[transactional]
async fn always_stale(
    tx: &mut Transaction<'_>,
    statement: &tokio_postgres::Statement,
    attempts: &AtomicUsize,
) -> Result<(), Error> {
    attempts.fetch_add(1, Ordering::Relaxed);
    tx.query(statement, &[]).await?;
    Ok(())
}

#[tokio::test]
async fn a_plan_that_stays_stale_is_retried_once() {
    let db = Database::create().await;
    db.setup("CREATE TABLE things (a int)").await;
    let mut client = db.client().await;
    let statement = client.prepare("SELECT * FROM things").await.unwrap();
    db.setup("ALTER TABLE things ADD COLUMN b int").await;
    let attempts = AtomicUsize::new(0);
    let error = always_stale(&mut client, &statement, &attempts).await.unwrap_err();
    assert_eq!(classify(&error), Some(Class::StalePlan));
    assert_eq!(attempts.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn calls_can_be_spawned() {
    let db = Database::create().await;
    db.accounts(1, 0).await;
    let pool = db.pool(4);
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { add(&pool, "1".to_owned()).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(db.cents(1).await, 8);
}

#[transactional(isolation = "serializable", deadlock_retries = 50)]
async fn add(tx: &mut Transaction<'_>, cents: String) -> Result<(), Error> {
    let cents: i64 = cents.parse().unwrap();
    tx.execute("UPDATE accounts SET cents = cents + $1 WHERE id = 1", &[&cents]).await?;
    Ok(())
}

#[transactional]
async fn stall(tx: &mut Transaction<'_>, stalled: &Notify) -> Result<(), Error> {
    tx.batch_execute("INSERT INTO things VALUES (2)").await?;
    stalled.notify_one();
    std::future::pending().await
}

/// A pooled connection that the caller holds is neither given back nor discarded, and is left outside any transaction.
macro_rules! check_connection {
    ($db:ident, $connection:expr) => {{
        let (observer, events) = ($db.client().await, Events::capture());
        let mut connection = $connection;
        let own = backend(&mut connection).await.unwrap();
        let stalled = Notify::new();
        tokio::select! {
            _ = stall(&mut connection, &stalled) => unreachable!("it stalls"),
            () = stalled.notified() => {}
        }
        let outside = "SELECT pg_current_xact_id_if_assigned() IS NULL AND NOT EXISTS (SELECT FROM things WHERE a = 2)";
        assert!(connection.query_one(outside, &[]).await.unwrap().get::<_, bool>(0));
        assert_eq!(backend(&mut connection).await.unwrap(), own);
        assert_eq!(events.all().len(), 0, "{events:?}");

        let error = cut_once(&mut connection, &observer).await.unwrap_err();
        assert_eq!(classify(&error), Some(Class::Connection), "{error:?}");
        assert_eq!(events.of("retrying").len(), 0, "{events:?}");
        assert_eq!(events.of("giving up").len(), 1, "{events:?}");
    }};
}

#[tokio::test]
async fn a_pooled_connection_that_the_caller_holds_is_a_source() {
    let db = Database::create().await;
    db.setup("CREATE TABLE things (a int)").await;
    check_connection!(db, db.pool(1).get().await.unwrap());
    let pool = bb8(&db);
    check_connection!(db, pool.get().await.unwrap());
    check_connection!(db, pool.get_owned().await.unwrap());
}

#[tokio::test]
async fn a_pooled_connection_that_the_caller_holds_keeps_its_statement_cache() {
    let db = Database::create().await;
    db.setup("CREATE TABLE things (a int); INSERT INTO things VALUES (1)").await;
    let pool = db.pool(1);
    let mut connection = pool.get().await.unwrap();
    for _ in 0..3 {
        assert_eq!(cached(&mut connection).await.unwrap(), (1, 1));
    }
    let prepared = "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT * FROM things'";
    assert_eq!(connection.query_one(prepared, &[]).await.unwrap().get::<_, i64>(0), 1);
    assert_eq!(connection.statement_cache.size(), 1);
    db.setup("ALTER TABLE things ADD COLUMN b int").await;
    assert_eq!(cached(&mut connection).await.unwrap(), (2, 2), "prepared anew");
    drop(connection);
    assert_eq!(cached(&pool).await.unwrap(), (2, 1), "the pool's next borrower has it too");
}

#[tokio::test]
async fn a_boxed_pool_is_a_pool() {
    let db = Database::create().await;
    let boxed: Box<dyn Pool> = Box::new(db.pool(1));
    let shared: std::sync::Arc<dyn Pool> = std::sync::Arc::new(db.pool(1));
    backend(&boxed).await.unwrap();
    backend(&shared).await.unwrap();
}
