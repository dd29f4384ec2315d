//! Deadlocks: two transactions lock the same rows in opposite orders, and each waits for the other.
//!
//! The server ends a deadlock by aborting one of the transactions (SQLSTATE 40P01). `transfer` locks the payer first,
//! so two transfers in opposite directions deadlock; the barrier makes it certain. The call whose transaction was
//! aborted is retried, and both commit. `transfer_in_order` locks both rows in the order of their ids: no deadlock is
//! possible, and nothing is retried. Do that if you can; the retries are for the cases that you have overlooked.
//!
//! Prints (… is a number that varies):
//!
//! ```text
//! payer first: 2 transfers committed, attempts that ended in a deadlock: …
//! in order: 200 transfers took 200 attempts
//! the payer has too little: insufficient funds
//! balances: [1000, 1000]
//! ```

use retry_runtime::{Transaction, transactional};
use retry_tests::Database;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

#[derive(Debug, thiserror::Error)]
enum BankError {
    #[error("insufficient funds")]
    InsufficientFunds,
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Transaction(#[from] retry_runtime::Error),
}

/// Moves the money. Returns the number of the attempt. The rows are locked.
async fn move_cents(tx: &Transaction<'_>, from: i64, to: i64, cents: i64) -> Result<u32, BankError> {
    let balance: i64 = tx.query_one("SELECT cents FROM accounts WHERE id = $1", &[&from]).await?.get(0);
    if balance < cents {
        return Err(BankError::InsufficientFunds);
    }
    tx.execute("UPDATE accounts SET cents = cents - $1 WHERE id = $2", &[&cents, &from]).await?;
    tx.execute("UPDATE accounts SET cents = cents + $1 WHERE id = $2", &[&cents, &to]).await?;
    Ok(tx.attempt())
}

#[transactional]
async fn transfer(tx: &mut Transaction<'_>, from: i64, to: i64, cents: i64, both: &Barrier) -> Result<u32, BankError> {
    let lock = "SELECT FROM accounts WHERE id = $1 FOR UPDATE";
    tx.execute(lock, &[&from]).await?;
    if tx.attempt() == 1 {
        both.wait().await; // until the other transfer has locked its payer
    }
    tx.execute(lock, &[&to]).await?;
    move_cents(tx, from, to, cents).await
}

#[transactional]
async fn transfer_in_order(tx: &mut Transaction<'_>, from: i64, to: i64, cents: i64) -> Result<u32, BankError> {
    let lock = "SELECT FROM accounts WHERE id IN ($1, $2) ORDER BY id FOR UPDATE";
    tx.execute(lock, &[&from, &to]).await?;
    move_cents(tx, from, to, cents).await
}

#[tokio::main]
async fn main() -> Result<(), BankError> {
    let database = Database::create().await;
    database.accounts(2, 1_000).await;
    let pool = database.pool(8);

    let both = Barrier::new(2);
    let (one, other) = tokio::try_join!(transfer(&pool, 1, 2, 10, &both), transfer(&pool, 2, 1, 10, &both))?;
    println!("payer first: 2 transfers committed, attempts that ended in a deadlock: {}", one + other - 2);

    let mut transfers = JoinSet::new();
    for number in 0..200 {
        let pool = pool.clone();
        let (from, to) = if number % 2 == 0 { (1, 2) } else { (2, 1) };
        transfers.spawn(async move { transfer_in_order(&pool, from, to, 1).await });
    }
    let attempts = transfers.join_all().await.into_iter().sum::<Result<u32, BankError>>()?;
    println!("in order: 200 transfers took {attempts} attempts");

    let error = transfer_in_order(&pool, 1, 2, 5_000).await.expect_err("5000 is more than 1000");
    println!("the payer has too little: {error}");
    println!("balances: {:?}", [database.cents(1).await, database.cents(2).await]);
    Ok(())
}
