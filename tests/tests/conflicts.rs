//! Promise 2: a conflict is retried, whatever the body did with the error.
#![allow(missing_docs)]

use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::TryStreamExt;
use retry_runtime::{Class, Error, Transaction, classify, transactional};
use retry_tests::Database;
use retry_tests::rival::Rival;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{GenericClient, Row};

/// What a body returns instead of the database's error.
#[derive(Debug)]
enum Own {
    Runtime,
    Flattened(String),
    Opaque,
}

impl From<Error> for Own {
    fn from(_: Error) -> Self {
        Self::Runtime
    }
}

/// Two accounts, and a rival that provokes a conflict in each of the first `conflicts` attempts of a call.
struct Fixture {
    db: Database,
    rival: Rival,
    conflicts: u32,
    attempts: AtomicU32,
    /// The rival's statement, which continues once the call's transaction is rolled back.
    blocked: Mutex<Option<JoinHandle<Result<(), tokio_postgres::Error>>>>,
}

impl Fixture {
    async fn new(conflicts: u32) -> Self {
        let db = Database::create().await;
        db.accounts(2, 100).await;
        let rival = Rival::connect(&db).await;
        Self { db, rival, conflicts, attempts: AtomicU32::new(0), blocked: Mutex::default() }
    }

    /// Fails with 40001: another transaction changes a row that this snapshot has read.
    async fn serialization_failure(&self, tx: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
        tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
        if self.begin(tx) {
            self.rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
        }
        tx.execute("UPDATE accounts SET cents = cents + 10 WHERE id = 1", &[]).await?;
        Ok(())
    }

    /// Fails with 40P01: two transactions lock two rows in opposite order.
    async fn deadlock(&self, tx: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
        let is_provoked = self.begin(tx);
        if let Some(blocked) = self.blocked.lock().await.take() {
            blocked.await.expect("the rival").expect("the rival is never the victim");
        }
        tx.execute("UPDATE accounts SET cents = cents + 10 WHERE id = 1", &[]).await?;
        if is_provoked {
            self.rival.run("BEGIN; UPDATE accounts SET cents = cents + 1 WHERE id = 2").await;
            let blocked = self.rival.block_on("UPDATE accounts SET cents = cents + 1 WHERE id = 1; ROLLBACK").await;
            *self.blocked.lock().await = Some(blocked);
        }
        tx.execute("UPDATE accounts SET cents = cents + 10 WHERE id = 2", &[]).await?;
        Ok(())
    }

    /// Fails with 55P03: the row is locked.
    async fn lock_not_available(&self, tx: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
        if self.begin(tx) {
            self.rival.run("BEGIN; UPDATE accounts SET cents = cents WHERE id = 1").await;
        }
        let locked = tx.query("SELECT FROM accounts WHERE id = 1 FOR UPDATE NOWAIT", &[]).await;
        self.rival.run("ROLLBACK").await;
        locked?;
        tx.execute("UPDATE accounts SET cents = cents + 10 WHERE id = 1", &[]).await?;
        Ok(())
    }

    /// Counts the attempt. Returns whether to provoke a conflict in it.
    fn begin(&self, tx: &Transaction<'_>) -> bool {
        self.attempts.store(tx.attempt(), Ordering::Relaxed);
        tx.attempt() <= self.conflicts
    }

    fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed)
    }
}

#[transactional]
async fn deadlocked(tx: &mut Transaction<'_>, fixture: &Fixture) -> Result<(), Error> {
    Ok(fixture.deadlock(tx).await?)
}

#[tokio::test]
async fn a_deadlock_is_retried_until_it_is_gone() {
    let fixture = Fixture::new(2).await;
    deadlocked(&fixture.db.pool(1), &fixture).await.unwrap();
    assert_eq!(fixture.attempts(), 3);
    assert_eq!((fixture.db.cents(1).await, fixture.db.cents(2).await), (110, 110));
}

#[tokio::test]
async fn a_repeated_deadlock_is_returned_after_six_attempts() {
    let fixture = Fixture::new(u32::MAX).await;
    let error = deadlocked(&fixture.db.pool(1), &fixture).await.unwrap_err();
    assert_eq!(classify(&error), Some(Class::Deadlock));
    assert_eq!(fixture.attempts(), 6, "the first attempt and 5 retries");
    assert_eq!((fixture.db.cents(1).await, fixture.db.cents(2).await), (100, 100));
}

