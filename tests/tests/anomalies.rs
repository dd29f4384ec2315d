//! The tables of the guide's page on isolation levels: each cell is provoked on a server, by two calls that interleave.
#![allow(missing_docs)]

use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use deadpool_postgres::Pool;
use retry_runtime::{Transaction, transactional};
use retry_tests::Database;
use tokio::sync::Notify;
use tokio_postgres::Client;

const PAGE: &str = include_str!("../../retry-runtime/docs/isolation.md");

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("another transaction has changed the row")]
    Stale,
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Transaction(#[from] retry_runtime::Error),
}

impl Failure {
    fn is_stale(&self) -> bool {
        matches!(self, Self::Stale)
    }
}

/// Stops the first attempt of a call until the other calls have run.
#[derive(Default)]
struct Gate {
    is_open: bool,
    attempts: AtomicU32,
    reached: Notify,
    resumed: Notify,
}

impl Gate {
    async fn pass(&self, tx: &Transaction<'_>) {
        self.attempts.store(tx.attempt(), Ordering::Relaxed);
        if !self.is_open && tx.attempt() == 1 {
            self.reached.notify_one();
            self.resumed.notified().await;
        }
    }

    fn retries(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed) - 1
    }
}

/// What a transaction does. Those that stop at the gate do it between their first statement and their last.
#[derive(Clone, Copy)]
enum Work {
    Look,
    WriteAndUndo,
    ReadTwice,
    CountTwice,
    Insert,
    ReadThenWrite,
    UpdateInPlace,
    LockThenWrite,
    CheckVersion,
    /// Takes 200 from an account, if both accounts together hold that much.
    Withdraw(i64),
    /// Takes 10 from account 1, and 1 more if both accounts together do not hold that much.
    WithdrawOrCharge,
    Deposit,
    Report,
}

const CENTS: &str = "SELECT cents FROM accounts WHERE id = 1";
const SUM: &str = "SELECT sum(cents)::bigint FROM accounts WHERE id IN (1, 2)";

async fn value(tx: &Transaction<'_>, sql: &str) -> Result<i64, Failure> {
    Ok(tx.query_one(sql, &[]).await?.get(0))
}

impl Work {
    async fn run(self, tx: &Transaction<'_>, gate: &Gate) -> Result<i64, Failure> {
        match self {
            Self::Look => return value(tx, CENTS).await,
            Self::WriteAndUndo => {
                tx.batch_execute("UPDATE accounts SET cents = 0 WHERE id = 1").await?;
                gate.pass(tx).await;
                tx.set_rollback_only();
            }
            Self::ReadTwice => return twice(tx, gate, CENTS).await,
            Self::CountTwice => return twice(tx, gate, "SELECT count(*) FROM accounts WHERE cents >= 100").await,
            Self::Insert => tx.batch_execute("INSERT INTO accounts VALUES (3, 100)").await?,
            Self::UpdateInPlace => {
                tx.batch_execute("UPDATE accounts SET cents = cents + 10 WHERE id = 1").await?;
                gate.pass(tx).await;
            }
            Self::ReadThenWrite => return read_then_write(tx, gate, "").await,
            Self::LockThenWrite => return read_then_write(tx, gate, " FOR UPDATE").await,
            Self::CheckVersion => return check_version(tx, gate).await,
            Self::Withdraw(id) => {
                let sum = value(tx, SUM).await?;
                gate.pass(tx).await;
                if sum >= 200 {
                    tx.execute("UPDATE accounts SET cents = cents - 200 WHERE id = $1", &[&id]).await?;
                }
            }
            Self::WithdrawOrCharge => {
                let taken: i64 = if value(tx, SUM).await? < 10 { 11 } else { 10 };
                gate.pass(tx).await;
                tx.execute("UPDATE accounts SET cents = cents - $1 WHERE id = 1", &[&taken]).await?;
            }
            Self::Deposit => tx.batch_execute("UPDATE accounts SET cents = cents + 20 WHERE id = 2").await?,
            Self::Report => {
                tx.batch_execute("SET TRANSACTION READ ONLY").await?;
                return value(tx, SUM).await;
            }
        }
        Ok(0)
    }
}

