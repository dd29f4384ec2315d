//! The expansion triggers no lint, whatever the function looks like. `cargo clippy` runs this test.

#![deny(
    warnings,
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    elided_lifetimes_in_paths,
    missing_docs,
    single_use_lifetimes,
    unreachable_pub,
    unused_qualifications
)]
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use retry_runtime::{Error, Source, Transaction, transactional};

type Outcome<T> = Result<T, Error>;

const LIMIT: u32 = 3;
const DELAY: Duration = Duration::from_millis(2);

const fn is_pool_error(error: &Error) -> bool {
    matches!(error, Error::Pool(_))
}

/// With every option.
#[transactional(
    retries = LIMIT,
    deadlock_retries = 4,
    isolation = "serializable",
    read_only,
    deferrable,
    base_delay = DELAY,
    max_delay = "1s",
    jitter = "equal",
    statement_timeout = "1s",
    lock_timeout = "1500us",
    idle_timeout = "1m",
    retry_if = is_pool_error,
    retry_on = ["23505"],
    deadline = "1s",
    unknown_commit = "retry",
    queue_by = [id, id + 1],
    escalate_after = LIMIT,
    damping = "off",
    begin = "awaited",
    name = "every option"
)]
pub(crate) async fn all_options(tx: &mut Transaction<'_>, id: i64) -> Outcome<()> {
    Ok(tx.batch_execute("SELECT 1").await?)
}

#[transactional(begin = "pipelined", queue_by = ids)]
async fn one_line_pipelined(tx: &Transaction<'_>, ids: Vec<i64>) -> Outcome<usize> {
    Ok(ids.len() + usize::from(tx.attempt() > 1))
}

#[transactional(retry_if = |error| !is_pool_error(error))]
async fn one_line(tx: &Transaction<'_>) -> Outcome<u32> {
    Ok(tx.attempt())
}

