//! One session of a variant, and the table that it works on.

use std::pin::Pin;

use anyhow::ensure;
use retry_runtime::INSTALL_SQL;
use tokio_postgres::{Client, Statement};

/// The rows of each session. No other session uses them.
pub(crate) const ROWS: i32 = 1_000;
/// The maximum number of sessions.
pub(crate) const SESSIONS: usize = 12;

pub(crate) const SELECT: &str = "SELECT n FROM counters WHERE id = $1";
pub(crate) const UPDATE: &str = "UPDATE counters SET n = $2 WHERE id = $1";

/// A transaction of a session. The box costs little compared with a round trip, and the same for all variants.
pub(crate) type Transaction<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send + 'a>>;

/// Makes transactions, one at a time.
pub(crate) trait Session: Send {
    /// Adds one to a counter: BEGIN, SELECT, UPDATE, COMMIT.
    fn increment(&mut self, id: i32) -> Transaction<'_>;
}

/// Both statements, prepared on one connection.
#[derive(Debug)]
pub(crate) struct Statements {
    pub(crate) select: Statement,
    pub(crate) update: Statement,
}

impl Statements {
    pub(crate) async fn prepare(client: &Client) -> Result<Self, tokio_postgres::Error> {
        Ok(Self { select: client.prepare(SELECT).await?, update: client.prepare(UPDATE).await? })
    }
}

/// Creates and fills the table, and creates the table for `unknown_commit = "token"`.
pub(crate) async fn reset(admin: &Client) -> anyhow::Result<()> {
    let rows = ROWS * i32::try_from(SESSIONS)?;
    let fill = format!(
        "DROP TABLE IF EXISTS counters, transactional.commits;
         CREATE TABLE counters (id int PRIMARY KEY, n bigint NOT NULL) WITH (fillfactor = 50);
         INSERT INTO counters SELECT id, 0 FROM generate_series(1, {rows}) AS id;
         {INSTALL_SQL}"
    );
    admin.batch_execute(&fill).await?;
    Ok(admin.batch_execute("VACUUM ANALYZE counters").await?)
}

/// Fails unless the table counts as many transactions.
pub(crate) async fn verify(admin: &Client, transactions: u64) -> anyhow::Result<()> {
    let sum: i64 = admin.query_one("SELECT sum(n)::bigint FROM counters", &[]).await?.get(0);
    ensure!(u64::try_from(sum)? == transactions, "{transactions} transactions reported, but the table counts {sum}");
    Ok(())
}
