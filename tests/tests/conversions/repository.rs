//! A service with repositories whose methods call each other.
//!
//! Before: each method takes a client from the pool and begins a transaction. For calls inside a transaction there is a copy
//! of each method that takes `&Transaction<'_>`.
//!
//! After: `source` begins the transaction, and `within` replaces the copy. Helpers that ran on a client and on a transaction
//! take `&impl GenericClient` of this crate. They also run in functions that are not converted yet.

use deadpool_postgres::Pool;
use retry_runtime::{Error, GenericClient, Transaction, transactional};
use retry_tests::Database;
use retry_tests::rival::Rival;
use tokio_postgres::Error as PgError;

use crate::{CHANGE, bank};

#[derive(Debug, thiserror::Error)]
enum ShopError {
    #[error("insufficient funds")]
    InsufficientFunds,
    #[error("the order cannot be paid")]
    Unpaid,
    #[error(transparent)]
    Postgres(#[from] PgError),
    #[error(transparent)]
    Transaction(#[from] Error),
}

async fn cents(client: &impl GenericClient, id: i64) -> Result<i64, PgError> {
    Ok(client.query_one("SELECT cents FROM accounts WHERE id = $1", &[&id]).await?.get(0))
}

async fn add(client: &impl GenericClient, id: i64, cents: i64) -> Result<(), PgError> {
    client.execute("UPDATE accounts SET cents = cents + $1 WHERE id = $2", &[&cents, &id]).await.map(drop)
}

struct Accounts {
    pool: Pool,
}

impl Accounts {
    #[transactional(source = &self.pool, within = transfer_within, isolation = "repeatable read")]
    async fn transfer(&self, tx: &mut Transaction<'_>, from: i64, to: i64, amount: i64) -> Result<(), ShopError> {
        if cents(tx, from).await? < amount {
            return Err(ShopError::InsufficientFunds);
        }
        add(tx, from, -amount).await?;
        Ok(add(tx, to, amount).await?)
    }

    /// Not converted yet. It shares the helpers.
    async fn give(&self, id: i64, amount: i64) -> Result<i64, deadpool_postgres::PoolError> {
        let mut client = self.pool.get().await?;
        let tx = client.transaction().await?;
        add(&tx, id, amount).await?;
        tx.commit().await?;
        Ok(cents(&client, id).await?)
    }
}

struct Orders {
    pool: Pool,
    accounts: Accounts,
}

impl Orders {
    /// Account 1 pays account 2. Returns the attempt that committed.
    #[transactional(source = &self.pool, isolation = "repeatable read")]
    async fn place(&self, tx: &mut Transaction<'_>, amount: i64, rival: &Rival) -> Result<u32, ShopError> {
        tx.execute("INSERT INTO orders VALUES ($1)", &[&amount]).await?;
        if tx.attempt() == 1 {
            rival.run(CHANGE).await;
        }
        // The cause is not kept.
        self.accounts.transfer_within(&mut *tx, 1, 2, amount).await.map_err(|_| ShopError::Unpaid)?;
        Ok(tx.attempt())
    }
}

async fn shop() -> (Database, Orders) {
    let (db, pool) = bank(1).await;
    db.setup("CREATE TABLE orders (cents bigint)").await;
    (db, Orders { pool: pool.clone(), accounts: Accounts { pool } })
}

const ORDERS: &str = "SELECT coalesce(array_agg(cents), '{}') FROM orders";

/// The pool has one connection, so a call that is not nested could not get one.
#[tokio::test]
async fn a_conflict_in_another_repository_repeats_the_whole_call() {
    let (db, orders) = shop().await;
    let rival = Rival::connect(&db).await;
    assert_eq!(orders.place(30, &rival).await.unwrap(), 2);
    assert_eq!((db.cents(1).await, db.cents(2).await), (71, 130));
    assert_eq!(db.value::<Vec<i64>>(ORDERS).await, [30]);
}

#[tokio::test]
async fn an_error_in_another_repository_rolls_the_whole_call_back() {
    let (db, orders) = shop().await;
    let (observer, rival) = (db.client().await, Rival::connect(&db).await);
    assert!(matches!(orders.place(500, &rival).await, Err(ShopError::Unpaid)));
    assert_eq!(db.value::<Vec<i64>>(ORDERS).await, [0; 0]);
    assert_eq!(cents(&observer, 1).await.unwrap(), 101, "the helper runs on a plain client too");
}

#[tokio::test]
async fn converted_and_unconverted_methods_share_their_helpers() {
    let (db, orders) = shop().await;
    let accounts = &orders.accounts;
    assert_eq!(accounts.give(1, 50).await.unwrap(), 150);
    accounts.transfer(1, 2, 150).await.unwrap();
    assert!(matches!(accounts.transfer(1, 2, 1).await, Err(ShopError::InsufficientFunds)));
    accounts.transfer_within(&mut db.client().await, 2, 1, 20).await.unwrap();
    assert_eq!((db.cents(1).await, db.cents(2).await), (20, 230));
}
