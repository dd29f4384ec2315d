//! A server with a bottleneck of known capacity.
//!
//! Each transaction takes one of a few locks and sleeps while it holds it: a stand-in for a disk with a queue. So the
//! capacity hardly depends on the processors, which client and server share with other programs, and one UPDATE changes
//! it. As in a real server, work goes on if its caller has gone, unless the server knows the deadline.

use std::time::{Duration, Instant};

use anyhow::Context;
use deadpool_postgres::Pool;
use retry_tests::{Server, connect};
use tokio_postgres::{Client, Statement};

/// How many transactions are served at the same time, and how long each takes.
const LANES: i32 = 4;
const SERVICE: Duration = Duration::from_millis(40);

/// Connections that the server accepts: those of the pool, and as many that a call has left in the middle of a statement.
const MAX_CONNECTIONS: usize = 600;

/// What a transaction does, as one statement: it goes on if the client has gone.
pub(crate) const WORK: &str = "SELECT work()";

/// `work` reads the duration once it has the lock.
const SCHEMA: &str = "
    CREATE TABLE service (seconds float8 NOT NULL);
    CREATE FUNCTION work() RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock(floor(random() * {lanes})::int);
        PERFORM pg_sleep(seconds) FROM service;
    END $$;
    INSERT INTO service VALUES ({seconds})";

pub(crate) struct Bottleneck {
    server: Server,
    admin: Client,
}

impl Bottleneck {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let connections = format!("max_connections={MAX_CONNECTIONS}");
        let server = Server::start_with(&[&connections, "autovacuum=off", "log_min_messages=fatal"])?;
        let admin = connect(&server.config()).await;
        let schema = SCHEMA.replace("{lanes}", &LANES.to_string());
        admin.batch_execute(&schema.replace("{seconds}", &SERVICE.as_secs_f64().to_string())).await?;
        Ok(Self { server, admin })
    }

    /// Transactions per second, if more callers than can be served make one after the other.
    pub(crate) async fn measure(&self) -> anyhow::Result<f64> {
        const CALLERS: usize = 32;
        let pool = self.pool(CALLERS).await?;
        let (start, length) = (Instant::now(), Duration::from_secs(2));
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    let mut done = 0;
                    while start.elapsed() < length {
                        pool.get().await?.batch_execute(WORK).await?;
                        done += 1;
                    }
                    anyhow::Ok(done)
                })
            })
            .collect();
        let mut done = 0;
        for caller in callers {
            done += caller.await??;
        }
        Ok(f64::from(done) / start.elapsed().as_secs_f64())
    }

    /// A pool whose connections are open.
    pub(crate) async fn pool(&self, size: usize) -> anyhow::Result<Pool> {
        let pool = retry_tests::pool(&self.server.config(), size);
        let mut connections = Vec::with_capacity(size);
        for _ in 0..size {
            connections.push(pool.get().await.context("cannot connect")?);
        }
        Ok(pool)
    }

    /// Makes every transaction take so many times as long.
    pub(crate) async fn slow_down(&self, factor: f64) -> anyhow::Result<()> {
        let set: Statement = self.admin.prepare("UPDATE service SET seconds = $1").await?;
        self.admin.execute(&set, &[&(SERVICE.as_secs_f64() * factor)]).await?;
        Ok(())
    }

    /// Ends what earlier runs have left on the server.
    pub(crate) async fn clear(&self) -> anyhow::Result<()> {
        const END: &str = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
            WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        self.admin.execute(END, &[]).await?;
        self.slow_down(1.0).await
    }
}