/// How much the second reading differs from the first.
async fn twice(tx: &Transaction<'_>, gate: &Gate, sql: &str) -> Result<i64, Failure> {
    let first = value(tx, sql).await?;
    gate.pass(tx).await;
    Ok(value(tx, sql).await? - first)
}

async fn read_then_write(tx: &Transaction<'_>, gate: &Gate, lock: &str) -> Result<i64, Failure> {
    let cents = value(tx, &format!("{CENTS}{lock}")).await? + 10;
    gate.pass(tx).await;
    tx.execute("UPDATE accounts SET cents = $1 WHERE id = 1", &[&cents]).await?;
    Ok(cents)
}

async fn check_version(tx: &Transaction<'_>, gate: &Gate) -> Result<i64, Failure> {
    let row = tx.query_one("SELECT cents + 10, version FROM accounts WHERE id = 1", &[]).await?;
    let (cents, version): (i64, i64) = (row.get(0), row.get(1));
    gate.pass(tx).await;
    let sql = "UPDATE accounts SET cents = $1, version = version + 1 WHERE id = 1 AND version = $2";
    if tx.execute(sql, &[&cents, &version]).await? == 0 {
        return Err(Failure::Stale);
    }
    Ok(cents)
}

#[transactional(isolation = "read committed", retry_if = Failure::is_stale)]
async fn read_committed(tx: &mut Transaction<'_>, work: Work, gate: &Gate) -> Result<i64, Failure> {
    work.run(tx, gate).await
}

#[transactional(isolation = "repeatable read", retry_if = Failure::is_stale)]
async fn repeatable_read(tx: &mut Transaction<'_>, work: Work, gate: &Gate) -> Result<i64, Failure> {
    work.run(tx, gate).await
}

#[transactional(isolation = "serializable", retry_if = Failure::is_stale)]
async fn serializable(tx: &mut Transaction<'_>, work: Work, gate: &Gate) -> Result<i64, Failure> {
    work.run(tx, gate).await
}

async fn call(level: &str, pool: &Pool, work: Work, gate: &Gate) -> i64 {
    let result = match level {
        "read committed" => read_committed(pool, work, gate).await,
        "repeatable read" => repeatable_read(pool, work, gate).await,
        "serializable" => serializable(pool, work, gate).await,
        _ => panic!("not an isolation level: {level}"),
    };
    result.unwrap()
}

async fn until_one_waits_for_a_lock(observer: &Client) {
    let sql = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while observer.query(sql, &[]).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// What came of one interleaving.
struct Outcome {
    /// What the first call returned.
    first: i64,
    /// What the last of the other calls returned.
    last: i64,
    /// The balance of account 1, and of both accounts, afterwards.
    cents: i64,
    sum: i64,
    /// Retries of the first call.
    retries: u32,
    /// Whether another call waited for the first one's locks.
    waited: bool,
}

/// Runs the first call up to the gate, then the others, one after the other, until they have returned or wait for a lock of
/// the first call. Then lets the first one continue.
async fn interleave(db: &Database, level: &str, cents: i64, first: Work, others: &[Work]) -> Outcome {
    db.setup("DROP TABLE IF EXISTS accounts").await;
    db.accounts(2, cents).await;
    db.setup("ALTER TABLE accounts ADD version bigint NOT NULL DEFAULT 0").await;
    let (pool, observer) = (db.pool(2), db.client().await);
    let (gate, open) = (Gate::default(), Gate { is_open: true, ..Gate::default() });
    let rivals = async {
        gate.reached.notified().await;
        let mut calls = pin!(async {
            let mut last = 0;
            for work in others {
                last = call(level, &pool, *work, &open).await;
            }
            last
        });
        let done = tokio::select! {
            last = &mut calls => Some(last),
            () = until_one_waits_for_a_lock(&observer) => None,
        };
        gate.resumed.notify_one();
        match done {
            Some(last) => (last, false),
            None => (calls.await, true),
        }
    };
    let (first, (last, waited)) = tokio::join!(call(level, &pool, first, &gate), rivals);
    let (cents, sum) = (db.cents(1).await, db.value(SUM).await);
    Outcome { first, last, cents, sum, retries: gate.retries(), waited }
}

/// Judges one value: `wrong` is the anomaly, `right` what one call after the other would give.
fn cell(actual: i64, wrong: i64, right: i64, retries: u32) -> &'static str {
    match (actual, retries) {
        (actual, 0) if actual == wrong => "possible",
        (actual, 0) if actual == right => "prevented",
        (actual, 1) if actual == right => "retried",
        _ => panic!("{actual} after {retries} retries, neither {wrong} nor {right}"),
    }
}

