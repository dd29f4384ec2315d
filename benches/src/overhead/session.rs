//! One connection's worth of a variant, and the table that it works on.

use std::pin::Pin;

use anyhow::ensure;
use retry_runtime::INSTALL_SQL;
use tokio_postgres::{Client, Statement};

/// The rows that each session has to itself.
pub(crate) const ROWS: i32 = 1_000;
/// The most sessions that there can be.
pub(crate) const SESSIONS: usize = 12;

pub(crate) const SELECT: &str = "SELECT n FROM counters WHERE id = $1";
pub(crate) const UPDATE: &str = "UPDATE counters SET n = $2 WHERE id = $1";

/// What a session's transaction returns. Boxed: it costs nothing beside a round trip, and all variants the same.
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

/// Fills the table afresh, and makes the one for the tokens of `unknown_commit = "token"`.
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

/// Fails unless the table shows as many transactions as there were.
pub(crate) async fn verify(admin: &Client, transactions: u64) -> anyhow::Result<()> {
    let sum: i64 = admin.query_one("SELECT sum(n)::bigint FROM counters", &[]).await?.get(0);
    ensure!(u64::try_from(sum)? == transactions, "{transactions} transactions reported, the table has {sum}");
    Ok(())
}
