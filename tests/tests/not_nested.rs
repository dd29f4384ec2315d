//! Promise 11: a call inside another call's body that is not in its transaction is an error or an event.
#![allow(missing_docs)]

use std::time::Duration;

use deadpool_postgres::Pool;
use futures_util::FutureExt;
use futures_util::future::join;
use retry_runtime::{Error, PoolError, Transaction, WithCancel, transactional};
use retry_tests::Database;
use retry_tests::events::Events;
use tokio::time::timeout;
use tokio_postgres::NoTls;

const SOON: Duration = Duration::from_secs(20);
const MESSAGE: &str = "a call inside a body is not in its transaction";

struct Bank {
    pool: Pool,
}

impl Bank {
    #[transactional(source = &self.pool, name = "debit")]
    async fn debit(&self, tx: &mut Transaction<'_>, id: i64) -> Result<(), Error> {
        tx.execute("UPDATE accounts SET cents = cents - 1 WHERE id = $1", &[&id]).await?;
        Ok(())
    }

    #[transactional(source = &self.pool, name = "transfer")]
    async fn transfer(&self, tx: &mut Transaction<'_>) -> Result<(), Error> {
        tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 1", &[]).await?;
        self.debit(2).await
    }
}

#[transactional(name = "inner", queue_by = (), escalate_after = 1)]
async fn inner(tx: &mut Transaction<'_>) -> Result<u32, Error> {
    tx.execute("UPDATE accounts SET cents = cents - 1 WHERE id = 2", &[]).await?;
    Ok(tx.attempt())
}

#[transactional(name = "audit", independent, queue_by = (), escalate_after = 1)]
async fn audit(tx: &mut Transaction<'_>, pool: Option<&Pool>) -> Result<(), Error> {
    tx.execute("INSERT INTO audit VALUES (1)", &[]).await?;
    // All calls of this function queue for each other, so this one would wait for its caller.
    if let Some(pool) = pool { Box::pin(audit(pool, None)).await } else { Ok(()) }
}

#[transactional(name = "outer")]
async fn outer(tx: &mut Transaction<'_>, pool: &Pool, how: &str) -> Result<(), Error> {
    tx.execute("UPDATE accounts SET cents = cents + 1 WHERE id = 1", &[]).await?;
    match how {
        "at once" => drop(inner(pool).await?),
        "joined" => {
            let (one, other) = join(inner(pool), tx.query_one("SELECT 1", &[])).await;
            other?;
            one?;
        }
        "in a nested call" => middle(&mut *tx, pool).await?,
        "with a cancel" => drop(inner(&WithCancel::new(pool.clone(), tokio_postgres::Config::new(), NoTls)).await?),
        "in a task" => {
            let pool = pool.clone();
            tokio::spawn(async move { inner(&pool).await }).await.expect("no panic")?;
        }
        "independent" => {
            audit(pool, None).await?;
            return Err(Error::Pool(PoolError::closed("rolled back")));
        }
        "nested" => drop(inner(&mut *tx).await?),
        "panic" => panic!("in the body"),
        _ => unreachable!("{how}"),
    }
    Ok(())
}

#[transactional(name = "middle")]
async fn middle(_tx: &mut Transaction<'_>, pool: &Pool) -> Result<(), Error> {
    inner(pool).await.map(drop)
}

async fn database() -> Database {
    let db = Database::create().await;
    db.accounts(2, 100).await;
    db.setup("CREATE TABLE audit (id int)").await;
    db
}

/// The level, the outer and the inner function of each event.
fn reported(events: &Events) -> Vec<[String; 3]> {
    events.of(MESSAGE).iter().map(|event| ["level", "outer", "function"].map(|field| event[field].clone())).collect()
}

/// With a pool of one connection, it would wait forever for the connection of its caller.
#[tokio::test]
async fn a_call_on_the_same_pool_is_an_error() {
    let db = database().await;
    let pool = db.pool(1);
    for (how, around) in
        [("at once", "outer"), ("joined", "outer"), ("in a nested call", "middle"), ("with a cancel", "outer")]
    {
        let events = Events::capture();
        let error = timeout(SOON, outer(&pool, &pool, how)).await.expect("it waits for its caller").unwrap_err();
        assert!(matches!(error, Error::NotNested { outer, inner: "inner", .. } if outer == around), "{how}: {error:?}");
        assert_eq!(reported(&events), [["WARN", around, "inner"].map(String::from)], "{how}");
    }
    let bank = Bank { pool: db.pool(1) };
    let error = timeout(SOON, bank.transfer()).await.expect("it waits for its caller").unwrap_err();
    assert!(matches!(error, Error::NotNested { outer: "transfer", inner: "debit", .. }), "{error:?}");
    assert!(error.to_string().contains("pass `&mut *tx`"), "{error}");
    assert_eq!((db.cents(1).await, db.cents(2).await), (100, 100));
}

#[tokio::test]
async fn a_call_on_another_pool_or_from_a_client_emits_an_event() {
    let db = database().await;
    let (pool, other) = (db.pool(1), db.pool(1));
    let events = Events::capture();
    outer(&pool, &other, "at once").await.unwrap();
    outer(&mut db.client().await, &other, "joined").await.unwrap();
    assert_eq!(reported(&events), vec![["WARN", "outer", "inner"].map(String::from); 2]);
    assert_eq!((db.cents(1).await, db.cents(2).await), (102, 98));
}

#[tokio::test]
async fn an_independent_call_has_its_own_transaction() {
    let db = database().await;
    let pool = db.pool(2);
    let events = Events::capture();
    outer(&pool, &pool, "independent").await.unwrap_err();
    assert_eq!(reported(&events), [["INFO", "outer", "audit"].map(String::from)]);
    assert_eq!(db.cents(1).await, 100, "rolled back");
    assert_eq!(db.value::<i64>("SELECT count(*) FROM audit").await, 1, "committed");
}

#[tokio::test]
async fn a_call_inside_a_body_does_not_queue() {
    let db = database().await;
    let pool = db.pool(2);
    timeout(SOON, audit(&pool, Some(&pool))).await.expect("it waits for its caller").unwrap();
    assert_eq!(db.value::<i64>("SELECT count(*) FROM audit").await, 2);
}

#[tokio::test]
async fn calls_outside_the_body_emit_no_event() {
    let db = database().await;
    let pool = db.pool(2);
    let events = Events::capture();
    outer(&pool, &pool, "nested").await.unwrap();
    let panic = std::panic::AssertUnwindSafe(outer(&pool, &pool, "panic")).catch_unwind().await;
    assert!(panic.is_err());
    inner(&pool).await.unwrap();
    // Another task is not the body.
    outer(&pool, &pool, "in a task").await.unwrap();
    assert_eq!(reported(&events), [[""; 3]; 0]);
    assert_eq!((db.cents(1).await, db.cents(2).await), (102, 97));
}