async fn provoke(db: &Database, anomaly: &str, level: &str) -> &'static str {
    match anomaly {
        "dirty read" => {
            let run = interleave(db, level, 100, Work::WriteAndUndo, &[Work::Look]).await;
            assert_eq!(run.cents, 100);
            cell(run.last, 0, 100, run.retries)
        }
        "non-repeatable read" => {
            let run = interleave(db, level, 100, Work::ReadTwice, &[Work::UpdateInPlace]).await;
            cell(run.first, 10, 0, run.retries)
        }
        "phantom" => {
            let run = interleave(db, level, 100, Work::CountTwice, &[Work::Insert]).await;
            cell(run.first, 1, 0, run.retries)
        }
        "lost update" => {
            let run = interleave(db, level, 100, Work::ReadThenWrite, &[Work::ReadThenWrite]).await;
            cell(run.cents, 110, 120, run.retries)
        }
        "write skew" => {
            let run = interleave(db, level, 100, Work::Withdraw(1), &[Work::Withdraw(2)]).await;
            cell(run.sum, -200, 0, run.retries)
        }
        "read-only anomaly" => {
            let run = interleave(db, level, 0, Work::WithdrawOrCharge, &[Work::Deposit, Work::Report]).await;
            assert_eq!(run.last, 20, "the report sees the deposit, and not the withdrawal");
            cell(run.cents, -11, -10, run.retries)
        }
        _ => panic!("not provoked: {anomaly}"),
    }
}

/// The table of the page whose first column has this title: the header, and the other rows.
fn table(title: &str) -> (Vec<&'static str>, Vec<Vec<&'static str>>) {
    let mut rows = PAGE.lines().skip_while(|line| !line.starts_with(&format!("| {title} |")));
    let cells = |line: &'static str| -> Vec<_> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect()
    };
    let header = cells(rows.next().expect(title));
    (header, rows.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect())
}

#[tokio::test]
async fn each_anomaly_occurs_at_the_levels_that_the_page_names() {
    let (header, rows) = table("anomaly");
    assert_eq!(header[1..], ["read committed", "repeatable read", "serializable"]);
    assert_eq!(rows.len(), 6, "{rows:?}");
    let db = Database::create().await;
    for row in rows {
        for (level, stated) in header.iter().zip(&row).skip(1) {
            assert_eq!(provoke(&db, row[0], level).await, *stated, "{} at {level}", row[0]);
        }
    }
}

#[tokio::test]
async fn each_way_to_prevent_a_lost_update_costs_what_the_page_says() {
    let (_, rows) = table("way");
    assert_eq!(rows.len(), 5, "{rows:?}");
    let db = Database::create().await;
    for row in rows {
        let work = match row[0] {
            "update in place" => Work::UpdateInPlace,
            "FOR UPDATE" => Work::LockThenWrite,
            "version and `retry_if" => Work::CheckVersion,
            "read, then write" => Work::ReadThenWrite,
            other => panic!("not run: {other}"),
        };
        let run = interleave(&db, row[1], 100, work, &[work]).await;
        assert_eq!(run.cents, 120, "{row:?}");
        let waits = if run.waited { "waits" } else { "does not wait" };
        assert_eq!((waits, run.retries.to_string().as_str()), (row[2], row[3]), "{row:?}");
    }
}
