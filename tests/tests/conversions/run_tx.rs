//! A datastore with one method that runs transactions.
//!
//! Before: `run_tx` takes a closure and calls it in a loop. It lends the closure a transaction type of the project's own,
//! with a method for each query. A flag in that type notes conflicts, because the closure may map the error.
//!
//! After: `run_tx` is a `#[transactional]` method without the loop and the flag. The closures and the queries stay as they
//! are. The project's type holds a `&mut Transaction<'_>`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use deadpool_postgres::Pool;
use futures_util::future::try_join;
use retry_runtime::{BoxFuture, Transaction, transactional};
use retry_tests::Database;
use retry_tests::rival::Rival;

use crate::{CHANGE, bank};

/// It keeps no error of the driver, only texts.
#[derive(Debug, PartialEq, Eq)]
enum DatastoreError {
    NotFound,
    Db(String),
}

impl From<tokio_postgres::Error> for DatastoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Db(error.to_string())
    }
}

impl From<retry_runtime::Error> for DatastoreError {
    fn from(error: retry_runtime::Error) -> Self {
        Self::Db(error.to_string())
    }
}

type Result<T> = std::result::Result<T, DatastoreError>;

#[derive(Default)]
struct Clock(AtomicU32);

struct Datastore {
    pool: Pool,
    clock: Clock,
}

/// The project's own transaction type.
struct Tx<'a, 't> {
    tx: &'a mut Transaction<'t>,
    clock: &'a Clock,
}

impl Datastore {
    #[transactional(source = &self.pool, isolation = "repeatable read", deadlock_retries = 100)]
    async fn run_tx<T, F>(&self, tx: &mut Transaction<'_>, work: F) -> Result<T>
    where
        F: for<'a> Fn(&'a mut Tx<'_, '_>) -> BoxFuture<'a, Result<T>>,
    {
        work(&mut Tx { tx, clock: &self.clock }).await
    }
}

impl Tx<'_, '_> {
    async fn cents(&self, id: i64) -> Result<i64> {
        let row = self.tx.query_opt("SELECT cents FROM accounts WHERE id = $1", &[&id]).await?;
        Ok(row.ok_or(DatastoreError::NotFound)?.get(0))
    }

    /// The clock ticks at each change.
    async fn set_cents(&self, id: i64, cents: i64) -> Result<()> {
        self.clock.0.fetch_add(1, Ordering::Relaxed);
        self.tx.execute("UPDATE accounts SET cents = $1 WHERE id = $2", &[&cents, &id]).await?;
        Ok(())
    }

    /// A nested call: it becomes a savepoint.
    async fn open(&mut self, id: i64) -> Result<()> {
        open(&mut *self.tx, id).await
    }
}

#[transactional]
async fn open(tx: &mut Transaction<'_>, id: i64) -> Result<()> {
    tx.execute("INSERT INTO accounts VALUES ($1, 0)", &[&id]).await?;
    Ok(())
}

async fn datastore(connections: usize) -> (Database, Arc<Datastore>) {
    let (db, pool) = bank(connections).await;
    (db, Arc::new(Datastore { pool, clock: Clock::default() }))
}

#[tokio::test]
async fn a_conflict_is_retried_although_its_error_becomes_text() {
    let (db, store) = datastore(1).await;
    let (rival, calls) = (Arc::new(Rival::connect(&db).await), Arc::<AtomicU32>::default());
    let read = store
        .run_tx(|tx| {
            let (rival, calls) = (rival.clone(), calls.clone());
            Box::pin(async move {
                let cents = tx.cents(1).await?;
                if calls.fetch_add(1, Ordering::Relaxed) == 0 {
                    rival.run(CHANGE).await;
                }
                tx.set_cents(1, cents + 10).await?;
                Ok(cents)
            })
        })
        .await;
    assert_eq!(read, Ok(101), "the second attempt reads the rival's change");
    assert_eq!(db.cents(1).await, 111);
    assert_eq!((calls.load(Ordering::Relaxed), store.clock.0.load(Ordering::Relaxed)), (2, 2), "once per attempt");
}

#[tokio::test]
async fn the_closures_own_error_is_rolled_back_and_not_retried() {
    let (db, store) = datastore(1).await;
    let absent = store
        .run_tx(|tx| {
            Box::pin(async move {
                tx.set_cents(1, 0).await?;
                tx.cents(3).await
            })
        })
        .await;
    assert_eq!((absent, store.clock.0.load(Ordering::Relaxed)), (Err(DatastoreError::NotFound), 1));
    assert_eq!(db.cents(1).await, 100);
}

#[tokio::test]
async fn a_domain_method_can_make_a_nested_call() {
    let (db, store) = datastore(1).await;
    let opened = store
        .run_tx(|tx| {
            Box::pin(async move {
                let taken = tx.open(1).await;
                tx.open(3).await?;
                tx.set_cents(3, 7).await?;
                Ok(taken.is_err())
            })
        })
        .await;
    assert_eq!((opened, db.cents(3).await), (Ok(true), 7), "the failed savepoint leaves the transaction usable");
}

/// Closures that send two statements at once, in tasks that conflict with each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_closures_lose_no_update() {
    let (db, store) = datastore(4).await;
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..10 {
                    let moved = store.run_tx(|tx| {
                        Box::pin(async move {
                            let (from, to) = try_join(tx.cents(1), tx.cents(2)).await?;
                            try_join(tx.set_cents(1, from - 1), tx.set_cents(2, to + 1)).await.map(drop)
                        })
                    });
                    moved.await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!((db.cents(1).await, db.cents(2).await), (60, 140));
}
