//! A transfer between two accounts: the smallest complete program.
//!
//! Run it with `cargo run -p retry-examples --example transfer`. It creates a database and drops it, on the server that
//! `DATABASE_URL` names or on a throwaway server. `transfer_expanded.rs` shows the code that the attribute generates.
//!
//! Prints:
//!
//! ```text
//! 500 cents moved from account 1 to account 2
//! 501 cents more: insufficient funds
//! account 1: 500 cents
//! account 2: 500 cents
//! ```

use retry_runtime::{Transaction, transactional};
use retry_tests::Database;

#[derive(Debug, thiserror::Error)]
enum BankError {
    #[error("insufficient funds")]
    InsufficientFunds,
    /// A statement failed. `?` converts to this in the body.
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    /// An error of the retry loop itself, such as an unknown commit outcome.
    #[error(transparent)]
    Transaction(#[from] retry_runtime::Error),
}

#[transactional(retries = 5, deadlock_retries = 5, isolation = "serializable")]
async fn transfer(tx: &mut Transaction<'_>, from: i64, to: i64, cents: i64) -> Result<(), BankError> {
    let balance: i64 = tx.query_one("SELECT balance FROM accounts WHERE id = $1", &[&from]).await?.get(0);
    if balance < cents {
        return Err(BankError::InsufficientFunds); // rolled back, not retried
    }
    tx.execute("UPDATE accounts SET balance = balance - $1 WHERE id = $2", &[&cents, &from]).await?;
    tx.execute("UPDATE accounts SET balance = balance + $1 WHERE id = $2", &[&cents, &to]).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BankError> {
    let database = Database::create().await;
    database
        .setup(
            "CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL);
             INSERT INTO accounts VALUES (1, 1000), (2, 0)",
        )
        .await;
    let pool = database.pool(4);

    transfer(&pool, 1, 2, 500).await?;
    println!("500 cents moved from account 1 to account 2");
    match transfer(&pool, 1, 2, 501).await {
        Err(BankError::InsufficientFunds) => println!("501 cents more: insufficient funds"),
        other => other?,
    }

    let client = database.client().await;
    for row in client.query("SELECT id, balance FROM accounts ORDER BY id", &[]).await? {
        let (id, balance): (i64, i64) = (row.get(0), row.get(1));
        println!("account {id}: {balance} cents");
    }
    Ok(())
}
