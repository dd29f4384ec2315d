//! Hot standbys of throwaway servers: replication, lag and failover.

use std::io;
use std::time::Duration;

use tokio_postgres::{Client, Config};

use crate::connect;
use crate::server::{Server, command, run};

impl Server {
    /// Creates a hot standby of this server, and returns once it accepts connections.
    pub fn standby(&self, settings: &[&str]) -> io::Result<Self> {
        let primary = format!("host={} user=postgres", self.dir().display());
        Self::make(settings, |bin, data| {
            let args = ["--checkpoint=fast", "--no-sync", "--write-recovery-conf", "-d", &primary, "-D"];
            run(command(bin.join("pg_basebackup")).args(args).arg(data))
        })
    }
}

/// Waits until the standby has replayed everything that the primary has written so far.
pub async fn catch_up(primary: &Client, standby: &Client) {
    let written: String = value(primary, "SELECT pg_current_wal_insert_lsn()::text").await;
    wait_for(standby, &format!("SELECT pg_last_wal_replay_lsn() >= '{written}'")).await;
}

/// Stops replication: what the primary commits from now on does not reach the standby.
pub async fn cut_off(standby: &Client) {
    standby.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").await.expect("ALTER SYSTEM");
    standby.batch_execute("SELECT pg_reload_conf()").await.expect("pg_reload_conf");
    wait_for(standby, "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)").await;
}

/// Promotes the standby, and returns once it is a primary.
pub async fn promote(standby: &Config) {
    let promoted: bool = value(&connect(standby).await, "SELECT pg_promote()").await;
    assert!(promoted, "the standby was not promoted within a minute");
}

async fn value<T: tokio_postgres::types::FromSqlOwned>(client: &Client, sql: &str) -> T {
    client.query_one(sql, &[]).await.expect(sql).get(0)
}

async fn wait_for(client: &Client, sql: &str) {
    while !value::<bool>(client, sql).await {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
