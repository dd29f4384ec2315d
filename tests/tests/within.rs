//! The option `within`: a function with `source = …` and its twin that takes a source.
#![allow(missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use retry_runtime::{Error, Phase, Transaction, transactional, with_deadline};
use retry_tests::Database;
use tokio::sync::Notify;
use tokio::time::Instant;

const ADD: &str = "UPDATE accounts SET cents = cents + $1 WHERE id = $2";

struct Bank {
    pool: Pool,
}

impl Bank {
    #[transactional(source = &self.pool, within = add_within, name = "add")]
    async fn add(&self, tx: &mut Transaction<'_>, id: i64, cents: i64) -> Result<u32, Error> {
        tx.execute(ADD, &[&cents, &id]).await?;
        Ok(tx.attempt())
    }

    #[transactional(source = &self.pool, within = transfer_within)]
    async fn transfer(&self, tx: &mut Transaction<'_>, cents: i64, to: i64) -> Result<(), Error> {
        self.add_within(&mut *tx, 1, -cents).await?;
        self.add_within(tx, to, cents).await.map(drop)
    }

    #[transactional(source = &self.pool)]
    async fn transfer_twice(&self, tx: &mut Transaction<'_>) -> Result<(), Error> {
        self.transfer_within(&mut *tx, 10, 2).await?;
        self.transfer_within(&mut *tx, 30, 2).await?;
        tx.set_rollback_only();
        Ok(())
    }

    #[transactional(source = &self.pool, name = "bonus")]
    async fn bonus_beside(&self, _tx: &mut Transaction<'_>, twin: bool) -> Result<(), Error> {
        let beside = if twin { self.add_within(&self.pool, 1, 1).await } else { self.add(1, 1).await };
        beside.map(drop)
    }

    /// One at a time.
    #[transactional(source = &self.pool, within = hold_within, queue_by = ())]
    async fn hold(&self, _tx: &mut Transaction<'_>, started: &Notify, end: &Notify) -> Result<(), Error> {
        started.notify_one();
        end.notified().await;
        Ok(())
    }

    #[transactional(source = &self.pool, within = shared_within)]
    async fn shared(self: Arc<Self>, tx: &mut Transaction<'_>) -> Result<i64, Error> {
        self.add_within(&mut *tx, 1, 1).await?;
        Ok(tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?.get(0))
    }

    #[transactional(source = &self.pool, within = kept_within, allow_mut)]
    pub(crate) async fn kept<'a, T: Sync + Copy, const N: usize>(
        &mut self,
        tx: &Transaction<'_>,
        (mut first, _): (i64, &'a str),
        _: [T; N],
        rest: impl Iterator<Item = i64> + Clone,
        name: &'a str,
    ) -> Result<(i64, &'a str, usize), Error> {
        first += rest.clone().sum::<i64>();
        Ok((tx.query_one("SELECT $1::bigint", &[&first]).await?.get(0), name, size_of::<T>() * N))
    }
}

#[transactional(source = pool, within = count_within)]
async fn count(tx: &mut Transaction<'_>, pool: &Pool) -> Result<i64, Error> {
    assert_eq!(pool.status().available, 0, "the call has the connection");
    Ok(tx.query_one("SELECT sum(cents)::bigint FROM accounts", &[]).await?.get(0))
}

#[transactional]
async fn add_and_count(tx: &mut Transaction<'_>, bank: &Bank) -> Result<i64, Error> {
    bank.add_within(&mut *tx, 2, 5).await?;
    count_within(tx, &bank.pool).await
}

/// The twin is in a trait, as a second method with a body.
trait Ledger {
    fn pool(&self) -> &Pool;

    #[transactional(source = self.pool(), within = accounts_within)]
    async fn accounts(&self, tx: &Transaction<'_>) -> Result<i64, Error> {
        Ok(tx.query_one("SELECT count(*) FROM accounts", &[]).await?.get(0))
    }
}

impl Ledger for Bank {
    fn pool(&self) -> &Pool {
        &self.pool
    }
}

async fn bank(connections: usize) -> (Database, Bank) {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    let pool = db.pool(connections);
    (db, Bank { pool })
}

/// With one connection, a call that is not nested would fail.
#[tokio::test]
async fn a_twin_is_nested_in_the_transaction_that_it_is_given() {
    let (db, bank) = bank(1).await;
    bank.transfer(10, 2).await.unwrap();
    assert_eq!((db.cents(1).await, db.cents(2).await), (90, 110));
    bank.transfer_twice().await.unwrap();
    assert_eq!((db.cents(1).await, db.cents(2).await), (90, 110), "rolled back with the transaction around it");
    assert_eq!(bank.add_within(&bank.pool, 1, 10).await.unwrap(), 1, "a pool is a source too");
    assert_eq!(db.cents(1).await, 100);
}

#[tokio::test]
async fn both_have_the_name_of_the_function() {
    let (_db, bank) = bank(1).await;
    for twin in [false, true] {
        let error = bank.bonus_beside(twin).await.unwrap_err();
        assert!(matches!(error, Error::NotNested { outer: "bonus", inner: "add", .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_free_function_has_a_twin() {
    let (db, bank) = bank(1).await;
    assert_eq!(count(&bank.pool).await.unwrap(), 200);
    assert_eq!(add_and_count(&bank.pool, &bank).await.unwrap(), 205);
    assert_eq!(db.cents(2).await, 105);
}

#[tokio::test]
async fn every_form_of_parameter_has_a_twin() {
    let (_db, mut bank) = bank(1).await;
    let pool = bank.pool.clone();
    assert_eq!(bank.kept((1, ""), [0_u8; 3], [2, 3].into_iter(), "a").await.unwrap(), (6, "a", 3));
    assert_eq!(bank.kept_within(&pool, (1, ""), [0_u8; 3], [2, 3].into_iter(), "a").await.unwrap(), (6, "a", 3));
    assert_eq!((bank.accounts().await.unwrap(), bank.accounts_within(&pool).await.unwrap()), (2, 2));
}

#[tokio::test]
async fn both_can_be_spawned() {
    let (_db, bank) = bank(1).await;
    let bank = Arc::new(bank);
    assert_eq!(tokio::spawn(bank.clone().shared()).await.unwrap().unwrap(), 101);
    let twin = async move { bank.clone().shared_within(&bank.pool).await };
    assert_eq!(tokio::spawn(twin).await.unwrap().unwrap(), 102);
}

#[tokio::test]
async fn both_wait_in_the_same_queue() {
    let (_db, bank) = bank(2).await;
    let (started, end, never) = (Notify::new(), Notify::new(), Notify::new());
    let waits = async {
        started.notified().await;
        let twin = bank.hold_within(&bank.pool, &started, &never);
        let error = with_deadline(Instant::now() + Duration::from_millis(50), twin).await.unwrap_err();
        end.notify_one();
        error
    };
    let (held, error) = tokio::join!(bank.hold(&started, &end), waits);
    held.unwrap();
    assert!(matches!(error, Error::DeadlineExceeded { phase: Phase::Queue, .. }), "{error:?}");
}
