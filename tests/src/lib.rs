//! Test harness: real PostgreSQL servers, and tools that provoke real conflicts and failures on them.
//!
//! - [`Database`]: an empty database for one test, on a server that the tests of a binary share. Most tests begin with it.
//! - [`Server`]: a throwaway PostgreSQL server, for tests that stop it, crash it or need their own settings.
//! - [`standby`] and [`Server::standby`]: a primary with a hot standby, and failover between them.
//! - `power_cut`: a server whose power can be cut (on Linux).
//! - [`pgbouncer`]: a throwaway `PgBouncer` between client and server.
//! - [`proxy`]: a proxy that cuts, resets or silences connections, delays messages and counts round trips.
//! - [`rival`]: a second session that provokes serialization failures, deadlocks and lock conflicts, and functions that
//!   terminate, kill or wait for a session.
//! - [`calls`]: drops a call after a number of polls, and counts the bodies that run at the same time.
//! - [`dashboard`]: makes `docs/grafana.json` from the table of metrics in the guide.
//! - [`events`]: captures the events that the runtime emits.
//! - [`scripted`]: a server that follows a script, for engines that cannot be installed here. It records what it receives.
//! - [`isolation`]: many transactions on lists under random faults, and a check of the isolation that they had.
//! - [`soak`]: many calls under random faults, each result checked against the database.

// The harness panics to fail the test.
#![allow(clippy::missing_panics_doc)]

pub mod calls;
pub mod dashboard;
pub mod events;
pub mod isolation;
pub mod pgbouncer;
#[cfg(target_os = "linux")]
pub mod power_cut;
pub mod proxy;
pub mod rival;
pub mod scripted;
mod server;
pub mod soak;
pub mod standby;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls};

pub use crate::server::Server;

/// Compiles the examples of the top-level README with the doc tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// No parameters, for methods such as `query_raw` that take an iterator of them.
pub const NO_PARAMS: [&(dyn ToSql + Sync); 0] = [];

/// Tables for tests of faults. Each committed attempt leaves a row in `done`. The server runs the SQL in each row of
/// `at_commit` during `COMMIT`.
pub const FAULT_TABLES: &str = "
    CREATE TABLE done (attempt int);
    CREATE TABLE at_commit (sql text);
    CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN EXECUTE NEW.sql; RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON at_commit DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION at_commit()";

/// A statement that runs until it is interrupted.
pub const SLEEP: &str = "SELECT pg_sleep(60)";

/// Makes the `COMMIT` of its transaction run until it is interrupted. Needs [`FAULT_TABLES`].
pub const SLEEP_IN_COMMIT: &str = "INSERT INTO at_commit VALUES ('SELECT pg_sleep(60)')";

/// Defines functions that insert a row into `done` in each attempt, and run `sql` in the first attempt only. They return
/// the number of the attempt that committed. Options may follow each name.
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

/// A database for one test. It goes with its throwaway server, or is dropped on the server that `DATABASE_URL` names.
#[derive(Debug)]
pub struct Database {
    config: Config,
    /// The server that `DATABASE_URL` names, on which the database has to be dropped.
    external: Option<Config>,
    server: Option<Arc<Server>>,
}

impl Database {
    /// Creates an empty database on the server of this test binary. The first call starts that server.
    ///
    /// # Panics
    /// If there is no server and none can be started. The message says what is missing.
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

    /// Creates an empty database on the caller's server.
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

    /// Connects to it. A background task drives the connection.
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

    /// The single value that a query returns. It runs on a new connection.
    pub async fn value<T: tokio_postgres::types::FromSqlOwned>(&self, sql: &str) -> T {
        self.client().await.query_one(sql, &[]).await.expect(sql).get(0)
    }

    /// Creates the table `accounts (id, cents)`, with ids from 1 to `count`.
    pub async fn accounts(&self, count: i64, cents: i64) {
        self.setup(&format!(
            "CREATE TABLE accounts (id bigint PRIMARY KEY, cents bigint NOT NULL);
             INSERT INTO accounts SELECT id, {cents} FROM generate_series(1, {count}) AS id"
        ))
        .await;
    }

    /// The server's major version, such as 15: some settings are newer than 13.
    pub async fn server_version(&self) -> i32 {
        self.value::<i32>("SELECT current_setting('server_version_num')::int").await / 10_000
    }

    /// The balance of account `id`.
    pub async fn cents(&self, id: i64) -> i64 {
        self.value(&format!("SELECT cents FROM accounts WHERE id = {id}")).await
    }

    /// How many other sessions of this database are inside a transaction.
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
        // In a thread, because the test's own runtime may be shutting down.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { connect(&admin).await.batch_execute(&sql).await.map_err(std::io::Error::other) })
        });
        if !matches!(dropped.join(), Ok(Ok(()))) {
            eprintln!("could not drop the test database {:?}", self.config.get_dbname());
        }
    }
}

/// Connects. A background task drives the connection.
pub async fn connect(config: &Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.expect("cannot connect to PostgreSQL");
    tokio::spawn(connection);
    client
}

/// Connects to a server that may be down or starting, as soon as it accepts connections and replies to a query.
pub async fn reconnect(config: &Config) -> Client {
    loop {
        if let Ok((client, connection)) = config.connect(NoTls).await {
            tokio::spawn(connection);
            if client.simple_query("SELECT 1").await.is_ok() {
                return client;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A pool of at most `size` connections, with deadpool's defaults otherwise.
#[must_use]
pub fn pool(config: &Config, size: usize) -> Pool {
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(config.clone(), NoTls, recycling);
    Pool::builder(manager).max_size(size).build().expect("a pool without timeouts needs no runtime")
}

/// The server that the tests of this process share. It stops after the last of them.
fn shared_server() -> Arc<Server> {
    static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Server::start().unwrap_or_else(|error| panic!("{error}")));
        *shared = Arc::downgrade(&server);
        server
    })
}
