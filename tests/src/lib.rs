//! The harness of the tests: real PostgreSQL servers, and partners that provoke real conflicts on them.

// A harness panics where its test has to fail.
#![allow(clippy::missing_panics_doc)]

pub mod events;
pub mod pgbouncer;
pub mod proxy;
pub mod rival;
mod server;
pub mod soak;
pub mod standby;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use tokio_postgres::{Client, Config, NoTls};

pub use crate::server::Server;

/// Compiles the examples of the top-level README with the doc tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// For tests of faults: `done` counts what was committed, and `at_commit` runs its rows while COMMIT does.
pub const FAULT_TABLES: &str = "
    CREATE TABLE done (attempt int);
    CREATE TABLE at_commit (sql text);
    CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN EXECUTE NEW.sql; RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON at_commit DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION at_commit()";

/// Functions that leave a row behind in `done` in each attempt, and of which the first then runs `sql`. Each name may be
/// followed by options.
#[macro_export]
macro_rules! first_attempt_runs {
    (max_delay = $max_delay:literal; $($name:ident $(, $option:meta)*;)*) => {$(
        #[transactional(base_delay = "250us", max_delay = $max_delay $(, $option)*)]
        async fn $name(tx: &mut Transaction<'_>, sql: &str) -> Result<u32, Error> {
            tx.batch_execute("INSERT INTO done VALUES (1)").await?;
            if tx.attempt() == 1 {
                tx.batch_execute(sql).await?;
            }
            Ok(tx.attempt())
        }
    )*};
}

/// A database of one test's own. Dropped with its server, or by name on the server that `DATABASE_URL` names.
#[derive(Debug)]
pub struct Database {
    config: Config,
    /// Where the database has to be dropped.
    external: Option<Config>,
    server: Option<Arc<Server>>,
}

impl Database {
    /// Makes an empty database on the server of this test binary, which is started for the first one.
    ///
    /// # Panics
    /// Says what is wrong where there is no server, and none can be started.
    pub async fn create() -> Self {
        let (server, admin) = if let Ok(url) = std::env::var("DATABASE_URL") {
            (None, url.parse().expect("DATABASE_URL is not a connection string"))
        } else {
            let server = shared_server();
            let config = server.config();
            (Some(server), config)
        };
        let mut database = Self::create_on(&admin).await;
        database.external = server.is_none().then_some(admin);
        database.server = server;
        database
    }

    /// Makes an empty database on a server of the caller's.
    pub async fn create_on(admin: &Config) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        events::subscribe();
        let name = format!("retry_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let client = connect(admin).await;
        client.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("CREATE DATABASE");
        let mut config = admin.clone();
        config.dbname(&name);
        Self { config, external: None, server: None }
    }

    /// How to connect to it.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A connection to it, driven in the background.
    pub async fn client(&self) -> Client {
        connect(&self.config).await
    }

    /// A pool of at most `size` connections, with deadpool's defaults otherwise.
    #[must_use]
    pub fn pool(&self, size: usize) -> Pool {
        pool(&self.config, size)
    }

    /// Runs statements that prepare the test.
    pub async fn setup(&self, sql: &str) {
        self.client().await.batch_execute(sql).await.expect(sql);
    }

    /// The one value of a query, as an observer sees it.
    pub async fn value<T: tokio_postgres::types::FromSqlOwned>(&self, sql: &str) -> T {
        self.client().await.query_one(sql, &[]).await.expect(sql).get(0)
    }

    /// The table `accounts (id, cents)` with ids from 1 to `count`.
    pub async fn accounts(&self, count: i64, cents: i64) {
        self.setup(&format!(
            "CREATE TABLE accounts (id bigint PRIMARY KEY, cents bigint NOT NULL);
             INSERT INTO accounts SELECT id, {cents} FROM generate_series(1, {count}) AS id"
        ))
        .await;
    }

    /// What account `id` holds.
    pub async fn cents(&self, id: i64) -> i64 {
        self.value(&format!("SELECT cents FROM accounts WHERE id = {id}")).await
    }

    /// How many sessions of this database, the asking one aside, are inside a transaction.
    pub async fn open_transactions(&self) -> i64 {
        self.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
             AND pid <> pg_backend_pid() AND xact_start IS NOT NULL",
        )
        .await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Some(admin) = self.external.take() else { return };
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.config.get_dbname().unwrap_or_default());
        // A thread, as a test's own runtime may be winding down.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { connect(&admin).await.batch_execute(&sql).await.map_err(std::io::Error::other) })
        });
        if !matches!(dropped.join(), Ok(Ok(()))) {
            eprintln!("a test database is left behind: {:?}", self.config.get_dbname());
        }
    }
}

/// A connection driven in the background.
pub async fn connect(config: &Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.expect("cannot connect to PostgreSQL");
    tokio::spawn(connection);
    client
}

/// A pool of at most `size` connections, with deadpool's defaults otherwise.
#[must_use]
pub fn pool(config: &Config, size: usize) -> Pool {
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(config.clone(), NoTls, recycling);
    Pool::builder(manager).max_size(size).build().expect("a pool without timeouts needs no runtime")
}

/// The server that the tests of this process share. It stops when none of them is left.
fn shared_server() -> Arc<Server> {
    static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Server::start().unwrap_or_else(|error| panic!("{error}")));
        *shared = Arc::downgrade(&server);
        server
    })
}