#[rustfmt::skip]
#[transactional]
async fn braces(_: &Transaction<'_>) -> Outcome<u32> { Ok(1) }

#[transactional]
async fn unused(_: &Transaction<'_>) -> Outcome<u32> {
    Ok(1)
}

#[transactional]
async fn attributes(
    #[expect(unused_variables)] tx: &Transaction<'_>,
    #[expect(unused_variables)] id: i64,
    mut count: u32,
) -> Outcome<u32> {
    count += 1;
    Ok(count)
}

/// Lints in a body still fire, at their line. An unfulfilled expectation would be a warning.
#[transactional]
async fn lints_in_the_body(tx: &Transaction<'_>) -> Outcome<usize> {
    #[expect(unused_variables)]
    let unused = tx.attempt();
    #[expect(clippy::needless_collect)]
    let all: Vec<_> = [1, 2].iter().map(|n| n + 1).collect();
    #[expect(clippy::let_unit_value)]
    let _unit = tx.batch_execute("SELECT 1").await?;
    Ok(all.len())
}

/// Lints of the whole function still fire.
#[expect(dead_code)]
#[transactional]
async fn never_called(_: &Transaction<'_>) -> Outcome<u32> {
    Ok(1)
}

#[transactional]
async fn unused_name(_tx: &Transaction<'_>, _id: i64) -> Outcome<u32> {
    Ok(1)
}

#[transactional]
async fn diverges(_: &Transaction<'_>) -> Outcome<u32> {
    panic!("never called")
}

#[transactional]
async fn loops(tx: &Transaction<'_>) -> Outcome<u32> {
    loop {
        if tx.attempt() > 0 {
            return Ok(tx.attempt());
        }
    }
}

#[transactional]
async fn early(tx: &Transaction<'_>, text: &str) -> anyhow::Result<i64> {
    if text.is_empty() {
        return Ok(0);
    }
    let id: i64 = text.parse()?;
    let row = tx.query_one("SELECT $1::bigint", &[&id]).await?;
    Ok(row.get(0))
}

#[transactional]
async fn patterns(_: &Transaction<'_>, (a, mut b): (i64, i64), mut c: Vec<i64>, d: String) -> Outcome<(i64, usize)> {
    b += a;
    c.push(b);
    Ok((b, c.len() + d.len()))
}

#[transactional]
async fn owned(tx: &Transaction<'_>, name: String, ids: Vec<i64>) -> Outcome<u64> {
    Ok(tx.execute("SELECT $1, $2", &[&name, &ids]).await?)
}

#[transactional]
async fn generic<'a, T, const N: usize>(tx: &mut Transaction<'_>, values: [T; N], name: &'a str) -> Outcome<&'a str>
where
    T: Into<i64> + Copy + Send + Sync,
{
    for value in values {
        tx.execute("SELECT $1", &[&value.into()]).await?;
    }
    Ok(name)
}

#[transactional]
async fn captures(_: &Transaction<'_>, ids: &[i64]) -> Outcome<impl Iterator<Item = i64>> {
    Ok(ids.iter().copied())
}

#[transactional]
async fn precise(_: &Transaction<'_>, ids: &[i64]) -> Outcome<impl Iterator<Item = i64> + use<>> {
    Ok(std::iter::repeat_n(1, ids.len()))
}

#[transactional(allow_mut)]
async fn shared(tx: &Transaction<'_>, seen: &mut Vec<u32>) -> Outcome<()> {
    seen.push(tx.attempt());
    Ok(())
}

#[transactional]
async fn nested(tx: &mut Transaction<'_>) -> Outcome<u32> {
    let seen = &mut Vec::new();
    shared(&mut *tx, seen).await?;
    unused(tx).await
}

/// A bank.
#[derive(Debug, Clone)]
pub(crate) struct Bank {
    pool: Pool,
    name: String,
}

impl Bank {
    /// By reference. Only the function is called, not its twin.
    #[transactional(source = &self.pool, within = name_within)]
    pub(crate) async fn name(&self, tx: &Transaction<'_>) -> Outcome<(&str, u32)> {
        Ok((&self.name, tx.attempt()))
    }

    #[transactional]
    async fn of(self: Arc<Self>, tx: &Transaction<'_>) -> Outcome<usize> {
        Ok(self.name.len() + usize::from(tx.is_closed()))
    }

    #[transactional]
    async fn by_value(self, _: &Transaction<'_>) -> Outcome<usize> {
        Ok(self.name.len())
    }
}

trait Ledger {
    async fn length(&self, source: impl Into<Source<'_>>) -> Outcome<usize>;

    #[transactional]
    async fn ping(&self, tx: &Transaction<'_>) -> Outcome<()> {
        Ok(tx.batch_execute("SELECT 1").await?)
    }
}

impl Ledger for Bank {
    #[transactional]
    async fn length(&self, _: &Transaction<'_>) -> Outcome<usize> {
        Ok(self.name.len())
    }
}

/// Calls all functions above, because `dead_code` is denied too.
#[test]
fn the_expansion_triggers_no_lint() {
    let calls = async |bank: Bank| {
        let pool = &bank.pool;
        all_options(pool, 1).await?;
        one_line_pipelined(pool, vec![1]).await?;
        one_line(pool).await?;
        lints_in_the_body(pool).await?;
        braces(pool).await?;
        unused(pool).await?;
        attributes(pool, 1, 1).await?;
        unused_name(pool, 1).await?;
        diverges(pool).await?;
        loops(pool).await?;
        patterns(pool, (1, 2), Vec::new(), String::new()).await?;
        owned(pool, String::new(), Vec::new()).await?;
        generic(pool, [1_i64], "").await?;
        captures(pool, &[1]).await?.sum::<i64>();
        precise(pool, &[1]).await?.sum::<i64>();
        nested(pool).await?;
        bank.name().await?;
        Arc::new(bank.clone()).of(pool).await?;
        bank.clone().by_value(pool).await?;
        bank.length(pool).await?;
        bank.ping(pool).await?;
        early(pool, "").await.map(drop)
    };
    let _ = calls;
}
