//! The demo's database: its own schema, on a throwaway server or on a running one.

use std::collections::HashMap;

use anyhow::Context;
use deadpool_postgres::Pool;
use retry_tests::Server;
use tokio_postgres::{Client, Config, NoTls};

/// The initial balance of each account, in cents.
const BALANCE: i64 = 100_000;

/// The demo's schema, and a connection that prepares and checks its tables.
pub(crate) struct Database {
    config: Config,
    schema: String,
    observer: Client,
    /// `None` on a server that was already running. Stopped and removed when dropped.
    server: Option<Server>,
}

impl Database {
    /// Creates the schema. Without a `url` it first starts a server with a connection for each of `workers`.
    pub(crate) async fn open(url: Option<&str>, workers: usize) -> anyhow::Result<Self> {
        let (server, mut config) = if let Some(url) = url {
            (None, url.parse().context("the database URL is not a valid connection string")?)
        } else {
            let room = format!("max_connections={}", workers + 10);
            let server = tokio::task::spawn_blocking(move || Server::start_with(&[&room])).await??;
            let config = server.config();
            (Some(server), config)
        };
        let schema = format!("retry_demo_{}", std::process::id());
        let options = config.get_options().map(|options| format!("{options} ")).unwrap_or_default();
        config.options(format!("{options}-csearch_path={schema}"));
        let (observer, connection) = config.connect(NoTls).await.context("cannot connect to PostgreSQL")?;
        tokio::spawn(connection);
        observer.batch_execute(&format!("CREATE SCHEMA {schema}")).await.context("cannot create a schema")?;
        Ok(Self { config, schema, observer, server })
    }

    /// One line: the server's version, and after how long it looks for a deadlock.
    pub(crate) async fn describe(&self) -> anyhow::Result<String> {
        let show = "SELECT current_setting('server_version'), current_setting('deadlock_timeout')";
        let row = self.observer.query_one(show, &[]).await?;
        let (version, deadlock_timeout): (String, String) = (row.get(0), row.get(1));
        let version = version.split(' ').next().unwrap_or_default();
        Ok(match self.server {
            Some(_) => {
                format!("PostgreSQL {version}, throwaway: fsync off, deadlock_timeout {deadlock_timeout} (default 1s).")
            }
            None => format!("PostgreSQL {version}, schema {}: deadlock_timeout {deadlock_timeout}.", self.schema),
        })
    }

    /// A pool of `size` connections. They are opened here, so that the first calls take no longer than the others.
    pub(crate) async fn pool(&self, size: usize) -> anyhow::Result<Pool> {
        let pool = retry_tests::pool(&self.config, size);
        let mut connections = Vec::with_capacity(size);
        for _ in 0..size {
            connections.push(pool.get().await.context("the server does not have a connection for every worker")?);
        }
        Ok(pool)
    }

    /// Creates the tables anew.
    pub(crate) async fn reset(&self, accounts: i64) -> anyhow::Result<()> {
        // The ledger has no unique key, so that it would show a call that was applied twice.
        self.observer
            .batch_execute(&format!(
                "DROP TABLE IF EXISTS accounts, ledger;
                 CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL);
                 CREATE TABLE ledger (call bigint, payer bigint, payee bigint, cents bigint);
                 INSERT INTO accounts SELECT id, {BALANCE} FROM generate_series(1, {accounts}) AS id"
            ))
            .await?;
        Ok(())
    }

    /// The total of all balances, less the initial total, in cents.
    pub(crate) async fn surplus(&self) -> anyhow::Result<i64> {
        let sql = format!("SELECT sum(balance - {BALANCE})::bigint FROM accounts");
        Ok(self.observer.query_one(&sql, &[]).await?.get(0))
    }

    /// The number of ledger rows for each call.
    pub(crate) async fn ledger(&self) -> anyhow::Result<HashMap<i64, i64>> {
        let rows = self.observer.query("SELECT call, count(*) FROM ledger GROUP BY call", &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Drops the schema; a throwaway server is removed with everything in it.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        if self.server.is_none() {
            let drop = format!("DROP SCHEMA {} CASCADE", self.schema);
            self.observer
                .batch_execute(&drop)
                .await
                .with_context(|| format!("cannot drop the schema {}", self.schema))?;
        }
        Ok(())
    }
}
