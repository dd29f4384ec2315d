//! Repositories: methods that run in a transaction of their own, and in the transaction of a larger operation.
//!
//! With `source = &self.pool`, callers pass no source. `within = NAME` adds a twin that takes one, so `Shop::buy` runs
//! methods of two repositories in one transaction. The twin is a nested call: only `buy` begins, commits and retries.
//! Without the twin, the call would run in a second transaction beside the first: the runtime refuses that.
//!
//! Prints:
//!
//! ```text
//! 8 customers wanted 5 items: 5 bought, 3 found them sold out
//! balances: [0, 0, 0, 0, 0, 100, 100, 100]
//! repository::debit inside repository::buy_wrongly: refused
//! in stock: 1
//! ```

use deadpool_postgres::Pool;
use retry_runtime::{Error, Transaction, transactional};
use retry_tests::Database;
use tokio::task::JoinSet;

#[derive(Debug, thiserror::Error)]
enum ShopError {
    #[error("sold out")]
    SoldOut,
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Transaction(#[from] Error),
}

#[derive(Clone)]
struct Accounts {
    pool: Pool,
}

impl Accounts {
    #[transactional(source = &self.pool, within = debit_within)]
    async fn debit(&self, tx: &mut Transaction<'_>, id: i64, cents: i64) -> Result<(), ShopError> {
        tx.execute("UPDATE accounts SET cents = cents - $1 WHERE id = $2", &[&cents, &id]).await?;
        Ok(())
    }

    #[transactional(source = &self.pool, read_only)]
    async fn balances(&self, tx: &Transaction<'_>) -> Result<Vec<i64>, ShopError> {
        let balances = "SELECT cents FROM accounts ORDER BY cents";
        Ok(tx.query(balances, &[]).await?.iter().map(|row| row.get(0)).collect())
    }
}

#[derive(Clone)]
struct Stock {
    pool: Pool,
}

impl Stock {
    /// Adds items, or takes them if `items` is negative.
    #[transactional(source = &self.pool, within = add_within)]
    async fn add(&self, tx: &mut Transaction<'_>, items: i64) -> Result<(), ShopError> {
        let add = "UPDATE stock SET quantity = quantity + $1 WHERE quantity + $1 >= 0";
        match tx.execute(add, &[&items]).await? {
            0 => Err(ShopError::SoldOut),
            _ => Ok(()),
        }
    }
}

#[derive(Clone)]
struct Shop {
    pool: Pool,
    accounts: Accounts,
    stock: Stock,
}

impl Shop {
    /// Debits the account first: if nothing is in stock, that is rolled back.
    #[transactional(source = &self.pool)]
    async fn buy(&self, tx: &mut Transaction<'_>, customer: i64) -> Result<(), ShopError> {
        self.accounts.debit_within(&mut *tx, customer, 100).await?;
        self.stock.add_within(&mut *tx, -1).await
    }

    #[transactional(source = &self.pool)]
    async fn buy_wrongly(&self, tx: &mut Transaction<'_>, customer: i64) -> Result<(), ShopError> {
        self.stock.add_within(&mut *tx, -1).await?;
        self.accounts.debit(customer, 100).await
    }
}

#[tokio::main]
async fn main() -> Result<(), ShopError> {
    let database = Database::create().await;
    database.accounts(8, 100).await;
    database.setup("CREATE TABLE stock (quantity bigint); INSERT INTO stock VALUES (5)").await;
    let pool = database.pool(4);
    let (accounts, stock) = (Accounts { pool: pool.clone() }, Stock { pool: pool.clone() });
    let shop = Shop { pool, accounts, stock };

    let mut customers = JoinSet::new();
    for customer in 1..=8 {
        let shop = shop.clone();
        customers.spawn(async move { shop.buy(customer).await });
    }
    let (mut bought, mut sold_out) = (0, 0);
    for result in customers.join_all().await {
        match result {
            Ok(()) => bought += 1,
            Err(ShopError::SoldOut) => sold_out += 1,
            Err(error) => return Err(error),
        }
    }
    println!("8 customers wanted 5 items: {bought} bought, {sold_out} found them sold out");
    println!("balances: {:?}", shop.accounts.balances().await?);

    shop.stock.add(1).await?; // in a transaction of its own
    if let Err(ShopError::Transaction(Error::NotNested { outer, inner, .. })) = shop.buy_wrongly(1).await {
        println!("{inner} inside {outer}: refused");
    }
    println!("in stock: {}", database.value::<i64>("SELECT quantity FROM stock").await);
    Ok(())
}
