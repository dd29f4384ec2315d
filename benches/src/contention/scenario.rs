//! The workload: transfers between a few rows of a table.

use std::fmt;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use rand::RngExt;
use tokio_postgres::{Client, Config, NoTls};

/// The rows of the table.
const ROWS: i32 = 10_000;
/// The initial balance of each row.
const BALANCE: i64 = 1_000;

/// The isolation level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Isolation {
    /// Rows in sorted order: conflicts are serialization failures
    Serializable,
    /// Rows in sorted order: conflicts are serialization failures
    RepeatableRead,
    /// SELECT ... FOR UPDATE in random order: conflicts are deadlocks
    ReadCommitted,
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Serializable => "serializable",
            Self::RepeatableRead => "repeatable read",
            Self::ReadCommitted => "read committed",
        })
    }
}

/// How many callers contend for how many rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) isolation: Isolation,
    /// How many rows the transfers use.
    pub(crate) keys: i32,
    /// How many connections there are, and in a closed loop callers.
    pub(crate) callers: usize,
}

/// A transfer of one unit of money from one row to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    pub(crate) from: i32,
    pub(crate) to: i32,
}

impl Scenario {
    /// The statement that reads a row.
    pub(crate) fn select(&self) -> &'static str {
        match self.isolation {
            Isolation::ReadCommitted => "SELECT balance FROM accounts WHERE id = $1 FOR UPDATE",
            _ => "SELECT balance FROM accounts WHERE id = $1",
        }
    }

    /// The statement that writes a row.
    pub(crate) const UPDATE: &str =
        "UPDATE accounts SET balance = balance + $2, transfers = transfers + 1 WHERE id = $1";

    /// A transfer between two random rows of those in use, which are spread over the table.
    pub(crate) fn transfer(&self) -> Transfer {
        let mut rng = rand::rng();
        let a = rng.random_range(0..self.keys);
        let b = (a + rng.random_range(1..self.keys)) % self.keys;
        let row = |key| key * (ROWS / self.keys) + 1;
        match self.isolation {
            Isolation::ReadCommitted => Transfer { from: row(a), to: row(b) },
            _ => Transfer { from: row(a.min(b)), to: row(a.max(b)) },
        }
    }

    /// Creates and fills the table.
    pub(crate) async fn reset(admin: &Client) -> anyhow::Result<()> {
        let fill = format!(
            "DROP TABLE IF EXISTS accounts;
             CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL, transfers bigint NOT NULL)
                 WITH (fillfactor = 50);
             INSERT INTO accounts SELECT id, {BALANCE}, 0 FROM generate_series(1, {ROWS}) AS id"
        );
        admin.batch_execute(&fill).await?;
        admin.batch_execute("VACUUM ANALYZE accounts").await.context("VACUUM")
    }

    /// Fails unless the table agrees with what the callers were told: the same money, and as many commits.
    pub(crate) async fn verify(admin: &Client, commits: u64) -> anyhow::Result<()> {
        let sums = "SELECT sum(balance)::bigint, sum(transfers)::bigint FROM accounts";
        let row = admin.query_one(sums, &[]).await?;
        let (balance, transfers): (i64, i64) = (row.get(0), row.get(1));
        ensure!(balance == BALANCE * i64::from(ROWS), "the sum of the balances is now {balance}");
        ensure!(
            u64::try_from(transfers)? == 2 * commits,
            "{commits} commits reported, but the table counts {transfers} / 2"
        );
        Ok(())
    }

    /// A pool with all its connections open and their statements prepared. The isolation level is the sessions'
    /// default, so no strategy has to ask for it.
    pub(crate) async fn pool(&self, mut config: Config) -> anyhow::Result<Pool> {
        let isolation = self.isolation.to_string().replace(' ', "\\ ");
        config.options(format!("-c default_transaction_isolation={isolation}"));
        let manager = Manager::from_config(config, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager).max_size(self.callers).build()?;
        let mut clients = Vec::new();
        for _ in 0..self.callers {
            let client = pool.get().await?;
            client.prepare_cached(self.select()).await?;
            client.prepare_cached(Self::UPDATE).await?;
            clients.push(client);
        }
        Ok(pool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfers(isolation: Isolation, keys: i32) -> Vec<Transfer> {
        let scenario = Scenario { isolation, keys, callers: 1 };
        (0..10_000).map(|_| scenario.transfer()).collect()
    }

    #[test]
    fn transfers_are_between_two_rows_in_use() {
        for transfer in transfers(Isolation::ReadCommitted, 10) {
            assert_ne!(transfer.from, transfer.to);
            for row in [transfer.from, transfer.to] {
                assert!((1..=ROWS).contains(&row) && row % (ROWS / 10) == 1, "{row}");
            }
        }
    }

    #[test]
    fn only_read_committed_takes_them_in_any_order() {
        let is_sorted = |transfer: &Transfer| transfer.from < transfer.to;
        assert!(transfers(Isolation::Serializable, 2).iter().all(is_sorted));
        let sorted = transfers(Isolation::ReadCommitted, 2).iter().filter(|transfer| is_sorted(transfer)).count();
        assert!((4_000..6_000).contains(&sorted), "{sorted}");
    }
}