#[transactional]
async fn locked_out(tx: &mut Transaction<'_>, fixture: &Fixture) -> Result<(), Error> {
    Ok(fixture.lock_not_available(tx).await?)
}

#[tokio::test]
async fn a_lock_not_available_is_retried() {
    let fixture = Fixture::new(1).await;
    locked_out(&fixture.db.pool(1), &fixture).await.unwrap();
    assert_eq!((fixture.attempts(), fixture.db.cents(1).await), (2, 110));
}

#[transactional(isolation = "repeatable read")]
async fn returned(tx: &mut Transaction<'_>, fixture: &Fixture) -> Result<(), Error> {
    Ok(fixture.serialization_failure(tx).await?)
}

#[transactional(isolation = "repeatable read")]
async fn swallowed(tx: &mut Transaction<'_>, fixture: &Fixture) -> Result<(), Error> {
    let _ = fixture.serialization_failure(tx).await;
    Ok(())
}

#[transactional(isolation = "repeatable read")]
async fn flattened(tx: &mut Transaction<'_>, fixture: &Fixture) -> Result<(), Own> {
    fixture.serialization_failure(tx).await.map_err(|error| Own::Flattened(error.to_string()))
}

#[transactional(isolation = "repeatable read")]
async fn mapped_without_source(tx: &mut Transaction<'_>, fixture: &Fixture) -> Result<(), Own> {
    fixture.serialization_failure(tx).await.map_err(|_| Own::Opaque)
}

#[transactional(isolation = "repeatable read")]
async fn hidden_by_the_next_failure(tx: &mut Transaction<'_>, fixture: &Fixture) -> anyhow::Result<()> {
    let _ = fixture.serialization_failure(tx).await;
    tx.execute("SELECT 1", &[]).await?;
    Ok(())
}

#[transactional(isolation = "repeatable read")]
async fn with_context(tx: &mut Transaction<'_>, fixture: &Fixture) -> anyhow::Result<()> {
    use anyhow::Context;
    fixture.serialization_failure(tx).await.context("moving money")
}

#[transactional(isolation = "repeatable read")]
async fn boxed(tx: &mut Transaction<'_>, fixture: &Fixture) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    Ok(fixture.serialization_failure(tx).await?)
}

#[transactional(isolation = "repeatable read")]
async fn behind_a_savepoint(tx: &mut Transaction<'_>, fixture: &Fixture) -> Result<(), Error> {
    tx.batch_execute("SAVEPOINT mine").await?;
    if fixture.serialization_failure(tx).await.is_err() {
        tx.batch_execute("ROLLBACK TO mine").await?;
    }
    Ok(())
}

