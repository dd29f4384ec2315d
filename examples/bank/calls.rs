//! The `#[transactional]` functions: one transfer, for each workload without retries and with them, and for the outage.

use deadpool_postgres::Pool;
use rand::RngExt;
use retry_runtime::{Error, Transaction, transactional};

/// A transfer to make. Its number identifies it in the ledger.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) call: i64,
    from: i64,
    to: i64,
    cents: i64,
}

impl Order {
    /// Up to a dollar between two of the accounts `1..=accounts`.
    pub(crate) fn random(call: i64, accounts: i64) -> Self {
        let mut rng = rand::rng();
        let from = rng.random_range(1..=accounts);
        let other = rng.random_range(1..accounts);
        let to = if other < from { other } else { other + 1 };
        Self { call, from, to, cents: rng.random_range(1..=100) }
    }
}

/// How concurrent transfers conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// They read and write the same balances: the server reports a serialization failure to one of them.
    Serializable,
    /// They lock the same rows in different orders: the server ends a deadlock by aborting one of them.
    RowLocks,
}

impl Workload {
    pub(crate) fn heading(self) -> &'static str {
        match self {
            Self::Serializable => "SERIALIZABLE: read two balances, write both (serialization failures)",
            Self::RowLocks => "READ COMMITTED: lock the payer's row, then the payee's (deadlocks)",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Serializable => "serializable",
            Self::RowLocks => "row locks",
        }
    }
}

/// Runs one transfer.
pub(crate) async fn transfer(pool: &Pool, workload: Workload, retries: bool, order: Order) -> Result<(), Error> {
    match (workload, retries) {
        (Workload::Serializable, false) => serializable_once(pool, order).await,
        (Workload::Serializable, true) => serializable(pool, order).await,
        (Workload::RowLocks, false) => row_locks_once(pool, order).await,
        (Workload::RowLocks, true) => row_locks(pool, order).await,
    }
}

#[transactional(retries = 0, deadlock_retries = 0, isolation = "serializable")]
async fn serializable_once(tx: &mut Transaction<'_>, order: Order) -> Result<(), Error> {
    move_money(tx, READ, order).await
}

// Far more retries than a service needs: here every call competes with all others for a few rows.
#[transactional(retries = 5, deadlock_retries = 50, isolation = "serializable")]
async fn serializable(tx: &mut Transaction<'_>, order: Order) -> Result<(), Error> {
    move_money(tx, READ, order).await
}

#[transactional(retries = 0, deadlock_retries = 0, isolation = "read committed")]
async fn row_locks_once(tx: &mut Transaction<'_>, order: Order) -> Result<(), Error> {
    move_money(tx, READ_AND_LOCK, order).await
}

#[transactional(retries = 5, deadlock_retries = 50, isolation = "read committed")]
async fn row_locks(tx: &mut Transaction<'_>, order: Order) -> Result<(), Error> {
    move_money(tx, READ_AND_LOCK, order).await
}

/// Locks the rows in the order of their ids, so that transfers wait for each other and do not conflict. If the server stops
/// during a commit, the token tells whether it is committed.
#[transactional(isolation = "read committed", unknown_commit = "token")]
pub(crate) async fn in_order(tx: &mut Transaction<'_>, order: Order) -> Result<(), Error> {
    tx.query("SELECT FROM accounts WHERE id IN ($1, $2) ORDER BY id FOR UPDATE", &[&order.from, &order.to]).await?;
    move_money(tx, READ, order).await
}

const READ: &str = "SELECT balance FROM accounts WHERE id = $1";
const READ_AND_LOCK: &str = "SELECT balance FROM accounts WHERE id = $1 FOR UPDATE";

/// Reads both balances, then writes them. Without isolation or locks, it would overwrite a concurrent transfer.
async fn move_money(tx: &Transaction<'_>, read: &str, order: Order) -> Result<(), Error> {
    const WRITE: &str = "UPDATE accounts SET balance = $2 WHERE id = $1";
    let Order { call, from, to, cents } = order;
    let from_balance: i64 = tx.query_one(read, &[&from]).await?.get(0);
    let to_balance: i64 = tx.query_one(read, &[&to]).await?.get(0);
    tx.execute(WRITE, &[&from, &(from_balance - cents)]).await?;
    tx.execute(WRITE, &[&to, &(to_balance + cents)]).await?;
    tx.execute("INSERT INTO ledger VALUES ($1, $2, $3, $4)", &[&call, &from, &to, &cents]).await?;
    Ok(())
}
