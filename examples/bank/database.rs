//! The demo's database: its own schema, on a throwaway server or on a running one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use deadpool_postgres::Pool;
use retry_tests::Server;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_postgres::{Client, Config, NoTls};

/// The initial balance of each account, in cents.
const BALANCE: i64 = 100_000;

/// The demo's schema, whose tables it prepares and checks.
pub(crate) struct Database {
    config: Config,
    schema: String,
    /// `None` on a server that was already running. Stopped and removed when dropped.
    server: Option<Arc<Throwaway>>,
}

struct Throwaway {
    server: Server,
    max_connections: String,
}

impl Throwaway {
    fn start(workers: usize) -> anyhow::Result<Self> {
        // Those of a pool that is going to be closed, those of the next one, and some more.
        let max_connections = format!("max_connections={}", 2 * workers + 10);
        Ok(Self { server: Server::start_with(&[&max_connections])?, max_connections })
    }

    /// Stops the server as if it had crashed.
    fn stop(&self) -> anyhow::Result<()> {
        Ok(self.server.stop("immediate")?)
    }

    fn start_again(&self) -> anyhow::Result<()> {
        Ok(self.server.start_again(&[&self.max_connections])?)
    }
}

impl Database {
    /// Creates the schema. Without a `url` it first starts a server with a connection for each of `workers`.
    pub(crate) async fn open(url: Option<&str>, workers: usize) -> anyhow::Result<Self> {
        let (server, mut config) = if let Some(url) = url {
            (None, url.parse().context("the database URL is not a valid connection string")?)
        } else {
            let throwaway = spawn_blocking(move || Throwaway::start(workers)).await??;
            let config = throwaway.server.config();
            (Some(Arc::new(throwaway)), config)
        };
        let schema = format!("retry_demo_{}", std::process::id());
        let options = config.get_options().map(|options| format!("{options} ")).unwrap_or_default();
        config.options(format!("{options}-csearch_path={schema}"));
        let database = Self { config, schema, server };
        let create = format!("CREATE SCHEMA {}", database.schema);
        database.connect().await?.batch_execute(&create).await.context("cannot create a schema")?;
        Ok(database)
    }

    /// A new connection: an outage closes all others.
    async fn connect(&self) -> anyhow::Result<Client> {
        let (client, connection) = self.config.connect(NoTls).await.context("cannot connect to PostgreSQL")?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Whether the server may be stopped.
    pub(crate) fn is_throwaway(&self) -> bool {
        self.server.is_some()
    }

    /// Creates the table for the tokens of commits.
    pub(crate) async fn install(&self) -> anyhow::Result<()> {
        Ok(retry_runtime::install(&self.connect().await?).await?)
    }

    /// Stops the server after some time, and starts it again. Nothing happens if it is not a throwaway server.
    pub(crate) fn outage(&self, after: Duration, away: Duration) -> impl Future<Output = anyhow::Result<()>> + use<> {
        let server = self.server.clone();
        async move {
            let Some(server) = server else { return Ok(()) };
            sleep(after).await;
            let stopping = server.clone();
            spawn_blocking(move || stopping.stop()).await??;
            sleep(away).await;
            spawn_blocking(move || server.start_again()).await?
        }
    }

    /// One line: the server's version, and after how long it looks for a deadlock.
    pub(crate) async fn describe(&self) -> anyhow::Result<String> {
        let show = "SELECT current_setting('server_version'), current_setting('deadlock_timeout')";
        let row = self.connect().await?.query_one(show, &[]).await?;
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
        open_pool(&self.config, size).await
    }

    /// A pool whose reported commits survive an outage.
    pub(crate) async fn durable_pool(&self, size: usize) -> anyhow::Result<Pool> {
        let mut config = self.config.clone();
        let options = config.get_options().unwrap_or_default();
        config.options(format!("{options} -csynchronous_commit=on"));
        open_pool(&config, size).await
    }

    /// Creates the tables anew.
    pub(crate) async fn reset(&self, accounts: i64) -> anyhow::Result<()> {
        // The ledger has no unique key, so that it would show a call that was applied twice.
        self.connect()
            .await?
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
        Ok(self.connect().await?.query_one(&sql, &[]).await?.get(0))
    }

    /// The number of ledger rows for each call.
    pub(crate) async fn ledger(&self) -> anyhow::Result<HashMap<i64, i64>> {
        let rows = self.connect().await?.query("SELECT call, count(*) FROM ledger GROUP BY call", &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Drops the schema; a throwaway server is removed with everything in it.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        if self.server.is_none() {
            let drop = format!("DROP SCHEMA {} CASCADE", self.schema);
            self.connect()
                .await?
                .batch_execute(&drop)
                .await
                .with_context(|| format!("cannot drop the schema {}", self.schema))?;
        }
        Ok(())
    }
}

async fn open_pool(config: &Config, size: usize) -> anyhow::Result<Pool> {
    let pool = retry_tests::pool(config, size);
    let mut connections = Vec::with_capacity(size);
    for _ in 0..size {
        connections.push(pool.get().await.context("the server does not have a connection for every worker")?);
    }
    Ok(pool)
}