/// The first failure is not a conflict, and the body handles both.
#[transactional(isolation = "repeatable read")]
async fn after_another_failure(tx: &mut Transaction<'_>, fixture: &Fixture) -> Result<(), Error> {
    tx.batch_execute("SAVEPOINT mine").await?;
    let _ = tx.execute("INSERT INTO accounts VALUES (1, 1)", &[]).await;
    tx.batch_execute("ROLLBACK TO mine").await?;
    if fixture.serialization_failure(tx).await.is_err() {
        tx.batch_execute("ROLLBACK TO mine").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_conflict_is_retried_whatever_the_body_did_with_the_error() {
    macro_rules! check {
        ($($function:ident),*) => {$(
            let fixture = Fixture::new(2).await;
            $function(&fixture.db.pool(1), &fixture).await.unwrap();
            assert_eq!(fixture.attempts(), 3, stringify!($function));
            assert_eq!(fixture.db.cents(1).await, 112, stringify!($function));
        )*};
    }
    check!(returned, swallowed, flattened, mapped_without_source, hidden_by_the_next_failure);
    check!(with_context, boxed, behind_a_savepoint, after_another_failure);
}

#[tokio::test]
async fn a_swallowed_conflict_is_an_error_once_the_budget_is_spent() {
    let fixture = Fixture::new(u32::MAX).await;
    let error = swallowed(&fixture.db.pool(1), &fixture).await.unwrap_err();
    assert!(matches!(error, Error::Aborted { .. }), "{error:?}");
    assert_eq!(classify(&error), Some(Class::Serialization));
    assert_eq!(fixture.attempts(), 6);
    let fixture = Fixture::new(u32::MAX).await;
    let error = behind_a_savepoint(&fixture.db.pool(1), &fixture).await.unwrap_err();
    assert_eq!(classify(&error), Some(Class::Serialization));
}

#[tokio::test]
async fn the_bodys_own_error_is_returned_once_the_budget_is_spent() {
    let fixture = Fixture::new(u32::MAX).await;
    let error = flattened(&fixture.db.pool(1), &fixture).await.unwrap_err();
    assert!(matches!(&error, Own::Flattened(text) if text == "db error"), "{error:?}");
    assert_eq!(fixture.attempts(), 6);
}

async fn add_ten(client: &impl GenericClient) -> Result<(), tokio_postgres::Error> {
    client.execute("UPDATE accounts SET cents = cents + 10 WHERE id = 1", &[]).await.map(|_| ())
}

#[derive(Debug, thiserror::Error)]
enum Chained {
    #[error("the database")]
    Postgres(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Runtime(#[from] Error),
}

type Boxed = Box<dyn std::error::Error + Send + Sync>;

macro_rules! through_a_generic_client {
    ($($function:ident: $error:ty),*) => {
        $(#[transactional(isolation = "repeatable read")]
        async fn $function(tx: &mut Transaction<'_>, fixture: &Fixture) -> Result<(), $error> {
            tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
            if fixture.begin(tx) {
                fixture.rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
            }
            Ok(add_ten(&**tx).await?)
        })*

        #[tokio::test]
        async fn a_conflict_on_a_generic_client_is_found_in_the_chain_of_sources() {$(
            let fixture = Fixture::new(2).await;
            $function(&fixture.db.pool(1), &fixture).await.unwrap();
            assert_eq!((fixture.attempts(), fixture.db.cents(1).await), (3, 112), stringify!($function));
        )*}
    };
}

/// Swallows a conflict of a statement that is not watched. Then ends, or returns the error of the next statement.
#[transactional(isolation = "repeatable read")]
async fn swallowed_on_a_generic_client(tx: &mut Transaction<'_>, fixture: &Fixture, next: &str) -> Result<(), Error> {
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    if fixture.begin(tx) {
        fixture.rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    }
    let _ = add_ten(&**tx).await;
    match next {
        "watched" => drop(tx.query("SELECT 1", &[]).await?),
        "unwatched" => drop((**tx).query("SELECT 1", &[]).await?),
        _ => {}
    }
    Ok(())
}

#[tokio::test]
async fn a_swallowed_conflict_on_a_generic_client_is_retried() {
    for next in ["end", "watched", "unwatched"] {
        let fixture = Fixture::new(2).await;
        swallowed_on_a_generic_client(&fixture.db.pool(1), &fixture, next).await.unwrap();
        assert_eq!((fixture.attempts(), fixture.db.cents(1).await), (3, 112), "{next}");
    }
}

through_a_generic_client!(as_enum: Chained, as_anyhow: anyhow::Error, as_box: Boxed, as_runtime: Error);

/// The failing statement is sent first, but the body awaits only a later one, which shows the symptom.
#[transactional(isolation = "repeatable read")]
async fn only_the_symptom(tx: &mut Transaction<'_>, fixture: &Fixture) -> Result<Vec<Row>, Error> {
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    if fixture.begin(tx) {
        fixture.rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    }
    let mut add = std::pin::pin!(tx.batch_execute("UPDATE accounts SET cents = cents + 10 WHERE id = 1"));
    // Polled once, it is sent.
    assert!(futures_util::poll!(add.as_mut()).is_pending());
    Ok(tx.query("SELECT 1", &[]).await?)
}

#[tokio::test]
async fn a_symptom_after_a_statement_without_a_reply_is_retried_on_the_smaller_budget() {
    let fixture = Fixture::new(1).await;
    only_the_symptom(&fixture.db.pool(1), &fixture).await.unwrap();
    assert_eq!((fixture.attempts(), fixture.db.cents(1).await), (2, 111));
    let fixture = Fixture::new(u32::MAX).await;
    only_the_symptom(&fixture.db.pool(1), &fixture).await.unwrap_err();
    assert_eq!(fixture.attempts(), 3, "the first attempt and 2 retries");
}

/// The body awaits both, the symptom first.
#[transactional(retry_on = ["23505"])]
async fn symptom_before_cause(tx: &mut Transaction<'_>, attempts: &AtomicU32) -> Result<(), Error> {
    attempts.store(tx.attempt(), Ordering::Relaxed);
    let mut cause = std::pin::pin!(tx.batch_execute("INSERT INTO accounts VALUES (1, 1)"));
    let mut symptom = std::pin::pin!(tx.batch_execute("SELECT 1"));
    assert!(futures_util::poll!(cause.as_mut()).is_pending());
    assert!(futures_util::poll!(symptom.as_mut()).is_pending());
    let symptom = symptom.await;
    let _ = cause.await;
    Ok(symptom?)
}

#[tokio::test]
async fn a_symptom_is_replaced_by_its_cause() {
    let fixture = Fixture::new(0).await;
    let attempts = AtomicU32::new(0);
    symptom_before_cause(&fixture.db.pool(1), &attempts).await.unwrap_err();
    assert_eq!(attempts.load(Ordering::Relaxed), 3, "retried because of the cause");
}

#[transactional(isolation = "repeatable read")]
async fn joined(tx: &mut Transaction<'_>, fixture: &Fixture) -> Result<(), Error> {
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    if fixture.begin(tx) {
        fixture.rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    }
    tokio::try_join!(
        tx.execute("UPDATE accounts SET cents = cents + 10 WHERE id = 1", &[]),
        tx.query("SELECT 1", &[]),
        tx.query("SELECT 2", &[]),
    )?;
    Ok(())
}

#[tokio::test]
async fn a_conflict_of_joined_statements_is_retried() {
    let fixture = Fixture::new(2).await;
    joined(&fixture.db.pool(1), &fixture).await.unwrap();
    assert_eq!((fixture.attempts(), fixture.db.cents(1).await), (3, 112));
}

#[transactional(isolation = "serializable")]
async fn go_off_duty(tx: &mut Transaction<'_>, id: i32, barrier: &tokio::sync::Barrier) -> Result<bool, Error> {
    let on_duty: i64 = tx.query_one("SELECT count(*) FROM doctors WHERE on_duty", &[]).await?.get(0);
    if tx.attempt() == 1 {
        barrier.wait().await;
    }
    if on_duty < 2 {
        return Ok(false);
    }
    tx.execute("UPDATE doctors SET on_duty = false WHERE id = $1", &[&id]).await?;
    Ok(true)
}

/// Write skew: each transaction reads what the other writes. One of them fails, at its UPDATE or at its COMMIT.
#[tokio::test]
async fn serializable_prevents_write_skew() {
    let db = Database::create().await;
    db.setup("CREATE TABLE doctors (id int, on_duty bool); INSERT INTO doctors VALUES (1, true), (2, true)").await;
    let (pool, barrier) = (db.pool(2), tokio::sync::Barrier::new(2));
    for _ in 0..10 {
        db.setup("UPDATE doctors SET on_duty = true").await;
        let (one, two) = tokio::join!(go_off_duty(&pool, 1, &barrier), go_off_duty(&pool, 2, &barrier));
        assert_ne!(one.unwrap(), two.unwrap(), "one went off duty, and the other found that it may not");
        assert_eq!(db.value::<i64>("SELECT count(*) FROM doctors WHERE on_duty").await, 1);
    }
}

/// The driver looks up the column's type after it has sent the statement, so only a symptom of its failure is returned.
#[transactional(isolation = "repeatable read")]
async fn of_a_new_type(tx: &mut Transaction<'_>, fixture: &Fixture, raw: bool) -> Result<(), Error> {
    tx.query_one("SELECT cents FROM accounts WHERE id = 1", &[]).await?;
    if fixture.begin(tx) {
        fixture.rival.run("UPDATE accounts SET cents = cents + 1 WHERE id = 1").await;
    }
    let sql = "UPDATE accounts SET cents = cents + $1 WHERE id = 1 RETURNING 'glad'::mood";
    let add: (&(dyn ToSql + Sync), Type) = (&10_i64, Type::INT8);
    if raw {
        tx.query_typed_raw(sql, [add]).await?.try_collect::<Vec<_>>().await?;
    } else {
        tx.query_typed(sql, &[add]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_conflict_hidden_by_a_type_look_up_is_retried() {
    for raw in [false, true] {
        let fixture = Fixture::new(1).await;
        fixture.db.setup("CREATE TYPE mood AS ENUM ('glad')").await;
        of_a_new_type(&fixture.db.pool(1), &fixture, raw).await.unwrap();
        assert_eq!((fixture.attempts(), fixture.db.cents(1).await), (2, 111));
    }
}
